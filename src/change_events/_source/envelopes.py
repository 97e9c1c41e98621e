"""Where something is in a JSON body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EntityAt: TypeAlias = "str | Callable[[Any], object] | None"
"""Where a body has its entity: a path, such as `data`; a function; None: the body is the entity."""


class Envelope:
    """
    What an entity is in.

    Args:
        entity: Where the entity is.

    Attributes:
        place: The setting, for errors; empty without an envelope.

    Raises:
        ConfigurationError: `entity` is neither a path nor callable nor None.
    """

    def __init__(self, entity: EntityAt) -> None:
        is_path = isinstance(entity, str) and all(entity.split("."))
        if not (is_path or callable(entity) or entity is None):
            raise ConfigurationError(
                f"entity= must be a path, like 'data' or 'data.product', a callable or None, "
                f"not {entity!r:.200}"
            )
        self._call = entity if callable(entity) else None
        self._path = entity.split(".") if isinstance(entity, str) else []
        self.place = "" if entity is None else f"entity={entity!r}" if self._path else "entity="

    def open(self, body: object) -> Any:
        """Return what is there; None: nothing. The user's callable can raise."""
        return value_at(body, self._path) if self._call is None else self._call(body)


def value_at(body: object, path: Sequence[str]) -> Any:
    """Return what an object has at the path of keys; None: nothing."""
    value: Any = body
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
