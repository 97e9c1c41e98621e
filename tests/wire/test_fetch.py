from __future__ import annotations

import contextlib
import functools
import gzip
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unicodedata import category
from urllib.parse import unquote

import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_ids import UNUSABLE, USABLE

from change_events import (
    ConfigurationError,
    DecodeError,
    FetchError,
    Found,
    Gone,
    HTTPFetcher,
    Unchanged,
)
from change_events._codec import decode
from conftest import Source, serving
from verification.harness.wire import HANG_UP, Answer, Raw, RawServer

JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(params=["connections of its own", "a pool of the user's"])
def make(request):
    """HTTPFetcher, with either of its two ways to the source."""
    if request.param == "connections of its own":
        yield HTTPFetcher
        return
    with urllib3.PoolManager(maxsize=20) as pool:
        yield functools.partial(HTTPFetcher, pool=pool)


@pytest.fixture
def fetcher(make, source):
    return make(source.url + "/products/{id}")


def answering(source, answer):
    source.answer = lambda id: answer


@contextlib.contextmanager
def answering_raw(make, status, *headers):
    """Where headers are not what a dictionary can hold. The body is an empty object."""
    text = b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"Content-Length: 2", b"", b"{}"])
    with RawServer(lambda _: Raw(text)) as server:
        yield make(server.url + "/{id}", bulk_url=server.url + "/")


# What is asked


def test_a_get_asks_for_a_fresh_answer_in_json(source, fetcher):
    source.entities["p1"] = {"id": "p1"}

    fetcher.fetch("p1")

    (asked,) = source.asked
    assert asked.path == "/products/p1"
    assert asked.headers["Accept"] == "application/json"
    assert asked.headers["Cache-Control"] == "no-cache"
    assert "If-None-Match" not in asked.headers


def test_with_an_etag_it_asks_for_changes_only(source, fetcher):
    source.entities["p1"] = {"id": "p1"}
    found = fetcher.fetch("p1")

    assert fetcher.fetch("p1", etag=found.etag) == Unchanged()
    source.entities["p1"] = {"id": "p1", "name": "new"}
    assert fetcher.fetch("p1", etag=found.etag).value == {"id": "p1", "name": "new"}


def test_headers_may_be_a_mapping_or_asked_for_at_each_get(source):
    tokens = iter(["one", "two"])
    mapping = HTTPFetcher(
        source.url + "/{id}", headers={"Accept": "application/hal+json", "Authorization": "zero"}
    )
    called = HTTPFetcher(source.url + "/{id}", headers=lambda: {"Authorization": next(tokens)})

    for fetcher in (mapping, called, called):
        fetcher.fetch("p1")

    assert [asked.headers["Authorization"] for asked in source.asked] == ["zero", "one", "two"]
    assert [asked.headers["Accept"] for asked in source.asked] == ["application/hal+json"] + [
        "application/json"
    ] * 2


AWKWARD = st.text(
    st.sampled_from("./\\%?#;:@&=+~ 2eE\t\n\r\x00\x7f\u2028\uff0e\uff0f\u00e9\U0001f600\ud800"),
    max_size=12,
)


def body(id, ascii, enveloped):
    text = json.dumps({"id": id}, ensure_ascii=ascii)
    return json.dumps({"Type": "Notification", "Message": text}) if enveloped else text


