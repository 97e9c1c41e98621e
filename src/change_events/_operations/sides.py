"""
Reads both sides of an audit, the source and the cache, and compares them.

The order of the reads makes an audit right. The first reading reads the cache and then the source,
the second one the source and then the cache. So the entry's version covers all of the time between
the two readings of the source. A change before the first of these can have been on its way for less
than `min_age` only if its look raises the version before the last read of the cache. And a cache
that had already followed a later change has seen the source change back, whose look raises the
version, too. Either clears the suspicion.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from change_events._consumer.look import digest, entry_of
from change_events._event import Entry, Found, Gone
from change_events._operations.throttle import SINK, SOURCE
from change_events.exceptions import ConfigurationError
from change_events.typing import BulkFetcher, ReadableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

NO_ID = "change-events"
"""An id to try a call with. It need not exist."""


@dataclass(frozen=True, slots=True)
class Side:
    """
    What one side has. Equal for equal entities.

    Attributes:
        has: True if it has the entity.
        mark: The digest; or the entity, if it is not JSON; None: it has none, or no digest.
    """

    has: bool
    mark: object = None


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What both sides had.

    Attributes:
        source: The source's side.
        cached: The cache's side.
        entry: What the sink knows of the id.
        differs: True if the two sides are not the same; None: that can't be told.
        source_at: When the source had been read.
        cache_at: When the cache began to be read.
    """

    source: Side
    cached: Side
    entry: Entry
    differs: bool | None
    source_at: float
    cache_at: float

    def confirmed_by(self, later: Reading) -> bool:
        """Return True if neither side has changed until the later reading, and they differ."""
        return (
            later.differs is True
            and later.source == self.source
            and later.cached == self.cached
            and later.entry.version == self.entry.version
        )


class Bodies(NamedTuple):
    """
    Reads entities as they are cached.

    Attributes:
        read: Returns entities by id; it can leave out what is not cached.
        many: True if it reads many at once as fast as one.
    """

    read: Callable[[Sequence[str]], Mapping[str, Any]]
    many: bool = False


