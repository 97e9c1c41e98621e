"""For how many ids a bulk GET asks. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

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


class BulkSize:
    """
    For how many ids one GET asks.

    It starts small. It doubles after a few full bulk GETs whose time for each id is less than with
    the size before. It goes back if an id takes longer than with the size before, and falls to half
    after an answer that was slow, or none.

    Attributes:
        size: For how many ids to ask now, if the fetcher allows so many.
    """

    def __init__(self) -> None:
        self._most = FIRST
        self._use(FIRST)

    def ask(self, most: int) -> int:
        """Return for how many ids to ask: at most for `most`, which is the fetcher's word."""
        self._most = most
        return min(self.size, most)

    def answered(self, ids: int, took: float) -> None:
        """Note an answer for so many ids. One for fewer than asked for says nothing."""
        if took > SLOW:
            self._shrink()
            return
        if ids < min(self.size, self._most):
            return
        self._answers += 1
        self._seconds += took / ids
        if self._answers == ANSWERS:
            self._judge(self._seconds / ANSWERS)
        elif self._answers == AGAIN:
            self._use(self.size)

    def failed(self) -> None:
        """Note a bulk GET that was not answered."""
        self._shrink()

    def _judge(self, each: float) -> None:
        before = self._before
        if before is not None and each > before[1]:
            self._use(before[0])
            self._answers = ANSWERS  # it was judged
        elif self.size < self._most and (before is None or each <= before[1] * GAIN):
            self._use(self.size * 2, before=(self.size, each))

    def _shrink(self) -> None:
        self._use(max(2, min(self.size, self._most) // 2))

    def _use(self, size: int, *, before: tuple[int, float] | None = None) -> None:
        """Ask for so many from now on. `before`: the size before, and its seconds for an id."""
        self.size = size
        self._before = before
        self._answers = 0
        self._seconds = 0.0
