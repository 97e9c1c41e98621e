"""Looks that no event asked for: by hand, by an operation, or by code that needs one now."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from change_events._consumer.crew import Threads
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._consumer.log import log
from change_events._consumer.look import look
from change_events._event import Outcome
from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError
from change_events.traces import note

if TYPE_CHECKING:
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")


def required_id(id: object) -> str:
    """
    Return an id as text.

    Raises:
        ConfigurationError: It can't be an id.
    """
    try:
        return checked_id(id)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def own_deletions(
    sink: object, fetcher: object, *, allow: bool, threads: Threads | None = None
) -> Deletions:
    """Return what asks a guard of its own, which refuses nothing if `allow`."""
    threads = threads or Threads()
    return Deletions(
        Guard(on=not allow, clock=threads.wall_clock),
        sink,
        fetcher,
        lock=threading.Lock(),
        one_at_a_time=threads.semaphore(1),
    )


def guarded_look(
    id: str, *, fetcher: Fetcher[T], sink: Sink[T], deletions: Deletions, force: bool = False
) -> Outcome:
    """
    Look at an entity now, unless the guard refuses to believe that it is gone.

    It is a look that settles: it asks for the whole entity. `force`: see `look`.

    Raises:
        MassDeletionError: The guard refuses. The cache stays as it was.
        Exception: The fetcher or the sink raised it. The cache stays as it was.
    """
    looked = look(id, fetcher=fetcher, sink=sink, before_gone=deletions.require, force=force)
    if looked.found:
        deletions.found(cached=looked.cached)
    return looked.outcome or Outcome.UNCHANGED  # only an early look has none


def counted_look(
    id: object, settings: Settings[Any], deletions: Deletions, tally: Tally
) -> Outcome:
    """Look at an entity as `guarded_look` does; count it and report it as a worker does."""
    checked = required_id(id)
    tally.add("gets")
    traces = settings.traces
    with nullcontext() if traces is None else traces.looking_here(settings.queue_url, checked):
        outcome = guarded_look(
            checked, fetcher=settings.fetcher, sink=settings.sink, deletions=deletions
        )
        note(outcome.value)
    report(checked, outcome, settings, tally)
    return outcome


def report(id: str, done: Outcome, settings: Settings[Any], tally: Tally) -> None:
    """Count a look that was stored, and tell `on_outcome`."""
    tally.add(done.value)
    if settings.on_outcome is not None:
        try:
            settings.on_outcome(id, done)
        except Exception:  # the user's; the look stands
            log.exception("on_outcome failed", extra={"action": "report", "id": id})
