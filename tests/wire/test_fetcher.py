"""HTTPFetcher, with real HTTP: what it asks, and which answers decide something."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import tracemalloc
import zlib
from unicodedata import category
from urllib.parse import unquote

import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

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
from fetching import HTML, JSON, TRANSPORTS, UNDECIDED, answering, answering_raw
from id_samples import UNUSABLE, USABLE
from verification.harness.wire import Answer, Raw, RawServer


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


@pytest.fixture
def fetcher(make, source):
    return make(source.url + "/products/{id}")


# Requests


def test_a_get_asks_for_a_fresh_answer_in_json(source, fetcher):
    source.entities["p1"] = {"id": "p1"}

    fetcher.fetch("p1")

    (asked,) = source.asked
    assert asked.path == "/products/p1"
    assert asked.headers["Accept"] == "application/json"
    assert asked.headers["Cache-Control"] == "no-cache"
    assert asked.headers["Accept-Encoding"] == "gzip"
    assert "If-None-Match" not in asked.headers


def test_a_get_with_an_etag_asks_for_changes_only(source, fetcher):
    source.entities["p1"] = {"id": "p1"}
    found = fetcher.fetch("p1")

    assert fetcher.fetch("p1", etag=found.etag) == Unchanged()
    source.entities["p1"] = {"id": "p1", "name": "new"}
    assert fetcher.fetch("p1", etag=found.etag).value == {"id": "p1", "name": "new"}


def test_a_conditional_get_can_be_answered_by_304_of_a_framework_that_heeds_no_cache(
    source, fetcher
):
    """Express answers 200 to every GET that says `no-cache`, whatever its `ETag`."""

    def express(asked):
        fresh = "no-cache" not in asked.headers["Cache-Control"]
        return Answer(304) if fresh and asked.headers.get("If-None-Match") == '"7"' else None

    respond, source.respond = source.respond, lambda asked: express(asked) or respond(asked)
    source.entities["p1"] = {"id": "p1"}

    assert fetcher.fetch("p1", etag='"7"') == Unchanged()
    assert fetcher.fetch("p1").value == {"id": "p1"}


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
def test_the_id_in_a_message_becomes_exactly_one_segment_of_the_path(
    source, fetcher, id, ascii, enveloped
):
    """Or the message is refused. `--hypothesis-profile=many` tries ten thousand messages."""
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
def test_an_id_never_changes_the_rest_of_the_path_or_the_query(source, id):
    fetcher = HTTPFetcher(source.url + "/v1/products/{id}?view=full")
    source.asked.clear()

    fetcher.fetch(id)

    (asked,) = source.asked
    path, _, query = asked.path.partition("?")
    assert path.rpartition("/")[0] == "/v1/products"
    assert query == "view=full"
    assert urllib3.util.parse_url(asked.path).path.count("/") == 3


@pytest.mark.parametrize("id", [value for value, _ in UNUSABLE.values() if isinstance(value, str)])
def test_an_unusable_id_is_not_asked_for(source, fetcher, id):
    with pytest.raises(FetchError):
        fetcher.fetch(id)

    assert source.asked == []


def test_the_id_can_be_in_the_query(source):
    source.answer = lambda path: Answer(body=b'{"id": "a&b=c/d"}')

    HTTPFetcher(source.url + "/products?id={id}").fetch("a&b=c/d")

    assert source.asked[0].path == "/products?id=a%26b%3Dc%2Fd"


# Answers that decide something


def test_a_200_with_an_object_is_the_entity(source, fetcher):
    answering(
        source, Answer(body=b'{"id": "p1", "name": "\\u00fc"}', headers=JSON | {"ETag": 'W/"7"'})
    )

    assert fetcher.fetch("p1") == Found({"id": "p1", "name": "ü"}, 'W/"7"')


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON ; charset=utf-8", "application/hal+json"]
)
def test_every_json_media_type_is_accepted(source, fetcher, media_type):
    answering(source, Answer(body=b'{"id": "p1"}', headers={"Content-Type": media_type}))

    assert fetcher.fetch("p1") == Found({"id": "p1"})


def test_a_gzip_body_is_decoded(source, fetcher):
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
def test_410_and_a_404_that_is_not_html_mean_gone(source, fetcher, answer):
    answering(source, answer)

    assert fetcher.fetch("p1") == Gone()


@pytest.mark.parametrize(
    "types",
    [["text/html"] * 2, ["application/json", "Text/HTML; x=y"], ["text/html", "text/plain"]],
)
def test_a_404_with_html_among_its_media_types_is_not_believed(make, types):
    """A proxy can add a Content-Type to the service's own."""
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
def test_a_200_is_an_entity_only_if_all_its_media_types_are_json(make, types, is_json):
    headers = [f"Content-Type: {one}".encode() for one in types]
    refused = contextlib.nullcontext() if is_json else pytest.raises(FetchError, match="not JSON")

    with answering_raw(make, b"200 OK", *headers) as fetcher, refused:
        assert fetcher.fetch("p1") == Found({"id": "p1"})


