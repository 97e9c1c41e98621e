"""
An answer over HTTP, and whether it is complete; and GETs through a urllib3 pool of the user's.

urllib3 decodes what is encoded.
"""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass
from email.errors import MissingHeaderBodySeparatorDefect
from http.client import BadStatusLine, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Protocol

import urllib3
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError

from change_events.exceptions import FetchError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from email.message import Message

_CHUNK = 64 * 1024

_LENGTH = re.compile(r"[0-9]+(?:, *[0-9]+)*")
"""A Content-Length; a proxy can have added its own (RFC 9110, 8.6)."""

_DECODED = {"", "identity", "gzip", "x-gzip"}
"""The content codings to accept: what every request asks for (RFC 9110, 8.4.1.3)."""


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


class TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline. A socket's own timeout begins again at each read."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, _: str) -> io.BufferedReader:
        """Return the file that http.client wants of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(seconds_left(self._deadline))
        return self._sock.recv_into(buffer)


class Transport(Protocol):
    """Sends GETs to one origin."""

    def get(
        self, target: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Answer:
        """
        GET a path and query, with a decoded body of at most `max_bytes`.

        Give up after `timeout` seconds; after twice that if the first attempt used a kept
        connection. Waiting for DNS can't be cut short.

        Raises:
            FetchError: No response came, or an incomplete one.
        """
        ...


class PoolTransport:
    """
    Sends GETs to an origin, such as `https://host:8443`, through the user's urllib3 pool.

    Only urllib3 can cut its connections short. So headers that trickle, several addresses that do
    not answer, and a stall in a body after which the source closes the connection can exceed the
    timeout.
    """

    def __init__(self, pool: urllib3.PoolManager, origin: str) -> None:
        self._pool = pool
        self._origin = origin

    def get(
        self, target: str, headers: Mapping[str, str], *, timeout: float, max_bytes: int
    ) -> Answer:
        """See `Transport`."""
        deadline = time.monotonic() + timeout
        try:
            try:
                response = self._send(target, headers, deadline)
            except ProtocolError:  # the source has just closed a kept connection
                response = self._send(target, headers, deadline)
            return _whole(response, max_bytes, deadline)
        except (HTTPError, HTTPException, OSError) as error:
            raise FetchError(text_of(error)) from error

    def _send(
        self, target: str, headers: Mapping[str, str], deadline: float
    ) -> urllib3.BaseHTTPResponse:
        left = seconds_left(deadline)
        return self._pool.request(
            "GET",
            self._origin + target,
            headers=headers,
            timeout=urllib3.Timeout(total=left),
            pool_timeout=left,  # a pool that blocks would wait for ever for a free connection
            retries=False,
            redirect=False,
            preload_content=False,
        )


def _whole(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> Answer:
    # The message that http.client parsed: urllib3 only logs a malformed header.
    raw: HTTPResponse | None = getattr(response, "_original_response", None)
    final = response
    try:
        if raw is not None and is_interim(raw.status):
            while is_interim(raw.status):
                _limit_next_read(response, deadline)
                begin_again(raw)
            final = decoding(raw)
        body = read_body(final, max_bytes, deadline)
    finally:
        # The rest would answer the connection's next GET. Without a rest, urllib3 has it back.
        response.close()
        response.release_conn()
    malformed = raw is not None and has_malformed_headers(raw.headers)
    return Answer(final.status, final.headers, body, malformed)


def is_interim(status: int) -> bool:
    """Return True if the final response is still to come (RFC 9110, 15.2)."""
    return 100 <= status < 200 and status != 101  # 101: the connection no longer speaks HTTP


def begin_again(response: HTTPResponse) -> None:
    """Read the next head on the connection. http.client returns an interim one like a final one."""
    response.headers = response.msg = None  # type: ignore[assignment]  # else it reads nothing
    HTTPResponse.begin(response)


def read_body(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """
    Read a whole body and decode it.

    Raises:
        FetchError: The body is longer than `max_bytes`, breaks off, does not end by the
            (monotonic) deadline, or is encoded in a way that no request asks for. Or its length is
            not a number, so nobody knows whether it is complete (RFC 9112, 6.3).
    """
    if "Transfer-Encoding" not in response.headers and not _LENGTH.fullmatch(
        response.headers.get("Content-Length", "0")
    ):
        raise FetchError("the body has a Content-Length that is not a number")
    coding = response.headers.get("Content-Encoding", "")
    if coding.strip().lower() not in _DECODED:
        raise FetchError(
            f"the body has the content coding {coding!r:.80}, and the request asked for gzip",
            status=response.status,
        )
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            _limit_next_read(response, deadline)
            # Not read(n): it waits for n bytes, so a trickle would outlast any timeout.
            chunk = response.read1(_CHUNK)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            require_size(size, max_bytes, response.status)
    except DecodeError as error:
        raise FetchError(f"the body is not {coding}", status=response.status) from error
    except (HTTPError, OSError) as error:
        raise FetchError(f"the body broke off: {text_of(error)}") from error


def _limit_next_read(response: urllib3.BaseHTTPResponse, deadline: float) -> None:
    left = seconds_left(deadline)
    # urllib3 has lost the socket if the source closes the connection after this response.
    sock = getattr(response.connection, "sock", None)
    if sock is not None:
        sock.settimeout(left)


def decoding(response: HTTPResponse) -> urllib3.HTTPResponse:
    """Wrap a response in one that decodes the body and knows where it must end."""
    raw: Any = response  # urllib3's own connections pass the same
    return urllib3.HTTPResponse(
        raw,
        headers=headers_of(response),
        status=response.status,
        preload_content=False,
    )


def headers_of(response: HTTPResponse) -> urllib3.HTTPHeaderDict:
    """Return the headers, with the values of one name joined."""
    return urllib3.HTTPHeaderDict(response.getheaders())


def has_malformed_headers(message: Message) -> bool:
    """Return True if a line among the headers was not a header."""
    return any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in message.defects)


def text_of(error: Exception) -> str:
    """Describe an error without quoting bytes that are not HTTP: they can be an entity's body."""
    causes = [cause for cause in (error, *error.args) if isinstance(cause, BadStatusLine)]
    if causes and not isinstance(causes[0], ConnectionError):  # RemoteDisconnected: nothing came
        return "the response is not HTTP"
    return str(error) or type(error).__name__


def seconds_left(deadline: float) -> float:
    """
    Return the seconds until the (monotonic) deadline.

    Raises:
        TimeoutError: It is over.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def require_size(size: int, max_bytes: int, status: int) -> None:
    """Refuse a body that is too long."""
    if size > max_bytes:
        raise FetchError(f"the body is longer than {max_bytes} bytes", status=status)
