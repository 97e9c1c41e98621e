"""Fetchers and the answers that they get, for tests."""

from __future__ import annotations

import contextlib
import socket
import threading

import urllib3

from change_events import HTTPFetcher
from verification.harness.wire import Answer, Raw, RawServer

JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}

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
    "304 to an unconditional GET": Answer(304),
    "a proxy's 404": Answer(404, b"<h1>default backend - 404</h1>", HTML),
    "half a 404": Answer(404, b'{"detail"', length=100),
    "redirect to another host": Answer(302, b"", {"Location": "http://localhost:1/p1"}),
    "redirect to another scheme": Answer(308, b"", {"Location": "https://127.0.0.1/p1"}),
    "redirect to an invalid URL": Answer(307, b"", {"Location": "http://[half"}),
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
    "a number too large for a float": Answer(200, b'{"price": 1e999}'),
    "very deep": Answer(200, b"[" * 200_000),
    "invalid UTF-8": Answer(200, b'{"name": "\xff\xfe"}'),
    "no id": Answer(200, b"{}"),
    "an envelope": Answer(200, b'{"data": {"id": "p1"}}'),
    "an id that is true": Answer(200, b'{"id": true}'),
    "more digits than a float has": Answer(200, b'{"id": "p1", "n": 12345678901234567.89}'),
    "a coding that nobody asked for": Answer(200, b"{}", JSON | {"Content-Encoding": "br"}),
    "switching protocols": Answer(101),
    "broken gzip": Answer(200, b"{}", JSON | {"Content-Encoding": "gzip"}),
    "another entity": Answer(200, b'{"id": "p2"}'),
    "an entity whose id is null": Answer(200, b'{"id": null}'),
    "an enormous integer": Answer(200, b'{"id": 1' + b"0" * 5000 + b"}"),
}
"""Answers to a GET of `p1` that decide nothing."""


@contextlib.contextmanager
def own_connections():
    yield HTTPFetcher


@contextlib.contextmanager
def given_pool():
    with urllib3.PoolManager(maxsize=20) as pool:
        yield lambda url, **settings: HTTPFetcher(url, pool=pool, **settings)


TRANSPORTS = {"own connections": own_connections, "given pool": given_pool}
"""Each yields a maker of fetchers: one for each way to the source."""


def answering(source, answer):
    """Let the source answer this to every GET."""
    source.answer = lambda id: answer


@contextlib.contextmanager
def answering_raw(make, status, *headers):
    """Yield a fetcher of a source that answers these header lines and the entity `p1`."""
    body = b'{"id": "p1"}'
    length = b"Content-Length: %d" % len(body)
    text = b"\r\n".join([b"HTTP/1.1 " + status, *headers, length, b"", body])
    with RawServer(lambda _: Raw(text)) as server:
        yield make(server.url + "/{id}", bulk_url=server.url + "/")


@contextlib.contextmanager
def talking(talk):
    """Yield a port of loopback. Each connection is given to `talk`, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_ones = {}

        def converse(connection):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, contextlib.suppress(OSError):  # the other end has closed it
                talk(connection)

        def accept():
            with contextlib.suppress(OSError):  # the listener has been shut down
                while True:
                    connection, _ = listener.accept()
                    open_ones[connection] = threading.Thread(target=converse, args=(connection,))
                    open_ones[connection].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for connection, thread in open_ones.items():
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            assert not thread.is_alive()


class Gateway:
    """
    Forwards TCP connections to a port of loopback, as a NAT gateway or a load balancer does.

    Attributes:
        count: How many connections there were.
    """

    def __init__(self, port):
        self.count = 0
        self._upstream = port
        self._remembered = set()

    def forget(self):
        """Drop whatever arrives on the present connections. Neither end is told."""
        self._remembered.clear()

    def talk(self, client):
        self.count += 1
        self._remembered.add(client)
        with socket.create_connection(("127.0.0.1", self._upstream)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._forward, args=(server, client, client))
            back.start()
            self._forward(client, server, client)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _forward(self, source, target, client):
        with contextlib.suppress(OSError):  # the other end has closed
            while data := source.recv(65536):
                if client in self._remembered:
                    target.sendall(data)


@contextlib.contextmanager
def gateway(url):
    """Yield a gateway to a server, and the server's URL through it."""
    it = Gateway(int(url.rpartition(":")[2]))
    with talking(it.talk) as port:
        yield it, f"http://127.0.0.1:{port}"
