"""The values that travel between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T_co = TypeVar("T_co", covariant=True)

Phase: TypeAlias = Literal["saving", "saved"]

DEFAULT_SETTLE = 5.0
"""The settle window in seconds that publishers and workers have by default."""

MAX_SETTLE = 3600.0
"""The longest settle window in seconds. A worker holds an event that long; SQS allows 12 hours."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """
    "Look at this entity again": the whole content of a broadcast.

    Attributes:
        id: The entity's id, text of 1 to 512 characters.
        settle: The publisher's settle window in seconds; None: the default of 5. A worker then
            waits for its own window, so that must not be shorter.
        phase: `"saving"` before a save that will be confirmed, `"saved"` when it has returned;
            None: no confirmation.
        save: Equal in the `saving` and `saved` events of one save; None: no confirmation.
    """

    id: str
    settle: float | None = None
    phase: Phase | None = None
    save: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What a sink knows of an id.

    Attributes:
        version: Grows with every successful `apply`, and is never used again; 0 if no `apply` has
            succeeded for the id. It has no other meaning.
        present: True if an entity is cached; False for a tombstone and for an unknown id.
        etag: The `ETag` that came with the cached entity, or None.
        digest: The `digest` of the `Found` that was stored, or None.
    """

    version: int = 0
    present: bool = False
    etag: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Found(Generic[T_co]):
    """
    The source has the entity.

    Attributes:
        value: The entity.
        etag: Its `ETag`. An early look sends it, and the source can answer 304. None: it sent none.
        digest: Equal only for equal entities. The look computes it from a value that JSON can hold,
            so a fetcher gives one only for other values. None: what is stored counts as changed.
    """

    value: T_co
    etag: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """
    The source still has what the cache holds: it answered 304, which only a GET that sent the
    entry's `etag` can get; or the look found an entity with the entry's `digest`.

    Attributes:
        etag: The `ETag` to store with the entity from now on; None: the stored one stays.
    """

    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The source says that the entity does not exist: it was deleted, or its save failed."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """
    A page of a listing.

    Attributes:
        ids: The ids on the page, in order, all different.
        found: Entities by id, if the listing shows them; None: ids only. An id that is missing here
            needs a look.
        cursor: Leads to the next page; None: this is the last one.
        total: How many entities the whole listing has, if that is known.
    """

    ids: Sequence[str]
    found: Mapping[str, Found[T_co]] | None
    cursor: str | None
    total: int | None = None


class Outcome(str, Enum):
    """What a look did to the cache. Members are text: `Outcome.CREATED == "created"`."""

    CREATED = "created"
    """Found, and not in the cache before."""
    UPDATED = "updated"
    """Found, and not known to equal the cached entity: its digest differs, or it has none."""
    UNCHANGED = "unchanged"
    """The cache was right already: an equal entity, or gone, and a tombstone is there."""
    DELETED = "deleted"
    """Gone, and in the cache until now."""
    NEVER_SAVED = "never_saved"
    """Gone, and the sink knows nothing of it: the save failed, or a delete followed it."""
