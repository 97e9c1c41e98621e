"""
Refuses a mass deletion. Pure: no clock, no thread, no I/O.

A wrong base URL, or a service with an empty database, answers a plausible 404 to everything, and
look by look the cache would be deleted. So the guard counts looks at cached entities. When too many
of them find the entity gone, it refuses this deletion and every other one, until an operator says
that the entities are meant to be gone.

An empty cache has nothing to delete. There the guard counts the ids that the source does not know,
until it has found its first entity: a wrong URL would acknowledge every event as "never saved".
"""

from __future__ import annotations

import json
from collections import deque
from enum import Enum

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
    """

    def __init__(
        self, *, max_share: float = MAX_SHARE, min_deleted: int = MIN_DELETED, on: bool = True
    ) -> None:
        self._min_deleted = min_deleted
        self._max_share = max_share
        self._on = on
        self._saw_gone: deque[bool] = deque(maxlen=WINDOW)
        self._since_dump: deque[bool] = deque(maxlen=WINDOW)
        self._gone_ids: dict[str, None] = {}  # so that an id that is tried again counts once
        self._unknown: set[str] | None = set()  # None: the source has known an id
        self._warned = False
        self._state = _State.WATCHES
        self._resumed = False  # since the last dump
        self._dumped = self._since_dump, False  # what the last dump told of, and a resume

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
        return self._unknown == set() and not self._saw_gone

    @property
    def unknown(self) -> int:
        """The number of ids that the source did not know, before it knew its first one."""
        return len(self._unknown or ())

    @property
    def few(self) -> int:
        """
        The number of cached entities from which on a cache is not small. 0: its size does not
        matter for the next deletion.
        """
        if not MIN_DELETED_OF_FEW - 1 <= sum(self._saw_gone) < self._min_deleted - 1:
            return 0
        return int(self._min_deleted / max(self._max_share, 0.02))

    def found(self, *, cached: bool, id: str = "") -> None:
        """
        Count a look that found an entity. `cached`: It was cached before.

        `id`: Of the entity; if it is gone later, that counts again.
        """
        self._unknown = None
        self._gone_ids.pop(id, None)
        if cached:
            self._count(gone=False)

    def allows_deletion(self, left: int | None = None, *, id: str = "") -> bool:
        """
        Count a look at a cached entity that is gone; False if it must not be deleted.

        `left`: How many entities are cached, this one included; None: many, or not known. `id`: Of
        the entity: tried again, because it could not be deleted, it counts once.
        """
        self._unknown = None
        full = len(self._saw_gone) == WINDOW
        if self._state is _State.BELIEVES and full and not self._too_many():
            self._state = _State.WATCHES  # the mass deletion is over
        if id not in self._gone_ids:
            self._count(gone=True)
        if id:
            self._gone_ids[id] = None
        if len(self._gone_ids) > WINDOW:
            del self._gone_ids[next(iter(self._gone_ids))]
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
            self._state = _State.WATCHES if self._unknown else _State.BELIEVES
            self._unknown = None
            self._resumed = True

    @property
    def unkept(self) -> int:
        """The number of looks that are not stored."""
        return len(self._since_dump)

    def dump(self) -> str:
        """
        Return what other processes, and later ones, must know, as text. Then call `dumped`.

        Not that deletions are refused: a process that starts can have the right URL. If it has not,
        it refuses its first deletion, because the looks are known.
        """
        self._dumped = self._since_dump, self._resumed
        self._since_dump, self._resumed = deque(maxlen=WINDOW), False
        gone = "".join(str(int(each)) for each in self._saw_gone)
        return json.dumps({"believes": self._state is _State.BELIEVES, "gone": gone})

    def dumped(self, *, stored: bool) -> None:
        """Note whether the last dump is stored: if not, the next one tells of the same."""
        if not stored:
            seen, resumed = self._dumped
            self._since_dump = deque([*seen, *self._since_dump], maxlen=WINDOW)
            self._resumed |= resumed

    def load(self, text: str) -> None:
        """
        Add what other processes have counted, and whether one of them was told to go on.

        A text that is not from `dump` changes nothing. One from before a `resume` that no `dump`
        has told of does not undo it: looks go on before it is stored.
        """
        try:
            kept = json.loads(text)
            believes, gone = bool(kept["believes"]), [each == "1" for each in kept["gone"]]
        except (ValueError, LookupError, TypeError):
            return
        if believes and self._state is not _State.BELIEVES:
            self._since_dump.clear()  # what was seen before the resume says nothing of after it
            self._state = _State.BELIEVES
        elif not (believes or self._resumed) and self._state is _State.BELIEVES:
            self._state = _State.WATCHES
        self._saw_gone = deque([*gone, *self._since_dump], maxlen=WINDOW)

    def __str__(self) -> str:
        """Return why deletions are refused."""
        if self._unknown:
            return f"the cache is empty, and the source does not know any of {self.unknown} ids"
        gone, looks = sum(self._saw_gone), len(self._saw_gone)
        return f"{gone} of the last {looks} looks at cached entities saw them gone"

    def _count(self, *, gone: bool) -> None:
        self._saw_gone.append(gone)
        self._since_dump.append(gone)

    def _too_many(self, left: int | None = None) -> bool:
        gone = sum(self._saw_gone)
        if gone <= self._max_share * len(self._saw_gone):
            return False
        if gone >= self._min_deleted:
            return True
        # Those that are left, and those deleted before: this one is in both.
        return left is not None and (
            gone >= MIN_DELETED_OF_FEW and gone > self._max_share * (left + gone - 1)
        )
