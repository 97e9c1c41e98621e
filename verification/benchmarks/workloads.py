"""The workloads, each with its goals."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

import psutil

from verification.benchmarks import contenders
from verification.benchmarks.bench import LATENCY, Bench, distinct
from verification.benchmarks.contest import Report, Rounds, Spread, spread, table, times
from verification.benchmarks.cost import cost
from verification.benchmarks.floor import floor, floor_apart
from verification.benchmarks.fresh import freshness
from verification.benchmarks.hold import holding
from verification.benchmarks.publishing import publishing
from verification.benchmarks.stage import CREDENTIALS, Stage, name_of
from verification.harness.figures import Figure
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def zipf(number: int, *, ids: int = 200, exponent: float = 1.1, seed: int = 1) -> list[str]:
    """Draw ids by Zipf's law: the most frequent one 2^1.1 times as often as the next, and so on."""
    weights = [1 / rank**exponent for rank in range(1, ids + 1)]
    return random.Random(seed).choices(distinct(ids), weights, k=number)


def faster_than(runs: Rounds, goals: dict[str, float | None], of: str = "ours") -> list[Figure]:
    """Return how many times as fast as these contenders another one is, by default ours."""
    ratios = {name: times(runs, name, of) for name in goals}
    return [
        Figure(
            f"{'' if of == 'ours' else f'{of}, '}times as fast as {name}",
            ratio.median,
            at_least=goals[name],
        )
        for name, ratio in ratios.items()
        if ratio is not None
    ]


def report(runs: Rounds, figures: list[Figure], notes: list[str]) -> Report:
    """Return the report of a contest."""
    return Report(
        figures,
        table(runs),
        notes,
        {name: [asdict(run) for run in of] for name, of in runs.items()},
    )


def distinct_ids(bench: Bench) -> Report:
    """A: 5,000 events of as many ids, GET 20 ms, 10 threads, settle 0."""
    notes: list[str] = []
    threads = 10
    limit = threads / LATENCY
    runs = bench.contest(distinct(bench.number(5_000, 600)), notes, threads=threads)
    share = {name: spread(of, lambda run: run.rate).median / limit for name, of in runs.items()}
    goals: dict[str, float | None] = {"tuned": 1.4, "dramatiq": 3, "plain": 10}
    figures = [
        *faster_than(runs, goals),
        *(
            Figure(f"the latency limit, times as fast as {name}", 1 / share[name])
            for name in goals
            if name in share
        ),
        Figure("of the latency limit", share["ours"], at_least=0.95),
        Figure("the same for a client that only GETs", bench.gets_per_second(threads) / limit),
    ]
    return report(
        runs, [*figures, *faster_than(runs, dict.fromkeys(goals), contenders.BULK.name)], notes
    )


def many_threads(bench: Bench) -> Report:
    """
    B: the same with 50 threads; also with the canned queue, in one process and in two that share
    the cache's file.
    """
    notes: list[str] = []
    ids = distinct(bench.number(5_000, 1_000))
    runs = bench.contest(ids, notes, threads=50)
    busy = {
        name: spread(of, lambda run: run.server_cpu / run.wall).median for name, of in runs.items()
    }
    notes.append(
        f"the queue server is busy for {busy['ours']:.0%} of the time with ours, "
        f"{busy['tuned']:.0%} with tuned"
    )
    # With the canned queue, the queue server is not the limit.
    one, two = (
        bench.contest(
            ids, notes, "ours", "tuned", "loops", canned=True, threads=50, processes=processes
        )
        for processes in (1, 2)
    )
    gain = Spread.of(
        [both.rate / single.rate for both, single in zip(two["ours"], one["ours"], strict=True)]
    )
    in_use = spread(two["ours"], lambda run: (run.cpu + run.server_cpu + run.source_cpu) / run.wall)
    others: dict[str, float | None] = {"tuned": None, "loops": None}
    figures = [
        *faster_than(runs, {"tuned": 2}),
        *faster_than(runs, {"tuned": None}, contenders.BULK.name),
        Figure("two processes, times as fast as one", gain.median, at_least=1.6),
        Figure(
            "two processes and their servers, processors in use",
            in_use.median,
            f"of {psutil.cpu_count()}",
        ),
        *(
            Figure(f"two processes, {figure.what}", figure.value)
            for figure in faster_than(two, others)
        ),
    ]
    found = report(runs, figures, notes)
    for processes, of in {"one process": one, "two processes": two}.items():
        found.table += report(
            {f"{name}, {processes}, canned queue": each for name, each in of.items()}, [], []
        ).table[1:]
    return Report(
        found.figures, found.table, notes, {"one": found.data, "two": report(two, [], []).data}
    )


