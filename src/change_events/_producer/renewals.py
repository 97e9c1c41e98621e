"""
Saves under way, and the broadcasts that they need while they run and after.

A consumer looks for the last time W after it has received an event, so at the moment of commit
there must be a broadcast that started less than W ago. The usual save is over long before. One that
takes long is broadcast again whenever half of W has passed, and if that could not be done in time,
once more after it.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from change_events._meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from change_events.typing import Metrics

log = logging.getLogger("change_events")

SENDERS = 10
"""Threads that broadcast in the background, at the most, once there is something to send."""

MAX_BACKGROUND = 100
"""
Confirmations that wait for a sender, at the most: one that is dropped costs its consumers the rest
of their window.
"""

FINAL_ATTEMPTS = 3
"""After so many failures of the broadcast that a late save needs, it is given up."""


METRICS = {"renewals": "renewals", "late": "late_broadcasts", "unsettled": "unsettled_saves"}
"""The names under which the counts are measured."""


@dataclass(frozen=True, slots=True)
class BroadcastStats:
    """
    What this process has broadcast beyond the one broadcast before each save.

    Attributes:
        renewals: Broadcasts repeated while a save was under way.
        late: Saves whose last broadcast was older than the settle window when they ended: announced
            once more after it.
        unsettled: Of these, the ones where that failed, too. A consumer's copy may be stale until
            the next change.
    """

    renewals: int = 0
    late: int = 0
    unsettled: int = 0


@dataclass(slots=True, eq=False)
class Save:
    """
    A save under way.

    Attributes:
        ids: What it saves.
        settle: W in seconds.
        started: When the last accepted broadcast of it started, in monotonic seconds.
        broadcast: Broadcasts it once more.
        renew_at: When that is to happen next; infinite while it happens.
    """

    ids: Sequence[str]
    settle: float
    started: float
    broadcast: Callable[[], None]
    renew_at: float


class Renewals:
    """
    Keeps every save under way broadcast. One for the process.

    A quick save costs an entry in a dictionary. One thread, the watcher, which the first save
    starts, wakes at most twice in half a settle window to see whether a save is still there; what
    it then finds is sent by others, the senders.

    A save that ends while it is renewed does not rely on that renewal: it may be accepted, or
    never. So what its caller sees does not depend on who is quicker.

    Args:
        clock: Tells monotonic seconds.
        sleep: Waits for so many seconds.
        in_thread: Runs something in a daemon thread of its own.
        submit: Runs something soon, in a thread that may be shared.

    Attributes:
        meter: Is told of each count, too.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        in_thread: Callable[[Callable[[], None]], None] | None = None,
        submit: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._in_thread = in_thread or _in_thread
        self._submit = submit or self._submit_to_pool
        self.meter = Meter()
        self.start_over()

    def start_over(self) -> None:
        """
        Forget everything: in the child of a fork there are neither the parent's saves nor its
        threads.
        """
        self._lock = threading.RLock()  # re-entrant, so that a signal handler may save, too
        self._earlier = threading.Condition(self._lock)
        self._saves: dict[Save, None] = {}
        self._wake_at = math.inf
        self._watched = False
        self._pool: ThreadPoolExecutor | None = None
        self._in_background = 0
        self._counts: Counter[str] = Counter()

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock()

    def begin(
        self, ids: Sequence[str], *, settle: float, started: float, broadcast: Callable[[], None]
    ) -> Save:
        """
        Note a save whose accepted broadcast started then, and keep it broadcast until its end.
        """
        save = Save(ids, settle, started, broadcast, started + settle / 2)
        with self._lock:
            self._saves[save] = None
            if save.renew_at < self._wake_at:
                self._wake(save.renew_at)
        return save

    def end(self, save: Save) -> bool:
        """
        Forget a save, which has returned or raised; return whether its last broadcast may have been
        too early for it.
        """
        with self._lock:
            self._saves.pop(save, None)
            return self._clock() - save.started >= save.settle

    def due(self, now: float) -> list[Save]:
        """
        Return the saves to be renewed now, and leave them to the caller, who holds the lock or is
        alone.
        """
        due = [save for save in self._saves if save.renew_at <= now]
        for save in due:
            save.renew_at = math.inf
        return due

    def renew(self, save: Save) -> None:
        """
        Broadcast a save that is under way once more; if that fails, let it be tried again soon.
        """
        with self._lock:
            if save not in self._saves:  # over, while this waited for a sender
                return
        before, started = save.started, self._clock()
        try:
            save.broadcast()
        except (
            Exception
        ) as error:  # whatever it was, the save goes on, and the next attempt may succeed
            log.warning("renewal failed: %s", error, extra={"action": "renew", "ids": save.ids})
            started, renew_at = before, self._clock() + save.settle / 10
        else:
            renew_at = started + save.settle / 2
            self._count("renewals")
        with self._lock:
            save.started, save.renew_at = started, renew_at
            if save in self._saves and renew_at < self._wake_at:
                self._wake(renew_at)

    def announce_late(
        self,
        save: Save,
        broadcast: Callable[[], None],
        on_unsettled: Callable[[Sequence[str], Exception], object] | None,
    ) -> None:
        """
        Broadcast a save that has ended too long after its last broadcast.

        Never raises: the save stands. If no attempt succeeds, that is logged, counted, and handed
        to `on_unsettled`.
        """
        self._count("late")
        for attempt in range(1, FINAL_ATTEMPTS + 1):
            try:
                broadcast()
            except Exception as error:  # whatever it was, the save stands
                if attempt < FINAL_ATTEMPTS:
                    self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
                else:
                    self._report_unsettled(save, error, on_unsettled)
            else:
                return

    def _report_unsettled(
        self,
        save: Save,
        failure: Exception,
        on_unsettled: Callable[[Sequence[str], Exception], object] | None,
    ) -> None:
        self._count("unsettled")
        log.error(
            "the save of %s took too long, and could not be broadcast after it: caches may be stale until it changes again: %s",
            ", ".join(map(repr, save.ids[:3])),
            failure,
            extra={"action": "unsettled", "ids": save.ids},
        )
        if on_unsettled is not None:
            try:
                on_unsettled(save.ids, failure)
            except Exception:  # the user's; the save stands
                log.exception("on_unsettled failed", extra={"action": "unsettled", "ids": save.ids})

    def confirm(self, broadcast: Callable[[], None]) -> None:
        """Broadcast in the background that a save is over. Losing it costs only latency."""
        with self._lock:
            if self._in_background >= MAX_BACKGROUND:
                return
            self._in_background += 1
        if not self._submit_or_drop(partial(self._confirm, broadcast)):
            self._leave_background()

    def stats(self) -> BroadcastStats:
        """Return what has been broadcast beyond the one broadcast before each save."""
        with self._lock:
            return BroadcastStats(**self._counts)

    def _confirm(self, broadcast: Callable[[], None]) -> None:
        try:
            broadcast()
        except Exception as error:
            log.info("confirmation lost: %s", error, extra={"action": "confirm"})
        finally:
            self._leave_background()

    def _leave_background(self) -> None:
        with self._lock:
            self._in_background -= 1

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
        self.meter.count(METRICS[name])

    def _wake(self, at: float) -> None:
        self._wake_at = at
        if self._watched:
            self._earlier.notify()
            return
        self._watched = True
        try:
            self._in_thread(self._watch)
        except RuntimeError as error:
            # No thread to be had, or the interpreter is shutting down: what is late is announced
            # after the save, and the next save tries again.
            self._watched, self._wake_at = False, math.inf
            log.debug("no renewals: %s", error, extra={"action": "renew"})

    def _watch(self) -> None:
        while True:
            with self._lock:
                # To the end, also when the save that asked for it is over by now: else each save
                # would have to ask again.
                while (pause := self._wake_at - self._clock()) > 0:
                    self._earlier.wait(None if pause == math.inf else pause)
                due = self.due(self._clock())
                self._wake_at = min((save.renew_at for save in self._saves), default=math.inf)
            for save in due:
                self._submit_or_drop(partial(self.renew, save))

    def _submit_or_drop(self, job: Callable[[], None]) -> bool:
        try:
            self._submit(job)
        except RuntimeError as error:  # no thread to be had, or the interpreter is shutting down
            log.debug("no broadcast in the background: %s", error, extra={"action": "renew"})
            return False
        return True

    def _submit_to_pool(self, job: Callable[[], None]) -> None:
        from concurrent.futures import (
            ThreadPoolExecutor,
        )  # not above: a quick save does not need it

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SENDERS, "change-events-broadcast")
            pool = self._pool
        pool.submit(job)


def _in_thread(target: Callable[[], None]) -> None:
    threading.Thread(target=target, name="change-events-renewals", daemon=True).start()


renewals = Renewals()
"""The process's own."""

getattr(os, "register_at_fork", lambda **_: None)(after_in_child=renewals.start_over)


def broadcast_stats() -> BroadcastStats:
    """Return what this process has broadcast beyond the one broadcast before each save."""
    return renewals.stats()


def measure_broadcasts(metrics: Metrics | None) -> None:
    """
    Let these metrics count what `broadcast_stats` counts, too, from now on, for the whole process.

    Args:
        metrics: The object that takes them; None: nobody any more.
    """
    renewals.meter = Meter(metrics)
