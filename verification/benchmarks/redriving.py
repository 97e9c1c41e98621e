"""What a redrive of dead letters costs in looks and in calls to SQS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events import HTTPFetcher, MemorySink, redrive
from verification.benchmarks import contenders
from verification.benchmarks.bench import LATENCY, OLD
from verification.benchmarks.contest import Report
from verification.benchmarks.stage import name_of
from verification.harness.figures import Figure, exactly

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

LETTERS_PER_ID = 20

ENDS = 8
"""Receives that bring nothing, at most: four threads find the queue empty, once or twice each."""


def redriving(bench: Bench) -> Report:
    """J: a redrive of 10,000 dead letters of 500 ids: looks, calls to SQS. Canned queue."""
    stage, number = bench.stage(canned=True), bench.number(10_000, 2_000)
    number -= number % LETTERS_PER_ID
    ids = [f"p{at % (number // LETTERS_PER_ID)}" for at in range(number)]
    queue_url = stage.queue()
    stage.tell(stage.source, "begin", latency=LATENCY)
    stage.fill(queue_url, contenders.OURS.messages(name_of(queue_url), ids), age=OLD)
    bench.progress("redriving", number)
    report = redrive(
        queue_url,
        fetcher=HTTPFetcher(f"{stage.source}/products/{{id}}"),
        sink=MemorySink(),
        client=stage.client("sqs"),
    )
    calls = stage.state(queue_url)["calls"]
    gets = stage.tell(stage.source, "state")["gets"]
    return Report(
        [
            exactly("letters deleted", report.deleted, number),
            exactly("GETs", gets, number // LETTERS_PER_ID),
            Figure("receives", calls["ReceiveMessage"], at_most=number / 10 + ENDS),
            exactly("deletes", calls["DeleteMessageBatch"], number // 10),
            Figure("other calls", sum(calls.values()) - receives_and_deletes(calls), at_most=1),
        ],
        data={"number": number, "calls": calls, "gets": gets},
    )


def receives_and_deletes(calls: dict[str, int]) -> int:
    """Return how many calls received or deleted."""
    return calls["ReceiveMessage"] + calls["DeleteMessageBatch"]
