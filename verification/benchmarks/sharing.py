"""Two workers that share a backlog: how many of its events each of them handles."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import time
import uuid
from typing import TYPE_CHECKING

from verification.benchmarks.bench import LATENCY, OLD, Bench, distinct, zipf
from verification.benchmarks.contest import Report
from verification.benchmarks.stage import name_of
from verification.harness.figures import Figure, exactly
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from verification.benchmarks.stage import Stage

PATIENCE = 300.0
"""Seconds until the queue must be empty."""

THREADS = 10


def sharing(bench: Bench) -> Report:
    """
    O: two workers with the defaults share a backlog of old events: 20,000 of 200 ids (Zipf 1.1),
    then 5,000 of as many ids. GET 20 ms, 10 threads each.
    """
    backlogs = {
        "few ids": zipf(bench.number(20_000, 4_000)),
        "different ids": distinct(bench.number(5_000, 1_000)),
    }
    shares: dict[str, list[list[int]]] = {name: [] for name in backlogs}
    gets: dict[str, list[int]] = {name: [] for name in backlogs}
    for name, ids in [*backlogs.items()] * bench.rounds:
        bench.progress(name, len(ids))
        stage = bench.stage()
        shares[name].append(play(stage, bench, ids))
        gets[name].append(sum(stage.tell(stage.source, "state").values()))
    rows = [
        ["backlog", "events", "the busier one's share", "GETs/event"],
        *(
            [
                name,
                f"{len(ids):,}",
                ", ".join(f"{max(each) / sum(each):.0%}" for each in shares[name]),
                f"{statistics.median(gets[name]) / len(ids):.3f}",
            ]
            for name, ids in backlogs.items()
        ),
    ]
    figures = [
        Figure(
            f"{name}, the busier one's share",
            statistics.median(max(each) / sum(each) * 100 for each in of),
            "%",
            at_most=60,
        )
        for name, of in shares.items()
    ]
    figures += [
        exactly(f"{name}, events", sum(map(sum, shares[name])), len(ids) * bench.rounds)
        for name, ids in backlogs.items()
    ]
    return Report(figures, rows, [], {"acknowledged": shares, "gets": gets})


def play(stage: Stage, bench: Bench, ids: Sequence[str]) -> list[int]:
    """Let two workers drain a queue; return how many events each of them acknowledged."""
    queue_url = stage.queue(VisibilityTimeout="60")
    path = stage.directory / f"{uuid.uuid4().hex}.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # both workers at once can fail
    ours = bench.named("ours")
    counts = [stage.directory / f"{uuid.uuid4().hex}.json" for _ in range(2)]
    settings = [{**ours.more, "counts": str(each)} for each in counts]
    workers = [stage.consume(queue_url, ours, path, threads=THREADS, **each) for each in settings]
    try:
        stage.wait_for_polls(queue_url, workers)
        stage.tell(stage.source, "begin", latency=LATENCY)
        stage.fill(queue_url, ours.messages(name_of(queue_url), list(ids)), age=OLD)
        wait_until(lambda: stage.state(queue_url)["emptied"] is not None, PATIENCE)
        emptied = time.time()
        wait_until(lambda: all(written_after(each, emptied) for each in counts), 10)
    finally:
        for worker in workers:
            worker.close()
    return [json.loads(each.read_text(encoding="utf-8"))["acknowledged"] for each in counts]


def written_after(path: Path, when: float) -> bool:
    """Return whether a worker has written its counts since then."""
    return path.exists() and path.stat().st_mtime > when + 0.3
