from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import given

from change_events import (
    ConfigurationError,
    IdResolutionError,
    NullPublisher,
    broadcasting,
    broadcasts_before_save,
)
from change_events._ids import checked_id
from change_events.testing import Broadcasts
from id_samples import UNUSABLE, USABLE


@pytest.fixture
def recorder():
    """A publisher that records; test_publishers.py tests what reaches SNS."""
    return Broadcasts()


@dataclass
class Product:
    id: object = "p1"


@given(USABLE)
def test_valid_text_is_an_id_without_a_change(text):
    assert checked_id(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-12, "-12"),
        (UUID("0191d3c4-0000-7000-8000-000000000000"), "0191d3c4-0000-7000-8000-000000000000"),
        ("a/../b", "a/../b"),
        ("...", "..."),
        ("x" * 512, "x" * 512),
        ("\u00a0", "\u00a0"),
    ],
)
def test_integers_and_uuids_become_text(value, text):
    assert checked_id(value) == text


@pytest.mark.parametrize(("value", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_id_raises_before_anything_is_sent_or_saved(recorder, value, message):
    saved = []

    @broadcasts_before_save(recorder)
    def save(product):
        saved.append(product)

    with pytest.raises(IdResolutionError, match=message) as caught:
        save(Product(value))

    assert "save()" in str(caught.value)
    assert "'product.id'" in str(caught.value)
    assert (recorder.ids, saved) == ([], [])


def test_an_id_of_none_says_where_to_make_ids(recorder):
    @broadcasts_before_save(recorder)
    def save(product):
        pytest.fail("saved")

    with pytest.raises(IdResolutionError, match=r"'product.id'\) is None.*UUID"):
        save(Product(None))

    assert recorder.ids == []


@pytest.mark.parametrize(("value", "message"), [*UNUSABLE.values(), (None, "not None")])
def test_broadcasting_refuses_every_unusable_id(recorder, value, message):
    with pytest.raises(IdResolutionError, match=message):
        broadcasting(recorder, "fine", value)

    assert recorder.ids == []


# Where the id comes from


def test_by_default_the_parameter_named_id_is_the_id(recorder):
    @broadcasts_before_save(recorder)
    def delete(tenant, id):
        pass

    delete("t", id=7)

    assert recorder.ids == ["7"]


def test_without_a_parameter_named_id_the_first_parameters_own_id_is_the_id(recorder):
    class Repository:
        @broadcasts_before_save(recorder)
        def save(self, product, reason="none"):
            pass

        @classmethod
        @broadcasts_before_save(recorder)
        def save_somehow(cls, product):
            pass

        @staticmethod
        @broadcasts_before_save(recorder)
        def save_anyhow(product):
            pass

    Repository().save(Product("p1"))
    Repository().save(product=Product("p2"))
    Repository.save_somehow(Product("p3"))
    Repository.save_anyhow(Product("p4"))

    assert recorder.ids == ["p1", "p2", "p3", "p4"]


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (SimpleNamespace(product=Product("p1")), "command.product.id"),
        ({"product": {"id": "p1"}}, "command.product.id"),
        ({"product": Product("p1")}, "command.product.id"),
        (SimpleNamespace(product={"id": "p1"}), "command.product.id"),
        ("p1", "command"),
    ],
)
def test_a_path_walks_attributes_and_mapping_keys(recorder, argument, path):
    @broadcasts_before_save(recorder, id=path)
    def handle(command):
        pass

    handle(argument)

    assert recorder.ids == ["p1"]


@pytest.mark.parametrize(
    "argument", [SimpleNamespace(product=None), {"product": {}}, {}, SimpleNamespace()]
)
def test_a_path_that_leads_nowhere_raises_and_saves_nothing(recorder, argument):
    @broadcasts_before_save(recorder, id="command.product.id")
    def handle(command):
        pytest.fail("saved")

    with pytest.raises(
        IdResolutionError,
        match=r"handle\(\): no '\w+' in the \w+ on the way of id='command.product.id'",
    ):
        handle(argument)

    assert recorder.ids == []


def test_a_callable_gets_the_arguments_it_names(recorder):
    @broadcasts_before_save(recorder, id=lambda sku, *, tenant: f"{tenant}-{sku}")
    def save(tenant, product, sku="s0"):
        pass

    save("t", None)
    save("t", None, "s1")

    assert recorder.ids == ["t-s0", "t-s1"]


def test_a_callable_keeps_its_own_default_values(recorder):
    @broadcasts_before_save(recorder, id=lambda product, prefix="x": prefix + product.id)
    def save(product):
        pass

    save(Product("p1"))

    assert recorder.ids == ["xp1"]


def test_a_callable_can_have_no_parameters(recorder):
    @broadcasts_before_save(recorder, id=lambda: "settings")
    def save_settings():
        pass

    save_settings()

    assert recorder.ids == ["settings"]


def test_a_callable_that_finds_nothing_raises_and_saves_nothing(recorder):
    @broadcasts_before_save(recorder, id=lambda product: product.sku)
    def save(product):
        pytest.fail("saved")

    with pytest.raises(IdResolutionError, match=r"save\(\): no id was found: .*sku"):
        save(Product())

    assert recorder.ids == []


def test_several_ids_come_from_a_callable_or_a_path_and_each_is_sent_once(recorder):
    @broadcasts_before_save(recorder, ids=lambda products: (product.id for product in products))
    def save_all(products):
        return len(products)

    @broadcasts_before_save(recorder, ids="ids")
    def delete_all(ids):
        return len(ids)

    assert save_all([Product("p1"), Product("p2"), Product("p1")]) == 3
    assert delete_all({3: "keys", 4: "count"}) == 2
    assert recorder.ids == ["p1", "p2", "3", "4"]


