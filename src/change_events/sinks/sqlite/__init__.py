"""A cache in a SQLite file."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.sinks import (
    MAX_EVENT_AGE,
    check_purge_age,
    check_revision,
    check_table_name,
    first_version,
    state_key,
)
from change_events.sinks.sqlite.file import File

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self

COLUMNS = "id, version, body, etag, applied_at"

LATER_COLUMNS = {"digest": "TEXT", "revision": "TEXT NOT NULL DEFAULT ''", "state": "TEXT"}
"""Columns that the tables of version 0.1.0 lack, and their types."""

_INSERT = (
    "INSERT INTO {table} (id, version, body, etag, digest, revision, applied_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)


class SQLiteSink:
    """
    Keeps JSON objects in a table of a SQLite file. Threads can share a sink, and processes a file.

    You can query the table with SQL, from this process or another:

        CREATE TABLE entities (
            id         TEXT PRIMARY KEY,
            version    INTEGER NOT NULL,  -- grows with every look; starts at the current time
                                          -- in µs since the epoch
            body       TEXT,              -- the entity as JSON; NULL if it is gone (a tombstone)
            etag       TEXT,
            digest     TEXT,              -- equal for equal entities
            revision   TEXT NOT NULL DEFAULT '',  -- the `revision` that stored the entity
            state      TEXT,              -- NULL, except in a worker's own rows: they have ids that
                                          -- no entity can have
            applied_at REAL NOT NULL      -- the time of the last look, in seconds since the epoch
        ) WITHOUT ROWID

    So `SELECT json_extract(body, '$.name') FROM entities WHERE body IS NOT NULL` lists the names of
    all cached entities. The sink adds columns that the table of an earlier version lacks.

    The file is in WAL mode, which needs a local disk (sqlite.org/wal.html). Every commit reaches
    the disk before its event is acknowledged, so neither a crash nor a power cut loses what SQS
    will not send again.

    Both sides of a fork can use the sink: it closes the file before the fork, and each process
    opens it again. A cache in memory stays with the parent. Its child gets a `ConfigurationError`,
    and so does the child of a fork that Python does not see (`os.register_at_fork`).

    Args:
        path: The file; it is created if it does not exist. `":memory:"` keeps the table in memory.
        table: The table's name. One file can hold several kinds of entities.
        timeout: The most seconds to wait while another process writes.
        revision: Names what your code makes of an entity before it is stored. An entity that was
            stored under another revision counts as changed at its next look, although the source
            has not changed it.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: The file can't be opened or written, or is not a SQLite database; or the
            table has other columns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "entities",
        timeout: float = 5.0,
        revision: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_table_name(table)
        check_revision(revision)
        self._table = table
        self._revision = revision
        self._clock = clock
        self._file = File(path, timeout, self._prepare)

    @property
    def in_memory(self) -> bool:
        """True if the table is in this process's memory."""
        return self._file.in_memory

    def _prepare(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        later = "".join(f"{name} {kind}, " for name, kind in LATER_COLUMNS.items())
        execute("BEGIN IMMEDIATE")  # one sink at a time
        execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (id TEXT PRIMARY KEY, "
            f"version INTEGER NOT NULL, body TEXT, etag TEXT, {later}applied_at REAL NOT NULL) "
            "WITHOUT ROWID"
        )
        execute(f"SELECT {COLUMNS} FROM {self._table} LIMIT 0")
        present = {row[1] for row in execute(f"PRAGMA table_info({self._table})")}
        for name, kind in LATER_COLUMNS.items():
            if name not in present:
                execute(f"ALTER TABLE {self._table} ADD COLUMN {name} {kind}")
        # No id is empty, so this write changes nothing. It fails now, and not at the first event,
        # if the file can't be written.
        execute(f"DELETE FROM {self._table} WHERE id = ''")
        execute("COMMIT")

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        row = self._row(
            "SELECT revision, version, body IS NOT NULL, etag, digest FROM {table} WHERE id = ?", id
        )
        if not row:
            return Entry()
        revision, version, present, etag, digest = row
        if revision != self._revision:
            etag, digest = None, None
        return Entry(version, bool(present), etag, digest)

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written.

        Raises:
            sqlite3.OperationalError: The database stayed locked for `timeout` seconds.
            TypeError, ValueError: JSON can't hold the entity.
        """
        now = self._clock()
        if isinstance(change, Unchanged):
            return self._write(
                "UPDATE {table} SET version = version + 1, etag = coalesce(?, etag), "
                "applied_at = ? WHERE id = ? AND version = ?",
                (change.etag, now, id, if_version),
            )
        body, etag, digest = None, None, None
        if isinstance(change, Found):
            body = json.dumps(change.value, allow_nan=False)
            etag, digest = change.etag, change.digest
        if if_version == 0:
            return self._write(
                _INSERT, (id, first_version(now), body, etag, digest, self._revision, now)
            )
        return self._write(
            "UPDATE {table} SET version = version + 1, body = ?, etag = ?, digest = ?, "
            "revision = ?, applied_at = ? WHERE id = ? AND version = ?",
            (body, etag, digest, self._revision, now, id, if_version),
        )

    def insert_many(self, found: Mapping[str, Found[Mapping[str, Any]]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids. All are stored
        in one transaction, or none.

        Raises:
            sqlite3.OperationalError: The database stayed locked for `timeout` seconds.
            TypeError, ValueError: JSON can't hold one of the entities.
        """
        now = self._clock()
        rows = [
            (
                *(id, first_version(now), json.dumps(each.value, allow_nan=False)),
                *(each.etag, each.digest, self._revision, now),
            )
            for id, each in found.items()
        ]
        if not rows:
            return set()
        counts = self._file.write_many(_INSERT.format(table=self._table), rows)
        return {id for id, count in zip(found, counts, strict=True) if count}

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        row = self._row("SELECT body FROM {table} WHERE id = ? AND body IS NOT NULL", id)
        return json.loads(row[0]) if row else None

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """Return those of these entities that are cached, by id. All are read at one moment."""
        rows = self._read(
            "SELECT id, body FROM {table} "
            "WHERE id IN (SELECT value FROM json_each(?)) AND body IS NOT NULL",
            json.dumps(list(ids)),  # one parameter, because SQLite limits their number
        )
        return {id: json.loads(body) for id, body in rows}

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over a snapshot of the cached entities, with their ids, in order of the ids."""
        rows = self._read("SELECT id, body FROM {table} WHERE body IS NOT NULL ORDER BY id")
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached."""
        row = self._row("SELECT count(*) FROM {table} WHERE body IS NOT NULL")
        return int(row[0])

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return up to `limit` ids of cached entities, in order, beginning after `after`."""
        rows = self._read(
            "SELECT id FROM {table} WHERE body IS NOT NULL AND id > ? ORDER BY id LIMIT ?",
            after or "",  # less than any id
            limit,
        )
        return [id for (id,) in rows]

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        row = self._row("SELECT state FROM {table} WHERE id = ?", state_key(name))
        return row[0] if row else None

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name, durably; or return False if another process has changed it
        since it was `if_state`. It is in a row of the table that is not an entity.

        Raises:
            sqlite3.OperationalError: The database stayed locked for `timeout` seconds.
        """
        now, key = self._clock(), state_key(name)
        if if_state is None:
            return self._write(
                "INSERT INTO {table} (id, version, state, applied_at) VALUES (?, 0, ?, ?) "
                "ON CONFLICT (id) DO NOTHING",
                (key, text, now),
            )
        return self._write(
            "UPDATE {table} SET state = ?, applied_at = ? WHERE id = ? AND state = ?",
            (text, now, key, if_state),
        )

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        return self._file.write(
            f"DELETE FROM {self._table} WHERE body IS NULL AND state IS NULL AND applied_at < ?",
            (self._clock() - older_than,),
        )

    def close(self) -> None:
        """Close the file. A `with` block does so at its end."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row(self, statement: str, *values: object) -> Any:
        rows = self._file.read(statement.format(table=self._table), values)
        return rows[0] if rows else None

    def _read(self, statement: str, *values: object) -> list[Any]:
        return self._file.read(statement.format(table=self._table), values)

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        return self._file.write(statement.format(table=self._table), values) == 1
