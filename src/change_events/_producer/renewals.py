"""
Saves under way, and the broadcasts that they need while they run and after.

A consumer looks for the last time W after it has received an event. So at the moment of commit
there must be a broadcast that started less than W ago. Most saves are over long before that. A slow
save is broadcast again whenever half of W has passed. If that could not be done in time, it is
broadcast once more after it has ended. A cancelled save can still be running, so it is broadcast
for some time after its end.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import random
import threading
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from change_events._meter import Meter
from change_events._producer.batches import BATCH_SIZE
from change_events._producer.broadcasts import failures
from change_events._producer.clocks import Moment, elapsed, read_clocks
from change_events._producer.tally import BroadcastStats, Tally
from change_events._producer.threads import Senders, start_daemon
from change_events._text import printable

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from change_events._producer.broadcasts import Broadcast
    from change_events._producer.threads import Job
    from change_events.typing import Metrics

    OnUnsettled = Callable[[Sequence[str], Exception], object]

log = logging.getLogger("change_events")

FINAL_ATTEMPTS = 3
"""Attempts to broadcast a late save before it is given up."""

LINGER = 10.0
"""A cancelled save is renewed for so many seconds, and at least for two settle windows."""

LONGEST_SAVE = 3600.0
"""A save that lasts longer is not renewed, because nobody seems to wait for its end."""

EXIT_PATIENCE = 10.0
"""The most seconds for which the interpreter's exit waits for broadcasts of late saves."""


@dataclass(slots=True, eq=False)
class Save:
    """
    A save under way, or one that was cancelled.

    Attributes:
        broadcast: Broadcasts it again.
        settle: W in seconds.
        on_unsettled: Called if its last broadcast fails.
        owner: What ends it.
        began: When it began, in monotonic seconds.
        started: When its last accepted broadcast started.
        renew_at: When to broadcast it again, in monotonic seconds; infinite while that happens.
        linger_until: If it was cancelled: a broadcast that starts then or later is the last one.
    """

    broadcast: Broadcast
    settle: float
    on_unsettled: OnUnsettled | None
    owner: weakref.ref[object]
    began: float
    started: Moment
    renew_at: float
    linger_until: float = math.inf

    def is_abandoned(self, now: float) -> bool:
        """Return True if it seems that nobody will ever end it."""
        if self.linger_until < math.inf:
            return False
        return self.owner() is None or now - self.began > LONGEST_SAVE


def _in_thread(target: Job) -> None:
    start_daemon(target, "change-events-renewals")


