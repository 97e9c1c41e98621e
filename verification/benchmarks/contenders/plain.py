"""The loop that most people write: receive ten; GET, write and delete one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable

import boto3
import requests

from verification.benchmarks.contenders.work import Cache, Work, told


def consume(work: Work, upsert: Callable[[str, str], None]) -> None:
    """Consume until the process is ended."""
    sqs = boto3.client("sqs")
    session = requests.Session()
    while True:
        response = sqs.receive_message(
            QueueUrl=work.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20
        )
        for message in response.get("Messages", []):
            id = json.loads(message["Body"])["id"]
            product = session.get(work.url(id), timeout=5)
            product.raise_for_status()
            upsert(id, json.dumps(product.json()))
            sqs.delete_message(QueueUrl=work.queue_url, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    the_work = told()
    consume(the_work, Cache(the_work.path).upsert)
