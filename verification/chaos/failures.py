"""Plays in which looks fail, or never end: because of some entities, or of an outage."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import urllib3

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
from verification.chaos.worker import HUNG_ID
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import free_port, wait_until
from verification.harness.progress import Progress
from verification.harness.source import id_in
from verification.harness.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from verification.harness.wire import Asked

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
    """What became of healthy ids beside others; `delays` in seconds, by the number of others."""

    def __init__(self) -> None:
        self.delays: dict[int, float] = {}
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
            for each, id in enumerate(ids):
                stage.commit([*others[each::healthy], id])
                time.sleep(0.1)  # spread, so that broken ones are tried again meanwhile
            stage.wait_until_cached(ids)
            stage.wait_until_empty()
            first: dict[str, float] = {}
            for at, id in list(stage.source.asked):
                first.setdefault(id, at)
            result.delays[number] = max(first[id] - deliveries.first[id] for id in ids)
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


# Hung looks


def hung_look(
    _seed: int, *, others: int, visibility: int, shutdown_timeout: float, probe: bool
) -> list[Figure]:
    """A look at one id never ends: in a user's fetcher without a timeout, then in a sink."""
    figures = []
    for hangs in "fetcher", "sink":
        figures += _hung_while_working(hangs, others, visibility)
        figures += _hung_at_a_stop(hangs, others, shutdown_timeout)
    return figures + (_hung_probe(others, visibility) if probe else [])


def _hung_while_working(hangs: str, others: int, visibility: int) -> list[Figure]:
    port = free_port()
    with Stage(visibility=visibility) as stage, _Trap(stage) as trap:
        stage.fill(5, "control-")
        deliveries = Deliveries(stage.before_sqs)
        worker = stage.worker(hangs=hangs, health_port=port)
        started = time.monotonic()
        trap.hang(hangs)
        calm = _seconds_until_cached(stage, "calm", others)
        # Only a heartbeat keeps the message invisible for so long.
        time.sleep(max(0.0, started + 2.5 * visibility - time.monotonic()))
        receives = max(deliveries.receives.values())

        trap.down.set()
        later = [f"later-{each}" for each in range(others)]
        stage.commit(later)
        wait_until(lambda: worker.noted("outage"), PATIENCE)
        healthy = _health(port, "/healthz")
        trap.down.clear()
        back = stage.wait_until_cached(later)
        wait_until(lambda: stage.waiting() == 1, PATIENCE)
        what = f"hung in the {hangs}"
        return [
            Figure(f"{what}: until {others} others are cached", calm, "s", at_most=10),
            exactly(f"{what}: receives of a message in 2.5 visibility timeouts", receives, 1),
            exactly(f"{what}: status of /healthz in an outage", healthy, 200),
            # The longest pause, and a moment.
            Figure(f"{what}: until others are cached after an outage", back, "s", at_most=30 + 10),
            *none(**{f"{what}: dead letters": stage.dead()}),
        ]


def _hung_probe(others: int, visibility: int) -> list[Figure]:
    with Stage(visibility=visibility) as stage, _Trap(stage) as trap:
        worker = stage.worker(hangs="fetcher")
        trap.down.set()
        ids = [f"p{each}" for each in range(others)]
        stage.commit([HUNG_ID, *ids])
        wait_until(lambda: worker.noted("outage"), PATIENCE)
        trap.armed.set()
        wait_until(trap.caught.is_set, PATIENCE)
        trap.down.clear()
        back = stage.wait_until_cached(ids)
        return [
            # A probe counts as hung after a minute; then comes the longest pause, and a moment.
            Figure(
                "a probe of an outage hangs: until others are cached",
                back,
                "s",
                at_most=60 + 30 + 10,
            ),
            *none(**{"a probe of an outage hangs: dead letters": stage.dead()}),
        ]


def _hung_at_a_stop(hangs: str, others: int, shutdown_timeout: float) -> list[Figure]:
    # A message that was not handed back would stay invisible for an hour.
    with Stage(visibility=3600, settle=10) as stage, _Trap(stage) as trap:
        worker = stage.worker(hangs=hangs, shutdown_timeout=shutdown_timeout)
        trap.hang(hangs)
        _seconds_until_cached(stage, "held", others)  # by their early looks
        end = worker.stop()
        seen: dict[str, float] = {}
        stopped = time.monotonic()

        def receive() -> bool:
            answer = stage.sqs.receive_message(
                QueueUrl=stage.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=3600
            )
            for message in answer.get("Messages", []):
                seen[json.loads(message["Body"])["id"]] = time.monotonic() - stopped
            return len(seen) == 1 + others

        wait_until(receive, PATIENCE)
        what = f"hung in the {hangs}"
        return [
            # A moment more, because this is the time until the process has ended.
            Figure(f"{what}: stopped", end.seconds, "s", at_most=shutdown_timeout + 3 + 2),
            exactly(f"{what}: exit status", end.status, 0),
            exactly(f"{what}: messages that are visible again", len(seen), 1 + others),
            Figure(
                f"{what}: the last of them, after a window of 10 s",
                max(seen.values()),
                "s",
                at_most=10 + 5,
            ),
        ]


class _Trap:
    """
    Decides how GETs of a stage end, while the block runs.

    Attributes:
        armed: GETs of one id never end.
        caught: One of them has begun.
        down: All others get a 503.
    """

    def __init__(self, stage: Stage) -> None:
        self.armed, self.caught, self.down = (threading.Event() for _ in range(3))
        self._over = threading.Event()
        self._stage = stage

    def __enter__(self) -> Self:
        self._stage.before_source.fault = self._fault
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def hang(self, hangs: str) -> None:
        """Let a look hang, in the fetcher or in the sink."""
        if hangs == "fetcher":
            self.armed.set()
        self._stage.commit([HUNG_ID])
        wait_until(lambda: self.caught.is_set() or _is_asked(self._stage, HUNG_ID), PATIENCE)

    def _fault(self, request: Asked) -> Answer | None:
        if self.armed.is_set() and id_in(request) == HUNG_ID:
            self.caught.set()
            self._over.wait()
        return UNAVAILABLE if self.down.is_set() else None


def _is_asked(stage: Stage, id: str) -> bool:
    return any(asked == id for _, asked in list(stage.source.asked))


def _seconds_until_cached(stage: Stage, prefix: str, number: int) -> float:
    ids = [f"{prefix}-{each}" for each in range(number)]
    stage.commit(ids)
    return stage.wait_until_cached(ids)


def _health(port: int, path: str) -> int:
    url = f"http://127.0.0.1:{port}{path}"
    return urllib3.request("GET", url, timeout=PATIENCE, retries=False).status
