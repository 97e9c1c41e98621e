"""The speed of the source, for a client that only GETs."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

CONNECTIONS = 50
"""The default number of connections."""


def gets_per_second(source: str, connections: int = CONNECTIONS, seconds: float = 0.5) -> float:
    """Return how many GETs a second the source answers, with so many connections."""
    return asyncio.run(_load(source, connections, seconds))


async def _load(source: str, connections: int, seconds: float) -> float:
    address = urlsplit(source)
    deadline = time.monotonic() + seconds
    started = time.monotonic()
    gets = await asyncio.gather(
        *(_ask(address.hostname, address.port, deadline) for _ in range(connections))
    )
    return sum(gets) / (time.monotonic() - started)


async def _ask(host: str | None, port: int | None, deadline: float) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    gets = 0
    while time.monotonic() < deadline:
        writer.write(b"GET /products/p1 HTTP/1.1\r\nHost: source\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
        gets += 1
    writer.close()
    return gets
