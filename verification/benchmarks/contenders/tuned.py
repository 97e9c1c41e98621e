"""
A tuned loop: receive ten, GET and write them in ten threads at once, delete them in one call.

A receive returns at most ten, so more than ten threads are several such loops.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import urllib3
from botocore.config import Config

from verification.benchmarks.contenders.work import Cache, in_threads, told


def main() -> None:
    """Consume until the process is ended."""
    work = told()
    cache = Cache(work.path)
    sqs = boto3.client("sqs", config=Config(max_pool_connections=work.threads))
    pool = urllib3.PoolManager(maxsize=work.threads)

    def handle(message: dict[str, Any]) -> bool:
        id = json.loads(message["Body"])["id"]
        product = pool.request("GET", work.url(id), timeout=5)
        if product.status != 200:
            return False
        cache.upsert(id, json.dumps(product.json()))
        return True

    def consume() -> None:
        with ThreadPoolExecutor(min(10, work.threads)) as executor:
            while True:
                response = sqs.receive_message(
                    QueueUrl=work.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20
                )
                messages = response.get("Messages", [])
                handled = executor.map(handle, messages)
                done = [
                    message["ReceiptHandle"]
                    for message, well in zip(messages, handled, strict=True)
                    if well
                ]
                if done:
                    entries = [
                        {"Id": str(number), "ReceiptHandle": handle}
                        for number, handle in enumerate(done)
                    ]
                    sqs.delete_message_batch(QueueUrl=work.queue_url, Entries=entries)

    in_threads(consume, max(1, work.threads // 10))


if __name__ == "__main__":
    main()
