"""The workloads, each with its goals."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import psutil

from verification.benchmarks import contenders
from verification.benchmarks.auditing import auditing
from verification.benchmarks.backfilling import backfilling
from verification.benchmarks.bearing import bearing
from verification.benchmarks.bench import AGED, LATENCY, OLD, Bench, distinct, zipf
from verification.benchmarks.beside import beside_backfills
from verification.benchmarks.contest import Report, Rounds, Spread, spread, table, times
from verification.benchmarks.cost import cost
from verification.benchmarks.floor import floor, floor_apart
from verification.benchmarks.fresh import freshness
from verification.benchmarks.hold import holding
from verification.benchmarks.publishing import publishing
from verification.benchmarks.redriving import redriving
from verification.benchmarks.sharing import sharing
from verification.benchmarks.sinks import storing
from verification.benchmarks.stage import CREDENTIALS, Stage, name_of
from verification.harness.figures import Figure
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.benchmarks.stage import Run


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
        data(runs),
    )


def data(runs: Rounds) -> dict[str, Any]:
    """Return the runs of a contest for JSON."""
    return {name: [asdict(run) for run in of] for name, of in runs.items()}


def with_others(found: Report, others: dict[str, Rounds]) -> Report:
    """Return a contest's report with other contests below it, by how they were run."""
    rows = [
        [f"{name}, {how}", *rest] for how, runs in others.items() for name, *rest in table(runs)[1:]
    ]
    kept = {how: data(runs) for how, runs in others.items()}
    return Report(found.figures, found.table + rows, found.notes, {"contest": found.data, **kept})


def aged(name: str, age: float) -> str:
    """Return what a contender with events of this age is called."""
    return f"{name}, {AGED}" if age else name


def prefixed(how: str, figures: Sequence[Figure]) -> list[Figure]:
    """Return figures with how they were measured."""
    return [replace(figure, what=f"{how}, {figure.what}") for figure in figures]


def rate(runs: Sequence[Run]) -> float:
    """Return the events a second."""
    return spread(runs, lambda run: run.rate).median


def gets(runs: Sequence[Run]) -> float:
    """Return the GETs an event."""
    return spread(runs, lambda run: run.gets / run.events).median


def distinct_ids(bench: Bench) -> Report:
    """
    A: 5,000 events of as many ids, GET 20 ms, 10 threads: fresh ones, and ones that have been in
    the queue for 10 s.
    """
    notes: list[str] = []
    threads = 10
    limit = threads / LATENCY
    ids = distinct(bench.number(5_000, 600))
    own = [contenders.OURS, contenders.NO_EARLY, contenders.BULK]
    fresh = bench.contest([*own, *contenders.OTHERS], ids, notes, threads=threads)
    old = bench.contest(
        [contenders.OURS, contenders.BULK, contenders.TUNED], ids, notes, threads=threads, age=OLD
    )
    goals: dict[str, float | None] = {"tuned": 1.4, "dramatiq": 3, "plain": 10}
    shares = {name: rate(of) / limit for name, of in fresh.items()}
    figures = [
        *faster_than(fresh, goals),
        Figure("of the latency limit", shares["ours"], at_least=0.95),
        Figure("GETs an event", gets(fresh["ours"])),
        *faster_than(fresh, dict.fromkeys(goals), contenders.BULK.name),
        *prefixed(
            AGED,
            [
                *faster_than(old, {"tuned": 1}),
                Figure("of the latency limit", rate(old["ours"]) / limit, at_least=0.95),
                Figure("GETs an event", gets(old["ours"]), at_most=1.02),
                *faster_than(old, {"tuned": None}, contenders.BULK.name),
            ],
        ),
        *(
            Figure(f"the latency limit, times as fast as {name}", 1 / shares[name])
            for name in goals
            if name in shares
        ),
        Figure(
            "a client that only GETs, of the latency limit", bench.gets_per_second(threads) / limit
        ),
    ]
    return with_others(report(fresh, figures, notes), {AGED: old})


