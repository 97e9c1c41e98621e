"""
The seams: what a publisher, a fetcher, a sink and metrics must do to take part. Any object that
fits will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from change_events._event import ChangeEvent, Entry, Found, Gone, Unchanged

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class Publisher(Protocol):
    """Announces changes. Called before every save, from any thread."""

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """
        Broadcast the events; return once *all* of them are accepted.

        Raises:
            PublishError: At least one was not accepted. The save will not run.
        """
        ...


class Fetcher(Protocol[T_co]):
    """Reads the source. Called from many threads at once."""

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[T_co] | Unchanged | Gone:
        """
        Read the entity's latest state from the source.

        Args:
            id: The entity's id.
            etag: What the cache holds, if the source told; `Unchanged` may only be answered to a
                call that has one.

        Raises:
            FetchError: The answer decides nothing (an outage, say). The look is tried again later.
        """
        ...


@runtime_checkable
class BulkFetcher(Fetcher[T_co], Protocol[T_co]):
    """
    Reads many entities at once, too: what a worker has due at the same moment takes one call, not
    one each.

    It can say that an entity was found, and nothing else. An id that is absent from its answer is
    undecided, neither gone nor failed: the worker looks at it alone, with `fetch`. So nothing is
    ever deleted for what a bulk answer leaves out.
    """

    @property
    def bulk_size(self) -> int:
        """How many ids it takes at once; with 1 it is a fetcher like any other."""
        ...

    def fetch_many(self, ids: Sequence[str], /) -> Mapping[str, Found[T_co]]:
        """
        Read the latest state of as many of these entities as can be.

        Each must have been read after the call began, as with `fetch`: not from a cache, nor from a
        replica that lags.

        Args:
            ids: Ids of entities, no two the same.

        Returns:
            What was found, by id. Ids that were not asked for are ignored.

        Raises:
            FetchError: The answer decides nothing at all. Each of the ids is looked at alone.
        """
        ...


class Sink(Protocol[T_contra]):
    """
    The local cache. Called from many threads, and for one id from several processes, at once.

    The protocol stands on two rules: the version grows with *every* successful `apply`, also when
    nothing else changes; and it survives a delete (a tombstone), so that a look that began before
    the delete can't bring the entity back. A sink that forgets old tombstones must not let their
    versions come again.

    `change_events.testing.SinkContract` holds a sink to all this.
    """

    def entry(self, id: str, /) -> Entry:
        """
        Read the entry's version, and what is known of the entity; `Entry()` for an id never
        touched.
        """
        ...

    def apply(
        self, id: str, change: Found[T_contra] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first. Atomic: compare the version,
        write, raise it.

        Args:
            id: The entity's id.
            change: What the look found. `Unchanged` keeps the entity, `Gone` leaves a tombstone;
                both bump the version.
            if_version: The version read *before* the look's GET.

        Returns:
            False if the entry's version is another by now; nothing is written.
        """
        ...


class Metrics(Protocol):
    """
    Takes measurements. Called from many threads, within the work that is measured and at times
    under a lock: so be quick, and don't wait. What it raises is logged once.

    `change_events.metrics` has two, and `METRICS` there says which names and labels come with which
    method. The name is positional, so that a label may be called anything.
    """

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add so much to a counter."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...
