"""HTTPFetcher's bulk GETs, with real HTTP."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from change_events import ConfigurationError, FetchError, Found, HTTPFetcher
from fetching import HTML, JSON, UNDECIDED
from id_samples import USABLE
from verification.harness.wire import Answer


@pytest.fixture
def bulk(source):
    return HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many")


def answering_many(source, text, status=200, headers=JSON):
    source.answer_many = lambda ids: Answer(status, text.encode(), headers)


def test_many_ids_are_asked_for_in_one_get(source, bulk):
    source.entities |= {"p1": {"id": "p1", "n": 1}, "p2": None, "p3": {"id": "p3"}}

    assert bulk.fetch_many(["p1", "p2", "p3", "p4"]) == {
        "p1": Found({"id": "p1", "n": 1}),
        "p3": Found({"id": "p3"}),
    }

    (asked,) = source.asked
    assert asked.path == "/many?id=p1&id=p2&id=p3&id=p4"
    assert asked.headers["Accept"] == "application/json"
    assert asked.headers["Cache-Control"] == "no-cache"
    assert "If-None-Match" not in asked.headers


def test_ids_are_added_to_an_existing_query(source):
    with contextlib.suppress(FetchError):
        HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/all?view=full").fetch_many(
            ["p1", "p2"]
        )

    assert source.asked[0].path == "/all?view=full&id=p1&id=p2"


@given(ids=st.lists(USABLE, min_size=1, max_size=5, unique=True))
@example(ids=["a&id=b", "c#d", "e=f+g%", "../../admin"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_id_never_changes_the_other_ids_of_a_bulk_get(source, bulk, ids):
    source.asked_many.clear()

    assert bulk.fetch_many(ids) == {}

    assert source.asked_many == [ids]


def test_a_redirect_of_a_bulk_get_says_which_setting_to_change(source, bulk):
    source.answer_many = lambda _: Answer(302, b"", {"Location": "/all"})

    with pytest.raises(FetchError, match=r"302: it is at '/all'.*into HTTPFetcher\(bulk_url=\)$"):
        bulk.fetch_many(["p1"])


def test_unusable_ids_are_left_out_of_a_bulk_get(source, bulk):
    source.entities["p1"] = {"id": "p1"}

    assert bulk.fetch_many(["..", "p1", ""]) == {"p1": Found({"id": "p1"})}
    assert source.asked_many == [["p1"]]
    assert bulk.fetch_many(["..", ""]) == {}
    assert len(source.asked) == 1


def test_more_ids_than_fit_into_a_url_need_several_gets(source, bulk):
    ids = [f"{number:0500}" for number in range(50)]
    source.entities |= {id: {"id": id} for id in ids}

    found = bulk.fetch_many(ids)

    assert list(found) == ids
    assert source.asked_many == [ids[:15], ids[15:30], ids[30:45], ids[45:]]
    whole = len(source.url) + len(source.asked[0].path)
    assert whole <= 8000 < whole + len(f"&id={ids[15]}")


def test_the_url_of_a_bulk_get_has_at_most_8000_characters(source):
    ids, url = ["a" * 500] * 15, source.url + "/many"
    room = 8000 - len(url) - sum(len(f"&id={id}") for id in ids) - len("&id=")
    fetcher = HTTPFetcher(source.url + "/{id}", bulk_url=url)

    for length, asked in ((room, [16]), (room + 1, [15, 1])):
        source.asked_many.clear()
        fetcher.fetch_many([*ids, "b" * length])
        assert [len(of) for of in source.asked_many] == asked


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('[{"id": "p1"}, 7, null, "p2", ["p2"]]', ["p1"]),
        ('[{"id": "p1"}, {"name": "p2"}, {"id": null}, {"id": ["p2"]}]', ["p1"]),
        ('[{"id": "p1"}, {"id": "p3"}]', ["p1"]),
        ('[{"id": "p1"}, {"id": "p2"}, {"id": "p2", "n": 2}]', ["p1"]),
        ('[{"id": 7}, {"id": "7"}]', []),
        ('[{"id": 7}, {"id": "p2"}]', ["7", "p2"]),
        ('[{"id": "P1"}]', []),
        ("[]", []),
    ],
)
def test_only_objects_with_a_unique_id_that_was_asked_for_are_found(source, bulk, answer, found):
    answering_many(source, answer)

    assert list(bulk.fetch_many(["p1", "p2", "7"])) == found


UNDECIDED_MANY = UNDECIDED | {
    "an object": Answer(200, b'{"id": "p1"}'),
    "a page": Answer(200, b'{"items": [{"id": "p1"}]}'),
    "NaN in one": Answer(200, b'[{"id": "p1"}, {"id": "p2", "price": NaN}]'),
    "too large a number in one": Answer(200, b'[{"id": "p1"}, {"id": "p2", "price": 1e999}]'),
    "HTML": Answer(200, b'[{"id": "p1"}]', HTML),
    "half an array": Answer(200, b'[{"id": "p1"}', length=100),
    "404": Answer(404, b'{"detail": "no such route"}'),
    "410": Answer(410),
    "partial": Answer(206, b'[{"id": "p1"}]'),
}
del UNDECIDED_MANY["list"]


@pytest.mark.parametrize("answer", UNDECIDED_MANY.values(), ids=UNDECIDED_MANY)
def test_any_other_answer_to_a_bulk_get_decides_nothing(source, bulk, answer):
    source.entities["p1"] = {"id": "p1"}
    source.answer_many = lambda ids: answer

    with pytest.raises(FetchError) as caught:
        bulk.fetch_many(["p1", "p2"])

    assert caught.value.status in {answer.status, None}
    source.answer_many = lambda ids: None
    assert bulk.fetch_many(["p1"]) == {"p1": Found({"id": "p1"})}  # the same fetcher still works


def test_retry_after_of_a_bulk_get_is_passed_on(source, bulk):
    answering_many(source, "{}", 503, JSON | {"Retry-After": "7"})

    with pytest.raises(FetchError, match=r"/many answered 503") as caught:
        bulk.fetch_many(["p1"])

    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)


def test_max_bytes_and_timeout_limit_a_bulk_get(source):
    settings = {"bulk_url": source.url + "/many", "timeout": 0.2, "max_bytes": 1000}
    fetcher = HTTPFetcher(source.url + "/{id}", **settings)
    source.entities["p1"] = {"id": "p1", "x": "x" * 1000}

    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        fetcher.fetch_many(["p1"])
    source.gate.clear()
    with pytest.raises(FetchError, match="timed out"):
        fetcher.fetch_many(["p1"])
    source.gate.set()


def test_a_headers_callable_is_called_for_each_bulk_get(source):
    tokens = iter(["one", "two"])
    fetcher = HTTPFetcher(
        source.url + "/{id}",
        bulk_url=source.url + "/many",
        headers=lambda: {"Authorization": next(tokens)},
    )

    for _ in range(2):
        fetcher.fetch_many(["p1"])

    assert [asked.headers["Authorization"] for asked in source.asked] == ["one", "two"]


def test_without_a_bulk_url_many_ids_can_not_be_fetched():
    fetcher = HTTPFetcher("https://products.example.com/{id}")

    assert fetcher.bulk_size == 1
    with pytest.raises(ConfigurationError, match="bulk_url="):
        fetcher.fetch_many(["p1"])


def test_bulk_size_is_50_by_default_and_can_be_set():
    url = "https://products.example.com"

    assert HTTPFetcher(url + "/{id}", bulk_url=url).bulk_size == 50
    for size in (1, 7, 1000):
        fetcher = HTTPFetcher(url + "/{id}", bulk_url="http://elsewhere/?x=1", bulk_size=size)
        assert fetcher.bulk_size == size


# Settings


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://products.example.com/products/{id}", "not an http"),
        ("https://products.example.com/#top", "not an http"),
        ("https://products.example.com/#", "not an http"),
        ("ftp://products.example.com/", "not an http"),
        ("products.example.com", "not an http"),
        ("https:///products", "not an http"),
        ("", "not an http"),
        ("https://user:secret@products.example.com/", "must not have a password in the URL"),
    ],
)
def test_a_bulk_url_that_ids_can_not_be_added_to_is_refused(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        HTTPFetcher("https://products.example.com/{id}", bulk_url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1001, 2.5, None, "50"])
def test_bulk_size_must_be_from_1_to_1000(size):
    with pytest.raises(ConfigurationError, match="bulk_size must be an integer from 1 to 1000"):
        HTTPFetcher("https://products.example.com/{id}", bulk_size=size)
