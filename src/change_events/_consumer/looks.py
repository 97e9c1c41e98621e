"""Looks at the ids that are due: alone, or many with one GET."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from change_events._consumer.backoff import asked_pause, is_source_wide, retry_pause
from change_events._consumer.log import log, log_failed_look, log_outage, log_return
from change_events._consumer.look import MAX_CONFLICTS, checked, never_stored, outcome
from change_events._event import Found, Gone
from change_events._text import printable
from change_events.exceptions import FetchError, MassDeletionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from change_events._consumer.consumer import Consumer
    from change_events._consumer.inbox import Held
    from change_events._consumer.log import ThrottledLog
    from change_events._consumer.look import Change
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally
    from change_events._consumer.visibility import Visibility
    from change_events._event import Entry, Outcome
    from change_events.typing import BulkFetcher

T = TypeVar("T")

BULK_PAUSE = 30.0
"""Seconds without a bulk GET after one that failed: if one hangs, every look waits for it."""

UNLIMITED = contextlib.nullcontext()
"""A slot for any number of GETs at once."""


@dataclass(eq=False, kw_only=True)
class Looks(Generic[T]):
    """
    Looks at ids that the desk has reserved, and tells the desk what came of it.

    `slot` is held during each GET. `wall_clock` is for measurements only. `halted` is the first
    error that a drain must not wait for: of an outage that began, or of a refused mass deletion.
    """

    settings: Settings[T]
    consumer: Consumer
    visibility: Visibility
    tally: Tally
    throttled: ThrottledLog
    slot: AbstractContextManager[object] = UNLIMITED
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    halted: Exception | None = field(default=None, init=False)

    def look(self, ids: Sequence[str]) -> Iterator[Sequence[Held]]:
        """Look at the reserved ids; yield the events to acknowledge after each look."""
        if len(ids) == 1:
            yield self.look_at(*ids)
        else:
            yield from self.look_together(ids)

    def look_at(self, id: str) -> Sequence[Held]:
        """Look at one id; return the events to acknowledge, none if the look decided nothing."""
        started, done, failure = self.clock(), None, None
        try:
            done = self._look(id)
        except Exception as error:  # of the source, of the user's fetcher or sink
            failure = error
        self.tally.meter.observe("look_seconds", self.clock() - started)
        if failure is not None:
            self._failed(id, failure)
        return [] if done is None else self._stored(id, done)

    def _look(self, id: str) -> Outcome | None:
        """Read the version, GET, ask the guard, store; None if the guard refuses."""
        fetcher, sink = self.settings.fetcher, self.settings.sink
        for attempt in range(MAX_CONFLICTS):
            entry = sink.entry(id)
            with self.slot:
                self._begin_get([id], again=attempt > 0)
                change = self._fetch(id, entry.etag)
            change = checked(change, id, entry, fetcher)
            if not self._allowed(id, entry, change):
                return None
            if sink.apply(id, change, if_version=entry.version):
                return outcome(entry, change)
        raise never_stored(id, sink)

    def _fetch(self, id: str, etag: str | None) -> Change[T]:
        if not self.tally.meter.on:
            return self.settings.fetcher.fetch(id, etag=etag)
        with self._measured() as answer:
            change = self.settings.fetcher.fetch(id, etag=etag)
            answer.name = type(change).__name__.lower()
            return change

    def look_together(self, ids: Sequence[str]) -> Iterator[Sequence[Held]]:
        """
        Look at the reserved ids with one GET; each entity is stored as by a look of its own.

        An id for which the GET decides nothing, or which another worker has changed meanwhile, is
        due again at once, for a look alone.
        """
        started = self.clock()
        found = self._read_together(ids)
        self._look_alone([id for id in ids if id not in found])
        for id, (entry, change) in found.items():
            yield self._store(id, entry, change, started)

    def _read_together(self, ids: Sequence[str]) -> dict[str, tuple[Entry, Found[T]]]:
        """Read all versions, GET; what the answer lacks is undecided, and never gone."""
        fetcher, sink = cast("BulkFetcher[T]", self.settings.fetcher), self.settings.sink
        try:
            entries = {id: sink.entry(id) for id in ids}
            with self.slot:
                self._begin_get(ids)
                with self._measured() as answer:
                    changes = fetcher.fetch_many(ids)
                    answer.name, answer.number = "found", sum(id in changes for id in ids)
            return {
                id: (entry, changes[id])
                for id, entry in entries.items()
                if isinstance(changes.get(id), Found)
            }
        except Exception as error:  # the looks alone will tell what is broken
            with self.consumer as desk:
                desk.stop_bulk(self.clock() + max(BULK_PAUSE, asked_pause(error)))
            self.throttled.warn(
                "looking at many ids at once failed, so each is looked at alone: %s",
                error,
                action="look_together",
            )
            return {}

    def _store(self, id: str, entry: Entry, change: Found[T], started: float) -> Sequence[Held]:
        try:
            stored = self._allowed(id, entry, change) and self.settings.sink.apply(
                id, change, if_version=entry.version
            )
        except Exception as error:
            self.throttled.warn(
                "storing what a bulk GET has found failed, so it is looked at alone: %s",
                error,
                action="look_together",
            )
            self._look_alone([id])
            return []
        if not stored:
            self.tally.add("conflicts")
            self._look_alone([id])
            return []
        self.tally.meter.observe("look_seconds", self.clock() - started)
        return self._stored(id, outcome(entry, change))

    def _begin_get(self, ids: Sequence[str], *, again: bool = False) -> None:
        self.tally.add("gets")
        if again:
            self.tally.add("conflicts")
        with self.consumer as desk:
            desk.begin_get(ids, self.clock(), again=again)

    def _look_alone(self, ids: Sequence[str]) -> None:
        if ids:
            with self.consumer as desk:
                desk.look_alone(ids, self.clock())

    def _allowed(self, id: str, entry: Entry, change: Change[T]) -> bool:
        """Ask the guard about a look at a cached entity; False if it must not be stored."""
        if not entry.present:
            return True
        with self.consumer as desk:
            was_down, was_tripped = desk.breaker.open, desk.guard.tripped
            if desk.allows(id, self.clock(), gone=isinstance(change, Gone)):
                return True
            error = MassDeletionError(
                f"{desk.guard}. Nothing more is deleted or received. If the source is wrong, mend "
                "it, or HTTPFetcher(url), and start the worker again; if it is right, call "
                "Worker.resume() or start with allow_mass_deletion=True"
            )
        if not was_tripped:
            self.halted = self.halted or error
            log.critical("%s", printable(error), extra={"action": "mass_deletion"})
        if was_down:
            log_return()
        return False

    def _stored(self, id: str, done: Outcome) -> Sequence[Held]:
        """Count a look that was stored; return the events that it settles."""
        log.debug("looked", extra={"action": "look", "id": id, "outcome": done.value})
        self._report(id, done)
        with self.consumer as desk:
            was_down = desk.breaker.open
            settled = desk.succeeded(id, self.clock())
        if self.tally.meter.on:
            self._measure_staleness("first", settled.first)
            self._measure_staleness("last", settled.events)
        if was_down:
            log_return()
        return settled.events

    def _failed(self, id: str, error: Exception) -> None:
        self.tally.add("failed")
        with self.consumer as desk:
            failure = desk.failed(
                id,
                self.clock(),
                retry_after=asked_pause(error),
                source_wide=is_source_wide(error),
            )
        if failure.events:
            self.tally.add("retries", len(failure.events))
            pause = retry_pause(error, max(event.receive_count for event in failure.events))
            log_failed_look(id, error, pause)
            self.visibility.hand_back([(each.receipt_handle, pause) for each in failure.events])
        elif failure.outage:
            if failure.begins:
                self.halted = self.halted or error
            log_outage(error, failure.pause, begins=failure.begins)

    def _report(self, id: str, done: Outcome) -> None:
        self.tally.add(done.value)
        if self.settings.on_outcome is not None:
            try:
                self.settings.on_outcome(id, done)
            except Exception:  # the user's; the look stands
                log.exception("on_outcome failed", extra={"action": "report", "id": id})

    def _measure_staleness(self, which: str, events: Sequence[Held]) -> None:
        now = self.wall_clock()
        for event in events:
            if event.sent is not None:
                age = max(0.0, now - event.sent)
                self.tally.meter.observe("staleness_seconds", age, look=which)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[_Answer]:
        """Measure a GET: how long it takes, and what comes of it."""
        answer, started = _Answer(), self.clock()
        try:
            yield answer
        except FetchError as error:
            answer.name = answer_of(error)
            raise
        finally:
            self.tally.meter.observe("get_seconds", self.clock() - started)
            if answer.number:
                self.tally.meter.count("answers", answer.number, answer=answer.name)


@dataclass(slots=True)
class _Answer:
    """What came of a GET: a name for it, and of how many entities."""

    name: str = "error"
    number: int = 1


def answer_of(error: FetchError) -> str:
    """Return a failed GET's status; `none` without a response, `unusable` for a bad 200."""
    if error.status is None:
        return "none"
    if error.status == 200:
        return "unusable"
    # Not each number: a metric's label must not have a thousand values.
    return str(error.status) if 100 <= error.status <= 599 else "other"
