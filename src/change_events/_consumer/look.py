"""
One look at one entity: read the entry's version, GET the entity, store it by compare-and-set.

The version is read *before* the GET. A state that is older than the entry can then never be
written over it: any change to the entry in between has raised its version.

An *early* look settles no event: it keeps the cache fresh while a save is under way. It can ask for
changes only (`If-None-Match`), and writes nothing if it finds nothing new. A look that settles an
event asks for the whole entity, because an `ETag` can miss a change. What it finds is compared by
its digest, so that what is cached already is not written again.

AWS Lambda and looks by hand use `look()`. A worker's `Looks` has steps of its own in between, and
shares the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from change_events._event import Entry, Found, Gone, Outcome, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

Change: TypeAlias = "Found[T] | Unchanged | Gone"

SCALARS = {str, int, float, bool, type(None)}

# Made once: `json.dumps` with settings makes one at each call.
_encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode

MAX_CONFLICTS = 50
"""
Lost compare-and-sets in a row after which a look fails. Each one means that another look has won,
so this many mean that the sink is broken.
"""


class Looked(NamedTuple):
    """
    A look that succeeded: what it did to the cache, when its GET started, and whether the source
    has the entity and the cache had it. An early look that found nothing new has no outcome.
    """

    outcome: Outcome | None
    get_started: float
    found: bool
    cached: bool


def look(
    id: str,
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    before_gone: Callable[[str, Entry], object] | None = None,
    early: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Looked:
    """
    Look at the entity; start again if another worker changed the entry meanwhile.

    `before_gone` is called before it is stored that an entity is gone. What it raises ends the
    look, and nothing is stored. `force`: Store an entity that is found although its digest equals
    the cached one, because what is cached can differ from its digest.

    Raises:
        FetchError: The GET decided nothing. The cache stays as it was.
        RuntimeError: The sink breaks its contract.
        TypeError: The fetcher breaks its contract.
    """
    for _ in range(MAX_CONFLICTS):
        entry = entry_of(sink, id)
        started = clock()
        etag = None if force else etag_to_send(entry, fetcher, early=early)
        change = compared(fetcher.fetch(id, etag=etag), id, entry, fetcher, etag, force=force)
        if isinstance(change, Gone) and before_gone is not None:
            before_gone(id, entry)
        found = not isinstance(change, Gone)
        if early and not is_new(entry, change):
            return Looked(None, started, found, entry.present)
        if stored(sink, id, change, entry):
            return Looked(outcome(entry, change), started, found, entry.present)
    raise never_stored(id, sink)


def etag_to_send(entry: Entry, fetcher: object, *, early: bool) -> str | None:
    """Return the `ETag` that a GET sends: only an early look relies on it, unless it is trusted."""
    return entry.etag if early or getattr(fetcher, "trust_etags", False) else None


def compared(
    change: Change[T],
    id: str,
    entry: Entry,
    fetcher: object,
    etag: str | None,
    *,
    force: bool = False,
) -> Change[T]:
    """
    Return what a GET with this `ETag` found: `Unchanged`, if the cache holds an equal entity and
    `force` is False.

    Raises:
        TypeError: The fetcher returned something else, or "unchanged" without a cause.
    """
    if isinstance(change, Gone) or (isinstance(change, Unchanged) and etag is not None):
        return change
    if not isinstance(change, Found):
        raise TypeError(
            f"{type(fetcher).__name__}.fetch({id!r}, etag={etag!r}) must return Found, Gone or, if "
            f"it was given an etag, Unchanged; not {change!r:.200}"
        )
    if change.digest is None:
        change = Found(change.value, change.etag, digest(change.value))
    known = entry.present and change.digest is not None and change.digest == entry.digest
    if known and not force:
        return Unchanged(change.etag)
    return change


def digest(value: object) -> str | None:
    """Return a text that only equal values have; None if the value is not JSON."""
    try:
        if not _is_json(value):
            return None
        text = _encode(value)
    except (ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_json(value: object) -> bool:
    """Return True for what JSON has. A tuple, say, would have the digest of a list."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return type(value) in SCALARS


def entry_of(sink: Sink[T], id: str) -> Entry:
    """
    Return what a sink knows of an id.

    Raises:
        TypeError: The sink returned something else.
    """
    entry = sink.entry(id)
    if isinstance(entry, Entry):
        return entry
    raise TypeError(
        f"{type(sink).__name__}.entry({id!r}) must return an Entry, and Entry() for an unknown id; "
        f"not {entry!r:.200}"
    )


def stored(sink: Sink[T], id: str, change: Change[T], entry: Entry) -> bool:
    """
    Store what a look found; return False if another worker has changed the entry meanwhile.

    Raises:
        TypeError: The sink returned something else.
    """
    applied = sink.apply(id, change, if_version=entry.version)
    if isinstance(applied, bool):
        return applied
    raise TypeError(
        f"{type(sink).__name__}.apply({id!r}, ...) must return True, or False if the version has "
        f"changed; not {applied!r:.200}"
    )


def never_stored(id: str, sink: Sink[T]) -> RuntimeError:
    """Return the error for a sink that refuses every version."""
    return RuntimeError(
        f"{type(sink).__name__} refused what {MAX_CONFLICTS} looks in a row found at {id!r}"
    )


def is_new(entry: Entry, change: Found[object] | Unchanged | Gone) -> bool:
    """Return True if the change is more than what the cache has."""
    return isinstance(change, Found) or (isinstance(change, Gone) and entry.present)


def outcome(entry: Entry, change: Found[object] | Unchanged | Gone) -> Outcome:
    """Return what storing the change does to the entry."""
    if isinstance(change, Gone):
        if entry.present:
            return Outcome.DELETED
        return Outcome.NEVER_SAVED if entry.version == 0 else Outcome.UNCHANGED
    if isinstance(change, Unchanged):
        return Outcome.UNCHANGED
    return Outcome.UPDATED if entry.present else Outcome.CREATED
