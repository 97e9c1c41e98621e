"""
One look at one entity: read the entry's version, GET the entity, store it by compare-and-set.

The version is read *before* the GET. A state that is older than the entry can then never be
written over it: any change to the entry in between has raised its version.

AWS Lambda uses `look()`. A worker's `Looks` has steps of its own in between, and shares the rest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from change_events._event import Entry, Found, Gone, Outcome, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

Change: TypeAlias = "Found[T] | Unchanged | Gone"

MAX_CONFLICTS = 50
"""
Lost compare-and-sets in a row after which a look fails. Each one means that another look has won,
so this many mean that the sink is broken.
"""


class Looked(NamedTuple):
    """A look that was stored: what it did to the cache, and when its GET started."""

    outcome: Outcome
    get_started: float


def look(
    id: str, *, fetcher: Fetcher[T], sink: Sink[T], clock: Callable[[], float] = time.monotonic
) -> Looked:
    """
    Look at the entity; start again if another worker changed the entry meanwhile.

    Raises:
        FetchError: The GET decided nothing. The cache stays as it was.
        RuntimeError: The sink, or the fetcher, breaks its contract.
    """
    for _ in range(MAX_CONFLICTS):
        entry = sink.entry(id)
        started = clock()
        change = checked(fetcher.fetch(id, etag=entry.etag), id, entry, fetcher)
        if sink.apply(id, change, if_version=entry.version):
            return Looked(outcome(entry, change), started)
    raise never_stored(id, sink)


def checked(change: Change[T], id: str, entry: Entry, fetcher: Fetcher[T]) -> Change[T]:
    """Return what a GET found; an "unchanged" needs something cached that it can equal."""
    if isinstance(change, Unchanged) and not entry.present:
        raise RuntimeError(
            f"{type(fetcher).__name__} found {id!r} unchanged, but nothing is cached that it could "
            "equal"
        )
    return change


def never_stored(id: str, sink: Sink[T]) -> RuntimeError:
    """Return the error for a sink that refuses every version."""
    return RuntimeError(
        f"{type(sink).__name__} refused what {MAX_CONFLICTS} looks in a row found at {id!r}"
    )


def outcome(entry: Entry, change: Found[object] | Unchanged | Gone) -> Outcome:
    """Return what storing the change does to the entry."""
    if isinstance(change, Gone):
        if entry.present:
            return Outcome.DELETED
        return Outcome.NEVER_SAVED if entry.version == 0 else Outcome.UNCHANGED
    if not entry.present:
        return Outcome.CREATED
    if isinstance(change, Unchanged) or (change.etag is not None and change.etag == entry.etag):
        return Outcome.UNCHANGED
    return Outcome.UPDATED
