"""
Saves under way, and the broadcasts that they need while they run and after.

A consumer looks for the last time W after it has received an event. So at the moment of commit
there must be a broadcast that started less than W ago. Most saves are over long before that. A slow
save is broadcast again whenever half of W has passed. If that could not be done in time, it is
broadcast once more after it has ended.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from change_events._meter import Meter
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any

    from change_events.typing import Metrics

    Job = Callable[[], None]
    OnUnsettled = Callable[[Sequence[str], Exception], object]

log = logging.getLogger("change_events")

SENDERS = 10
"""The most threads that broadcast in the background."""

MAX_CONFIRMATIONS = 100
"""The most that wait for a sender. A dropped one costs its consumers the rest of their window."""

FINAL_ATTEMPTS = 3
"""Attempts to broadcast a late save before it is given up."""

METRICS = {"renewals": "renewals", "late": "late_broadcasts", "unsettled": "unsettled_saves"}
"""For each of `BroadcastStats` the name of its metric."""


@dataclass(frozen=True, slots=True)
class BroadcastStats:
    """
    What this process has broadcast beyond the one broadcast before each save.

    Attributes:
        renewals: Broadcasts repeated while a save was under way.
        late: Saves that ended when their last broadcast was older than the settle window. They are
            broadcast once more.
        unsettled: Late saves for which that failed, too. A consumer's copy can stay stale until the
            next change.
    """

    renewals: int = 0
    late: int = 0
    unsettled: int = 0


@dataclass(slots=True, eq=False)
class Save:
    """
    A save under way.

    Attributes:
        settle: W in seconds.
        started: When its last accepted broadcast started, in monotonic seconds.
        renew_at: When to broadcast it again; infinite while that happens.
    """

    ids: Sequence[str]
    settle: float
    started: float
    broadcast: Job
    renew_at: float


class Tally:
    """Counts renewals, late saves and unsettled saves, here and for the user's metrics."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.start_over()

    def start_over(self) -> None:
        """Count from zero, with a new lock."""
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name] += 1
        self.meter.count(METRICS[name])

    def stats(self) -> BroadcastStats:
        """Return the counts so far."""
        with self._lock:
            return BroadcastStats(**self._counts)


class Senders:
    """
    Threads that broadcast in the background. They start when there is something to send.

    Args:
        submit: Runs a job in another thread, or raises `RuntimeError` if there is none. Default: a
            pool of `SENDERS` threads.
        max_confirmations: How many confirmations can wait; further ones are dropped.
    """

    def __init__(
        self,
        submit: Callable[[Job], None] | None = None,
        *,
        max_confirmations: int = MAX_CONFIRMATIONS,
    ) -> None:
        self._submit = submit or self._submit_to_pool
        self._max_confirmations = max_confirmations
        self.start_over()

    def start_over(self) -> None:
        """Forget the threads and what waits for them."""
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._pool: ThreadPoolExecutor | None = None
        self._confirmations = 0

    def send(self, job: Job) -> bool:
        """Run a job soon; return False if no thread can be started, and the job is dropped."""
        try:
            self._submit(job)
        except RuntimeError as error:  # too many threads, or the interpreter is shutting down
            log.debug(
                "no broadcast in the background: %s", printable(error), extra={"action": "renew"}
            )
            return False
        return True

    def confirm(self, broadcast: Job) -> None:
        """Broadcast in the background that a save is over. Losing it costs only latency."""
        with self._lock:
            if self._confirmations >= self._max_confirmations:
                return
            self._confirmations += 1
        if not self.send(partial(self._confirm, broadcast)):
            self._forget_confirmation()

    def _confirm(self, broadcast: Job) -> None:
        try:
            broadcast()
        except Exception as error:
            log.info("confirmation lost: %s", printable(error), extra={"action": "confirm"})
        finally:
            self._forget_confirmation()

    def _forget_confirmation(self) -> None:
        with self._lock:
            self._confirmations -= 1

    def _submit_to_pool(self, job: Job) -> None:
        # Not imported above: a quick save does not need it.
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SENDERS, "change-events-broadcast")
            pool = self._pool
        pool.submit(job)


def _in_thread(target: Job) -> None:
    threading.Thread(target=target, name="change-events-renewals", daemon=True).start()


