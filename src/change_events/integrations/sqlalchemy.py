"""Broadcast what sessions of SQLAlchemy commit, before they commit it."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.orm import Session, scoped_session, sessionmaker

from change_events._event import DEFAULT_SETTLE
from change_events._producer.broadcasting import _AnnouncedSave
from change_events._producer.checks import require_publisher, require_settings
from change_events.exceptions import ConfigurationError, IdResolutionError
from change_events.integrations._row_ids import RowIds
from change_events.integrations._session_hook import Hook, require_transactions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

    from change_events._producer.renewals import OnUnsettled, Renewals
    from change_events.integrations._row_ids import IdOf
    from change_events.typing import Publisher

    Sessions: TypeAlias = (
        type[Session]
        | sessionmaker[Any]
        | scoped_session[Any]
        | async_sessionmaker[Any]
        | async_scoped_session[Any]
    )
    AnySession: TypeAlias = Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any]

__all__ = ["announce", "announce_ids"]


def announce(
    sessions: Sessions,
    publisher: Publisher,
    types: Mapping[type[Any], IdOf],
    *,
    settle: float = DEFAULT_SETTLE,
    confirm: bool = False,
    on_unsettled: OnUnsettled | None = None,
    renewals: Renewals | None = None,
) -> None:
    """
    Let sessions broadcast the ids of what they save, before each commit.

        announce(Session, publisher, {Product: "id", OrderLine: lambda line: line.order_id})

    No broadcast, no commit: if the publisher raises, `commit()` raises, and nothing is committed;
    roll back, or commit again. From the broadcast until the transaction is over, its ids are
    broadcast again whenever half of `settle` has passed. In an asynchronous session the event loop
    goes on meanwhile. If a commit fails, the database can still have done it, so its ids are
    broadcast for some time longer, like those of a `broadcasting` that was cancelled.

    Call it once, where the factory is made. Call it again for classes with another publisher.

    It counts what a flush inserts, deletes or really changes, in a row or in a collection of it,
    with ORM cascades. A row that moves counts for the entity that it leaves, too. The ids of a
    savepoint that is rolled back are forgotten. Rows of another class with the same table are
    refused: announce it, too.

    A flush is all that a session sees. So `insert()`, `update()` and `delete()` of these classes'
    tables, secondary ones included, are refused, unless they name the ids,
    `execution_options(announce=[...])`, or say that no consumer needs to know, `announce=False`. A
    commit after a `bulk_...()` method is refused. For the rest (SQL as text or through a
    connection, `ON DELETE CASCADE`, triggers) call `announce_ids`.

    Args:
        sessions: A `Session` class, a `sessionmaker`, a `scoped_session`, an `async_sessionmaker`
            or an `async_scoped_session`. Asynchronous sessions that exist already, or get another
            `sync_session_class` later, don't count.
        publisher: What broadcasts.
        types: For each class, where a row has its entity's id: the path of an attribute, or a
            function of the row. Subclasses count, too. The function can return a list of ids, or an
            empty one. It runs within the flush, and is not given the row itself but a view of it,
            now or as it was at the last flush. A function that follows a relationship can cause
            queries.
        settle: The settle window in seconds. This and the next three are as for `broadcasting`.
        confirm: Broadcast a second time after the commit.
        on_unsettled: Called if a commit took too long or failed, and the broadcast after it failed,
            too.
        renewals: What broadcasts slow commits again.

    Raises:
        ConfigurationError: `sessions` does not make sessions; `publisher` is not one; `types` is
            empty, or has a class that is not mapped or has no such attribute; `settle` is out of
            its range. At a flush: the connection commits each statement (AUTOCOMMIT).
        IdResolutionError: At a flush: a new row has no id, an id is unusable, or a row of another
            class with the same table has changed. At a statement: it names no ids. At the commit: a
            `bulk_...()` method was called.
        PublishError: At the commit: the broadcast was not accepted, or too slowly.
    """
    require_publisher(publisher)
    require_settings(settle, on_unsettled)
    if not types:
        raise ConfigurationError("announce(sessions, publisher, types): types is empty")
    rows = [RowIds(mapped, source) for mapped, source in types.items()]

    around_save = partial(
        _AnnouncedSave,
        publisher,
        settle=settle,
        confirm=confirm,
        on_unsettled=on_unsettled,
        renewals=renewals,
    )
    Hook(rows, around_save).listen(_synchronous(sessions))


def announce_ids(session: AnySession, mapped: type[Any], ids: Iterable[object]) -> None:
    """
    Let a session broadcast ids before its next commit, for changes that it can't see.

        ids = session.scalars(text("UPDATE products SET price = 2 RETURNING id"))
        announce_ids(session, Product, ids)

    If the transaction is rolled back, they are forgotten.

    Args:
        session: The session that commits the changes.
        mapped: The class whose publishers broadcast the ids: one of `types`, or a subclass.
        ids: The ids of the entities.

    Raises:
        ConfigurationError: The class is not announced for this session; or a connection of it
            commits each statement (AUTOCOMMIT).
        IdResolutionError: An id is unusable; or `ids` is text.
    """
    synchronous: Any = session
    if isinstance(session, (scoped_session, *_asynchronous("async_scoped_session"))):
        synchronous = synchronous()
    synchronous = getattr(synchronous, "sync_session", synchronous)
    if not synchronous.in_transaction():
        synchronous.begin()  # which tells the hooks of the session
    found = [
        (hook, row_ids)
        for hook in synchronous.info
        if isinstance(hook, Hook)
        for row_ids in hook.rows_of(mapped)
    ]
    if not found:
        raise ConfigurationError(
            f"{mapped!r} is not announced for this session. Call announce(...) with the class, and "
            "with what makes the session, before the session begins"
        )
    if isinstance(ids, (str, bytes)):
        raise IdResolutionError(f"announce_ids() needs a list of ids, not {ids!r}")
    require_transactions(synchronous)
    ids = list(ids)
    for hook, row_ids in found:
        hook.note(synchronous, [row_ids.checked(id) for id in ids])


def _asynchronous(name: str) -> tuple[Any, ...]:
    """Return SQLAlchemy's class of this name for asynchronous sessions; none if not imported."""
    module = sys.modules.get("sqlalchemy.ext.asyncio")  # not imported here: that needs greenlet
    return (getattr(module, name),) if module else ()


def _synchronous(sessions: Any) -> Any:
    """Return what session events can be listened to at."""
    if isinstance(sessions, _asynchronous("async_scoped_session")):
        sessions = sessions.session_factory
    # Before `async_sessionmaker` there was `sessionmaker(class_=AsyncSession)`.
    makers: Any = (sessionmaker, *_asynchronous("async_sessionmaker"))
    if isinstance(sessions, makers) and issubclass(sessions.class_, _asynchronous("AsyncSession")):
        made = sessions.kw.get("sync_session_class", sessions.class_.sync_session_class)
        if isinstance(made, type):  # one of its own, because other factories can have the same
            made = type(made.__name__, (made,), {})
            sessions.configure(sync_session_class=made)
        return made
    if isinstance(sessions, (sessionmaker, scoped_session)) or (
        isinstance(sessions, type) and issubclass(sessions, Session)
    ):
        return sessions
    raise ConfigurationError(
        f"announce(sessions, ...): {sessions!r} is not a Session class, a sessionmaker, a "
        "scoped_session, an async_sessionmaker or an async_scoped_session (of an AsyncSession "
        "class, give the sync_session_class)"
    )
