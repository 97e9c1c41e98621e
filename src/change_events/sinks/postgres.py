"""A cache in PostgreSQL."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.exceptions import ConfigurationError
from change_events.sinks import MAX_EVENT_AGE, check_purge_age, check_table_name, first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from psycopg import Connection, Cursor
    from psycopg_pool import ConnectionPool
    from typing_extensions import Self

COLUMNS = "id, version, present, body, etag, applied_at"


class PostgresSink:
    """
    Keeps JSON objects in a table of a PostgreSQL database, or entities in tables of your own. Many
    threads may share one sink, and many processes one table. Install it with `pip install
    'change-events[postgres]'`.

    The table is made if there is none (if the role may not, make it in a migration), and is yours
    to query:

        CREATE TABLE entities (
            id         text COLLATE "C" PRIMARY KEY,
            version    bigint NOT NULL,       -- grows with every look; begins at the time, in microseconds since the epoch
            present    boolean NOT NULL,      -- false where the entity is gone (a tombstone)
            body       jsonb,                 -- the entity; NULL where it is gone, or kept in tables of your own
            etag       text,
            applied_at timestamptz NOT NULL   -- when it was last looked at
        )

    With `upsert` and `delete` the entities are in tables of your own, and `entities` holds the
    rest. They run in the transaction that raises the version, after it was raised and only if no
    other look was quicker: both happen, or neither does. What they raise rolls all of it back, and
    the look is tried again later.

    An event is acknowledged once the look's commit has returned. If the database then loses the
    commit after all (`synchronous_commit = off`, a failover to a replica that was behind), no event
    brings the change back.

    Args:
        database: A connection string (`"postgresql://user@host/name"`, or `"host=... dbname=..."`),
            or a pool that is open and stays yours to close. A pool should check its connections
            (`check=ConnectionPool.check_connection`), or each one that died with a server costs a
            look that fails.
        table: The table's name, so that one schema can hold several kinds of entities.
        upsert: Stores an entity in your tables: `upsert(connection, id, value)`. It must not mind
            what is there already.
        delete: Deletes an entity from your tables: `delete(connection, id)`. It must not mind if
            there is none.
        connections: How many connections to keep at the most. A worker's look takes one for the
            time of a statement or two. Of no effect on a pool of yours; nor is the next.
        timeout: How many seconds to wait for a connection.
        clock: Tells the time in seconds since the epoch: when an entry was last looked at, and its
            first version.

    Raises:
        ConfigurationError: psycopg is not installed; the database can't be reached; the table can't
            be made or written, or has other columns; only one of `upsert` and `delete` is given.
    """

    def __init__(
        self,
        database: str | ConnectionPool[Any],
        *,
        table: str = "entities",
        upsert: Callable[[Connection[Any], str, Mapping[str, Any]], object] | None = None,
        delete: Callable[[Connection[Any], str], object] | None = None,
        connections: int = 10,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_table_name(table)
        if (upsert is None) != (delete is None):
            raise ConfigurationError(
                "tables of your own take both upsert= and delete=, or else they can't follow the source"
            )
        self._table = table
        self._upsert = upsert
        self._delete = delete
        self._clock = clock
        psycopg = _psycopg()
        self._row_factory = psycopg.rows.tuple_row  # a pool of yours may have another
        try:
            # Not by a pool of our own: it would say that it has no connection, and leave the reason
            # to its log.
            with _one_of(database, timeout) as connection:
                self._prepare(connection)
        except psycopg.Error as error:
            raise _unusable(table, error) from error
        self._pool_is_ours = isinstance(database, str)
        self._pool = (
            _pool(database, connections, timeout) if isinstance(database, str) else database
        )

    def _prepare(self, connection: Connection[Any]) -> None:
        with connection.transaction():
            # One at a time: of two CREATE TABLE IF NOT EXISTS at once, one can fail.
            self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('change_events'))")
            # Not IF NOT EXISTS: that asks for the permission to create even if there is nothing to
            # create.
            if self._execute(connection, "SELECT to_regclass('{table}')").fetchone() == (None,):
                self._execute(
                    connection,
                    'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, present boolean NOT NULL, '
                    "body jsonb, etag text, applied_at timestamptz NOT NULL)",
                )
            # A write that changes nothing: says now, not at the first event, that the table can't
            # be written.
            self._execute(
                connection,
                f"INSERT INTO {{table}} ({COLUMNS}) SELECT {COLUMNS} FROM {{table}} WHERE false "
                "ON CONFLICT (id) DO UPDATE SET version = excluded.version",
            )

    def entry(self, id: str, /) -> Entry:
        """Return the entry's version and what is known of the entity."""
        row = self._one("SELECT version, present, etag FROM {table} WHERE id = %s", id)
        return Entry(*row) if row else Entry()

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry's version is another by now; nothing is written, and neither `upsert`
            nor `delete` is called.

        Raises:
            psycopg.Error: The database can't be reached, or refuses the entity: JSONB has no NUL
                character and no lone surrogate.
            TypeError, ValueError: The entity is not made of what JSON knows.
            Exception: What `upsert` or `delete` raised; nothing is written.
        """
        with self._pool.connection() as connection, connection.transaction():
            if not self._compare_and_set(connection, id, change, if_version):
                return False
            if isinstance(change, Found) and self._upsert is not None:
                self._upsert(connection, id, change.value)
            elif isinstance(change, Gone) and self._delete is not None:
                self._delete(connection, id)
            return True

    def _compare_and_set(
        self,
        connection: Connection[Any],
        id: str,
        change: Found[Mapping[str, Any]] | Unchanged | Gone,
        if_version: int,
    ) -> bool:
        now = self._clock()
        if isinstance(change, Unchanged):
            statement = (
                "UPDATE {table} SET version = version + 1, applied_at = to_timestamp(%(now)s) "
                "WHERE id = %(id)s AND version = %(if_version)s"
            )
        elif if_version == 0:
            statement = (
                f"INSERT INTO {{table}} ({COLUMNS}) VALUES "
                "(%(id)s, %(first)s, %(present)s, %(body)s::jsonb, %(etag)s, to_timestamp(%(now)s)) ON CONFLICT DO NOTHING"
            )
        else:
            statement = (
                "UPDATE {table} SET version = version + 1, present = %(present)s, body = %(body)s::jsonb, etag = %(etag)s, "
                "applied_at = to_timestamp(%(now)s) WHERE id = %(id)s AND version = %(if_version)s"
            )
        values = {
            "id": id,
            "now": now,
            "first": first_version(now),
            "if_version": if_version,
            **self._described(change),
        }
        return self._execute(connection, statement, values).rowcount == 1

    def _described(self, change: Found[Mapping[str, Any]] | Unchanged | Gone) -> dict[str, Any]:
        if not isinstance(change, Found):
            return {"present": False, "body": None, "etag": None}
        body = json.dumps(change.value, allow_nan=False) if self._upsert is None else None
        return {"present": True, "body": body, "etag": change.etag}

    def get(self, id: str, /) -> dict[str, Any] | None:
        """
        Return the cached entity, or None.

        Raises:
            ConfigurationError: The entities are in tables of your own.
        """
        self._require_bodies()
        row = self._one("SELECT body::text FROM {table} WHERE id = %s AND present", id)
        return json.loads(row[0]) if row else None

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over the cached entities and their ids, in the order of the ids, as they are now.

        Raises:
            ConfigurationError: The entities are in tables of your own.
        """
        self._require_bodies()
        with self._pool.connection() as connection:
            rows = self._execute(
                connection, "SELECT id, body::text FROM {table} WHERE present ORDER BY id"
            ).fetchall()
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached, in tables of your own, too."""
        row = self._one("SELECT count(*) FROM {table} WHERE present")
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
        before = self._clock() - older_than
        with self._pool.connection() as connection:
            statement = "DELETE FROM {table} WHERE NOT present AND applied_at < to_timestamp(%s)"
            return self._execute(connection, statement, (before,)).rowcount

    def close(self) -> None:
        """
        Close the connections, unless the pool is yours. `with PostgresSink(...) as sink:` does it,
        too.
        """
        if self._pool_is_ours:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _require_bodies(self) -> None:
        if self._upsert is not None:
            raise ConfigurationError(
                "the entities are where upsert= put them, in tables of your own; query those"
            )

    def _one(self, statement: str, *values: str) -> Any:
        with self._pool.connection() as connection:
            return self._execute(connection, statement, values).fetchone()

    def _execute(
        self, connection: Connection[Any], statement: str, values: Any = ()
    ) -> Cursor[Any]:
        # As bytes, since type checkers want text to be a literal.
        query = statement.format(table=f'"{self._table}"').encode()
        return connection.cursor(row_factory=self._row_factory).execute(query, values)


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg_pool  # noqa: F401  # missed now, not later
    except ImportError as error:
        raise ConfigurationError(
            f"PostgresSink needs psycopg ({error}): pip install 'change-events[postgres]'"
        ) from error
    return psycopg


def _one_of(
    database: str | ConnectionPool[Any], timeout: float
) -> AbstractContextManager[Connection[Any]]:
    from psycopg import Connection

    if not isinstance(database, str):
        return database.connection()
    return Connection.connect(_conninfo(database, timeout), autocommit=True)


def _pool(database: str, connections: int, timeout: float) -> ConnectionPool[Any]:
    from psycopg_pool import ConnectionPool

    return ConnectionPool(
        _conninfo(database, timeout),
        kwargs={"autocommit": True},  # transactions are begun by name
        min_size=1,
        max_size=connections,
        timeout=timeout,
        reconnect_timeout=timeout,  # a pause that doubles for longer would outlast the outage it is for
        check=ConnectionPool.check_connection,  # a server that has come back costs no look, but each look a round trip
        open=True,
    )


def _conninfo(database: str, timeout: float) -> str:
    """
    Add to the connection string, where it says nothing else, how soon a server that is gone is
    given up: not in hours.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    seconds = max(2, math.ceil(timeout))  # libpq takes no less
    patience = {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": 4 * seconds * 1000,
    }
    return make_conninfo("", **(patience | dict(conninfo_to_dict(database))))


def _unusable(table: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the table {table!r} can't be used: {error}. Check the connection string, and that the role may make the table, or "
        "else that it is there as PostgresSink's documentation shows it, and may be read and written"
    )
