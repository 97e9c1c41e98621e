"""`broadcasting` and `broadcasts_before_save`: what is broadcast, and which saves then run."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from decimal import Decimal
from time import monotonic

import pytest
from virtual_time import attributes_of, saver, time

from change_events import (
    ConfigurationError,
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcast_stats,
    broadcasting,
    broadcasts_before_save,
)
from change_events._producer.renewals import process_renewals

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

ARN = "PRODUCT_EVENTS_TOPIC_ARN"


class Repository:
    """Saves products in a dictionary, and notes what was broadcast before."""

    publisher = SNSPublisher.from_env(ARN)

    def __init__(self, channel=None):
        self.rows = {}
        self.broadcast_before = []
        self._channel = channel

    def _note(self):
        if self._channel:
            self.broadcast_before.append(self._channel.bodies())

    @broadcasts_before_save(publisher, id="product.id")
    def create(self, product):
        self._note()
        self.rows[product["id"]] = product
        return product

    @broadcasts_before_save(publisher, id="product.id")
    def update(self, product):
        self._note()
        self.rows[product["id"]] = product

    @broadcasts_before_save(publisher)
    def delete(self, id):
        self._note()
        del self.rows[id]

    @broadcasts_before_save(publisher, ids=lambda products: [product["id"] for product in products])
    async def save_all(self, products):
        self._note()
        self.rows.update({product["id"]: product for product in products})
        return len(products)


@pytest.fixture
def repository(channel, monkeypatch):
    monkeypatch.setenv(ARN, channel.topic_arn)
    return Repository(channel)


# The rules that the article gives


def test_the_message_goes_to_the_configured_topic_and_is_the_id_and_nothing_else(repository):
    repository.create({"id": "abc", "name": "a product"})

    assert repository.broadcast_before == [['{"id": "abc"}']]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_topic_nothing_is_published_and_the_save_runs(
    repository, channel, monkeypatch, value
):
    monkeypatch.delenv(ARN) if value is None else monkeypatch.setenv(ARN, value)

    repository.create({"id": "abc"})

    assert repository.rows == {"abc": {"id": "abc"}}
    assert repository.broadcast_before == [[]]
    assert channel.bodies() == []


def test_create_update_and_delete_each_broadcast_the_id_before_they_save(repository):
    repository.create({"id": "abc"})
    repository.update({"id": "abc", "name": "new"})
    repository.delete("abc")

    assert repository.broadcast_before == [['{"id": "abc"}']] * 3
    assert repository.rows == {}


def test_if_the_broadcast_fails_nothing_is_saved_and_the_caller_sees_why(repository, channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError) as caught:
        repository.create({"id": "abc"})

    assert caught.value.ids == ("abc",)
    assert type(caught.value.__cause__).__name__ == "NotFoundException"
    assert repository.rows == {}
    assert repository.broadcast_before == []


# Further rules


def test_a_save_that_fails_has_been_broadcast_and_its_error_reaches_the_caller(channel):
    @broadcasts_before_save(SNSPublisher(channel.topic_arn))
    def save(id):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save("p1")

    assert channel.ids() == ["p1"]


def test_the_decorated_function_keeps_its_name_and_its_result(repository):
    assert Repository.create.__name__ == "create"
    assert repository.create({"id": "abc"}) == {"id": "abc"}


def test_arguments_that_do_not_fit_are_a_type_error_and_nothing_is_broadcast(repository, channel):
    with pytest.raises(TypeError, match="product"):
        repository.create()

    assert channel.bodies() == []


def test_a_block_is_broadcast_once_for_each_of_its_ids(channel):
    publisher = SNSPublisher(channel.topic_arn)

    with broadcasting(publisher, "p1", 2, "p1"):
        before = channel.ids()
    with broadcasting(publisher):
        pass

    assert sorted(before) == ["2", "p1"]
    assert channel.ids() == []


def test_the_error_of_a_block_reaches_the_caller(channel):
    with pytest.raises(ZeroDivisionError), broadcasting(SNSPublisher(channel.topic_arn), "p1"):
        raise ZeroDivisionError

    assert channel.ids() == ["p1"]


def test_a_block_does_not_run_if_its_broadcast_fails(channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError), broadcasting(SNSPublisher(channel.topic_arn), "p1"):
        pytest.fail("ran")


# Asynchronous


def test_an_asynchronous_save_is_broadcast_before_it_runs(repository):
    assert asyncio.run(repository.save_all([{"id": "p1"}, {"id": "p2"}])) == 2
    assert sorted(repository.broadcast_before[0]) == ['{"id": "p1"}', '{"id": "p2"}']
    assert list(repository.rows) == ["p1", "p2"]


def test_an_asynchronous_save_does_not_run_if_the_broadcast_fails(repository, channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError):
        asyncio.run(repository.save_all([{"id": "p1"}]))

    assert repository.rows == {}


def test_an_asynchronous_block_is_broadcast_before_it_runs(channel):
    async def main():
        async with broadcasting(SNSPublisher(channel.topic_arn), "p1"):
            before = channel.ids()
        async with broadcasting(NullPublisher()):
            return before

    assert asyncio.run(main()) == ["p1"]


def test_an_asynchronous_save_never_blocks_the_event_loop():
    class Waiting:
        """Waits until the event loop has gone on."""

        def __init__(self):
            self.turned = threading.Event()

        def publish(self, events, /):
            assert self.turned.wait(10)

    publisher = Waiting()

    @broadcasts_before_save(publisher)
    async def save(id):
        return id

    async def main():
        task = asyncio.create_task(save("p1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publisher.turned.set()
        return await task

    assert asyncio.run(main()) == "p1"


def test_context_variables_reach_the_publisher():
    tenant = contextvars.ContextVar("tenant")
    seen = []

    class Noting:
        def publish(self, events, /):
            seen.append((tenant.get(), threading.current_thread() is threading.main_thread()))

    @broadcasts_before_save(Noting())
    async def save_async(id):
        pass

    @broadcasts_before_save(Noting())
    def save(id):
        pass

    async def main():
        tenant.set("asynchronous")
        await save_async("p1")

    asyncio.run(main())
    contextvars.copy_context().run(lambda: (tenant.set("synchronous"), save("p1")))

    assert seen == [("asynchronous", False), ("synchronous", True)]


def test_a_save_that_is_cancelled_while_it_is_broadcast_does_not_run():
    begun, release = threading.Event(), threading.Event()

    class Slow:
        def publish(self, events, /):
            begun.set()
            assert release.wait(10)

    @broadcasts_before_save(Slow())
    async def save(id):
        pytest.fail("saved")

    async def main():
        task = asyncio.create_task(save("p1"))
        assert await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    started = monotonic()
    asyncio.run(main())
    assert monotonic() - started < 5


# Settings and misuse


@pytest.mark.parametrize(
    ("settle", "text"), [(0.5, "0.5"), (30, "30.0"), (3600.0, "3600.0"), (5, None), (5.0, None)]
)
def test_another_settle_window_travels_with_the_event(channel, time, saver, settle, text):
    saver.save(SNSPublisher(channel.topic_arn), lambda: None, "p1", "p2", settle=settle)

    assert attributes_of(channel.messages(), "settle", "phase") == [(text, None)] * 2


@pytest.mark.parametrize("settle", [0, -1, 3600.1, math.nan, math.inf, None, "5", True, Decimal(5)])
def test_a_settle_window_out_of_its_range_is_refused(settle):
    with pytest.raises(
        ConfigurationError, match=r"settle must be seconds, more than 0 and up to 3600, not "
    ):
        broadcasts_before_save(NullPublisher(), settle=settle)
    with pytest.raises(ConfigurationError, match=r"settle must be seconds"):
        broadcasting(NullPublisher(), "p1", settle=settle)


@pytest.mark.parametrize("ids", [(), ("p1",)])
def test_entering_twice_is_an_error(time, ids):
    block = time.broadcasting(NullPublisher(), *ids)
    with block, pytest.raises(RuntimeError, match="has been entered before"), block:
        pytest.fail("entered")
    with pytest.raises(
        RuntimeError, match=r"^this broadcasting\(\) has .* before; make a new one for each save$"
    ):
        block.__enter__()

    async def main():
        block = time.broadcasting(NullPublisher(), *ids)
        results = await asyncio.gather(
            *(block.__aenter__() for _ in range(2)), return_exceptions=True
        )
        await block.__aexit__(None, None, None)
        return results

    assert [type(result) for result in asyncio.run(main())] == [type(None), RuntimeError]
    assert time.renewals._saves == {}


def test_saves_use_the_renewals_of_this_process_by_default():
    def under_way():
        return [id for save in process_renewals._saves for id in save.broadcast.ids]

    @broadcasts_before_save(NullPublisher())
    def save(id):
        assert id in under_way()

    save("p1")
    with broadcasting(NullPublisher(), "p2"):
        assert "p2" in under_way()

    assert not {"p1", "p2"} & {*under_way()}
    assert broadcast_stats() == process_renewals.tally.stats()


@pytest.mark.parametrize("wrong", ["p1", None, SNSPublisher, object()])
def test_what_cannot_publish_is_refused_in_place_of_a_publisher(wrong):
    with pytest.raises(ConfigurationError, match="is not a publisher"):
        broadcasting(wrong, "p2")


def test_a_class_in_place_of_a_publisher_is_refused_at_decoration():
    with pytest.raises(ConfigurationError, match="has no publish"):
        broadcasts_before_save(SNSPublisher)(lambda id: None)


class AsyncPublisher:
    """Would broadcast, if somebody awaited it."""

    async def publish(self, events, /):
        pytest.fail("nobody awaits this")


class AsyncClient:
    """Like a client of aiobotocore."""

    async def publish(self, **_):
        pytest.fail("nobody awaits this")

    publish_batch = publish


ASYNC_PUBLISHERS = [
    (AsyncPublisher(), ConfigurationError, "AsyncPublisher"),
    (
        SNSPublisher("arn:aws:sns:eu-west-1:123456789012:p", client=AsyncClient()),
        PublishError,
        "AsyncClient",
    ),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ids", [["p1"], ["p1", "p2"]])
@pytest.mark.parametrize(("publisher", "error", "name"), ASYNC_PUBLISHERS)
def test_no_save_runs_if_its_broadcast_is_a_coroutine(publisher, error, name, ids):
    with (
        pytest.raises(error, match=f"{name}.*nobody awaits what it returns"),
        broadcasting(publisher, *ids),
    ):
        pytest.fail("it ran unannounced")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("publisher", "error", "name"), ASYNC_PUBLISHERS)
def test_no_asynchronous_save_runs_if_its_broadcast_is_a_coroutine(publisher, error, name):
    @broadcasts_before_save(publisher)
    async def save(id):
        pytest.fail("it ran unannounced")

    with pytest.raises(error, match=f"{name}.*nobody awaits what it returns"):
        asyncio.run(save("p1"))


async def _told(ids, error): ...


@pytest.mark.parametrize(("wrong", "why"), [(_told, "nobody would await it"), ("log", "'log'")])
def test_what_cannot_be_told_of_unsettled_saves_is_refused(wrong, why):
    with pytest.raises(ConfigurationError, match=why):
        broadcasting(NullPublisher(), "p1", on_unsettled=wrong)
    with pytest.raises(ConfigurationError, match=why):
        broadcasts_before_save(NullPublisher(), on_unsettled=wrong)
