"""
The production code, at home in virtual time: a service that saves, and a worker whose threads are
tasks.
"""

from __future__ import annotations

import contextlib
import math
import random
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from change_events import PublishError, SNSPublisher, broadcasting
from change_events._consumer.consumer import Consumer, Settings, Tally, pause_after
from change_events._consumer.queue import Queue
from change_events._consumer.worker import ACK_ATTEMPTS, ACK_LINGER, MAX_POLL_PAUSE
from change_events._producer.renewals import Renewals, Senders
from verification.proof.simulation._aws import QUEUE_URL, SAVE, TOPIC_ARN, SNSClient, SQSClient
from verification.proof.simulation._kernel import Alarm, Killed
from verification.proof.simulation._source import WatchedSink
from verification.proof.simulation._world import SaveFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events import MemorySink
    from change_events._consumer.inbox import Held
    from verification.proof.simulation._ghost import Save
    from verification.proof.simulation._world import World


class Service:
    """A process that saves, inside the production `broadcasting`."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        kernel = world.kernel
        self.process = kernel.process(name)
        offset = world.random() * 1e4  # no two machines have the same monotonic clock
        self._renewals = Renewals(
            clock=lambda: kernel.now + offset,
            sleep=kernel.pause,
            in_thread=self._in_thread,
            senders=Senders(lambda job: cast(None, kernel.spawn(self.process, job))),
            condition=lambda lock: cast(Any, Alarm(kernel, lock)),
        )
        self._publisher = SNSPublisher(TOPIC_ARN, client=SNSClient(world))

    def _in_thread(self, target: Callable[[], None]) -> None:
        if not self._world.setup.renewals:
            raise RuntimeError("can't start a thread")
        self._world.kernel.spawn(self.process, target)

    def save(self, save: Save) -> None:
        """Broadcast and save. A task of the process calls this."""
        world = self._world
        SAVE.set(save)
        how = "returned"
        confirm = world.setup.confirm > 0 and world.random() < world.setup.confirm
        try:
            with broadcasting(
                self._publisher,
                *save.ids,
                settle=world.setup.settle,
                confirm=confirm,
                on_unsettled=partial(self._unsettled, save),
                renewals=self._renewals,
            ):
                world.commit_all(save)
        except (PublishError, SaveFailed) as error:
            how = f"raised {type(error).__name__}"
        except Killed:
            how = "crashed"
            raise
        finally:
            world.over(save, how)

    def _unsettled(self, save: Save, ids: Sequence[str], _: Exception) -> None:
        """Do what a user does here: keep the ids, and broadcast them when that is possible."""
        save.unsettled = True
        self._world.repair(ids)


class Worker:
    """A process that follows: the production consumer, driven as its worker's threads do."""

    def __init__(self, world: World, name: str, sink: MemorySink[int]) -> None:
        setup = world.setup
        self._world = world
        self._kernel = kernel = world.kernel
        self.process = kernel.process(name)
        offset = world.random() * 1e4
        self._queue = Queue(QUEUE_URL, SQSClient(world, strict=True))
        self._settings = Settings(
            queue=self._queue,
            fetcher=world.source,
            sink=WatchedSink(world, sink),
            settle=setup.worker_settle,
            early_look=setup.early_look,
            prefetch=setup.prefetch,
            threads=setup.threads,
            batch_size=10,
            wait_time=20,
            visibility_timeout=setup.visibility,
            shutdown_timeout=25.0,
            on_outcome=None,
        )
        self._offset = offset
        self._consumer = Consumer(
            self._settings, Tally(), changed=self._changed, clock=lambda: kernel.now + offset
        )
        self._inbox = self._consumer.inbox
        self._looks = 0
        self._acks: list[Held] = []
        self._acknowledging = 0
        self._lingers = False
        self._dispatch_at = math.inf
        self._stopping = False
        self._beating = True

    def start(self) -> None:
        kernel = self._kernel
        self._consumer.ask_delay()
        kernel.spawn(self.process, self._poll)
        for _ in range(math.ceil(self._settings.threads / 10)):
            kernel.spawn(self.process, self._help_poll)
        kernel.spawn(self.process, self._beat)

    def stop(self) -> None:
        """Stop in good order, as a run of the production worker does."""
        if self.process.alive and not self._stopping:
            self._stopping = True
            self._consumer.close()
            self._kernel.spawn(self.process, self._finish)

    def _finish(self) -> None:
        kernel = self._kernel
        while self._looks:
            kernel.pause(0.05)
        while self._acks or self._acknowledging:
            kernel.pause(0.05)
        self._beating = False
        self._consumer.hand_back_all()

    # Receiving

    def _poll(self) -> None:
        failures = 0
        while not self._stopping:
            if not self._consumer.may_receive():
                self._kernel.pause(0.1)
                continue
            try:
                self._consumer.receive(wait=self._settings.wait_time)
                failures = 0
            except Exception:  # as the worker does
                failures += 1
                self._kernel.pause(pause_after(failures, MAX_POLL_PAUSE))
        while self._beating:
            self._kernel.pause(0.1)
        self._kernel.pause(5.0)  # the last visibility calls
        self._world.ended(self)

    def _help_poll(self) -> None:
        while not self._stopping:
            if self._consumer.may_help_receive():
                with contextlib.suppress(
                    Exception
                ):  # as the worker does; whoever is killed raises no such
                    self._consumer.receive(wait=1)
            else:
                self._kernel.pause(0.1)

    # Looking

    def _changed(self, _: int) -> None:
        self._dispatch_by(self._kernel.now)

    def _dispatch_by(self, time: float) -> None:
        if time < self._dispatch_at:
            self._dispatch_at = time
            self._kernel.at(time, self._dispatch)

    def _dispatch(self) -> None:
        kernel = self._kernel
        now = kernel.now
        if now < self._dispatch_at or not self.process.alive:
            return
        self._dispatch_at = math.inf
        if now < self.process.stalled_until:
            self._dispatch_by(self.process.stalled_until)
            return
        if self._stopping:
            return
        while self._looks < self._settings.threads:
            id = self._consumer.next(now + self._offset)
            if id is None:
                at = self._consumer.next_at()
                if at is not None:
                    self._dispatch_by(max(at - self._offset, now + 1e-9))
                return
            self._looks += 1
            kernel.spawn(
                self.process,
                partial(self._look, [id, *self._consumer.company(id, now + self._offset)]),
            )

    def _look(self, ids: list[str]) -> None:
        for settled in (
            [self._consumer.look(*ids)] if len(ids) == 1 else self._consumer.look_together(ids)
        ):
            self._settled(settled)
        self._looks -= 1
        self._dispatch_by(self._kernel.now)

    # Acknowledging and holding

    def _settled(self, events: list[Held]) -> None:
        self._acks += events
        if len(self._acks) >= 10:
            self._acknowledge()
        elif events and not self._lingers:
            self._lingers = True
            self._kernel.at(self._kernel.now + ACK_LINGER, self._linger)

    def _linger(self) -> None:
        self._lingers = False
        self._acknowledge()

    def _acknowledge(self) -> None:
        while self._acks and self.process.alive:
            events, self._acks = self._acks[:10], self._acks[10:]
            self._acknowledging += 1
            self._kernel.spawn(self.process, partial(self._delete, events))

    def _delete(self, events: list[Held]) -> None:
        handles: Sequence[str] = [event.receipt_handle for event in events]
        for attempt in range(ACK_ATTEMPTS):
            if attempt:
                self._kernel.pause(pause_after(attempt, 1.0))
            handles = self._consumer.acknowledge(handles)
            if not handles:
                break
        self._acknowledging -= 1

    def _beat(self) -> None:
        world, kernel = self._world, self._kernel
        period = self._settings.visibility_timeout / 3
        beat = kernel.now + period
        while self._beating:
            kernel.pause(max(0.0, beat - kernel.now))
            if world.random() < world.faults.heartbeat_stalls:
                kernel.pause(random.uniform(1.0, 10.0) * period)
            self._consumer.extend(beat + self._offset + 2 * period)
            beat += period
