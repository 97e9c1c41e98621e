"""The sink's table in PostgreSQL, and the connections that statements on it use."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from change_events.exceptions import ConfigurationError
from change_events.sinks import check_process, split_table_name
from change_events.sinks.postgres.pool import (
    borrow,
    connection_to,
    make_pool,
    require_psycopg,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection, Cursor
    from psycopg_pool import ConnectionPool
    from sqlalchemy import URL

LATER_COLUMNS = {"digest": "text", "revision": "text NOT NULL DEFAULT ''", "state": "text"}
"""Columns that the tables of version 0.1.0 lack, and their types."""

COLUMNS = f"id, version, present, body, etag, {', '.join(LATER_COLUMNS)}, applied_at"


class Table:
    """
    Runs statements on a table, `{table}` in them, and creates it if there is none.

    Args and errors are those of `PostgresSink`.
    """

    def __init__(
        self,
        database: str | URL | ConnectionPool[Any],
        name: str,
        connections: int,
        timeout: float,
    ) -> None:
        self._schema, _ = parts = split_table_name(name)
        self._name = name
        self._quoted = ".".join(f'"{part}"' for part in parts if part)
        self._pid = os.getpid()
        psycopg = require_psycopg()
        database = text_of(database)
        self._row_factory = psycopg.rows.tuple_row  # the user's pool can have another
        try:
            # Without a pool of our own: it would only raise that it has no connection, and log why.
            with connection_to(database, timeout) as connection:
                self._prepare(connection)
        except psycopg.Error as error:
            raise _unusable(name, error) from error
        self._own_pool = isinstance(database, str)
        self._pool = (
            make_pool(database, connections, timeout) if isinstance(database, str) else database
        )

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """Lend a connection that commits each statement, unless it is in a transaction."""
        check_process(self._pid, "PostgresSink")
        with self._pool.connection() if self._own_pool else borrow(self._pool) as connection:
            yield connection

    def execute(self, connection: Connection[Any], statement: str, values: Any = ()) -> Cursor[Any]:
        """Execute a statement."""
        # As bytes: psycopg's types accept text only if it is a literal.
        query = self._named(statement).encode()
        return connection.cursor(row_factory=self._row_factory).execute(query, values)

    def row(self, statement: str, *values: object) -> Any:
        """Return the first row, or None."""
        with self.connection() as connection:
            return self.execute(connection, statement, values).fetchone()

    def rows(self, statement: str, *values: object) -> list[Any]:
        """Return all rows."""
        with self.connection() as connection:
            return self.execute(connection, statement, values).fetchall()

    def close(self) -> None:
        """Close the connections, unless the pool is the user's, or the parent's of this fork."""
        if self._own_pool and self._pid == os.getpid():
            self._pool.close()

    def _prepare(self, connection: Connection[Any]) -> None:
        with connection.transaction():
            # One sink at a time: of two CREATE TABLE IF NOT EXISTS at once, one can fail.
            self.execute(connection, "SELECT pg_advisory_xact_lock(hashtext('change_events'))")
            # IF NOT EXISTS would need the permission to create even if the table exists.
            if self.execute(connection, "SELECT to_regclass('{table}')").fetchone() == (None,):
                self._require_schema(connection)
                later = "".join(f"{name} {kind}, " for name, kind in LATER_COLUMNS.items())
                self.execute(
                    connection,
                    'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, '
                    "version bigint NOT NULL, present boolean NOT NULL, body jsonb, etag text, "
                    f"{later}applied_at timestamptz NOT NULL)",
                )
            self._add_columns(connection)
            # A write that changes nothing. It fails now, and not at the first event, if the table
            # can't be written.
            self.execute(
                connection,
                f"INSERT INTO {{table}} ({COLUMNS}) SELECT {COLUMNS} FROM {{table}} WHERE false "
                "ON CONFLICT (id) DO UPDATE SET version = excluded.version",
            )

    def _require_schema(self, connection: Connection[Any]) -> None:
        query = "SELECT to_regnamespace(%s)"
        if self._schema and self.execute(connection, query, (f'"{self._schema}"',)).fetchone() == (
            None,
        ):
            raise ConfigurationError(
                f"the table {self._name!r} can't be created, because there is no schema "
                f"{self._schema!r}. Create it first, in a migration"
            )

    def _add_columns(self, connection: Connection[Any]) -> None:
        rows = self.execute(
            connection,
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = '{table}'::regclass AND NOT attisdropped",
        )
        present = {name for (name,) in rows}
        missing = [
            f"ADD COLUMN {name} {kind}"
            for name, kind in LATER_COLUMNS.items()
            if name not in present
        ]
        if not missing:
            return
        statement = f"ALTER TABLE {{table}} {', '.join(missing)}"
        try:
            self.execute(connection, statement)
        except require_psycopg().Error as error:
            raise ConfigurationError(
                f"the table {self._name!r} lacks columns, and this role can't add them: {error}. "
                f"Let a role that can run {self._named(statement)}"
            ) from error

    def _named(self, statement: str) -> str:
        return statement.format(table=self._quoted)


def _unusable(table: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the table {table!r} can't be used: {error}. Check the connection string, and that the "
        "role can create the table; or else that the table is as PostgresSink's documentation "
        "shows it, and that the role can read and write it"
    )
