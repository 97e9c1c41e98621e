"""How many GETs a worker sends at once: is it fast, and does the source bear it?"""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import TYPE_CHECKING, Any

from change_events._consumer.settings import THREADS
from verification.benchmarks import contenders
from verification.benchmarks.bench import OLD, distinct
from verification.benchmarks.contest import Report
from verification.benchmarks.stage import name_of
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench
    from verification.benchmarks.contenders import Contender
    from verification.benchmarks.stage import Run

FIXED = dataclasses.replace(contenders.OURS, name="ours, fixed", more={"fixed": True})
"""The worker, with as many GETs at once as it has threads."""

SERVERS, LATENCY = 8, 0.020
"""What the scarce source can do at once, and for how long each lasts."""

CAPACITY = SERVERS / LATENCY
"""GETs that it can answer in a second."""

CACHES = 12
"""Caches that drain at once."""

LATENCIES = (0.001, 0.005, 0.020, 0.100)
"""Of the sources without a limit, in seconds."""

PERCENT = (0, 30, 70)
"""The foreground, of the capacity."""

ALONE = 40.0
"""For how many seconds the foreground is measured alone."""

SLOW = (10.0, 30.0, 12.0)
"""Seconds before the source becomes slow, until it recovers, and after that."""

Row = dict[str, Any]


