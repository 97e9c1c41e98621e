"""HTTPFetcher(entity=, id_of=, media_types=), and the same of HTTPListing, with real HTTP."""

from __future__ import annotations

import gzip
import json

import pytest

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    Gone,
    HTTPFetcher,
    HTTPListing,
    ListingError,
    Page,
)
from fetching import HTML, JSON, UNDECIDED, answering
from verification.harness.wire import Answer


def as_json(body, **headers):
    return Answer(200, json.dumps(body).encode(), JSON | headers)


def fetch(source, body, **settings):
    answering(source, body if isinstance(body, Answer) else as_json(body))
    return HTTPFetcher(source.url + "/{id}", **settings).fetch("p1")


# Envelopes


@pytest.mark.parametrize(
    ("entity", "body"),
    [
        ("data", {"data": {"id": "p1", "n": 1}, "links": {"self": "/p1"}}),
        ("data.product", {"data": {"product": {"id": "p1", "n": 1}, "id": "p2"}}),
        (lambda body: body["data"][0], {"data": [{"id": "p1", "n": 1}]}),
        (lambda body: body[0], [{"id": "p1", "n": 1}]),
        (None, {"id": "p1", "n": 1}),
    ],
)
def test_the_entity_is_taken_out_of_its_envelope(source, entity, body):
    assert fetch(source, body, entity=entity) == Found({"id": "p1", "n": 1})


def test_the_id_is_looked_for_in_the_entity(source):
    body = {"data": {"attributes": {"sku": 7}, "id": "another"}, "id": "another"}
    answering(source, as_json(body))
    fetcher = HTTPFetcher(source.url + "/{id}", entity="data", id_of="attributes.sku")

    assert fetcher.fetch("7") == Found(body["data"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"id": "p1"}, r"an object with nothing at entity='data'; its keys are \['id'\]"),
        ({"data": None, "error": "x"}, r"with nothing at entity='data'; its keys are \['data', 'e"),
        ({"data": [{"id": "p1"}]}, "a JSON list at entity='data', not an object"),
        ({"data": "p1"}, "a JSON str at entity='data', not an object"),
        ([], "a JSON NoneType at entity='data', not an object"),
        ({"data": {"id": "p2"}}, "another entity, 'p2', by id_of='id'"),
        ({"data": {"sku": "p1"}, "id": "p1"}, "an object without an id, by id_of='id'"),
        ({"data": {"id": True}}, "True where id_of='id' says that an id is"),
    ],
)
def test_every_check_is_made_of_what_is_in_the_envelope(source, body, message):
    with pytest.raises(FetchError, match=message) as caught:
        fetch(source, body, entity="data")

    assert caught.value.status == 200


@pytest.mark.parametrize("answer", UNDECIDED.values(), ids=UNDECIDED)
def test_what_decides_nothing_decides_nothing_in_an_envelope(source, answer):
    """Except for the answer that has the envelope."""
    if answer.body == b'{"data": {"id": "p1"}}':
        assert fetch(source, answer, entity="data") == Found({"id": "p1"})
        return

    with pytest.raises(FetchError):
        fetch(source, answer, entity="data", media_types=["application/x-json"])


def test_a_callable_that_raises_decides_nothing_and_its_text_is_not_shown(source):
    def entity(body):
        raise KeyError("secret")

    with pytest.raises(FetchError, match="entity= raised KeyError") as caught:
        fetch(source, {"data": 1}, entity=entity)

    assert caught.value.status == 200
    assert "secret" not in str(caught.value)


def test_a_callable_that_finds_nothing_decides_nothing(source):
    with pytest.raises(FetchError, match=r"with nothing at entity=; its keys are \['items'\]"):
        fetch(source, {"items": []}, entity=lambda body: None)


def test_a_number_that_a_float_would_change_is_refused_in_an_envelope(source):
    answering(source, Answer(200, b'{"data": {"id": "p1", "n": 12345678901234567.89}}'))

    with pytest.raises(FetchError, match="a float would change the number"):
        HTTPFetcher(source.url + "/{id}", entity="data").fetch("p1")


def test_an_envelope_can_be_gzipped_and_its_bomb_is_still_refused(source):
    body = gzip.compress(json.dumps({"data": {"id": "p1", "x": "x" * 50_000}}).encode())
    answer = Answer(200, body, JSON | {"Content-Encoding": "gzip"})

    assert len(fetch(source, answer, entity="data").value["x"]) == 50_000
    with pytest.raises(FetchError, match="longer than 40000 bytes"):
        fetch(source, answer, entity="data", max_bytes=40_000)


@pytest.mark.parametrize("answer", [Answer(404, b'{"data": null}'), Answer(410, b"", {})])
def test_a_404_and_a_410_need_no_envelope(source, answer):
    assert fetch(source, answer, entity="data") == Gone()


# Bulk answers


