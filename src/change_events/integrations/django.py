"""Broadcast what the models of Django save, before it is committed."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections, router

from change_events._event import DEFAULT_SETTLE
from change_events._ids import checked_id
from change_events._producer.broadcasting import _AnnouncedSave
from change_events._producer.checks import require_publisher, require_settings
from change_events.exceptions import ConfigurationError, IdResolutionError
from change_events.integrations._model_changes import announced_models, ignored, watch_statements
from change_events.integrations._model_ids import ModelIds
from change_events.integrations._model_transactions import (
    broadcast_before_commits,
    in_own_transaction,
    require_autocommit,
    work_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from change_events._producer.renewals import OnUnsettled, Renewals
    from change_events.integrations._model_ids import IdOf
    from change_events.typing import Publisher

M = TypeVar("M", bound=type[Any])

__all__ = ["announce_ids", "announced", "unannounced"]


def announced(
    publisher: Publisher,
    *,
    id: IdOf | None = None,
    settle: float = DEFAULT_SETTLE,
    confirm: bool = False,
    on_unsettled: OnUnsettled | None = None,
    renewals: Renewals | None = None,
) -> Callable[[M], M]:
    """
    Decorate a model: broadcast the ids of what Django's ORM changes, before each commit.

        @announced(products)
        class Product(models.Model): ...

        @announced(orders, id="order")
        class OrderLine(models.Model): ...

    The outermost `atomic()` broadcasts at its end, inside, whether it is yours, the one of
    `ATOMIC_REQUESTS`, or one within Django. A change outside of any gets one for itself.

    No broadcast, no commit: if the publisher raises, `atomic()` raises and rolls back. From the
    broadcast until the commit has returned, the ids are broadcast again whenever half of `settle`
    has passed. If a commit fails and the database can still have done it, its ids are broadcast for
    some time longer, like those of a `broadcasting` that was cancelled.

    Everything that the ORM writes counts: `save`, `delete` with Django's cascades, `update`,
    `bulk_create`, `bulk_update`, the admin, fixtures, asynchronous calls, and the rows of the
    model's many-to-many fields. A row that moves counts for the entity that it leaves, too. Ids of
    a savepoint that is rolled back can be broadcast, which does no harm.

    The ORM can't see SQL of your own, `TRUNCATE`, triggers and foreign keys that the database
    follows: call `announce_ids`. Models of a migration are other classes: a warning is logged.

    Args:
        publisher: What broadcasts.
        id: Where a row has its entity's id: the name of a field, or a function of the row. The
            function can return a list of ids, or an empty one. It gets the row as it was before a
            change and as it is before the commit. Default: the primary key.
        settle: The settle window in seconds. This and the next three are as for `broadcasting`.
        confirm: Broadcast a second time after the commit.
        on_unsettled: Called if a commit took too long or failed, and the broadcast after it failed,
            too.
        renewals: What broadcasts slow commits again.

    Raises:
        ConfigurationError: `publisher` is not one; `settle` is out of its range; the class is not a
            model, is abstract, has no such field, has a foreign key that the database follows
            itself (`DB_CASCADE`), or needs `id`, because its primary key is composite. At a change:
            the connection does not autocommit outside of `atomic()`; or `atomic()` began before
            the first model was announced.
        IdResolutionError: At a change: an id is unusable, or can't be known: `bulk_create()` with
            `update_conflicts`, or with `ignore_conflicts` and ids that the database makes; an
            `update()` that computes primary keys; another model with the same table.
        PublishError: At the end of the outermost `atomic()`: the broadcast was not accepted, or too
            slowly.
    """
    require_publisher(publisher)
    require_settings(settle, on_unsettled)

    def decorate(model: M) -> M:
        around_save = announced_models.around_save(
            partial(
                _AnnouncedSave,
                publisher,
                settle=settle,
                confirm=confirm,
                on_unsettled=on_unsettled,
                renewals=renewals,
            )
        )
        announced_models.add(ModelIds(model, id, around_save))
        broadcast_before_commits()
        watch_statements()
        return model

    return decorate


def announce_ids(model: type[Any], ids: Iterable[object], *, using: str | None = None) -> None:
    """
    Let the transaction broadcast ids before it commits, for changes that the ORM can't see.

        with transaction.atomic():
            cursor.execute("UPDATE shop_product SET price = 2 RETURNING id")
            announce_ids(Product, [id for (id,) in cursor])

    Args:
        model: The model whose publishers broadcast the ids.
        ids: The ids of the entities.
        using: The database of the transaction. Default: where Django writes such a model.

    Raises:
        ConfigurationError: The model is not announced; or there is no transaction: it must be
            inside `atomic()`; or the connection does not autocommit outside of that.
        IdResolutionError: An id is unusable; or `ids` is text.
    """
    found = announced_models.for_model(model)
    if not found:
        raise ConfigurationError(f"{model!r} is not announced. Decorate it: @announced(publisher)")
    connection = connections[using or router.db_for_write(model)]
    require_autocommit(connection)
    if not in_own_transaction(connection):
        raise ConfigurationError(
            "announce_ids() is outside of a transaction, so the change is committed before it can "
            f"be broadcast. Put both into `with atomic(using={connection.alias!r}):`"
        )
    if isinstance(ids, (str, bytes)):
        raise IdResolutionError(f"announce_ids() needs a list of ids, not {ids!r}")
    work, checked = work_of(connection), list(map(_checked, ids))
    for row_ids in found:
        work.add(row_ids.around_save, checked)


def _checked(id: object) -> str:
    try:
        return checked_id(id)
    except ValueError as error:
        raise IdResolutionError(str(error)) from None


@contextmanager
def unannounced() -> Iterator[None]:
    """
    Neither announce nor refuse what the ORM changes in this block, because no consumer needs to
    know, or because you call `announce_ids`.

        with unannounced():
            Product.objects.update(views=F("views") + 1)

    It is for this thread or task, and for all models and databases.
    """
    token = ignored.set(True)
    try:
        yield
    finally:
        ignored.reset(token)
