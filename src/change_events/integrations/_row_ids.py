"""The ids of the entities that a row of a database is a part of, now and before its change."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import TableClause, inspect, select
from sqlalchemy.orm import RelationshipDirection, Session, configure_mappers, object_session
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.base import PassiveFlag
from sqlalchemy.sql.visitors import iterate

from change_events._ids import checked_id, found_by
from change_events.exceptions import ConfigurationError, IdResolutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.orm import Mapper, RelationshipProperty

IdOf: TypeAlias = str | Callable[[Any], object]
"""A path of a row's attributes, or a function of the row."""


class RowIds:
    """
    Reads ids from the rows of one class.

    Args:
        mapped: The class.
        source: Where a row has its entity's id: a path; or a function that returns the id, or a
            list of ids.

    Raises:
        ConfigurationError: The class is not mapped; or `source` is neither a function nor a path
            that begins with an attribute of the class.
    """

    def __init__(self, mapped: type[Any], source: IdOf) -> None:
        if not isinstance(mapped, type) or inspect(mapped, raiseerr=False) is None:
            raise ConfigurationError(f"{mapped!r} is not a class that SQLAlchemy maps to a table")
        if isinstance(source, str):
            first = source.partition(".")[0]
            if not _has(mapped, first):
                configure_mappers()  # which makes backrefs
            if not _has(mapped, first):
                raise ConfigurationError(f"{mapped.__name__} has no attribute {first!r}")
        elif not callable(source):
            raise ConfigurationError(
                f"{mapped.__name__}: {source!r} is neither a path, like 'id', nor a function of "
                "the row"
            )
        self.mapped = mapped
        self._source = source
        self._column: bool | None = None
        self._read = attrgetter(source) if isinstance(source, str) else source

    def __str__(self) -> str:
        where = repr(self._source) if isinstance(self._source, str) else "from the function"
        return f"the id of a {self.mapped.__name__} ({where})"

    def table_names(self) -> set[tuple[str | None, str]]:
        """Return the schemas and the names of the tables that hold a part of such a row."""
        return {name for table in self._tables() for name in table_names(table)}

    def has_table_of(self, mapper: Mapper[Any]) -> bool:
        """Return True if a class that is not related to this one has one of its tables."""
        is_related = mapper.base_mapper is inspect(self.mapped).base_mapper
        return not is_related and not self._tables().isdisjoint(mapper.tables)

    def links_of(self, mapper: Mapper[Any]) -> list[str]:
        """Return the relationships of a class that are the other side of one of this class."""
        mine = list(self._many_to_many())
        return [
            relation.key
            for relation in mapper.relationships
            if not relation.viewonly
            and relation.mapper.common_parent(inspect(self.mapped))
            and any(each.secondary is relation.secondary and each is not relation for each in mine)
        ]

    def _tables(self) -> set[Any]:
        """Return these tables: also those of subclasses, and those of many-to-many relations."""
        mapper: Mapper[Any] = inspect(self.mapped)
        tables = {table for each in mapper.self_and_descendants for table in each.tables}
        return tables | {relation.secondary for relation in self._many_to_many()}

    def _many_to_many(self) -> Iterator[RelationshipProperty[Any]]:
        for each in inspect(self.mapped).self_and_descendants:
            for relation in each.relationships:
                if relation.secondary is not None and not relation.viewonly:
                    yield relation

    def now(self, row: Any, *, required: bool = False) -> list[str]:
        """
        Return the ids of a row as it is in memory.

        Args:
            row: The row.
            required: Refuse None.

        Raises:
            IdResolutionError: There is no id, or an unusable one.
        """
        return self._ids(row if self._is_column(row) else _View(row), required=required)

    def _is_column(self, row: Any) -> bool:
        """Return True if a row says what a view of it would say, and costs less."""
        if self._column is None:  # not known before all classes are mapped
            self._column = self._source in inspect(row).mapper.column_attrs
        return self._column

    def before(self, row: Any, connection: Connection) -> list[str]:
        """Return the ids of a row as it was at the last flush, likewise."""
        is_same = self._is_column(row) and self._source not in inspect(row).committed_state
        return self._ids(row if is_same else _ViewBefore(row, connection), required=False)

    def checked(self, value: object) -> str:
        """Return an id as text, or raise `IdResolutionError`."""
        try:
            return checked_id(value)
        except ValueError as error:
            raise IdResolutionError(f"{self}: {error}") from None

    def _ids(self, view: Any, *, required: bool) -> list[str]:
        found = found_by(self._read, view, self)
        if isinstance(found, (list, tuple, set, frozenset)):
            return [self.checked(each) for each in found]
        if found is None:
            if required:
                raise IdResolutionError(
                    f"{self} is None in a new row. If the row belongs to no entity, let a function "
                    "return an empty list"
                )
            return []
        return [self.checked(found)]