class Sides(Generic[T]):
    """
    Reads both sides.

    Args:
        fetcher: Reads the source; many entities at once, if it can.
        sink: The cache.
        bodies: Reads entities as they are cached. None: digests are compared.
        throttle: When a GET can begin.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        fetcher: Fetcher[T],
        sink: Sink[T],
        *,
        bodies: Bodies | None,
        throttle: Throttle,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._bulk = fetcher if isinstance(fetcher, BulkFetcher) else None
        self._sink = sink
        self._bodies = bodies
        self._throttle = throttle
        self._clock = clock
        self.bulk_size = self._bulk.bulk_size if self._bulk else 1

    @property
    def by_bodies(self) -> bool:
        """True if bodies are compared, and not only digests."""
        return self._bodies is not None

    def compare_size(self, number: int, threads: int) -> int:
        """Return how many of so many ids to compare at once in each thread."""
        if self._bodies is not None and self._bodies.many:
            return max(1, number)
        return max(1, math.ceil(number / threads))

    def compare(self, found: Mapping[str, Found[T]], ids: Sequence[str]) -> dict[str, bool | None]:
        """Return, for each of the ids, whether the cache holds something else than was listed."""
        if self._bodies is None:
            return {
                id: _differs(side_of(found[id]), self._cached(entry_of(self._sink, id), None))
                for id in ids
            }
        with self._throttle.spent_on(SINK):
            bodies = self._bodies.read(ids)
        return {id: not equal(found[id].value, bodies.get(id)) for id in ids}

    def first(self, ids: Sequence[str]) -> dict[str, Reading | Exception]:
        """Read the cache, and then the source."""
        at = self._clock()
        with self._throttle.spent_on(SINK):
            entries = {id: entry_of(self._sink, id) for id in ids}
            bodies = self._cached_bodies(ids)
        fetched = self._fetched(ids)
        return {
            id: each
            if isinstance(each, Exception)
            else self._reading(
                each, entries[id], bodies.get(id), source_at=self._clock(), cache_at=at
            )
            for id, each in fetched.items()
        }

    def second(self, ids: Sequence[str]) -> dict[str, Reading | Exception]:
        """Read the source, and then the cache."""
        fetched = self._fetched(ids)
        at = self._clock()
        with self._throttle.spent_on(SINK):
            bodies = self._cached_bodies(ids)
            entries = {id: entry_of(self._sink, id) for id in ids}
        return {
            id: each
            if isinstance(each, Exception)
            else self._reading(each, entries[id], bodies.get(id), source_at=at, cache_at=at)
            for id, each in fetched.items()
        }

    def _reading(
        self,
        fetched: Found[T] | Gone,
        entry: Entry,
        body: T | None,
        *,
        source_at: float,
        cache_at: float,
    ) -> Reading:
        source, cached = side_of(fetched), self._cached(entry, body)
        if self.by_bodies:
            value = fetched.value if isinstance(fetched, Found) else None
            differs: bool | None = not equal(value, body)
        else:
            differs = _differs(source, cached)
        return Reading(source, cached, entry, differs, source_at, cache_at)

    def _cached(self, entry: Entry, body: T | None) -> Side:
        if not self.by_bodies:
            return Side(entry.present, entry.digest)
        return Side(has=False) if body is None else side_of(Found(body))

    def _cached_bodies(self, ids: Sequence[str]) -> Mapping[str, T | None]:
        return {} if self._bodies is None else self._bodies.read(ids)

    def _fetched(self, ids: Sequence[str]) -> dict[str, Found[T] | Gone | Exception]:
        """
        GET the entities, with one GET if possible. What such a GET does not find, or if it fails,
        each entity is asked for alone.
        """
        many: Mapping[str, Found[T]] = {}
        if self._bulk is not None and len(ids) > 1:
            self._throttle.before_get()
            with contextlib.suppress(Exception), self._throttle.spent_on(SOURCE):
                many = self._bulk.fetch_many(ids)
        return {id: many[id] if id in many else self._fetched_alone(id) for id in ids}

    def _fetched_alone(self, id: str) -> Found[T] | Gone | Exception:
        self._throttle.before_get()
        try:
            with self._throttle.spent_on(SOURCE):
                fetched = self._fetcher.fetch(id)
        except Exception as error:
            return error
        if isinstance(fetched, (Found, Gone)):
            return fetched
        raise ConfigurationError(
            f"{type(self._fetcher).__name__}.fetch({id!r}) must return Found or Gone, because it "
            f"was given no etag; not {fetched!r:.200}"
        )


def bodies_of(sink: Sink[Any]) -> Bodies | None:
    """
    Return what reads entities as they are cached: the sink's `get_many` or `get`; None: nothing
    does.

    Whatever the sink raises is raised, but a `ConfigurationError`: it has no bodies.
    """
    get: Any = getattr(sink, "get", None)
    if isinstance(sink, ReadableSink):
        bodies = Bodies(sink.get_many, many=True)
    elif get is not None:
        bodies = Bodies(lambda ids: {id: get(id) for id in ids})
    else:
        return None
    try:
        bodies.read([NO_ID])
    except ConfigurationError:
        return None
    return bodies


def equal(one: object, other: object) -> bool:
    """
    Return True if two entities are the same.

    Of JSON, numbers are the same if their values are: a database can write 1e22 as an integer. But
    `true` is not 1.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            equal(each, other[key]) for key, each in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, int):
        return _float(other) == one
    if isinstance(one, int) and isinstance(other, float):
        return _float(one) == other
    return bool(one == other)


def _float(number: int) -> float | None:
    try:
        return float(number)
    except OverflowError:
        return None


def side_of(fetched: Found[Any] | Gone) -> Side:
    """Return the side that has what was fetched."""
    if isinstance(fetched, Gone):
        return Side(has=False)
    mark = digest(fetched.value) if fetched.digest is None else fetched.digest
    return Side(has=True, mark=fetched.value if mark is None else mark)


def _differs(source: Side, cached: Side) -> bool | None:
    """Compare by digests; None if one of them has none."""
    if source.has != cached.has:
        return True
    if not source.has:
        return False
    if cached.mark is None or not isinstance(source.mark, str):
        return None
    return source.mark != cached.mark
