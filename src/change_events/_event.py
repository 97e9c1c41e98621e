"""The values that travel between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Phase: TypeAlias = Literal["saving", "saved"]

DEFAULT_SETTLE = 5.0
"""The settle window in seconds, of publishers and of workers, unless they say otherwise."""

MAX_SETTLE = 3600.0
"""
The longest settle window in seconds: an event is held for so long, and SQS holds a message for
twelve hours at the most.
"""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """
    "Look at this entity again": the whole content of a broadcast.

    Attributes:
        id: The entity's id, text of 1 to 512 characters.
        settle: The settle window in seconds that the publisher keeps to; None: the default of 5.
        phase: `"saving"` before a save that will be confirmed, `"saved"` once it has returned;
            None: no confirmation.
        save: What `saving` and `saved` of one save have in common; None: no confirmation.
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
        version: Grows with every successful `apply`, and never comes again; 0 if the id was never
            touched. Beyond that it means nothing.
        present: True if an entity is cached; False for a tombstone and for an id never seen.
        etag: The `ETag` that came with the cached entity, or None.
    """

    version: int = 0
    present: bool = False
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Found(Generic[T_co]):
    """
    The source has the entity.

    Attributes:
        value: The entity.
        etag: Its `ETag`, with which the next GET can ask for changes only; None if the source sent
            none.
    """

    value: T_co
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """
    The source still has what the cache holds (304). Only an answer to a GET that named the entry's
    `etag`.
    """


@dataclass(frozen=True, slots=True)
class Gone:
    """The source says that there is no such entity: deleted, or a save that failed."""


class Outcome(str, Enum):
    """What a look did to the cache. Members are text: `Outcome.CREATED == "created"`."""

    CREATED = "created"
    """Found, and not in the cache before."""
    UPDATED = "updated"
    """Found, with another `ETag` than the cached one (or with none, so that nobody can tell)."""
    UNCHANGED = "unchanged"
    """The cache was right already: same `ETag`, or gone and known to be."""
    DELETED = "deleted"
    """Gone, and in the cache until now."""
    NEVER_SAVED = "never_saved"
    """
    Gone, and never seen before: the save after the broadcast failed, or the entity was deleted
    since.
    """