@pytest.mark.parametrize("broken", [b"no header", b"X Y: z", b"\xff: x", b"Content-Length : 2"])
def test_a_404_with_a_malformed_header_is_not_believed(make, broken):
    """Python stops reading headers at that line: the media type and the length can be lost."""
    headers = [broken, b"Content-Type: text/html"]

    with (
        answering_raw(make, b"404 Not Found", *headers) as fetcher,
        pytest.raises(FetchError, match="404"),
    ):
        fetcher.fetch("p1")


@pytest.mark.parametrize("length", [b"13\r\n folded", b"x", b"-1", b"", b"12.0"])
def test_a_body_whose_length_is_not_a_number_is_not_believed(make, length):
    """It may have been cut off."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    text = head + b"Content-Length: " + length + b'\r\n\r\n{"id": "p1"}'
    with (
        RawServer(lambda _: Raw(text)) as server,
        pytest.raises(FetchError, match="a Content-Length that is not a number") as caught,
    ):
        make(server.url + "/{id}").fetch("p1")

    assert caught.value.status is None


@pytest.mark.parametrize(
    "fetch", [lambda fetcher: fetcher.fetch("p1"), lambda fetcher: fetcher.fetch_many(["p1"])]
)
def test_a_200_with_a_malformed_header_is_not_believed(make, fetch):
    headers = [b"Content-Type: application/json", b"X Y: z", b"Content-Type: text/html"]

    with (
        answering_raw(make, b"200 OK", *headers) as fetcher,
        pytest.raises(FetchError, match="200, with a malformed header"),
    ):
        fetch(fetcher)


def test_is_gone_decides_which_404_to_believe(make, source):
    def is_gone(headers, body):
        return (
            headers["content-type"].startswith("application/json")
            and json.loads(body)["detail"] == "no such product"
        )

    fetcher = make(source.url + "/{id}", is_gone=is_gone)

    assert fetcher.fetch("p1") == Gone()
    answering(source, Answer(404, b'{"detail": "no such route"}'))
    with pytest.raises(FetchError, match="/p1 answered 404: is_gone= does not believe it"):
        fetcher.fetch("p1")


def test_the_error_for_a_404_as_html_says_that_it_is_not_believed(source, fetcher):
    """Flask, Django, Express and nginx answer a deleted entity like this by default."""
    answering(source, Answer(404, b"<h1>Not Found</h1>", HTML))

    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")

    assert str(caught.value) == (
        f"GET {source.url}/products/p1 answered 404: "
        "a 404 as text/html is not believed; see is_gone="
    )


def test_an_is_gone_that_raises_decides_nothing(make, source):
    fetcher = make(source.url + "/{id}", is_gone=lambda _, body: json.loads(body)["code"] == "gone")
    answering(source, Answer(404, b'{"detail": "secret"}'))

    with pytest.raises(
        FetchError, match=r"^GET http.* answered 404, and is_gone= raised KeyError"
    ) as caught:
        fetcher.fetch("p1")

    assert caught.value.status == 404
    assert isinstance(caught.value.__cause__, KeyError)
    assert "secret" not in str(caught.value)


# Answers that decide nothing


@pytest.mark.parametrize("answer", UNDECIDED.values(), ids=UNDECIDED)
def test_any_other_answer_decides_nothing(source, fetcher, answer):
    answering(source, answer)

    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")

    assert caught.value.status in {answer.status, None}


def test_a_fetcher_still_works_after_each_answer_that_decides_nothing(source, fetcher):
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
def test_retry_after_is_passed_on_in_seconds(source, fetcher, value, seconds):
    answering(source, Answer(503, b"{}", JSON | ({"Retry-After": value} if value else {})))

    with pytest.raises(FetchError, match="503") as caught:
        fetcher.fetch("p1")

    assert caught.value.retry_after == seconds


def test_a_body_longer_than_max_bytes_is_refused(make, source):
    body = b'{"id": "p1", "x": "' + b"x" * (11 * 1024 * 1024) + b'"}'
    answering(source, Answer(200, body))

    with pytest.raises(FetchError, match="longer than 10485760 bytes"):
        make(source.url + "/{id}").fetch("p1")
    assert (
        len(make(source.url + "/{id}", max_bytes=len(body)).fetch("p1").value["x"])
        == 11 * 1024 * 1024
    )


def test_max_bytes_limits_the_decoded_body(make, source):
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


def test_a_refused_connection_decides_nothing(make, free_port):
    with pytest.raises(FetchError, match="refused"):
        make(f"http://127.0.0.1:{free_port}/{{id}}").fetch("p1")


def test_a_name_that_does_not_resolve_decides_nothing(make):
    with pytest.raises(FetchError, match=r"Name|resolve"):
        make("http://products.invalid/{id}").fetch("p1")


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "nonsense\x1b[0m"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_content_coding_that_nobody_asked_for_is_refused_by_name(source, fetcher, coding, status):
    answering(source, Answer(status, b"{}", JSON | {"Content-Encoding": coding}))

    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")

    assert f"content coding {coding!r}, and the request asked for gzip" in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity", ""])
def test_gzip_and_no_coding_are_accepted_in_any_spelling(source, fetcher, coding):
    plain = b'{"id": "p1"}'
    body = gzip.compress(plain) if "g" in coding.lower() else plain
    answering(source, Answer(200, body, JSON | {"Content-Encoding": coding}))

    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_a_body_that_is_not_gzip_is_the_entity_s_own_failure(source, fetcher):
    """All of it has come, so the source is not down."""
    answering(source, Answer(200, b'{"id": "p1"}', JSON | {"Content-Encoding": "gzip"}))

    with pytest.raises(FetchError, match="the body is not gzip") as caught:
        fetcher.fetch("p1")

    assert caught.value.status == 200


def test_a_decompression_bomb_needs_little_memory(make, source):
    compress = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024 * 1024)
    bomb = b"".join([*(compress.compress(zeros) for _ in range(300)), compress.flush()])
    answering(source, Answer(200, bomb, JSON | {"Content-Encoding": "gzip"}))
    fetcher = make(source.url + "/{id}", max_bytes=len(zeros))

    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match="longer than 1048576 bytes"):
            fetcher.fetch("p1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * len(zeros)


# ETags


@pytest.mark.parametrize(
    "etag", ['"7"', 'W/"7"', '""', '"a,b\\c"', '"\xfc"', '"' + "x" * 1022 + '"']
)
def test_an_etag_of_rfc_9110_is_kept_and_sent_again(source, fetcher, etag):
    answering(source, Answer(200, b'{"id": "p1"}', JSON | {"ETag": etag}))

    assert fetcher.fetch("p1").etag == etag
    fetcher.fetch("p1", etag=etag)

    assert source.asked[1].headers["If-None-Match"] == etag


@pytest.mark.parametrize(
    "etag", ["7", 'w/"7"', '"7', '"7" "8"', '"a"b"', "*", '"7", "8"', '"' + "x" * 1023 + '"', ""]
)
def test_an_etag_that_is_none_is_neither_kept_nor_sent(source, fetcher, etag):
    answering(source, Answer(200, b'{"id": "p1"}', JSON | {"ETag": etag}))

    assert fetcher.fetch("p1") == Found({"id": "p1"})
    fetcher.fetch("p1", etag=etag)

    assert "If-None-Match" not in source.asked[1].headers


def test_a_304_to_an_etag_that_was_not_sent_decides_nothing(source, fetcher):
    answering(source, Answer(304))

    with pytest.raises(FetchError, match="304"):
        fetcher.fetch("p1", etag="7")


def test_etags_are_not_trusted_unless_the_user_says_so():
    url = "https://products.example.com/{id}"

    assert HTTPFetcher(url).trust_etags is False
    assert HTTPFetcher(url, trust_etags=True).trust_etags is True


def test_a_fetcher_shows_the_url_that_it_asks():
    url = "https://products.example.com/products/{id}"

    assert repr(HTTPFetcher(url, headers={"Authorization": "secret"})) == f"HTTPFetcher({url!r})"


# Redirects


@pytest.mark.parametrize("location", ["/products/p1/", "/login", "p2", "http://[half"])
def test_a_redirect_is_reported_and_not_followed(source, fetcher, location):
    answering(source, Answer(302, b"", {"Location": location}))

    with pytest.raises(
        FetchError, match=r"302: it is at .*put it into HTTPFetcher\(url\)"
    ) as caught:
        fetcher.fetch("p1")

    assert location in str(caught.value)
    assert len(source.asked) == 1


def test_an_answer_can_be_had_whatever_it_says(source, fetcher):
    source.answer = lambda id: Answer(503, id.encode())

    answer = fetcher.answer("a/b")

    assert (answer.status, answer.body) == (503, b"a/b")


def test_a_redirect_to_another_host_sends_no_request_there(source, fetcher):
    with serving(Source()) as other:
        other.entities["p1"] = {"id": "p1"}
        answering(source, Answer(302, b"", {"Location": other.url + "/products/p1"}))

        with pytest.raises(FetchError, match=r"put it into HTTPFetcher\(url\)"):
            fetcher.fetch("p1")

        assert other.asked == []


# Settings


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://products.example.com/products", r"has no \{id\}"),
        ("https://{id}.example.com/products", r"has no \{id\}"),
        ("https://{id}.example.com/products/{id}", r"has no \{id\}"),
        ("https://products.example.com/#{id}", r"has no \{id\}"),
        ("ftp://products.example.com/{id}", "not an http"),
        ("products.example.com/{id}", "not an http"),
        ("https:///{id}", "not an http"),
        ("", "not an http"),
        ("https://products.example.com:port/{id}", "not a URL"),
        ("https://user:secret@products.example.com/{id}", "must not have a password in the URL"),
        ("ftp://user:secret@products.example.com/{id}", "must not have a password in the URL"),
    ],
)
def test_a_url_that_can_not_name_an_entity_is_refused(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        HTTPFetcher(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": math.inf},
        {"timeout": math.nan},
        {"max_bytes": 0},
    ],
)
def test_timeout_and_max_bytes_must_be_positive(setting):
    with pytest.raises(ConfigurationError, match="must be positive"):
        HTTPFetcher("https://products.example.com/{id}", **setting)
    HTTPFetcher("https://products.example.com/{id}", max_bytes=1)
