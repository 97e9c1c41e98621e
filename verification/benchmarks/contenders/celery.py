"""
celery on SQS, run by its own command: a pool of threads.

It acknowledges late, so that a crash loses nothing. For throughput, its documentation says:

- `polling_interval` is a pause of a second between two polls by default, and the long poll makes it
  needless (docs.celeryq.dev, Kombu, `kombu.transport.SQS`, "Polling Interval"). With 0, kombu turns
  in a circle while its threads are busy, so it gets a hundredth of a second.
- Many short tasks need a large prefetch multiplier, say 64 (docs.celeryq.dev, User Guide,
  "Optimizing", "Prefetch Limits").
- Results that nobody reads should be ignored (docs.celeryq.dev, User Guide, "Tasks", "Ignore
  results you don't want").
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
        "polling_interval": 0.01,
        "predefined_queues": {work.queue_name: {"url": work.queue_url}},
    },
    task_default_queue=work.queue_name,
    worker_prefetch_multiplier=64,
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
