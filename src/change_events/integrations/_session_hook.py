"""
What broadcasts ids for a session of SQLAlchemy, at which of its events.

**Which rows count.** Mapper events name each row that a flush inserts, changes or deletes, with ORM
cascades. They come inside the flush, so ids that the database makes are known. But a deleted row
whose primary key a new row gets has no event: the new row's one counts for both. `_flushes.py` has
what else these events don't tell.

**When ids are broadcast.** In `before_commit` of the outermost transaction, after a flush. If that
fails, `commit()` raises, and the transaction is still open: it can be rolled back, or committed
again. Other listeners can flush later, so from then on each flush broadcasts what it adds. The
engine's commit event would come too late: if it raises, the connection commits the rows with its
next transaction.

**Which commit it is.** `before_commit` comes for a savepoint that is released, too. While a
savepoint is open, the event is the savepoint's; but if an outer transaction is committed meanwhile,
it comes a second time.

**How long ids are broadcast again.** Until `after_transaction_end` of the outermost transaction. If
that did not commit although its commit had begun, the database can still do it (perhaps its answer
was lost), so this counts as a save that was cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, event, inspect
from sqlalchemy.orm import FromStatement, object_session
from sqlalchemy.sql.expression import UpdateBase
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from change_events.exceptions import ConfigurationError, IdResolutionError
from change_events.integrations._flushes import FlushedRows
from change_events.integrations._row_ids import is_modified, table_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import (
        InstanceState,
        Mapper,
        ORMExecuteState,
        Session,
        SessionTransaction,
        UOWTransaction,
    )

    from change_events._producer.broadcasting import _AnnouncedSave
    from change_events.integrations._row_ids import RowIds


COMMITS = "change_events_commits"
"""Where a connection notes that its driver commits each statement."""


@dataclass(slots=True, eq=False)
class Work:
    """
    What a hook knows of a session's outermost transaction.

    Attributes:
        ids: The ids to broadcast, in the order in which they were first found.
        announced: The ids that were broadcast.
        saves: The broadcasts, which are renewed until the transaction is over.
        marks: For each savepoint, the number of `ids` when it began.
        committing: The commit has begun.
        releasing: The savepoint for which `before_commit` came last.
        committed: The transaction or savepoint that was committed last.
        flush: The flush that has begun, until its transaction begins.
        bulk: Something other than a flush has begun such a transaction.
        touched: The rows that a flush has found unchanged, each with what reads its ids. Listeners
            can change them before the flush goes on.
    """

    ids: dict[str, None] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    saves: list[_AnnouncedSave] = field(default_factory=list)
    marks: dict[SessionTransaction, int] = field(default_factory=dict)
    committing: bool = False
    releasing: SessionTransaction | None = None
    committed: SessionTransaction | None = None
    flush: UOWTransaction | None = None
    bulk: bool = False
    touched: set[tuple[RowIds, InstanceState[Any]]] = field(default_factory=set)

    def add(self, ids: Iterable[str]) -> None:
        """Note ids to broadcast."""
        self.ids.update(dict.fromkeys(id for id in ids if id not in self.announced))

    def roll_back(self, savepoint: SessionTransaction) -> None:
        """Forget the ids that were first noted since a savepoint began."""
        known = len(self.ids)  # of a savepoint that began before the session was announced: all
        while len(self.ids) > self.marks.get(savepoint, known):
            self.ids.popitem()


class Hook:
    """
    Listens to sessions and to the rows that they flush.

    Args:
        rows: What reads the ids of rows, one for each class.
        around_save: Makes what broadcasts ids.
    """

    def __init__(
        self, rows: list[RowIds], around_save: Callable[[Iterable[str]], _AnnouncedSave]
    ) -> None:
        self._rows = rows
        self._flushed_rows = FlushedRows(rows)
        self._around_save = around_save

    def listen(self, sessions: Any) -> None:
        """Listen from now on to a target of session events, and to the classes of rows."""
        for name in (
            "after_transaction_create",
            "after_begin",
            "before_flush",
            "after_flush",
            "do_orm_execute",
            "before_commit",
            "after_commit",
            "after_transaction_end",
        ):
            event.listen(sessions, name, getattr(self, f"_{name}"))
        for row_ids in self._rows:
            _RowListener(self, row_ids).listen()

    def rows_of(self, mapped: type[Any]) -> list[RowIds]:
        """Return what reads the ids of rows of a class."""
        return [each for each in self._rows if issubclass(mapped, each.mapped)]

    def note(self, session: Session, ids: Iterable[str]) -> None:
        """Note ids to broadcast, or broadcast them now if the commit has begun."""
        work = self._work(session)
        work.add(ids)
        if work.committing:
            self._broadcast(work)

    def work_of(self, row: Any) -> Work | None:
        """Return the work of a row's session; None if this hook does not listen to it."""
        session = object_session(row)
        return session.info.get(self) if session else None

    def _work(self, session: Session) -> Work:
        work: Work | None = session.info.get(self)
        if work is None:
            work = session.info[self] = Work()
        return work

    def _after_transaction_create(self, session: Session, transaction: SessionTransaction) -> None:
        work = self._work(session)
        if transaction.nested:
            work.marks[transaction] = len(work.ids)
        elif transaction.parent is not None:
            # A flush that another listener has stopped has no work yet, and begins nothing.
            is_flush = work.flush is not None and work.flush.has_work
            work.bulk = work.bulk or not is_flush
            work.flush = None

    def _after_begin(
        self, _: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        if not transaction.nested:  # now, because a savepoint looks like a transaction
            connection.info[COMMITS] = _driver_commits(connection)

    def _before_flush(self, session: Session, flush: UOWTransaction, _: object) -> None:
        self._work(session).flush = flush

    def _after_flush(self, session: Session, flush: UOWTransaction) -> None:
        self.note(session, self._flushed_rows.ids(flush))

    def _do_orm_execute(self, execution: ORMExecuteState) -> None:
        statement = execution.statement
        if isinstance(statement, FromStatement):
            statement = statement.element
        if not isinstance(statement, UpdateBase):
            return
        tables = table_names(statement.table)
        for row_ids in self._rows:
            if tables & row_ids.table_names() and (ids := _named(execution, row_ids)):
                session = execution.session
                require_transaction(session.connection(bind_arguments=execution.bind_arguments))
                self.note(session, ids)

    def _before_commit(self, session: Session) -> None:
        work = self._work(session)
        if work.bulk:  # to raise earlier would leave a session of SQLAlchemy 2.0 unusable
            raise IdResolutionError(
                "this transaction has called bulk_save_objects(), bulk_insert_mappings() or "
                "bulk_update_mappings(), which do not flush, so nothing says whose ids to "
                "broadcast. Roll it back, and use add_all(), or execute(insert(...)) with "
                "execution_options={'announce': [...]}"
            )
        savepoint = session.get_nested_transaction()
        if savepoint is not None and savepoint is not work.releasing:
            work.releasing = savepoint
            return
        session.flush()
        self._broadcast(work)
        work.committing = True

    def _after_commit(self, session: Session) -> None:
        committed = session.get_nested_transaction() or session.get_transaction()
        self._work(session).committed = committed

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is not None and not transaction.nested:
            return
        work = self._work(session)
        committed = work.committed is transaction
        if transaction.nested:
            if not committed:
                work.roll_back(transaction)
        else:
            del session.info[self]
            error = None if committed else TimeoutError("the commit has not returned")
            with ExitStack() as stack:  # all of them end, even if one raises
                for save in work.saves:
                    stack.callback(_end, save, error)

    def _broadcast(self, work: Work) -> None:
        if work.ids:
            save = self._around_save(work.ids)
            if _in_event_loop():
                await_only(save.__aenter__())
            else:
                save.__enter__()
            work.saves.append(save)
            work.announced.update(work.ids)
            work.ids.clear()


@dataclass(frozen=True, slots=True)
class _RowListener:
    """Listens to the rows of one class, for a hook."""

    hook: Hook
    row_ids: RowIds

    def listen(self) -> None:
        # Of all classes of the inheritance: a row of one can replace a row of another.
        base = inspect(self.row_ids.mapped).base_mapper
        event.listen(base, "before_insert", self.before_insert, propagate=True)
        for name in (
            "after_insert",
            "before_update",
            "after_update",
            "before_delete",
        ):
            event.listen(self.row_ids.mapped, name, getattr(self, name), propagate=True)

    def before_insert(self, mapper: Mapper[Any], connection: Connection, row: Any) -> None:
        if work := self.hook.work_of(row):
            replaced = _replaced(mapper, row)
            for each in (row, replaced):
                if isinstance(each, self.row_ids.mapped):
                    require_transaction(connection)
            if isinstance(replaced, self.row_ids.mapped):
                work.add(self.row_ids.before(replaced, connection))

    def after_insert(self, _: Mapper[Any], __: Connection, row: Any) -> None:
        if work := self.hook.work_of(row):
            work.add(self.row_ids.now(row, required=True))

    def before_update(self, _: Mapper[Any], connection: Connection, row: Any) -> None:
        if work := self.hook.work_of(row):
            if is_modified(row):
                require_transaction(connection)
                work.add(self.row_ids.before(row, connection))
            else:
                work.touched.add((self.row_ids, inspect(row)))

    def after_update(self, _: Mapper[Any], connection: Connection, row: Any) -> None:
        if work := self.hook.work_of(row):
            touched = (self.row_ids, inspect(row))
            if touched in work.touched:
                work.touched.remove(touched)
                if not is_modified(row):
                    return
                work.add(self.row_ids.before(row, connection))
            work.add(self.row_ids.now(row))

    def before_delete(self, _: Mapper[Any], connection: Connection, row: Any) -> None:
        if work := self.hook.work_of(row):
            require_transaction(connection)
            work.add(self.row_ids.before(row, connection))


def _replaced(mapper: Mapper[Any], row: Any) -> Any:
    """Return the deleted row whose primary key a new row has; None if there is none."""
    if not vars(row).keys() >= _primary_key(mapper):
        return None  # the database makes it
    known = cast("Session", object_session(row)).identity_map
    return known.get(mapper.identity_key_from_instance(row))


@cache
def _primary_key(mapper: Mapper[Any]) -> set[str]:
    return {mapper.get_property_by_column(each).key for each in mapper.primary_key}


def require_transaction(connection: Connection) -> None:
    """Refuse a connection that commits each statement, because no broadcast would come first."""
    # Nothing public says so without asking the database.
    autocommits = getattr(connection, "_is_autocommit_isolation", bool)()
    if autocommits or connection.info.get(COMMITS):
        raise ConfigurationError(
            "this session's connection has the isolation level AUTOCOMMIT, or its driver was told "
            "to commit each statement, so rows are saved before they can be broadcast. Use another "
            "one for sessions that are announced"
        )


def _driver_commits(connection: Connection) -> bool:
    """Return True if the driver was told to commit each statement, as far as SQLAlchemy can see."""
    pooled = connection.connection
    try:
        commits = connection.dialect.detect_autocommit_setting(pooled.dbapi_connection)  # type: ignore[arg-type]  # it is open
    except (AttributeError, NotImplementedError):  # before SQLAlchemy 2.0.43, or another dialect
        return False
    # If BEGIN is sent by hand, as SQLAlchemy's page on SQLite says, the driver was told so, too.
    return commits and not getattr(pooled.driver_connection, "in_transaction", False)


def require_transactions(session: Session) -> None:
    """Refuse a session that has such a connection now."""
    # Nothing public names a session's connections. To ask for one would connect.
    for each in getattr(session.get_transaction(), "_connections", ()):
        if isinstance(each, Connection):
            require_transaction(each)


def _end(save: _AnnouncedSave, error: Exception | None) -> None:
    kind = type(error) if error else None
    if _in_event_loop():
        await_only(save.__aexit__(kind, error))
    else:
        save.__exit__(kind, error)


def _in_event_loop() -> bool:
    """Return True if this runs in a greenlet that SQLAlchemy has started for an event loop."""
    return "sqlalchemy.ext.asyncio" in sys.modules and in_greenlet()


def _named(execution: ORMExecuteState, row_ids: RowIds) -> list[str]:
    """Return the ids that a statement names."""
    ids = execution.execution_options.get("announce")
    if ids is False:
        return []
    if ids is None or isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise IdResolutionError(
            f"a statement changes rows of {row_ids.mapped.__name__} without a flush, so nothing "
            "says whose ids to broadcast. Name them, .execution_options(announce=[...]), or say "
            f"that no consumer needs to know, announce=False; announce={ids!r} is neither"
        )
    return [row_ids.checked(id) for id in ids]
