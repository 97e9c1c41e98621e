"""A cache in a SQLite file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.exceptions import ConfigurationError
from change_events.sinks import MAX_EVENT_AGE, check_purge_age, check_table_name, first_version

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from typing_extensions import Self


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
            applied_at REAL NOT NULL      -- the time of the last look, in seconds since the epoch
        ) WITHOUT ROWID

    So `SELECT json_extract(body, '$.name') FROM entities WHERE body IS NOT NULL` lists the names of
    all cached entities.

    The file is in WAL mode, which needs a local disk (sqlite.org/wal.html). Every commit reaches
    the disk before its event is acknowledged, so neither a crash nor a power cut loses what SQS
    will not send again.

    Args:
        path: The file; it is created if it does not exist. `":memory:"` keeps the table in memory.
        table: The table's name. One file can hold several kinds of entities.
        timeout: The most seconds to wait while another process writes.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_table_name(table)
        self._table = table
        self._clock = clock
        # One connection behind a lock: SQLite lets only one thread write at a time anyway, and a
        # read takes microseconds.
        self._lock = threading.Lock()
        self._waiting: deque[_Write] = deque()
        try:
            self._connection = sqlite3.connect(
                path, timeout=timeout, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            self._use_wal(timeout)
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise _unusable(path, error) from error

    def _use_wal(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Another process creates the file at this moment. SQLite does not always wait for
                # this one lock.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA synchronous = FULL")
        execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (id TEXT PRIMARY KEY, "
            "version INTEGER NOT NULL, body TEXT, etag TEXT, applied_at REAL NOT NULL) "
            "WITHOUT ROWID"
        )
        execute(f"SELECT id, version, body, etag, applied_at FROM {self._table} LIMIT 0")
        # No id is empty, so this write changes nothing. It fails now, and not at the first event,
        # if the file can't be written.
        execute(f"DELETE FROM {self._table} WHERE id = ''")

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        row = self._row("SELECT version, body IS NOT NULL, etag FROM {table} WHERE id = ?", id)
        return Entry(row[0], bool(row[1]), row[2]) if row else Entry()

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
                "UPDATE {table} SET version = version + 1, applied_at = ? "
                "WHERE id = ? AND version = ?",
                (now, id, if_version),
            )
        body, etag = None, None
        if isinstance(change, Found):
            body, etag = json.dumps(change.value, allow_nan=False), change.etag
        if if_version == 0:
            return self._write(
                "INSERT INTO {table} (id, version, body, etag, applied_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (id, first_version(now), body, etag, now),
            )
        return self._write(
            "UPDATE {table} SET version = version + 1, body = ?, etag = ?, applied_at = ? "
            "WHERE id = ? AND version = ?",
            (body, etag, now, id, if_version),
        )

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        row = self._row("SELECT body FROM {table} WHERE id = ? AND body IS NOT NULL", id)
        return json.loads(row[0]) if row else None

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over a snapshot of the cached entities, with their ids, in order of the ids."""
        with self._lock:
            rows = self._connection.execute(
                f"SELECT id, body FROM {self._table} WHERE body IS NOT NULL ORDER BY id"
            ).fetchall()
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached."""
        row = self._row("SELECT count(*) FROM {table} WHERE body IS NOT NULL")
        return int(row[0])

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        with self._lock:
            return self._connection.execute(
                f"DELETE FROM {self._table} WHERE body IS NULL AND applied_at < ?",
                (self._clock() - older_than,),
            ).rowcount

    def close(self) -> None:
        """Close the file. A `with` block does so at its end."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row(self, statement: str, *values: str) -> Any:
        with self._lock:
            return self._connection.execute(statement.format(table=self._table), values).fetchone()

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        # A commit to disk costs far more than a write, so the writes that wait for the lock share
        # one.
        write = _Write(statement.format(table=self._table), values)
        self._waiting.append(write)
        with self._lock:
            if write.rowcount is None:
                self._commit_with_others(write)
        return write.rowcount == 1

    def _commit_with_others(self, write: _Write) -> None:
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        others = [other for other in waiting if other is not write]
        if others:
            self._connection.execute("BEGIN IMMEDIATE")
            # After an error of one write, each thread writes alone and gets its own error.
            with contextlib.suppress(Exception):
                self._commit([write, *others])
                return
        write.rowcount = self._connection.execute(write.statement, write.values).rowcount

    def _commit(self, writes: Sequence[_Write]) -> None:
        execute = self._connection.execute
        try:
            counts = [execute(write.statement, write.values).rowcount for write in writes]
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors end the transaction themselves
                execute("ROLLBACK")
            raise
        for write, count in zip(writes, counts, strict=True):
            write.rowcount = count


@dataclass(slots=True, eq=False)
class _Write:
    """A statement that waits; once it is committed, `rowcount` is the number of changed rows."""

    statement: str
    values: tuple[object, ...]
    rowcount: int | None = None


def _unusable(path: object, error: sqlite3.Error) -> ConfigurationError:
    return ConfigurationError(
        f"the cache file {str(path)!r} can't be used: {error}. Its directory must exist and be "
        "writable by this user, and an existing file must be a SQLite database whose table this "
        "sink created"
    )
