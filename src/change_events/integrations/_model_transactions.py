"""
What a transaction of Django has changed, and its broadcast before the commit.

Django has no hook before a commit, so `atomic()` gets one. The outermost `atomic()`
broadcasts at its end, inside: if that fails, Django rolls back as after any exception. Until the
commit has returned, the broadcast is renewed.

Django's `TestCase` wraps each test in `atomic()`. For `durable=True` these blocks don't count, and
here they don't either: the next one inside broadcasts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, cast

from django.db import IntegrityError, transaction

from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from change_events._producer.broadcasting import _AnnouncedSave
    from change_events.integrations._model_ids import AroundSave, ModelIds

_NAME = "_change_events_work"
"""The attribute of a connection that has its `Work`."""


class Work:
    """What a transaction is to broadcast before its commit."""

    def __init__(self) -> None:
        self._ids: dict[AroundSave, dict[str, None]] = {}
        self._rows: dict[ModelIds, dict[object, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._ids or self._rows)

    def add(self, around_save: AroundSave, ids: Iterable[str]) -> None:
        """Note ids."""
        self._ids.setdefault(around_save, {}).update(dict.fromkeys(ids))

    def read_later(self, row_ids: ModelIds, keys: Iterable[object]) -> None:
        """Note rows whose ids are those that they have before the commit."""
        self._rows.setdefault(row_ids, {}).update(dict.fromkeys(keys))

    def broadcast(self, using: str, saves: list[_AnnouncedSave]) -> None:
        """Broadcast, and append what is to be ended when the commit has returned."""
        for row_ids, keys in self._rows.items():
            self.add(row_ids.around_save, row_ids.of_rows(keys, using))
        for around_save, ids in self._ids.items():
            save = around_save(ids)
            save.__enter__()
            saves.append(save)


def work_of(connection: Any) -> Work:
    """
    Return the work of a connection's transaction.

    Raises:
        ConfigurationError: Nobody would broadcast it.
    """
    work: Work | None = getattr(connection, _NAME, None)
    if work is None:
        raise ConfigurationError(
            "this atomic() began before the first model was announced, so its end does not "
            "broadcast. Import your models before a transaction begins"
        )
    return work


def in_own_transaction(connection: Any) -> bool:
    """Return True if a transaction is open, other than one that a `TestCase` has begun."""
    return not _only_test_cases(connection.atomic_blocks)


def require_autocommit(connection: Any) -> None:
    """
    Refuse transactions that are not those of `atomic()`.

    Raises:
        ConfigurationError: The connection does not autocommit outside of `atomic()`.
    """
    if connection.in_atomic_block:
        autocommits = connection.commit_on_exit
    else:
        autocommits = connection.get_autocommit()
    if not autocommits:
        raise ConfigurationError(
            f"the database {connection.alias!r} does not autocommit (AUTOCOMMIT, or "
            "set_autocommit()), so nothing says when announced models are committed. Use "
            "autocommit and atomic()"
        )


def transaction_around(connection: Any) -> AbstractContextManager[None]:
    """Return a transaction for one statement, unless one is open."""
    if in_own_transaction(connection):
        return nullcontext()
    # No savepoint, which only a `TestCase` would make, and count as a query.
    around = transaction.atomic(using=connection.alias, savepoint=False)
    return cast(AbstractContextManager[None], around)


@cache
def broadcast_before_commits() -> None:
    """Let the outermost `atomic()` broadcast from now on."""
    atomic: Any = transaction.Atomic
    enter, leave = atomic.__enter__, atomic.__exit__

    @wraps(enter)
    def enter_announced(block: Any) -> None:
        enter(block)
        connection = transaction.get_connection(block.using)
        if _only_test_cases(connection.atomic_blocks[:-1]):
            setattr(connection, _NAME, Work())

    @wraps(leave)
    def leave_announced(block: Any, kind: Any, error: Any, traceback: Any) -> None:
        connection = transaction.get_connection(block.using)
        outermost = _only_test_cases(connection.atomic_blocks[:-1])
        # Removed before the commit, because functions of on_commit() can begin another transaction.
        work = vars(connection).pop(_NAME, None) if outermost else None
        if not work or kind is not None or connection.needs_rollback:
            leave(block, kind, error, traceback)
        else:
            _commit(work, connection.alias, partial(leave, block))

    atomic.__enter__, atomic.__exit__ = enter_announced, leave_announced


def _commit(work: Work, using: str, leave: Callable[[Any, Any, Any], object]) -> None:
    """
    Broadcast, then commit.

    Args:
        work: What to broadcast.
        using: The database.
        leave: Leaves the outermost `atomic()`, given the type of an error, the error and its
            traceback.
    """
    saves: list[_AnnouncedSave] = []
    outcome: Exception | None = IntegrityError("rolled back")
    try:
        try:
            work.broadcast(using, saves)
        except BaseException as error:
            leave(type(error), error, error.__traceback__)
            raise
        outcome = TimeoutError("the commit has not returned")  # so the database can still do it
        leave(None, None, None)
        outcome = None
    except IntegrityError as error:
        outcome = error
        raise
    finally:
        with ExitStack() as stack:  # all of them end, even if one raises
            for save in saves:
                stack.callback(save.__exit__, type(outcome) if outcome else None, outcome)


def _only_test_cases(blocks: list[Any]) -> bool:
    return all(getattr(block, "_from_testcase", False) for block in blocks)
