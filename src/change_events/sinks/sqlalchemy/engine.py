"""Engines of SQLAlchemy: how one is made, and transactions that are tried again."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError
from sqlalchemy.pool import QueuePool, StaticPool

from change_events.exceptions import ConfigurationError
from change_events.sinks import check_process, libpq_timeouts
from change_events.sinks.sqlalchemy.table import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Dialect, Table

T = TypeVar("T")

ATTEMPTS = 5
"""How often a transaction is tried that others get in the way of."""

CONFLICTS = (
    *("40001", "40P01"),  # SQLSTATE: a serialization failure; a deadlock, in PostgreSQL
    *(1213, 1020),  # MySQL and MariaDB: a deadlock; a row that has changed since the snapshot
)
"""Errors after which the database has undone a transaction that can succeed at once."""

LOCK_PATIENCE = 60
"""Seconds to wait for an answer of MySQL: it waits for a row's lock for 50 s itself."""


class Transactions:
    """
    Runs transactions, in the process that made this.

    Args:
        database: A URL, or the user's engine.
        connections: As in `SQLAlchemySink`.
        timeout: As in `SQLAlchemySink`.

    Raises:
        ConfigurationError: It is neither; its driver is missing or asynchronous; the database is in
            memory.
    """

    def __init__(self, database: str | URL | Engine, connections: int, timeout: float) -> None:
        self._pid = os.getpid()
        self._is_own = isinstance(database, (str, URL))
        self.engine = (
            _make_engine(database, connections, timeout)
            if isinstance(database, (str, URL))
            else _checked(database)
        )

    def prepare(self, name: str) -> Table:
        """
        Return the table with this name; it is created if there is none, and tried.

        Raises:
            ConfigurationError: The database can't be reached, or the table can't be used.
        """
        with ExitStack() as at_error:
            at_error.callback(self.close)
            table, self.engine = self._prepared(name)
            at_error.pop_all()
        return table

    def _prepared(self, name: str) -> tuple[Table, Engine]:
        try:
            return prepare(self.engine, name)
        except ConfigurationError:
            raise
        # Drivers raise the last three for what a URL gives them.
        except (SQLAlchemyError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, StatementError):
                error.hide_parameters = True
            raise ConfigurationError(
                f"the table {name!r} can't be used: {error}. Check the URL, and that its user can "
                "create the table; or else that the table is as SQLAlchemySink's documentation "
                "shows it, and that the user can read and write it"
            ) from error

    def run(self, work: Callable[[Connection], T], attempts: int = ATTEMPTS) -> T:
        """
        Do the work in a transaction and commit it; do it again if another transaction got in its
        way, `attempts` times in all. Any other error undoes it.
        """
        check_process(self._pid, "SQLAlchemySink")
        try:
            with self.engine.connect() as connection:
                result = work(connection)
                connection.commit()
        except StatementError as error:
            error.hide_parameters = True  # they would be logged, and one is the entity
            if attempts == 1 or not is_conflict(error):
                raise
        else:
            return result
        return self.run(work, attempts - 1)

    def close(self) -> None:
        """Close the connections, unless the engine is the user's, or the parent's of this fork."""
        if self._is_own and self._pid == os.getpid():
            self.engine.dispose()


def is_conflict(error: StatementError) -> bool:
    """Say whether the database has undone the transaction only for the sake of another one."""
    original: Any = error.orig
    codes = [getattr(original, name, None) for name in ("sqlstate", "pgcode", "errno")]
    return any(code in CONFLICTS for code in (*codes, *getattr(original, "args", ())[:1]))


def _make_engine(database: str | URL, connections: int, timeout: float) -> Engine:
    if connections < 1 or not 0 <= timeout < math.inf:
        raise ConfigurationError(
            f"connections must be at least 1, and timeout 0 seconds or more, not {connections!r} "
            f"and {timeout!r}"
        )
    try:
        url = make_url(database)
        given = _patience(url.get_driver_name(), timeout)
        _check(url, url.get_dialect())
        return create_engine(
            url,
            connect_args={name: value for name, value in given.items() if name not in url.query},
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            # Each look costs a round trip more, so that none fails after the server was restarted.
            pool_pre_ping=True,
            pool_reset_on_return=None,  # `run` has ended the transaction: a round trip less
        )
    except ImportError as error:
        raise ConfigurationError(
            f"the driver that the database's URL names is missing ({error}): install it"
        ) from error
    except ConfigurationError:
        raise
    except (ArgumentError, ValueError):  # it can quote the URL, and with it the password
        raise ConfigurationError(
            "SQLAlchemySink needs an Engine, or a URL that SQLAlchemy knows, such as "
            '"mysql+pymysql://user@host/name" or "sqlite:///cache.db". A password is '
            "percent-encoded; ports and timeouts are numbers"
        ) from None


def _checked(engine: Engine) -> Engine:
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"SQLAlchemySink needs an Engine or a URL, not {type(engine).__name__}. A worker's "
            "threads can't use an AsyncEngine: make an Engine for it"
        )
    if isinstance(engine.pool, StaticPool):
        raise ConfigurationError(
            "the engine's StaticPool lends one connection to all threads at once, so each would "
            "commit or roll back what the others write: use another poolclass="
        )
    _check(engine.url, engine.dialect)
    return engine


def _check(url: URL, dialect: Dialect | type[Dialect]) -> None:
    if dialect.is_async:
        raise ConfigurationError(
            f"the driver {dialect.driver} is asynchronous, and a worker's threads can't use it: "
            "name another one in the URL, such as postgresql+psycopg or mysql+pymysql"
        )
    in_memory = ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory"
    if url.get_backend_name() == "sqlite" and in_memory:
        raise ConfigurationError(
            "each connection to SQLite in memory has a database of its own: use "
            'SQLiteSink(":memory:") or MemorySink'
        )


def _patience(driver: str, timeout: float) -> dict[str, Any]:
    """Return timeouts for a database that is gone, by the driver's names."""
    if driver == "pysqlite":
        return {"timeout": timeout}  # for a lock
    if driver in {"pymysql", "mysqldb"}:
        waits = dict.fromkeys(("read_timeout", "write_timeout"), LOCK_PATIENCE)
        return {"connect_timeout": max(1, math.ceil(timeout)), **waits}
    return dict(libpq_timeouts(timeout)) if driver in {"psycopg", "psycopg2"} else {}
