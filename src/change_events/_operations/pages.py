"""A listing's pages: what must hold of them, and how they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from change_events._consumer.look import digest
from change_events._event import Found, Page
from change_events._ids import checked_id
from change_events.exceptions import ListingError
from change_events.typing import BulkSink, ForgetfulSink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from change_events.typing import Sink

T = TypeVar("T")


def epoch_of(sink: object) -> str | None:
    """Return the sink's epoch; None if it never loses anything."""
    return sink.epoch() if isinstance(sink, ForgetfulSink) else None


def insert_many(sink: Sink[T], found: Mapping[str, Found[T]], epoch: str | None) -> set[str]:
    """
    Store those entities that no look has ever touched, at once if the sink can; return their ids.

    Args:
        sink: The sink.
        found: What the source had, by id.
        epoch: What `epoch_of` returned before the source was asked. After a loss, "never touched"
            says nothing about what was read before it.

    Raises:
        TypeError: The sink returned something else.
    """
    if not isinstance(sink, BulkSink):
        if epoch is not None:
            return set()  # a look at each has a version that is of its epoch
        return {id for id, each in found.items() if sink.apply(id, each, if_version=0)}
    of_epoch: dict[str, Any] = {} if epoch is None else {"epoch": epoch}
    stored = sink.insert_many(found, **of_epoch)
    if isinstance(stored, (set, frozenset)) and stored <= found.keys():
        return set(stored)
    raise TypeError(
        f"{type(sink).__name__}.insert_many() must return the set of ids that it stored; not "
        f"{stored!r:.200}"
    )


def checked_page(page: object, cursor: str | None, listing: object) -> Page[Any]:
    """
    Return the page.

    Raises:
        ListingError: It is not one, or names what is not an id, or leads to itself.
    """
    name = type(listing).__name__
    if not isinstance(page, Page):
        raise ListingError(f"{name}.page({cursor!r}) must return a Page, not {page!r:.200}")
    for id in page.ids:
        try:
            is_text = checked_id(id) == id
        except ValueError as error:
            raise ListingError(f"{name}.page({cursor!r}): {error}") from None
        if not is_text:
            raise ListingError(f"{name}.page({cursor!r}) must name ids as text, not {id!r}")
    if page.found is not None and not page.found.keys() <= set(page.ids):
        raise ListingError(f"{name}.page({cursor!r}) has entities whose ids it does not name")
    if page.cursor is not None and page.cursor == cursor:
        raise ListingError(f"{name}.page({cursor!r}) names itself as the next page")
    return page


def with_digest(found: Found[T]) -> Found[T]:
    """Return what was found, with the digest that a look would give it."""
    return Found(found.value, found.etag, digest_of(found))


def digest_of(found: Found[object]) -> str | None:
    """Return that digest; None if the value is not JSON."""
    return digest(found.value) if found.digest is None else found.digest