@given(
    id=AWKWARD | st.text(st.characters()) | st.integers() | USABLE,
    ascii=st.booleans(),
    enveloped=st.booleans(),
)
@example(id=".", ascii=True, enveloped=False)
@example(id="..", ascii=True, enveloped=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_body_says_one_segment_of_the_path_is_the_id_and_the_rest_is_the_template(
    source, fetcher, id, ascii, enveloped
):
    """
    From a message's body to what the service is asked. `--hypothesis-profile=many` tries ten
    thousand.
    """
    source.asked.clear()
    try:
        event = decode(body(id, ascii, enveloped))
    except DecodeError:
        assert (
            str(id) in {"", ".", ".."}
            or len(str(id)) > 512
            or any(category(letter) in {"Cc", "Cs"} for letter in id)
        )
        return

    fetcher.fetch(event.id)

    (asked,) = source.asked
    segment = re.fullmatch(r"/products/((?:[\w.~-]|%[0-9A-F]{2})+)", asked.path, re.ASCII)[1]
    assert unquote(segment, errors="strict") == str(id)
    assert segment not in {".", ".."}


@given(id=USABLE)
@example(id="../../admin")
@example(id="a/b?c=d#e;f@g:h")
@example(id="%2e%2e/%00")
@example(id="..%2f")
@example(id="http://elsewhere/")
@example(id="\\..\\x")
@example(id="x" * 512)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_an_id_never_changes_which_path_is_asked(source, id):
    fetcher = HTTPFetcher(source.url + "/v1/products/{id}?view=full")
    source.asked.clear()

    fetcher.fetch(id)

    (asked,) = source.asked
    path, _, query = asked.path.partition("?")
    assert path.rpartition("/")[0] == "/v1/products"
    assert query == "view=full"
    assert urllib3.util.parse_url(asked.path).path.count("/") == 3


@pytest.mark.parametrize("id", [value for value, _ in UNUSABLE.values() if isinstance(value, str)])
def test_an_id_that_might_is_not_asked_for(source, fetcher, id):
    with pytest.raises(FetchError):
        fetcher.fetch(id)

    assert source.asked == []


def test_the_id_may_stand_in_the_query(source):
    source.answer = lambda path: Answer(body=b"{}")

    HTTPFetcher(source.url + "/products?id={id}").fetch("a&b=c/d")

    assert source.asked[0].path == "/products?id=a%26b%3Dc%2Fd"


# What decides


def test_a_200_with_an_object_is_the_entity(source, fetcher):
    answering(
        source, Answer(body=b'{"id": "p1", "name": "\\u00fc"}', headers=JSON | {"ETag": 'W/"7"'})
    )

    assert fetcher.fetch("p1") == Found({"id": "p1", "name": "ü"}, 'W/"7"')


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON ; charset=utf-8", "application/hal+json"]
)
def test_json_comes_under_several_names(source, fetcher, media_type):
    answering(source, Answer(body=b"{}", headers={"Content-Type": media_type}))

    assert fetcher.fetch("p1") == Found({})


def test_numbers_are_read_as_they_are(source, fetcher):
    answering(source, Answer(body=b'{"price": 1.5, "sold": 3e2, "stock": 7}'))

    assert fetcher.fetch("p1").value == {"price": 1.5, "sold": 300.0, "stock": 7}


@pytest.mark.parametrize("id", ["7", "-7"])
def test_an_integer_in_the_body_is_the_id_in_the_path(source, fetcher, id):
    answering(source, Answer(body=b'{"id": ' + id.encode() + b"}"))

    assert fetcher.fetch(id).value == {"id": int(id)}


def test_a_compressed_body_is_read(source, fetcher):
    answering(
        source,
        Answer(body=gzip.compress(b'{"id": "p1"}'), headers=JSON | {"Content-Encoding": "gzip"}),
    )

    assert fetcher.fetch("p1").value == {"id": "p1"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b'{"detail": "no such product"}'),
        Answer(404, b"", {}),
        Answer(404, b"not found", {"Content-Type": "text/plain"}),
        Answer(410, b"", {}),
        Answer(410, b"<h1>gone</h1>", HTML),
    ],
)
def test_410_and_a_404_that_is_no_page_are_gone(source, fetcher, answer):
    answering(source, answer)

    assert fetcher.fetch("p1") == Gone()


@pytest.mark.parametrize(
    "types",
    [["text/html"] * 2, ["application/json", "Text/HTML; x=y"], ["text/html", "text/plain"]],
)
def test_a_404_that_is_html_among_other_types_is_not_believed(make, types):
    """A proxy that adds a Content-Type to the one that is there."""
    headers = [f"Content-Type: {one}".encode() for one in types]

    with (
        answering_raw(make, b"404 Not Found", *headers) as fetcher,
        pytest.raises(FetchError, match="404"),
    ):
        fetcher.fetch("p1")


