"""
A tuned loop on boto3: each thread receives ten, GETs and writes them one by one, and deletes them
in one call.

No GET waits for another thread's. So this is faster than a loop that gives the ten of a receive to
ten threads, and waits for the last one before it receives again.
"""

from __future__ import annotations

import json

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

    def consume() -> None:
        while True:
            response = sqs.receive_message(
                QueueUrl=work.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20
            )
            done: list[dict[str, str]] = []
            for message in response.get("Messages", []):
                id = json.loads(message["Body"])["id"]
                product = pool.request("GET", work.url(id), timeout=5)
                if product.status == 200:
                    cache.upsert(id, json.dumps(product.json()))
                    done.append({"Id": str(len(done)), "ReceiptHandle": message["ReceiptHandle"]})
            if done:
                sqs.delete_message_batch(QueueUrl=work.queue_url, Entries=done)

    in_threads(consume, work.threads)


if __name__ == "__main__":
    main()
