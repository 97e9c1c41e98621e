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
from typing import TYPE_CHECKING

from change_events._consumer.health import FULL, MASS_DELETION, SOURCE_DOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._consumer.desk import Desk
    from change_events._consumer.health import Pauses
    from change_events._consumer.inbox import Held
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
            self._publish()
        finally:
            self._lock.release()

    def take(self) -> list[str]:
        """Wait for ids that are due, and reserve them; none once the consumer is stopped."""
        with self._lock:
            while self._looking:
                now = self._clock()
                if ids := self._desk.next(now):
                    return ids
                at = self._desk.next_at()
                self._due.wait(None if at is None else max(0.0, at - now))
            return []

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
            self._desk.resume(self._clock())
            self._publish()

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
            self._due.notify_all()

    def _may_receive(self) -> bool:
        return not self._receiving or self._desk.receiving.may_begin()

    def _report(self) -> None:
        desk = self._desk
        self._tally.set("held", len(desk.inbox))
        for why, holds in ((SOURCE_DOWN, desk.breaker.open), (MASS_DELETION, desk.guard.tripped)):
            if holds != self._paused[why]:
                self._paused[why] = holds
                (self.pauses.begin if holds else self.pauses.end)(why)

    def _publish(self) -> None:
        due = self._desk.newly_due()
        if due is None:
            return
        self._report()
        if due:
            self._due.notify(due)
        if self._desk.receiving.may_begin():
            self._room.notify()
        if self._desk.receiving.wants_help():
            self._backlog.notify()
