"""
celery on SQS, run by its own command: a pool of threads.

It acknowledges late, so that a crash loses nothing.
"""

from __future__ import annotations

import json

import urllib3
from celery import Celery

from verification.benchmarks.contenders.work import Cache, told

work = told()
cache = Cache(work.path)
pool = urllib3.PoolManager(maxsize=work.threads)

app = Celery("bench", broker="sqs://")
app.conf.update(
    broker_transport_options={
        "region": "eu-west-1",
        "visibility_timeout": 60,
        "wait_time_seconds": 20,
        "predefined_queues": {work.queue_name: {"url": work.queue_url}},
    },
    task_default_queue=work.queue_name,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,
)


@app.task(name="look")
def look(id: str) -> None:
    """Handle an event."""
    product = pool.request("GET", work.url(id), timeout=5)
    if product.status != 200:
        raise RuntimeError(product.status)
    cache.upsert(id, json.dumps(product.json()))
