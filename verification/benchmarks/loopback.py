"""An HTTP server that costs next to nothing, so that a benchmark measures something else."""

from __future__ import annotations

import asyncio
import re
import selectors
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import cast

Send = Callable[[bytes], None]
Answer = Callable[[bytes, bytes, Send], None]
"""Gets a request's head and body, and sends a response, now or later."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """
    A connection of HTTP/1.1, which is kept open. Clients must not pipeline.

    Args:
        answer: Answers the requests.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is complete."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if length is None:
            body, self._buffer = b"", rest
        elif len(rest) < int(length[1]):
            if b"\r\nExpect: 100-continue" in head:  # botocore sends it for some bodies
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        else:
            body, self._buffer = rest[: int(length[1])], rest[int(length[1]) :]
        self._answer(head, body, self._send)

    def _send(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


def response(
    body: bytes, *, media_type: bytes = b"application/json", status: bytes = b"200 OK"
) -> bytes:
    """Return a complete response, with its `Date`, as servers must (RFC 9110, 6.6.1)."""
    return b"HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        _date(int(time.time())),
        media_type,
        len(body),
        body,
    )


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def serve(answer: Answer) -> None:
    """Serve on a free port of loopback until the process is ended; print where."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(answer), "127.0.0.1", 0, backlog=1024
        )
        print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    # Not epoll, which sleeps for whole milliseconds: a latency of 20 ms would be 21.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(forever())
