"""
Which rows the statements of Django's ORM change, and whose ids these rows have.

Signals would not do. Django sends none for `update()`, `bulk_create()`, `bulk_update()`, fast
deletes, `SET_NULL` and the rows of a many-to-many relation. But all of these, and `save()` and
`delete()`, make an `InsertQuery`, an `UpdateQuery` or a `DeleteQuery`, and get from it the compiler
that executes it. So `get_compiler()` of the three returns compilers that note the ids.

**An INSERT** has its rows in memory. A primary key that the database makes is in its answer.

**An UPDATE or a DELETE** often names primary keys (`save()` does, and Django's collector). If it
names none, or if they are text, they are read first, and the statement is restricted to them, or it
could change a row that another transaction has just made to match. A database without row locks,
SQLite, needs no restriction: nobody else writes meanwhile.

**A row that is part of another entity** (an order line) can move. So its id is read before a
statement that can change it, with a lock. Its new id is in the statement, if that sets an integer
or a UUID. Otherwise it is read before the commit.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.constants import OnConflict
from django.db.models.sql import DeleteQuery, InsertQuery, Query, UpdateQuery
from django.db.models.sql.constants import NO_RESULTS
from django.db.models.sql.where import AND

from change_events._text import printable
from change_events.exceptions import IdResolutionError
from change_events.integrations._model_ids import ModelIds, in_batches, is_exact, is_expression
from change_events.integrations._model_transactions import (
    require_autocommit,
    transaction_around,
    work_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from change_events.integrations._model_ids import AroundSave
    from change_events.integrations._model_transactions import Work

log = logging.getLogger("change_events")

ignored: ContextVar[bool] = ContextVar("change_events_ignored", default=False)
"""Statements are not looked at."""


class Announced:
    """The models that are announced."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all models."""
        self._models: list[ModelIds] = []
        self._affected: dict[Any, list[ModelIds]] = {}

    def add(self, row_ids: ModelIds) -> None:
        """Add a model."""
        self._models = [*self._models, row_ids]
        self._affected = {}  # another one, because another thread can be about to fill this one

    def around_save(self, wanted: AroundSave) -> AroundSave:
        """Return what broadcasts with the same settings, so that models share its calls."""
        for each in self._models:
            known = each.around_save
            if known.args[0] is wanted.args[0] and known.keywords == wanted.keywords:
                return known
        return wanted

    def for_model(self, model: Any) -> list[ModelIds]:
        """Return what reads ids from rows of a model, or of its parents."""
        return [each for each in self._models if issubclass(model, each.model)]

    def affected_by(self, model: Any) -> list[ModelIds]:
        """
        Return what reads the ids of rows that a statement for a concrete model can change.

        These are rows of the model, of its parents and its children, and of the models for whose
        many-to-many relations it has the rows.

        Raises:
            IdResolutionError: Another class of the same table is announced.
        """
        affected = self._affected
        found = affected.get(model)
        if found is None:
            found = self._affecting(model)
            if not found:
                self._check_table(model)
            affected[model] = found
        return found

    def _affecting(self, model: Any) -> list[ModelIds]:
        return [
            row_ids
            for each in self._models
            for row_ids in [each, *_of_relations(each)]
            if issubclass(model, row_ids.model) or issubclass(row_ids.model, model)
        ]

    def _check_table(self, model: Any) -> None:
        table = model._meta.db_table
        same = next((each for each in _with_table(table) if self._affecting(each)), None)
        if same is None:
            return
        if model.__module__ != "__fake__":  # where Django puts the models of a migration
            raise IdResolutionError(
                f"{model.__name__} has the table of {same.__name__}, which is announced. "
                "Announce it, too"
            )
        log.warning(
            "a migration changes rows of %s, and nothing announces that: announce their ids "
            "afterwards (change-events publish), or fill the caches again",
            printable(table),
            extra={"action": "migrate", "table": table},
        )


announced_models = Announced()


def _with_table(table: str) -> Iterator[Any]:
    """Yield the models that have a table, also those that Django makes between two others."""
    for models in apps.all_models.values():
        for model in models.values():
            if model._meta.db_table == table:
                yield model._meta.concrete_model


