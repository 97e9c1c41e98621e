"""HTTPFetcher's connections: kept, reused, closed, and never out of step."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import urllib3
from urllib3.util import parse_url

from change_events import FetchError, Found, HTTPFetcher, Unchanged
from change_events._source import connections
from change_events._source.connections import KeepAliveTransport
from conftest import Source, serving
from fetching import JSON, TRANSPORTS, answering, gateway
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


INTERIM = [
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\nHTTP/1.1 199 x\r\n\r\n",
    b"HTTP/1.0 103 Early Hints\r\n\r\n",
]


def answer_by_id(head, before=b"", *, keep=True):
    """Answer a GET of an id of two letters, after other bytes."""
    headers = b"Content-Type: application/json\r\nContent-Length: 12\r\n"
    end = b"\r\n" if keep else b"Connection: close\r\n\r\n"
    body = b'{"id": "%b"}' % head[5:7]
    return Raw(before + b"HTTP/1.1 200 OK\r\n" + headers + end + body, keep=keep)


@pytest.mark.parametrize("interim", INTERIM)
@pytest.mark.parametrize("keep", [True, False])
def test_the_answer_is_the_one_after_the_interim_ones(make, interim, keep):
    with RawServer(lambda head: answer_by_id(head, interim, keep=keep)) as server:
        fetcher = make(server.url + "/{id}")

        for id in ("p1", "p2", "p3"):
            assert fetcher.fetch(id) == Found({"id": id})


def test_an_interim_answer_alone_decides_nothing(make, source):
    source.entities["p2"] = {"id": "p2"}
    source.answer = lambda id: Answer(103, length=0) if id == "p1" else None
    fetcher = make(source.url + "/{id}")

    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")

    assert caught.value.status is None
    assert fetcher.fetch("p2").value == {"id": "p2"}


@pytest.mark.parametrize("surplus", [1, 4000])
def test_bytes_that_are_decrypted_already_do_not_answer_the_next_get(
    authority, look_up, monkeypatch, surplus
):
    certificate, server = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%b\r\n"
    not_modified = head % (b"304 Not Modified", b"")
    one_record = not_modified.ljust(io.DEFAULT_BUFFER_SIZE + surplus, b"x")
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
    source.entities["p1"] = {"id": "p1"}
    fetcher = HTTPFetcher(source.url + "/{id}")
    fetcher.fetch("p1")
    (connection,) = fetcher._single.transport._idle

    del fetcher

    assert connection.sock.fileno() == -1


# Ages of connections


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def aging(source):
    """A transport with a clock that the test moves, and a gateway that counts connections."""
    clock = Clock()
    with gateway(source.url) as (between, url):
        yield KeepAliveTransport(parse_url(url), clock=clock), clock, between


def get(transport):
    """GET an entity that there is not."""
    assert transport.get("/p1", {}, timeout=5.0, max_bytes=1000).status == 404


@pytest.mark.parametrize(("pause", "connections"), [(29, 1), (31, 10)])
def test_a_connection_that_was_idle_for_30_seconds_is_not_used_again(aging, pause, connections):
    transport, clock, between = aging

    for _ in range(10):
        get(transport)
        clock.now += pause

    assert between.count == connections


def test_a_connection_is_used_for_five_minutes(aging):
    """Otherwise a busy fetcher would never see a change in DNS."""
    transport, clock, between = aging

    for _ in range(62):
        get(transport)
        clock.now += 10

    assert between.count == 2


def test_a_transport_that_has_become_less_busy_closes_connections(aging, source):
    transport, clock, _ = aging
    source.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(get, transport) for _ in range(5)]
        for _ in futures:
            source.arrived.acquire()
        source.gate.set()
        for future in futures:
            future.result()
    assert len(transport._idle) == 5

    for _ in range(10):
        clock.now += 10
        get(transport)

    assert len(transport._idle) == 1


FORKED = """
import os, sys
from change_events import Found, HTTPFetcher
fetcher = HTTPFetcher(sys.argv[1] + "/{id}")
assert fetcher.fetch("p1") == Found({"id": "p1"})
child = os.fork()
for _ in range(50):
    assert fetcher.fetch("p2" if child else "p1").value["id"] == ("p2" if child else "p1")
