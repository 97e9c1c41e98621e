"""A cache in any database that SQLAlchemy knows."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events._extras import missing_extra
from change_events.sinks import (
    MAX_EVENT_AGE,
    check_bodies,
    check_hooks,
    check_purge_age,
    check_revision,
    read_each,
    split_table_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import URL, Connection, Engine
    from typing_extensions import Self


class SQLAlchemySink:
    """
    Keeps JSON objects in a table of a database that SQLAlchemy 2 knows, or entities in tables of
    your own. Threads can share one sink, and processes one table. It needs the extra `sqlalchemy`
    and your database's driver, and is tested with SQLite, PostgreSQL and MariaDB.

    The sink creates the table if there is none (if its user can't, create it in a migration). You
    can query it. In MariaDB:

        CREATE TABLE entities (
            id         varchar(513) COLLATE utf8mb4_nopad_bin PRIMARY KEY,
            version    bigint NOT NULL,    -- grows with every look; begins at the time, in µs
            present    boolean NOT NULL,   -- false if the entity is gone (a tombstone)
            body       longtext,           -- the entity as JSON; NULL if gone, or in your tables
            etag       longtext,
            digest     longtext,           -- equal for equal entities
            revision   longtext NOT NULL,  -- the `revision` that stored the entity
            state      longtext,           -- NULL, except in a worker's own rows: they have ids
                                           -- that no entity can have
            applied_at double NOT NULL     -- the time of the last look, in seconds since the epoch
        ) ENGINE InnoDB CHARSET utf8mb4

    Other databases have their own names for these types. The collation of `id` must tell all ids
    apart, also `a` from `A` and from `a` with a space at its end: `"C"` in PostgreSQL,
    `utf8mb4_0900_bin` in MySQL. The sink tries this when it is made, and refuses a database that
    can't.

    With `upsert` and `delete` the entities are in tables of your own, and `entities` holds the
    rest. The two run in the transaction that raises the version, after it was raised, and only if
    no other look was faster. So both changes happen, or neither. If one raises, everything is
    rolled back, and the look is tried again later. They must not end the transaction, as `CREATE
    TABLE` does in MySQL. After some errors the database undoes all of it, PostgreSQL after any, so
    what can fail, and is caught, needs a savepoint: `with connection.begin_nested(): ...`. A
    transaction that is in a deadlock with another one is tried again at once, so both can be called
    more than once for a look.

    A fork can't use the sink of its parent: it gets a `ConfigurationError`. Make a sink in each
    process.

    An event is acknowledged once its look's commit has returned. If the database then loses the
    commit after all (`innodb_flush_log_at_trx_commit = 2`, a failover to a replica that was
    behind), no event brings the change back.

    Args:
        database: A URL of SQLAlchemy's (`"mysql+pymysql://user@host/name"`), or an `Engine`, which
            you dispose of yourself. An engine should check its connections (`pool_pre_ping=True`):
            otherwise the connections that died with a server make one look fail. One that commits
            each statement is used with its driver's default isolation level.
        table: The table's name, or `schema.table`. One schema can hold several kinds of entities.
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
            with an engine of your own.
        timeout: The most seconds to wait for a connection, and for SQLite's lock. The drivers
            psycopg, psycopg2, PyMySQL and mysqlclient also get timeouts for a server that is gone.
            For the last two that is 60 s for each answer (MySQL waits 50 s for a lock), unless the
            URL says otherwise: `?read_timeout=300`. Not used with an engine of your own.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: SQLAlchemy or the driver is not installed; the driver is asynchronous;
            the database can't be reached, or is SQLite in memory; the table can't be created or
            written, or has other columns; there is no such schema; the database can't roll back,
            confuses ids or cuts texts off, or its connections read what others have not committed;
            only one of `upsert` and `delete` is given, or only `read`.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        table: str = "entities",
        upsert: Callable[[Connection, str, Mapping[str, Any]], object] | None = None,
        delete: Callable[[Connection, str], object] | None = None,
        read: Callable[[Connection, str], Mapping[str, Any] | None] | None = None,
        revision: str = "",
        connections: int = 10,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        split_table_name(table)
        check_revision(revision)
        check_hooks(upsert, delete, read)
        try:
            from change_events.sinks.sqlalchemy.engine import Transactions
            from change_events.sinks.sqlalchemy.entries import Entries
        except ImportError as error:
            raise missing_extra("SQLAlchemySink needs SQLAlchemy 2", "sqlalchemy", error) from error
        self._upsert = upsert
        self._delete = delete
        self._read = read
        self._clock = clock
        self._transactions = Transactions(database, connections, timeout)
        self._entries = Entries(
            self._transactions.prepare(table),
            bodies=upsert is None,
            revision=revision,
            clock=clock,
        )

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        return self._transactions.run(partial(self._entries.entry, id=id))

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written, and neither `upsert` nor
            `delete` is called.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database can't be reached, or refuses the entity.
                Its text has no values of the statement, because one is the entity; but the
                database's own words can quote some.
            TypeError, ValueError: JSON can't hold the entity; the id is too long.
            Exception: `upsert` or `delete` raised it; nothing is written.
            RuntimeError: `upsert` or `delete` caught an error without a savepoint after which the
                database undoes the transaction, so nothing is written; or it ended the transaction
                or the connection.
        """

        def work(connection: Connection) -> bool:
            version = self._entries.compare_and_set(connection, id, change, if_version)
            if version is not None:
                self._follow(connection, id, change, version)
            return version is not None

        return self._transactions.run(work)

    def insert_many(self, found: Mapping[str, Found[Mapping[str, Any]]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids. `upsert` is
        called for these. All are stored in one transaction, or none.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: As in `apply`; one of the entities can be the reason.
            TypeError, ValueError: As in `apply`, for one of the entities.
            Exception: `upsert` raised it; nothing is written.
            RuntimeError: As in `apply`.
        """

        def work(connection: Connection) -> set[str]:
            inserted = self._entries.insert(connection, found)
            for id, version in inserted.items():
                self._follow(connection, id, found[id], version)
            return set(inserted)

        return self._transactions.run(work)

    def get(self, id: str, /) -> dict[str, Any] | None:
        """
        Return the cached entity, or None. From tables of your own `read` returns it; without `read`
        this is a `ConfigurationError`.
        """
        return self.get_many([id]).get(id)

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """Return those of these entities that are cached, by id. See `get`."""
        if self._read is not None:
            return self._transactions.run(partial(read_each, self._read, ids))
        check_bodies(self._upsert)
        bodies = self._transactions.run(partial(self._entries.bodies, ids=ids))
        return {id: json.loads(body) for id, body in bodies}

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over a snapshot of the cached entities, with their ids, in order of the ids. With
        tables of your own this is a `ConfigurationError`.
        """
        check_bodies(self._upsert)
        bodies = self._transactions.run(self._entries.all_bodies)
        return ((id, json.loads(body)) for id, body in bodies)

    def __len__(self) -> int:
        """Return how many entities are cached; with tables of your own, too."""
        return self._transactions.run(self._entries.count)

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """
        Return up to `limit` ids of cached entities, in order, beginning after `after`; with tables
        of your own, too.
        """
        return self._transactions.run(partial(self._entries.ids, after=after, limit=limit))

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        _, text = self._transactions.run(partial(self._entries.state, name=name))
        return text

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name, durably; or return False if another process has changed it
        since it was `if_state`. It is in a row of the table that is not an entity.
        """
        return self._transactions.run(
            partial(self._entries.set_state, name=name, text=text, if_state=if_state)
        )

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long.
        """
        check_purge_age(older_than)
        before = self._clock() - older_than
        purged = 0
        after: str | None = ""
        while after is not None:
            count, after = self._transactions.run(
                partial(self._entries.purge_some, before=before, after=after)
            )
            purged += count
        return purged

    def close(self) -> None:
        """Close the connections, unless the engine is yours. A `with` block does so at its end."""
        self._transactions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(
        self, connection: Connection, id: str, change: Found[Any] | Unchanged | Gone, version: int
    ) -> None:
        """Let the user's tables follow a change."""
        upsert, delete = self._upsert, self._delete
        if upsert is None or delete is None or isinstance(change, Unchanged):
            return
        transaction = connection.get_transaction()
        if isinstance(change, Found):
            hook, digest = "upsert", change.digest
            upsert(connection, id, change.value)
        else:
            hook, digest = "delete", None
            delete(connection, id)
        self._entries.check_hook(connection, transaction, id, (version, digest), hook)
