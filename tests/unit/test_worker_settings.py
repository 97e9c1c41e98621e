"""
A worker's settings refuse a bad value by the name of the setting and by the value. The ends of each
range are compared with the page of settings elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from unittest.mock import Mock

import pytest
from hands import URL

from change_events import ConfigurationError, MemorySink
from change_events._consumer.settings import Settings
from change_events.testing import FakeSource


def make(**settings):
    return Settings(URL, **({"fetcher": FakeSource(), "sink": MemorySink()} | settings))


def refusal(**settings):
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 2.0),
        ("batch_size", "5"),
        ("prefetch", float("inf")),
        ("wait_time", 0.5),
        ("visibility_timeout", 30.0),
        ("min_deleted", None),
    ],
)
def test_a_value_that_is_not_an_integer_is_refused(name, value):
    assert refusal(**{name: value}) == f"{name} must be an integer, not {value!r}"


@pytest.mark.parametrize(
    ("name", "value", "least", "most"),
    [
        ("settle", -1, 0, 3600.0),
        ("settle", None, 0, 3600.0),
        ("settle", "5", 0, 3600.0),
        ("settle", float("nan"), 0, 3600.0),
        ("settle", 3600.1, 0, 3600.0),
        ("threads", 0, 1, 256),
        ("threads", 257, 1, 256),
        ("batch_size", 0, 1, 10),
        ("batch_size", 11, 1, 10),
        ("prefetch", 9, 10, 9000),
        ("prefetch", 9001, 10, 9000),
        ("wait_time", 0, 1, 20),
        ("wait_time", 21, 1, 20),
        ("visibility_timeout", 2, 3, 43_200),
        ("visibility_timeout", 43_201, 3, 43_200),
        ("shutdown_timeout", -1, 0, 3600),
        ("shutdown_timeout", float("inf"), 0, 3600),
        ("max_gets_per_second", 0, 0.01, 10_000),
        ("max_gets_per_second", float("nan"), 0.01, 10_000),
        ("max_deleted_share", 1.1, 0, 1),
        ("max_deleted_share", "half", 0, 1),
        ("min_deleted", 0, 1, 100),
        ("min_deleted", 101, 1, 100),
    ],
)
def test_a_value_out_of_its_range_is_refused(name, value, least, most):
    assert refusal(**{name: value}) == f"{name} must be from {least} to {most}, not {value!r}"


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [({"batch_size": 7}, 7, 9000), ({"visibility_timeout": 3}, 10, 450)],
)
def test_the_range_of_prefetch_follows_from_other_settings(settings, least, most):
    for value in (least, most):
        assert make(prefetch=value, **settings).prefetch == value
    for value in (least - 1, most + 1):
        assert refusal(prefetch=value, **settings) == (
            f"prefetch must be from {least} to {most}, not {value}"
        )


def test_max_gets_per_second_can_be_none_or_small():
    assert make(max_gets_per_second=None).max_gets_per_second is None
    assert make(max_gets_per_second=0.01).max_gets_per_second == 0.01


def test_a_topic_must_be_an_arn():
    assert "'products'" in refusal(topic_arn="products")


def test_signatures_can_not_be_verified_without_a_topic():
    assert "topic_arn=" in refusal(verify_signatures=True)
    assert make(verify_signatures=True, topic_arn="arn:aws:sns:eu-west-1:123456789012:products")


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:8080", ("0.0.0.0",), (8080, "0.0.0.0"), ("0.0.0.0", -1), ("0.0.0.0", 65_536)],
)
def test_a_health_address_must_be_a_host_and_a_port(address):
    assert re.search(
        rf"^health_address must be a host and a port, .*, not {re.escape(repr(address))}$",
        refusal(health_address=address),
    )


def test_a_health_address_can_have_the_highest_port():
    assert make(health_address=("::", 65_535)).health_address == ("::", 65_535)


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().threads = 2


# What the user never gave


@pytest.mark.parametrize(
    ("settings", "first", "most"),
    [
        ({}, 1000, 9000),
        ({"visibility_timeout": 3}, 450, 450),
        ({"visibility_timeout": 5}, 750, 750),
        ({"visibility_timeout": 7}, 1000, 1050),
        ({"shutdown_timeout": 10.0}, 1000, 5000),
        ({"shutdown_timeout": 0}, 1000, 1000),
        ({"visibility_timeout": 43_200}, 1000, 12_500),
        ({"visibility_timeout": 43_200, "shutdown_timeout": 3600}, 1000, 60_000),
    ],
)
def test_the_range_of_what_is_held_by_default_follows_from_other_settings(settings, first, most):
    made = make(**settings)

    assert (made.prefetch, made.first_held, made.most_held) == (None, first, most)


def test_prefetch_is_what_was_given():
    made = make(prefetch=70)

    assert (made.first_held, made.most_held) == (70, 70)


# Windows of events


@pytest.mark.parametrize("value", [4.9, 3600.1, None, True])
def test_max_settle_is_at_least_the_workers_own_window(value):
    assert refusal(settle=5.0, max_settle=value) == (
        f"max_settle must be from 5.0 to 3600.0, not {value!r}"
    )
    assert make(settle=5.0, max_settle=5.0).max_settle == 5.0


# What is not a number, a switch or an object that the worker can use


@pytest.mark.parametrize("name", ["settle", "shutdown_timeout", "max_gets_per_second"])
def test_a_bool_is_not_a_number(name):
    assert refusal(**{name: True}).endswith("not True")


@pytest.mark.parametrize("name", ["threads", "batch_size", "wait_time", "min_deleted", "prefetch"])
def test_a_bool_is_not_an_integer(name):
    assert refusal(**{name: True}) == f"{name} must be an integer, not True"


@pytest.mark.parametrize("name", ["early_look", "verify_signatures", "allow_mass_deletion"])
def test_a_text_is_not_a_switch(name):
    assert refusal(**{name: "false"}) == f"{name} must be True or False, not 'false'"


@pytest.mark.parametrize("url", [None, 5, b"https://sqs.eu-west-1.amazonaws.com/1/q"])
def test_a_queue_url_must_be_text(url):
    with pytest.raises(ConfigurationError, match=re.escape(f"a queue's URL, not {url!r}")):
        Settings(url, fetcher=FakeSource(), sink=MemorySink())


class Coroutines:
    """Everything is there, and nothing would ever run."""

    bulk_size = 10

    async def fetch(self, id, /, *, etag=None): ...

    async def entry(self, id, /): ...

    async def apply(self, id, change, /, *, if_version): ...

    async def receive_message(self, **_): ...

    get_queue_attributes = delete_message_batch = change_message_visibility_batch = receive_message

    async def count(self, name, value=1, /, **labels): ...

    observe = gauge = count


class BulkCoroutine(FakeSource):
    bulk_size = 10

    async def fetch_many(self, ids, /): ...


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        ("fetcher", "fetch"),
        ("sink", "entry"),
        ("client", "get_queue_attributes"),
        ("metrics", "count"),
    ],
)
def test_an_object_must_have_the_methods_that_the_worker_calls(setting, method):
    assert re.search(rf"^{setting} needs {method}.*; 5 has no {method}$", refusal(**{setting: 5}))
    assert refusal(**{setting: Coroutines()}) == (
        f"{setting}.{method} must not be a coroutine function: it would never run. "
        "Let from_async() wrap it"
    )
    assert refusal(**{setting: Coroutines}) == (
        f"{setting} must be an object, not a class: Coroutines(...), not Coroutines"
    )


class WithoutETags:
    def fetch(self, id): ...


class WithoutVersions(MemorySink):
    def apply(self, id, change): ...


class LastWriterWins(MemorySink):
    def set_state(self, name, text, /): ...


class WithoutAnId(MemorySink):
    def entry(self): ...


class BulkOfOne(FakeSource):
    bulk_size = 5

    def fetch_many(self): ...


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ({"fetcher": WithoutETags()}, r"fetcher\.fetch\(id, etag=None\)"),
        ({"fetcher": BulkOfOne()}, r"fetcher\.fetch_many\(ids\)"),
        ({"sink": WithoutVersions()}, r"sink\.apply\(id, change, if_version=0\)"),
        ({"sink": WithoutAnId()}, r"sink\.entry\(id\)"),
        ({"sink": LastWriterWins()}, r"sink\.set_state\(name, text, if_state=None\)"),
        ({"on_outcome": lambda id: None}, r"on_outcome\(id, outcome\)"),
    ],
)
def test_what_is_given_must_take_the_arguments_that_it_is_called_with(given, call):
    assert re.search(
        rf"^the worker calls {call}, and its parameters are \(.*\): ", refusal(**given)
    )


def test_a_function_that_does_not_tell_its_parameters_is_taken_at_its_word():
    def on_outcome(): ...

    on_outcome.__signature__ = "unknown"

    assert make(on_outcome=on_outcome).on_outcome is on_outcome


@functools.wraps(lambda session, id, outcome: None)
def with_a_session(id, outcome): ...


class Unsigned:
    def __call__(self, id, outcome): ...

    @property
    def __signature__(self):
        raise RuntimeError


@pytest.mark.parametrize("on_outcome", [with_a_session, Unsigned(), Mock()])
def test_a_function_is_judged_by_its_own_parameters_if_it_has_some(on_outcome):
    assert make(on_outcome=on_outcome).on_outcome is on_outcome


def test_a_method_must_be_callable():
    source = FakeSource()
    source.fetch = "GET"

    assert refusal(fetcher=source) == "fetcher.fetch must be a function, not 'GET'"


def test_a_bulk_get_must_not_be_a_coroutine_function():
    assert refusal(fetcher=BulkCoroutine()) == (
        "fetcher.fetch_many must not be a coroutine function: it would never run. "
        "Let from_async() wrap it"
    )


def test_on_outcome_must_be_a_plain_function():
    async def on_outcome(id, outcome): ...

    assert refusal(on_outcome=on_outcome).startswith("on_outcome must not be a coroutine function")
    assert refusal(on_outcome="print") == "on_outcome must be a function, not 'print'"