def test_an_iterator_is_accepted_if_it_is_not_read_for_ids(recorder):
    @broadcasts_before_save(recorder, ids="ids")
    def save_rows(rows, ids):
        return list(rows)

    assert save_rows(iter([1, 2]), ["p1"]) == [1, 2]
    assert recorder.ids == ["p1"]


def test_without_ids_nothing_is_broadcast_and_the_save_runs(recorder):
    @broadcasts_before_save(recorder, ids="ids")
    def delete_all(ids):
        return "ran"

    @broadcasts_before_save(recorder, ids="ids")
    async def delete_all_async(ids):
        return "ran"

    recorder.publish = lambda events: pytest.fail("asked to broadcast nothing")
    assert delete_all([]) == "ran"
    assert asyncio.run(delete_all_async([])) == "ran"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("p1", "'ids' gave 'p1', not an iterable"),
        (5, "'ids' gave 5, not an iterable"),
        (["p1", None], r"\('ids'\) is None"),
        (["p1", ""], "'ids': an id has 1 to 512"),
        (
            (id for id in ["p1"]),
            "'ids' is a generator; reading its ids would leave nothing to save",
        ),
        (map(str, [1]), "'ids' is a map"),
        (iter(["p1"]), "'ids' is a list_iterator"),
        (itertools.chain(["p1"]), "'ids' is a chain"),
    ],
)
def test_unusable_ids_raise_and_save_nothing(recorder, ids, message):
    @broadcasts_before_save(recorder, ids="ids")
    def delete_all(ids):
        pytest.fail("saved")

    with pytest.raises(IdResolutionError, match=message):
        delete_all(ids)

    assert recorder.ids == []


# What is checked at decoration


def save(self, product, reason=None):
    pass


def no_parameters():
    pass


def generator(product):
    yield product


async def async_generator(product):
    yield product


MISTAKES = {
    "misspelt": (
        save,
        {"id": "prodcut.id"},
        r"save\(\) has no parameter 'prodcut'; did you mean 'product'\?",
    ),
    "foreign": (save, {"id": "zzz"}, r"no parameter 'zzz'; it has self, product, reason"),
    "misspelt in a callable": (save, {"id": lambda prodcut: prodcut.id}, "did you mean 'product'"),
    "misspelt in ids": (save, {"ids": lambda products: products}, "did you mean 'product'"),
    "id with ids": (save, {"id": "product.id", "ids": "product.ids"}, "id= or ids=, not both"),
    "empty path": (save, {"id": ""}, "id='' is not a path"),
    "hole in a path": (save, {"id": "product..id"}, "is not a path; write it like 'product.id'"),
    "neither path nor callable": (save, {"id": 5}, "must be a path or a callable, not 5"),
    "any argument": (
        save,
        {"id": lambda *args: args[0]},
        r"must name the parameters that it wants, not \*args",
    ),
    "any keyword": (save, {"id": lambda **kwargs: 1}, r"not \*\*kwargs"),
    "no signature": (save, {"id": type}, "use a lambda"),
    "no parameters": (
        no_parameters,
        {},
        r"no_parameters\(\) has no parameters to read an id from.*id=lambda",
    ),
    "no parameter of its own": (
        lambda *args, **kwargs: None,
        {},
        "has no parameters to read an id from",
    ),
    "path without parameters": (
        no_parameters,
        {"id": "product.id"},
        "no parameter 'product'; it has none",
    ),
    "generator": (
        generator,
        {},
        (
            r"generator\(\) is a generator function: .*, not when it is called\. "
            r"Decorate what iterates it, or use `with broadcasting\(publisher, id\):` inside$"
        ),
    ),
    "asynchronous generator": (async_generator, {}, r"async_generator\(\) is a generator function"),
    "static method": (staticmethod(save), {}, "put @broadcasts_before_save below @staticmethod"),
    "class method": (classmethod(save), {}, "below @classmethod"),
    "class": (Product, {}, "decorates a function, not <class"),
}


@pytest.mark.parametrize(("function", "settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_an_error_at_decoration(function, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        broadcasts_before_save(NullPublisher(), **settings)(function)


@pytest.mark.parametrize(
    ("publisher", "message"),
    [
        (None, "None has no publish"),
        ("arn:aws:sns:eu-west-1:123456789012:t", "has no publish"),
        (lambda slef: slef.publisher, "did you mean 'self'"),
        (lambda *args: args[0], r"publisher= must name the parameters that it wants, not \*args"),
    ],
)
def test_an_object_that_is_not_a_publisher_is_an_error_at_decoration(publisher, message):
    with pytest.raises(ConfigurationError, match=message):
        broadcasts_before_save(publisher)(save)


def test_a_decorator_without_its_publisher_is_an_error_at_the_call():
    class Repository:
        @broadcasts_before_save
        def save(self, product):
            pytest.fail("saved")

    for call in (Repository().save, Repository.save):
        with pytest.raises(ConfigurationError, match=r"is `\(publisher\)` missing"):
            call(Product(), product=Product())


def test_a_publisher_that_is_missing_at_the_call_raises_the_callables_error(recorder):
    @broadcasts_before_save(lambda self: self.publisher)
    def save(self, product):
        pytest.fail("saved")

    with pytest.raises(AttributeError, match="publisher"):
        save(SimpleNamespace(), Product())


def test_a_publisher_can_come_from_the_call(recorder):
    class Repository:
        def __init__(self):
            self.publisher = recorder

        @broadcasts_before_save(lambda self: self.publisher)
        def save(self, product):
            pass

    Repository().save(Product("p1"))

    assert recorder.ids == ["p1"]