@pytest.mark.parametrize(
    ("entity", "body"),
    [
        ("data", {"data": [{"id": "p1"}, {"id": "p2"}, {"id": "p3"}]}),
        (lambda body: body["page"]["rows"], {"page": {"rows": [{"id": "p1"}, {"id": "p2"}]}}),
    ],
)
def test_a_bulk_answer_has_its_array_where_a_body_has_its_entity(source, entity, body):
    source.answer_many = lambda ids: as_json(body)
    fetcher = HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many", entity=entity)

    assert fetcher.fetch_many(["p1", "p2"]) == {
        "p1": Found({"id": "p1"}),
        "p2": Found({"id": "p2"}),
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([{"id": "p1"}], "a JSON NoneType at entity='data', not an array"),
        ({"data": {"id": "p1"}}, "a JSON dict at entity='data', not an array"),
        ({"items": []}, "an object with nothing at entity='data'"),
    ],
)
def test_a_bulk_answer_without_its_array_decides_nothing(source, body, message):
    source.answer_many = lambda ids: as_json(body)
    fetcher = HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many", entity="data")

    with pytest.raises(FetchError, match=message):
        fetcher.fetch_many(["p1"])


# Media types


@pytest.mark.parametrize(
    "content_type", ["text/plain", "Text/Plain; charset=utf-8", "binary/octet-stream"]
)
def test_a_media_type_that_the_user_names_is_json(source, content_type):
    answer = Answer(200, b'{"id": "p1"}', {"Content-Type": content_type})
    named = ["TEXT/plain", "binary/octet-stream"]

    assert fetch(source, answer, media_types=named) == Found({"id": "p1"})
    with pytest.raises(FetchError, match="not JSON"):
        fetch(source, answer)


def test_a_page_of_html_is_not_json_whatever_media_types_says(source):
    answer = Answer(200, b"<h1>Sign in</h1>", HTML)

    with pytest.raises(FetchError, match="JSON that can't be stored"):
        fetch(source, answer, media_types=["text/html"])


def test_a_404_as_html_is_not_believed_whatever_media_types_says(source):
    with pytest.raises(FetchError, match="a 404 as text/html is not believed"):
        fetch(source, Answer(404, b'{"gone": true}', HTML), media_types=["text/html"])


def test_json_needs_no_mention(source):
    assert fetch(source, {"id": "p1"}, media_types=["text/plain"]) == Found({"id": "p1"})


def test_a_bulk_answer_can_have_the_media_type_too(source):
    source.answer_many = lambda ids: Answer(200, b'[{"id": "p1"}]', {"Content-Type": "text/plain"})
    fetcher = HTTPFetcher(
        source.url + "/{id}", bulk_url=source.url + "/many", media_types=["text/plain"]
    )

    assert set(fetcher.fetch_many(["p1"])) == {"p1"}


# Listings


def page(source, body, **settings):
    answering(source, body if isinstance(body, Answer) else as_json(body))
    return HTTPListing(source.url + "/all", **settings).page(None)


@pytest.mark.parametrize(
    ("entity", "items"),
    [
        ("product", [{"product": {"sku": 1, "n": 1}}, {"product": {"sku": 2, "n": 2}}]),
        ("_source.doc", [{"_source": {"doc": {"sku": each, "n": each}}} for each in (1, 2)]),
        (lambda item: item[1], [["x", {"sku": 1, "n": 1}], ["y", {"sku": 2, "n": 2}]]),
    ],
)
@pytest.mark.parametrize("entities", [True, False])
def test_the_items_of_a_listing_can_be_in_envelopes(source, entity, items, entities):
    found = {each: Found({"sku": int(each), "n": int(each)}) for each in ("1", "2")}

    listed = page(source, {"hits": items}, entity=entity, id_of="sku", entities=entities)

    assert listed == Page(["1", "2"], found if entities else None, None)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        ("data", r"item 1 is an object with the keys \['id'\], with nothing at entity='data'"),
        (lambda item: item["data"], "item 1: entity= raised KeyError"),
    ],
)
def test_an_item_without_its_envelope_is_a_listing_error(source, entity, message):
    with pytest.raises(ListingError, match=message):
        page(source, [{"data": {"id": "p1"}}, {"id": "p2"}], entity=entity)


def test_an_item_in_an_envelope_can_be_an_id(source):
    assert page(source, [{"data": "p1"}], entity="data").ids == ["p1"]


def test_a_listing_can_have_another_media_type(source):
    answer = Answer(200, b'["p1"]', {"Content-Type": "text/plain"})

    assert page(source, answer, media_types=("text/plain",)).ids == ["p1"]
    with pytest.raises(ListingError, match="not JSON"):
        page(source, answer)


# Settings


@pytest.mark.parametrize("reader", [HTTPFetcher, HTTPListing])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"entity": wrong}, "entity= must be a path, like 'data' or 'data.product'")
            for wrong in ("", "data.", ".data", 7, ["data"])
        ),
        *(
            ({"media_types": wrong}, "media_types= must be a collection of names")
            for wrong in ("text/plain", ["text"], [7], b"text/plain", None, ["a/b; c=d"], ["a b/c"])
        ),
    ],
)
def test_wrong_settings_are_refused(reader, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        reader("https://a.example/" + "{id}" * (reader is HTTPFetcher), **settings)