assert child == 0 or os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_has_a_connection_of_its_own():
    """On one connection, each of the two would read the other's answers."""
    with RawServer(answer_by_id) as server, gateway(server.url) as (between, url):
        subprocess.run([sys.executable, "-c", FORKED, url], check=True, timeout=60)

    assert between.count == 2


# Connections that something between has forgotten


def test_a_get_is_sent_again_if_a_gateway_has_forgotten_the_connections(source):
    source.entities["p1"] = {"id": "p1"}
    with gateway(source.url) as (between, url):
        fetcher = HTTPFetcher(url + "/{id}", timeout=1.0)
        source.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(fetcher.fetch, "p1") for _ in range(3)]
            for _ in futures:
                source.arrived.acquire()
            source.gate.set()
            assert [future.result().value for future in futures] == [{"id": "p1"}] * 3
        between.forget()

        for _ in range(2):
            assert fetcher.fetch("p1").value == {"id": "p1"}

        assert between.count == 4
        assert len(fetcher._single.transport._idle) == 1  # the other two have been closed, too
    assert len(source.asked) == 5


def test_an_answer_on_a_kept_connection_has_the_whole_timeout(source):
    """Half of it for the first attempt would send a slow source every GET twice."""
    source.entities["p1"] = {"id": "p1"}
    fetcher = HTTPFetcher(source.url + "/{id}", timeout=3.0)
    fetcher.fetch("p1")
    source.answer = lambda id: time.sleep(1.7)  # simulates a slow source

    assert fetcher.fetch("p1").value == {"id": "p1"}
    assert len(source.asked) == 2


def test_a_source_that_does_not_answer_on_a_new_connection_either_decides_nothing(source):
    source.entities["p1"] = {"id": "p1"}
    fetcher = HTTPFetcher(source.url + "/{id}", timeout=0.5)
    fetcher.fetch("p1")
    source.gate.clear()
    started = time.monotonic()

    with pytest.raises(FetchError, match="timed out") as caught:
        fetcher.fetch("p1")

    assert caught.value.status is None
    assert 0.9 < time.monotonic() - started < 3
    assert len(source.asked) == 3
    source.gate.set()


# TLS, and the user's own pool


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


def test_a_get_that_fails_gives_its_connection_back_to_a_pool_that_blocks(source):
    """Otherwise the next GET would wait for a connection for ever."""
    source.entities["p2"] = {"id": "p2"}
    answering(source, Answer(200, b"x" * 2000))
    with urllib3.PoolManager(maxsize=1, block=True) as pool:
        fetcher = HTTPFetcher(source.url + "/{id}", pool=pool, max_bytes=1000)
        for _ in range(2):
            with pytest.raises(FetchError, match="longer than 1000 bytes"):
                fetcher.fetch("p1")
        source.answer = lambda id: None

        assert fetcher.fetch("p2").value == {"id": "p2"}


def test_a_get_waits_for_a_connection_of_a_pool_that_blocks_until_its_timeout(source):
    source.entities["p1"] = {"id": "p1"}
    source.gate.clear()
    with urllib3.PoolManager(maxsize=1, block=True) as pool, ThreadPoolExecutor(1) as threads:
        slow = HTTPFetcher(source.url + "/{id}", pool=pool, timeout=30.0)
        other = threads.submit(slow.fetch, "p1")
        source.arrived.acquire()

        with pytest.raises(FetchError):
            HTTPFetcher(source.url + "/{id}", pool=pool, timeout=0.2).fetch("p1")

        source.gate.set()
        assert other.result().value == {"id": "p1"}


