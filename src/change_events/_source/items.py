"""Read the items in the body of a listing's page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from change_events._event import Found
from change_events._ids import checked_id
from change_events._source.entities import EntityReader
from change_events._source.envelopes import Envelope, value_at
from change_events.exceptions import ConfigurationError, ListingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._source.entities import Entity
    from change_events._source.envelopes import EntityAt


class ItemReader:
    """
    Reads items. Args and errors are those of `HTTPListing`.

    Errors name the page by `what`, and never quote an item: it can be an entity.
    """

    def __init__(
        self,
        items: str | None,
        id_of: str | Callable[[Entity], object],
        *,
        entities: bool,
        entity: EntityAt = None,
    ) -> None:
        if id_of is None:
            raise ConfigurationError("id_of=None can't be used: a listing needs ids")
        self._reader = EntityReader(id_of)
        self._items = checked_path(items, "items")
        self._entities = entities
        self._envelope = Envelope(entity)

    def items(self, body: object, what: str) -> list[Any]:
        """Return the list in a body, each item without its envelope."""
        found = value_at(body, self._items) if self._items else _only_list(body)
        if isinstance(found, list):
            if not self._envelope.place:
                return found
            return [self._open(item, f"{what}: item {number}") for number, item in enumerate(found)]
        if self._items:
            raise ListingError(
                f"{what} answered {shown(body)}, without a list at items={'.'.join(self._items)!r}"
            )
        raise ListingError(
            f"{what} answered {shown(body)}, not a list. If one is in it, say where: items='...'"
        )

    def ids(self, items: Sequence[Any], what: str) -> list[str]:
        """Return the id of each item."""
        return [self._id(item, f"{what}: item {number}") for number, item in enumerate(items)]

    def found(self, items: Sequence[Any], ids: Sequence[str]) -> dict[str, Found[Any]] | None:
        """Return the entities, less those of ids that occur twice; None if only ids count."""
        times = Counter(ids)
        each = zip(ids, items, strict=True)
        return {id: Found(item) for id, item in each if times[id] == 1} if self._entities else None

    def _open(self, item: object, what: str) -> object:
        try:
            entity = self._envelope.open(item)
        except Exception as error:  # the user's own code
            raise ListingError(f"{what}: entity= raised {type(error).__name__}") from error
        if entity is None:
            raise ListingError(f"{what} is {shown(item)}, with nothing at {self._envelope.place}")
        return entity

    def _id(self, item: object, what: str) -> str:
        value = item
        if isinstance(item, dict):
            try:
                value = self._reader.id_of(item)
            except Exception as error:  # the user's own code
                raise ListingError(f"{what}: id_of= raised {type(error).__name__}") from error
        elif self._entities:
            raise ListingError(f"{what} is {shown(item)}, and entities=True needs objects")
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ListingError(
                f"{what} is {shown(item)}, and has no id there: say where it is, id_of='...', "
                "or, if an item wraps its entity, entity='...'"
            )
        try:
            return checked_id(value)
        except ValueError as error:
            raise ListingError(f"{what} has no usable id: {error}") from None


def checked_path(path: str | None, setting: str) -> list[str]:
    """Return a path's keys; none if there is no path."""
    keys = [] if path is None else path.split(".") if isinstance(path, str) else [""]
    if not all(keys):
        raise ConfigurationError(
            f"{setting}= must be a key, or a path like 'data.products', not {path!r}"
        )
    return keys


def shown(value: object) -> str:
    """Describe a value, without quoting what it has."""
    if isinstance(value, dict):
        return f"an object with the keys [{', '.join(map(repr, value)):.80}]"
    return f"a value of type {type(value).__name__}"


def _only_list(body: object) -> object:
    if not isinstance(body, dict):
        return body
    lists = [value for value in body.values() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 else None
