"""HTTPFetcher's connections: kept, reused, closed, and never out of step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from change_events import FetchError, Found, HTTPFetcher, Unchanged
from conftest import Source, serving
from fetching import JSON, TRANSPORTS, answering
from verification.harness.wire import HANG_UP, Answer, Raw, RawServer


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


@pytest.fixture
def fetcher(make, source):
    return make(source.url + "/products/{id}")


def test_each_thread_needs_only_one_connection(source, fetcher, caplog):
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


def test_a_get_is_repeated_if_the_source_has_just_closed_the_connection(source, fetcher):
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


def test_bytes_after_an_answer_do_not_answer_the_next_get(make):
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


def test_the_final_answer_after_an_interim_one_does_not_answer_the_next_get(make, source):
    source.entities["p2"] = {"id": "p2"}
    gone = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    source.answer = lambda id: Answer(103, chunks=[(0.3, gone)]) if id == "p1" else None
    fetcher = make(source.url + "/{id}")

    with pytest.raises(FetchError, match="answered 103"):
        fetcher.fetch("p1")
    assert fetcher.fetch("p2").value == {"id": "p2"}


def test_bytes_that_are_decrypted_already_do_not_answer_the_next_get(
    authority, look_up, monkeypatch
):
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


def test_an_error_does_not_quote_a_response_that_is_not_http(make):
    with (
        RawServer(lambda _: Raw(b'{"id": "p1", "secret": 7}\r\n\r\n')) as server,
        pytest.raises(FetchError) as caught,
    ):
        make(server.url + "/{id}").fetch("p1")

    assert "the response is not HTTP" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_url_can_have_an_ipv6_address(make, source, look_up):
    source.entities["p1"] = {"id": "p1"}
    look_up["::1"] = port = source.url.rpartition(":")[2]

    assert make(f"http://[::1]:{port}/{{id}}").fetch("p1").value == {"id": "p1"}
    assert source.asked[0].headers["Host"] == f"[::1]:{port}"


def test_a_connection_that_the_source_closes_is_not_kept(source):
    fetcher = HTTPFetcher(source.url + "/{id}")
    answering(source, Answer(200, b'{"id": "p1"}', JSON | {"Connection": "close"}))

    assert fetcher.fetch("p1") == Found({"id": "p1"})
    assert fetcher._single.transport._idle == []


def test_connections_are_closed_when_the_fetcher_is_garbage(source):
    fetcher = HTTPFetcher(source.url + "/{id}")
    fetcher.fetch("p1")
    (connection,) = fetcher._single.transport._idle

    del fetcher

    assert connection.sock is None


def test_the_certificate_of_the_source_is_verified(authority, look_up, monkeypatch):
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


def test_a_given_pool_is_used(source):
    pool = urllib3.PoolManager(headers={"User-Agent": "mine"})
    source.entities["p1"] = {"id": "p1"}

    HTTPFetcher(source.url + "/{id}", pool=pool).fetch("p1")

    assert len(pool.pools) == 1
    pool.clear()
