"""
The least CPU that an event can cost with boto3, as a process.

    python -m verification.benchmarks.floor QUEUE_URL SOURCE PATH CALLS

One thread makes the calls, each kind by itself, and measures the CPU of this process. The queue is
the canned one, and full. The source has no latency.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import urllib3

from verification.benchmarks.contenders.work import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

LATENCY = 0.020
"""The source's latency in seconds where calls are apart, like in a worker with few threads."""

SLICES = 5
"""How many times each call is measured, in turn with the others; the median counts."""


def milliseconds(call: Callable[[int], object], first: int, calls: int) -> float:
    """Return the milliseconds of CPU of one call."""
    started = time.process_time()
    for number in range(first, first + calls):
        call(number)
    return (time.process_time() - started) / calls * 1e3


def main(queue_url: str, source: str, path: str, calls: int) -> dict[str, float]:
    """Measure each call; return its milliseconds of CPU."""
    sqs, cache = boto3.client("sqs"), Cache(path)
    pool, connection = urllib3.PoolManager(), http.client.HTTPConnection(urlsplit(source).netloc)
    body = json.dumps(pool.request("GET", f"{source}/products/p0").json())
    batches: list[list[dict[str, Any]]] = []

    def receive(_: int) -> None:
        response = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        batches.append(response["Messages"])

    def delete(_: int) -> None:
        entries = [
            {"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]}
            for at, message in enumerate(batches.pop())
        ]
        sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)

    def get_by_urllib3(number: int) -> None:
        pool.request("GET", f"{source}/products/p{number}").json()

    def get_by_http_client(number: int) -> None:
        connection.request("GET", f"/products/p{number}")
        json.loads(connection.getresponse().read())

    def upsert(number: int) -> None:
        cache.upsert(f"p{number}", body)

    each = [receive, delete, get_by_urllib3, get_by_http_client, upsert]
    slices = [
        {call.__name__: milliseconds(call, at * calls, calls) for call in each}
        for at in range(SLICES)
    ]
    costs = {name: statistics.median(slice[name] for slice in slices) for name in slices[0]}
    started = time.perf_counter()
    for number in range(calls):
        upsert(-number - 1)  # new ids, because SQLite writes nothing where nothing changes
    costs["upsert_with_its_wait_for_the_disk"] = (time.perf_counter() - started) / calls * 1e3

    def get_and_upsert(number: int) -> None:
        get_by_urllib3(number)
        upsert(-calls - number - 1)

    pool.request("POST", f"{source}/_bench/begin", json={"latency": LATENCY})
    return {**costs, APART: milliseconds(get_and_upsert, 0, calls)}


APART = "get_and_upsert_20_ms_apart"


def floor(costs: dict[str, float], get: str) -> float:
    """Return an event's milliseconds: a tenth of a receive and a delete, a GET, an upsert."""
    return (costs["receive"] + costs["delete"]) / 10 + costs[get] + costs["upsert"]


def floor_apart(costs: dict[str, float]) -> float:
    """Return the same if the processor has slept since the last event, and its caches are cold."""
    return (costs["receive"] + costs["delete"]) / 10 + costs[APART]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
