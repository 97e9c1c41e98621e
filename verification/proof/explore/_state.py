"""States of a world, as values."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from verification.proof.effects import Message

HELD = -1
"""Stands for the time until a message becomes visible, while a worker holds it."""

SPENT = "spent"
"""The fault of a schedule that has had one."""

FAILING_GETS = {"source answers 500": 500, "source answers 503": 503}
"""Faults of the source. A worker takes the first for the entity's own, and the second not."""

DOWN = tuple(f"source is down, {times}" for times in ("once", "twice", "three times"))
"""The faults of a schedule that has had so many GETs from a source that is down."""

FAULTS = (
    "visibility expires",
    "duplicate delivery",
    "worker crashes",
    "publisher crashes",
    "batch call half failed",
    *FAILING_GETS,
    DOWN[0],
    "SNS refuses",
    "left out of many",
    "save is cancelled",
    "publisher freezes",
    "backfill crashes",
    "left out of a page",
    "sink fails",
)


class Queued(NamedTuple):
    """
    A message in the queue.

    Attributes:
        name: Its name in a schedule; empty where schedules are only counted.
        message: Its content.
        visible_in: Ticks, or `HELD`.
        places: For each worker, its place among the messages that the worker holds, from 1; 0: the
            worker does not hold it.
        age: Ticks since SQS accepted it, up to the number from which on it settles at once; 0 where
            the setup has no aging.
    """

    name: str
    message: Message
    visible_in: int
    places: tuple[int, ...]
    age: int = 0


class Row(NamedTuple):
    """
    The cache's row.

    Attributes:
        version: Its version.
        present: The entity is present.
        number: The number in the entity that it holds.
        etag: The ETag that it has; the answer to a GET of many brings none.
        saw: The source's latest commit when the row's last look began its GET.
    """

    version: int
    present: bool
    number: int | None
    etag: str | None
    saw: int


NO_ROW = Row(0, False, None, None, 0)
"""What the cache has of an entity that it has never seen."""


class WorkerState(NamedTuple):
    """
    A worker, or a backfill.

    Attributes:
        number: Its state in its automaton.
        version: The version that its look has read.
    """

    number: int
    version: int


class Orphan(NamedTuple):
    """
    A commit that the database can still make, although its client has got an error or has died.

    Attributes:
        puts: It is a put, not a delete.
        in_time_for: For so many ticks it is still within the settle window.
    """

    puts: bool
    in_time_for: int


class State(NamedTuple):
    """
    Everything at one moment.

    Attributes:
        savers: The state of each saver in its automaton; None: it is dead.
        workers: The workers.
        queue: The messages in the queue.
        commits: How many commits the source has made.
        present: The entity is present at the source.
        row: The cache's row.
        fault: The fault that the schedule has had, or `SPENT`.
        orphans: Commits that can still come.
        filler: The backfill, if there is one.
    """

    savers: tuple[int | None, ...]
    workers: tuple[WorkerState, ...]
    queue: tuple[Queued, ...]
    commits: int
    present: bool
    row: Row
    fault: str | None
    orphans: tuple[Orphan, ...]
    filler: WorkerState | None = None


Step: TypeAlias = tuple[str, str]
"""Which process, and what it does."""


def replaced(values: tuple[Any, ...], position: int, value: Any) -> tuple[Any, ...]:
    """Return the values with another one at this position."""
    return (*values[:position], value, *values[position + 1 :])


def with_saver(state: State, index: int, number: int | None) -> State:
    """Return the state with a saver in another state of its automaton."""
    return state._replace(savers=replaced(state.savers, index, number))


@lru_cache(None)
def with_places(
    queue: tuple[Queued, ...], index: int, places: tuple[int, ...]
) -> tuple[Queued, ...]:
    """Return the queue with new places for a worker: `places` has the new one of each old one."""
    places = (0, *places)
    return tuple(
        queued._replace(places=replaced(queued.places, index, places[queued.places[index]]))
        for queued in queue
    )


def shown(queue: tuple[Queued, ...], index: int, places: Iterable[int]) -> tuple[Queued, ...]:
    """Return the queue with the messages at these places of a worker visible."""
    return tuple(
        queued._replace(visible_in=0) if queued.places[index] in places else queued
        for queued in queue
    )


def names_of(state: State, index: int, places: tuple[int, ...]) -> str:
    """Return the names of the messages at these places of a worker."""
    return ", ".join(queued.name for queued in state.queue if queued.places[index] in places)
