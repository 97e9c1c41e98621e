"""
GET over HTTP, and know whether the response is complete.

`http.client` sends and reads, on connections that are kept; urllib3 decodes what is encoded. A GET
by `http.client` costs half of one by urllib3.
"""

from __future__ import annotations

import contextlib
import ssl
import time
import weakref
from dataclasses import dataclass
from email.errors import MissingHeaderBodySeparatorDefect
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, Protocol

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import wait_for_read

from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from socket import socket

    from urllib3.util import Url

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A complete response.

    Attributes:
        status: Its status.
        headers: By name, in any case. Values of one name are joined by commas (RFC 9110, 5.3).
        body: Decoded.
        has_malformed_headers: One line among the headers is not a header. The headers below it are
            lost; the media type and the length can be among them.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    has_malformed_headers: bool


class Transport(Protocol):
    """Sends GETs to one origin."""

    def get(
        self, target: str, headers: Mapping[str, str], *, deadline: float, max_bytes: int
    ) -> Answer:
        """
        GET a path and query, with a decoded body of at most `max_bytes`.

        Give up at `deadline`, in monotonic seconds; but if the source stalls in mid-body, the call
        can last twice the time that is left.

        Raises:
            FetchError: No response came, or an incomplete one.
        """
        ...


class KeepAliveTransport:
    """Keeps connections to one origin, one for each thread that GETs at the same time."""

    def __init__(self, origin: Url) -> None:
        # http.client adds the brackets of an IPv6 address by itself.
        self._host = (origin.host or "").strip("[]")
        self._port = origin.port
        self._context = ssl.create_default_context() if origin.scheme == "https" else None
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def get(
        self, target: str, headers: Mapping[str, str], *, deadline: float, max_bytes: int
    ) -> Answer:
        """See `Transport`."""
        try:
            idle = self._take_idle()
            if idle is not None:
                # The source can close it at any time. A GET can be repeated (RFC 9110, 9.2.2).
                with contextlib.suppress(ConnectionError):
                    return self._exchange(idle, target, headers, deadline, max_bytes)
            return self._exchange(self._connect(deadline), target, headers, deadline, max_bytes)
        except (OSError, HTTPException, HTTPError) as error:
            raise FetchError(_text(error)) from error

    def _take_idle(self) -> HTTPConnection | None:
        """Return the connection that was used last and has nothing to read."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                # Unread data is the connection's end, or surplus of the last response. The next
                # response would begin with the surplus.
                if not _has_unread_data(connection.sock):
                    return connection
                connection.close()
        return None

    def _connect(self, deadline: float) -> HTTPConnection:
        timeout = _seconds_left(deadline)
        if self._context is None:
            connection = HTTPConnection(self._host, self._port, timeout=timeout)
        else:
            connection = HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._context
            )
        connection.connect()
        return connection

    def _exchange(
        self,
        connection: HTTPConnection,
        target: str,
        headers: Mapping[str, str],
        deadline: float,
        max_bytes: int,
    ) -> Answer:
        try:
            connection.sock.settimeout(_seconds_left(deadline))
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                body = _read_plain_body(response, max_bytes, deadline)
        except BaseException:
            connection.close()
            raise
        # http.client returns an interim response (1xx, except 100) like a final one, which then is
        # still to come on this connection.
        if response.will_close or response.status < 200:
            connection.close()
        else:
            self._idle.append(connection)
        malformed = _has_malformed_headers(response.headers)
        return Answer(response.status, _headers_of(response), body, malformed)


class PoolTransport:
    """Sends GETs to an origin, such as `https://host:8443`, through the user's urllib3 pool."""

    def __init__(self, pool: urllib3.PoolManager, origin: str) -> None:
        self._pool = pool
        self._origin = origin

    def get(
        self, target: str, headers: Mapping[str, str], *, deadline: float, max_bytes: int
    ) -> Answer:
        """See `Transport`."""
        try:
            try:
                response = self._send(target, headers, deadline)
            except ProtocolError:  # the source has just closed a kept connection
                response = self._send(target, headers, deadline)
        except HTTPError as error:
            raise FetchError(_text(error)) from error
        try:
            if response.status < 200:  # the final response would answer the connection's next GET
                raise FetchError(f"it answered {response.status}", status=response.status)
            body = read_body(response, max_bytes, deadline)
        except BaseException:
            response.close()  # the rest of the body would answer the connection's next GET
            raise
        # urllib3 only logs a malformed header; the message that http.client parsed records it.
        message = getattr(getattr(response, "_original_response", None), "msg", None)
        malformed = message is not None and _has_malformed_headers(message)
        return Answer(response.status, response.headers, body, malformed)

    def _send(
        self, target: str, headers: Mapping[str, str], deadline: float
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "GET",
            self._origin + target,
            headers=headers,
            timeout=_seconds_left(deadline),
            retries=False,
            redirect=False,
            preload_content=False,
        )