def coalescing(bench: Bench) -> Report:
    """C: a backlog of 20,000 events of 200 ids (Zipf 1.1), GET 20 ms, 10 threads, settle 0."""
    notes: list[str] = []
    runs = bench.contest(
        zipf(bench.number(20_000, 2_000)), notes, also=[contenders.AHEAD], threads=10, others=0.25
    )
    gets = {
        name: spread(runs[name], lambda run: run.gets / run.events).median
        for name in ("ours", contenders.AHEAD.name)
    }
    figures = [Figure(f"GETs an event, {name}", each, at_most=0.05) for name, each in gets.items()]
    return report(runs, [*figures, *faster_than(runs, {"tuned": 5})], notes)


def calls(bench: Bench) -> Report:
    """
    D: calls to SQS per 1,000 events of a backlog of different ids, with 10 threads and with 50.
    """
    stage, number = bench.stage(canned=True), bench.number(5_000, 1_000)
    runs: Rounds = {}
    for threads in (10, 50):
        bench.progress(f"{threads} threads", number)
        runs[f"ours, {threads} threads"] = [
            stage.run(contenders.OURS, distinct(number), threads=threads, latency=LATENCY)
        ]
    figures = [
        Figure(
            f"calls per 1,000 events, {name}",
            sum(run.calls.values()) / run.events * 1000,
            at_most=205,
        )
        for name, (run,) in runs.items()
    ]
    notes = [f"{name}: {run.calls}" for name, (run,) in runs.items()]
    return report(
        runs, figures, ["The floor is 200: 100 receives of ten, 100 deletes of ten.", *notes]
    )


def cpu(bench: Bench) -> Report:
    """
    E: the client's CPU per event, beside the least possible, measured in the same run; canned
    queue, 4 to 50 threads.
    """
    stage, number = bench.stage(canned=True), bench.number(3_000, 600)
    notes: list[str] = []
    runs: Rounds = {}
    floors: list[dict[str, float]] = []
    shares: dict[str, list[float]] = {}
    compared = itertools.product(
        (contenders.OURS, contenders.TUNED), (10, 50) if bench.quick else (4, 10, 50)
    )
    for contender, threads in [*compared, (contenders.BULK, 10)] * bench.rounds:
        # The floor is measured each time: other load on the machine changes it.
        floors.append(measured_floor(bench, stage, bench.number(100, 50)))
        name = f"{contender.name}, {threads} threads"
        bench.progress(name, number)
        run = stage.run(contender, distinct(number), threads=threads, latency=LATENCY)
        runs.setdefault(name, []).append(run)
        shares.setdefault(name, []).append(
            run.cpu / run.events * 1e3 / floor(floors[-1], "get_by_urllib3")
        )
    figures = [
        Figure(
            "floor",
            statistics.median(floor(costs, "get_by_urllib3") for costs in floors),
            "ms an event",
        ),
        Figure(
            "floor with http.client",
            statistics.median(floor(costs, "get_by_http_client") for costs in floors),
            "ms an event",
        ),
        Figure(
            "floor, its calls 20 ms apart",
            statistics.median(map(floor_apart, floors)),
            "ms an event",
        ),
        *(
            Figure(
                name.replace("_", " "),
                statistics.median(costs[name] for costs in floors),
                "ms a call",
            )
            for name in floors[0]
        ),
    ]
    for name, of in shares.items():
        goal = 1.3 if runs[name][0].contender == contenders.OURS.name else None
        figures.append(Figure(f"{name}, times the floor", statistics.median(of), at_most=goal))
    found = report(runs, figures, notes)
    found.data["floors"] = floors
    return found


def measured_floor(bench: Bench, stage: Stage, calls: int) -> dict[str, float]:
    """Measure the floor in another process; return the milliseconds of CPU of each kind of call."""
    bench.progress("the floor", 0)
    queue_url = stage.queue()
    stage.tell(stage.source, "begin", latency=0)
    stage.fill(queue_url, contenders.OURS.messages(name_of(queue_url), distinct(calls * 10 * 5)))
    process = stage.start(
        "floor",
        sys.executable,
        *(
            "-m",
            "verification.benchmarks.floor",
            queue_url,
            stage.source,
            str(stage.directory / f"{uuid.uuid4().hex}.db"),
            str(calls),
        ),
        **CREDENTIALS,
        AWS_ENDPOINT_URL=stage.server,
    )
    wait_until(lambda: not process.alive, 120)
    costs: dict[str, float] = json.loads(process.text())
    return costs


WORKLOADS: dict[str, Callable[[Bench], Report]] = {
    "A": distinct_ids,
    "B": many_threads,
    "C": coalescing,
    "D": calls,
    "E": cpu,
    "F": publishing,
    "G": freshness,
    "H": holding,
    "I": cost,
}
