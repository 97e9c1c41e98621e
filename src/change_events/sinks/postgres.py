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

    from psycopg import Connection, Cursor
    from psycopg_pool import ConnectionPool
    from typing_extensions import Self

COLUMNS = "id, version, present, body, etag, applied_at"

_INSERT = (
    f"INSERT INTO {{table}} ({COLUMNS}) VALUES (%(id)s, %(first)s, %(present)s, "
    "%(body)s::jsonb, %(etag)s, to_timestamp(%(now)s)) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE {table} SET version = version + 1, present = %(present)s, body = %(body)s::jsonb, "
    "etag = %(etag)s, applied_at = to_timestamp(%(now)s) "
    "WHERE id = %(id)s AND version = %(if_version)s"
)
_TOUCH = (
    "UPDATE {table} SET version = version + 1, applied_at = to_timestamp(%(now)s) "
    "WHERE id = %(id)s AND version = %(if_version)s"
)


class PostgresSink:
    """
    Keeps JSON objects in a table of a PostgreSQL database, or entities in tables of your own.
    Threads can share one sink, and processes one table. Needs `pip install
    'change-events[postgres]'`.

    The sink creates the table if there is none (if its role can't, create it in a migration). You
    can query it:

        CREATE TABLE entities (
            id         text COLLATE "C" PRIMARY KEY,
            version    bigint NOT NULL,      -- grows with every look; begins at the time, in µs
            present    boolean NOT NULL,     -- false if the entity is gone (a tombstone)
            body       jsonb,                -- the entity; NULL if gone, or in a table of your own
            etag       text,
            applied_at timestamptz NOT NULL  -- the time of the last look
        )

    With `upsert` and `delete` the entities are in tables of your own, and `entities` holds the
    rest. The two run in the transaction that raises the version, after it was raised, and only if
    no other look was faster. So both changes happen, or neither. If one raises, everything is
    rolled back, and the look is tried again later.

    An event is acknowledged once its look's commit has returned. If the database then loses the
    commit after all (`synchronous_commit = off`, a failover to a replica that was behind), no event
    brings the change back.

    Args:
        database: A connection string (`"postgresql://user@host/name"`, or `"host=...
            dbname=..."`), or an open pool, which you close yourself. A pool should check its
            connections (`check=ConnectionPool.check_connection`): otherwise each connection that
            died with a server makes one look fail.
        table: The table's name. One schema can hold several kinds of entities.
        upsert: Stores an entity in your tables: `upsert(connection, id, value)`. It must work
            whether the entity exists or not.
        delete: Deletes an entity from your tables: `delete(connection, id)`. It must work whether
            the entity exists or not.
        connections: The most connections to keep. A look needs one for a statement or two. Not used
            with a pool of your own.
        timeout: The most seconds to wait for a connection. Not used with a pool of your own.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: psycopg is not installed; the database can't be reached; the table can't
            be created or written, or has other columns; only one of `upsert` and `delete` is given.
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
                "tables of your own need both upsert= and delete= to follow the source"
            )
        self._table = table
        self._upsert = upsert
        self._delete = delete
        self._clock = clock
        psycopg = _psycopg()
        self._row_factory = psycopg.rows.tuple_row  # the user's pool can have another
        try:
            # Without a pool of our own: it would only raise that it has no connection, and log why.
            with _connection_to(database, timeout) as connection:
                self._prepare(connection)
        except psycopg.Error as error:
            raise _unusable(table, error) from error
        self._own_pool = isinstance(database, str)
        self._pool = (
            _pool(database, connections, timeout) if isinstance(database, str) else database
        )

    def _prepare(self, connection: Connection[Any]) -> None:
        with connection.transaction():
            # One sink at a time: of two CREATE TABLE IF NOT EXISTS at once, one can fail.
            self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('change_events'))")
            # IF NOT EXISTS would need the permission to create even if the table exists.
            if self._execute(connection, "SELECT to_regclass('{table}')").fetchone() == (None,):
                self._execute(
                    connection,
                    'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, '
                    "version bigint NOT NULL, present boolean NOT NULL, body jsonb, etag text, "
                    "applied_at timestamptz NOT NULL)",
                )
            # A write that changes nothing. It fails now, and not at the first event, if the table
            # can't be written.
            self._execute(
                connection,
                f"INSERT INTO {{table}} ({COLUMNS}) SELECT {COLUMNS} FROM {{table}} WHERE false "
                "ON CONFLICT (id) DO UPDATE SET version = excluded.version",
            )

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        row = self._row("SELECT version, present, etag FROM {table} WHERE id = %s", id)
        return Entry(*row) if row else Entry()

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written, and neither `upsert` nor
            `delete` is called.

        Raises:
            psycopg.Error: The database can't be reached, or refuses the entity: JSONB has no NUL
                character and no lone surrogate.
            TypeError, ValueError: JSON can't hold the entity.
            Exception: `upsert` or `delete` raised it; nothing is written.
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
        store = _UPDATE if if_version else _INSERT
        statement = _TOUCH if isinstance(change, Unchanged) else store
        now = self._clock()
        values = {"id": id, "now": now, "first": first_version(now), "if_version": if_version}
        values |= self._columns(change)
        return self._execute(connection, statement, values).rowcount == 1

    def _columns(self, change: Found[Mapping[str, Any]] | Unchanged | Gone) -> dict[str, Any]:
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
        row = self._row("SELECT body::text FROM {table} WHERE id = %s AND present", id)
        return json.loads(row[0]) if row else None

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over a snapshot of the cached entities, with their ids, in order of the ids.

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
        """Return how many entities are cached; with tables of your own, too."""
        row = self._row("SELECT count(*) FROM {table} WHERE present")
        return int(row[0])

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        before = self._clock() - older_than
        with self._pool.connection() as connection:
            statement = "DELETE FROM {table} WHERE NOT present AND applied_at < to_timestamp(%s)"
            return self._execute(connection, statement, (before,)).rowcount

    def close(self) -> None:
        """Close the connections, unless the pool is yours. A `with` block does so at its end."""
        if self._own_pool:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_bodies(self) -> None:
        if self._upsert is not None:
            raise ConfigurationError(
                "the entities are where upsert= put them, in tables of your own; query those"
            )

    def _row(self, statement: str, *values: str) -> Any:
        with self._pool.connection() as connection:
            return self._execute(connection, statement, values).fetchone()

    def _execute(
        self, connection: Connection[Any], statement: str, values: Any = ()
    ) -> Cursor[Any]:
        # As bytes: psycopg's types accept text only if it is a literal.
        query = statement.format(table=f'"{self._table}"').encode()
        return connection.cursor(row_factory=self._row_factory).execute(query, values)


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg_pool  # noqa: F401  # if it is missing, say so now
    except ImportError as error:
        raise ConfigurationError(
            f"PostgresSink needs psycopg ({error}): pip install 'change-events[postgres]'"
        ) from error
    return psycopg


def _connection_to(
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
        kwargs={"autocommit": True},  # transactions are explicit
        min_size=1,
        max_size=connections,
        timeout=timeout,
        reconnect_timeout=timeout,  # its pauses double: longer ones would outlast the outage
        # Each look costs a round trip more, so that none fails after the server was restarted.
        check=ConnectionPool.check_connection,
        open=True,
    )


def _conninfo(database: str, timeout: float) -> str:
    """Add timeouts that the string does not set, for a server that is gone: defaults are hours."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    seconds = max(2, math.ceil(timeout))  # libpq's minimum
    timeouts = {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": 4 * seconds * 1000,
    }
    return make_conninfo("", **(timeouts | dict(conninfo_to_dict(database))))


def _unusable(table: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the table {table!r} can't be used: {error}. Check the connection string, and that the "
        "role can create the table; or else that the table is as PostgresSink's documentation "
        "shows it, and that the role can read and write it"
    )
