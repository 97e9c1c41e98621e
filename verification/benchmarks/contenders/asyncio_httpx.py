"""
asyncio with aiobotocore, httpx and aiosqlite: each task receives ten, GETs and writes them one by
one, and deletes them in one call.

All tasks share one client of each kind, as the documentation of aiobotocore and of httpx says
(httpx: "Clients", "Resource Limits"). No GET waits for another task's, as with `tuned`: with
`asyncio.gather` over the ten of a receive, the next receive would wait for the slowest of them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiosqlite
import httpx
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from verification.benchmarks.contenders.work import UPSERT, Cache, Work, told


async def main() -> None:
    """Consume until the process is ended."""
    work = told()
    Cache(work.path)  # the table
    config = AioConfig(max_pool_connections=work.threads)
    limits = httpx.Limits(max_connections=work.threads, max_keepalive_connections=work.threads)
    async with (
        get_session().create_client("sqs", config=config) as sqs,
        httpx.AsyncClient(limits=limits, timeout=5) as http,
        aiosqlite.connect(work.path, timeout=30, isolation_level=None) as cache,
    ):
        await cache.execute("PRAGMA synchronous = FULL")
        await asyncio.gather(*(consume(work, sqs, http, cache) for _ in range(work.threads)))


async def consume(
    work: Work, sqs: Any, http: httpx.AsyncClient, cache: aiosqlite.Connection
) -> None:
    """Receive, look and delete, for ever."""
    while True:
        response = await sqs.receive_message(
            QueueUrl=work.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20
        )
        done: list[dict[str, str]] = []
        for message in response.get("Messages", []):
            id = json.loads(message["Body"])["id"]
            product = await http.get(work.url(id))
            if product.status_code == 200:
                await cache.execute(UPSERT, (id, json.dumps(product.json())))
                done.append({"Id": str(len(done)), "ReceiptHandle": message["ReceiptHandle"]})
        if done:
            await sqs.delete_message_batch(QueueUrl=work.queue_url, Entries=done)


if __name__ == "__main__":
    asyncio.run(main())
