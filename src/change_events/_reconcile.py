"""One look at an id: read the entry's version, GET, compare-and-set."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from change_events._event import Entry, Found, Gone, Outcome, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

MAX_CONFLICTS = 50
"""Each lost compare-and-set means that another look has won, so more than a handful in a row is a broken sink."""


def look(
    id: str,
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    on_get: Callable[[], None],
    before_apply: Callable[[Entry, Found[T] | Unchanged | Gone], object] = lambda *_: None,
) -> Outcome:
    """
    Look at the entity and store what is found; again, from the start, when another worker got there first.

    The version is read *before* the GET: a state that is older than the entry can then never be written over it.

    Args:
        id: The entity's id.
        fetcher: What reads the source.
        sink: The cache.
        on_get: Called at the start of every GET, after the version was read: the events of now are this look's.
        before_apply: Called with the entry and what was found, before that is stored. What it raises ends the look.

    Raises:
        FetchError: The GET decided nothing; the cache stays as it was.
        RuntimeError: The sink refuses every version, or the fetcher found nothing unchanged; their contracts forbid it.
    """
    for _ in range(MAX_CONFLICTS):
        entry = sink.entry(id)
        on_get()
        change = fetcher.fetch(id, etag=entry.etag)
        if isinstance(change, Unchanged) and not entry.present:
            raise RuntimeError(f"{type(fetcher).__name__} found {id!r} unchanged, but nothing is cached that it could equal")
        before_apply(entry, change)
        if sink.apply(id, change, if_version=entry.version):
            return outcome(entry, change)
    raise RuntimeError(f"{type(sink).__name__} refused what {MAX_CONFLICTS} looks in a row found at {id!r}")


def outcome(entry: Entry, change: Found[object] | Unchanged | Gone) -> Outcome:
    """Say what it means to apply the change on top of the entry."""
    if isinstance(change, Gone):
        if entry.present:
            return Outcome.DELETED
        return Outcome.NEVER_SAVED if entry.version == 0 else Outcome.UNCHANGED
    if not entry.present:
        return Outcome.CREATED
    if isinstance(change, Unchanged) or (change.etag is not None and change.etag == entry.etag):
        return Outcome.UNCHANGED
    return Outcome.UPDATED
