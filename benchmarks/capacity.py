"""What the source can do, so that it is seen not to be what a benchmark measures."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

CONNECTIONS = 50


def gets_per_second(source: str, seconds: float = 0.5) -> float:
    """Return how many GETs a second the source answers, fifty at once; it should be told of no latency before."""
    return asyncio.run(_load(source, seconds))


async def _load(source: str, seconds: float) -> float:
    address = urlsplit(source)
    deadline = time.monotonic() + seconds
    started = time.monotonic()
    gets = await asyncio.gather(*(_ask(address.hostname, address.port, deadline) for _ in range(CONNECTIONS)))
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
