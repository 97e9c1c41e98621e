"""
Backfills, audits with their repair, and redrives in place, at random times, beside the workers.

They are the production code with tasks for threads. Each is a process of its own, which can stall
or be killed at any time. What they are for happens, too: entities older than the queue, and rows of
the cache that somebody changes by hand.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from change_events._consumer.by_hand import own_deletions
from change_events._consumer.queue import Queue
from change_events._consumer.settings import Settings
from change_events._operations.auditor import Auditor
from change_events._operations.dead_letters import Redrive
from change_events._operations.filling import SHOWN, fill
from change_events._operations.letter_looks import LetterLooks
from change_events._operations.letters import Hand
from change_events._operations.throttle import Throttle
from change_events.exceptions import AlreadyRunningError, ListingError, MassDeletionError
from verification.proof.simulation._aws import SQSClient, Topic
from verification.proof.simulation._chance import NO_FAULTS
from verification.proof.simulation._listing import Listing
from verification.proof.simulation._sinks import change_by_hand
from verification.proof.simulation._source import GoneAwayError, NoAnswerError, WatchedSink
from verification.proof.simulation._threads import VirtualThreads
from verification.proof.simulation._witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._operations.audit_report import AuditReport
    from verification.proof.simulation._environment import Environment
    from verification.proof.simulation._kernel import Process
    from verification.proof.simulation._queue import Queue as DeadLetters
    from verification.proof.simulation._sinks import AnySink
    from verification.proof.simulation._world import World

DEAD_LETTERS_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/products-dead"

A_WORLD = 6
"""How many backfills and audits there are while entities are saved, and rows changed by hand."""

REDRIVES = 60.0
"""Virtual seconds between two redrives, on average."""

KILLED = 0.25
"""The chance that an operation is killed within seconds. The same for a stall."""

MIN_AGES = (1.0, 6.0, 65.0)
"""Seconds between the two readings of an audit."""

REFUSALS = (AlreadyRunningError, ListingError, MassDeletionError)
"""How an operation can end without having done its work."""

DOWN = (GoneAwayError, NoAnswerError)
"""The same for a backfill, if the database is down when it begins. Later it waits."""


class DeadLetterCloud(NamedTuple):
    """What a redrive knows of the world."""

    environment: Environment
    topic: Topic
    queue: DeadLetters

    def delivered(self, process: Process, messages: int) -> None:
        """A process has received messages."""


class Operations:
    """
    Operates a world's cache.

    Args:
        world: The world.
        sink: Its cache.
    """

    def __init__(self, world: World, sink: AnySink) -> None:
        self._world = world
        self._sink = sink
        self._witness = Witness(world.ghost, world.kernel)
        self._running: set[Process] = set()
        self._redriving = False
        self._number = 0
        self._closed: bool | None = None

    # What happens when

    def start(self) -> None:
        """Schedule everything."""
        world, setup = self._world, self._world.setup
        kernel, chance = world.kernel, world.environment.chance
        if chance.random() < 0.7:
            for number in range(setup.ids):
                state = 10**6 + number if setup.unique_states else chance.randrange(4)
                self._witness.existed(f"p{number}", state)
        within = setup.writes / setup.rate
        kernel.at(kernel.now + 0.05 * within * chance.random(), self._fill)
        for _ in range(A_WORLD):
            begin = chance.choice([self._fill, self._audit])
            kernel.at(kernel.now + 1.5 * within * chance.random() ** 2, begin)
            kernel.at(kernel.now + within * chance.random(), self._change_by_hand)
        self._await_redrive()

    def ended(self) -> bool:
        """
        Return True once nothing is left to do, after a last audit and its repair.

        To be called again until it does.
        """
        if self._closed is None and not self._running:
            self._closed = False
            self._start("last audit", partial(self._audit_and_repair, last=True))
        return bool(self._closed) and not self._running

    def _change_by_hand(self) -> None:
        world = self._world
        ids = self._sink.ids(limit=10_000)
        if ids and self._closed is None:
            id = world.environment.chance.choice(ids)
            value = -1 - world.ghost.counts["rows changed by hand"]
            if change_by_hand(self._sink, id, value):
                self._witness.changed_by_hand(id, value)

    def _fill(self) -> None:
        self._start("backfill", self._fill_cache)

    def _audit(self) -> None:
        self._start("audit", self._audit_and_repair)

    def _await_redrive(self) -> None:
        world = self._world
        pause = world.environment.chance.expovariate(1 / REDRIVES)
        world.kernel.at(world.kernel.now + pause, self._redrive)

    def _redrive(self) -> None:
        if not self._redriving and self._world.random() < 0.8:  # otherwise all are moved back
            self._world.queue.redrive(to=self._world.topic.dead_letters)
            if self._world.topic.dead_letters.holds_any:
                self._start("redrive", self._redrive_in_place)
        self._await_redrive()

    def _start(self, name: str, work: Callable[[Process], None]) -> None:
        world = self._world
        kernel, random = world.kernel, world.random
        self._number += 1
        process = kernel.process(f"{name}-{self._number}")
        self._running.add(process)
        world.ghost.counts[f"{name}s"] += 1

        def live() -> None:
            try:
                work(process)
            except (*REFUSALS, *DOWN) as error:
                world.ghost.counts[f"{name}s refused: {type(error).__name__}"] += 1
            finally:
                self._running.discard(process)

        kernel.spawn(process, live)
        if world.faults is not NO_FAULTS:
            if random() < KILLED:
                kernel.at(world.environment.soon(), partial(self._kill, process))
            if random() < KILLED:
                kernel.at(world.environment.soon(), partial(self._stall, process))

    def _kill(self, process: Process) -> None:
        if process in self._running:
            self._running.discard(process)  # perhaps it has not begun
            self._world.ghost.counts["operations killed"] += 1
            self._world.kernel.kill(process)

    def _stall(self, process: Process) -> None:
        process.stalled_until = self._world.kernel.now + 0.1 * 1e3 ** self._world.random()

    # What they do

    def _fill_cache(self, process: Process) -> None:
        world, throttle, sink = self._world, self._throttle(process), self._watched()
        deletions = own_deletions(
            sink, world.source, allow=not world.setup.guard, threads=throttle.threads
        )
        deletions.learn()
        try:
            report = fill(
                self._listing(),
                fetcher=world.source,
                sink=sink,
                deletions=deletions,
                throttle=throttle,
                threads=world.environment.chance.choice([1, 4, 10]),
                on_progress=lambda _: None,
                restart=world.random() < 0.1,
            )
        finally:
            with contextlib.suppress(Exception):
                deletions.keep(at_least=1)
        world.ghost.counts["filled"] += 1
        world.ghost.counts["stored by pages"] += report.stored
        if report.failed < SHOWN:
            self._witness.filled(report.failed_ids)

    def _audit_and_repair(self, process: Process, *, last: bool = False) -> None:
        world, throttle = self._world, self._throttle(process)
        chance, kernel, ghost = world.environment.chance, world.kernel, world.ghost
        min_age = chance.choice(MIN_AGES)
        auditor = Auditor(
            self._listing(),
            fetcher=world.source,
            sink=self._watched(),
            min_age=min_age,
            threads=chance.choice([1, 4, 10]),
            on_progress=lambda _: None,
            run=lambda repair: repair(throttle),
        )
        began = kernel.now
        report = auditor.audit(throttle, None)
        stale = ids_of(report)
        ghost.counts["audited"] += 1
        self._witness.audited(stale, report.undecided_ids, since=began, min_age=min_age)
        if last or world.random() < 0.8:
            began = kernel.now
            repaired = report.repair(allow_mass_deletion=last or not world.setup.guard)
            self._witness.repaired(
                [id for id in stale if id not in repaired.failed_ids], since=began
            )
        self._closed = last or self._closed

    def _redrive_in_place(self, process: Process) -> None:
        world, threads = self._world, self._threads(process)
        setup, kernel = world.setup, world.kernel
        process.stopping = True  # what it hands back says nothing of an outage
        self._redriving = True
        settings = Settings(
            DEAD_LETTERS_URL,
            fetcher=world.source,
            sink=self._watched(),
            settle=setup.worker_settle,
            threads=world.environment.chance.choice([1, 4, 10]),
            allow_mass_deletion=not setup.guard,
        )
        client = SQSClient(
            DeadLetterCloud(world.environment, world.topic, world.topic.dead_letters),
            strict=True,
            aged=True,
        )
        hand = Hand(Queue(DEAD_LETTERS_URL, client), threads=threads)
        began = kernel.now
        try:
            report = Redrive(
                settings=settings,
                hand=hand,
                looks=LetterLooks(settings, hand, threads=threads),
                verify=None,
                dry_run=False,
                limit=None,
                drop_malformed=False,
                on_progress=None,
                threads=threads,
            ).work()
        finally:
            self._redriving = False
        world.ghost.counts["letters settled in place"] += report.deleted
        world.ghost.counts["seconds of redrives"] += round(kernel.now - began)

    def _listing(self) -> Listing:
        chance = self._world.environment.chance
        return Listing(
            self._world.source,
            size=chance.choice([1, 10, 100]) if self._world.setup.ids < 1000 else 100,
            entities=chance.random() < 0.7,
        )

    def _watched(self) -> WatchedSink:
        return WatchedSink(self._world, self._sink, self._world.database)

    def _throttle(self, process: Process) -> Throttle:
        return Throttle(threads=self._threads(process))

    def _threads(self, process: Process) -> VirtualThreads:
        offset = self._world.random() * 1e4
        return VirtualThreads(self._world.kernel, process, offset=offset)


def ids_of(report: AuditReport) -> list[str]:
    """Return the ids that are reported as wrong."""
    return [*report.missing_ids, *report.extra_ids, *report.different_ids]
