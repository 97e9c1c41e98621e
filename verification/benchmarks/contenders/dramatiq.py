"""
dramatiq with dramatiq-sqs, run by its own command: processes with threads.

The command starts one process for each core by default (dramatiq.io, User Guide, "Workers"; the
command's `--help`). A process holds at most ten messages (`dramatiq_sqs.broker.MAX_PREFETCH`).
"""

from __future__ import annotations

import json

import dramatiq
import urllib3
from dramatiq_sqs import SQSBroker

from verification.benchmarks.contenders.work import Cache, told

work = told()
cache = Cache(work.path)
pool = urllib3.PoolManager(maxsize=work.threads)
dramatiq.set_broker(SQSBroker(visibility_timeout=60))


@dramatiq.actor(queue_name=work.queue_name)
def look(id: str) -> None:
    """Handle an event."""
    product = pool.request("GET", work.url(id), timeout=5)
    if product.status != 200:
        raise RuntimeError(product.status)
    cache.upsert(id, json.dumps(product.json()))
