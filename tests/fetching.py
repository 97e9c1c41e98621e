"""Fetchers and the answers that they get, for tests."""

from __future__ import annotations

import contextlib

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
    """Yield a fetcher of a source that answers these header lines and the body `{}`."""
    text = b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"Content-Length: 2", b"", b"{}"])
    with RawServer(lambda _: Raw(text)) as server:
        yield make(server.url + "/{id}", bulk_url=server.url + "/")
