"""A cache in PostgreSQL."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from change_events._event import Found, Unchanged
from change_events.sinks import (
    MAX_EVENT_AGE,
    check_bodies,
    check_hooks,
    check_purge_age,
    check_revision,
    read_each,
    state_key,
)
from change_events.sinks.postgres.entries import Entries
from change_events.sinks.postgres.pool import check_transaction
from change_events.sinks.postgres.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from psycopg import Connection
    from psycopg_pool import ConnectionPool
    from sqlalchemy import URL
    from typing_extensions import Self

    from change_events._event import Entry, Gone

_INSERT_STATE = (
    "INSERT INTO {table} (id, version, present, state, applied_at) "
    "VALUES (%(id)s, 0, false, %(text)s, to_timestamp(%(now)s)) ON CONFLICT (id) DO NOTHING"
)
_UPDATE_STATE = (
    "UPDATE {table} SET state = %(text)s, applied_at = to_timestamp(%(now)s) "
    "WHERE id = %(id)s AND state = %(if_state)s"
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
            digest     text,                 -- equal for equal entities
            revision   text NOT NULL DEFAULT '',  -- the `revision` that stored the entity
            state      text,                 -- NULL, except in a worker's own rows: they have ids
                                             -- that no entity can have
            applied_at timestamptz NOT NULL  -- the time of the last look
        )

    The sink adds columns that the table of an earlier version lacks, if its role owns the table.

    With `upsert` and `delete` the entities are in tables of your own, and `entities` holds the
    rest. The two run in the transaction that raises the version, after it was raised, and only if
    no other look was faster. So both changes happen, or neither. If one raises, everything is
    rolled back, and the look is tried again later. They must not end the transaction. PostgreSQL
    undoes all of it after an error of any statement, so what can fail, and is caught, needs a
    savepoint: `with connection.transaction(): ...`.

    PgBouncer in transaction mode can be in between: the sink prepares no statements on the server.

    A fork can't use the sink of its parent: it gets a `ConfigurationError`. Make a sink in each
    process.

    An event is acknowledged once its look's commit has returned. If the database then loses the
    commit after all (`synchronous_commit = off`, a failover to a replica that was behind), no event
    brings the change back.

    Args:
        database: A connection string (`"postgresql://user@host/name"`, or `"host=...
            dbname=..."`), or an open pool, which you close yourself. A pool should check its
            connections (`check=ConnectionPool.check_connection`): otherwise each connection that
            died with a server makes one look fail. A URL of SQLAlchemy's, as text or a `URL`, will
            do, too: the driver (`postgresql+asyncpg://`) is left out.
        table: The table's name, or `schema.table`. One schema can hold several kinds of entities.
            Without a schema, it is that of the connection's `search_path`.
        upsert: Stores an entity in your tables: `upsert(connection, id, value)`. It must work
            whether the entity exists or not.
        delete: Deletes an entity from your tables: `delete(connection, id)`. It must work whether
            the entity exists or not.
        read: Reads an entity from your tables: `read(connection, id)`, as `upsert` was given it, or
            None. `get` and audits need it; without it audits compare digests.
        revision: Names what your code makes of an entity, `upsert` above all. Give it another text
            when that changes: an entity that was stored under another revision counts as changed at
            its next look, although the source has not changed it.
        connections: The most connections to keep. A look needs one for a statement or two. Not used
            with a pool of your own.
        timeout: The most seconds to wait for a connection. Not used with a pool of your own.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: psycopg is not installed; the database can't be reached; the table can't
            be created or written, or has other columns; there is no such schema; libpq can't read
            the connection string; only one of `upsert` and `delete` is given, or only `read`.
    """

    def __init__(
        self,
        database: str | URL | ConnectionPool[Any],
        *,
        table: str = "entities",
        upsert: Callable[[Connection[Any], str, Mapping[str, Any]], object] | None = None,
        delete: Callable[[Connection[Any], str], object] | None = None,
        read: Callable[[Connection[Any], str], Mapping[str, Any] | None] | None = None,
        revision: str = "",
        connections: int = 10,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_revision(revision)
        check_hooks(upsert, delete, read)
        self._upsert = upsert
        self._delete = delete
        self._read = read
        self._clock = clock
        self._table = Table(database, table, connections, timeout)
        self._entries = Entries(self._table, bodies=upsert is None, revision=revision, clock=clock)

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        return self._entries.entry(id)

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
            RuntimeError: `upsert` or `delete` caught an error of PostgreSQL without a savepoint, so
                nothing is written; or it ended the transaction or the connection.
        """
        upsert, delete = self._upsert, self._delete
        with self._table.connection() as connection:
            if upsert is None or delete is None or isinstance(change, Unchanged):
                # A statement alone is a transaction, and saves the round trips of BEGIN and COMMIT.
                return self._entries.compare_and_set(connection, id, change, if_version)
            with connection.transaction():
                if not self._entries.compare_and_set(connection, id, change, if_version):
                    return False
                if isinstance(change, Found):
                    upsert(connection, id, change.value)
                    check_transaction(connection, "upsert")
                else:
                    delete(connection, id)
                    check_transaction(connection, "delete")
                return True

    def insert_many(self, found: Mapping[str, Found[Mapping[str, Any]]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids. `upsert` is
        called for these. All are stored in one transaction, or none.

        Raises:
            psycopg.Error: As in `apply`; one of the entities can be the reason.
            TypeError, ValueError: JSON can't hold one of the entities.
            Exception: `upsert` raised it; nothing is written.
            RuntimeError: As in `apply`.
        """
        upsert = self._upsert
        with self._table.connection() as connection:
            if upsert is None:
                return self._entries.insert(connection, found)
            with connection.transaction():
                inserted = self._entries.insert(connection, found)
                for id in sorted(inserted):  # one order for all, or they could be a deadlock
                    upsert(connection, id, found[id].value)
                    check_transaction(connection, "upsert")
                return inserted

    def get(self, id: str, /) -> dict[str, Any] | None:
        """
        Return the cached entity, or None. From tables of your own `read` returns it; without `read`
        this is a `ConfigurationError`.
        """
        return self.get_many([id]).get(id)

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """Return those of these entities that are cached, by id. Errors are those of `get`."""
        if self._read is not None:
            with self._table.connection() as connection, connection.transaction():
                return read_each(self._read, ids, connection)
        check_bodies(self._upsert)
        query = "SELECT id, body::text FROM {table} WHERE id = ANY(%s) AND present"
        return {id: json.loads(body) for id, body in self._table.rows(query, list(ids))}

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over a snapshot of the cached entities, with their ids, in order of the ids. With
        tables of your own this is a `ConfigurationError`.
        """
        check_bodies(self._upsert)
        rows = self._table.rows("SELECT id, body::text FROM {table} WHERE present ORDER BY id")
        return ((id, json.loads(body)) for id, body in rows)

    def __len__(self) -> int:
        """Return how many entities are cached; with tables of your own, too."""
        row = self._table.row("SELECT count(*) FROM {table} WHERE present")
        return int(row[0])

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """
        Return up to `limit` ids of cached entities, in order, beginning after `after`; with tables
        of your own, too.
        """
        rows = self._table.rows(
            "SELECT id FROM {table} WHERE present AND id > %s ORDER BY id LIMIT %s",
            after or "",  # less than any id
            limit,
        )
        return [id for (id,) in rows]

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        row = self._table.row("SELECT state FROM {table} WHERE id = %s", state_key(name))
        return row[0] if row else None

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name, durably; or return False if another process has changed it
        since it was `if_state`. It is in a row of the table that is not an entity.
        """
        statement = _INSERT_STATE if if_state is None else _UPDATE_STATE
        values = {
            "id": state_key(name),
            "text": text,
            "now": self._clock(),
            "if_state": if_state,
        }
        with self._table.connection() as connection:
            return self._table.execute(connection, statement, values).rowcount == 1

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        before = self._clock() - older_than
        with self._table.connection() as connection:
            return self._table.execute(
                connection,
                "DELETE FROM {table} "
                "WHERE NOT present AND state IS NULL AND applied_at < to_timestamp(%s)",
                (before,),
            ).rowcount

    def close(self) -> None:
        """Close the connections, unless the pool is yours. A `with` block does so at its end."""
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