class Renewals:
    """
    Keeps saves broadcast for as long as they run, from a single thread.

    That thread waits until the next renewal is due. Broadcasting can be slow, so senders do it. A
    process has one `Renewals`, `process_renewals`.

    Args:
        clocks: Reads clocks; the first one is monotonic.
        sleep: Waits between two attempts to broadcast a late save.
        in_thread: Starts the only thread, or raises `RuntimeError`.
        senders: The threads that broadcast.
        condition: Makes what the thread waits on.
        new_save_id: Makes the id that all events of one confirmed save have in common.
        linger: See `LINGER`.
    """

    def __init__(
        self,
        *,
        clocks: Callable[[], Moment] = read_clocks,
        sleep: Callable[[float], None] = time.sleep,
        in_thread: Callable[[Job], None] = _in_thread,
        senders: Senders | None = None,
        condition: Callable[[Any], threading.Condition] = threading.Condition,
        new_save_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        linger: float = LINGER,
    ) -> None:
        self.now = clocks
        self.new_save_id = new_save_id
        self.tally = Tally()
        self.senders = senders or Senders()
        self._sleep = sleep
        self._in_thread = in_thread
        self._condition = condition
        self._linger = linger
        self._forget_saves()

    def start_over(self) -> None:
        """Forget everything: the child of a fork has neither the parent's saves nor its threads."""
        self.tally.start_over()
        self.senders.start_over()
        self._forget_saves()

    def _forget_saves(self) -> None:
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._earlier = self._condition(self._lock)
        self._announced = threading.Condition(self._lock)
        self._saves: dict[Save, None] = {}
        self._waiting: dict[Save, None] = {}  # for a sender
        self._late: dict[Save, None] = {}
        self._wake_at = math.inf
        self._watched = False

    def age(self, started: Moment) -> float:
        """Return the seconds since a broadcast started."""
        return elapsed(started, self.now())

    def begin(self, save: Save) -> None:
        """Renew a save until its end."""
        with self._lock:
            self._saves[save] = None
            if save.renew_at < self._wake_at:
                self._wake(save.renew_at)

    def end(self, save: Save, *, goes_on: bool) -> bool:
        """
        Note that a save is over; return True if its last broadcast can have been too early.

        Then the caller must `announce_late`.

        Args:
            save: The save.
            goes_on: It can still be running, so it is renewed for some time.
        """
        expired: list[Save] = []
        with self._lock:
            now = self.now()
            if goes_on:
                expired = self._forget_expired(now[0])
                save.linger_until = now[0] + max(self._linger, 2 * save.settle)
            else:
                self.forget(save)
            late = elapsed(save.started, now) >= save.settle
            if late:
                self._late[save] = None
        for each in expired:
            why = TimeoutError("no thread was free to broadcast it")
            if not self.senders.renew(report := partial(_report_unsettled, each, self.tally, why)):
                report()  # rather not here: perhaps in an event loop
        if late:
            self.tally.add("late")
        return late

    def forget(self, save: Save) -> None:
        """Renew a save no longer."""
        with self._lock:
            self._saves.pop(save, None)
            self._waiting.pop(save, None)

    def _forget_expired(self, now: float) -> list[Save]:
        """Forget cancelled saves that nobody renews: threads do not run, or SNS does not answer."""
        left = [each for each in self._saves if each.linger_until + 2 * each.settle < now]
        expired = [each for each in left if each in self._waiting or each.renew_at < math.inf]
        for save in expired:
            self.forget(save)
        return expired

    def collect_due(self) -> int:
        """Let the saves that are due wait for a sender; return how many those are."""
        with self._lock:
            now = self.now()[0]
            due = [save for save in self._saves if save.renew_at <= now]
            for save in due:
                save.renew_at = math.inf
                self._waiting[save] = None
        return len(due)

    def renew_next(self) -> None:
        """
        Broadcast saves that wait for a sender, by one call of a publisher.

        Up to ten ids of one publisher share a call. If it fails, its saves are due again soon.
        """
        saves = self._next_saves()
        if not saves:  # they ended while they waited, or another sender had room for them
            return
        started = self.now()
        try:
            failed, error = failures([save.broadcast for save in saves])
        except BaseException:  # this thread ends
            self._put_off(saves)
            raise
        if failed:
            _log_failed(failed, error)
        if renewed := len(saves) - len(failed):
            self.tally.add("renewals", renewed)
        for save in saves:
            self._renewed(save, started, error if save.broadcast in failed else None)

    def _next_saves(self) -> list[Save]:
        saves: list[Save] = []
        left = BATCH_SIZE
        with self._lock:
            now = self.now()[0]
            for save in list(self._waiting):
                size = len(save.broadcast.events)
                if saves and not (size <= left and save.broadcast.shares_with(saves[0].broadcast)):
                    continue
                del self._waiting[save]
                if save.is_abandoned(now):
                    self.forget(save)
                    _log_abandoned(save)
                    continue
                saves.append(save)
                left -= size
                if left <= 0:
                    break
        return saves

    def _put_off(self, saves: Iterable[Save]) -> None:
        """Let saves for which there is no thread be due again soon."""
        with self._lock:
            for save in list(saves):
                self._waiting.pop(save, None)
                save.renew_at = self.now()[0] + save.settle / 10
                self._wake(min(self._wake_at, save.renew_at))

    def _renewed(self, save: Save, started: Moment, error: Exception | None) -> None:
        with self._lock:
            now = self.now()[0]
            if error is None:
                save.started, save.renew_at = started, started[0] + save.settle / 2
                over = started[0] >= save.linger_until
            else:
                save.renew_at = now + save.settle / 10
                over = now >= save.linger_until + save.settle
            if over:
                self.forget(save)
            elif save in self._saves and save.renew_at < self._wake_at:
                self._wake(save.renew_at)
        if over and error is not None:
            _report_unsettled(save, self.tally, error)

    def announce_late(self, save: Save, broadcast: Job) -> None:
        """
        Broadcast a save that ended too long after its last broadcast.

        What a broadcast raises is not raised, because the save stands. If no attempt succeeds, or a
        signal ends them, that is logged and counted, and `on_unsettled` is called.
        """
        failure: Exception | None = None
        try:
            for attempt in range(1, FINAL_ATTEMPTS + 1):
                try:
                    broadcast()
                except Exception as error:  # of any kind; the save stands
                    failure = error
                else:
                    failure = None
                    return
                if attempt < FINAL_ATTEMPTS:
                    self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        except (KeyboardInterrupt, SystemExit):
            failure = failure or TimeoutError("its broadcast was interrupted")
            raise
        finally:
            with self._lock:
                self._late.pop(save, None)
                self._announced.notify_all()
            if failure is not None:
                _report_unsettled(save, self.tally, failure)

    def finish(self, timeout: float = EXIT_PATIENCE) -> None:
        """
        Wait for the broadcasts of late saves, because the process is about to end.

        Those that are not over after `timeout` seconds are reported as unsettled.
        """
        with self._lock:
            self._announced.wait_for(lambda: not self._late, timeout)
            left = list(self._late)
        for save in left:
            _report_unsettled(save, self.tally, TimeoutError("the process ends"))

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
                while (pause := self._wake_at - self.now()[0]) > 0:
                    self._earlier.wait(None if pause == math.inf else pause)
                due = self.collect_due()
                self._wake_at = min((save.renew_at for save in self._saves), default=math.inf)
            if not all(self.senders.renew(self.renew_next) for _ in range(due)):
                self._put_off(self._waiting)


def _log_failed(failed: Iterable[Broadcast], error: object) -> None:
    ids = [id for broadcast in failed for id in broadcast.ids]
    log.warning("renewal failed: %s", printable(error), extra={"action": "renew", "ids": ids})


def _log_abandoned(save: Save) -> None:
    log.warning(
        "a save was begun and not ended, so it is broadcast no longer: its broadcasting() "
        "was lost, or has been open for more than an hour",
        extra={"action": "abandon", "ids": save.broadcast.ids},
    )


def _report_unsettled(save: Save, tally: Tally, failure: Exception) -> None:
    ids = save.broadcast.ids
    tally.add("unsettled")
    log.error(
        "the save of %s took too long, and could not be broadcast after it: "
        "caches can stay stale until it changes again: %s",
        ", ".join(map(repr, ids[:3])),
        printable(failure),
        extra={"action": "unsettled", "ids": ids},
    )
    if save.on_unsettled is not None:
        try:
            save.on_unsettled(ids, failure)
        except Exception:  # the user's function failed; the save stands
            log.exception("on_unsettled failed", extra={"action": "unsettled", "ids": ids})


process_renewals = Renewals()
"""What keeps the saves of this process broadcast."""

getattr(os, "register_at_fork", lambda **_: None)(after_in_child=process_renewals.start_over)
atexit.register(process_renewals.finish)


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
