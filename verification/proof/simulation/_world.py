"""
A world: a source, a topic, a queue, processes that save, and processes that follow.

Every part of it can fail.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Protocol

from verification.proof.simulation._aws import Topic
from verification.proof.simulation._books import Save
from verification.proof.simulation._chance import NO_FAULTS, Faults
from verification.proof.simulation._database import Database, SaveFailed
from verification.proof.simulation._environment import Environment, Setup
from verification.proof.simulation._fleet import Fleet, Service, Worker
from verification.proof.simulation._ghost import CHECKS, Ghost
from verification.proof.simulation._kernel import Kernel, Process
from verification.proof.simulation._mistake import Mistake
from verification.proof.simulation._operator import Operator
from verification.proof.simulation._outages import Outages
from verification.proof.simulation._queue import Queue
from verification.proof.simulation._source import Outage, Source
from verification.proof.simulation._workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MANY_IDS = 30
"""With fewer ids it can be that none is known to be good, and an outage costs a few receives."""

QUIET_LIMIT = 20_000.0
"""Virtual seconds from the last save until everything must be quiet."""


class Protagonists(Protocol):
    """The protocol that is played: ours or a peer's."""

    def service(self, world: World, name: str) -> Service: ...
    def worker(self, world: World, name: str) -> Worker: ...


class Beside(Protocol):
    """What runs beside the workers."""

    def start(self) -> None: ...
    def ended(self) -> bool: ...


class World:
    """
    A world.

    Args:
        seed: The seed of everything random.
        setup: How the world is set up.
        protagonists: The protocol that is played.
        operations: Makes what runs beside the workers; None: nothing does.
        checks: The properties of `CHECKS` that end the run.
        traced: The id whose story is kept.
    """

    def __init__(
        self,
        seed: int,
        setup: Setup,
        protagonists: Protagonists,
        *,
        operations: Callable[[World], Beside] | None = None,
        checks: frozenset[str] = frozenset(CHECKS),
        traced: str | None = None,
    ) -> None:
        random.seed(seed)  # production code jitters its pauses by the module's functions
        kernel = Kernel()
        if setup.ids < MANY_IDS:
            checks -= {"patient"}
        hold = max(0.0, max(setup.settle, setup.worker_settle) - setup.queue_delay)
        ghost = Ghost(
            kernel,
            settle=setup.settle,
            hold=hold,
            outside=setup.operations,
            checks=checks,
            traced=traced,
        )
        self.environment = environment = Environment(kernel, ghost, seed, setup)
        self.source = Source(environment, etags=setup.etags, bulk=setup.bulk)
        self.queue = Queue(environment, delay=setup.queue_delay, most_receives=setup.most_receives)
        dead_letters = Queue(environment, delay=0.0, most_receives=10**9)
        self.topic = Topic(environment, self.queue, raw=setup.raw, dead_letters=dead_letters)
        self.database = Outage()  # of the cache
        self._database = Database(environment, settle=setup.settle)
        self._workload = Workload(environment, setup)
        self._operator = Operator(self, settle=setup.settle)
        self._fleet = Fleet(
            environment,
            settle=setup.settle,
            make_service=partial(protagonists.service, self),
            make_worker=partial(protagonists.worker, self),
        )
        self.mistake = Mistake(environment, self.source, self._fleet.restart_workers)
        self._beside = operations(self) if operations and setup.operations else None
        self._outages: list[Outages] = []

    # What services and workers use

    @property
    def kernel(self) -> Kernel:
        """The clock."""
        return self.environment.kernel

    @property
    def setup(self) -> Setup:
        """How the world is set up."""
        return self.environment.setup

    @property
    def ghost(self) -> Ghost:
        """The ghost."""
        return self.environment.ghost

    @property
    def random(self) -> Callable[[], float]:
        """Draws a number from 0 to 1."""
        return self.environment.random

    @property
    def faults(self) -> Faults:
        """What goes wrong now."""
        return self.environment.faults

    def commit_all(self, save: Save) -> None:
        """Commit what a save saves; see `Database`."""
        self._database.commit_all(save)

    def commit_in_thread(self, save: Save) -> None:
        """Commit what a cancelled save saves; see `Database`."""
        self._database.commit_in_thread(save)

    def over(self, save: Save, how: str) -> None:
        """A save has returned, raised, or died with its process."""
        self._fleet.over(save, how)

    def repair(self, ids: Sequence[str]) -> None:
        """Report ids as unsettled; see `Operator`."""
        self._operator.repair(ids)

    def delivered(self, process: Process, messages: int) -> None:
        """A process has received messages."""
        self._fleet.delivered(process, messages)

    def ended(self, worker: Worker) -> None:
        """A worker has stopped in good order."""
        self._fleet.ended(worker)

    # The run

    def run(self) -> Ghost:
        """
        Play the world to its end, and return the ghost.

        Raises:
            Violation: A property did not hold.
        """
        kernel, setup = self.kernel, self.setup
        self._fleet.start(services=setup.services, workers=setup.workers)
        kernel.at(0.0, self._write)
        kernel.at(0.0, self._workload.change_rate)
        self._operator.start()
        if self._beside is not None:
            self._beside.start()
        if setup.guard:
            self.mistake.await_it(within=setup.writes / setup.rate)
        faults = setup.faults
        outages = partial(Outages, self.environment, chance=self.environment.outages)
        self._outages = [
            outages(self.source, faults.outages_per_second, stops_looks=True),
            outages(self.database, faults.cache_outages_per_second, stops_looks=True),
            outages(self.topic, faults.topic_outages_per_second, stops_looks=False),
        ]
        for outage in self._outages:
            outage.await_next()
        kernel.run()
        self.ghost.close()
        self.ghost.counts["virtual seconds"] = round(kernel.now)
        return self.ghost

    def _write(self) -> None:
        workload = self._workload
        if workload.done:
            self._end_faults()
            self._await_quiet(self.kernel.now)
            return
        states = workload.next()
        service = self._fleet.any_service()
        self._fleet.save(service, Save(f"s{workload.written}", states))
        self.kernel.at(self.kernel.now + workload.pause(), self._write)

    def _end_faults(self) -> None:
        self.environment.faults = NO_FAULTS
        for outage in self._outages:
            outage.end()

    def _await_quiet(self, since: float) -> None:
        kernel, pending = self.kernel, self.ghost.pending
        quiet = not (pending.all_events or pending.all_saves or self._database.late)
        if quiet and (self._beside is None or self._beside.ended()):
            self.ghost.check_equal(repaired=self._beside is not None)
            kernel.stop()
        elif kernel.now > since + QUIET_LIMIT:
            id = next((id for id, events in pending.events.items() if events), "?")
            left = f"{pending.all_events} events are left {QUIET_LIMIT:.0f} s after the last save"
            self.ghost.fail("quiet", id, left)
            kernel.stop()
        else:
            kernel.at(kernel.now + 5.0, partial(self._await_quiet, since))


__all__ = ["Protagonists", "SaveFailed", "Service", "Worker", "World"]
