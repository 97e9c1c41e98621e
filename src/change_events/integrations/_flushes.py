"""
The ids of a flush that the events of its rows don't tell.

**A row of a secondary table** belongs to both sides of its relationship. If one side changes it
(a tag is deleted, and its products lose it), the row of the other side is not flushed.

**A foreign key with `post_update`** is set when all events of its row are over.

**A row of another class** that has the same table is a row of the announced class, too. No function
reads ids from it, so it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from change_events.exceptions import IdResolutionError
from change_events.integrations._row_ids import is_modified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection
    from sqlalchemy.orm import InstanceState, Mapper, UOWTransaction

    from change_events.integrations._row_ids import RowIds


class _Part(NamedTuple):
    """
    What rows of one class can change.

    Attributes:
        links: Relationships whose secondary tables belong to announced rows on their other side.
        refused: The announced class that has the same table.
    """

    links: list[tuple[str, RowIds]]
    refused: type[Any] | None


class FlushedRows:
    """
    Reads ids from flushes.

    Args:
        rows: What reads the ids of rows, one for each class.
    """

    def __init__(self, rows: list[RowIds]) -> None:
        self._rows = rows
        self._parts: dict[Mapper[Any], _Part] = {}

    def ids(self, flush: UOWTransaction) -> Iterator[str]:
        """
        Yield the ids, when all statements of a flush have been executed.

        Raises:
            IdResolutionError: It has changed a row of another class with the same table.
        """
        # Nothing public says which rows a flush has, with ORM cascades, and in which it has set
        # foreign keys.
        for mapper, states in flush.mappers.items():
            part = self._part(mapper)
            if part.refused and any(_is_changed(flush, state) for state in states):
                raise IdResolutionError(
                    f"{mapper.class_.__name__} has a table of {part.refused.__name__}, which is "
                    "announced, so nothing says whose ids to broadcast. Announce it, too"
                )
            for key, row_ids in part.links:
                for state in states:
                    yield from _linked(flush, state, key, row_ids)
        for states, _ in flush.post_update_states.values():
            for state in states:
                yield from self._updated_late(flush, state)

    def _part(self, mapper: Mapper[Any]) -> _Part:
        part = self._parts.get(mapper)
        if part is None:
            links = [(key, each) for each in self._rows for key in each.links_of(mapper)]
            is_announced = any(issubclass(mapper.class_, each.mapped) for each in self._rows)
            refused = [each.mapped for each in self._rows if each.has_table_of(mapper)]
            part = _Part(links, refused[0] if refused and not is_announced else None)
            self._parts[mapper] = part
        return part

    def _updated_late(self, flush: Any, state: InstanceState[Any]) -> Iterator[str]:
        row = state.obj()
        for row_ids in self._rows:
            if isinstance(row, row_ids.mapped) and not flush.is_deleted(state) and is_modified(row):
                connection: Connection = flush.session.connection(
                    bind_arguments={"mapper": state.mapper}
                )
                yield from row_ids.before(row, connection)
                yield from row_ids.now(row)


def _is_changed(flush: Any, state: InstanceState[Any]) -> bool:
    deleted, only_listed = flush.states[state]
    row = state.obj()
    return not only_listed and (deleted or not state.key or is_modified(row))


def _linked(flush: Any, state: InstanceState[Any], key: str, row_ids: RowIds) -> Iterator[str]:
    """Yield the ids of rows that a relationship of a row has won or lost."""
    won, kept, lost = flush.get_attribute_history(state, key)
    for other in filter(None, (*won, *lost, *(kept if flush.is_deleted(state) else ()))):
        row = other.obj()
        # Rows that are new or deleted have events of their own.
        if isinstance(row, row_ids.mapped) and other.key and not flush.is_deleted(other):
            yield from row_ids.now(row)