def many_threads(bench: Bench) -> Report:
    """
    B: 10,000 events with 50 threads, fresh and old; then old ones with the canned queue, in one
    process and in two that share the cache's file.
    """
    notes: list[str] = []
    ids = distinct(bench.number(10_000, 1_000))
    own = [contenders.OURS, contenders.AHEAD]
    fresh = bench.contest([*own, *contenders.OTHERS], ids, notes, threads=50)
    two_ways = [contenders.OURS, contenders.TUNED]
    old = bench.contest(two_ways, ids, notes, threads=50, age=OLD)
    busy = [
        f"{spread(of, lambda run: run.server_cpu / run.wall).median:.0%} of the time with {name}"
        for name, of in old.items()
    ]
    notes.append(f"{AGED}: the queue server is busy for {', '.join(busy)}")
    # With the canned queue, the queue server is not the limit.
    one, two = (
        bench.contest(two_ways, ids, notes, canned=True, threads=50, processes=processes, age=OLD)
        for processes in (1, 2)
    )
    gain = Spread.of(
        [both.rate / single.rate for both, single in zip(two["ours"], one["ours"], strict=True)]
    )
    in_use = spread(two["ours"], lambda run: (run.cpu + run.server_cpu + run.source_cpu) / run.wall)
    figures = [
        *faster_than(fresh, {"tuned": 2}),
        *faster_than(fresh, {"tuned": None}, contenders.AHEAD.name),
        *prefixed(
            AGED,
            [
                *faster_than(old, {"tuned": 2}),
                Figure("two processes, times as fast as one", gain.median, at_least=1.6),
                Figure(
                    "two processes and their servers, processors in use",
                    in_use.median,
                    f"of {psutil.cpu_count()}",
                ),
                *prefixed("two processes", faster_than(two, {"tuned": None})),
            ],
        ),
    ]
    others = {
        AGED: old,
        f"{AGED}, one process, canned queue": one,
        f"{AGED}, two processes, canned queue": two,
    }
    return with_others(report(fresh, figures, notes), others)


def coalescing(bench: Bench) -> Report:
    """C: 20,000 events of 200 ids (Zipf 1.1), GET 20 ms, 10 threads, fresh and old."""
    notes: list[str] = []
    ids = zipf(bench.number(20_000, 2_000))
    fresh = bench.contest(
        [contenders.OURS, *contenders.OTHERS], ids, notes, threads=10, others=0.25
    )
    old = bench.contest(
        [contenders.OURS, contenders.AHEAD, contenders.TUNED],
        ids,
        notes,
        threads=10,
        others=0.25,
        age=OLD,
    )
    figures = [
        *faster_than(fresh, {"tuned": 5}),
        Figure("GETs an event", gets(fresh["ours"]), at_most=0.04),
        *prefixed(
            AGED,
            [
                *faster_than(old, {"tuned": 5}),
                Figure("GETs an event", gets(old["ours"]), at_most=0.04),
                Figure("events a second", rate(old["ours"]), at_least=3_500),
                *(
                    Figure(f"{name}, GETs an event", gets(of), at_most=0.04)
                    for name, of in old.items()
                    if name == contenders.AHEAD.name
                ),
            ],
        ),
    ]
    return with_others(report(fresh, figures, notes), {AGED: old})


def calls(bench: Bench) -> Report:
    """
    D: calls to SQS per 1,000 events of different ids, fresh and old, with 10 threads and with 50.
    """
    stage, number = bench.stage(canned=True), bench.number(5_000, 1_000)
    runs: Rounds = {}
    for age, threads in itertools.product((0.0, OLD), (10, 50)):
        name = f"{aged('ours', age)}, {threads} threads"
        bench.progress(name, number)
        runs[name] = [
            stage.run(
                bench.named("ours"), distinct(number), threads=threads, latency=LATENCY, age=age
            )
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
    E: the client's CPU per event, fresh and old, beside the least possible with one GET, measured
    in the same run; canned queue, 4 to 50 threads.
    """
    stage, number = bench.stage(canned=True), bench.number(2_000, 600)
    notes: list[str] = []
    runs: Rounds = {}
    floors: list[dict[str, float]] = []
    shares: dict[str, list[float]] = {}
    compared = [
        (contender, age, threads)
        for contender, age in (("ours", 0.0), ("ours", OLD), ("tuned", 0.0))
        for threads in ((10, 50) if bench.quick else (4, 10, 50))
    ]
    for contender, age, threads in compared * bench.rounds:
        # The floor is measured each time: other load on the machine changes it.
        floors.append(measured_floor(bench, stage, bench.number(100, 50)))
        name = f"{aged(contender, age)}, {threads} threads"
        bench.progress(name, number)
        run = stage.run(
            bench.named(contender), distinct(number), threads=threads, latency=LATENCY, age=age
        )
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
        goal = 1.3 if runs[name][0].contender == "ours" else None
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
    "J": redriving,
    "K": backfilling,
    "L": auditing,
    "M": beside_backfills,
    "N": storing,
    "O": sharing,
    "P": bearing,
}
