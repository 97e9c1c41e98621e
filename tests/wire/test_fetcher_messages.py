"""What HTTPFetcher's errors say, word for word: they are all that a user sees of an answer."""

from __future__ import annotations

import time

import pytest

from change_events import ConfigurationError, FetchError, Found, HTTPFetcher
from change_events._ids import checked_id
from change_events._source.http import seconds_left, text_of
from fetching import HTML, JSON, TRANSPORTS, answering
from verification.harness.wire import HANG_UP, Answer, Raw, RawServer

STORED = "answered JSON that can't be stored as it came"
ITS_KEYS = ", ".join(f"'key{number}'" for number in range(20))[:80]

SINGLE = {
    "500": (Answer(500, b"{}"), " answered 500"),
    "a location without a redirect": (
        Answer(500, b"", {"Location": "/elsewhere"}),
        " answered 500",
    ),
    "redirect": (
        Answer(302, b"", {"Location": "/login"}),
        " answered 302: it is at '/login'. If that is right, put it into HTTPFetcher(url)",
    ),
    "HTML": (Answer(200, b"", HTML), " answered 'text/html', not JSON"),
    "two media types": (
        Answer(200, b"", {"Content-Type": "text/html, application/json"}),
        " answered 'text/html, application/json', not JSON",
    ),
    "no media type": (Answer(200, b"{}", {}), " answered no media type, not JSON"),
    "a list": (Answer(200, b"[]"), " answered a JSON list, not an object"),
    "NaN": (Answer(200, b'{"n": NaN}'), f" {STORED}: NaN is not JSON (RFC 8259, 6)"),
    "a number that is too large": (
        Answer(200, b'{"n": 1e400}'),
        f" {STORED}: 1e400 is too large for a float, and SQL could not read it",
    ),
    "a number with too many digits": (
        Answer(200, b'{"n": 9007199254740993.0}'),
        (
            f" {STORED}: a float would change the number 9007199254740993.0 to 9007199254740992.0; "
            "the source should send it as text, or with fewer digits"
        ),
    ),
    "a number with 16 digits, and 15 are safe": (
        Answer(200, b'{"n": 900719925474099.3}'),
        (
            f" {STORED}: a float would change the number 900719925474099.3 to 900719925474099.2; "
            "the source should send it as text, or with fewer digits"
        ),
    ),
    "no id": (
        Answer(200, b"{%s}" % b", ".join(b'"key%d": 1' % number for number in range(20))),
        f" answered an object without an id, by id_of='id'; its keys are [{ITS_KEYS}]",
    ),
    "an id that is true": (
        Answer(200, b'{"id": true}'),
        " answered True where id_of='id' says that an id is",
    ),
    "another coding": (
        Answer(200, b"{}", JSON | {"Content-Encoding": "br"}),
        ": the body has the content coding 'br', and the request asked for gzip",
    ),
    "broken gzip": (
        Answer(200, b"{}", JSON | {"Content-Encoding": "gzip"}),
        ": the body is not gzip",
    ),
    "a long body": (Answer(200, b"x" * 1001), ": the body is longer than 1000 bytes"),
    "a long body in gzip": (
        Answer(200, b"x" * 1001, JSON | {"Content-Encoding": "identity"}),
        ": the body is longer than 1000 bytes",
    ),
}


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


@pytest.mark.parametrize(("answer", "text"), SINGLE.values(), ids=SINGLE)
def test_the_error_for_an_answer_says_what_is_wrong_with_it(make, source, answer, text):
    answering(source, answer)

    with pytest.raises(FetchError) as caught:
        make(source.url + "/{id}?token=secret", max_bytes=1000).fetch("p1")

    assert str(caught.value) == f"GET {source.url}/p1{text}"
    assert (caught.value.status, caught.value.retry_after) == (answer.status, None)


MANY = {
    "an object": (Answer(200, b"{}"), " answered a JSON dict, not an array"),
    "NaN": (Answer(200, b"[NaN]"), f" {STORED}: NaN is not JSON (RFC 8259, 6)"),
    "HTML": (Answer(200, b"", HTML), " answered 'text/html', not JSON"),
    "404": (Answer(404, b"{}"), " answered 404"),
}


@pytest.mark.parametrize(("answer", "text"), MANY.values(), ids=MANY)
def test_the_error_for_a_bulk_answer_says_what_is_wrong_with_it(source, answer, text):
    source.answer_many = lambda ids: answer

    with pytest.raises(FetchError) as caught:
        HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many").fetch_many(["p1"])

    assert str(caught.value) == f"GET {source.url}/many{text}"
    assert caught.value.status == answer.status


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

BROKEN = {
    "a malformed header": (HEAD + b"no header\r\n\r\n", " answered 200, with a malformed header"),
    "no number as length": (
        HEAD + b"Content-Length: x\r\n\r\n",
        ": the body has a Content-Length that is not a number",
    ),
    "not HTTP": (b"SSH-2.0 secret\r\n\r\n", ": the response is not HTTP"),
}


@pytest.mark.parametrize(("text", "says"), BROKEN.values(), ids=BROKEN)
def test_the_error_for_a_broken_answer_says_what_is_wrong_with_it(make, text, says):
    with RawServer(lambda _: Raw(text)) as server, pytest.raises(FetchError) as caught:
        make(server.url + "/{id}").fetch("p1")

    assert str(caught.value) == f"GET {server.url}/p1{says}"


def test_the_error_for_a_body_that_breaks_off_says_how_much_of_it_is_missing(source):
    answering(source, Answer(200, b'{"id": ', length=100))

    with pytest.raises(FetchError) as caught:
        HTTPFetcher(source.url + "/{id}").fetch("p1")

    assert str(caught.value) == f"GET {source.url}/p1: the body broke off, 93 bytes before its end"


