"""What it costs to hold many events."""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from typing import TYPE_CHECKING

from change_events._consumer.settings import HELD_PER_SECOND
from verification.benchmarks import contenders
from verification.benchmarks.bench import distinct
from verification.benchmarks.contest import Report
from verification.benchmarks.stage import name_of
from verification.harness.figures import Figure, exactly
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

SETTLE = 3600
"""The longest settle window, in seconds, so that nothing is settled during the measurement."""


def holding(bench: Bench) -> Report:
    """
    H: 20,000 events held: memory for each, heartbeats, deadlines missed. Canned queue, each id
    looked at once, early.
    """
    stage, number = bench.stage(canned=True), bench.number(20_000, 900)
    visibility = max(3, math.ceil((number + 10) / HELD_PER_SECOND))
    queue_url = stage.queue()
    settings = {"settle": SETTLE, "visibility_timeout": visibility, "prefetch": number + 10}
    contender = dataclasses.replace(contenders.OURS, more=settings)
    path = stage.directory / f"{uuid.uuid4().hex}.db"
    stage.tell(stage.source, "begin", latency=0)
    worker = stage.consume(queue_url, contender, path, threads=10, **settings)
    try:
        stage.wait_for_polls(queue_url, [worker])
        before = worker.info.memory_info().rss
        bench.progress("receiving", number)
        stage.fill(queue_url, contender.messages(name_of(queue_url), distinct(number)))
        wait_until(lambda: stage.tell(stage.source, "state")["gets"] >= number, 300)
        watched = visibility * 4 / 3 + 1
        bench.progress(f"holding, {watched:.0f} s", number)
        heartbeats, cpu, started = beats(stage.state(queue_url)), worker.cpu(), time.monotonic()
        while time.monotonic() < started + watched:
            worker.require_alive()
            time.sleep(0.2)
        took, state = time.monotonic() - started, stage.state(queue_url)
        after, cpu = worker.info.memory_info().rss, worker.cpu() - cpu
    finally:
        worker.close()
    note = (
        f"visibility_timeout={visibility}, prefetch={number + 10}; watched for {took:.0f} s, in "
        "which each is extended four times. Held by a settle window of an hour: the default of 5 s "
        "holds so many at 4,000 events a second."
    )
    return Report(
        [
            exactly("deadlines missed", state["missed"] + state["late"], 0),
            exactly("events held at the end", state["received"], number),
            Figure("memory for each", (after - before) / number / 1024, "KiB"),
            Figure("heartbeats", (beats(state) - heartbeats) / took, "calls/s"),
            Figure("CPU while holding", cpu / took * 100, "% of a core"),
        ],
        notes=[note],
        data={
            "number": number,
            "visibility": visibility,
            "rss": [before, after],
            "calls": state["calls"],
            "watched": took,
        },
    )


def beats(state: dict[str, dict[str, int]]) -> int:
    """Return how many calls extended a batch."""
    return state["calls"].get("ChangeMessageVisibilityBatch", 0)
