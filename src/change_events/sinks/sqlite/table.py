"""The sink's table in a SQLite file, and the statements that write its rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from change_events._event import Found, Gone, Unchanged
from change_events.sinks import first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COLUMNS = "id, version, body, etag, applied_at"

LATER_COLUMNS = {"digest": "TEXT", "revision": "TEXT NOT NULL DEFAULT ''", "state": "TEXT"}
"""Columns that the tables of version 0.1.0 lack, and their types."""

ELSEWHERE = "null"
"""The body of an entity that is in a table of the user's own."""

INSERT = (
    "INSERT INTO {table} (id, version, body, etag, digest, revision, applied_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE {table} SET version = version + 1, body = ?, etag = ?, digest = ?, "
    "revision = ?, applied_at = ? WHERE id = ? AND version = ?"
)
_TOUCH = (
    "UPDATE {table} SET version = version + 1, etag = coalesce(?, etag), "
    "applied_at = ? WHERE id = ? AND version = ?"
)

ADD_STATE = (
    "INSERT INTO {table} (id, version, state, applied_at) VALUES (?, 0, ?, ?) "
    "ON CONFLICT (id) DO NOTHING"
)
SET_STATE = "UPDATE {table} SET state = ?, applied_at = ? WHERE id = ? AND state = ?"


def prepare(table: str, connection: sqlite3.Connection) -> None:
    """Create the table, or add the columns that it lacks, and try to write to it."""
    execute = connection.execute
    later = "".join(f"{name} {kind}, " for name, kind in LATER_COLUMNS.items())
    execute("BEGIN IMMEDIATE")  # one sink at a time
    execute(
        f"CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, "
        f"version INTEGER NOT NULL, body TEXT, etag TEXT, {later}applied_at REAL NOT NULL) "
        "WITHOUT ROWID"
    )
    execute(f"SELECT {COLUMNS} FROM {table} LIMIT 0")
    present = {row[1] for row in execute(f"PRAGMA table_info({table})")}
    for name, kind in LATER_COLUMNS.items():
        if name not in present:
            execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    # No id is empty, so this write changes nothing. It fails now, and not at the first event, if
    # the file can't be written.
    execute(f"DELETE FROM {table} WHERE id = ''")
    execute("COMMIT")


@contextmanager
def unended(connection: sqlite3.Connection, table: str, id: str, hook: str) -> Iterator[None]:
    """Run a hook; refuse to go on if COMMIT would not commit what it has done, and the version."""
    version = _version(connection, table, id)
    yield
    is_same = False
    with suppress(sqlite3.ProgrammingError):  # the connection is closed
        is_same = connection.in_transaction and _version(connection, table, id) == version
    if not is_same:
        raise RuntimeError(
            f"{hook} must leave its transaction and the connection open. Don't commit, roll back "
            "or close there, and don't catch an error after which SQLite rolls back"
        )


def _version(connection: sqlite3.Connection, table: str, id: str) -> Any:
    cursor = connection.cursor()
    cursor.row_factory = None  # the hook can have set one
    return cursor.execute(f"SELECT version FROM {table} WHERE id = ?", (id,)).fetchone()


class Writes:
    """
    Chooses the statements that write what looks find.

    Args:
        bodies: Store the entities, too. False: they are in tables of the user's own.
        revision: As in `SQLiteSink`.
        clock: As in `SQLiteSink`.
    """

    def __init__(self, *, bodies: bool, revision: str, clock: Callable[[], float]) -> None:
        self._bodies = bodies
        self._revision = revision
        self._clock = clock

    def of(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, if_version: int
    ) -> tuple[str, tuple[object, ...]]:
        """Return the statement, and its values, that writes a change if the version is this."""
        now = self._clock()
        if isinstance(change, Unchanged):
            return _TOUCH, (change.etag, now, id, if_version)
        stored = self._stored(change)
        if if_version == 0:
            return INSERT, (id, first_version(now), *stored, now)
        return _UPDATE, (*stored, now, id, if_version)

    def inserts(self, found: Mapping[str, Found[Mapping[str, Any]]]) -> list[tuple[object, ...]]:
        """Return the values of `INSERT` for each entity."""
        now = self._clock()
        return [(id, first_version(now), *self._stored(each), now) for id, each in found.items()]

    def _stored(
        self, change: Found[Mapping[str, Any]] | Gone
    ) -> tuple[str | None, str | None, str | None, str]:
        if isinstance(change, Gone):
            return None, None, None, self._revision
        body = json.dumps(change.value, allow_nan=False) if self._bodies else ELSEWHERE
        return body, change.etag, change.digest, self._revision
