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
    from types import TracebackType

    from typing_extensions import Self


class SQLiteSink:
    """
    Keeps JSON objects in a table of a SQLite file. Many threads may share one sink, and many
    processes one file.

    The table is yours to query, from this process or another, with SQL:

        CREATE TABLE entities (
            id         TEXT PRIMARY KEY,
            version    INTEGER NOT NULL,  -- grows with every look; begins at the time, in microseconds since the epoch
            body       TEXT,              -- the entity as JSON; NULL where it is gone (a tombstone)
            etag       TEXT,
            applied_at REAL NOT NULL      -- when it was last looked at, in seconds since the epoch
        ) WITHOUT ROWID

    So `SELECT json_extract(body, '$.name') FROM entities WHERE body IS NOT NULL` lists the names of
    what is cached.

    The file is in WAL mode, which needs a local disk (sqlite.org/wal.html), and every commit
    reaches the disk before the event behind it is acknowledged: neither a crash nor a power cut
    loses what SQS will not send again.

    Args:
        path: The file; it is made if there is none. `":memory:"` keeps the table in memory.
        table: The table's name, so that one file can hold several kinds of entities.
        timeout: How many seconds to wait while another process writes.
        clock: Tells the time in seconds since the epoch: when an entry was last looked at, and its
            first version.

    Raises:
        ConfigurationError: The file can't be opened or written, or is no SQLite database; the table
            has other columns.
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
        # One connection behind a lock: SQLite lets one thread write at a time anyhow, and a read
        # takes microseconds.
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

    def _use_wal(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Another process makes the file, too. For this lock alone SQLite does not always
                # wait by itself.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA synchronous = FULL")
        execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT, "
            "etag TEXT, applied_at REAL NOT NULL) WITHOUT ROWID"
        )
        execute(f"SELECT id, version, body, etag, applied_at FROM {self._table} LIMIT 0")
        # A write that changes nothing, as no id is empty: says now, not at the first event, that
        # the file can't be written.
        execute(f"DELETE FROM {self._table} WHERE id = ''")

    def entry(self, id: str, /) -> Entry:
        """Return the entry's version and what is known of the entity."""
        row = self._one("SELECT version, body IS NOT NULL, etag FROM {table} WHERE id = ?", id)
        return Entry(row[0], bool(row[1]), row[2]) if row else Entry()

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry's version is another by now; nothing is written.

        Raises:
            sqlite3.OperationalError: The database stayed locked for `timeout` seconds.
            TypeError, ValueError: The entity is not made of what JSON knows.
        """
        now = self._clock()
        if isinstance(change, Unchanged):
            return self._write(
                "UPDATE {table} SET version = version + 1, applied_at = ? WHERE id = ? AND version = ?",
                (now, id, if_version),
            )
        body, etag = (
            (json.dumps(change.value, allow_nan=False), change.etag)
            if isinstance(change, Found)
            else (None, None)
        )
        if if_version == 0:
            return self._write(
                "INSERT INTO {table} (id, version, body, etag, applied_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (id, first_version(now), body, etag, now),
            )
        return self._write(
            "UPDATE {table} SET version = version + 1, body = ?, etag = ?, applied_at = ? WHERE id = ? AND version = ?",
            (body, etag, now, id, if_version),
        )

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        row = self._one("SELECT body FROM {table} WHERE id = ? AND body IS NOT NULL", id)
        return json.loads(row[0]) if row else None

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over the cached entities and their ids, in the order of the ids, as they are now.
        """
        with self._lock:
            rows = self._connection.execute(
                f"SELECT id, body FROM {self._table} WHERE body IS NOT NULL ORDER BY id"
            ).fetchall()
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached."""
        row = self._one("SELECT count(*) FROM {table} WHERE body IS NOT NULL")
        return int(row[0])

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget the tombstones that were last looked at longer ago than that.

        Args:
            older_than: Seconds, at least 14 days, the longest an event can live in a queue.

        Returns:
            How many were forgotten.

        Raises:
            ConfigurationError: `older_than` is less than 14 days.
        """
        check_purge_age(older_than)
        with self._lock:
            return self._connection.execute(
                f"DELETE FROM {self._table} WHERE body IS NULL AND applied_at < ?",
                (self._clock() - older_than,),
            ).rowcount

    def close(self) -> None:
        """Close the file. `with SQLiteSink(...) as sink:` does it, too."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _one(self, statement: str, *values: str) -> Any:
        with self._lock:
            return self._connection.execute(statement.format(table=self._table), values).fetchone()

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        # Getting a commit onto the disk costs far more than a write, so that those which wait for
        # the lock share one.
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
            with contextlib.suppress(
                Exception
            ):  # of any of them: each thread learns of its own when it writes alone
                self._commit([write, *others])
                return
        write.rowcount = self._connection.execute(write.statement, write.values).rowcount

    def _commit(self, writes: Sequence[_Write]) -> None:
        execute = self._connection.execute
        try:
            counts = [execute(write.statement, write.values).rowcount for write in writes]
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(
                sqlite3.Error
            ):  # some errors have ended the transaction already
                execute("ROLLBACK")
            raise
        for write, count in zip(writes, counts, strict=True):
            write.rowcount = count


@dataclass(slots=True, eq=False)
class _Write:
    """A statement that waits, and how many rows it has changed once it is committed."""

    statement: str
    values: tuple[object, ...]
    rowcount: int | None = None


def _unusable(path: object, error: sqlite3.Error) -> ConfigurationError:
    return ConfigurationError(
        f"the cache file {str(path)!r} can't be used: {error}. Its directory must exist and be writable by this user, and "
        "the file, if there is one, must be a SQLite database whose table this sink made"
    )
