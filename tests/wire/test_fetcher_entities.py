"""HTTPFetcher: which bodies are the entity that was asked for, and which numbers they can have."""

from __future__ import annotations

import json

import pytest

from change_events import ConfigurationError, FetchError, Found, HTTPFetcher
from fetching import answering
from verification.harness.wire import Answer


@pytest.fixture
def fetcher(source):
    return HTTPFetcher(source.url + "/products/{id}")


def refused(fetcher, id="p1"):
    """Return the text of the error of a GET. It must be the entity's own failure."""
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(id)
    assert caught.value.status == 200
    return str(caught.value)


# The id


@pytest.mark.parametrize("id", ["7", "-7"])
def test_an_integer_id_in_the_body_matches_the_id_asked_for(source, fetcher, id):
    answering(source, Answer(body=b'{"id": ' + id.encode() + b"}"))

    assert fetcher.fetch(id).value == {"id": int(id)}


def test_an_object_without_an_id_is_not_an_entity(source, fetcher):
    """A wrong URL often answers 200: with an OpenAPI document, an envelope, an error."""
    answering(source, Answer(body=b'{"openapi": "3.1.0", "info\\n": {}}'))

    assert refused(fetcher) == (
        f"GET {source.url}/products/p1 answered an object without an id, by id_of='id'; "
        "its keys are ['openapi', 'info\\n']"
    )


def test_an_entity_with_another_id_is_refused_by_name(source, fetcher):
    answering(source, Answer(body=json.dumps({"id": "p2\n" + "x" * 500}).encode()))

    error = refused(fetcher)

    assert r"/products/p1 answered another entity, 'p2\nxxx" in error
    assert error.endswith("x, by id_of='id'")
    assert len(error) < 200


@pytest.mark.parametrize("id", ["P1", " p1", "p1 ", "p1\u200b"])
def test_an_id_must_be_equal_to_the_last_character(source, fetcher, id):
    """Some databases compare without regard to case or spaces, and find another entity."""
    answering(source, Answer(body=json.dumps({"id": id}).encode()))

    assert refused(fetcher).endswith(f"answered another entity, {id!r}, by id_of='id'")


@pytest.mark.parametrize("id", [True, 7.0, [7], {"id": 7}])
def test_only_text_and_integers_are_ids(source, fetcher, id):
    answering(source, Answer(body=json.dumps({"id": id}).encode()))

    assert refused(fetcher, str(id)).endswith(f"{id!r} where id_of='id' says that an id is")


@pytest.mark.parametrize(
    ("id_of", "body"),
    [
        ("sku", {"sku": "p1", "id": 9}),
        ("data.id", {"data": {"id": "p1"}, "id": 9}),
        ("data.attributes.sku", {"data": {"attributes": {"sku": "p1"}}}),
        (lambda entity: entity["links"]["self"].rpartition("/")[2], {"links": {"self": "/x/p1"}}),
        (None, {"openapi": "3.1.0"}),
    ],
)
def test_id_of_says_where_the_id_is(source, id_of, body):
    answering(source, Answer(body=json.dumps(body).encode()))

    assert HTTPFetcher(source.url + "/{id}", id_of=id_of).fetch("p1").value == body


@pytest.mark.parametrize(
    "body", [{}, {"data": None}, {"data": []}, {"data": "id"}, {"data": {"id": None}}]
)
def test_a_path_that_leads_nowhere_finds_no_id(source, body):
    answering(source, Answer(body=json.dumps(body).encode()))

    error = refused(HTTPFetcher(source.url + "/{id}", id_of="data.id"))

    assert "answered an object without an id, by id_of='data.id'" in error


def test_an_id_of_that_raises_decides_nothing(source):
    def id_of(entity):
        raise ValueError(f"secret {entity}")

    answering(source, Answer(body=b"{}"))

    error = refused(HTTPFetcher(source.url + "/{id}", id_of=id_of))

    assert error == f"GET {source.url}/p1: id_of= raised ValueError"


def test_an_id_of_that_returns_another_id_is_named(source):
    answering(source, Answer(body=b"{}"))

    error = refused(HTTPFetcher(source.url + "/{id}", id_of=lambda _: "p2"))

    assert error == f"GET {source.url}/p1 answered another entity, 'p2', by id_of="