@pytest.mark.parametrize(
    ("types", "is_json"),
    [
        (["application/json"] * 2, True),
        (["application/json", "application/hal+json; x=y"], True),
        (["text/html", "application/hal+json"], False),
        (["application/json", "text/html"], False),
    ],
)
def test_an_entity_is_json_by_all_its_types(make, types, is_json):
    headers = [f"Content-Type: {one}".encode() for one in types]
    refused = contextlib.nullcontext() if is_json else pytest.raises(FetchError, match="not JSON")

    with answering_raw(make, b"200 OK", *headers) as fetcher, refused:
        assert fetcher.fetch("p1") == Found({})


@pytest.mark.parametrize("broken", [b"no header", b"X Y: z", b"\xff: x", b"Content-Length : 2"])
def test_a_404_whose_headers_are_hidden_by_a_broken_one_is_not_believed(make, broken):
    """Python reads them up to that line, so that nobody knows its media type, nor its length."""
    headers = [broken, b"Content-Type: text/html"]

    with (
        answering_raw(make, b"404 Not Found", *headers) as fetcher,
        pytest.raises(FetchError, match="404"),
    ):
        fetcher.fetch("p1")


@pytest.mark.parametrize(
    "fetch", [lambda fetcher: fetcher.fetch("p1"), lambda fetcher: fetcher.fetch_many(["p1"])]
)
def test_nor_is_a_200_whose_length_or_second_type_may_be_hidden(make, fetch):
    headers = [b"Content-Type: application/json", b"X Y: z", b"Content-Type: text/html"]

    with (
        answering_raw(make, b"200 OK", *headers) as fetcher,
        pytest.raises(FetchError, match="200, with a line among its headers"),
    ):
        fetch(fetcher)


def test_which_404_to_believe_is_a_setting(make, source):
    def is_gone(headers, body):
        return (
            headers["content-type"].startswith("application/json")
            and json.loads(body)["detail"] == "no such product"
        )

    fetcher = make(source.url + "/{id}", is_gone=is_gone)

    assert fetcher.fetch("p1") == Gone()
    answering(source, Answer(404, b'{"detail": "no such route"}'))
    with pytest.raises(FetchError, match="404"):
        fetcher.fetch("p1")


# What decides nothing

UNDECIDED = {
    "500": Answer(500, b"{}"),
    "502": Answer(502, b"<h1>Bad Gateway</h1>", HTML),
    "503": Answer(503, b"{}"),
    "429": Answer(429, b"{}"),
    "401": Answer(401, b"{}"),
    "403": Answer(403, b"{}"),
    "400": Answer(400, b"{}"),
    "204": Answer(204, b"", {}, length=0),
    "201": Answer(201, b'{"id": "p1"}'),
    "304 to no question": Answer(304),
    "a proxy's 404": Answer(404, b"<h1>default backend - 404</h1>", HTML),
    "half a 404": Answer(404, b'{"detail"', length=100),
    "redirect to another host": Answer(302, b"", {"Location": "http://localhost:1/p1"}),
    "redirect to another scheme": Answer(308, b"", {"Location": "https://127.0.0.1/p1"}),
    "redirect to no URL": Answer(307, b"", {"Location": "http://[half"}),
    "redirect without a target": Answer(302, b"", {}),
    "redirect to a login page": Answer(302, b"", {"Location": "/login"}),
    "300": Answer(300, b"{}"),
    "HTML": Answer(200, b"<h1>Sign in</h1>", HTML),
    "text": Answer(200, b"{}", {"Content-Type": "text/plain"}),
    "no media type": Answer(200, b"{}", {}),
    "half a body": Answer(200, b'{"id": "p1"', length=100),
    "half a document": Answer(200, b'{"id": "p1"'),
    "empty": Answer(200, b""),
    "list": Answer(200, b'[{"id": "p1"}]'),
    "null": Answer(200, b"null"),
    "NaN": Answer(200, b'{"price": NaN}'),
    "a number beyond all numbers": Answer(200, b'{"price": 1e999}'),
    "very deep": Answer(200, b"[" * 200_000),
    "no UTF-8": Answer(200, b'{"name": "\xff\xfe"}'),
    "broken gzip": Answer(200, b"{}", JSON | {"Content-Encoding": "gzip"}),
    "another entity": Answer(200, b'{"id": "p2"}'),
    "an entity without its id": Answer(200, b'{"id": null}'),
    "an enormous integer": Answer(200, b'{"id": 1' + b"0" * 5000 + b"}"),
}


