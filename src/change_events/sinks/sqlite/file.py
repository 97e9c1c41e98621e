"""The connection to a SQLite file: one thread at a time, and none in a fork."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from change_events.exceptions import ConfigurationError
from change_events.sinks import check_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class File:
    """
    A connection to a SQLite file, its only lock, and what a fork does to it.

    Args:
        path: The file, or `":memory:"`.
        timeout: The most seconds to wait for a lock.
        prepare: Is called with the first connection, before any other use.
        foreign_keys: Enforce foreign keys. SQLite does so only if each connection asks for it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        timeout: float,
        prepare: Callable[[sqlite3.Connection], None],
        *,
        foreign_keys: bool = False,
    ) -> None:
        self.in_memory = os.fspath(path) in {":memory:", ""}
        # A daemon changes its directory after its fork.
        self._path = os.fspath(path) if self.in_memory else str(Path(path).absolute())
        self._timeout = timeout
        self._foreign_keys = foreign_keys
        # One connection behind a lock: SQLite lets only one thread write at a time anyway, and a
        # read takes microseconds.
        # A thread can get it twice only from within `transact`, and is told so.
        self.lock = threading.RLock()
        self._transacting = False
        self.waiting: deque[_Write] = deque()
        with FORKS.lock:
            self.connection = self._connect(self._path, prepare)
            self._pid = os.getpid()
            FORKS.files.add(self)

    def read(self, statement: str, values: tuple[object, ...]) -> list[Any]:
        """Return all rows."""
        with self.lock:
            return self._opened().execute(statement, values).fetchall()

    def write(self, statement: str, values: tuple[object, ...]) -> int:
        """Write and commit; return the number of changed rows."""
        return self.write_many(statement, [values])[0]

    def write_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> list[int]:
        """
        Execute the statement with the values of each row, one or more, and commit all together, or
        none; return how many rows of the table each has changed.
        """
        # A commit to disk costs far more than a write, so the writes that wait for the lock share
        # one.
        write = _Write(statement, rows)
        self.waiting.append(write)
        with self.lock:
            if write.counts is None:
                return self._commit_with_others(write)
        return write.counts

    def transact(
        self, work: Callable[[sqlite3.Connection], T], *, begin: str = "BEGIN IMMEDIATE"
    ) -> T:
        """
        Do work of the user's in a transaction of its own; commit it, or nothing if it raises. Work
        that only reads can `begin` without the file's only lock for writers.

        Raises:
            RuntimeError: The work has called this object.
        """
        with self.lock:
            connection = self._opened_to_write()
            connection.execute(begin)
            self._transacting = True
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
            finally:
                self._transacting = False
                _set_up(connection)
            return result

    def close(self) -> None:
        """Close the connection for good."""
        with FORKS.lock, self.lock:
            FORKS.files.discard(self)
            if self._pid in {_CLOSED, os.getpid()}:  # others' must not be touched
                self.connection.close()
                self._pid = os.getpid()

    def close_for_fork(self) -> None:
        """Close the connection until the next use, in whatever process that is."""
        if self._pid == os.getpid() and not self.in_memory:
            self.connection.close()
            self._pid = _CLOSED

    def _opened(self) -> sqlite3.Connection:
        if self._transacting:
            raise RuntimeError(
                "upsert, delete and read can't call their sink: use the connection that they get"
            )
        pid = os.getpid()
        if self._pid == _CLOSED:
            # With `rw`, SQLite does not make an empty file where the cache was.
            self.connection = self._connect(f"{Path(self._path).as_uri()}?mode=rw", uri=True)
            self._pid = pid
        elif self._pid != pid:
            check_process(self._pid, "cache in memory" if self.in_memory else "SQLiteSink")
        return self.connection

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.ProgrammingError:  # the work has closed the connection
            if not self.in_memory:
                self._pid = _CLOSED
        except sqlite3.Error:
            pass  # an error, or the work, has ended the transaction

    def _opened_to_write(self) -> sqlite3.Connection:
        connection = self._opened()
        if connection.in_transaction:
            connection.execute("ROLLBACK")  # Ctrl-C came between a BEGIN and what ends it
        return connection

    def _connect(
        self,
        database: str,
        prepare: Callable[[sqlite3.Connection], None] = lambda _: None,
        *,
        uri: bool = False,
    ) -> sqlite3.Connection:
        with contextlib.ExitStack() as at_error:
            try:
                connection = sqlite3.connect(
                    database,
                    timeout=self._timeout,
                    check_same_thread=False,
                    uri=uri,
                )
                at_error.callback(connection.close)
                _set_up(connection)
                self._use_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA foreign_keys = {self._foreign_keys:d}")
                prepare(connection)
            except sqlite3.Error as error:
                raise _unusable(self._path, error) from error
            at_error.pop_all()
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                # Another process creates the file at this moment. SQLite does not always wait for
                # this one lock.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _commit_with_others(self, write: _Write) -> list[int]:
        waiting = [self.waiting.popleft() for _ in range(len(self.waiting))]
        others = [other for other in waiting if other is not write]
        connection = self._opened_to_write()
        if others:
            connection.execute("BEGIN IMMEDIATE")
            # After an error of one write, each thread writes alone and gets its own error.
            with contextlib.suppress(Exception):
                return _commit(connection, [write, *others])
        if len(write.rows) > 1:
            connection.execute("BEGIN IMMEDIATE")
            return _commit(connection, [write])
        return [connection.execute(write.statement, write.rows[0]).rowcount]