def test_a_bulk_answer_has_its_ids_where_id_of_says(source):
    answer = [{"data": {"id": "p1"}}, {"id": "p2"}, {"data": {"id": True}}, {"data": {"id": 7}}]
    source.answer_many = lambda ids: Answer(200, json.dumps(answer).encode())
    settings = {"bulk_url": source.url + "/many", "id_of": "data.id"}

    found = HTTPFetcher(source.url + "/{id}", **settings).fetch_many(["p1", "p2", "True", "7"])

    assert found == {"p1": Found({"data": {"id": "p1"}}), "7": Found({"data": {"id": 7}})}


def test_an_element_for_which_id_of_raises_is_left_out_of_a_bulk_answer(source):
    source.answer_many = lambda ids: Answer(200, b'[{"sku": "p1"}, {"error": "no p2"}]')
    settings = {"bulk_url": source.url + "/many", "id_of": lambda entity: entity["sku"]}

    found = HTTPFetcher(source.url + "/{id}", **settings).fetch_many(["p1", "p2"])

    assert found == {"p1": Found({"sku": "p1"})}


@pytest.mark.parametrize("id_of", ["", ".", "data.", ".id", "a..b", 7, ["id"]])
def test_an_id_of_that_is_neither_a_path_nor_callable_is_refused(id_of):
    with pytest.raises(ConfigurationError, match="id_of= must be a path"):
        HTTPFetcher("https://products.example.com/{id}", id_of=id_of)


def test_bulk_gets_need_an_id_of():
    url = "https://products.example.com"

    with pytest.raises(ConfigurationError, match="bulk_url= needs id_of="):
        HTTPFetcher(url + "/{id}", bulk_url=url, id_of=None)


# Numbers


def number(text):
    return Answer(body=b'{"id": "p1", "n": %b}' % text.encode())


EXACT = [
    ("1.5", 1.5),
    ("1.10", 1.1),
    ("100.000000000000000000", 100.0),
    ("0.0", 0.0),
    ("-0.0", -0.0),
    ("0e400", 0.0),
    ("1e3", 1000.0),
    ("1E+3", 1000.0),
    ("1e23", 1e23),
    ("123456789012.345", 123456789012.345),
    ("1.7976931348623157e308", 1.7976931348623157e308),
    ("5e-324", 5e-324),
    ("0.30000000000000004", 0.1 + 0.2),
    # What C, Java and others print with 17 digits.
    ("0.10000000000000001", 0.1),
    ("1.1000000000000001e+00", 1.1),
    ("4.9406564584124654e-324", 5e-324),
    # What C prints with "%f": all digits that the float has.
    ("99999999999999991611392.000000", 1e23),
    ("9007199254740993", 9007199254740993),
    ("1" + "0" * 4000, 10**4000),
]


@pytest.mark.parametrize(("text", "value"), EXACT, ids=[text[:30] for text, _ in EXACT])
def test_a_number_that_python_holds_is_stored_as_it_came(source, fetcher, text, value):
    answering(source, number(text))

    assert repr(fetcher.fetch("p1").value["n"]) == repr(value)


CHANGED = {
    "12345678901234567.89": "to 1.2345678901234568e+16",
    "9007199254740993.0": "to 9007199254740992.0",
    "0.1000000000000000055511": "to 0.1;",
    "1.23456789012345678": "to 1.2345678901234567",
    "1e-400": "to 0.0;",
    "1.23e-323": "to 1e-323;",
    "1e-9999999999999999999999": "to 0.0;",
    "1e400": "is too large for a float",
}


@pytest.mark.parametrize(("text", "message"), CHANGED.items())
def test_a_number_that_a_float_would_change_is_refused(source, fetcher, text, message):
    """Otherwise the cache would differ from the source, and nothing would say so."""
    answering(source, number(text))

    error = refused(fetcher)

    assert message in error
    assert text[:20] in error


def test_an_integer_longer_than_python_reads_is_refused(source, fetcher):
    answering(source, number("1" + "0" * 5000))

    assert "Exceeds the limit (4300" in refused(fetcher)
