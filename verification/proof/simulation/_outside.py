"""
What no broadcast has told: entities that are older than the queue, and rows changed by hand. A
backfill and an audit are there for these.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from verification.proof.simulation._kernel import Kernel

EPSILON = 1e-6


class Point(NamedTuple):
    """
    A moment at which a side of an entity has changed.

    Attributes:
        at: When.
        written: A look has written the entry.
        wrong: From then on, the entry is not what the source has.
    """

    at: float
    written: bool
    wrong: bool


class Outside:
    """
    The ghost's book of them.

    Args:
        kernel: The clock.
        on: Keep what `audited` needs.

    Attributes:
        unannounced: Ids of entities older than the queue, that nothing has told the cache of.
        by_hand: By id, the value of a row that was changed by hand, and when.
    """

    def __init__(self, kernel: Kernel, *, on: bool) -> None:
        self._kernel = kernel
        self._on = on
        self.unannounced: set[str] = set()
        self.by_hand: dict[str, tuple[int, float]] = {}
        self._points: defaultdict[str, list[Point]] = defaultdict(list)

    def __contains__(self, id: str) -> bool:
        return id in self.unannounced or id in self.by_hand

    def is_by_hand(self, id: str, value: object) -> bool:
        """Return True if a look has left a row as it was changed by hand."""
        return id in self.by_hand and self.by_hand[id][0] == value

    def note(self, id: str, *, written: bool, wrong: bool) -> None:
        """Note that a side of an entity has changed."""
        if self._on:
            self._points[id].append(Point(self._kernel.now, written, wrong))

    def was_wrong(self, id: str, *, since: float) -> float:
        """
        Return for how long the entry was wrong, from a moment on and without a write between.

        It can have been right for a while meanwhile, because the source changed there and back.
        """
        longest, first = 0.0, math.inf
        points = self._points[id]
        ends = [*(each.at for each in points[1:]), self._kernel.now]
        for point, end in zip(points, ends, strict=False):
            if point.written:
                first = math.inf
            if point.wrong and end >= since:
                first = min(first, max(point.at, since))
                longest = max(longest, end - first)
        return longest

    def overlooked(self, reported: Collection[str], *, since: float) -> Iterator[str]:
        """Iterate over the rows that were changed by hand before that, and were not reported."""
        for id, (_, at) in self.by_hand.items():
            if at < since and self._points[id][-1].at < since and id not in reported:
                yield id
