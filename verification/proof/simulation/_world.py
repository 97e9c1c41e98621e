"""
A world: a source, a topic, a queue, processes that save and processes that follow, and what goes
wrong among them.
"""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from verification.proof.simulation._aws import SAVE, TOPIC_ARN, Queue, Refused, SNSClient, Topic
from verification.proof.simulation._chance import NO_FAULTS, Faults, Latencies, picker
from verification.proof.simulation._ghost import CHECKS, Ghost, Save, State
from verification.proof.simulation._kernel import Kernel, Killed, Process, Violation
from verification.proof.simulation._source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUIET_LIMIT = 20_000.0
"""Virtual seconds after the last save by when everything must be quiet."""

REDRIVES = 240.0
"""Virtual seconds from one look of the operator at the dead-letter queue to the next."""


class SaveFailed(Exception):  # noqa: N818
    """What the caller of a save sees of a failed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """
    How a world is set up. Times are in seconds; those of the library mean what they mean there.
    """

    writes: int
    ids: int
    zipf: float
    rate: float
    unique_states: bool
    many: float
    settle: float
    worker_settle: float
    confirm: float
    renewals: bool
    services: int
    workers: int
    threads: int
    early_look: bool
    prefetch: int
    visibility: int
    queue_delay: float
    most_receives: int
    raw: bool
    etags: bool
    latencies: Latencies = field(repr=False)
    faults: Faults = field(repr=False)
    bulk: int = 1


class Service(Protocol):
    """A process that saves."""

    process: Process

    def save(self, save: Save) -> None: ...


class Worker(Protocol):
    """A process that follows."""

    process: Process

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Protagonists(Protocol):
    """Whose protocol is played: ours or a peer's."""

    def service(self, world: World, name: str) -> Service: ...
    def worker(self, world: World, name: str) -> Worker: ...


@lru_cache
def _weights(ids: int, zipf: float) -> list[float]:
    return list(accumulate((rank + 1) ** -zipf for rank in range(ids)))


