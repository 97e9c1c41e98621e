"""Looks at the ids that are due: alone, or many with one GET."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from change_events._consumer.backoff import asked_pause, is_limited, is_own
from change_events._consumer.by_hand import counted_look, report
from change_events._consumer.experiment import Failed
from change_events._consumer.log import log, log_failed_look, log_outage, log_return
from change_events._consumer.look import (
    MAX_CONFLICTS,
    compared,
    entry_of,
    etag_to_send,
    is_new,
    never_stored,
    outcome,
    stored,
)
from change_events._consumer.measure import measure_staleness, measured_get, timed_get
from change_events._event import Entry, Found, Gone
from change_events.exceptions import MassDeletionError
from change_events.traces import note
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from change_events._consumer.consumer import Consumer
    from change_events._consumer.deletions import Deletions
    from change_events._consumer.desk import Verdict
    from change_events._consumer.inbox import Held
    from change_events._consumer.log import ThrottledLog
    from change_events._consumer.look import Change
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally
    from change_events._consumer.visibility import Visibility
    from change_events._event import Outcome
    from change_events.traces import OpenTelemetryTraces
    from change_events.typing import BulkFetcher, Sink

T = TypeVar("T")

BULK_PAUSE = 30.0
"""Seconds without a bulk GET after one that failed: if one hangs, every look waits for it."""

SAMPLED = 1000
"""Ids of the sink from which good ones are taken, spread: neighbours can be broken together."""


@dataclass(eq=False, kw_only=True)
class Looks(Generic[T]):
    """
    Looks at ids that the desk has reserved, and tells the desk what came of it.

    `slot` is held during each GET. `wall_clock` is for measurements only. `halted` is the first
    error that a drain must not wait for: of an outage that began, or of a refused mass deletion.
    `on_halt` is called with it.
    """

    settings: Settings[T]
    consumer: Consumer
    deletions: Deletions
    visibility: Visibility
    tally: Tally
    throttled: ThrottledLog
    slot: AbstractContextManager[object]
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    on_halt: Callable[[Exception], object] | None = None
    halted: Exception | None = field(default=None, init=False)

    def look(self, ids: Sequence[str]) -> Iterator[Sequence[Held]]:
        """Look at the reserved ids; yield the events to acknowledge after each look."""
        traces = self.settings.traces
        return self._look_at_all(ids) if traces is None else self._traced(ids, traces)

    def _traced(self, ids: Sequence[str], traces: OpenTelemetryTraces) -> Iterator[Sequence[Held]]:
        with self.consumer as desk:
            events = [event for id in ids for event in desk.inbox.expiring(math.inf, id)]
        with traces.looking(self.settings.queue_url, ids, events):
            yield from self._look_at_all(ids)

    def _look_at_all(self, ids: Sequence[str]) -> Iterator[Sequence[Held]]:
        with contextlib.suppress(_PutOffError):
            if len(ids) == 1:
                yield self.look_at(*ids)
            else:
                yield from self.look_together(ids)

    def look_at(self, id: str) -> Sequence[Held]:
        """Look at one id; return the events to acknowledge, none if the look decided nothing."""
        started, done, failed = self.clock(), None, None
        entry: Entry | None = None
        try:
            entry = entry_of(self.settings.sink, id)
            done = self._look(id, entry)
        except _PutOffError:
            raise
        except Exception as error:  # of the source, of the user's fetcher or sink
            # If even the entry can't be read, the entity has no part in it.
            own = entry is not None and is_own(error)
            failed = Failed(error, own, asked_pause(error), limited=is_limited(error))
        self.tally.meter.observe("look_seconds", self.clock() - started)
        if failed is not None:
            self._failed(id, failed)
        return [] if done is None else self._stored(id, done, started)

    def _look(self, id: str, entry: Entry) -> _Done | None:
        """GET, ask the guard, store; None if nothing is: too early, or refused."""
        fetcher, sink = self.settings.fetcher, self.settings.sink
        for attempt in range(MAX_CONFLICTS):
            with self.slot:
                early = self._begin_get([id], again=attempt > 0)
                etag = etag_to_send(entry, fetcher, early=bool(early))
                with timed_get(self.consumer.answers, self.clock):
                    change = self._fetch(id, etag)
            change = compared(change, id, entry, fetcher, etag)
            if isinstance(change, Gone) and self._refused(id, entry):
                return None
            if early and not is_new(entry, change):
                self._too_early(id, entry)
                return None
            if stored(sink, id, change, entry):
                return _Done(entry, change)
            entry = entry_of(sink, id)
        raise never_stored(id, sink)

    def _fetch(self, id: str, etag: str | None) -> Change[T]:
        if not self.tally.meter.on:
            return self.settings.fetcher.fetch(id, etag=etag)
        with measured_get(self.tally.meter, self.clock) as answer:
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
        found, early = self._read_together(ids)
        self._look_alone([id for id in ids if id not in found])
        for id, done in found.items():
            if id in early and not is_new(*done):
                self._too_early(id, done.entry)
            else:
                yield self._store(id, done, started)

    def _read_together(self, ids: Sequence[str]) -> tuple[dict[str, _Done], set[str]]:
        """Read all versions, GET; return what was found, and whose look is early."""
        fetcher, sink = cast("BulkFetcher[T]", self.settings.fetcher), self.settings.sink
        try:
            entries = {id: entry_of(sink, id) for id in ids}
            with self.slot:
                early = self._begin_get(ids)
                timed = timed_get(self.consumer.answers, self.clock, len(ids))
                with timed, measured_get(self.tally.meter, self.clock) as answer:
                    changes = fetcher.fetch_many(ids)
                    answer.name, answer.number = "found", sum(id in changes for id in ids)
            found = {
                id: _Done(entry, compared(changes[id], id, entry, fetcher, None))
                for id, entry in entries.items()
                if isinstance(changes.get(id), Found)
            }
        except _PutOffError:
            raise
        except Exception as error:  # the looks alone will tell what is broken
            note("failed", error=error)
            with self.consumer as desk:
                desk.gets.stop_bulk(self.clock() + max(BULK_PAUSE, asked_pause(error)), len(ids))
            self.throttled.warn(
                "looking at many ids at once failed, so each is looked at alone: %s",
                error,
                action="look_together",
            )
            return {}, set()
        return found, early

    def _store(self, id: str, done: _Done, started: float) -> Sequence[Held]:
        try:
            applied = stored(self.settings.sink, id, done.change, done.entry)
        except Exception as error:
            self.throttled.warn(
                "storing what a bulk GET has found failed, so it is looked at alone: %s",
                error,
                action="look_together",
            )
            self._look_alone([id])
            return []
        if not applied:
            self.tally.add("conflicts")
            self._look_alone([id])
            return []
        self.tally.meter.observe("look_seconds", self.clock() - started)
        return self._stored(id, done, started)

    def _begin_get(self, ids: Sequence[str], *, again: bool = False) -> set[str]:
        """Note that a GET starts; return the ids whose look is early."""
        if again:
            self.tally.add("conflicts")
        early = self.consumer.begin_get(ids, again=again)
        if early is None:
            note("put_off")
            raise _PutOffError
        self.tally.add("gets")
        return early

    def _look_alone(self, ids: Sequence[str]) -> None:
        if ids:
            with self.consumer as desk:
                desk.look_again(ids, self.clock(), alone=True)

    def _too_early(self, id: str, entry: Entry) -> None:
        log.debug("looked", extra={"action": "look", "id": id, "outcome": "too_early"})
        self.tally.add("too_early")
        note("too_early")
        with self.consumer as desk:
            desk.too_early(id, self.clock(), cached=entry.present)

    def _refused(self, id: str, entry: Entry) -> bool:
        """Ask the guard whether to believe that an entity is gone; True if it refuses."""
        refusal = self.deletions.refused(id, entry)
        if refusal is None:
            return False
        self._halt(refusal)
        note("refused", error=refusal)
        with self.consumer as desk:
            was_down = desk.breaker.open
            desk.refused(id, self.clock())
        if was_down:
            log_return()
        return True

    def look_by_hand(self, id: object) -> Outcome:
        """Look at any id now, in the caller's thread, as `Worker.refresh` describes it."""
        try:
            return counted_look(id, self.settings, self.deletions, self.tally)
        except MassDeletionError as refusal:
            self._halt(refusal)
            raise

    def _halt(self, error: Exception) -> None:
        self.halted = self.halted or error
        if self.on_halt is not None:
            self.on_halt(self.halted)

    def _stored(self, id: str, done: _Done, started: float) -> Sequence[Held]:
        """Count a look that was stored; return the events that it settles."""
        what, found = outcome(*done), not isinstance(done.change, Gone)
        log.debug("looked", extra={"action": "look", "id": id, "outcome": what.value})
        report(id, what, self.settings, self.tally)
        with self.consumer as desk:
            was_down = desk.breaker.open
            settled = desk.succeeded(
                id, self.clock(), started=started, found=found, cached=done.entry.present
            )
        note(what.value, settled.events)
        if self.tally.meter.on:
            now = self.wall_clock()
            measure_staleness(self.tally.meter, "first", settled.first, now)
            measure_staleness(self.tally.meter, "last", settled.events, now)
        if was_down:
            log_return()
        self._hand_back(settled.at_fault)
        return settled.events

    def _failed(self, id: str, failed: Failed) -> None:
        self.tally.add("failed")
        note("failed", error=failed.error)
        self._learn_ids(id)
        with self.consumer as desk:
            failure = desk.failed(id, self.clock(), failed)
        self._hand_back(failure.at_fault)
        if failure.outage:
            if failure.begins:
                self._halt(failed.error)
            log_outage(failed.error, failure.pause, begins=failure.begins)

    def _learn_ids(self, id: str) -> None:
        """Ask the sink for ids that are good, if none is known but the failing ones."""
        with self.consumer as desk:
            number = desk.experiment.wants_ids(id, self.clock())
        if number:
            ids = _sample(self.settings.sink, number)
            with self.consumer as desk:
                desk.experiment.learn(ids, self.clock())

    def _hand_back(self, at_fault: Sequence[Verdict]) -> None:
        """Log whose own fault it is that a look failed, and hand back their events."""
        for id, error, events, pause in at_fault:
            log_failed_look(id, error, pause)
            if events:
                self.tally.add("retries", len(events))
        self.visibility.hand_back(
            [(event.receipt_handle, each.pause) for each in at_fault for event in each.events]
        )


def _sample(sink: Sink[Any], number: int) -> Sequence[str]:
    """Return about so many ids that the sink has; none if it can't say."""
    ids: Sequence[str] = []
    if isinstance(sink, EnumerableSink):
        with contextlib.suppress(Exception):  # then the look has failed for that reason
            ids = sink.ids(limit=max(number, SAMPLED))
    return ids[:: max(1, len(ids) // number)]


class _PutOffError(Exception):
    """No GET may start any more, so the ids of the look are due again."""


class _Done(NamedTuple):
    """A look that was stored, or found nothing new: the entry that it read, and what it found."""

    entry: Entry
    change: Change[Any]