def read_body(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """
    Read a whole body and decode it.

    Raises:
        FetchError: The body is longer than `max_bytes`, breaks off, or does not end by the
            (monotonic) deadline.
    """
    chunks, size = [], 0
    try:
        # Not read(n): it waits for n bytes, so a trickle would outlast any timeout.
        while chunk := response.read1(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            _require_size(size, max_bytes, response.status)
            _require_time(deadline)
    except HTTPError as error:
        raise FetchError(f"the body broke off: {error}") from error
    return b"".join(chunks)


def _read_plain_body(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """Read a body as `read_body` does; without urllib3 if it is not encoded and has one length."""
    lengths = response.headers.get_all("Content-Length", [])
    if response.length is None or len(lengths) > 1 or "Content-Encoding" in response.headers:
        return read_body(_decoding(response), max_bytes, deadline)
    _require_size(response.length, max_bytes, response.status)
    chunks = []
    try:
        while response.length:
            # Not read() alone: it waits for the whole body, so a trickle would outlast any timeout.
            ready = min(len(response.peek()), response.length)
            if not ready:
                raise FetchError(f"the body broke off, {response.length} bytes before its end")
            chunks.append(response.read(ready))
            _require_time(deadline)
    except OSError as error:
        raise FetchError(f"the body broke off: {error}") from error
    return b"".join(chunks)


def _decoding(response: HTTPResponse) -> urllib3.HTTPResponse:
    """Wrap a response in one that decodes the body and knows where it must end."""
    raw: Any = response  # urllib3's own connections pass the same
    return urllib3.HTTPResponse(
        raw,
        headers=_headers_of(response),
        status=response.status,
        preload_content=False,
        original_response=raw,
        request_method="GET",
    )


def _has_unread_data(connection: socket) -> bool:
    decrypted = connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
    return decrypted > 0 or wait_for_read(connection, timeout=0)


def _headers_of(response: HTTPResponse) -> urllib3.HTTPHeaderDict:
    return urllib3.HTTPHeaderDict(response.getheaders())


def _has_malformed_headers(message: Message) -> bool:
    return any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in message.defects)


def _text(error: Exception) -> str:
    """Describe an error without quoting bytes that are not HTTP: they can be an entity's body."""
    causes = [cause for cause in (error, *error.args) if isinstance(cause, BadStatusLine)]
    if causes and not isinstance(causes[0], ConnectionError):  # RemoteDisconnected: nothing came
        return "the response is not HTTP"
    return str(error) or type(error).__name__


def _seconds_left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _require_size(size: int, max_bytes: int, status: int) -> None:
    if size > max_bytes:
        raise FetchError(f"the body is longer than {max_bytes} bytes", status=status)


def _require_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise FetchError("the body took longer than the timeout")


def _close(connections: list[HTTPConnection]) -> None:
    while connections:
        connections.pop().close()
