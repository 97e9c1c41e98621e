"""The production worker, at home in virtual time: one run of it, with tasks for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from change_events._consumer.control import Notice
from change_events._consumer.guard import Guard
from change_events._consumer.limit import Limit
from change_events._consumer.queue import Queue
from change_events._consumer.run import Run
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from verification.proof.simulation._aws import QUEUE_URL, SQSClient
from verification.proof.simulation._kernel import Killed
from verification.proof.simulation._source import WatchedSink
from verification.proof.simulation._threads import VirtualThreads

if TYPE_CHECKING:
    from change_events._consumer.control import Control
    from verification.proof.simulation._sinks import AnySink
    from verification.proof.simulation._world import World


class Worker:
    """A process that follows: a run of the production worker, from its start to its stop."""

    def __init__(self, world: World, name: str, sink: AnySink) -> None:
        setup, kernel = world.setup, world.kernel
        self._world = world
        self.process = kernel.process(name)
        threads = VirtualThreads(
            kernel,
            self.process,
            offset=world.random() * 1e4,
            period=setup.visibility / 3,
            stalls=lambda: world.random() < world.faults.heartbeat_stalls,
        )
        self._guard = Guard(on=setup.guard, clock=threads.wall_clock)
        settings = Settings(
            QUEUE_URL,
            fetcher=world.source,
            sink=WatchedSink(world, sink, world.database),
            settle=setup.worker_settle,
            early_look=setup.early_look,
            prefetch=setup.prefetch,
            threads=setup.threads,
            visibility_timeout=setup.visibility,
        )
        self._run = Run(
            settings,
            queue=Queue(QUEUE_URL, SQSClient(world, strict=True, beat=setup.visibility)),
            guard=self._guard,
            tally=Tally(),
            control=cast("Control", self),
            threads=threads,
            limit=None if setup.finds_limit else Limit.fixed(setup.threads),
        )
        world.mistake.watch(self)

    @property
    def refuses(self) -> bool:
        """True while it refuses a mass deletion."""
        return self._guard.tripped

    def resume(self) -> None:
        """Tell it that the entities are meant to be gone."""
        self._run.resume()

    def start(self) -> None:
        """Start the run's threads."""
        self._run.ask_delay()
        self._run.start()

    def stop(self) -> None:
        """Ask the run to stop in good order."""
        if self.process.alive:
            self.process.stopping = True
            self._run.stop()

    def put(self, reason: Notice | BaseException) -> None:
        """Do what the main thread of a worker does with what comes in at its control."""
        if reason is Notice.FINISHED:
            self._world.ended(self)
        elif isinstance(reason, BaseException) and not isinstance(reason, Killed):
            raise reason
