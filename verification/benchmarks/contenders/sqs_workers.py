"""
sqs-workers with a raw queue, following its README.

A process has one thread. It receives ten, handles one after the other, and deletes them in a batch.
"""

from __future__ import annotations

import json
from typing import Any

import urllib3
from sqs_workers import RawQueue, SQSEnv

from verification.benchmarks.contenders.work import Cache, told

work = told()
cache = Cache(work.path)
pool = urllib3.PoolManager(maxsize=work.threads)
queue = SQSEnv().queue(work.queue_name, RawQueue)


@queue.raw_processor()
def look(message: Any) -> None:
    """Handle an event."""
    id = json.loads(message.body)["id"]
    product = pool.request("GET", work.url(id), timeout=5)
    if product.status != 200:
        raise RuntimeError(product.status)
    cache.upsert(id, json.dumps(product.json()))


if __name__ == "__main__":
    queue.process_queue(wait_second=20)
