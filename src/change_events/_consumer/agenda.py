"""When each id is due for a look, and which ids rest. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict

REST = 5.0
"""Seconds that an id rests after a look, while the queue has more and there is room for it."""


class Agenda:
    """Looks that are due at a time or under way, at most one for each id."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._under_way: dict[str, float] = {}  # since when
        # A heap. Entries that no longer match `_at`, or are under way, are skipped.
        self._heap: list[tuple[float, str]] = []

    def at(self, id: str) -> float:
        """Return when the id's next look is due; infinity if none is."""
        return self._at.get(id, math.inf)

    def is_under_way(self, id: str) -> bool:
        """Return True if a look at the id is under way."""
        return id in self._under_way

    def is_idle(self, id: str) -> bool:
        """Return True if no look at the id is due or under way."""
        return id not in self._at and id not in self._under_way

    def waits(self, id: str, now: float) -> bool:
        """Return True if a look at the id is due, and not under way."""
        return self.at(id) <= now and id not in self._under_way

    def under_way(self) -> int:
        """Return how many looks are under way."""
        return len(self._under_way)

    def add(self, id: str, at: float) -> bool:
        """Make a look at the id due at that time; return False if one is due by then anyway."""
        if at >= self.at(id):
            return False
        self._at[id] = at
        if id not in self._under_way:
            heapq.heappush(self._heap, (at, id))
        return True

    def next(self) -> tuple[float, str] | None:
        """Return the look that is due first: when, and at which id."""
        while self._heap:
            at, id = self._heap[0]
            if at == self._at.get(id) and id not in self._under_way:
                return at, id
            heapq.heappop(self._heap)
        return None

    def begun(self, before: float) -> list[str]:
        """Return the ids with a look under way that began before that time."""
        return [id for id, began in self._under_way.items() if began < before]

    def begin(self, id: str, now: float) -> None:
        """Note that a look at the id begins."""
        self._under_way[id] = now

    def cancel(self, id: str) -> None:
        """Make no further look at the id due."""
        self._at.pop(id, None)

    def end(self, id: str) -> None:
        """Note that no look at the id is under way any more."""
        self._under_way.pop(id, None)
        if id in self._at:
            heapq.heappush(self._heap, (self._at[id], id))


class Rest:
    """
    The ids that rest: they were just looked at, and the queue seems to have more of them.

    Resting makes a backlog of few ids cost few GETs.
    """

    def __init__(self) -> None:
        # When each id's last GET started, oldest first; forgotten after REST. To find its oldest,
        # a dict would walk over the gaps that all removed ones have left.
        self._looked: OrderedDict[str, float] = OrderedDict()
        # The ids that rest, and when their look would be otherwise.
        self._resting: dict[str, float] = {}
        # The ids that stopped resting to make room, until their look is over.
        self._making_room: set[str] = set()

    @property
    def ids(self) -> list[str]:
        """The ids that rest."""
        return list(self._resting)

    @property
    def making_room(self) -> int:
        """The number of ids that stopped resting to make room, and whose look is not over."""
        return len(self._making_room)

    def until(self, id: str, at: float) -> float:
        """Let the id rest if it was just looked at; return when its look is due: `at`, or later."""
        until = self._looked.get(id, -math.inf) + REST
        if at >= until:
            return at
        self._resting[id] = min(at, self._resting.get(id, math.inf))
        return until

    def stop(self, id: str, *, to_make_room: bool = False) -> float:
        """End the id's rest, and return when its look is due."""
        if to_make_room:
            self._making_room.add(id)
        return self._resting.pop(id)

    def get_started(self, id: str, now: float) -> None:
        """Note that a GET of the id starts."""
        self._resting.pop(id, None)
        self._looked[id] = now
        self._looked.move_to_end(id)
        while self._looked[oldest := next(iter(self._looked))] < now - REST:
            del self._looked[oldest]

    def look_over(self, id: str) -> None:
        """Note that a look at the id is over."""
        self._making_room.discard(id)

    def forget(self, id: str) -> None:
        """Note that the id has no look to wait for."""
        self._resting.pop(id, None)
        self._making_room.discard(id)
