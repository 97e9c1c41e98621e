"""Plays in which looks fail: because of some entities, or of an outage."""

from __future__ import annotations

import sqlite3
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from verification.chaos.faults import (
    BROKEN,
    FORBIDDEN,
    HTML,
    OOPS,
    UNAVAILABLE,
    Deliveries,
    answering,
)
from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.progress import Progress
from verification.harness.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


# Broken ids


def broken_ids(
    _seed: int, *, numbers: Sequence[int], healthy: int, max_receives: int
) -> list[Figure]:
    """
    One, five and a thousand ids are broken, in each of four ways, and healthy ones come between.

    Delays are from the moment when SQS hands out a healthy id to its first GET: the emulator needs
    long for a receive if its queue is long, with or without broken ids. For comparison, the same
    events first come without a broken id.
    """
    progress = Progress(len(numbers) * (1 + len(BROKEN)), "waves of events")
    sound = _delays("sound", numbers, healthy, max_receives, progress)
    figures = []
    for kind in BROKEN:
        beside = _delays(kind, numbers, healthy, max_receives, progress)
        for number, delay in beside.delays.items():
            without = sound.delays[number]
            figures.append(
                Figure(
                    f"slowest healthy id beside {number:,}: {kind} ({without:.2f} s without)",
                    delay,
                    "s",
                    at_most=without + 1,
                )
            )
        most = max(numbers)
        figures.append(
            Figure(
                f"median from publish to GET beside {most:,}: {kind} "
                f"({sound.latencies[most]:.2f} s without)",
                beside.latencies[most],
                "s",
            )
        )
        figures += none(
            **{f"outages that the worker saw: {kind}": beside.outages},
            **{f"broken ids that were cached: {kind}": beside.cached_broken},
        )
        figures.append(exactly(f"dead letters: {kind}", beside.dead, sum(numbers)))
        figures.append(
            exactly(f"healthy ids cached: {kind}", beside.cached, len(numbers) * healthy)
        )
    return figures


class _Beside:
    """
    What became of healthy ids beside others.

    Attributes:
        delays: The longest seconds from a receive to a GET, by the number of others.
        latencies: The median of seconds from a publish to a GET, likewise.
    """

    def __init__(self) -> None:
        self.delays: dict[int, float] = {}
        self.latencies: dict[int, float] = {}
        self.outages = self.cached = self.cached_broken = self.dead = 0


def _delays(
    kind: str, numbers: Iterable[int], healthy: int, max_receives: int, progress: Progress
) -> _Beside:
    result = _Beside()
    with Stage(visibility=30, max_receives=max_receives, settle=0.5) as stage:
        if answer := BROKEN.get(kind):
            stage.before_source.fault = answering(answer, "broken-")
        elif kind in BROKEN:
            _refuse_rows(stage.cache.path)
        stage.fill(20, "control-")
        deliveries = Deliveries(stage.before_sqs)
        worker = stage.worker()
        for number in numbers:
            ids = [f"healthy-{number}-{each}" for each in range(healthy)]
            others = [f"broken-{number}-{each}" for each in range(number)]
            published = {}
            for each, id in enumerate(ids):
                published[id] = time.monotonic()
                stage.commit([*others[each::healthy], id])
                time.sleep(0.1)  # spread, so that broken ones are tried again meanwhile
            stage.wait_until_cached(ids)
            stage.wait_until_empty()
            first: dict[str, float] = {}
            for at, id in list(stage.source.asked):
                first.setdefault(id, at)
            result.delays[number] = max(first[id] - deliveries.first[id] for id in ids)
            result.latencies[number] = statistics.median(first[id] - published[id] for id in ids)
            progress.add(1)
        worker.require_alive()
        cached = stage.cache.items()
        result.cached = sum(id.startswith("healthy-") for id in cached)
        result.cached_broken = sum(id.startswith("broken-") for id in cached)
        result.outages = len(worker.noted("outage"))
        result.dead = stage.dead()
    return result


def _refuse_rows(path: Path) -> None:
    """Let the database refuse the rows of broken ids."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON entities WHEN new.id LIKE 'broken-%' "
            "BEGIN SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed'); END"
        )


# Outages


def few_in_outage(
    _seed: int, *, numbers: Sequence[int], kinds: int, visibility: int, max_receives: int
) -> list[Figure]:
    """
    One, two and forty events come in an outage of each kind.

    It lasts longer than the visibility timeout times maxReceiveCount.
    """
    down = visibility * max_receives * 1.25
    names = list(OUTAGES)[:kinds]
    progress = Progress(len(names) * len(numbers), "outages")
    figures = [Figure("each outage", down, "s")]
    for kind in names:

        def play(number: int, kind: str = kind) -> _Outage:
            result = _Outage(kind, number, down, visibility, max_receives)
            progress.add(1)
            return result

        with ThreadPoolExecutor(len(numbers)) as pool:
            results = list(pool.map(play, numbers))
        figures += [
            exactly(
                f"{kind}: workers that saw an outage",
                sum(result.seen for result in results),
                len(numbers),
            ),
            exactly(
                f"{kind}: receives of a message, at most",
                max(result.receives for result in results),
                1,
            ),
            # The longest pause, and a moment.
            Figure(
                f"{kind}: back to all cached",
                max(result.back for result in results),
                "s",
                at_most=30 + 10,
            ),
            *none(
                **{
                    f"{kind}: dead letters": sum(result.dead for result in results),
                    f"{kind}: lost": sum(result.lost for result in results),
                }
            ),
        ]
    return figures


class _Outage:
    """An outage while so many events are queued, and what it cost."""

    def __init__(
        self, kind: str, number: int, down: float, visibility: int, max_receives: int
    ) -> None:
        with Stage(visibility=visibility, max_receives=max_receives) as stage:
            stage.fill(10, "control-")
            deliveries = Deliveries(stage.before_sqs)
            begin, end = OUTAGES[kind]
            worker = stage.worker()
            begin(stage)
            stage.commit(f"p{each}" for each in range(number))
            time.sleep(down)  # the outage itself
            end(stage)
            self.back = stage.wait_until_empty()
            worker.require_alive()
            self.seen = any(line.get("over") is False for line in worker.noted("outage"))
            self.receives = max(deliveries.receives.values())
            self.dead = stage.dead()
            self.lost = stage.verdict()["lost"]


def _answer(answer: Answer) -> tuple[Callable[[Stage], None], Callable[[Stage], None]]:
    def begin(stage: Stage) -> None:
        stage.before_source.fault = lambda _: answer

    def end(stage: Stage) -> None:
        stage.before_source.fault = lambda _: None

    return begin, end


def _rename(old: str, new: str) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        with closing(sqlite3.connect(stage.cache.path, timeout=PATIENCE)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    return change


OUTAGES: dict[str, tuple[Callable[[Stage], None], Callable[[Stage], None]]] = {
    "500": _answer(OOPS),
    "connection refused": (
        lambda stage: stage.before_source.go_away(),
        lambda stage: stage.before_source.come_back(),
    ),
    "503": _answer(UNAVAILABLE),
    "403": _answer(FORBIDDEN),
    "a redirect": _answer(Answer(302, b"", {"Location": "/sign-in"})),
    "HTML with 200": _answer(Answer(200, b"<h1>Sign in</h1>", HTML)),
    "no database": (_rename("entities", "away"), _rename("away", "entities")),
}
"""How each kind of outage begins and ends."""