def _of_relations(row_ids: ModelIds) -> list[ModelIds]:
    """Return what reads ids from the rows of a model's many-to-many relations."""
    found = []
    for relation in row_ids.meta.many_to_many:
        link = relation.remote_field.through._meta.get_field(relation.m2m_field_name())
        target = link.target_field

        def ids(row: Any, link: Any = link, target: Any = target) -> list[str]:
            using = row._state.db or "default"
            rows = QuerySet(row_ids.model, using=using).filter(
                **{target.name: getattr(row, link.attname)}
            )
            return row_ids.of_rows(list(rows.values_list("pk", flat=True)), using)

        simple = row_ids.is_key and target is row_ids.field
        found.append(ModelIds(link.model, link.name if simple else ids, row_ids.around_save))
    return found


class Statement:
    """
    A statement that changes rows whose ids are to be broadcast.

    Args:
        compiler: What executes it.
        affected: What reads the ids.
    """

    def __init__(self, compiler: Any, affected: list[ModelIds]) -> None:
        self._query = compiler.query
        self._connection = compiler.connection
        self._using: str = compiler.connection.alias
        self._model = compiler.query.get_meta().concrete_model
        self._key = self._model._meta.pk
        self._affected = affected
        self._running = False

    def execute(self, execute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Execute it by a method of the compiler, and note the ids."""
        if self._running:  # one method calls another one
            return execute(*args, **kwargs)
        require_autocommit(self._connection)
        change = self._insert if isinstance(self._query, InsertQuery) else self._change
        self._running = True
        try:
            with (
                transaction_around(self._connection),
                transaction.mark_for_rollback_on_error(using=self._using),
            ):
                return change(partial(execute, *args, **kwargs), *args, **kwargs)
        finally:
            self._running = False

    def _insert(self, execute: Callable[[], Any], returning_fields: Any = None) -> Any:
        self._check_conflicts()
        returned = execute()
        rows = list(self._query.objs)
        keys = [row.pk for row in rows]
        if returned and self._key in returning_fields:
            place = list(returning_fields).index(self._key)
            keys = [values[place] for values in returned]
        are_known = all(map(_is_known, keys))
        work = work_of(self._connection)
        for row_ids in self._affected:
            if not issubclass(self._model, row_ids.model):  # the row of its child comes later
                continue
            written = self._written(row_ids)
            if written is not None:
                work.add(row_ids.around_save, written)
            elif are_known:
                self._note(work, row_ids, self._keys_of(row_ids, keys))
            elif row_ids.is_key:
                raise IdResolutionError(
                    f"{row_ids} is not known after this INSERT. Save the rows one by one, make "
                    "their ids yourself, or call bulk_create() without ignore_conflicts"
                )
            else:
                for row in rows:
                    row._state.db = self._using  # Django does so afterwards
                    work.add(row_ids.around_save, row_ids.of_row(row))
        return returned

    def _check_conflicts(self) -> None:
        if self._query.on_conflict is not OnConflict.UPDATE:
            return
        by_key = self._query.unique_fields == [self._key]
        if not (by_key and all(row_ids.is_key for row_ids in self._affected)):
            raise IdResolutionError(
                f"bulk_create(update_conflicts=True) does not say which rows of "
                f"{self._model.__name__} it updates. Call it within unannounced(), and then "
                "announce_ids(...)"
            )

    def _change(self, execute: Callable[[], Any], result_type: Any = None, **_: Any) -> Any:
        deletes = isinstance(self._query, DeleteQuery)
        new_values = {field: value for field, _, value in getattr(self._query, "values", ())}
        new_keys = self._new_keys(new_values)
        keys = self._named_keys()
        if keys is None:
            keys = self._restrict()
        keys_of = {row_ids: self._keys_of(row_ids, keys) for row_ids in self._affected}
        before = {
            row_ids: row_ids.of_rows(keys_of[row_ids], self._using, lock=True)
            for row_ids in self._affected
            if not row_ids.is_key and (deletes or row_ids.reads(new_values))
        }
        result = execute()
        if not (result or deletes or result_type == NO_RESULTS):  # no row has changed
            return result
        work = work_of(self._connection)
        for row_ids in self._affected:
            work.add(row_ids.around_save, before.get(row_ids, ()))
            written = self._written(row_ids)
            if written is not None:
                work.add(row_ids.around_save, written)
            elif row_ids.is_key or not deletes:
                self._note(work, row_ids, keys_of[row_ids])
                self._note(work, row_ids, self._keys_of(row_ids, new_keys))
        return result

    def _written(self, row_ids: ModelIds) -> list[str] | None:
        """Return the ids that the statement itself gives to its rows; None: they must be read."""
        column = row_ids.column_of(self._model)
        if column is None:
            return None
        values = list(self._values_of(column))
        if not values or any(map(is_expression, values)):
            return None
        return [id for value in values for id in row_ids.checked(value)]

    def _values_of(self, column: Any) -> Iterator[object]:
        """Yield what the statement sets a column to."""
        if isinstance(self._query, InsertQuery):
            for row in self._query.objs:
                yield getattr(row, column.attname)
        for field, _, value in getattr(self._query, "values", ()):
            if field is column:
                is_row = hasattr(value, "prepare_database_save")  # update(order=order)
                yield value.prepare_database_save(column) if is_row else value

    def _new_keys(self, new_values: dict[Any, Any]) -> list[object]:
        """Return the primary key that an UPDATE sets."""
        if self._key not in new_values:
            return []
        key = new_values[self._key]
        if is_expression(key):
            raise IdResolutionError(
                f"this update() computes primary keys of {self._model.__name__}, so they are not "
                "known before. Call it within unannounced(), and then announce_ids(...)"
            )
        return [key]

    def _named_keys(self) -> list[object] | None:
        """Return primary keys that include those of all rows to change; None: it names none."""
        where = self._query.where
        if where.negated or where.connector != AND or not is_exact(self._key):
            return None
        for lookup in where.children:
            column: Any = getattr(lookup, "lhs", None)
            if (
                getattr(lookup, "lookup_name", None) in {"exact", "in"}
                and getattr(column, "target", None) == self._key
                and column.alias == self._query.base_table
                and not is_expression(lookup.rhs)
            ):
                keys = [lookup.rhs] if lookup.lookup_name == "exact" else list(lookup.rhs)
                return keys if all(map(_is_known, keys)) else None
        return None

    def _restrict(self) -> list[object]:
        """Return the primary keys of the rows to change, and let the statement change no others."""
        query = self._query.chain(klass=Query)
        query.select_for_update = False
        query.clear_ordering(force=True)
        rows = QuerySet(self._query.model, query=query, using=self._using)
        keys = list(rows.values_list("pk", flat=True))
        if self._connection.features.has_select_for_update:
            self._query.add_filter("pk__in", keys)
        return keys

    def _keys_of(self, row_ids: ModelIds, keys: list[object]) -> list[object]:
        """Return the primary keys of announced rows, given those of the rows of this statement."""
        if row_ids.model is self._model:
            return keys
        if issubclass(self._model, row_ids.model):
            model, name, wanted = self._model, "pk", row_ids.meta.pk.name
        else:
            model, name, wanted = row_ids.model, self._key.name, "pk"
        return [
            key
            for some in in_batches(self._model, keys, self._using)
            for key in QuerySet(model, using=self._using)
            .filter(**{f"{name}__in": some})
            .values_list(wanted, flat=True)
        ]

    def _note(self, work: Work, row_ids: ModelIds, keys: list[object]) -> None:
        if row_ids.is_key:
            work.add(row_ids.around_save, [id for key in keys for id in row_ids.checked(key)])
        else:
            work.read_later(row_ids, keys)


def _is_known(key: object) -> bool:
    parts = key if isinstance(key, tuple) else (key,)  # of a composite primary key
    return not any(part is None or is_expression(part) for part in parts)


@cache
def watch_statements() -> None:
    """Look at each INSERT, UPDATE and DELETE of the ORM from now on."""
    for kind in (InsertQuery, UpdateQuery, DeleteQuery):
        kind.get_compiler = _watched(kind.get_compiler)


def _watched(get_compiler: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(get_compiler)
    def watched(query: Any, *args: Any, **kwargs: Any) -> Any:
        compiler = get_compiler(query, *args, **kwargs)
        if ignored.get():
            return compiler
        if affected := announced_models.affected_by(query.get_meta().concrete_model):
            statement = Statement(compiler, affected)
            for name in _executing(compiler.__class__):
                setattr(compiler, name, partial(statement.execute, getattr(compiler, name)))
        return compiler

    return watched


@cache
def _executing(kind: Any) -> list[str]:
    """Return the methods of a compiler that execute: one, or, since Django 6, two."""
    return [name for name in dir(kind) if name.startswith("execute_")]
