"""
Refuses a mass deletion. Pure: no clock, no thread, no I/O.

A wrong base URL, or a service with an empty database, answers a plausible 404 to everything, and
look by look the cache would be deleted. So the guard counts looks at cached entities. When too many
of them find the entity gone, it refuses this deletion and every other one, until an operator says
that the entities are meant to be gone.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

WINDOW = 100
"""How many of the last looks at cached entities count."""

MAX_SHARE = 0.5
"""The share of these looks that can find the entity gone."""

MIN_DELETED = 20
"""The number of "gone" looks below which no deletion is refused."""


class _State(Enum):
    WATCHES = auto()
    REFUSES = auto()
    BELIEVES = auto()  # an operator has called resume(), and there are still too many


class Guard:
    """
    Refuses a mass deletion.

    Args:
        max_share: The share of the last hundred looks at cached entities that can see them gone.
        min_deleted: The number of such looks below which no deletion is refused.
    """

    def __init__(self, *, max_share: float = MAX_SHARE, min_deleted: int = MIN_DELETED) -> None:
        self._max_share = max_share
        self._min_deleted = min_deleted
        self._saw_gone: deque[bool] = deque(maxlen=WINDOW)
        self._state = _State.WATCHES

    @property
    def tripped(self) -> bool:
        """True while deletions are refused."""
        return self._state is _State.REFUSES

    def allows(self, *, gone: bool) -> bool:
        """Count a look at a cached entity before it is stored; False if it must not be stored."""
        self._saw_gone.append(gone)
        too_many = self._too_many()
        if self._state is _State.WATCHES and gone and too_many:
            self._state = _State.REFUSES
        elif self._state is _State.BELIEVES and not too_many and len(self._saw_gone) == WINDOW:
            self._state = _State.WATCHES
        return not (gone and self.tripped)

    def resume(self) -> None:
        """Allow deletions until there are no longer too many. No effect if none was refused."""
        if self.tripped:
            self._state = _State.BELIEVES

    def __str__(self) -> str:
        """Return how many looks found the entity gone."""
        gone, looks = sum(self._saw_gone), len(self._saw_gone)
        return f"{gone} of the last {looks} looks at cached entities saw them gone"

    def _too_many(self) -> bool:
        gone = sum(self._saw_gone)
        return gone >= self._min_deleted and gone > self._max_share * len(self._saw_gone)