def bearing(bench: Bench) -> Report:
    """
    P: the worker finds its own number of GETs at once. Sources of 1 to 100 ms without a limit,
    beside fixed numbers; one that serves 8 at once, 20 ms each, with foreground traffic of 0, 30
    and 70 %, for one cache and for twelve, beside loops with 50 threads; one that is slow for a
    while. Events 10 s old, canned queue.
    """
    rows: list[Row] = []
    figures = [
        *_without_limit(bench, rows),
        *_with_foreground(bench, rows),
        *_slow_for_a_while(bench, rows),
    ]
    names = ("source", "who", "events", "events/s", "of the best", "foreground p99 ms", "times")
    return Report(
        figures,
        [list(names), *([_text(row.get(name)) for name in names] for row in rows)],
        ["The foreground's requests wait in the source's own queue; they have no connections."],
        rows,
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return "" if value is None else str(value)


def _run(bench: Bench, contender: Contender, number: int, **more: Any) -> Run:
    bench.progress(f"{contender.name}, {more}", number)
    settings = {"threads": THREADS, "latency": LATENCY, **more}
    return bench.stage(canned=True).run(contender, distinct(number), age=OLD, **settings)


def _without_limit(bench: Bench, rows: list[Row]) -> list[Figure]:
    figures = []
    for latency in LATENCIES:
        source = f"{latency * 1000:.0f} ms"
        number = bench.number(4_000 if latency < 0.1 else 8_000, 1_000)
        runs = {"ours": _run(bench, contenders.OURS, number, latency=latency)}
        for threads in (64,) if bench.quick else (5, 10, 20, 50, 64):
            # It would take minutes with few threads, and only the rate is compared.
            some = min(number, int(threads / latency * 8) + 100)
            runs[f"{threads} fixed"] = _run(bench, FIXED, some, threads=threads, latency=latency)
        best = max(run.rate for who, run in runs.items() if who != "ours")
        rows += [
            {
                "source": source,
                "who": who,
                "events": run.events,
                "events/s": run.rate,
                "of the best": run.rate / best,
            }
            for who, run in runs.items()
        ]
        share = runs["ours"].rate / best
        figures.append(Figure(f"{source}, of the best fixed number", share, at_least=0.9))
    return figures


def _with_foreground(bench: Bench, rows: list[Row]) -> list[Figure]:
    figures, number = [], bench.number(20_000, 1_000)
    for percent in PERCENT:
        source, load = f"8 at once, {percent} % foreground", CAPACITY * percent / 100
        free = CAPACITY - load
        alone = _foreground(bench, load, ALONE / 4 if bench.quick else ALONE)
        loops, caches = (contenders.TUNED, 50, 1), (contenders.OURS, THREADS, CACHES)
        for contender, threads, processes in ((contenders.OURS, THREADS, 1), loops, caches):
            if processes > 1 and bench.quick:
                continue
            run = _run(
                bench,
                contender,
                number,
                threads=threads,
                processes=processes,
                servers=SERVERS,
                foreground=load,
            )
            stage = bench.stage(canned=True)
            p99 = float(stage.tell(stage.source, "foreground").get("p99", 0.0))
            who = contender.name if processes == 1 else f"{processes} x ours"
            times = p99 / alone if alone else None
            rows.append(
                {
                    "source": source,
                    "who": who,
                    "events": run.events,
                    "events/s": run.rate,
                    "of the best": run.rate / free,
                    "foreground p99 ms": p99 * 1000 if alone else None,
                    "times": times,
                }
            )
            if contender is contenders.OURS:
                goal = 0.9 if processes == 1 else 0.8
                figures.append(
                    Figure(
                        f"{source}, {who}, of the free capacity",
                        run.rate / free,
                        at_least=goal if processes > 1 or not percent else None,
                    )
                )
            if times is not None:
                most = 1.5 if contender is contenders.OURS else None
                figures.append(Figure(f"{source}, {who}, p99 times alone", times, at_most=most))
    return figures


def _foreground(bench: Bench, load: float, seconds: float) -> float:
    """Return the 99th percentile of the foreground alone; 0 if there is none."""
    if not load:
        return 0.0
    stage = bench.stage(canned=True)
    bench.progress(f"foreground, {load:.0f} a second", 0)
    stage.tell(stage.source, "begin", latency=LATENCY, servers=SERVERS, foreground=load)
    time.sleep(seconds)
    return float(stage.tell(stage.source, "foreground")["p99"])


def _slow_for_a_while(bench: Bench, rows: list[Row]) -> list[Figure]:
    """Let the source become ten times slower, and recover."""
    stage = bench.stage(canned=True)
    before, slow, after = SLOW
    queue_url, path = (
        stage.queue(VisibilityTimeout="60"),
        stage.directory / f"{uuid.uuid4().hex}.db",
    )
    worker = stage.consume(queue_url, contenders.OURS, path, threads=THREADS)
    try:
        stage.wait_for_polls(queue_url, [worker])
        bench.progress("a source that is slow for a while", 0)
        stage.tell(stage.source, "begin", latency=LATENCY, servers=SERVERS)
        events = distinct(int(CAPACITY * (before + slow + after)))
        stage.fill(queue_url, contenders.OURS.messages(name_of(queue_url), events), age=OLD)
        _gets(bench, before)
        stage.tell(stage.source, "latency", latency=LATENCY * 10)
        slowed = _gets(bench, slow)
        stage.tell(stage.source, "latency", latency=LATENCY)
        recovered = _gets(bench, after)
    finally:
        worker.close()
    again = next((at for at, rate in recovered if rate >= 0.9 * CAPACITY), 99.0)
    last = [rate for at, rate in slowed if at > slow * 0.8]
    rows += [
        {
            "source": "8 at once, ten times slower",
            "who": "ours, at the end",
            "events/s": sum(last) / len(last),
            "of the best": sum(last) / len(last) / (CAPACITY / 10),
        },
    ]
    return [Figure("seconds until 0.9 of the capacity again", again, "s", at_most=10)]


def _gets(bench: Bench, seconds: float) -> list[tuple[float, float]]:
    """Return the GETs a second, for each half second."""
    stage, rates = bench.stage(canned=True), []
    started = then = time.monotonic()
    gets = stage.tell(stage.source, "state")["gets"]
    while then < started + seconds:
        time.sleep(0.5)
        now, count = time.monotonic(), stage.tell(stage.source, "state")["gets"]
        rates.append((now - started, (count - gets) / (now - then)))
        then, gets = now, count
    return rates
