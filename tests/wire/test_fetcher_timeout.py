"""HTTPFetcher(timeout=): a limit for the whole answer, however the source stalls."""

from __future__ import annotations

import functools
import itertools
import socket
import threading
import time

import pytest

from change_events import FetchError, HTTPFetcher
from fetching import TRANSPORTS, answering, talking
from verification.harness.wire import Answer

TIMEOUT = 0.5


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


def seconds_of(fetcher, message):
    """Return how long a GET lasts that decides nothing, because no answer came in time."""
    started = time.monotonic()
    with pytest.raises(FetchError, match=message) as caught:
        fetcher.fetch("p1")
    assert caught.value.status is None
    return time.monotonic() - started


def test_a_get_without_an_answer_ends_at_the_timeout(make, source):
    source.gate.clear()

    seconds = seconds_of(make(source.url + "/{id}", timeout=0.2), "timed out")

    assert 0.15 < seconds < 10
    source.gate.set()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GZIP = HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
TRICKLES = {
    "the status line": (b"HTTP/1.1 200 ", b"x"),
    "headers": (HEAD, b"X"),
    "interim answers": (b"", b"HTTP/1.1 103 x\r\n\r\n"),
    "a body": (HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body without a length": (HEAD + b"\r\n", b" "),
    "a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", b" "),
    "a chunk's size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x"),
    "gzip that decodes to nothing": (
        GZIP + b"a\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03\r\n",
        b"5\r\n\0\0\0\xff\xff\r\n",
    ),
}


def trickling(first, more, connection):
    """Answer with the first bytes, and then with more and more until the client has closed."""
    connection.recv(65536)
    connection.sendall(first)
    while True:
        connection.sendall(more)
        time.sleep(0.05)  # simulates a slow source


@pytest.mark.parametrize(("first", "more"), TRICKLES.values(), ids=TRICKLES)
def test_an_answer_that_trickles_is_given_up_at_the_timeout(first, more):
    with talking(functools.partial(trickling, first, more)) as port:
        fetcher = HTTPFetcher(f"http://127.0.0.1:{port}/{{id}}", timeout=TIMEOUT)

        assert (
            seconds_of(fetcher, "timed out") < 10
        )  # without a limit for the whole, it would never end


@pytest.mark.parametrize("what", ["headers", "a chunk"])
def test_an_answer_over_tls_that_trickles_is_given_up_at_the_timeout(
    authority, look_up, monkeypatch, what
):
    certificate, server = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = server("products.example")

    def talk(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            trickling(*TRICKLES[what], secure)

    with talking(talk) as port:
        look_up["products.example"] = port
        fetcher = HTTPFetcher(f"https://products.example:{port}/{{id}}", timeout=TIMEOUT)

        assert (
            seconds_of(fetcher, "timed out") < 10
        )  # without a limit for the whole, it would never end


def test_a_tls_handshake_that_trickles_is_given_up_at_the_timeout():
    """A record of 16,384 bytes, one byte at a time."""
    record = b"\x16\x03\x03\x40\x00"
    with talking(functools.partial(trickling, record, b"\x02")) as port:
        fetcher = HTTPFetcher(f"https://127.0.0.1:{port}/{{id}}", timeout=TIMEOUT)

        assert (
            seconds_of(fetcher, "timed out") < 10
        )  # without a limit for the whole, it would never end


def test_a_body_that_trickles_through_a_given_pool_is_given_up_at_the_timeout(make, source):
    answering(source, Answer(200, b"{", length=200, chunks=[(0.05, b" ")] * 100))

    assert seconds_of(make(source.url + "/{id}", timeout=0.3), "timed out") < 4.5  # it ends after 5


@pytest.mark.parametrize("keeps", [True, False])
def test_a_stall_in_mid_body_does_not_begin_the_timeout_again(make, keeps):
    """But a given pool has no way to the connection if the source closes it at the end."""
    over = threading.Event()

    def talk(connection):
        connection.recv(65536)
        over.wait(1.6)
        close = b"" if keeps else b"Connection: close\r\n"
        connection.sendall(HEAD + close + b"Content-Length: 100\r\n\r\n{")
        over.wait(30)

    with talking(talk) as port:
        fetcher = make(f"http://127.0.0.1:{port}/{{id}}", timeout=2.0)
        seconds = seconds_of(fetcher, "the body broke off: .*timed out")
        over.set()

    assert seconds < (3.2 if keeps or make is HTTPFetcher else 5.2)


@pytest.fixture
def silent():
    """A port of loopback that does not answer: connections wait there to be accepted."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in itertools.repeat(None, 10):
            waiting.append(socket.socket())
            waiting[-1].settimeout(0.2)
            try:
                waiting[-1].connect(address)
            except TimeoutError:
                break
        else:
            pytest.fail("the system accepts any number of connections")
        yield address[1]
        for each in waiting:
            each.close()


@pytest.fixture
def resolve(monkeypatch):
    """Let each host resolve to these ports of loopback."""
    ports = []
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *args, **kwargs: [
            found for each in ports for found in real("127.0.0.1", each, *args, **kwargs)
        ],
    )
    return ports


def test_several_addresses_that_do_not_answer_share_the_timeout(silent, resolve):
    resolve += [silent] * 4

    assert seconds_of(HTTPFetcher("http://products.example/{id}", timeout=1.0), "timed out") < 2.5


def test_an_address_that_answers_is_reached_behind_one_that_does_not(silent, resolve, source):
    """A host with IPv6 and IPv4, where IPv6 leads nowhere, say."""
    source.entities["p1"] = {"id": "p1"}
    resolve += [silent, int(source.url.rpartition(":")[2])]

    fetcher = HTTPFetcher("http://products.example/{id}", timeout=1.0)

    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_an_address_that_refuses_leaves_its_time_to_the_next(resolve, source, free_port):
    source.entities["p1"] = {"id": "p1"}
    resolve += [free_port, int(source.url.rpartition(":")[2])]

    assert HTTPFetcher("http://products.example/{id}").fetch("p1").value == {"id": "p1"}


def test_a_lookup_in_dns_that_lasts_longer_than_the_timeout_is_not_followed_by_a_request(
    monkeypatch, source
):
    """Nothing can cut the lookup itself short."""
    real = socket.getaddrinfo

    def slow(*args, **kwargs):
        time.sleep(0.3)  # simulates a slow DNS server
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    seconds_of(HTTPFetcher(source.url + "/{id}", timeout=0.2), "timed out")

    assert source.asked == []
