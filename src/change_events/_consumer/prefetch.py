"""How many events a worker holds. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

GAP = 0.1
"""Seconds between two checks whether to hold more, or fewer: a check counts all ids in hand."""

MEASURABLE = 100
"""Events that a beat must extend before its duration says how many it can: ten calls."""


class Prefetch:
    """
    How many events to hold: from `least` to `most`, or a fixed number, if these are equal.

    It starts with `least`, and doubles each time that so many are held while the queue has more,
    for as long as that gives the worker little more to do: at most half of what is held, and at
    most `least`, is work that waits. Such events share looks, or wait for their window. Others are
    left in the queue, for other workers.

    It falls to little more than what is held when the queue has no more, because other workers find
    it empty then; by halves while the work that waits is more than twice `least`; and to what the
    heartbeat can keep invisible.

    Times are passed in, in monotonic seconds.

    Attributes:
        size: How many events to hold now.
    """

    def __init__(self, *, least: int, most: int) -> None:
        self.size = self._least = least
        self._most = self._ceiling = most
        self._check_at = self._grow_at = 0.0

    def is_due(self, now: float, *, full: bool) -> bool:
        """Return True if it is time to call `adapt`. `full`: All room is used."""
        return self._least < self._most and now >= (self._grow_at if full else self._check_at)

    def adapt(self, now: float, *, held: int, waiting: int, full: bool) -> None:
        """
        Hold more, if all room is used (`full`), or fewer, while the queue has more.

        `waiting` says how many looks wait for nothing but their turn.
        """
        self._check_at = now + GAP
        if full and waiting <= min(held // 2, self._least):
            self.size = min(self.size * 2, self._ceiling)
            return
        self._grow_at = self._check_at if full else self._grow_at
        if waiting > 2 * self._least:
            self.size = max(self._least, self.size // 2)

    def drained(self, held: int) -> None:
        """Note that the queue has no more than what was received. So many events are held."""
        self.size = max(self._least, min(self.size, held + held // 4))

    def beat(self, extended: int, took: float, period: float) -> None:
        """
        Note how long the heartbeat took to extend so many events. It has half of its period for it.

        Of few events, nothing follows, unless they took too long.
        """
        if extended >= MEASURABLE or took > period / 2:
            can = extended * period / 2 / took if took > 0 else self._most
            self._ceiling = max(self._least, int(min(can, self._most)))
            self.size = min(self.size, self._ceiling)
