"""The sinks that ship."""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, TypeVar

from change_events._event import Entry
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

C = TypeVar("C")

MAX_EVENT_AGE = 14 * 24 * 3600.0
"""
The longest time that an event can stay in a queue: `MessageRetentionPeriod` is at most 1,209,600 s
(Amazon SQS API Reference, SetQueueAttributes). A tombstone must outlive every event that could
cause a late look.
"""


def check_purge_age(older_than: float) -> None:
    """Refuse to purge tombstones that protect against an event still in a queue."""
    if older_than < MAX_EVENT_AGE:
        raise ConfigurationError(
            f"tombstones younger than 14 days ({MAX_EVENT_AGE:.0f} s) can't be purged: an event "
            "could still be in a queue, and its look could bring the entity back; "
            f"not older_than={older_than}"
        )


def first_version(now: float) -> int:
    """
    Return the version of a new entry: the time, in microseconds since the epoch.

    With 1, versions would repeat once a tombstone is purged: a look that read the tombstone's could
    then be applied to the entry after it. The time is greater than every purged version, unless
    clocks differ by the 14 days of a purge, or one id gets a million looks a second.

    Args:
        now: The time, in seconds since the epoch.
    """
    return max(1, int(now * 1_000_000))


def entry_of(row: Sequence[Any] | None, revision: str) -> Entry:
    """
    Return the entry of a database's row; of none, that of an id that was never looked at.

    Args:
        row: The row's revision and version, whether the entity is present, its ETag and its digest.
        revision: The sink's. What was stored under another one counts as changed at its next look.
    """
    if not row:
        return Entry()
    stored_by, version, present, etag, digest = row
    if stored_by != revision:
        etag, digest = None, None
    return Entry(version, bool(present), etag, digest)


def check_table_name(table: str) -> None:
    """Refuse a table's name that SQL would have to quote."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
        raise ConfigurationError(
            f"{table!r} can't be a table's name; use letters, digits and underscores"
        )


def split_table_name(table: str) -> tuple[str | None, str]:
    """Return the schema, or None, and the table of `table` or `schema.table`."""
    schema, dot, name = table.rpartition(".")
    for part in (schema, name) if dot else (name,):
        check_table_name(part)
    return schema or None, name


def check_hooks(upsert: object, delete: object, read: object) -> None:
    """Refuse one hook without the other: the user's tables would not follow the source."""
    if (upsert is None) != (delete is None):
        raise ConfigurationError(
            "tables of your own need both upsert= and delete= to follow the source"
        )
    if read is not None and upsert is None:
        raise ConfigurationError(
            "read= is for tables of your own, which need upsert= and delete=, too"
        )


def read_each(
    read: Callable[[C, str], Mapping[str, Any] | None], ids: Iterable[str], connection: C
) -> dict[str, Any]:
    """Return those entities that `read` finds in tables of the user's own, by id."""
    found = {id: read(connection, id) for id in ids}
    return {id: entity for id, entity in found.items() if entity is not None}


def check_bodies(upsert: object) -> None:
    """Refuse to read entities that are in tables of the user's own."""
    if upsert is not None:
        raise ConfigurationError(
            "the entities are where upsert= put them, in tables of your own: query those; "
            "get() needs read="
        )


def libpq_timeouts(timeout: float) -> dict[str, int]:
    """Return timeouts of libpq for a server that is gone. The defaults are hours."""
    seconds = max(2, math.ceil(timeout))  # libpq's minimum
    return {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": 4 * seconds * 1000,
    }


def check_revision(revision: object) -> None:
    """Refuse a revision that could differ from itself once it is stored as text."""
    if not isinstance(revision, str):
        raise ConfigurationError(f"revision must be text, not {revision!r}")


def check_process(pid: int, sink: str) -> None:
    """
    Refuse to use connections that have crossed a fork. Two processes with one socket would read
    each other's answers.

    Args:
        pid: The process that made the connections.
        sink: The sink's name.
    """
    if pid != os.getpid():
        raise ConfigurationError(
            f"this {sink} was made in process {pid}, and can't be used in its fork, {os.getpid()}: "
            "connections can't be shared. Make the sink in the process that uses it"
        )


def state_key(name: str) -> str:
    """Return the key of a `StatefulSink`'s text: not an id, for ids have no control characters."""
    return f"\x1f{name}"
