"""
One look at an id: read the entry's version, GET, compare-and-set. Or at several, which share the
GET and nothing else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from change_events._event import Entry, Found, Gone, Outcome, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from change_events.typing import BulkFetcher, Fetcher, Sink

T = TypeVar("T")

UNLIMITED = contextlib.nullcontext()
"""A slot for any number of GETs at once."""

MAX_CONFLICTS = 50
"""
Each lost compare-and-set means that another look has won, so more than a handful in a row is a
broken sink.
"""


def look(
    id: str,
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    on_get: Callable[[], None],
    before_apply: Callable[[Entry, Found[T] | Unchanged | Gone], object] = lambda *_: None,
    slot: AbstractContextManager[object] = UNLIMITED,
) -> Outcome:
    """
    Look at the entity and store what is found; again, from the start, when another worker got there
    first.

    The version is read *before* the GET: a state that is older than the entry can then never be
    written over it.

    Args:
        id: The entity's id.
        fetcher: What reads the source.
        sink: The cache.
        on_get: Called at the start of every GET, after the version was read: the events of now are
            this look's.
        before_apply: Called with the entry and what was found, before that is stored. What it
            raises ends the look.
        slot: Is held for every GET.

    Raises:
        FetchError: The GET decided nothing; the cache stays as it was.
        RuntimeError: The sink refuses every version, or the fetcher found nothing unchanged; their
            contracts forbid it.
    """
    for _ in range(MAX_CONFLICTS):
        entry = sink.entry(id)
        with slot:
            on_get()
            change = fetcher.fetch(id, etag=entry.etag)
        if isinstance(change, Unchanged) and not entry.present:
            raise RuntimeError(
                f"{type(fetcher).__name__} found {id!r} unchanged, but nothing is cached that it could equal"
            )
        done = store(id, entry, change, sink=sink, before_apply=before_apply)
        if done is not None:
            return done
    raise RuntimeError(
        f"{type(sink).__name__} refused what {MAX_CONFLICTS} looks in a row found at {id!r}"
    )


def read_together(
    ids: Sequence[str],
    *,
    fetcher: BulkFetcher[T],
    sink: Sink[T],
    on_get: Callable[[], None],
    slot: AbstractContextManager[object] = UNLIMITED,
) -> dict[str, tuple[Entry, Found[T]]]:
    """
    Read several entities with one GET, each to be stored as by a look of its own.

    The versions are read *before* the GET, all of them.

    Args:
        ids: The entities' ids.
        fetcher: What reads the source.
        sink: The cache.
        on_get: Called at the start of the GET, after the versions were read: the events of now are
            this look's.
        slot: Is held for the GET.

    Returns:
        What was found, by id, and the entry to store it on. The rest is undecided: it may be gone,
        or may not.

    Raises:
        FetchError: The GET decided nothing.
    """
    entries = {id: sink.entry(id) for id in ids}
    with slot:
        on_get()
        answer = fetcher.fetch_many(ids)
    return {
        id: (entry, answer[id])
        for id, entry in entries.items()
        if isinstance(answer.get(id), Found)
    }


def store(
    id: str,
    entry: Entry,
    change: Found[T] | Unchanged | Gone,
    *,
    sink: Sink[T],
    before_apply: Callable[[Entry, Found[T] | Unchanged | Gone], object],
) -> Outcome | None:
    """
    Store what was found on top of the entry, and say what that did; None if another worker got
    there first.
    """
    before_apply(entry, change)
    return outcome(entry, change) if sink.apply(id, change, if_version=entry.version) else None


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