class World:
    """
    Args:
        seed: Decides everything that is random.
        setup: How it is set up.
        protagonists: Whose protocol is played.
        checks: What must hold, of `CHECKS`.
        traced: The id whose story is to be kept.
    """

    def __init__(
        self,
        seed: int,
        setup: Setup,
        protagonists: Protagonists,
        *,
        checks: frozenset[str] = frozenset(CHECKS),
        traced: str | None = None,
    ) -> None:
        self.setup = setup
        self.faults = setup.faults
        self._random = random.Random(seed)
        self.random = self._random.random
        random.seed(seed)  # production jitters its pauses by the module's own
        self.publish_takes = picker(self._random, setup.latencies.publish)
        self._save_takes = picker(self._random, setup.latencies.save)
        self.delivery_takes = picker(self._random, setup.latencies.deliver)
        self.get_takes = picker(self._random, setup.latencies.get)
        self.sink_takes = picker(self._random, setup.latencies.sink)
        self.queue_takes = picker(self._random, setup.latencies.queue)
        self.kernel = Kernel()
        hold = max(0.0, max(setup.settle, setup.worker_settle) - setup.queue_delay)
        self.ghost = Ghost(
            self.kernel, settle=setup.settle, hold=hold, checks=checks, traced=traced
        )
        self.source = Source(self, etags=setup.etags, bulk=setup.bulk)
        self.topic = Topic(self, raw=setup.raw)
        self.queue = Queue(self, delay=setup.queue_delay, most_receives=setup.most_receives)
        self._protagonists = protagonists
        self._weights = _weights(setup.ids, setup.zipf)
        self._services: list[Service] = []
        self._workers: list[Worker] = []
        self._born = 0
        self._under_way: dict[Process, dict[Save, None]] = {}
        self._on_their_way = 0
        self._written = 0
        self._states = 0
        self._rate = setup.rate
        self._quiet_since = 0.0
        self._operator = self.kernel.process("operator")

    def run(self) -> Ghost:
        """
        Play it to its end, and return the ghost.

        Raises:
            Violation: A property did not hold.
        """
        kernel, setup = self.kernel, self.setup
        for _ in range(setup.services):
            self._services.append(self._new_service())
        for _ in range(setup.workers):
            self._workers.append(self._new_worker())
        kernel.at(0.0, self._write)
        kernel.at(0.0, self._change_rate)
        kernel.at(REDRIVES, self._redrive)
        self._await_outage(self.source, setup.faults.outages_per_second)
        self._await_outage(self.topic, setup.faults.topic_outages_per_second)
        kernel.run()
        self.ghost.close()
        self.ghost.counts["virtual seconds"] = round(kernel.now)
        return self.ghost

    # Saving

    def _write(self) -> None:
        if self._written >= self.setup.writes:
            self.faults = NO_FAULTS
            self.source.is_down = self.topic.is_down = False
            self._quiet_since = self.kernel.now
            return self._await_quiet()
        random_ = self._random
        number = random_.randrange(2, 13) if random_.random() < self.setup.many else 1
        states = {self._any_id(): self._any_state() for _ in range(number)}
        self._written += len(states)
        service = self._services[int(random_.random() * len(self._services))]
        save = Save(f"s{self._written}", states)
        self._under_way[service.process][save] = None
        self.ghost.begin(save)
        self.kernel.spawn(service.process, partial(service.save, save))
        if random_.random() < self.faults.service_crashes:
            self._soon(partial(self._crash_service, service))
        if random_.random() < self.faults.stalls:
            self._soon(partial(self._stall, service.process))
        return self.kernel.at(self.kernel.now + random_.expovariate(self._rate), self._write)

    def _any_id(self) -> str:
        weights = self._weights
        return f"p{bisect(weights, self._random.random() * weights[-1])}"

    def _any_state(self) -> State:
        if self._random.random() < 0.15:
            return None
        if self.setup.unique_states:
            self._states += 1
            return self._states
        return int(self._random.random() * 4)  # few, so that states and ETags come back

    def _change_rate(self) -> None:
        """Bursts and lulls."""
        self._rate = self.setup.rate * self._random.choice([0.1, 1.0, 1.0, 1.0, 5.0])
        self.kernel.at(self.kernel.now + self._random.expovariate(0.1), self._change_rate)

    def commit_all(self, save: Save) -> None:
        """Do what the function that saves does; to be called by a task."""
        kernel = self.kernel
        for id in save.ids:
            fails = self.random() < self.faults.save_fails
            try:
                kernel.pause(self._save_takes())
            except Killed:
                if self.random() < 0.5:
                    self._commit_later(save, id)
                raise
            if fails:
                raise SaveFailed
            hides = self.random() < self.faults.save_hides
            if hides and self.random() < 0.5:
                self._commit_later(save, id)
                raise SaveFailed
            self.ghost.commit(save, id)
            if hides:
                raise SaveFailed
            if self.random() < 0.2:
                kernel.pause(self._save_takes())

    def _commit_later(self, save: Save, id: str) -> None:
        """
        The database commits after its caller has given up, or died; but within the settle window,
        as the promise asks.
        """
        now = self.kernel.now
        left = save.accepted.get(id, now) + self.setup.settle - now
        if left > 0:
            self._on_their_way += 1
            self.kernel.at(
                now + left * 0.999 * self._random.random(), partial(self._late_commit, save, id)
            )

    def _late_commit(self, save: Save, id: str) -> None:
        self._on_their_way -= 1
        self.ghost.commit(save, id)

    def over(self, save: Save, how: str) -> None:
        """The save has returned, raised, or died with its process."""
        for saves in self._under_way.values():
            if saves.pop(save, save) is None:
                break
        self.ghost.end(save, how)

    def repair(self, ids: Sequence[str]) -> None:
        """
        Broadcast ids again, for as long as it takes: what an operator does about an `on_unsettled`.
        """
        self.ghost.counts["unsettled"] += 1
        save = Save("repair", dict.fromkeys(ids))
        self.ghost.begin(save)
        self.kernel.spawn(self._operator, partial(self._repair, save))

    def _repair(self, save: Save) -> None:
        SAVE.set(save)
        settle = {"settle": {"DataType": "String", "StringValue": str(self.setup.settle)}}
        for id in save.ids:
            while True:
                try:
                    SNSClient(self).publish(
                        TopicArn=TOPIC_ARN, Message=f'{{"id": "{id}"}}', MessageAttributes=settle
                    )
                    break
                except Refused:
                    self.kernel.pause(10.0)
        self.ghost.end(save, "returned")

    # What goes wrong

    def delivered(self, process: Process, messages: int) -> None:
        """A process has got messages: one of them may be too much for it."""
        faults = self.faults
        for _ in range(messages):
            chance = self.random()
            if chance < faults.worker_crashes:
                self._soon(partial(self._crash_worker, process))
            elif chance < faults.worker_crashes + faults.worker_stops:
                self._soon(partial(self._stop_worker, process))
            elif chance < faults.worker_crashes + faults.worker_stops + faults.stalls:
                self._soon(partial(self._stall, process))

    def _soon(self, call: Callable[[], None]) -> None:
        self.kernel.at(self.kernel.now + 1e-3 * 1e4 ** self.random(), call)

    def _stall(self, process: Process) -> None:
        self.ghost.counts["stalls"] += 1
        process.stalled_until = max(
            process.stalled_until, self.kernel.now + 0.1 * 1e3 ** self.random()
        )

    def _crash_service(self, service: Service) -> None:
        """
        Kill it, unless a commit of its relies on a broadcast that is still to come: the final one
        of a save that outlasted its window as no renewal could be sent. A crash just then is a
        second fault, and outside of the promise.
        """
        if not service.process.alive:
            return
        settle = self.setup.settle
        for save in self._under_way[service.process]:
            if any(save.accepted.get(id, 0.0) <= late - settle for id, late in save.late.items()):
                self.ghost.counts["double faults left out"] += 1
                return
        self.ghost.counts["service crashes"] += 1
        self.kernel.kill(service.process)
        for save in self._under_way.pop(service.process):  # not begun yet
            self.ghost.end(save, "crashed")
        self._services[self._services.index(service)] = self._new_service()

    def _crash_worker(self, process: Process) -> None:
        worker = self._worker_of(process)
        if worker is not None:
            self.ghost.counts["worker crashes"] += 1
            self.kernel.kill(process)
            self._replace(worker)

    def _stop_worker(self, process: Process) -> None:
        worker = self._worker_of(process)
        if worker is not None:
            self.ghost.counts["worker stops"] += 1
            worker.stop()

    def ended(self, worker: Worker) -> None:
        """A worker has stopped in good order."""
        worker.process.alive = False
        self._replace(worker)

    def _worker_of(self, process: Process) -> Worker | None:
        return next((worker for worker in self._workers if worker.process is process), None)

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self.kernel.at(
            self.kernel.now + 30 * self.random(), lambda: self._workers.append(self._new_worker())
        )

    def _new_service(self) -> Service:
        self._born += 1
        service = self._protagonists.service(self, f"service-{self._born}")
        self._under_way[service.process] = {}
        return service

    def _new_worker(self) -> Worker:
        self._born += 1
        worker = self._protagonists.worker(self, f"worker-{self._born}")
        worker.start()
        return worker

    def _await_outage(self, what: Source | Topic, per_second: float) -> None:
        if per_second > 0:
            self.kernel.at(
                self.kernel.now + self._random.expovariate(per_second),
                partial(self._fail, what, per_second),
            )

    def _fail(self, what: Source | Topic, per_second: float) -> None:
        if self.faults is not NO_FAULTS:
            what.is_down = True
            self.ghost.counts["outages"] += 1
            self.kernel.at(
                self.kernel.now + 1e3 ** self.random(), partial(self._mend, what, per_second)
            )

    def _mend(self, what: Source | Topic, per_second: float) -> None:
        what.is_down = False
        self._await_outage(what, per_second)

    # The end

    def _redrive(self) -> None:
        self.queue.redrive()
        self.kernel.at(self.kernel.now + REDRIVES, self._redrive)

    def _await_quiet(self) -> None:
        ghost = self.ghost
        if not (ghost.unacknowledged or ghost.saves or self._on_their_way):
            self._quiet()
        elif self.kernel.now > self._quiet_since + QUIET_LIMIT:
            id = next((id for id, events in ghost.events.items() if events), "?")
            ghost.fail(
                "quiet",
                id,
                f"{ghost.unacknowledged} events are left {QUIET_LIMIT:.0f} s after the last save",
            )
            self.kernel.stop()
        else:
            self.kernel.at(self.kernel.now + 5.0, self._await_quiet)

    def _quiet(self) -> None:
        self.ghost.check_equal()
        self.kernel.stop()


__all__ = ["Protagonists", "SaveFailed", "Service", "Setup", "Violation", "Worker", "World"]
