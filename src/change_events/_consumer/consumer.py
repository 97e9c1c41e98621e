"""
The desk, shared by a worker's threads.

This module is the only owner of the lock around a desk, and of what the threads wait for. A thread
reaches the desk by `with consumer as desk:`. At the end of the block, the threads that wait for
what it changed are woken.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from change_events._consumer.health import FULL, MASS_DELETION, SOURCE_DOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._consumer.desk import Desk
    from change_events._consumer.health import Pauses
    from change_events._consumer.stats import Tally


class Consumer:
    """
    One desk, for one thread at a time.

    Its `pauses` have a lock of their own. The proof has another `condition`, in virtual time.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        pauses: Pauses,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
        condition: Callable[[threading.Lock], threading.Condition] = threading.Condition,
    ) -> None:
        self._desk = desk
        self.pauses = pauses
        self._tally = tally
        self._clock = clock
        self._lock = threading.Lock()
        self._due = condition(self._lock)
        self._room = condition(self._lock)
        self._backlog = condition(self._lock)
        self._stopping = False
        self._held = 0
        self._paused = {SOURCE_DOWN: False, MASS_DELETION: False}
        self._report()

    def __enter__(self) -> Desk:
        """Return the desk. The other threads wait meanwhile, so call nothing that takes time."""
        self._lock.acquire()
        return self._desk

    def __exit__(self, *error: object) -> None:
        self._report()
        self._wake()
        self._lock.release()

    def take(self) -> list[str]:
        """Wait for ids that are due, and reserve them; none once the consumer is stopped."""
        with self._lock:
            while not self._stopping:
                now = self._clock()
                if ids := self._desk.next(now):
                    return ids
                at = self._desk.next_at()
                self._due.wait(None if at is None else max(0.0, at - now))
            return []

    def wait_for_room(self) -> bool:
        """Wait until a receive can begin; False once the consumer is stopped."""
        with self._lock:
            if not self._may_receive():
                if self._desk.full:
                    self.pauses.begin(FULL)
                self._room.wait_for(self._may_receive)
            stopping = self._stopping
        self.pauses.end(FULL)
        return not stopping

    def wait_for_backlog(self) -> bool:
        """Wait until one receive at a time is not enough; False once the consumer is stopped."""
        with self._lock:
            self._backlog.wait_for(lambda: self._stopping or self._desk.may_help_receive())
            return not self._stopping

    def stop(self) -> None:
        """End all waiting, and hold nothing that is received from now on."""
        with self._lock:
            self._stopping = True
            self._desk.close()
            for condition in (self._due, self._room, self._backlog):
                condition.notify_all()

    def _may_receive(self) -> bool:
        return self._stopping or self._desk.may_receive()

    def _report(self) -> None:
        desk = self._desk
        if (held := len(desk.inbox)) != self._held:
            self._held = held
            self._tally.set("held", held)
        for why, holds in ((SOURCE_DOWN, desk.breaker.open), (MASS_DELETION, desk.guard.tripped)):
            if holds != self._paused[why]:
                self._paused[why] = holds
                (self.pauses.begin if holds else self.pauses.end)(why)

    def _wake(self) -> None:
        if due := self._desk.newly_due():
            self._due.notify(due)
        if self._desk.may_receive():
            self._room.notify()
        if self._desk.may_help_receive():
            self._backlog.notify()