class Renewals:
    """
    Keeps every save under way broadcast. A process needs one.

    A quick save costs an entry in a dictionary. The first save starts one thread, the watcher. It
    wakes at most twice in half a settle window to see which saves are still under way. Other
    threads, the senders, broadcast these.

    A save that ends during its renewal does not rely on that renewal, which can still be refused.
    So what its caller sees does not depend on which of the two is quicker.

    Args:
        clock: Returns monotonic seconds.
        in_thread: Runs the watcher in a daemon thread.
        condition: Makes the condition, of a lock, that the watcher waits for.
        new_save_id: Makes the id that all events of one confirmed save have in common.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        in_thread: Callable[[Job], None] = _in_thread,
        senders: Senders | None = None,
        condition: Callable[[Any], threading.Condition] = threading.Condition,
        new_save_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.new_save_id = new_save_id
        self.tally = Tally()
        self._clock = clock
        self._sleep = sleep
        self._in_thread = in_thread
        self._senders = senders or Senders()
        self._condition = condition
        self._forget_saves()

    def start_over(self) -> None:
        """Forget everything: the child of a fork has neither the parent's saves nor its threads."""
        self.tally.start_over()
        self._senders.start_over()
        self._forget_saves()

    def _forget_saves(self) -> None:
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._earlier = self._condition(self._lock)
        self._saves: dict[Save, None] = {}
        self._wake_at = math.inf
        self._watched = False

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock()

    def begin(self, ids: Sequence[str], *, settle: float, started: float, broadcast: Job) -> Save:
        """Note a save whose accepted broadcast started at `started`; renew it until its end."""
        save = Save(ids, settle, started, broadcast, started + settle / 2)
        with self._lock:
            self._saves[save] = None
            if save.renew_at < self._wake_at:
                self._wake(save.renew_at)
        return save

    def end(self, save: Save) -> bool:
        """Forget a save that is over; return True if its last broadcast can have been too early."""
        with self._lock:
            self._saves.pop(save, None)
            return self._clock() - save.started >= save.settle

    def due(self, now: float) -> list[Save]:
        """Return the saves that the caller must `renew` now. They are not due again before that."""
        with self._lock:
            due = [save for save in self._saves if save.renew_at <= now]
            for save in due:
                save.renew_at = math.inf
        return due

    def renew(self, save: Save) -> None:
        """Broadcast a save that is under way once more. If that fails, it is due again soon."""
        with self._lock:
            if save not in self._saves:  # it ended while this waited for a sender
                return
        before, started = save.started, self._clock()
        try:
            save.broadcast()
        except Exception as error:  # of any kind: the save goes on, and is soon due again
            log.warning(
                "renewal failed: %s", printable(error), extra={"action": "renew", "ids": save.ids}
            )
            started, renew_at = before, self._clock() + save.settle / 10
        else:
            renew_at = started + save.settle / 2
            self.tally.add("renewals")
        with self._lock:
            save.started, save.renew_at = started, renew_at
            if save in self._saves and renew_at < self._wake_at:
                self._wake(renew_at)

    def announce_late(self, save: Save, broadcast: Job, on_unsettled: OnUnsettled | None) -> None:
        """
        Broadcast a save that ended too long after its last broadcast.

        Never raises, because the save stands. If no attempt succeeds, that is logged and counted,
        and `on_unsettled` is called.
        """
        self.tally.add("late")
        for attempt in range(1, FINAL_ATTEMPTS + 1):
            try:
                broadcast()
            except Exception as error:  # of any kind; the save stands
                if attempt < FINAL_ATTEMPTS:
                    self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
                else:
                    self._report_unsettled(save, error, on_unsettled)
            else:
                return

    def _report_unsettled(
        self, save: Save, failure: Exception, on_unsettled: OnUnsettled | None
    ) -> None:
        self.tally.add("unsettled")
        log.error(
            "the save of %s took too long, and could not be broadcast after it: "
            "caches can stay stale until it changes again: %s",
            ", ".join(map(repr, save.ids[:3])),
            printable(failure),
            extra={"action": "unsettled", "ids": save.ids},
        )
        if on_unsettled is not None:
            try:
                on_unsettled(save.ids, failure)
            except Exception:  # the user's function failed; the save stands
                log.exception("on_unsettled failed", extra={"action": "unsettled", "ids": save.ids})

    def confirm(self, broadcast: Job) -> None:
        """Broadcast in the background that a save is over."""
        self._senders.confirm(broadcast)

    def _wake(self, at: float) -> None:
        self._wake_at = at
        if self._watched:
            self._earlier.notify()
            return
        self._watched = True
        try:
            self._in_thread(self._watch)
        except RuntimeError as error:
            # There are too many threads, or the interpreter is shutting down. A late save is
            # broadcast after its end, and the next save tries to start the watcher again.
            self._watched, self._wake_at = False, math.inf
            log.debug("no renewals: %s", printable(error), extra={"action": "renew"})

    def _watch(self) -> None:
        while True:
            with self._lock:
                # Even if the save that set `_wake_at` is over: otherwise each new save would have
                # to wake the watcher.
                while (pause := self._wake_at - self._clock()) > 0:
                    self._earlier.wait(None if pause == math.inf else pause)
                due = self.due(self._clock())
                self._wake_at = min((save.renew_at for save in self._saves), default=math.inf)
            for save in due:
                self._senders.send(partial(self.renew, save))


process_renewals = Renewals()
"""What keeps the saves of this process broadcast."""

getattr(os, "register_at_fork", lambda **_: None)(after_in_child=process_renewals.start_over)


def broadcast_stats() -> BroadcastStats:
    """Return what this process has broadcast beyond the one broadcast before each save."""
    return process_renewals.tally.stats()


def measure_broadcasts(metrics: Metrics | None) -> None:
    """
    Send what `broadcast_stats` counts to metrics, too: from now on, for the whole process.

    Args:
        metrics: What receives the counts; None: nothing receives them any more.
    """
    process_renewals.tally.meter = Meter(metrics)
