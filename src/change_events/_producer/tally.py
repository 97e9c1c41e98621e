"""Counts what a process has broadcast beyond the one broadcast before each save."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from change_events._meter import Meter

METRICS = {"renewals": "renewals", "late": "late_broadcasts", "unsettled": "unsettled_saves"}
"""For each of `BroadcastStats` the name of its metric."""


@dataclass(frozen=True, slots=True)
class BroadcastStats:
    """
    What this process has broadcast beyond the one broadcast before each save.

    Attributes:
        renewals: Broadcasts repeated while a save was under way, or could still be.
        late: Saves that ended when their last broadcast was older than the settle window. They are
            broadcast once more.
        unsettled: Late or cancelled saves for which the last broadcast failed. A consumer's copy
            can stay stale until the next change.
    """

    renewals: int = 0
    late: int = 0
    unsettled: int = 0


class Tally:
    """Counts renewals, late saves and unsettled saves, here and for the user's metrics."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.start_over()

    def start_over(self) -> None:
        """Count from zero, with a new lock."""
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count more."""
        with self._lock:
            self._counts[name] += count
        self.meter.count(METRICS[name], count)

    def stats(self) -> BroadcastStats:
        """Return the counts so far."""
        with self._lock:
            return BroadcastStats(**self._counts)
