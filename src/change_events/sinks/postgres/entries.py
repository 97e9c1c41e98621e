"""The entries of entities in PostgreSQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from change_events._event import Found, Gone, Unchanged
from change_events.sinks import entry_of, first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg import Connection

    from change_events._event import Entry
    from change_events.sinks.postgres.table import Table

_INSERT = (
    "INSERT INTO {table} (id, version, present, body, etag, digest, revision, applied_at) VALUES "
    "(%(id)s, %(first)s, %(present)s, %(body)s::jsonb, %(etag)s, %(digest)s, %(revision)s, "
    "to_timestamp(%(now)s)) ON CONFLICT DO NOTHING"
)
_INSERT_MANY = (
    "INSERT INTO {table} (id, version, present, body, etag, digest, revision, applied_at) "
    "SELECT id, %(first)s, true, body::jsonb, etag, digest, %(revision)s, to_timestamp(%(now)s) "
    "FROM unnest(%(ids)s::text[], %(body)s::text[], %(etag)s::text[], %(digest)s::text[]) "
    "AS given (id, body, etag, digest) "
    # Two statements that waited for each other's rows would be a deadlock.
    'ORDER BY id COLLATE "C" ON CONFLICT DO NOTHING RETURNING id'
)
_UPDATE = (
    "UPDATE {table} SET version = version + 1, present = %(present)s, body = %(body)s::jsonb, "
    "etag = %(etag)s, digest = %(digest)s, revision = %(revision)s, "
    "applied_at = to_timestamp(%(now)s) WHERE id = %(id)s AND version = %(if_version)s"
)
_TOUCH = (
    "UPDATE {table} SET version = version + 1, etag = coalesce(%(etag)s, etag), "
    "applied_at = to_timestamp(%(now)s) WHERE id = %(id)s AND version = %(if_version)s"
)


class Entries:
    """
    Reads entries, and writes them if they are as they were read.

    Args:
        table: Where they are.
        bodies: Store the entities, too. False: they are in tables of the user's own.
        revision: As in `PostgresSink`.
        clock: As in `PostgresSink`.
    """

    def __init__(
        self, table: Table, *, bodies: bool, revision: str, clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._bodies = bodies
        self._revision = revision
        self._clock = clock

    def entry(self, id: str) -> Entry:
        """Return what is known of the id."""
        row = self._table.row(
            "SELECT revision, version, present, etag, digest FROM {table} WHERE id = %s", id
        )
        return entry_of(row, self._revision)

    def compare_and_set(
        self,
        connection: Connection[Any],
        id: str,
        change: Found[Mapping[str, Any]] | Unchanged | Gone,
        if_version: int,
    ) -> bool:
        """Write the change, unless the version is another; return whether it was written."""
        store = _UPDATE if if_version else _INSERT
        statement = _TOUCH if isinstance(change, Unchanged) else store
        values = {"id": id, "if_version": if_version, **self._common(), **self._columns(change)}
        return self._table.execute(connection, statement, values).rowcount == 1

    def insert(
        self, connection: Connection[Any], found: Mapping[str, Found[Mapping[str, Any]]]
    ) -> set[str]:
        """Write those that have no entry, with one statement; return their ids."""
        columns = [self._columns(each) for each in found.values()]
        values = {"ids": list(found), **self._common()} | {
            name: [each[name] for each in columns] for name in ("body", "etag", "digest")
        }
        return {id for (id,) in self._table.execute(connection, _INSERT_MANY, values)}

    def _common(self) -> dict[str, Any]:
        now = self._clock()
        return {"now": now, "first": first_version(now), "revision": self._revision}

    def _columns(self, change: Found[Mapping[str, Any]] | Unchanged | Gone) -> dict[str, Any]:
        if isinstance(change, Unchanged):
            return {"etag": change.etag}
        if isinstance(change, Gone):
            return {"present": False, "body": None, "etag": None, "digest": None}
        body = json.dumps(change.value, allow_nan=False) if self._bodies else None
        return {"present": True, "body": body, "etag": change.etag, "digest": change.digest}
