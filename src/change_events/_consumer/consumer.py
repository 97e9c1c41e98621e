"""
What a worker does, one step at a time: no thread, no loop, no waiting. Its caller brings these.

A step is one call to a collaborator, or the steps between two such calls. They may be taken from
several threads at once.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from change_events._codec import decode
from change_events._consumer.breaker import Breaker, Pace
from change_events._consumer.guard import Guard
from change_events._consumer.health import MASS_DELETION, SOURCE_DOWN, Pauses
from change_events._consumer.inbox import Held, Inbox
from change_events._consumer.look import UNLIMITED, look, read_together, store
from change_events._consumer.queue import MAX_VISIBILITY, Message, Queue, batches
from change_events._event import Gone, Outcome
from change_events._meter import Meter, measured
from change_events.exceptions import DecodeError, FetchError, MassDeletionError
from change_events.typing import BulkFetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from change_events._event import ChangeEvent, Entry, Found, Unchanged
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

log = logging.getLogger("change_events")

MAX_PAUSE = 300.0
"""
Seconds that an id is left alone after failed looks, at the most, unless the source asks for more.
"""

MAX_ASKED_PAUSE = 3600.0
"""Seconds that an id is left alone at the most, whatever the source asks for."""

MAX_PROBE_PAUSE = 60.0
"""Seconds between looks in an outage of the source, at the most, unless it asks for more."""

NO_ENTITYS_OWN = {None, 401, 429, 502, 503, 504}
"""
How a GET fails, by status, that would have failed for any other entity, too; None: without an
answer, or half of one.
"""

COMPLAINT_PAUSE = 30.0
"""
Seconds between lines in the log about calls to SQS that fail, or bulk GETs: in an outage all do.
"""

BULK_PAUSE = 30.0
"""
Seconds without a bulk GET after one that failed: whatever hangs there would keep every look
waiting.
"""

LONGEST_HOLD = MAX_VISIBILITY - 3600.0
"""Seconds after which a message is handed back: soon SQS would let nobody extend it any more."""

MALFORMED_REMEMBERED = 1000
"""How many malformed messages are remembered, so that each is logged once."""


LOOKS = {outcome.value for outcome in Outcome} | {"failed"}
"""The counts of looks, which are one metric."""


@dataclass(frozen=True, slots=True)
class Stats:
    """
    What a worker has done since it was made.

    Attributes:
        received: Deliveries taken from the queue.
        malformed: Deliveries that are no change events, or not from the topic.
        unverified: Deliveries that went back to the queue for a while, as the certificate of their
            signature could not be had.
        gets: GETs begun.
        created: Looks that found an entity new to the cache. The next four count looks, too.
        updated: Found, and another than the cached one.
        unchanged: Found as cached, or gone as known.
        deleted: Gone, and cached until then.
        never_saved: Gone, and never seen.
        conflicts: Looks begun anew, as another worker had changed the entry in between.
        failed: Looks that decided nothing; their events went back to the queue for a while or, in
            an outage, are held.
        retries: Events that went back so.
        acknowledged: Deliveries deleted from the queue.
        ack_failures: Attempts to delete a delivery that failed.
        held: Events in the worker's hands now.
    """

    received: int = 0
    malformed: int = 0
    unverified: int = 0
    gets: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    never_saved: int = 0
    conflicts: int = 0
    failed: int = 0
    retries: int = 0
    acknowledged: int = 0
    ack_failures: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Generic[T]):
    """What a worker was made with; see there."""

    queue: Queue
    fetcher: Fetcher[T]
    sink: Sink[T]
    settle: float
    early_look: bool
    prefetch: int
    threads: int
    batch_size: int
    wait_time: int
    visibility_timeout: int
    shutdown_timeout: float
    on_outcome: Callable[[str, Outcome], object] | None
    topic_arn: str | None = None
    verify: Callable[[Mapping[str, object]], object] | None = None
    max_gets_per_second: float | None = None
    probe_pause: Callable[[int], float] = lambda failures: pause_after(failures, MAX_PROBE_PAUSE)


class Tally:
    """
    Counts that several threads add to.

    Args:
        meter: Is told of each, too.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.meter = meter or Meter()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number
        if name in LOOKS:
            self.meter.count("looks", number, outcome=name)
        else:
            self.meter.count(name, number)

    def set(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] = number
        self.meter.gauge(name, number)

    def read(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()


class Consumer(Generic[T]):
    """
    The steps of a worker, and the events in its hands.

    Args:
        settings: The worker's.
        tally: Where to count.
        changed: Called, with the lock held, with the number of events whose next look may now be
            the first that is due; or with 0 when some were let go, and there may be room.
        clock: Tells monotonic seconds.
        guard: The worker's, which outlasts a run.
        halted: Called with an error that keeps the consumer from going on by itself: an outage of
            the source, a mass deletion.
        wall_clock: Tells seconds since the epoch, to measure by.
        slot: Is held for every GET.

    Attributes:
        lock: Guards the inbox, and that nothing enters it once it is closed; and the next four.
        inbox: The events that are held.
        receiving: How many receives are under way.
        backlog: Whether the last one came full, so that there seems to be more. Of one message that
            says nothing.
        breaker: Whether the source is down.
        guard: Whether a mass deletion was refused.
        pauses: Why nothing is received, for whoever stops receiving to say.
    """

    def __init__(
        self,
        settings: Settings[T],
        tally: Tally,
        *,
        changed: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
        guard: Guard | None = None,
        halted: Callable[[Exception], object] = lambda _: None,
        wall_clock: Callable[[], float] = time.time,
        slot: AbstractContextManager[object] = UNLIMITED,
    ) -> None:
        self.lock = threading.Lock()
        self.inbox = Inbox(early_look=settings.early_look)
        self.receiving = 0
        self.backlog = False
        self.pauses = Pauses(tally.meter, clock=clock)
        self.breaker = Breaker(settings.probe_pause)
        self.guard = guard or Guard()
        if self.guard.tripped:
            self.pauses.begin(MASS_DELETION)
        self._pace = Pace(settings.max_gets_per_second)
        self._halted = halted
        self._settings = settings
        self._queue = settings.queue
        self._tally = tally
        self._changed = changed
        self._meter = tally.meter
        self._clock = clock
        self._wall_clock = wall_clock
        self._slot = slot
        self._fetcher = measured(settings.fetcher, tally.meter, clock)
        self._bulk = self._fetcher if isinstance(self._fetcher, BulkFetcher) else None
        self._bulk_at = -math.inf
        self._delay = math.inf
        self._closed = False
        self._malformed = MalformedLog()
        self._complain_at = -math.inf

    def ask_delay(self) -> float:
        """
        Ask the queue for its delay, and return the shortest it has answered: older messages had
        that one.

        Raises:
            ConfigurationError: The queue can't be read.
        """
        self._delay = min(self._delay, self._queue.open(wait=self._settings.wait_time))
        return self._delay

    def receive(self, *, wait: int) -> list[Message]:
        """
        Long-poll for messages, and hold their events. Does nothing if others are about to take all
        the room there is.
        """
        with self.lock:
            if self.receiving and self.full:
                return []
            self.receiving += 1
            most = 1 if self.breaker.open else self._settings.batch_size
        messages: list[Message] = []
        events: list[Held] = []
        undecided: list[tuple[str, float]] = []
        try:
            messages = self._queue.receive(
                most=most, wait=wait, visibility=self._settings.visibility_timeout
            )
            events, undecided = self._decode(messages)
        finally:
            with self.lock:
                self.receiving -= 1
                self.backlog = len(messages) == self._settings.batch_size > 1
                refused = self._hold(events)
        self._hand_back(undecided + refused)
        return messages

    @property
    def full(self) -> bool:
        """Whether another batch would be more than may be held; with the lock held."""
        return (
            len(self.inbox) + (self.receiving + 1) * self._settings.batch_size
            > self._settings.prefetch
        )

    def may_receive(self) -> bool:
        """
        Return whether to receive; with the lock held.

        Not in an outage, but for one message after each look when all ids that are held were tried
        in vain: for it may be that these are broken, and not the source.
        """
        if self.guard.tripped or self.full:
            return False
        breaker = self.breaker
        return not breaker.open or (
            breaker.failures > self.inbox.ids
            and breaker.look_at < math.inf
            and self.inbox.next_at() is None
        )

    def may_help_receive(self) -> bool:
        """Return whether one receive at a time is too few; with the lock held."""
        return self.backlog and not self.breaker.open and self.may_receive()

    def next(self, now: float) -> str | None:
        """
        Reserve the id to look at now; None if there is none, or the source is to be left alone.
        With the lock held.
        """
        if self.guard.tripped or now < max(self.breaker.look_at, self._pace.look_at):
            return None
        id = self.inbox.next(now) or (self.inbox.retry() if self.breaker.open else None)
        if id is not None:
            self.breaker.begin(id)
            self._pace.begin(now)
        return id

    def company(self, id: str, now: float) -> list[str]:
        """
        Reserve more ids that are due, to look at them together with the reserved one. With the lock
        held.
        """
        if self._bulk is None or self.breaker.open or now < self._bulk_at:
            return []
        return self.inbox.company(id, now, self._bulk.bulk_size - 1)

    def next_at(self) -> float | None:
        """
        Return when to ask for the next id, in monotonic seconds; None: when something has changed.
        With the lock held.
        """
        at = (
            -math.inf
            if self.breaker.open and self.inbox.parked() is not None
            else self.inbox.next_at()
        )
        if at is None or self.guard.tripped or self.breaker.look_at == math.inf:
            return None
        return max(at, self.breaker.look_at, self._pace.look_at)

    def resume(self) -> None:
        """Go on after a mass deletion was refused."""
        with self.lock:
            self.guard.resume()
            self.pauses.end(MASS_DELETION)
            self._release()
            self._let_go()

    def look(self, id: str) -> list[Held]:
        """
        Look at an id that the inbox has reserved.

        Returns:
            The events to acknowledge; no events if the look decided nothing: they have gone back to
            the queue or are held.
        """
        gets = itertools.count()

        def on_get() -> None:
            self._tally.add("gets")
            again = next(gets)
            if again:
                self._tally.add("conflicts")
            with self.lock:
                if again:
                    self._pace.begin(self._clock())
                self.inbox.freeze(id, self._clock())

        try:
            outcome = self._timed_look(id, on_get)
        except MassDeletionError:
            self._look_refused(id)
            return []
        except Exception as error:  # of the source, of the user's fetcher or sink: the event must be looked at again
            self._look_failed(id, error)
            return []
        return self._looked(id, outcome)

    def look_together(self, ids: Sequence[str]) -> Iterator[list[Held]]:
        """
        Look at ids that the inbox has reserved, all with one bulk GET.

        Where it decides nothing (nowhere, if it failed) or another worker got there first, that is
        no look: the id is due again at once, for a look alone.

        Yields:
            The events to acknowledge, of one id after the other: they are no longer held, while the
            next is stored.
        """
        started = self._clock()
        found = self._read_together(ids)
        self._look_alone([id for id in ids if id not in found])
        for id, (entry, change) in found.items():
            yield self._store(id, entry, change, started)

    def _read_together(self, ids: Sequence[str]) -> dict[str, tuple[Entry, Found[T]]]:
        def on_get() -> None:
            self._tally.add("gets")
            with self.lock:
                now = self._clock()
                for id in ids:
                    self.inbox.freeze(id, now)

        fetcher = cast("BulkFetcher[T]", self._fetcher)
        try:
            return read_together(
                ids, fetcher=fetcher, sink=self._settings.sink, on_get=on_get, slot=self._slot
            )
        except Exception as error:  # as for a look; those that follow will tell what is broken
            self._bulk_at = self._clock() + max(BULK_PAUSE, _asked_pause(error))
            self._complain(
                "looking at many ids at once failed, so each is looked at alone: %s",
                error,
                "look_together",
            )
            return {}

    def _store(self, id: str, entry: Entry, change: Found[T], started: float) -> list[Held]:
        try:
            outcome = store(
                id, entry, change, sink=self._settings.sink, before_apply=self._watch_deletions
            )
        except Exception as error:  # likewise
            self._complain(
                "storing what a bulk GET has found failed, so it is looked at alone: %s",
                error,
                "look_together",
            )
            self._look_alone([id])
            return []
        if outcome is None:
            self._tally.add("conflicts")
            self._look_alone([id])
            return []
        self._meter.observe("look_seconds", self._clock() - started)
        return self._looked(id, outcome)

    def _look_alone(self, ids: Sequence[str]) -> None:
        if ids:
            with self.lock:
                now = self._clock()
                for id in ids:
                    self.inbox.look_alone(id, now)
                self._changed(len(ids))

    def _looked(self, id: str, outcome: Outcome) -> list[Held]:
        """Return the events that a look has settled."""
        log.debug("looked", extra={"action": "look", "id": id, "outcome": outcome.value})
        self._report(id, outcome)
        with self.lock:
            first = self.inbox.first_looked(id) if self._meter.on else []
            settled = self.inbox.settle(id)
            if id in self.inbox:
                self._changed(1)  # it waits for its next look, maybe sooner than all others do
            back = self._source_answered()
        self._measure_staleness(first=first, last=settled)
        if back:
            _log_return()
        return settled

    def acknowledge(self, receipt_handles: Sequence[str]) -> Sequence[str]:
        """Delete up to ten deliveries; return those that may be tried again."""
        try:
            deleted, again = self._queue.delete(receipt_handles)
        except Exception as error:  # boto3 has tried again already; what stays undeleted comes back
            self._complain("acknowledging failed: %s", error, "acknowledge")
            self._tally.add("ack_failures", len(receipt_handles))
            return receipt_handles
        self._tally.add("acknowledged", deleted)
        if deleted < len(receipt_handles):
            self._tally.add("ack_failures", len(receipt_handles) - deleted)
        return again

    def extend(self, before: float) -> None:
        """Keep invisible for another visibility timeout what would become visible before then."""
        self._hand_back_what_is_held_too_long()
        with self.lock:
            expiring = self.inbox.expiring(before)
        for batch in batches(expiring):
            if not self._extend(batch):
                return  # the next beat makes up for it; the other calls would take as long to fail

    def close(self) -> None:
        """Hold nothing that comes in from now on; it goes back at once."""
        with self.lock:
            self._closed = True

    def hand_back_all(self) -> None:
        """
        Let go of everything, and make each message visible to all workers when its window is over.
        """
        with self.lock:
            held = self.inbox.clear()
            self._let_go()
        now = self._clock()
        self._hand_back([(event.receipt_handle, max(0.0, event.due - now)) for event in held])

    def _hand_back_what_is_held_too_long(self) -> None:
        before = self._clock() - LONGEST_HOLD
        dropped = self._drop(lambda event: event.received < before)
        self._hand_back([(event.receipt_handle, 0.0) for event in dropped])

    def _drop(self, unwanted: Callable[[Held], bool]) -> list[Held]:
        with self.lock:
            dropped = self.inbox.drop(filter(unwanted, self.inbox.expiring(math.inf)))
            if dropped:
                self._let_go()
            return dropped

    def _extend(self, events: Sequence[Held]) -> bool:
        now = self._clock()
        seconds = {event.receipt_handle: self._extension(event, now) for event in events}
        failed = self._change_visibility(list(seconds.items()))
        if failed is None:
            return False
        refused, again = failed
        if refused:  # their messages are no longer ours
            self._drop(lambda event: event.receipt_handle in refused)
        for event in events:
            if event.receipt_handle in seconds and event.receipt_handle not in again:
                event.expires = now + seconds[event.receipt_handle]
        return True

    def _extension(self, event: Held, now: float) -> float:
        most = (
            event.received + MAX_VISIBILITY - 60 - now
        )  # SQS may have begun to count earlier than we
        return max(0.0, min(self._settings.visibility_timeout, most))

    def _hold(self, events: Sequence[Held]) -> list[tuple[str, float]]:
        """
        Hold them, unless nothing is held any more: then they are to go back at once. With the lock
        held.
        """
        if self._closed:
            return [(event.receipt_handle, 0.0) for event in events]
        for event in events:
            self.inbox.add(event, event.received, more=self.backlog)
        self._tally.set("held", len(self.inbox))
        self._changed(len(events) + self._hurry())
        return []

    def _hurry(self) -> int:
        """Let looks not wait for what will not come; return how many have."""
        if not self.backlog:
            return self.inbox.hurry()
        return self.inbox.make_room(self._settings.threads, self._clock()) if self.full else 0

    def _held(self, message: Message, event: ChangeEvent, now: float) -> Held:
        return Held(
            id=event.id,
            message_id=message.message_id,
            receipt_handle=message.receipt_handle,
            receive_count=message.receive_count,
            received=now,
            hold=max(0.0, window_of(event, self._settings.settle) - self._delay),
            expires=now + self._settings.visibility_timeout,
            phase=event.phase,
            save=event.save,
            sent=message.sent,
        )

    def _decode(self, messages: list[Message]) -> tuple[list[Held], list[tuple[str, float]]]:
        """
        Return the events; and which deliveries to hand back for how long, as nothing could be
        decided about them.
        """
        now = self._clock()
        self._tally.add("received", len(messages))
        events, undecided = [], []
        topic_arn, verify = self._settings.topic_arn, self._settings.verify
        for message in messages:
            try:
                event = decode(message.body, message.attributes, topic_arn=topic_arn, verify=verify)
                events.append(self._held(message, event, now))
            except DecodeError as error:
                self._tally.add("malformed")
                self._malformed.add(message.message_id, error)
            except FetchError as error:
                undecided.append((message.receipt_handle, self._unverified(message, error)))
        return events, undecided

    def _unverified(self, message: Message, error: FetchError) -> float:
        """Return how many seconds to leave the message alone."""
        self._tally.add("unverified")
        pause = _pause(error, message.receive_count)
        log.warning(
            "message %s can't be verified yet, again in %.0f s: %s",
            message.message_id,
            pause,
            error,
            extra={"action": "verify", "message_id": message.message_id, "pause": pause},
        )
        return pause

    def _timed_look(self, id: str, on_get: Callable[[], None]) -> Outcome:
        started = self._clock()
        try:
            sink, watch = self._settings.sink, self._watch_deletions
            return look(
                id,
                fetcher=self._fetcher,
                sink=sink,
                on_get=on_get,
                before_apply=watch,
                slot=self._slot,
            )
        finally:
            self._meter.observe("look_seconds", self._clock() - started)

    def _measure_staleness(self, **looked: list[Held]) -> None:
        if self._meter.on:
            now = self._wall_clock()
            for which, events in looked.items():
                for event in events:
                    if event.sent is not None:
                        self._meter.observe(
                            "staleness_seconds", max(0.0, now - event.sent), look=which
                        )

    def _report(self, id: str, outcome: Outcome) -> None:
        self._tally.add(outcome.value)
        if self._settings.on_outcome is not None:
            try:
                self._settings.on_outcome(id, outcome)
            except Exception:  # the user's; the look stands
                log.exception("on_outcome failed", extra={"action": "report", "id": id})

    def _watch_deletions(self, entry: Entry, change: Found[T] | Unchanged | Gone) -> None:
        if not entry.present:
            return
        with self.lock:
            was_tripped = self.guard.tripped
            if self.guard.allows(gone=isinstance(change, Gone)):
                return
            self.pauses.begin(MASS_DELETION)  # here, or it might begin after resume() has ended it
            error = MassDeletionError(
                f"{self.guard}. Nothing more is deleted or received. If the source is wrong, mend it, or HTTPFetcher(url), and "
                "start the worker again; if it is right, call Worker.resume() or start with allow_mass_deletion=True"
            )
        if not was_tripped:
            log.critical("%s", error, extra={"action": "mass_deletion"})
            self._halted(error)
        raise error

    def _look_refused(self, id: str) -> None:
        with self.lock:
            self.inbox.park(id)
            if not self.guard.tripped:  # somebody has said meanwhile that it is meant
                self._release()
            back = self._source_answered()
        if back:
            _log_return()

    def _source_answered(self) -> bool:
        """Return whether it was down; with the lock held."""
        was_open = self.breaker.open
        self.breaker.succeeded()
        if was_open:
            self.pauses.end(SOURCE_DOWN)
            self._release()
        self._let_go()
        return was_open

    def _release(self) -> None:
        self.inbox.release(self._clock())
        self._changed(len(self.inbox))

    def _look_failed(self, id: str, error: Exception) -> None:
        self._tally.add("failed")
        now = self._clock()
        with self.lock:
            was_open = self.breaker.open
            told = self.breaker.failed(
                id, now, _asked_pause(error), concerns_all=_concerns_all(error)
            )
            pause = self.breaker.look_at - now
            if told:
                self.pauses.begin(
                    SOURCE_DOWN
                )  # here, or it might begin after a look that succeeds has ended it
            events = self._park_or_give_up(id)
            self._let_go()
        if events:
            self._tally.add("retries", len(events))
            pause = pause_for(id, error, max(event.receive_count for event in events))
            self._hand_back([(event.receipt_handle, pause) for event in events])
        elif told:
            _log_outage(error, pause, begins=not was_open)
        if told and not was_open:
            self._halted(error)

    def _park_or_give_up(self, id: str) -> list[Held]:
        """
        Let go of the events of the id, and return them, unless it is the source that is broken and
        not the id.
        """
        if self.breaker.open:
            self.inbox.park(id)
            return []
        return self.inbox.give_up(id)

    def _let_go(self) -> None:
        self._tally.set("held", len(self.inbox))
        self._changed(0)

    def _hand_back(self, deliveries: Sequence[tuple[str, float]]) -> None:
        """Make messages visible to all workers, this one too, after so many seconds."""
        for batch in batches(deliveries):
            self._change_visibility(batch)

    def _change_visibility(
        self, deliveries: Sequence[tuple[str, float]]
    ) -> tuple[list[str], list[str]] | None:
        """Return what SQS refuses, as the queue does; None if it did not even answer."""
        try:
            return self._queue.change_visibility(deliveries)
        except Exception as error:  # the messages become visible by themselves
            self._complain("changing visibility failed: %s", error, "change_visibility")
            return None

    def _complain(self, text: str, error: Exception, action: str) -> None:
        now = self._clock()
        level = logging.WARNING if now >= self._complain_at else logging.DEBUG
        if level == logging.WARNING:
            self._complain_at = now + COMPLAINT_PAUSE
        log.log(level, text, error, extra={"action": action})


def _pause(error: Exception, receive_count: int) -> float:
    return max(pause_after(receive_count, MAX_PAUSE), _asked_pause(error))


def _asked_pause(error: Exception) -> float:
    """Return for how many seconds the source has asked to be left alone."""
    asked = (error.retry_after or 0.0) if isinstance(error, FetchError) else 0.0
    return min(asked, MAX_ASKED_PAUSE)


def _concerns_all(error: Exception) -> bool:
    """Say whether a look failed for a reason that is the source's, and not its entity's."""
    return isinstance(error, FetchError) and error.status in NO_ENTITYS_OWN


def _log_outage(error: Exception, pause: float, *, begins: bool) -> None:
    refused = isinstance(error, FetchError) and error.status in {401, 403}
    log.log(
        logging.ERROR if begins else logging.WARNING,
        "%s%s: looks failed in a row. Nothing is received until one succeeds; the next in %.0f s: %s",
        "" if begins else "still, ",
        "the source refuses our credentials (these are gone, not the entities)"
        if refused
        else "the source or the cache is down",
        pause,
        error,
        exc_info=error if begins and not isinstance(error, FetchError) else False,
        extra={"action": "outage", "over": False, "pause": pause},
    )


def _log_return() -> None:
    log.warning("the source is back", extra={"action": "outage", "over": True})


class MalformedLog:
    """Logs each message that is no change event once, however often it is delivered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[str, None] = {}

    def add(self, message_id: str, error: Exception) -> None:
        """Say what is wrong with the message, unless that was said before."""
        with self._lock:
            if message_id in self._logged:
                return
            self._logged[message_id] = None
            if len(self._logged) > MALFORMED_REMEMBERED:
                del self._logged[next(iter(self._logged))]
        log.error(
            "message %s is no change event and is left to the redrive policy: %s",
            message_id,
            error,
            extra={"action": "decode", "message_id": message_id},
        )


def window_of(event: ChangeEvent, settle: float) -> float:
    """
    Return the seconds that must pass before a look settles the event: the larger of the two
    windows; none for *saved*.
    """
    return 0.0 if event.phase == "saved" else max(settle, event.settle or 0.0)


def pause_for(id: str, error: Exception, receive_count: int) -> float:
    """
    Log a look that failed, and return for how many seconds to leave its events alone: no less than
    the source asks.
    """
    pause = _pause(error, receive_count)
    log.warning(
        "looking at %r failed, again in %.0f s: %s",
        id,
        pause,
        error,
        exc_info=False if isinstance(error, FetchError) else error,
        extra={"action": "look", "id": id, "outcome": "failed", "pause": pause},
    )
    return pause


def pause_after(failures: int, most: float) -> float:
    """
    Seconds to wait after so many failures: doubling, with jitter, so that many workers don't come
    back at once.
    """
    return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
