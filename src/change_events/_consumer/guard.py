"""
Refuses a mass deletion. Pure: no thread, no I/O.

A wrong base URL, or a service with an empty database, answers a plausible 404 to everything, and
look by look the cache would be deleted. So the guard counts looks at cached entities. When too many
of them find the entity gone, it refuses this deletion and every other one, until an operator says
that the entities are meant to be gone.

An empty cache has nothing to delete. There the guard counts the ids that the source does not know,
until it has found its first entity: a wrong URL would acknowledge every event as "never saved".
"""

from __future__ import annotations

import json
import time
from collections import deque
from enum import Enum
from itertools import accumulate, islice, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW = 100
"""How many of the last looks at cached entities count."""

MAX_SHARE = 0.5
"""The share of these looks that can find the entity gone."""

MIN_DELETED = 20
"""The number of "gone" looks below which no deletion is refused, unless the cache is small."""

MIN_DELETED_OF_FEW = 5
"""The same for a small cache: below it, the share of the cached entities decides nothing."""

UNKNOWN_IDS = 3
"""How many ids the source must not know, at an empty cache, before the log has a warning."""


class _State(str, Enum):
    WATCHES = "watches"
    REFUSES = "refuses"
    BELIEVES = "believes"  # an operator has called resume(), and there are still too many


