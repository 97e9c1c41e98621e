"""
The desk, shared by a worker's threads.

This module is the only owner of the lock around a desk, and of what the threads wait for. A thread
reaches the desk by `with consumer as desk:`. At the end of the block, the threads that wait for
what it changed are woken.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from change_events._consumer.health import FULL, MASS_DELETION, SOURCE_DOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._consumer.crew import Threads
    from change_events._consumer.desk import Desk
    from change_events._consumer.health import Pauses
    from change_events._consumer.inbox import Held
    from change_events._consumer.limit import Answer
    from change_events._consumer.stats import Tally

NAP = 0.02
"""Seconds of a nap."""


class Consumer:
    """
    One desk, for one thread at a time.

    Its `pauses` have a lock of their own. The proof has another `condition`, in virtual time.
    `hire` is called if a look is due, or will be, and all threads that look are busy. The desk
    learns from `answers`: any thread can append to them, without the lock.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        pauses: Pauses,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
        condition: Callable[[threading.Lock], threading.Condition] = threading.Condition,
        hire: Callable[[], object] = lambda: None,
    ) -> None:
        self._desk = desk
        self.pauses = pauses
        self._tally = tally
        self._clock = clock
        self.answers: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._lookers = _Lookers(condition(self._lock), condition(self._lock), hire)
        self._room = condition(self._lock)
        self._backlog = condition(self._lock)
        self._receiving = self._looking = True
        tally.watch("prefetch", self.prefetch)
        self._paused = {SOURCE_DOWN: False, MASS_DELETION: False}
        self._report()

    def __enter__(self) -> Desk:
        """Return the desk. The other threads wait meanwhile, so call nothing that takes time."""
        self._lock.acquire()
        return self._desk

    def __exit__(self, *error: object) -> None:
        try:
            hire = self._publish()
        finally:
            self._lock.release()
        if hire:
            self._lookers.hire()

    def take(self, after: Sequence[str] = ()) -> list[str]:
        """
        Wait for ids that are due, and reserve them; none once the consumer is stopped.

        `after` are the ids of the thread's last look, which is over.
        """
        with self._lock:
            if after:
                self._desk.limit.over(after[0])
                self._learn()
            ids = self._wait_for_ids()
            self._lookers.busy.notify()
            hire = bool(ids) and self._wake_one()
        if hire:
            self._lookers.hire()
        return ids

    def begin_get(self, ids: Sequence[str], *, again: bool) -> set[str] | None:
        """Note that a GET starts, as `Desk.begin_get` does. None: none may start any more."""
        with self as desk:
            if self._looking:
                return desk.begin_get(ids, self._clock(), again=again)
            desk.look_again(ids, self._clock())
            return None

    def _learn(self) -> None:
        now = self._clock()
        while self.answers:
            answer = self.answers.popleft()
            self._desk.limit.answered(answer, now)
            if answer.size > 1 and answer.seconds is not None and not answer.failed:
                self._desk.gets.bulk_size.answered(answer.size, answer.seconds)

    def _wait_for_ids(self) -> list[str]:
        while self._looking:
            now = self._clock()
            if ids := self._desk.next(now):
                return ids
            self._lookers.wait(self._desk.next_at(), now)
        return []

    def _wake_one(self) -> bool:
        """Let a thread wait for the look that is due next; return True if all are busy."""
        at = self._desk.next_at()
        return at is not None and self._looking and self._lookers.wake_one(at, self._clock())

    def wait_for_looks(self) -> bool:
        """Wait until looks are under way; False once none may begin."""
        with self._lock:
            self._lookers.busy.wait_for(lambda: not self._looking or self._desk.limit.busy)
            return self._looking

    def wait_for_room(self) -> bool:
        """Wait until a receive can begin; False once none may begin."""
        with self._lock:
            if not self._may_receive():
                if self._desk.receiving.full:
                    self.pauses.begin(FULL)
                self._room.wait_for(self._may_receive)
            receiving = self._receiving
        self.pauses.end(FULL)
        return receiving

    def wait_for_backlog(self) -> bool:
        """Wait until one receive at a time is not enough; False once none may begin."""
        with self._lock:
            self._backlog.wait_for(lambda: not self._receiving or self._desk.receiving.may_help())
            return self._receiving

    @property
    def get_limit(self) -> float:
        """How many GETs can run at once now, to two places."""
        return min(self._desk.gets.most, round(self._desk.limit.limit, 2))

    # For the main thread, which a signal's handler can interrupt: `with` on a lock is safe then.

    def events(self) -> tuple[list[Held], int]:
        """Return the events that are held, and how many looks are under way."""
        with self._lock:
            return self._desk.inbox.expiring(math.inf), self._desk.inbox.looking()

    def prefetch(self) -> int:
        """Return how many events can be held now."""
        with self._lock:
            return self._desk.receiving.prefetch.size

    def resume(self) -> None:
        """Go on after a mass deletion was refused."""
        with self._lock:
            self._publish()  # a look by hand can have begun before this run, with another lock
            self._desk.guard.resume()
            hire = self._publish()
        if hire:
            self._lookers.hire()

    def stop_receiving(self) -> None:
        """Begin no receive from now on; what is held is looked at as before."""
        with self._lock:
            self._receiving = False
            self._desk.receiving.close()
            self._room.notify_all()
            self._backlog.notify_all()

    def stop(self) -> None:
        """Begin neither a receive nor a look from now on."""
        self.stop_receiving()
        with self._lock:
            self._looking = False
            self._lookers.due.notify_all()
            self._lookers.busy.notify_all()

    def _may_receive(self) -> bool:
        return not self._receiving or self._desk.receiving.may_begin()

    def _report(self) -> None:
        desk = self._desk
        self._tally.set("held", len(desk.inbox))
        for why, holds in ((SOURCE_DOWN, desk.breaker.open), (MASS_DELETION, desk.guard.tripped)):
            if holds != self._paused[why]:
                self._paused[why] = holds
                (self.pauses.begin if holds else self.pauses.end)(why)

    def _publish(self) -> bool:
        """Wake the threads that wait for a change; return True if a look waits for a thread."""
        tripped, known = self._desk.guard.tripped, self._paused[MASS_DELETION]
        if tripped and not known:  # perhaps a backfill's look was refused
            self._desk.changed()
        elif known and not tripped:  # a call, or what the sink has said of another process
            self._desk.release(self._clock())
        due = self._desk.newly_due()
        if due is None:
            return False
        self._report()
        hire = due > 0 and self._wake_one()
        if self._desk.receiving.may_begin():
            self._room.notify()
        if self._desk.receiving.wants_help():
            self._backlog.notify()
        return hire


