"""A cache in this process's memory."""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.sinks import MAX_EVENT_AGE, check_purge_age, first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Row(Generic[T]):
    entry: Entry
    value: T | None
    applied_at: float


_UNTOUCHED: _Row[None] = _Row(Entry(), None, 0.0)


class MemorySink(Generic[T]):
    """
    Keeps entities in a dictionary: for tests, and for caches that can be lost with the process: a
    restart begins empty, and only new broadcasts fill it.

    Args:
        clock: Returns the time in seconds since the epoch, for new versions and `purge`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[str, _Row[T]] = {}
        self._state: dict[str, str] = {}

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        return self._rows.get(id, _UNTOUCHED).entry

    def apply(self, id: str, change: Found[T] | Unchanged | Gone, /, *, if_version: int) -> bool:
        """
        Store what a look found; or return False and write nothing if the version is no longer
        `if_version`.
        """
        with self._lock:
            row = self._rows.get(id, _UNTOUCHED)
            if row.entry.version != if_version:
                return False
            if isinstance(change, Found):
                present, value = True, change.value
                etag, digest = change.etag, change.digest
            elif isinstance(change, Gone):
                present, value = False, None
                etag, digest = None, None
            else:
                present, value = row.entry.present, row.value
                etag = row.entry.etag if change.etag is None else change.etag
                digest = row.entry.digest
            now = self._clock()
            version = if_version + 1 if if_version else first_version(now)
            self._rows[id] = _Row(Entry(version, present, etag, digest), value, now)
            return True

    def insert_many(self, found: Mapping[str, Found[T]], /) -> set[str]:
        """Store those entities whose ids no `apply` has ever touched; return their ids."""
        with self._lock:
            now = self._clock()
            first = first_version(now)
            rows = {
                id: _Row(
                    Entry(first, present=True, etag=each.etag, digest=each.digest), each.value, now
                )
                for id, each in found.items()
                if id not in self._rows
            }
            self._rows |= rows
        return set(rows)

    def get(self, id: str, /) -> T | None:
        """Return the cached entity itself, which you must not change, or None."""
        return self._rows.get(id, _UNTOUCHED).value

    def get_many(self, ids: Sequence[str], /) -> dict[str, T]:
        """Return those of these entities that are cached, by id."""
        rows = ((id, self._rows.get(id, _UNTOUCHED)) for id in ids)
        return {id: row.value for id, row in rows if row.entry.present}  # type: ignore[misc]  # what is present has a value

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over a snapshot of the cached entities, with their ids."""
        with self._lock:
            rows = list(self._rows.items())
        return ((id, row.value) for id, row in rows if row.entry.present)  # type: ignore[misc]  # what is present has a value

    def __len__(self) -> int:
        """Return how many entities are cached."""
        with self._lock:
            return sum(row.entry.present for row in self._rows.values())

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return up to `limit` ids of cached entities, in order, beginning after `after`."""
        with self._lock:
            rows = list(self._rows.items())
        return heapq.nsmallest(
            limit, (id for id, row in rows if row.entry.present and (after is None or id > after))
        )

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        return self._state.get(name)

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name; or return False if another thread has changed it since it
        was `if_state`.
        """
        with self._lock:
            if self._state.get(name) != if_state:
                return False
            self._state[name] = text
            return True

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        before = self._clock() - older_than
        with self._lock:
            old = [
                id
                for id, row in self._rows.items()
                if not row.entry.present and row.applied_at < before
            ]
            for id in old:
                del self._rows[id]
        return len(old)
