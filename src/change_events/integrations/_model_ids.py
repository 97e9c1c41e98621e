"""The ids of the entities that rows of a Django model belong to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import IntegerField, Model, QuerySet, UUIDField

from change_events._ids import checked_id, found_by
from change_events.exceptions import ConfigurationError, IdResolutionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from functools import partial

    from change_events._producer.broadcasting import _AnnouncedSave

    AroundSave: TypeAlias = partial[_AnnouncedSave]

IdOf: TypeAlias = str | Callable[[Any], object]
"""The name of a field, or a function of a row."""


class ModelIds:
    """
    Reads ids from the rows of one model.

    Args:
        model: The model.
        source: Where a row has its entity's id: a field; or a function of the row that returns the
            id, or a list of ids; None: the primary key.
        around_save: Makes what broadcasts ids.

    Raises:
        ConfigurationError: The model is not a model with a table; or `source` is neither a function
            nor a field of the model; or the model's rows can change without Django's knowledge.
    """

    def __init__(self, model: Any, source: IdOf | None, around_save: AroundSave) -> None:
        made: Any = model
        if not (isinstance(model, type) and issubclass(model, Model)):
            raise ConfigurationError(f"{model!r} is not a model of Django")
        meta = made._meta
        if meta.abstract:
            raise ConfigurationError(
                f"{model.__name__} is abstract, so it has no rows. Announce the models made of it"
            )
        for each in meta.fields:
            if hasattr(getattr(each.remote_field, "on_delete", None), "on_delete_sql"):
                raise ConfigurationError(
                    f"{model.__name__}.{each.name}: the database itself follows this foreign key "
                    f"(on_delete={each.remote_field.on_delete}), so nothing would announce the "
                    "rows that it changes. Use Django's CASCADE, SET_NULL or SET_DEFAULT"
                )
        self.model = meta.concrete_model
        self.meta: Any = self.model._meta
        self.around_save = around_save
        self._source = source
        self.field: Any = None
        if source is None or isinstance(source, str):
            self.field = self._field(source)
        elif not callable(source):
            raise ConfigurationError(
                f"{model.__name__}: {source!r} is neither a field, like 'order', nor a function of "
                "the row"
            )

    def _field(self, name: str | None) -> Any:
        for each in self.meta.concrete_fields:
            if name in {each.name, each.attname} or (name in {None, "pk"} and each is self.meta.pk):
                return each
        raise ConfigurationError(
            f"{self.model.__name__} has no column {name or 'pk'!r} that could be an id. Name "
            "another field, id='...', or let a function of the row return the id"
        )

    def __str__(self) -> str:
        where = repr(self.field.name) if self.field is not None else "from the function"
        return f"the id of a {self.model.__name__} ({where})"

    @property
    def is_key(self) -> bool:
        """Return True if the ids are primary keys."""
        return self.field is self.meta.pk

    def reads(self, fields: Iterable[Any]) -> bool:
        """Return True if ids can depend on these fields."""
        return self.field is None or self.field in fields

    def column_of(self, model: Any) -> Any:
        """
        Return the column with the ids, if it is in the table of this concrete model, is not its
        primary key, and has each id in one form only; otherwise None.
        """
        column = self.field
        if column is None or self.is_key or not column.model is model is self.model:
            return None
        return column if is_exact(column) else None

    def of_rows(self, keys: Iterable[object], using: str, *, lock: bool = False) -> list[str]:
        """
        Return the ids of rows as they are in the database.

        Args:
            keys: The rows' primary keys. Those that don't exist are left out.
            using: The database.
            lock: Let nobody else change these rows before this transaction ends, if the database
                can do that. (SQLite has one writer at a time.)
        """
        return [id for row in self._rows(list(keys), using, lock=lock) for id in row]

    def _rows(self, keys: list[object], using: str, *, lock: bool) -> Iterator[list[str]]:
        for some in in_batches(self.model, keys, using):
            rows = QuerySet(self.model, using=using).filter(pk__in=some).order_by("pk")
            if lock and connections[using].features.has_select_for_update:
                rows = rows.select_for_update()
            if self.field is None:
                yield from (self.of_row(row) for row in rows)
            else:
                yield from map(self.checked, rows.values_list(self.field.attname, flat=True))

    def of_row(self, row: Any) -> list[str]:
        """
        Return the ids of a row as it is in memory.

        Raises:
            IdResolutionError: There is an unusable one; or the database will make it.
        """
        if self.field is not None:
            return self.checked(getattr(row, self.field.attname))
        found = found_by(cast("Callable[[Any], object]", self._source), row, self)
        if isinstance(found, (list, tuple, set, frozenset)):
            return [id for each in found for id in self.checked(each)]
        return self.checked(found)

    def checked(self, value: object) -> list[str]:
        """
        Return an id as the database has it, as text; nothing for None.

        Raises:
            IdResolutionError: It is unusable.
        """
        if value is None:
            return []
        if is_expression(value):
            raise IdResolutionError(f"{self} is made by the database, so it is not known before")
        try:
            if self.field is not None:
                value = self.field.to_python(value)
            return [checked_id(value)]
        except (ValueError, ValidationError) as error:
            raise IdResolutionError(f"{self}: {error}") from None


def is_expression(value: object) -> bool:
    """Return True if only the database knows what this is."""
    return hasattr(value, "resolve_expression")


@cache
def is_exact(column: Any) -> bool:
    """Return True if equal values have one form. As text, "ABC" can be equal to "abc"."""
    while column.remote_field:
        column = column.target_field
    return isinstance(column, (IntegerField, UUIDField))


def in_batches(model: Any, keys: Sequence[object], using: str) -> Iterator[Sequence[object]]:
    """Cut primary keys into lists that fit into one statement of the database."""
    size = max(1, connections[using].ops.bulk_batch_size([model._meta.pk], keys))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
