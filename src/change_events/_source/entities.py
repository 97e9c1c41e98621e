"""Read the entities in an answer's body, and accept only what was asked for."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeAlias

from change_events._source.envelopes import Envelope, value_at
from change_events._source.headers import checked_media_types, media_types
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from change_events._source.envelopes import EntityAt

Entity: TypeAlias = "dict[str, Any]"

IdOf: TypeAlias = "str | Callable[[Entity], object] | None"
"""Where an entity has its id: a path, such as `data.id`; a function; None: nowhere."""


class EntityReader:
    """
    Reads entities.

    Args:
        id_of: Where an entity has its id. None: a body can have any id, or none.
        entity: Where a body has its entity, or its array of entities. None: the body is that.
        media_types: Media types that are JSON, too.

    Raises:
        ConfigurationError: `id_of` or `entity` is neither a path nor callable nor None; or
            `media_types` has something else than media types.
    """

    def __init__(
        self, id_of: IdOf, entity: EntityAt = None, media_types: Collection[str] = ()
    ) -> None:
        is_path = isinstance(id_of, str) and all(id_of.split("."))
        if not (is_path or callable(id_of) or id_of is None):
            raise ConfigurationError(
                f"id_of= must be a path, like 'id' or 'data.id', a callable or None, not {id_of!r}"
            )
        self._id_of = id_of
        self._path = id_of.split(".") if isinstance(id_of, str) else []
        self._envelope = Envelope(entity)
        self._media_types = checked_media_types(media_types)

    def entity(self, headers: Mapping[str, str], body: bytes, id: str, what: str) -> Entity:
        """
        Return the entity in a 200. `what` was asked: errors name it.

        Raises:
            FetchError: The body is not an entity, or another one.
        """
        entity: Entity = self._open(headers, body, what, dict, "an object")
        if self._id_of is not None:
            self._require_id(entity, id, what)
        return entity

    def entities(self, headers: Mapping[str, str], body: bytes, what: str) -> dict[str, Entity]:
        """
        Return the entities in a bulk GET's 200, by id. Ids that occur twice are left out.

        Raises:
            FetchError: The body has no array.
        """
        answer = self._open(headers, body, what, list, "an array")
        named = [(self._id_if_any(each), each) for each in answer if isinstance(each, dict)]
        times = Counter(id for id, _ in named)
        return {id: entity for id, entity in named if id is not None and times[id] == 1}

    def _open(
        self, headers: Mapping[str, str], body: bytes, what: str, kind: type, name: str
    ) -> Any:
        """Return what counts in a body, if it is of the kind."""
        answer = json_in(headers, body, what, also=self._media_types)
        try:
            value = self._envelope.open(answer)
        except Exception as error:  # the user's own code
            # Only the type: the text can quote the entity.
            raise FetchError(
                f"{what}: entity= raised {type(error).__name__}", status=200
            ) from error
        if isinstance(value, kind):
            return value
        place = self._envelope.place
        if place and value is None and isinstance(answer, dict):
            keys = ", ".join(map(repr, answer))
            found = f"an object with nothing at {place}; its keys are [{keys:.80}]"
        else:
            found = f"a JSON {type(value).__name__}{place and f' at {place}'}, not {name}"
        raise FetchError(f"{what} answered {found}", status=200)

    def _require_id(self, entity: Entity, id: str, what: str) -> None:
        try:
            value = self.id_of(entity)
            text = _text(value)
        except Exception as error:  # the user's own code
            # Only the type: the text can quote the entity.
            raise FetchError(f"{what}: id_of= raised {type(error).__name__}", status=200) from error
        if text == id:
            return
        setting = f"id_of={self._id_of!r}" if self._path else "id_of="
        if value is None:
            keys = ", ".join(map(repr, entity))
            found = f"an object without an id, by {setting}; its keys are [{keys:.80}]"
        elif text is None:
            found = f"{value!r:.80} where {setting} says that an id is"
        else:
            found = f"another entity, {text!r:.80}, by {setting}"
        raise FetchError(f"{what} answered {found}", status=200)

    def _id_if_any(self, entity: Entity) -> str | None:
        try:
            return _text(self.id_of(entity))
        except Exception:  # the user's own code; the GET of this id alone says what is wrong
            return None

    def id_of(self, entity: Entity) -> object:
        """Return what is where the id should be; None: nothing. The user's callable can raise."""
        return self._id_of(entity) if callable(self._id_of) else value_at(entity, self._path)


def _text(id: object) -> str | None:
    """Return an id as text; None if it is neither text nor an integer."""
    return str(id) if isinstance(id, (str, int)) and not isinstance(id, bool) else None


def json_in(
    headers: Mapping[str, str],
    body: bytes,
    what: str,
    *,
    exact: bool = True,
    also: Collection[str] = (),
) -> Any:
    """
    Return the JSON in a 200. `what` was asked: errors name it. Media types in `also` are JSON, too.

    Raises:
        FetchError: It is not JSON; or, if it must be `exact`, a float would change a number.
    """
    types = media_types(headers)
    if not all(
        each == "application/json" or each.endswith("+json") or each in also for each in types
    ):
        what_came = repr(", ".join(types)) if any(types) else "no media type"
        raise FetchError(f"{what} answered {what_came:.200}, not JSON", status=200)
    try:
        return json.loads(
            body, parse_constant=_refuse_constant, parse_float=_exact_float if exact else float
        )
    except (ValueError, RecursionError) as error:
        raise FetchError(
            f"{what} answered JSON that can't be stored as it came: {error}", status=200
        ) from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON (RFC 8259, 6)")


def _exact_float(number: str) -> float:
    """
    Return the number as a float.

    The float is what the sink stores, and what its readers get. So refuse a number that it would
    change. Many sources print a float with 17 digits; such a number is the float that it names.

    Raises:
        ValueError: The number is too large for a float, or has more digits than one holds.
    """
    value = float(number)
    # 16 characters with a point or an exponent are at most 15 digits. Any float holds so many,
    # unless it is close to the smallest ones.
    if len(number) <= 16 and 1e-290 < abs(value) < 1e290:
        return value
    if not math.isfinite(value):
        raise ValueError(f"{number:.20} is too large for a float, and SQL could not read it")
    text = repr(value)
    if text != number and not _is_printed(number, value, text):
        raise ValueError(
            f"a float would change the number {number:.40} to {text}; "
            "the source should send it as text, or with fewer digits"
        )
    return value


def _is_printed(number: str, value: float, text: str) -> bool:
    """Return True if the number is the float: shortest, with 17 digits, or with all it has."""
    try:
        exact = Decimal(number)
    except InvalidOperation:  # an exponent of more than 18 digits
        return False
    return exact in {Decimal(text), Decimal(format(value, ".17g")), Decimal(value)}
