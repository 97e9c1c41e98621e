"""Which GETs are late, and when they are more than usual. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

import bisect
import math
from collections import deque
from typing import NamedTuple

LATE, GRACE = 0.1, 0.002
"""A GET is late if it lasts longer than usual by this share of it, and by these seconds."""

KEPT = 256
"""The most GETs that are kept to tell what is usual."""

EXACT = 0.04
"""The usual share of late GETs is well known if its standard deviation is no more than this."""

FEW = 8
"""How many GETs can show that the source has become faster."""

MANY = 50
"""How many GETs can show that fewer are late."""

SURE, CERTAIN, LESS, FASTER = 2.0, 3.0, 3.5, 5.0
"""
Standard deviations by which a share must differ from the usual one: to count; to be beyond doubt;
to show that fewer are late, or that the source is faster. The last two are tried very often, and
what they show is believed at once.
"""


class Usual:
    """
    How long GETs of one size usually last, and which share of them is late, or early. Nothing is
    known before the first `add`.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque()
        self._in_order: list[float] = []  # the same, the shortest first
        self._least: float
        self._most: float
        self.late: Share
        self.early: Share

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def is_exact(self) -> bool:
        """True if it is well known which share is late, or as well as it will ever be."""
        return self.late.variance <= EXACT**2 or len(self) == KEPT

    def is_late(self, seconds: float) -> bool:
        """Return True if a GET has lasted longer than usual."""
        return seconds > self._most

    def is_early(self, seconds: float) -> bool:
        """Return True if a GET has not lasted as long as usual."""
        return seconds < self._least

    def add(self, *seconds: float) -> None:
        """Learn from these GETs, too. The oldest of many are forgotten."""
        for each in seconds:
            self._seconds.append(each)
            bisect.insort(self._in_order, each)
        while len(self._seconds) > KEPT:
            del self._in_order[bisect.bisect_left(self._in_order, self._seconds.popleft())]
        number = len(self._seconds)
        median = (self._in_order[number // 2] + self._in_order[~(number // 2)]) / 2
        grace = max(LATE * median, GRACE)
        self._least, self._most = median - grace, median + grace
        late = number - bisect.bisect_right(self._in_order, self._most)
        self.late = Share.of(late, number)
        self.early = Share.of(bisect.bisect_left(self._in_order, self._least), number)

    def learn(self, seconds: list[float]) -> None:
        """Learn from these GETs, and forget the others."""
        self._seconds.clear()
        self._in_order.clear()
        self.add(*seconds)

    def is_slower_than(self, seconds: list[float]) -> bool:
        """Return True if these GETs show that the usual ones lasted longer."""
        if len(seconds) < FEW:
            return False
        number = len(seconds)
        late, early = sum(map(self.is_late, seconds)), sum(map(self.is_early, seconds))
        if self.early.excess(early, number) > self.early.chance(number, FASTER):
            return True
        return number >= MANY and -self.late.excess(late, number) > self.late.chance(number, LESS)


class Share(NamedTuple):
    """
    A share that a sample shows.

    Attributes:
        value: The share.
        variance: Its variance, because the sample was small.
    """

    value: float
    variance: float

    @classmethod
    def of(cls, some: int, number: int) -> Share:
        """Estimate it as Krichevsky and Trofimov do: a few GETs can't show that it is 0."""
        value = (some + 0.5) / (number + 1)
        return cls(value, 2 * value * (1 - value) / number)

    def excess(self, some: int, number: int) -> float:
        """Return by how much the share in another sample is larger."""
        return some / number - self.value

    def chance(self, number: int, deviations: float) -> float:
        """Return by how much it can differ by chance, in another sample of that number."""
        variance = self.value * (1 - self.value) / number + self.variance
        return deviations * math.sqrt(variance)


class Window:
    """
    Answers, of all sizes.

    Attributes:
        began: When the first came.
        number: How many there are.
        wanted: How many came while a look waited.
        live: True if more GETs ran than the limit allows, and looks waited even then.
    """

    def __init__(self, *, live: bool = False) -> None:
        self.live = live
        self.began = math.inf
        self.number = self.late = self.wanted = 0
        self.seconds: dict[int, list[float]] = {}
        self._excess = 0.0
        self._variance = 0.0

    def add(self, size: int, seconds: float, usual: Usual, now: float, *, own: float) -> None:
        """Note an answer. `own` is for how many seconds this process itself can have delayed it."""
        self.began = min(self.began, now)
        self.number += 1
        late = usual.is_late(seconds - own)
        self.late += late
        self._excess += late - usual.late.value
        self._variance += usual.late.value * (1 - usual.late.value) + usual.late.variance
        self.seconds.setdefault(size, []).append(seconds)

    @property
    def is_wanted(self) -> bool:
        """True if looks waited most of the time."""
        return 2 * self.wanted >= self.number

    @property
    def excess(self) -> float:
        """The share of late answers, beyond the usual share."""
        return self._excess / self.number

    def beyond(self, target: float, deviations: float = SURE) -> float:
        """Return by how much that is more than the target and chance together explain."""
        return self.excess - target - deviations * math.sqrt(self._variance) / self.number