class _View:
    """
    A row, for a function that reads its ids.

    It has the row's attributes. But a parent is the one that the foreign key names: a flush does
    not load it again when the foreign key changes.
    """

    def __init__(self, row: Any) -> None:
        self._row = row
        self._mapper: Mapper[Any] = inspect(row).mapper

    def __getattr__(self, name: str) -> Any:
        if name in self._mapper.column_attrs:
            return self._column(name)
        if name in self._mapper.relationships:
            relation = self._mapper.relationships[name]
            many_to_one = relation.direction is RelationshipDirection.MANYTOONE
            return self._parent(relation) if many_to_one else self._children(relation)
        attribute = getattr_static(type(self._row), name, None)
        if hasattr(attribute, "__get__"):  # a method or a property: it reads the view, too
            return attribute.__get__(self, type(self._row))
        return getattr(self._row, name)

    def _column(self, name: str) -> Any:
        return getattr(self._row, name)

    def _children(self, relation: RelationshipProperty[Any]) -> Any:
        return getattr(self._row, relation.key)

    def _parent(self, relation: RelationshipProperty[Any]) -> Any:
        foreign = {there: here for here, there in relation.local_remote_pairs or ()}
        parent = relation.mapper
        # By name, because with joined tables a column of each is the key.
        named = {_name(parent, there): here for there, here in foreign.items()}
        names = [_name(parent, each) for each in parent.primary_key]
        if set(named) != set(names):
            raise IdResolutionError(
                f"{relation} does not refer to a primary key, so the row that it means is not "
                "known inside a flush: read the id without it"
            )
        key = tuple(getattr(self, _name(self._mapper, named[name])) for name in names)
        if None in key:
            return None
        session = cast(Session, object_session(self._row))
        for known in (vars(self._row).get(relation.key), *session.new):
            if isinstance(known, parent.class_) and key == tuple(
                getattr(known, name) for name in names
            ):
                return known
        return session.get(parent.class_, key)


class _ViewBefore(_View):
    """
    A row as it was at the last flush.

    Args:
        row: The row.
        connection: Reads what was overwritten before it was loaded.
    """

    def __init__(self, row: Any, connection: Connection) -> None:
        super().__init__(row)
        self._connection = connection

    def _column(self, name: str) -> Any:
        added, unchanged, deleted = get_history(self._row, name)
        if not added or deleted:
            return next(iter([*deleted, *unchanged]), None)
        mapper = self._mapper
        names = [_name(mapper, column) for column in mapper.primary_key]
        here = zip(names, inspect(self._row).identity, strict=True)
        return self._connection.execute(
            select(getattr(mapper.class_, name)).where(
                *(getattr(mapper.class_, key) == value for key, value in here)
            )
        ).scalar()

    def _children(self, relation: RelationshipProperty[Any]) -> Any:
        _, unchanged, deleted = get_history(self._row, relation.key)
        before = [*deleted, *unchanged]
        return before if relation.uselist else next(iter(before), None)


def table_names(clause: Any) -> set[tuple[str | None, str]]:
    """Return the schemas and the names of tables: a script can have a table of its own for one."""
    return {(each.schema, each.name) for each in iterate(clause) if isinstance(each, TableClause)}


def is_modified(row: Any) -> bool:
    """Return True if a value of a row, or one of its collections, really differs."""
    state = inspect(row)
    for key in list(state.committed_state):  # what was set: a session would ask all attributes
        if get_history(row, key, PassiveFlag.NO_CHANGE).has_changes():
            return True
    session = object_session(row)
    # Nothing public says what the other side of a relationship has added to a collection that is
    # not loaded.
    pending = getattr(state, "_pending_mutations", None)
    return session is None or session.is_modified(row) or bool(pending)


def _has(mapped: type[Any], name: str) -> bool:
    missing = object()  # not hasattr(), which runs the function of a hybrid
    return getattr_static(mapped, name, missing) is not missing


def _name(mapper: Mapper[Any], column: ColumnElement[Any]) -> str:
    return mapper.get_property_by_column(column).key