def test_the_error_for_a_connection_that_is_closed_names_the_get(make, source):
    answering(source, HANG_UP)

    with pytest.raises(FetchError) as caught:
        make(source.url + "/{id}").fetch("p1")

    assert str(caught.value).startswith(f"GET {source.url}/p1: ")
    assert "Remote end closed connection without response" in str(caught.value)
    assert caught.value.status is None


SETTINGS = {
    "a host alone": (
        {"url": "products"},
        (
            "'products' is not an http(s) URL; "
            "write it like https://products.example.com/products/{id}"
        ),
    ),
    "no id": (
        {"url": "http://a/"},
        "'http://a/' has no {id} in its path or query, so it can't name an entity",
    ),
    "a password": (
        {"url": "http://a:b@c/{id}"},
        (
            "HTTPFetcher(url) must not have a password in the URL; "
            "give an Authorization header in headers="
        ),
    ),
    "a bulk URL with an id": (
        {"bulk_url": "http://a/{id}"},
        (
            "'http://a/{id}' is not an http(s) URL that ?id=a&id=b can be added to; "
            "write bulk_url like https://products.example.com/products"
        ),
    ),
    "a bulk URL with a password": (
        {"bulk_url": "http://a:b@c/"},
        (
            "HTTPFetcher(bulk_url=) must not have a password in the URL; "
            "give an Authorization header in headers="
        ),
    ),
    "timeout": ({"timeout": 0}, "timeout and max_bytes must be positive, not 0 and 10485760"),
    "max_bytes": ({"max_bytes": 0}, "timeout and max_bytes must be positive, not 5.0 and 0"),
    "bulk_size": ({"bulk_size": 0}, "bulk_size must be an integer from 1 to 1000, not 0"),
    "no id_of": (
        {"bulk_url": "http://a/", "id_of": None},
        "bulk_url= needs id_of=, to know which entity is which",
    ),
    "id_of": (
        {"id_of": ""},
        "id_of= must be a path, like 'id' or 'data.id', a callable or None, not ''",
    ),
    "headers": ({"headers": []}, "headers= must give a mapping, not list"),
    "a name": (
        {"headers": {"X-Token: secret": "x"}},
        "headers= has a name that is not a header's: it begins with 'X-Token'",
    ),
    "no name": (
        {"headers": {None: "x"}},
        "headers= has a name that is not a header's: it is of type NoneType",
    ),
    "no value": (
        {"headers": {"X": None}},
        "headers= must give text as the value of 'X', not NoneType",
    ),
    "a line break": (
        {"headers": {"X": "secret\n"}},
        (
            "headers= gives 'X' a value that no header can have: it has a line break, "
            "another control character, or a character outside of Latin-1"
        ),
    ),
}


@pytest.mark.parametrize(("settings", "text"), SETTINGS.values(), ids=SETTINGS)
def test_the_error_for_a_setting_says_what_is_wrong_with_it(settings, text):
    with pytest.raises(ConfigurationError) as caught:
        HTTPFetcher(**{"url": "https://products.example.com/{id}"} | settings)

    assert str(caught.value) == text


def test_the_error_for_a_url_that_can_not_be_parsed_quotes_it():
    with pytest.raises(ConfigurationError) as caught:
        HTTPFetcher("http://a:b/{id}")

    assert str(caught.value).startswith("'http://a:b/{id}' is not a URL: Failed to parse")


def test_the_error_for_a_bulk_get_without_a_url_for_it_names_the_setting():
    with pytest.raises(ConfigurationError) as caught:
        HTTPFetcher("http://a/{id}").fetch_many(["p1"])

    assert str(caught.value) == "HTTPFetcher needs bulk_url= to GET many ids at once"


def test_a_user_agent_names_the_library(make, source):
    source.entities["p1"] = {"id": "p1"}

    make(source.url + "/{id}").fetch("p1")

    assert source.asked[0].headers["User-Agent"] == "change-events"


def test_a_slash_in_an_id_is_encoded_in_the_query_of_a_bulk_get(source):
    HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many").fetch_many(["a/b"])

    assert source.asked[0].path == "/many?id=a%2Fb"


def test_an_error_without_a_text_is_shown_by_its_type():
    assert text_of(OSError()) == "OSError"
    assert text_of(OSError("no route")) == "no route"


def test_a_length_beside_chunks_does_not_count(make):
    """RFC 9112, 6.3."""
    text = HEAD + b'Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\nc\r\n{"id": "p1"}\r\n0'
    with RawServer(lambda _: Raw(text + b"\r\n\r\n")) as server:
        assert make(server.url + "/{id}").fetch("p1") == Found({"id": "p1"})


def test_the_error_for_an_id_that_no_url_can_have_says_why():
    with pytest.raises(ValueError, match="id") as reason:
        checked_id("..")
    with pytest.raises(FetchError) as caught:
        HTTPFetcher("http://a/{id}").fetch("..")

    assert str(caught.value) == str(reason.value)


def test_two_lengths_that_differ_are_refused(make):
    """RFC 9112, 6.3."""
    text = HEAD + b'Content-Length: 12\r\nContent-Length: 13\r\n\r\n{"id": "p1"}'
    with (
        RawServer(lambda _: Raw(text)) as server,
        pytest.raises(FetchError, match="Content-Length"),
    ):
        make(server.url + "/{id}").fetch("p1")


def test_a_deadline_that_is_over_is_a_timeout():
    with pytest.raises(TimeoutError) as caught:
        seconds_left(time.monotonic() - 1)

    assert str(caught.value) == "timed out"
