"""
When "gone" is the answer too often to be believed. Pure: no clock, no thread, no I/O.

A wrong base URL, or a service whose database is empty, answers a plausible 404 to everything, and
look by look the cache would be deleted. So looks at entities that are cached are counted, and a
deletion that would make too many is refused, and every other after it, until an operator says that
they are meant.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

WINDOW = 100
"""So many of the last looks at cached entities count."""

MAX_SHARE = 0.5
"""More than this share of them is too much."""

AT_LEAST = 20
"""But not if they are fewer."""


class _State(Enum):
    WATCHES = auto()
    REFUSES = auto()
    BELIEVES = auto()  # an operator has said that it is meant, and it is not over yet


class Guard:
    """
    Refuses a mass deletion. The caller serializes the calls.

    Args:
        max_share: Of the last hundred looks at cached entities, the share that may see them gone;
            1: all of them.
        at_least: So many may in any case, less one.
    """

    def __init__(self, *, max_share: float = MAX_SHARE, at_least: int = AT_LEAST) -> None:
        self._max_share = max_share
        self._at_least = at_least
        self._saw_gone: deque[bool] = deque(maxlen=WINDOW)
        self._state = _State.WATCHES

    @property
    def tripped(self) -> bool:
        """Whether deletions are refused."""
        return self._state is _State.REFUSES

    def allows(self, *, gone: bool) -> bool:
        """
        Count a look at a cached entity, before anything is written; False if that must not be.
        """
        self._saw_gone.append(gone)
        too_many = self._too_many()
        if self._state is _State.WATCHES and gone and too_many:
            self._state = _State.REFUSES
        elif self._state is _State.BELIEVES and not too_many and len(self._saw_gone) == WINDOW:
            self._state = _State.WATCHES
        return not (gone and self.tripped)

    def resume(self) -> None:
        """Allow deletions for as long as they are too many; nothing if none was refused."""
        if self.tripped:
            self._state = _State.BELIEVES

    def __str__(self) -> str:
        """Say what is too much."""
        return f"{sum(self._saw_gone)} of the last {len(self._saw_gone)} looks at cached entities saw them gone"

    def _too_many(self) -> bool:
        gone = sum(self._saw_gone)
        return gone >= self._at_least and gone > self._max_share * len(self._saw_gone)