# Limits of an age


@pytest.mark.parametrize(("pauses", "connections"), [([30.0], 1), ([30.001], 2)])
def test_a_connection_is_used_again_after_just_30_seconds(aging, pauses, connections):
    transport, clock, between = aging

    for pause in (0.0, *pauses):
        clock.now += pause
        get(transport)

    assert between.count == connections


@pytest.mark.parametrize(("last", "connections"), [(20.0, 1), (20.001, 2)])
def test_a_connection_is_used_until_just_five_minutes(aging, last, connections):
    transport, clock, between = aging

    for pause in (0.0, *[28.0] * 10, last):
        clock.now += pause
        get(transport)

    assert between.count == connections


def get_at_once(transport, source, number):
    """GET in so many threads at the same time."""
    source.gate.clear()
    with ThreadPoolExecutor(number) as pool:
        gets = [pool.submit(get, transport) for _ in range(number)]
        for _ in gets:
            source.arrived.acquire()
        source.gate.set()
        for done in gets:
            done.result()


def test_the_connection_that_was_used_last_is_used_next(aging, source):
    transport, _, _ = aging
    get_at_once(transport, source, 3)

    last = transport._idle[-1]
    for _ in range(3):
        get(transport)

    assert transport._idle[-1] is last
    assert len(transport._idle) == 3


def test_the_oldest_connection_is_closed_once_others_are_enough(aging, source):
    transport, clock, _ = aging
    get_at_once(transport, source, 2)
    oldest, last = transport._idle

    clock.now += 20
    get(transport)
    assert transport._idle == [oldest, last]
    clock.now += 20
    get(transport)

    assert transport._idle == [last]
    assert oldest.sock.fileno() == -1


def test_a_connection_that_another_thread_takes_at_once_is_not_missed(aging):
    """A stub: no test can make the other thread that quick."""

    taken = []

    class Idle(list):
        def append(self, connection):
            taken.append(connection)

    transport, _, between = aging
    transport._idle = Idle()

    get(transport)
    get(transport)

    assert between.count == 2
    for connection in taken:
        connection.sock.close()


def test_a_get_that_is_sent_again_has_the_same_headers(make):
    """The source closes a kept connection at the moment of the next GET."""
    heads = []

    def respond(head):
        heads.append(head)
        return Raw(b"") if len(heads) == 2 else answer_by_id(head)

    with RawServer(respond) as server:
        fetcher = make(server.url + "/{id}", headers={"Authorization": "mine"})
        for _ in range(2):
            assert fetcher.fetch("p1") == Found({"id": "p1"})

    assert len(heads) == 3
    assert heads[2] == heads[1]
    assert b"Authorization: mine\r\n" in heads[2]


def test_the_only_address_of_a_host_has_all_the_time_to_answer(source, monkeypatch):
    waits = []

    class Socket(socket.socket):
        def settimeout(self, seconds):
            waits.append(seconds)
            super().settimeout(seconds)

    monkeypatch.setattr(connections, "socket", SimpleNamespace(**vars(socket) | {"socket": Socket}))
    source.entities["p1"] = {"id": "p1"}

    HTTPFetcher(source.url + "/{id}", timeout=60.0).fetch("p1")

    assert 50.0 < waits[0] <= 60.0


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example/", b"a.example"),
        ("http://a.example:80/", b"a.example"),
        ("http://a.example:8080/", b"a.example:8080"),
        ("https://a.example:443/", b"a.example"),
        ("https://a.example:80/", b"a.example:80"),
        ("http://[::1]:8080/", b"[::1]:8080"),
    ],
)
def test_a_request_names_the_port_unless_it_is_the_schemes_own(url, host):
    request = KeepAliveTransport(parse_url(url))._request("/p1", {"Accept": "text/x"})

    assert request == b"GET /p1 HTTP/1.1\r\nHost: %b\r\nAccept: text/x\r\n\r\n" % host
