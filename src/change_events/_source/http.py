"""
GET over HTTP, and know whether an answer is all there.

`http.client` writes and reads, on connections that are kept; urllib3 decodes what is unusual. Its
own way to a connection and through a response costs half as much again as the rest of a look.
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
    A response that is all there.

    Attributes:
        status: Its status.
        headers: By name, whatever its case; those of one name joined by commas (RFC 9110, 5.3).
        body: Decoded.
        hides_headers: A line that is no header hides those behind it: the media type and the
            length, maybe.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    hides_headers: bool


class Transport(Protocol):
    """A way to GET."""

    def get(
        self, target: str, headers: Mapping[str, str], *, deadline: float, max_bytes: int
    ) -> Answer:
        """
        GET.

        Args:
            target: Path and query.
            headers: The request's.
            deadline: Until when, in monotonic seconds; a source that stalls in mid-body can stretch
                what is left to twice that.
            max_bytes: A longer body is refused.

        Raises:
            FetchError: No answer came, or half of one.
        """
        ...


class Connections:
    """
    Kept connections to one origin, one for each thread that GETs at the same time.

    Args:
        origin: Scheme, host and port.
    """

    def __init__(self, origin: Url) -> None:
        self._host = (origin.host or "").strip(
            "[]"
        )  # of an IPv6 address, which http.client encloses itself
        self._port = origin.port
        self._context = ssl.create_default_context() if origin.scheme == "https" else None
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def get(
        self, target: str, headers: Mapping[str, str], *, deadline: float, max_bytes: int
    ) -> Answer:
        """See `Transport`."""
        try:
            kept = self._kept()
            if kept is not None:
                # The source may just have closed it. A GET may be repeated (RFC 9110, 9.2.2).
                with contextlib.suppress(ConnectionError):
                    return self._ask(kept, target, headers, deadline, max_bytes)
            return self._ask(self._new(deadline), target, headers, deadline, max_bytes)
        except (OSError, HTTPException, HTTPError) as error:
            raise FetchError(_text(error)) from error

    def _kept(self) -> HTTPConnection | None:
        """Return the connection that was used last and is silent."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                # What comes unasked is the end, or more than the last answer should have had: the
                # next one would begin with it.
                if _is_silent(connection.sock):
                    return connection
                connection.close()
        return None

    def _new(self, deadline: float) -> HTTPConnection:
        if self._context is None:
            connection = HTTPConnection(self._host, self._port, timeout=_left(deadline))
        else:
            connection = HTTPSConnection(
                self._host, self._port, timeout=_left(deadline), context=self._context
            )
        connection.connect()
        return connection

    def _ask(
        self,
        connection: HTTPConnection,
        target: str,
        headers: Mapping[str, str],
        deadline: float,
        max_bytes: int,
    ) -> Answer:
        try:
            connection.sock.settimeout(_left(deadline))
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                body = _body(response, max_bytes, deadline)
        except BaseException:
            connection.close()
            raise
        # After an interim answer, which http.client takes for the last (but for 100), that comes
        # which is meant.
        if response.will_close or response.status < 200:
            connection.close()
        else:
            self._idle.append(connection)
        return Answer(response.status, _joined(response), body, _hides_headers(response.headers))


class Pooled:
    """
    A urllib3 pool of the user's.

    Args:
        pool: It.
        origin: Scheme, host and port.
    """

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
            except ProtocolError:  # a kept connection that the source has just closed
                response = self._send(target, headers, deadline)
        except HTTPError as error:
            raise FetchError(_text(error)) from error
        try:
            if response.status < 200:  # as above
                raise FetchError(f"it answered {response.status}", status=response.status)
            body = body_of(response, max_bytes, deadline)
        except BaseException:
            response.close()  # half-read: the connection can't be used again
            raise
        # urllib3 logs a line that is no header and goes on, so that only the message which
        # http.client has read knows of it.
        message = getattr(getattr(response, "_original_response", None), "msg", None)
        return Answer(
            response.status, response.headers, body, message is not None and _hides_headers(message)
        )

    def _send(
        self, target: str, headers: Mapping[str, str], deadline: float
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "GET",
            self._origin + target,
            headers=headers,
            timeout=_left(deadline),
            retries=False,
            redirect=False,
            preload_content=False,
        )


def _is_silent(connection: socket) -> bool:
    undelivered = (
        connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
    )  # decrypted already
    return not undelivered and not wait_for_read(connection, timeout=0)


def body_of(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """
    Read a body to its end; a `FetchError` if it is longer, breaks off, or is not there by the
    (monotonic) deadline.
    """
    chunks, size = [], 0
    try:
        # Not read(n): it waits for n bytes, so that a trickle would outlast any timeout.
        while chunk := response.read1(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            _require_size(size, max_bytes, response.status)
            _require_time(deadline)
    except HTTPError as error:
        raise FetchError(f"the body broke off: {error}") from error
    return b"".join(chunks)


def _body(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    lengths = response.headers.get_all("Content-Length", [])
    if response.length is None or len(lengths) > 1 or "Content-Encoding" in response.headers:
        return body_of(_decoding(response), max_bytes, deadline)
    _require_size(response.length, max_bytes, response.status)
    chunks = []
    try:
        while response.length:
            # Not just read(): it waits for all, so that a trickle would outlast any timeout.
            ready = min(len(response.peek()), response.length)
            if not ready:
                raise FetchError(f"the body broke off, {response.length} bytes before its end")
            chunks.append(response.read(ready))
            _require_time(deadline)
    except OSError as error:
        raise FetchError(f"the body broke off: {error}") from error
    return b"".join(chunks)


def _decoding(response: HTTPResponse) -> urllib3.HTTPResponse:
    """Return a response that decodes what it reads, and knows where its end should be."""
    raw: Any = response  # which urllib3's own connections pass, too
    return urllib3.HTTPResponse(
        raw,
        headers=_joined(response),
        status=response.status,
        preload_content=False,
        original_response=raw,
        request_method="GET",
    )


def _joined(response: HTTPResponse) -> urllib3.HTTPHeaderDict:
    return urllib3.HTTPHeaderDict(response.getheaders())


def _text(error: Exception) -> str:
    """
    Say what went wrong, but not what came in an answer's place: it may be a line of an entity's
    body.
    """
    causes = [cause for cause in (error, *error.args) if isinstance(cause, BadStatusLine)]
    if causes and not isinstance(causes[0], ConnectionError):  # as it is where nothing came
        return "what came is no answer"
    return str(error) or type(error).__name__


def _hides_headers(message: Message) -> bool:
    return any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in message.defects)


def _left(deadline: float) -> float:
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