class Guard:
    """
    Refuses a mass deletion.

    Args:
        max_share: The share of the last hundred looks at cached entities that can see them gone. Of
            a small cache, also the share of its entities.
        min_deleted: The number of such looks below which no deletion is refused, unless the cache
            is small. Also the number of ids, three or more, that the source of an empty cache must
            not know until nothing more is believed.
        on: Refuse at all.
        clock: Returns the time in seconds since 1970. By it, looks of several processes are put in
            order.
    """

    def __init__(
        self,
        *,
        max_share: float = MAX_SHARE,
        min_deleted: int = MIN_DELETED,
        on: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._min_deleted = min_deleted
        self._max_share = max_share
        self._most_few = int(min_deleted / max(max_share, 0.02))
        self._on = on
        self._window = _Window(clock)
        self._mine: deque[bool] = deque(maxlen=WINDOW)  # only this process may have a wrong URL
        self._gone: dict[tuple[str, int], None] = {}  # so that what is tried again counts once
        self._unknown: set[str] | None = set()  # None: the source has known an id
        self._warned = False
        self._state = _State.WATCHES
        self._resumed = False  # and that is not stored
        self._dumped = self._state

    @property
    def tripped(self) -> bool:
        """True while deletions are refused."""
        return self._state is _State.REFUSES

    @property
    def on(self) -> bool:
        """False if nothing is ever refused."""
        return self._on

    @property
    def is_new(self) -> bool:
        """True if it knows nothing of the source yet."""
        return self._unknown == set()

    @property
    def unknown(self) -> int:
        """The number of ids that the source did not know, before it knew its first one."""
        return len(self._unknown or ())

    @property
    def gone(self) -> int:
        """How many of the last looks at cached entities saw them gone."""
        return self._window.gone

    @property
    def can_have_refused(self) -> bool:
        """True if another process of the cache can refuse deletions, after what was seen gone."""
        return self.gone >= min(MIN_DELETED_OF_FEW, self._min_deleted)

    @property
    def few(self) -> int:
        """
        The number of cached entities from which on a cache is not small. 0: its size does not
        matter for the next deletion.
        """
        if not MIN_DELETED_OF_FEW - 1 <= self._window.gone < self._min_deleted - 1:
            return 0
        return self._most_few

    def found(self, *, cached: bool) -> None:
        """Count a look that found an entity. `cached`: It was cached before."""
        self._unknown = None
        if cached:
            self._count(gone=False)

    def allows_deletion(
        self, left: int | None = None, *, entry: tuple[str, int] | None = None
    ) -> bool:
        """
        Count a look at a cached entity that is gone; False if it must not be deleted.

        `left`: How many entities are cached, this one included; None: many, or not known. `entry`:
        The id and the version: tried again, because it could not be deleted, it counts once.
        """
        self._unknown = None
        full = self._window.looks == WINDOW
        if self._state is _State.BELIEVES and full and not self._too_many():
            self._state = _State.WATCHES  # the mass deletion is over
        if entry not in self._gone:
            self._count(gone=True)
        if entry is not None:
            self._gone[entry] = None
        if len(self._gone) > WINDOW:
            del self._gone[next(iter(self._gone))]
        if self._on and self._state is _State.WATCHES and self._too_many(left):
            self._state = _State.REFUSES
        return not self.tripped

    def allows_unknown(self, id: str, *, is_warm: bool = False) -> bool:
        """
        Count an id that is neither cached nor at the source; False: don't believe the source.

        `is_warm`: The cache has entities, so the source has known ids before.
        """
        if is_warm:
            self._unknown = None
        if self._unknown is not None and self._on:
            self._unknown.add(id)
            many = max(self._min_deleted, UNKNOWN_IDS)
            if self._state is _State.WATCHES and len(self._unknown) >= many:
                self._state = _State.REFUSES
        return not self.tripped

    def warns(self) -> bool:
        """Return True once, if the source has not known any of a few ids."""
        warns = not self._warned and self.unknown >= UNKNOWN_IDS
        self._warned |= warns
        return warns

    def resume(self) -> None:
        """
        Go on. No effect if nothing was refused.

        Deletions are allowed until there are no longer too many. At an empty cache, there was
        nothing to delete: the guard only stops doubting the source.
        """
        if self.tripped:
            self._go_on(_State.WATCHES if self._unknown else _State.BELIEVES)

    def allow(self) -> None:
        """Allow deletions as `resume` does, although this process has refused none."""
        self._go_on(_State.BELIEVES)

    def _go_on(self, state: _State) -> None:
        self._state = state
        self._unknown = None
        self._mine.clear()
        self._resumed = True

    @property
    def unkept(self) -> int:
        """The number of looks that are not stored."""
        return self._window.unkept

    def dump(self) -> str:
        """
        Return what other processes, and later ones, must know, as text. If it is stored, call
        `dumped`; if not, `load` and begin again.

        Not that deletions are refused: a process that starts can have the right URL. If it has not,
        it refuses its first deletion, because the looks are known.
        """
        looks = self._window.dump()
        times = [0, *(at for at, _ in looks)]
        self._dumped = self._state
        return json.dumps(
            {
                "believes": self._state is _State.BELIEVES,
                "gone": "".join(str(int(gone)) for _, gone in looks),
                # Milliseconds: the first look's, and then the differences.
                "at": [later - earlier for earlier, later in pairwise(times)],
            }
        )

    def dumped(self) -> None:
        """Note that the last dump is stored."""
        self._window.dumped()
        if self._dumped is self._state:  # there was no resume since
            self._resumed = False

    def load(self, text: str | None) -> None:
        """
        Add what other processes have counted, and whether one of them was told to go on.

        None, or a text that is not from `dump`, changes nothing. One from before a `resume` that is
        not stored does not undo it: looks go on before it is stored.
        """
        if text is None:
            return
        try:
            kept = json.loads(text)
            believes, times = kept["believes"] is True, accumulate(map(int, kept["at"]))
            looks = list(zip(times, (each == "1" for each in kept["gone"]), strict=True))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return
        if believes and self._state is not _State.BELIEVES:
            self._window.forget_own()  # what was seen before the resume says nothing of after it
            self._mine.clear()
            self._state = _State.BELIEVES
        elif not (believes or self._resumed) and self._state is _State.BELIEVES:
            self._state = _State.WATCHES
            self._mine.clear()
        self._window.load(looks)

    def __str__(self) -> str:
        """Return why deletions are refused."""
        if self._unknown:
            return f"the cache is empty, and the source does not know any of {self.unknown} ids"
        gone, looks = self._window.gone, self._window.looks
        return f"{gone} of the last {looks} looks at cached entities saw them gone"

    def _count(self, *, gone: bool) -> None:
        self._window.add(gone=gone)
        self._mine.append(gone)

    def _too_many(self, left: int | None = None) -> bool:
        gone, mine = self._window.gone, sum(self._mine)
        if mine >= self._min_deleted and mine > self._max_share * WINDOW:
            return True
        if gone >= self._min_deleted and gone > self._max_share * self._window.looks:
            return True
        if left is None:
            return False
        # Those that are left, and those deleted lately: this one is in both. What other processes
        # may delete can still be among those that are left.
        entities = left + sum(list(self._mine)[-self._most_few :]) - 1
        # As many looks as entities: what was found before must not hide that all are gone.
        lately = self._window.gone_of_last(entities)
        return lately >= MIN_DELETED_OF_FEW and lately > self._max_share * entities


class _Window:
    """
    The last looks at cached entities, of all processes that share the cache, in their order.

    A look is a time in milliseconds, and True for an entity that was gone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Of all processes; of this one, and not stored; of this one, and dumped, so perhaps stored.
        self._all: deque[tuple[int, bool]] = deque(maxlen=WINDOW)
        self._own: deque[tuple[int, bool]] = deque(maxlen=WINDOW)
        self._dumped: deque[tuple[int, bool]] = deque()

    @property
    def looks(self) -> int:
        """How many looks there are, up to a hundred."""
        return len(self._all)

    @property
    def gone(self) -> int:
        """How many of them saw the entity gone."""
        return sum(gone for _, gone in self._all)

    @property
    def unkept(self) -> int:
        """How many are not stored."""
        return len(self._own) + len(self._dumped)

    def gone_of_last(self, number: int) -> int:
        """Return how many of the last so many looks saw the entity gone."""
        return sum(gone for _, gone in islice(reversed(self._all), max(0, number)))

    def add(self, *, gone: bool) -> None:
        """Add a look of this process."""
        at = round(self._clock() * 1000)
        if self._all:  # later than all that is known: the clocks of two machines differ
            at = max(at, self._all[-1][0] + 1)
        self._all.append((at, gone))
        self._own.append((at, gone))

    def load(self, stored: Iterable[tuple[int, bool]]) -> None:
        """Add what is stored: the looks that count."""
        self._take_back()
        self._all = deque(sorted([*stored, *self._own]), maxlen=WINDOW)

    def dump(self) -> list[tuple[int, bool]]:
        """Return what is to be stored."""
        self._take_back()
        self._dumped, self._own = self._own, deque(maxlen=WINDOW)
        return list(self._all)

    def dumped(self) -> None:
        """Note that it is stored."""
        self._dumped.clear()

    def _take_back(self) -> None:
        """What was dumped last is not stored."""
        self._own = deque([*self._dumped, *self._own], maxlen=WINDOW)
        self._dumped.clear()

    def forget_own(self) -> None:
        """Forget what is not stored."""
        self._own.clear()
        self._dumped.clear()
