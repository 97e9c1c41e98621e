"""
GET over HTTP, on connections that are kept.

`http.client` reads the responses. Such a GET costs half of one by urllib3.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
import weakref
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import HTTPError
from urllib3.util import wait_for_read

from change_events._source.certificates import Certificates
from change_events._source.http import (
    Answer,
    TimedReader,
    begin_again,
    decoding,
    has_malformed_headers,
    headers_of,
    is_interim,
    read_body,
    require_size,
    seconds_left,
    text_of,
)
from change_events._source.proxy import open_tunnel
from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3.util import Url

    from change_events._source.proxy import HTTPProxy

MAX_IDLE = 30.0
"""
The most seconds that a connection is kept without use. Load balancers forget an idle connection
after a minute or more, NAT gateways after some minutes, and often they tell neither end.
"""

MAX_AGE = 300.0
"""The most seconds that a connection is used. A new one follows a change in DNS."""


@dataclass(slots=True)
class _Connection:
    """A connection, when it was opened and last used, and the process that opened it."""

    sock: socket.socket
    opened: float
    used: float
    process: int


class KeepAliveTransport:
    """
    Keeps connections to one origin, one for each thread that GETs at the same time.

    Args:
        origin: The scheme, the host and the port.
        certificates: The authorities to trust over TLS. Default: the system's authorities.
        proxy: What forwards to the origin. Default: none.
        clock: Returns monotonic seconds, for the ages of connections.
    """

    def __init__(
        self,
        origin: Url,
        certificates: Certificates | None = None,
        proxy: HTTPProxy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        secure = origin.scheme == "https"
        default_port = 443 if secure else 80
        self._host = (origin.host or "").strip("[]")  # without the brackets of an IPv6 address
        self._port = origin.port or default_port
        self._authority = origin.host if self._port == default_port else origin.netloc
        self._certificates = (certificates or Certificates()) if secure else None
        if self._certificates is not None:
            self._certificates.context()  # it needs some time, and the threads would all do it
        self._proxy = proxy
        # A proxy is asked for the whole URL (RFC 9112, 3.2.2), unless TLS goes through it.
        forwarding = None if secure else proxy
        self._prefix = f"http://{self._authority}" if forwarding else ""
        told = forwarding.headers.items() if forwarding else ()
        self._proxy_lines = [f"{name}: {value}" for name, value in told]
        self._clock = clock
        # The one that was used last is at the end. A thread that removes one owns it.
        self._idle: list[_Connection] = []
        weakref.finalize(self, _close, self._idle)

    def get(
        self, target: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Answer:
        """See `Transport`."""
        request = self._request(target, headers)
        try:
            kept = self._take_idle()
            if kept is not None:
                try:
                    return self._exchange(kept, request, time.monotonic() + timeout, max_bytes)
                except OSError:
                    # The source has closed it, or something between has forgotten it, and then the
                    # others, too. A GET can be repeated (RFC 9110, 9.2.2).
                    _close(self._idle)
            deadline = time.monotonic() + timeout
            return self._exchange(self._connect(deadline), request, deadline, max_bytes)
        except (OSError, HTTPException, HTTPError) as error:
            raise FetchError(text_of(error)) from error

    def post(
        self,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        """
        POST once, on a connection of its own. Limits and errors are those of `Transport.get`.
        """
        ending = {"Content-Length": str(len(body)), "Connection": "close"}
        request = self._request(target, {**headers, **ending}, method="POST") + body
        deadline = time.monotonic() + timeout
        try:
            return self._exchange(self._connect(deadline), request, deadline, max_bytes)
        except (OSError, HTTPException, HTTPError) as error:
            raise FetchError(text_of(error)) from error

    def _take_idle(self) -> _Connection | None:
        """Return the connection that was used last, if it can still be used."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                # Unread data is the connection's end, or surplus of the last response. The next
                # response would begin with the surplus.
                if self._is_fresh(connection) and not _has_unread_data(connection.sock):
                    return connection
                connection.sock.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        connection.used = self._clock()
        self._idle.append(connection)
        # With fewer threads than before, those at the beginning are never used again.
        with contextlib.suppress(IndexError):
            oldest = self._idle.pop(0)
            if self._is_fresh(oldest):
                self._idle.insert(0, oldest)
            else:
                oldest.sock.close()

    def _is_fresh(self, connection: _Connection) -> bool:
        now = self._clock()
        return (
            now - connection.used <= MAX_IDLE
            and now - connection.opened <= MAX_AGE
            # After a fork, two processes would read from one connection.
            and connection.process == os.getpid()
        )

    def _connect(self, deadline: float) -> _Connection:
        opened = self._clock()
        if self._proxy is None:
            sock = _open_socket(self._host, self._port, deadline)
        else:
            sock = self._open_through(self._proxy, deadline)
        if self._certificates is not None:
            try:
                context = self._certificates.context()
                sock.settimeout(seconds_left(deadline))
                sock = context.wrap_socket(sock, server_hostname=self._host)
            except BaseException:
                sock.close()
                raise
        return _Connection(sock, opened, opened, os.getpid())

    def _open_through(self, proxy: HTTPProxy, deadline: float) -> socket.socket:
        """Connect to the proxy; for TLS, let it connect us to the origin."""
        try:
            sock = _open_socket(proxy.host, proxy.port, deadline)
            try:
                if self._certificates is not None:
                    host = f"[{self._host}]" if ":" in self._host else self._host
                    open_tunnel(sock, proxy, f"{host}:{self._port}", deadline)
            except BaseException:
                sock.close()
                raise
        except (OSError, HTTPException) as error:
            raise FetchError(f"the proxy {proxy}: {text_of(error)}") from error
        return sock

    def _exchange(
        self, connection: _Connection, request: bytes, deadline: float, max_bytes: int
    ) -> Answer:
        sock = connection.sock
        try:
            sock.settimeout(seconds_left(deadline))
            sock.sendall(request)
            reader: Any = TimedReader(sock, deadline)
            with HTTPResponse(reader) as response:
                response.begin()
                while is_interim(response.status):
                    begin_again(response)
                body = _read_plain_body(response, max_bytes, deadline)
        except BaseException:
            sock.close()
            raise
        if response.will_close or response.status < 200:
            sock.close()
        else:
            self._keep(connection)
        if self._prefix and response.status == 407:
            raise FetchError(f"the proxy {self._proxy} wants other credentials: it answered 407")
        malformed = has_malformed_headers(response.headers)
        return Answer(response.status, headers_of(response), body, malformed)

    def _request(self, target: str, headers: Mapping[str, str], *, method: str = "GET") -> bytes:
        lines = [
            f"{method} {self._prefix}{target} HTTP/1.1",
            *(f"{name}: {headers[name]}" for name in headers),
            *self._proxy_lines,
        ]
        if "host" not in map(str.lower, headers):
            lines.insert(1, f"Host: {self._authority}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _open_socket(host: str, port: int, deadline: float) -> socket.socket:
    """
    Connect to the first of a host's addresses that answers.

    Each gets an equal share of the time that is left. With all of it for the first, a host whose
    first address is dead would never be reached.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    while True:
        family, kind, protocol, _, address = addresses.pop(0)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds_left(deadline) / (1 + len(addresses)))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            if not addresses:
                raise
        else:
            return sock


def _read_plain_body(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """Read a body as `read_body` does; without urllib3 if it is not encoded and has one length."""
    lengths = response.headers.get_all("Content-Length", [])
    if response.length is None or len(lengths) > 1 or "Content-Encoding" in response.headers:
        return read_body(decoding(response), max_bytes, deadline)
    require_size(response.length, max_bytes, response.status)
    chunks = []
    try:
        while response.length:
            # Not read() alone: it waits for the whole body.
            ready = min(len(response.peek()), response.length)
            if not ready:
                raise FetchError(f"the body broke off, {response.length} bytes before its end")
            chunks.append(response.read(ready))
    except OSError as error:
        raise FetchError(f"the body broke off: {text_of(error)}") from error
    return b"".join(chunks)


def _has_unread_data(connection: socket.socket) -> bool:
    decrypted = connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
    return decrypted > 0 or wait_for_read(connection, timeout=0)


def _close(connections: list[_Connection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().sock.close()
