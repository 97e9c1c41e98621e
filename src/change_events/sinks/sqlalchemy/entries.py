"""The entries of entities in a database of SQLAlchemy's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from change_events._event import Found, Gone, Unchanged
from change_events._ids import MAX_ID_LENGTH
from change_events.sinks import entry_of, first_version, state_key
from change_events.sinks.sqlalchemy.engine import is_conflict
from change_events.sinks.sqlalchemy.table import KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Connection, Table
    from sqlalchemy.engine import RootTransaction

    from change_events._event import Entry

AT_ONCE = 500
"""The most parameters of a statement: databases limit them, some to a thousand."""


class Entries:
    """
    Reads entries, and writes them if they are as they were read.

    Args:
        table: Where they are.
        bodies: Store the entities, too. False: they are in tables of the user's own.
        revision: As in `SQLAlchemySink`.
        clock: As in `SQLAlchemySink`.
    """

    def __init__(
        self, table: Table, *, bodies: bool, revision: str, clock: Callable[[], float]
    ) -> None:
        columns = table.c
        self._table = table
        self._bodies = bodies
        self._revision = revision
        self._clock = clock
        self._insert = insert(table)
        key = columns.id == bindparam("key")
        self._update = update(table).where(key, columns.version == bindparam("if_version"))
        self._entry = select(
            columns.revision, columns.version, columns.present, columns.etag, columns.digest
        ).where(key)
        self._state = select(columns.version, columns.state).where(key)
        among = columns.id.in_(bindparam("keys", expanding=True))
        self._known = select(columns.id).where(among)
        all_bodies = select(columns.id, columns.body).where(columns.present)
        self._bodies_of = all_bodies.where(among)
        self._all_bodies = all_bodies.order_by(columns.id)

    def entry(self, connection: Connection, id: str) -> Entry:
        """Return what is known of the id."""
        return entry_of(connection.execute(self._entry, {"key": id}).one_or_none(), self._revision)

    def compare_and_set(
        self,
        connection: Connection,
        id: str,
        change: Found[Mapping[str, Any]] | Unchanged | Gone,
        if_version: int,
    ) -> int | None:
        """Write the change; return the new version, or None if the version is another."""
        columns = {"applied_at": self._clock(), **self._columns(change)}
        if if_version:
            return self._set(connection, id, if_version, columns)
        if isinstance(change, Unchanged):
            return None
        version = first_version(columns["applied_at"])
        return version if self._add(connection, {id: {"version": version, **columns}}) else None

    def insert(
        self, connection: Connection, found: Mapping[str, Found[Mapping[str, Any]]]
    ) -> dict[str, int]:
        """Write those that have no entry; return their new versions."""
        now = self._clock()
        version = first_version(now)
        # In one order for all: transactions that wait for each other would be a deadlock.
        left = {
            id: {"version": version, "applied_at": now, **self._columns(found[id])}
            for id in sorted(found)
        }
        while left:
            known = self._known_of(connection, left)
            left = {id: columns for id, columns in left.items() if id not in known}
            # Others can add some of them now. Each time they do, fewer are left.
            if left and self._add(connection, left):
                break
        return dict.fromkeys(left, version)

    def check_hook(
        self,
        connection: Connection,
        transaction: RootTransaction | None,
        id: str,
        written: tuple[int, str | None],
        hook: str,
    ) -> None:
        """
        Refuse to report a success if COMMIT would not commit what the hook has done.

        Args:
            connection: The one that the hook has used.
            transaction: Its transaction before that.
            id: The entity's id.
            written: The version and the digest that were written in that transaction. If it is
                undone, another look can write the same version, of something else.
            hook: The hook's name.
        """
        if connection.closed or connection.get_transaction() is not transaction:
            raise RuntimeError(
                f"{hook} must leave its transaction and the connection open. Don't commit, roll "
                "back or close there"
            )
        try:
            entry = self.entry(connection, id)
        except DBAPIError as error:
            if error.connection_invalidated or is_conflict(error):
                raise
            raise _undone(hook) from error
        if (entry.version, entry.digest) != written:
            raise _undone(hook)

    def state(self, connection: Connection, name: str) -> tuple[int, str | None]:
        """Return the version and the text of a state; 0 and None if there is none."""
        row = connection.execute(self._state, {"key": state_key(name)}).one_or_none()
        return (0, None) if row is None else (row.version, row.state)

    def set_state(self, connection: Connection, name: str, text: str, if_state: str | None) -> bool:
        """Store a text; return False if the stored one is not `if_state`."""
        # Texts are compared here, because a collation can take different ones for the same.
        version, stored = self.state(connection, name)
        connection.rollback()  # see `_known_of`
        if stored != if_state:
            return False
        key, columns = state_key(name), {"state": text, "applied_at": self._clock()}
        if version:
            return self._set(connection, key, version, columns) is not None
        new = {"version": 1, "present": False, "revision": ""}
        return self._add(connection, {key: {**new, **columns}})

    def bodies(self, connection: Connection, ids: Iterable[str]) -> list[tuple[str, str]]:
        """Return the ids and the bodies of those that are present."""
        return [
            (row.id, row.body)
            for keys in portions(ids)
            for row in connection.execute(self._bodies_of, {"keys": keys})
        ]

    def all_bodies(self, connection: Connection) -> list[tuple[str, str]]:
        """Return the ids and the bodies of all that are present, in order of the ids."""
        return [(row.id, row.body) for row in connection.execute(self._all_bodies)]

    def count(self, connection: Connection) -> int:
        """Return how many are present."""
        present = select(func.count()).where(self._table.c.present)
        return connection.execute(present).scalar_one()

    def ids(self, connection: Connection, after: str | None, limit: int) -> list[str]:
        """Return the ids of those that are present, in order, beginning after `after`."""
        columns = self._table.c
        present = select(columns.id).where(columns.present).order_by(columns.id).limit(limit)
        return list(
            connection.scalars(present if after is None else present.where(columns.id > after))
        )

    def purge_some(
        self, connection: Connection, before: float, after: str
    ) -> tuple[int, str | None]:
        """
        Delete some tombstones whose last look was before a time. They are named: MySQL would lock
        each row that it only compares, until the end.

        Returns:
            How many; and the last id, to go on after. None: there are no more.
        """
        columns = self._table.c
        is_old = and_(~columns.present, columns.state.is_(None), columns.applied_at < before)
        page = select(columns.id).where(columns.id > after, is_old).order_by(columns.id)
        ids = list(connection.scalars(page.limit(AT_ONCE)))
        connection.rollback()  # see `_known_of`
        if not ids:
            return 0, None
        statement = delete(self._table).where(columns.id.in_(ids), is_old)
        return connection.execute(statement).rowcount, ids[-1]

    def _set(
        self, connection: Connection, key: str, if_version: int, columns: Mapping[str, Any]
    ) -> int | None:
        """Change a row; return the new version, or None if the version is another."""
        version = if_version + 1
        values = {"key": key, "if_version": if_version, "version": version, **columns}
        return version if connection.execute(self._update, values).rowcount == 1 else None

    def _add(self, connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> bool:
        """Add all rows, by their ids; or none, and return False, if one of them is there."""
        try:
            connection.execute(
                self._insert, [{"id": _checked(id), **row} for id, row in rows.items()]
            )
        except IntegrityError:
            connection.rollback()
            if not self._known_of(connection, rows):
                raise  # it was for another reason
            return False
        return True

    def _known_of(self, connection: Connection, ids: Iterable[str]) -> set[str]:
        """Return those of the ids that have a row."""
        known = {
            id for keys in portions(ids) for id in connection.scalars(self._known, {"keys": keys})
        }
        # SQLite refuses to write in a transaction that has read what others have changed since.
        connection.rollback()
        return known

    def _columns(self, change: Found[Mapping[str, Any]] | Unchanged | Gone) -> dict[str, Any]:
        if isinstance(change, Unchanged):
            return {} if change.etag is None else {"etag": change.etag}
        columns: dict[str, Any] = {"present": False, "body": None, "etag": None, "digest": None}
        if isinstance(change, Found):
            columns |= {"present": True, "etag": change.etag, "digest": change.digest}
            if self._bodies:
                columns["body"] = json.dumps(change.value, allow_nan=False)
        return {"revision": self._revision, **columns}


def portions(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield the ids in lists that a statement can have as parameters."""
    all_ids = list(ids)
    return (all_ids[at : at + AT_ONCE] for at in range(0, len(all_ids), AT_ONCE))


def _checked(key: str) -> str:
    """Refuse a key that is too long: a database can cut it off, and take it for another."""
    if len(key) > KEY_LENGTH:
        raise ValueError(
            f"the id {key[:20]!r}... has {len(key)} characters, and at most {MAX_ID_LENGTH} fit"
        )
    return key


def _undone(hook: str) -> RuntimeError:
    return RuntimeError(
        f"{hook} caught an error after which the database undoes the whole transaction, or ended "
        "the transaction: nothing was stored. Put a savepoint around what can fail, inside the "
        "try: with connection.begin_nested(): ... A deadlock must not be caught at all"
    )
