"""A cache in a SQLite file."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from change_events._event import Found, Unchanged
from change_events.sinks import (
    MAX_EVENT_AGE,
    check_bodies,
    check_hooks,
    check_purge_age,
    check_revision,
    check_table_name,
    entry_of,
    read_each,
    state_key,
)
from change_events.sinks.sqlite.file import File
from change_events.sinks.sqlite.table import ADD_STATE, INSERT, SET_STATE, Writes, prepare, unended

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from change_events._event import Entry, Gone


class SQLiteSink:
    """
    Keeps JSON objects in a table of a SQLite file. Threads can share a sink, and processes a file.

    You can query the table with SQL, from this process or another:

        CREATE TABLE entities (
            id         TEXT PRIMARY KEY,
            version    INTEGER NOT NULL,  -- grows with every look; starts at the current time
                                          -- in µs since the epoch
            body       TEXT,              -- the entity as JSON; NULL if it is gone (a tombstone),
                                          -- 'null' if it is in a table of your own
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

    With `upsert` and `delete` the entities are in tables of your own, in the same file, and
    `entities` holds the rest. The two run in the transaction that raises the version, after it was
    raised, and only if no other look was faster. So both changes happen, or neither. If one raises,
    everything is rolled back, and the look is tried again later. They must not end the transaction
    (`executescript` does), nor call the sink. Their connection enforces foreign keys. Each look
    then has a commit of its own; otherwise looks that wait for one another share one.

    Both sides of a fork can use the sink: it closes the file before the fork, and each process
    opens it again. A cache in memory stays with the parent. Its child gets a `ConfigurationError`,
    and so does the child of a fork that Python does not see (`os.register_at_fork`).

    Args:
        path: The file; it is created if it does not exist. `":memory:"` keeps the table in memory.
        table: The table's name. One file can hold several kinds of entities.
        upsert: Stores an entity in your tables: `upsert(connection, id, value)`, with a
            `sqlite3.Connection`. It must work whether the entity exists or not.
        delete: Deletes an entity from your tables: `delete(connection, id)`. It must work whether
            the entity exists or not.
        read: Reads an entity from your tables: `read(connection, id)`, as `upsert` was given it, or
            None. `get` and audits need it; without it audits compare digests.
        timeout: The most seconds to wait while another process writes.
        revision: Names what your code makes of an entity, `upsert` above all. An entity that was
            stored under another revision counts as changed at its next look, although the source
            has not changed it.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: The file can't be opened or written, or is not a SQLite database; the
            table has other columns; or only one of `upsert` and `delete` is given, or only `read`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "entities",
        upsert: Callable[[sqlite3.Connection, str, Mapping[str, Any]], object] | None = None,
        delete: Callable[[sqlite3.Connection, str], object] | None = None,
        read: Callable[[sqlite3.Connection, str], Mapping[str, Any] | None] | None = None,
        timeout: float = 5.0,
        revision: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_table_name(table)
        check_revision(revision)
        check_hooks(upsert, delete, read)
        self._table = table
        self._upsert = upsert
        self._delete = delete
        self._read_own = read
        self._revision = revision
        self._clock = clock
        self._writes = Writes(bodies=upsert is None, revision=revision, clock=clock)
        foreign_keys = upsert is not None
        self._file = File(path, timeout, partial(prepare, table), foreign_keys=foreign_keys)

    @property
    def in_memory(self) -> bool:
        """True if the table is in this process's memory."""
        return self._file.in_memory

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        row = self._row(
            "SELECT revision, version, body IS NOT NULL, etag, digest FROM {table} WHERE id = ?", id
        )
        return entry_of(row, self._revision)

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written, and neither `upsert` nor
            `delete` is called.

        Raises:
            sqlite3.OperationalError: The database stayed locked for `timeout` seconds.
            TypeError, ValueError: JSON can't hold the entity.
            Exception: `upsert` or `delete` raised it; nothing is written.
            RuntimeError: `upsert` or `delete` ended the transaction or the connection, or caught an
                error that ended it; or it called the sink.
        """
        upsert, delete = self._upsert, self._delete
        statement, values = self._writes.of(id, change, if_version)
        if upsert is None or delete is None or isinstance(change, Unchanged):
            return self._write(statement, values)

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(statement.format(table=self._table), values).rowcount == 0:
                return False
            if isinstance(change, Found):
                with unended(connection, self._table, id, "upsert"):
                    upsert(connection, id, change.value)
            else:
                with unended(connection, self._table, id, "delete"):
                    delete(connection, id)
            return True

        return self._file.transact(work)

    def insert_many(self, found: Mapping[str, Found[Mapping[str, Any]]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids. `upsert` is
        called for these. All are stored in one transaction, or none. Errors are those of `apply`.
        """
        upsert = self._upsert
        rows, statement = self._writes.inserts(found), INSERT.format(table=self._table)
        if not rows:
            return set()
        if upsert is None:
            counts = self._file.write_many(statement, rows)
            return {id for id, count in zip(found, counts, strict=True) if count}

        def work(connection: sqlite3.Connection) -> set[str]:
            counts = [connection.execute(statement, row).rowcount for row in rows]
            inserted = [id for id, count in zip(found, counts, strict=True) if count]
            for id in inserted:
                with unended(connection, self._table, id, "upsert"):
                    upsert(connection, id, found[id].value)
            return set(inserted)

        return self._file.transact(work)

    def get(self, id: str, /) -> dict[str, Any] | None:
        """
        Return the cached entity, or None. From tables of your own `read` returns it; without `read`
        this is a `ConfigurationError`.
        """
        if self._read_own is not None:
            return self.get_many([id]).get(id)
        check_bodies(self._upsert)
        row = self._row("SELECT body FROM {table} WHERE id = ? AND body IS NOT NULL", id)
        return json.loads(row[0]) if row else None

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """
        Return those of these entities that are cached, by id. All are read at one moment. Errors
        are those of `get`.
        """
        if self._read_own is not None:
            work = partial(read_each, self._read_own, ids)
            return self._file.transact(work, begin="BEGIN")
        check_bodies(self._upsert)
        rows = self._read(
            "SELECT id, body FROM {table} "
            "WHERE id IN (SELECT value FROM json_each(?)) AND body IS NOT NULL",
            json.dumps(list(ids)),  # one parameter, because SQLite limits their number
        )
        return {id: json.loads(body) for id, body in rows}

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over a snapshot of the cached entities, with their ids, in order of the ids. With
        tables of your own this is a `ConfigurationError`.
        """
        check_bodies(self._upsert)
        rows = self._read("SELECT id, body FROM {table} WHERE body IS NOT NULL ORDER BY id")
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached."""
        return int(self._row("SELECT count(*) FROM {table} WHERE body IS NOT NULL")[0])

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
            return self._write(ADD_STATE, (key, text, now))
        return self._write(SET_STATE, (text, now, key, if_state))

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
