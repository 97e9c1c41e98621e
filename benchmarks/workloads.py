"""The workloads, each with its goals."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import uuid
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import contenders
from benchmarks.contest import Report, Rounds, contest, spread, table, times
from benchmarks.floor import floor
from benchmarks.stage import CREDENTIALS, Stage, name_of, wait_until
from chaos.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from benchmarks.contenders import Contender

LATENCY = 0.020
"""Seconds that a GET takes at the source."""


@dataclass
class Bench:
    """
    What a workload is given.

    Attributes:
        quick: Numbers for a minute in all, not for many.
        canned: The canned queue server in ministack's place.
        scale: Which part of the events to play; tests play few.
        contenders: Who takes part, where several do.
        progress: Told what is about to be done, and how many events that is.
    """

    quick: bool = False
    canned: bool = False
    scale: float = 1.0
    contenders: Sequence[Contender] = tuple(contenders.AT_HAND)
    progress: Callable[[str, int], object] = lambda *_: None
    _exits: ExitStack = field(default_factory=ExitStack, init=False)
    _stages: dict[bool, Stage] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def stage(self, *, canned: bool = False) -> Stage:
        """Return servers: the same ones each time."""
        canned = canned or self.canned
        if canned not in self._stages:
            self.progress("starting the servers", 0)
            self._stages[canned] = self._exits.enter_context(Stage(canned=canned))
        return self._stages[canned]

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def number(self, full: int, quick: int) -> int:
        """Return how many events to take."""
        return max(20, int((quick if self.quick else full) * self.scale))

    def contest(self, events: Sequence[str], notes: list[str], stage: Stage | None = None, **settings: Any) -> Rounds:
        """Let the contenders do the work in turn."""
        return contest(
            stage or self.stage(),
            self.contenders,
            events,
            rounds=self.rounds,
            progress=self.progress,
            notes=notes,
            **{"latency": LATENCY, **settings},
        )


def distinct(number: int) -> list[str]:
    """Return so many different ids."""
    return [f"p{at}" for at in range(number)]


def zipf(number: int, *, ids: int = 200, exponent: float = 1.1, seed: int = 1) -> list[str]:
    """Return ids of which the most frequent is drawn 2^1.1 times as often as the next, and so on."""
    weights = [1 / rank**exponent for rank in range(1, ids + 1)]
    return random.Random(seed).choices(distinct(ids), weights, k=number)


def faster_than(runs: Rounds, goals: dict[str, float]) -> list[Figure]:
    """Return how many times as fast as others ours is."""
    ratios = {name: times(runs, name) for name in goals}
    return [
        Figure(f"times as fast as {name}", ratio.median, at_least=goals[name])
        for name, ratio in ratios.items()
        if ratio is not None
    ]


def report(runs: Rounds, figures: list[Figure], notes: list[str]) -> Report:
    """Return a contest's report."""
    return Report(figures, table(runs), notes, {name: [asdict(run) for run in of] for name, of in runs.items()})


def distinct_ids(bench: Bench) -> Report:
    """A: 5,000 events of as many ids, GET 20 ms, 10 threads, settle 0."""
    notes: list[str] = []
    threads = 10
    runs = bench.contest(distinct(bench.number(5_000, 600)), notes, threads=threads)
    share = spread(runs["ours"], lambda run: run.rate * LATENCY / threads)
    return report(
        runs,
        [
            *faster_than(runs, {"tuned": 1.4, "dramatiq": 3, "plain": 10}),
            Figure("of the latency limit", share.median, at_least=0.95),
        ],
        notes,
    )


def coalescing(bench: Bench) -> Report:
    """C: a backlog of 20,000 events of 200 ids (Zipf 1.1), GET 20 ms, 10 threads, settle 0."""
    notes: list[str] = []
    runs = bench.contest(zipf(bench.number(20_000, 2_000)), notes, threads=10)
    gets = spread(runs["ours"], lambda run: run.gets / run.events)
    return report(runs, [Figure("GETs an event", gets.median, at_most=0.05), *faster_than(runs, {"tuned": 5})], notes)


def calls(bench: Bench) -> Report:
    """D: calls to SQS for 1,000 events of a backlog of different ids, with 10 threads and with 50."""
    stage, number = bench.stage(canned=True), bench.number(5_000, 1_000)
    runs: Rounds = {}
    for threads in (10, 50):
        bench.progress(f"{threads} threads", number)
        runs[f"ours, {threads} threads"] = [stage.run(contenders.OURS, distinct(number), threads=threads, latency=LATENCY)]
    figures = [
        Figure(f"calls per 1,000 events, {name}", sum(run.calls.values()) / run.events * 1000, at_most=205)
        for name, (run,) in runs.items()
    ]
    return report(runs, figures, ["The floor is 200: 100 receives of ten, 100 deletes of ten."])


def cpu(bench: Bench) -> Report:
    """E: CPU of the client an event, against the least it could be, measured in the same run; canned queue, 4 to 50 threads."""
    stage, number = bench.stage(canned=True), bench.number(3_000, 600)
    notes: list[str] = []
    runs: Rounds = {}
    floors: list[dict[str, float]] = []
    for _ in range(bench.rounds):
        floors.append(measured_floor(bench, stage, bench.number(400, 100)))
        for contender, threads in itertools.product((contenders.OURS, contenders.TUNED), (4, 10, 50)):
            bench.progress(f"{contender.name}, {threads} threads", number)
            run = stage.run(contender, distinct(number), threads=threads, latency=LATENCY)
            runs.setdefault(f"{contender.name}, {threads} threads", []).append(run)
    figures = [
        Figure("floor", statistics.median(floor(costs, "get_by_urllib3") for costs in floors), "ms an event"),
        Figure(
            "floor with http.client", statistics.median(floor(costs, "get_by_http_client") for costs in floors), "ms an event"
        ),
        *(
            Figure(name.replace("_", " "), statistics.median(costs[name] for costs in floors), "ms a call")
            for name in floors[0]
        ),
    ]
    for name, of in runs.items():
        shares = [run.cpu / run.events * 1e3 / floor(costs, "get_by_urllib3") for run, costs in zip(of, floors, strict=True)]
        goal = 1.3 if name.startswith("ours") else None
        figures.append(Figure(f"{name}, times the floor", statistics.median(shares), at_most=goal))
    found = report(runs, figures, notes)
    found.data["floors"] = floors
    return found


def measured_floor(bench: Bench, stage: Stage, calls: int) -> dict[str, float]:
    """Measure the floor in a process of its own; return the milliseconds of CPU of each of its calls."""
    bench.progress("the floor", 0)
    queue_url = stage.queue()
    stage.tell(stage.source, "begin", latency=0)
    stage.fill(queue_url, contenders.OURS.messages(name_of(queue_url), distinct(calls * 10 * 5)))
    process = stage.start(
        "floor",
        sys.executable,
        *("-m", "benchmarks.floor", queue_url, stage.source, str(stage.directory / f"{uuid.uuid4().hex}.db"), str(calls)),
        **CREDENTIALS,
        AWS_ENDPOINT_URL=stage.server,
    )
    wait_until(lambda: not process.alive, 120)
    costs: dict[str, float] = json.loads(process.text())
    return costs


WORKLOADS: dict[str, Callable[[Bench], Report]] = {
    "A": distinct_ids,
    "C": coalescing,
    "D": calls,
    "E": cpu,
}
