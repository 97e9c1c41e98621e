"""How stale live changes are beside a backfill, and without one."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from verification.benchmarks.contest import Report
from verification.benchmarks.fresh import EARLY, GET, PERIOD, Way, percentile, play
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

ALONE = Way(EARLY, "ours", save=0.002)

BESIDE = {
    "beside a backfill of ids": replace(ALONE, backfill="ids"),
    "beside a backfill of whole products": replace(ALONE, backfill="entities"),
}


def beside_backfills(bench: Bench) -> Report:
    """M: seconds from a commit to the cache, beside a worker's own backfill and without one."""
    number = bench.number(300, 40)
    ways = {"without a backfill": ALONE, **BESIDE}
    rounds: dict[str, list[list[float]]] = {name: [] for name in ways}
    pages: dict[str, int] = dict.fromkeys(BESIDE, 0)
    for _ in range(bench.rounds):
        for name, way in ways.items():
            bench.progress(name, number)
            stage = bench.stage()
            rounds[name].append(sorted(lag * 1e3 for lag in play(stage, way, number)))
            if way.backfill:
                pages[name] += stage.tell(stage.source, "state")["pages"]

    def median(name: str, percent: float) -> float:
        return statistics.median(percentile(lags, percent) for lags in rounds[name])

    def ratio(name: str) -> float:
        return statistics.median(
            percentile(lags, 99) / percentile(alone, 99)
            for lags, alone in zip(rounds[name], rounds["without a backfill"], strict=True)
        )

    rows = [
        ["", "p50 ms", "p99 ms", "worst ms"],
        *([name, *(f"{median(name, each):,.0f}" for each in (50, 99, 100))] for name in ways),
    ]
    figures = [Figure(f"{name}, p99, times that without", ratio(name), at_most=2) for name in pages]
    figures += [
        Figure(f"{name}, pages read meanwhile", read / bench.rounds, at_least=1)
        for name, read in pages.items()
    ]
    note = (
        f"{number} saves of 2 ms, one every {PERIOD * 1e3:.0f} ms, each of another id. "
        f"{GET * 1e3:.0f} ms for a page of 100 and for each GET. The listing never ends."
    )
    return Report(figures, rows, [note], {"milliseconds": rounds, "pages": pages})