class _Lookers:
    """
    The threads that look. One of those that are idle wakes by itself when the next look is due, and
    each that begins a look wakes another one. Times are the consumer's, and so is the lock.
    """

    def __init__(
        self, due: threading.Condition, busy: threading.Condition, hire: Callable[[], object]
    ) -> None:
        self.due = due
        self.busy = busy
        self.hire = hire
        self.idle = 0
        self._wakes = -math.inf  # when one of them wakes by itself

    def wait(self, at: float | None, now: float) -> None:
        """Wait for a look that is due at that time; None: for a change."""
        if at is None or now < self._wakes <= at:  # another thread wakes in time
            self._wait(None)
        else:
            self._wakes = at
            self._wait(max(0.0, at - now))
            self._wakes = -math.inf

    def _wait(self, seconds: float | None) -> None:
        self.idle += 1
        try:
            self.due.wait(seconds)
        finally:
            self.idle -= 1

    def wake_one(self, at: float, now: float) -> bool:
        """Let one wait for a look that is due at that time; return True if all are busy."""
        if now < self._wakes <= at:
            return False
        self._wakes = -math.inf
        self.due.notify()
        return not self.idle


def nap(consumer: Consumer, threads: Threads) -> None:
    """Sleep again and again, while looks run; tell the limit how late this thread wakes."""
    while consumer.wait_for_looks():
        before = threads.clock()
        threads.sleep(NAP)
        late = threads.clock() - before - NAP
        with consumer as desk:
            desk.limit.napped(late)