@pytest.mark.parametrize("answer", UNDECIDED.values(), ids=UNDECIDED)
def test_anything_else_decides_nothing(source, fetcher, answer):
    answering(source, answer)

    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")

    assert caught.value.status in {answer.status, None}


def test_it_goes_on_after_every_such_answer_with_the_same_fetcher(source, fetcher):
    source.entities["p1"] = {"id": "p1"}
    for answer in UNDECIDED.values():
        answering(source, answer)
        with pytest.raises(FetchError):
            fetcher.fetch("p1")

        answering(source, None)
        assert fetcher.fetch("p1").value == {"id": "p1"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        (None, None),
        ("9" * 5000, None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_the_source_may_say_when_to_come_back(source, fetcher, value, seconds):
    answering(source, Answer(503, b"{}", JSON | ({"Retry-After": value} if value else {})))

    with pytest.raises(FetchError, match="503") as caught:
        fetcher.fetch("p1")

    assert caught.value.retry_after == seconds


def test_a_body_over_the_limit_is_refused_without_being_read_to_its_end(make, source):
    body = b'{"id": "p1", "x": "' + b"x" * (11 * 1024 * 1024) + b'"}'
    answering(source, Answer(200, body))

    with pytest.raises(FetchError, match="longer than 10485760 bytes"):
        make(source.url + "/{id}").fetch("p1")
    assert (
        len(make(source.url + "/{id}", max_bytes=len(body)).fetch("p1").value["x"])
        == 11 * 1024 * 1024
    )


def test_the_limit_is_that_of_the_decoded_body(make, source):
    answering(
        source,
        Answer(
            200,
            gzip.compress(b'{"x": "' + b"x" * 100_000 + b'"}'),
            JSON | {"Content-Encoding": "gzip"},
        ),
    )

    with pytest.raises(FetchError, match="longer than 90000 bytes"):
        make(source.url + "/{id}", max_bytes=90_000).fetch("p1")


def test_a_source_that_says_nothing_costs_no_more_than_the_timeout(make, source):
    source.gate.clear()
    started = time.monotonic()

    with pytest.raises(FetchError, match="timed out"):
        make(source.url + "/{id}", timeout=0.2).fetch("p1")

    assert 0.15 < time.monotonic() - started < 2
    source.gate.set()


def test_a_source_that_trickles_costs_no_more_than_twice_the_timeout(make, source):
    answering(source, Answer(200, b"{", length=200, chunks=[(0.05, b" ")] * 100))
    started = time.monotonic()

    with pytest.raises(FetchError, match=r"longer than 0.3 s|took longer"):
        make(source.url + "/{id}", timeout=0.3).fetch("p1")

    assert time.monotonic() - started < 2


def test_a_source_that_stalls_in_mid_body_decides_nothing(make, source):
    answering(source, Answer(200, b"{", length=200, chunks=[(3, b" ")]))
    started = time.monotonic()

    with pytest.raises(FetchError, match="broke off"):
        make(source.url + "/{id}", timeout=0.2).fetch("p1")

    assert time.monotonic() - started < 2


def test_nobody_there_decides_nothing(make, free_port):
    with pytest.raises(FetchError, match="refused"):
        make(f"http://127.0.0.1:{free_port}/{{id}}").fetch("p1")


def test_a_name_that_does_not_resolve_decides_nothing(make):
    with pytest.raises(FetchError, match=r"Name|resolve"):
        make("http://products.invalid/{id}").fetch("p1")


# Many at once


@pytest.fixture
def bulk(source):
    return HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many")


def answering_many(source, text, status=200, headers=JSON):
    source.answer_many = lambda ids: Answer(status, text.encode(), headers)


def test_many_are_asked_for_at_once(source, bulk):
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


def test_ids_are_added_to_the_query_that_is_there(source):
    with contextlib.suppress(FetchError):
        HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/all?view=full").fetch_many(
            ["p1", "p2"]
        )

    assert source.asked[0].path == "/all?view=full&id=p1&id=p2"


@given(ids=st.lists(USABLE, min_size=1, max_size=5, unique=True))
@example(ids=["a&id=b", "c#d", "e=f+g%", "../../admin"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_id_never_changes_what_else_is_asked(source, bulk, ids):
    source.asked_many.clear()

    assert bulk.fetch_many(ids) == {}

    assert source.asked_many == [ids]


def test_ids_that_can_not_be_asked_for_are_left_out(source, bulk):
    source.entities["p1"] = {"id": "p1"}

    assert bulk.fetch_many(["..", "p1", ""]) == {"p1": Found({"id": "p1"})}
    assert source.asked_many == [["p1"]]
    assert bulk.fetch_many(["..", ""]) == {}
    assert len(source.asked) == 1


def test_more_ids_than_a_url_may_hold_take_several_gets(source, bulk):
    ids = [f"{number:0500}" for number in range(50)]
    source.entities |= {id: {"id": id} for id in ids}

    found = bulk.fetch_many(ids)

    assert list(found) == ids
    assert source.asked_many == [ids[:15], ids[15:30], ids[30:45], ids[45:]]
    whole = len(source.url) + len(source.asked[0].path)
    assert whole <= 8000 < whole + len(f"&id={ids[15]}")


def test_a_url_of_just_the_length_is_asked(source):
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
def test_what_an_array_does_not_plainly_say_is_undecided(source, bulk, answer, found):
    answering_many(source, answer)

    assert list(bulk.fetch_many(["p1", "p2", "7"])) == found


UNDECIDED_MANY = UNDECIDED | {
    "an object": Answer(200, b'{"id": "p1"}'),
    "a page": Answer(200, b'{"items": [{"id": "p1"}]}'),
    "NaN in one": Answer(200, b'[{"id": "p1"}, {"id": "p2", "price": NaN}]'),
    "beyond all numbers in one": Answer(200, b'[{"id": "p1"}, {"id": "p2", "price": 1e999}]'),
    "HTML": Answer(200, b'[{"id": "p1"}]', HTML),
    "half an array": Answer(200, b'[{"id": "p1"}', length=100),
    "404": Answer(404, b'{"detail": "no such route"}'),
    "410": Answer(410),
    "partial": Answer(206, b'[{"id": "p1"}]'),
}
del UNDECIDED_MANY["list"]


@pytest.mark.parametrize("answer", UNDECIDED_MANY.values(), ids=UNDECIDED_MANY)
def test_any_other_answer_to_many_decides_nothing(source, bulk, answer):
    source.entities["p1"] = {"id": "p1"}
    source.answer_many = lambda ids: answer

    with pytest.raises(FetchError) as caught:
        bulk.fetch_many(["p1", "p2"])

    assert caught.value.status in {answer.status, None}
    source.answer_many = lambda ids: None
    assert bulk.fetch_many(["p1"]) == {"p1": Found({"id": "p1"})}  # by the same fetcher


def test_who_answers_many_may_say_when_to_come_back(source, bulk):
    answering_many(source, "{}", 503, JSON | {"Retry-After": "7"})

    with pytest.raises(FetchError, match=r"/many answered 503") as caught:
        bulk.fetch_many(["p1"])

    assert (caught.value.status, caught.value.retry_after) == (503, 7.0)


def test_limits_hold_for_many(source):
    settings = {"bulk_url": source.url + "/many", "timeout": 0.2, "max_bytes": 1000}
    fetcher = HTTPFetcher(source.url + "/{id}", **settings)
    source.entities["p1"] = {"id": "p1", "x": "x" * 1000}

    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        fetcher.fetch_many(["p1"])
    source.gate.clear()
    with pytest.raises(FetchError, match="timed out"):
        fetcher.fetch_many(["p1"])
    source.gate.set()


def test_headers_are_asked_for_each_time_for_many_too(source):
    tokens = iter(["one", "two"])
    fetcher = HTTPFetcher(
        source.url + "/{id}",
        bulk_url=source.url + "/many",
        headers=lambda: {"Authorization": next(tokens)},
    )

    for _ in range(2):
        fetcher.fetch_many(["p1"])

    assert [asked.headers["Authorization"] for asked in source.asked] == ["one", "two"]


def test_without_a_bulk_url_there_is_no_bulk():
    fetcher = HTTPFetcher("https://products.example.com/{id}")

    assert fetcher.bulk_size == 1
    with pytest.raises(ConfigurationError, match="bulk_url="):
        fetcher.fetch_many(["p1"])


def test_how_many_is_a_setting():
    url = "https://products.example.com"

    assert HTTPFetcher(url + "/{id}", bulk_url=url).bulk_size == 50
    assert (
        HTTPFetcher(url + "/{id}", bulk_url="http://elsewhere:8000/?x=1", bulk_size=7).bulk_size
        == 7
    )


# Redirects


@pytest.mark.parametrize("location", ["/products/p1/", "/login", "p2", "http://[half"])
def test_a_redirect_is_not_followed_but_told(source, fetcher, location):
    answering(source, Answer(302, b"", {"Location": location}))

    with pytest.raises(
        FetchError, match=r"302: it is at .*put it into HTTPFetcher\(url\)"
    ) as caught:
        fetcher.fetch("p1")

    assert location in str(caught.value)
    assert len(source.asked) == 1


def test_another_host_is_never_asked(source, fetcher):
    with serving(Source()) as other:
        other.entities["p1"] = {"id": "p1"}
        answering(source, Answer(302, b"", {"Location": other.url + "/products/p1"}))

        with pytest.raises(FetchError, match=r"put it into HTTPFetcher\(url\)"):
            fetcher.fetch("p1")

        assert other.asked == []


# Connections


def test_threads_keep_their_connections(source, fetcher, caplog):
    source.entities["p1"] = {"id": "p1"}
    meet = threading.Barrier(20)

    def fetch_twice():
        for _ in range(2):
            meet.wait()
            fetcher.fetch("p1")

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(fetch_twice) for _ in range(20)]:
            future.result()

    assert len(source.asked) == 40
    assert len({asked.connection for asked in source.asked}) <= 20
    assert "discarding" not in caplog.text


def test_a_connection_that_the_source_has_just_closed_is_no_failure(source, fetcher):
    source.entities["p1"] = {"id": "p1"}
    answers = iter([None, HANG_UP])
    source.answer = lambda id: next(answers, None)

    assert [fetcher.fetch("p1").value for _ in range(2)] == [{"id": "p1"}] * 2
    assert len(source.asked) == 3


def test_a_source_that_keeps_hanging_up_decides_nothing(source, fetcher):
    source.entities["p1"] = {"id": "p1"}
    fetcher.fetch("p1")
    answering(source, HANG_UP)

    with pytest.raises(FetchError, match="without response"):
        fetcher.fetch("p1")
    assert len(source.asked) == 1 + 2


def test_what_comes_after_an_answer_is_no_answer_to_the_next_get(make):
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    unasked = (
        head % (b"404 Not Found", 2) + b"{}"
    ) * 2000  # far more than is read together with the answer before it
    answers = iter(
        [
            head % (b"304 Not Modified", len(unasked)) + unasked,
            head % (b"200 OK", 12) + b'{"id": "p2"}',
        ]
    )
    with RawServer(lambda _: Raw(next(answers), keep=True)) as server:
        fetcher = make(server.url + "/{id}")

        assert fetcher.fetch("p1", etag='"7"') == Unchanged()
        assert fetcher.fetch("p2") == Found({"id": "p2"})


def test_nor_is_what_comes_after_an_interim_answer(make, source):
    source.entities["p2"] = {"id": "p2"}
    gone = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    source.answer = lambda id: Answer(103, chunks=[(0.3, gone)]) if id == "p1" else None
    fetcher = make(source.url + "/{id}")

    with pytest.raises(FetchError, match="answered 103"):
        fetcher.fetch("p1")
    assert fetcher.fetch("p2").value == {"id": "p2"}


def test_nor_is_what_was_decrypted_already(authority, look_up, monkeypatch):
    certificate, server = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%b\r\n"
    one_record = head % (b"304 Not Modified", b"") + b"x" * 12_000
    answers = iter([one_record, head % (b"200 OK", b"Content-Length: 12\r\n") + b'{"id": "p2"}'])
    with RawServer(
        lambda _: Raw(next(answers), keep=True), tls=server("products.example")
    ) as source:
        look_up["products.example"] = port = source.url.rpartition(":")[2]
        fetcher = HTTPFetcher(f"https://products.example:{port}/{{id}}")

        assert fetcher.fetch("p1", etag='"7"') == Unchanged()
        assert fetcher.fetch("p2") == Found({"id": "p2"})


def test_what_is_no_answer_is_not_repeated(make):
    with (
        RawServer(lambda _: Raw(b'{"id": "p1", "secret": 7}\r\n\r\n')) as server,
        pytest.raises(FetchError) as caught,
    ):
        make(server.url + "/{id}").fetch("p1")

    assert "what came is no answer" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_source_may_be_named_by_its_address(make, source, look_up):
    source.entities["p1"] = {"id": "p1"}
    look_up["::1"] = port = source.url.rpartition(":")[2]

    assert make(f"http://[::1]:{port}/{{id}}").fetch("p1").value == {"id": "p1"}
    assert source.asked[0].headers["Host"] == f"[::1]:{port}"


def test_a_connection_that_the_source_closes_is_not_kept(source):
    fetcher = HTTPFetcher(source.url + "/{id}")
    answering(source, Answer(200, b'{"id": "p1"}', JSON | {"Connection": "close"}))

    assert fetcher.fetch("p1") == Found({"id": "p1"})
    assert fetcher._one.transport._idle == []


def test_connections_are_closed_when_nobody_has_the_fetcher_any_more(source):
    fetcher = HTTPFetcher(source.url + "/{id}")
    fetcher.fetch("p1")
    (connection,) = fetcher._one.transport._idle

    del fetcher

    assert connection.sock is None


def test_a_source_is_who_it_says_it_is(authority, look_up, monkeypatch):
    certificate, server = authority
    source = Source()
    source.entities["p1"] = {"id": "p1"}
    with serving(source, server("products.example")):
        port = source.url.rpartition(":")[2]
        url = f"https://products.example:{port}/{{id}}"
        look_up["products.example"] = look_up["other.example"] = port

        with pytest.raises(FetchError, match="certificate"):
            HTTPFetcher(url).fetch("p1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert HTTPFetcher(url).fetch("p1").value == {"id": "p1"}
        with pytest.raises(FetchError, match="certificate"):
            HTTPFetcher(url.replace("products", "other")).fetch("p1")
    assert len(source.asked) == 1


def test_a_pool_of_ones_own_is_used(source):
    pool = urllib3.PoolManager(headers={"User-Agent": "mine"})
    source.entities["p1"] = {"id": "p1"}

    HTTPFetcher(source.url + "/{id}", pool=pool).fetch("p1")

    assert len(pool.pools) == 1
    pool.clear()


# Settings


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://products.example.com/products", r"has no \{id\}"),
        ("https://{id}.example.com/products", r"has no \{id\}"),
        ("https://{id}.example.com/products/{id}", r"has no \{id\}"),
        ("https://products.example.com/#{id}", r"has no \{id\}"),
        ("ftp://products.example.com/{id}", "no http"),
        ("products.example.com/{id}", "no http"),
        ("https:///{id}", "no http"),
        ("", "no http"),
        ("https://products.example.com:port/{id}", "no URL"),
        ("https://user:secret@products.example.com/{id}", "takes no password in the URL"),
    ],
)
def test_a_url_that_can_name_no_entity_is_refused(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        HTTPFetcher(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://products.example.com/products/{id}", "no http"),
        ("https://products.example.com/#top", "no http"),
        ("https://products.example.com/#", "no http"),
        ("ftp://products.example.com/", "no http"),
        ("products.example.com", "no http"),
        ("https:///products", "no http"),
        ("", "no http"),
        ("https://user:secret@products.example.com/", "takes no password in the URL"),
    ],
)
def test_a_bulk_url_that_takes_no_ids_is_refused(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        HTTPFetcher("https://products.example.com/{id}", bulk_url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1001, 2.5, None, "50"])
def test_how_many_has_its_limits(size):
    with pytest.raises(ConfigurationError, match="bulk_size must be an integer from 1 to 1000"):
        HTTPFetcher("https://products.example.com/{id}", bulk_size=size)


@pytest.mark.parametrize("setting", [{"timeout": 0}, {"timeout": -1.0}, {"max_bytes": 0}])
def test_limits_must_be_positive(setting):
    with pytest.raises(ConfigurationError, match="must be positive"):
        HTTPFetcher("https://products.example.com/{id}", **setting)
