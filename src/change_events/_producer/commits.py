"""Notices a decorated function that leaves the commit of a SQLAlchemy session to its caller."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

log = logging.getLogger("change_events")

_NOTHING: AbstractContextManager[None] = nullcontext()


class CommitCheck:
    """
    Watches calls of one function until it is known whether the commit is inside.

    It looks for a session in the arguments and in their attributes (`self.session`). It never
    imports SQLAlchemy, and stops at the first call that has no session.

    Args:
        name: The function's name.
    """

    def __init__(self, name: str) -> None:
        self.over = False
        self._name = name

    def around(self, arguments: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return what to enter around a call."""
        if self.over or "sqlalchemy.orm" not in sys.modules:
            return _NOTHING
        try:
            session = _session_in(arguments)
        except Exception:  # of any kind: a proxy outside of its request, say
            session = None
        if session is None:
            self.over = True
            return _NOTHING
        return _NOTHING if _calls_listeners(session) else _Watched(self, session)

    def warn(self) -> None:
        """Log, once, that the commit is not inside."""
        if not self.over:
            self.over = True
            log.warning(
                "%s() returned before its SQLAlchemy session committed: the commit must be inside, "
                "or its broadcast can be too old. If a caller commits, remove the decorator and "
                "call change_events.integrations.sqlalchemy.announce",
                self._name,
                extra={"action": "commit", "function": self._name},
            )


class _Watched:
    """Listens to a session during a call."""

    def __init__(self, check: CommitCheck, session: Any) -> None:
        self._check = check
        self._session = session
        self._pending_before = _has_pending(session)
        self._flushed = False
        self._listeners = {"after_flush": self._after_flush, "after_commit": self._after_commit}

    def __enter__(self) -> None:
        for name, listener in self._listeners.items():
            sys.modules["sqlalchemy.event"].listen(self._session, name, listener)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name, listener in self._listeners.items():
            sys.modules["sqlalchemy.event"].remove(self._session, name, listener)
        added = not self._pending_before and _has_pending(self._session)
        if kind is None and (self._flushed or added):
            self._check.warn()

    def _after_flush(self, *_: object) -> None:
        self._flushed = True

    def _after_commit(self, session: Any) -> None:
        if not session.in_nested_transaction():
            self._flushed = False
            self._check.over = True


def _session_in(arguments: Mapping[str, Any]) -> Any:
    """Return the first session, of SQLAlchemy's synchronous kind."""
    orm, asyncio = sys.modules["sqlalchemy.orm"], sys.modules.get("sqlalchemy.ext.asyncio")
    for argument in arguments.values():
        for value in (argument, *getattr(argument, "__dict__", {}).values()):
            kind = type(value)  # not isinstance(), which asks a proxy for its `__class__`
            if asyncio and issubclass(kind, asyncio.AsyncSession):
                return value.sync_session
            if issubclass(kind, orm.scoped_session):
                return value()
            if issubclass(kind, orm.Session):
                return value
    return None


def _calls_listeners(session: Any) -> bool:
    """Return True if a session can be calling its listeners: then it must get no others."""
    transaction = session.get_transaction()
    # Nothing public says whether a session flushes.
    flushing = getattr(session, "_flushing", True)
    return flushing or not (transaction is None or transaction.is_active)


def _has_pending(session: Any) -> bool:
    return bool(session.new or session.dirty or session.deleted)