def _set_up(connection: sqlite3.Connection) -> None:
    """Set what our statements rely on. Work of the user's can have changed it."""
    connection.row_factory, connection.text_factory = None, str
    with contextlib.suppress(sqlite3.ProgrammingError):  # the work has closed it
        connection.isolation_level = None  # each statement commits


def _commit(connection: sqlite3.Connection, writes: Sequence[_Write]) -> list[int]:
    """Make all writes, and end the transaction; return the counts of the first."""
    try:
        counts = [
            [connection.execute(each.statement, values).rowcount for values in each.rows]
            for each in writes
        ]
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors end the transaction themselves
            connection.execute("ROLLBACK")
        raise
    for write, of_write in zip(writes, counts, strict=True):
        write.counts = of_write
    return counts[0]


@dataclass(slots=True, eq=False)
class _Write:
    """
    A statement that waits, and the values to execute it with; once another thread has committed it,
    `counts` has the number of changed rows for each.
    """

    statement: str
    rows: Sequence[tuple[object, ...]]
    counts: list[int] | None = None


PATIENCE = 0.1
"""Seconds for which a fork waits for a file before it lets all others go."""

_CLOSED = 0
"""Instead of a process's id: the connection was closed before a fork."""


class Forks:
    """
    Closes all files before a fork, and keeps their locks until after it.

    A connection must not cross a fork, not even to be closed in the child: a process that closes a
    file loses all its locks on it, and SQLite in the other process does not notice
    (sqlite.org/howtocorrupt.html, 2.2 and 2.6).

    Attributes:
        lock: Held during a fork, and while a file is opened or closed.
        files: All files that are open, or will be opened again at their next use.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: WeakSet[File] = WeakSet()
        self._held: list[File] = []

    def before(self) -> None:
        """Wait until no thread uses a file, and close all."""
        busy = None
        while (busy := self._take_all(busy)) is not None:
            pass
        for file in self._held:
            file.close_for_fork()

    def _take_all(self, first: File | None) -> File | None:
        """
        Take all locks, and return None; or none, and return a file that is in use.

        The thread that uses it can be in an `upsert` that waits for another file. So wait for it
        alone: pass this file as `first`.
        """
        if first is not None:
            first.lock.acquire()
            self._held.append(first)
        self.lock.acquire()
        for file in list(self.files):
            if file is first:
                continue
            if not file.lock.acquire(timeout=PATIENCE):
                self.after_in_parent()
                return file
            self._held.append(file)
        return None

    def after_in_parent(self) -> None:
        """Let threads use the files again."""
        while self._held:
            self._held.pop().lock.release()
        self.lock.release()

    def after_in_child(self) -> None:
        """Likewise; the threads whose writes wait are not in this process."""
        for file in self._held:
            file.waiting.clear()
        self.after_in_parent()


FORKS = Forks()

if sys.platform != "win32":  # pragma: no branch  # there are no forks
    os.register_at_fork(
        before=FORKS.before,
        after_in_parent=FORKS.after_in_parent,
        after_in_child=FORKS.after_in_child,
    )


def _unusable(path: str, error: sqlite3.Error) -> ConfigurationError:
    return ConfigurationError(
        f"the cache file {path!r} can't be used: {error}. Its directory must exist and be "
        "writable by this user, and an existing file must be a SQLite database whose table this "
        "sink created"
    )
