"""For how many ids a bulk GET asks. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

import math

FIRST = 10
"""Ids of the first bulk GETs."""

ANSWERS = 4
"""Answers to full bulk GETs after which their size is judged."""

GAIN = 0.9
"""A larger size is worth it if an id takes at most this part of the time that it took before."""

SLOW = 1.0
"""Seconds after which the answer to a bulk GET is slow: all of its ids wait for it."""

AGAIN = 100
"""Answers after which a size that was found good is judged again: the source can have changed."""

LONGEST = 100 * AGAIN
"""The most answers after which a size that was too much is tried again."""


class BulkSize:
    """
    For how many ids one GET asks.

    It starts small. It doubles after a few full bulk GETs whose time for each id is less than with
    the size before. It goes back if an id takes longer than with the size before, and falls to half
    after an answer that was slow, or none. If half of the size is then good, the size was too much:
    it is tried again after many answers, twice as many each time.

    Attributes:
        size: For how many ids to ask now, if the fetcher allows so many.
    """

    def __init__(self) -> None:
        self._most = FIRST
        self._too_much = math.inf
        self._again = AGAIN
        self._was_good = True  # there was an answer since the size has fallen
        self._use(FIRST)

    def ask(self, most: int) -> int:
        """Return for how many ids to ask: at most for `most`, which is the fetcher's word."""
        self._most = most
        return min(self.size, most)

    def answered(self, ids: int, took: float) -> None:
        """Note an answer for so many ids. One for fewer than asked for says nothing."""
        if took > SLOW:
            self.failed(ids)
            return
        if ids < min(self.size, self._most):
            return
        self._was_good = True
        self._answers += 1
        self._seconds += took / ids
        if self._answers == ANSWERS:
            self._judge(self._seconds / ANSWERS)
        elif self._answers >= self._again:
            self._too_much = math.inf
            self._use(self.size)

    def failed(self, ids: int) -> None:
        """Note a bulk GET for so many ids that was not answered, or slowly."""
        size = min(self.size, self._most)
        if ids > size:
            return  # it began before the size has fallen
        half = max(2, size // 2)
        if self._was_good and half < size:
            self._too_much, self._again = size, min(2 * self._again, LONGEST)
        else:
            self._too_much, self._again = math.inf, AGAIN  # half of it is no better
        self._was_good = False
        self._use(half)

    def _judge(self, each: float) -> None:
        before, larger = self._before, min(2 * self.size, self._most)
        if before is not None:
            self._again = AGAIN  # what was too much is not any more
        if before is not None and each > before[1]:
            self._use(before[0])
            self._answers = ANSWERS  # it was judged
        elif self.size < larger < self._too_much and (before is None or each <= before[1] * GAIN):
            self._use(self.size * 2, before=(self.size, each))

    def _use(self, size: int, *, before: tuple[int, float] | None = None) -> None:
        """Ask for so many from now on. `before`: the size before, and its seconds for an id."""
        self.size = size
        self._before = before
        self._answers = 0
        self._seconds = 0.0
