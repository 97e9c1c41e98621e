"""
What a worker decides. Pure: no clock, no thread, no I/O.

The desk owns the parts that decide together: what can be received (`receiving`), which ids are
looked at next (`inbox`, and `experiment` or `breaker` when looks fail), and what a success, a
failure or a refused deletion (`guard`) means for the events in hand. Times are passed in, in
monotonic seconds. `Consumer` calls a desk from one thread at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from change_events._consumer.backoff import MAX_PAUSE, Backoff
from change_events._consumer.breaker import HUNG, Breaker, Pace
from change_events._consumer.bulk import BulkSize
from change_events._consumer.experiment import PATIENCE, Experiment, Failed, Suspect
from change_events._consumer.inbox import Inbox
from change_events._consumer.limit import LIVE, Limit
from change_events._consumer.receiving import Receiving
from change_events.typing import BulkFetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from change_events._consumer.guard import Guard
    from change_events._consumer.inbox import Held
    from change_events._consumer.settings import Settings

ASIDE_PAUSE = 1.0
"""Seconds between two questions whether an outage, or a refused mass deletion, is over."""

YIELD, MAX_YIELD = 0.01, 0.25
"""Seconds that a GET of a backfill waits for looks that are due; and waits at most in all."""


class Verdict(NamedTuple):
    """
    An id whose own fault it is that its look failed: why, its events to hand back (none: they are
    held), and the seconds until its next look.
    """

    id: str
    error: Exception
    events: Sequence[Held]
    pause: float


class Settled(NamedTuple):
    """
    A look that was stored: the events to acknowledge, those that it read first, and the ids whose
    fault it shows.
    """

    events: Sequence[Held]
    first: Sequence[Held]
    at_fault: Sequence[Verdict]


class Failure(NamedTuple):
    """
    What a look that failed shows: ids at fault; or an outage, whether it begins, and the seconds
    until the next look. Nothing of both: it is not known yet.
    """

    at_fault: Sequence[Verdict] = ()
    outage: bool = False
    begins: bool = False
    pause: float = 0.0


class Desk:
    """
    Decides what a worker receives and looks at, and what a result means. `patience` is for how many
    seconds to hold the events of an id that is stuck. `limit`: see `Limit`; None: of `most_looks`.
    """

    def __init__(
        self,
        settings: Settings[Any],
        guard: Guard,
        *,
        backoff: Backoff,
        patience: float = PATIENCE,
        limit: Limit | None = None,
    ) -> None:
        self.inbox = Inbox(early_look=settings.early_look)
        self.breaker = Breaker(backoff.pause)
        self.experiment = Experiment(backoff.pause, patience=patience)
        self.guard = guard
        self._backoff = backoff
        self.gets = _Gets(settings)
        self.limit = limit or Limit(settings.most_looks)
        self.receiving = Receiving(settings, self.inbox, self.breaker, guard)
        self._answered_at = -math.inf
        self._due: int | None = None

    def end_receive(self, events: Sequence[Held], now: float, *, received: int) -> Sequence[Held]:
        """Hold the events that a receive of so many messages brought; return those to hand back."""
        before, due = self._free_at, self.receiving.end(events, now, received=received)
        sooner = self._free_at < before  # then a thread that waits for that must know
        self.changed((due or 0) + sooner)
        return events if due is None else []

    @property
    def _free_at(self) -> float:
        """When so few looks are under way that one more can begin."""
        return self.limit.next_at(self.receiving.live_at)

    def next(self, now: float) -> list[str]:
        """Reserve the ids to look at now, with one GET; none if the source is to be left alone."""
        self.limit.waits = False
        if self.guard.tripped or now < self.breaker.look_at:
            return []
        if self.breaker.probing:  # for so long that it hangs
            self.breaker.hangs()
            self.changed()
        ids: list[str] = []
        if now >= max(self.gets.look_at, self._free_at) and (id := self._next_id(now)):
            self.limit.begin(id, now)
            self.breaker.begin(id, now)
            others = self.gets.begin(now, alone=self.breaker.open or id == self.experiment.control)
            ids = [id, *self.inbox.due_with(id, now, others)]
        if (due := self.inbox.next_at()) is not None and due <= now:
            self.limit.waits = self._free_at > max(now, self.gets.look_at)
        return ids

    def _next_id(self, now: float) -> str | None:
        """Reserve the control of an experiment, the id that tests an outage, or one that is due."""
        id = None
        if not self.breaker.open:
            id = self.experiment.next(now, self._is_free)
            if self.experiment.cannot_end(now):  # the sink, or looks at all good ids, hang
                self.release(now)
        elif self.breaker.wants_good:
            id = self.experiment.rotate(self._is_free)
        if id is None and (due := self.inbox.next(now)) is not None:
            return due
        if id is None and self.breaker.open:
            id = self.inbox.parked() or self.experiment.rotate(self._is_free)
        if id is not None:
            self.inbox.reserve(id, now)
        return id

    def _is_free(self, id: str) -> bool:
        return not self.inbox.looking(id)

    def next_at(self) -> float | None:
        """Return when to ask for the next ids; None: once something has changed."""
        if self.guard.tripped:
            return None
        at = self.inbox.next_at()
        if self.breaker.open and (
            self.breaker.probing
            or self.experiment.knows_ids(self._is_free)
            or self.inbox.parked() is not None
        ):
            at = -math.inf
        elif self.experiment.next_at() < math.inf:
            at = min(self.experiment.next_at(), math.inf if at is None else at)
        if at is None:
            return None
        return max(at, self.breaker.look_at, self.gets.look_at, self._free_at)

    def begin_get(self, ids: Sequence[str], now: float, *, again: bool = False) -> set[str] | None:
        """
        Note that a GET starts (`again`: after a conflict): the events held by now are its own.
        Return the ids whose look is early: it settles nothing. None: no GET may start any more, so
        the ids are due again. A test of the source is never early, and always may start.
        """
        test = ids[0] == self.experiment.control or self.breaker.tests(ids[0])
        if not test and (self.guard.tripped or self.breaker.open):
            self.look_again(ids, now)
            return None
        if again:
            self.gets.again(now)
        early = {id for id in ids if self.inbox.freeze(id, now)}
        return set() if test else early

    def begin_aside(self, now: float, waited: float) -> float:
        """
        Note that a GET begins that no event asked for, and return 0; or return the seconds after
        which to ask again. Events go first, for a while: it has `waited` so many seconds for them.
        """
        if self.guard.tripped or self.breaker.open:
            return ASIDE_PAUSE
        if now < self.gets.look_at:
            return self.gets.look_at - now
        if (due := self.inbox.next_at()) is not None and due <= now and waited < MAX_YIELD:
            return YIELD
        self.gets.again(now)
        return 0.0

    def refused(self, id: str, now: float) -> None:
        """End a look whose deletion the guard refused. Its events are held until `release`."""
        self.inbox.park(id)
        self.experiment.call_off()
        self._answered(now)
        if not self.guard.tripped:  # resumed meanwhile
            self.release(now)

    def too_early(self, id: str, now: float, *, cached: bool) -> None:
        """Note that the early look at the reserved id found nothing new. `cached`: It is cached."""
        if cached:
            self.guard.found(cached=True)
        if self.receiving.backlog:  # the queue can have its next event
            self.inbox.settle(id)
        else:
            self.inbox.too_early(id, now, self._backoff.early)
        self.experiment.forget(id)
        self.changed(1)

    def succeeded(
        self, id: str, now: float, *, started: float, found: bool, cached: bool
    ) -> Settled:
        """
        Settle what the look at the reserved id settles, now that it is stored. `started` is when it
        began; `found`: the source has the entity; `cached`: the sink had it before.
        """
        if found:
            self.guard.found(cached=cached)
        first, events = self.inbox.first_looked(id), self.inbox.settle(id)
        self.changed(id in self.inbox)  # then it waits for its next look
        self._answered(now, good=not events and id not in self.inbox)
        at_fault = self.experiment.passed(id, started, present=found)
        return Settled(events, first, self._judged(at_fault, now, certain=True))

    def failed(self, id: str, now: float, failed: Failed) -> Failure:
        """Decide what becomes of the events of a look that failed. Until it is known, hold them."""
        self.changed(1)
        held = id in self.inbox and self.inbox.park(id)
        if self.breaker.open:
            outage = self.breaker.failed(id, now, failed.retry_after)
            return Failure(outage=outage, pause=self.breaker.look_at - now)
        in_a_row = self.breaker.count(id, own=failed.own)
        if failed.limited and id != self.experiment.control:
            outage, suspects = in_a_row, [Suspect(id, failed, now)]
        else:
            outage, suspects = self.experiment.failed(id, failed, now, held=held), []
            if not outage and held and not self.experiment.can_tell(now):
                outage = in_a_row
                suspects = [] if outage else self.experiment.give_up()
        if not outage:
            return Failure(tuple(self._judged(suspects, now, certain=False)))
        self.experiment.call_off()
        self.breaker.failed(id, now, failed.retry_after)
        return Failure(outage=True, begins=True, pause=self.breaker.look_at - now)

    def _judged(self, suspects: Iterable[Suspect], now: float, *, certain: bool) -> list[Verdict]:
        """Return what becomes of the suspects. `certain`: Others succeed, so it is their fault."""
        return [
            self._verdict(suspect, now, certain=certain)
            for suspect in suspects
            if suspect.id in self.inbox and self._is_free(suspect.id)
        ]

    def _verdict(self, suspect: Suspect, now: float, *, certain: bool) -> Verdict:
        pause = self.experiment.hold(suspect, now)
        if pause is not None and not (certain and self.receiving.full):
            self.inbox.look_again(suspect.id, now + pause)
            self.changed(1)
            return Verdict(suspect.id, suspect.failed.error, [], pause)
        self.experiment.forget(suspect.id)
        events = self.inbox.give_up(suspect.id)
        receives = max(event.receive_count for event in events)
        pause = max(self._backoff.pause(receives, MAX_PAUSE), suspect.failed.retry_after)
        return Verdict(suspect.id, suspect.failed.error, events, pause)

    def look_again(self, ids: Sequence[str], now: float, *, alone: bool = False) -> None:
        """Make the reserved ids due again. `alone`: each for a look of its own."""
        for id in ids:
            self.inbox.look_again(id, now, alone=alone)
        if len(ids) > LIVE:
            self.receiving.fall_behind(now)
        self.changed(len(ids))

    def drop(self, unwanted: Callable[[Held], bool]) -> list[Held]:
        """Stop holding these events; return which. A look under way settles none of them."""
        dropped = self.inbox.drop(filter(unwanted, self.inbox.expiring(math.inf)))
        self.changed(len(dropped))  # looks that waited behind theirs can be due sooner
        return dropped

    def drop_hung(self, now: float) -> list[tuple[Held, float]]:
        """
        Drop the events of looks that hang for an hour while others end; and one id's if there is
        no room, and no look ends any more. Return each with the seconds until its next receive.
        """
        hung = self.inbox.drop_hung(self._answered_at - PATIENCE)
        stuck = self.receiving.blocked and now - self._answered_at > HUNG
        if stuck and not hung and (not self.breaker.open or self.next_at() is None):
            hung = self.inbox.drop_hung(now - HUNG, most=1)
        self.changed(len(hung))
        return [(each, self._backoff.pause(each.receive_count, MAX_PAUSE)) for each in hung]

    def _answered(self, now: float, *, good: bool = False) -> None:
        was_open = self.breaker.open
        self.breaker.succeeded(good=good)
        self._answered_at = now
        self.changed()
        if was_open:
            self.release(now)

    def release(self, now: float) -> None:
        """Look again at all ids that are parked, and ask no question about them any more."""
        self.experiment.call_off()
        self.inbox.release(now)
        self.receiving.fall_behind(now)
        self.changed(len(self.inbox))

    def newly_due(self) -> int | None:
        """Return how many looks are due sooner than at the last such call; None: no change."""
        due, self._due = self._due, None
        return due

    def changed(self, due: int = 0) -> None:
        """Note a change for the threads that wait, and how many looks it makes due."""
        self._due = (self._due or 0) + due


class _Gets:
    """When a GET can begin, and for how many ids. At most `most` run at once."""

    def __init__(self, settings: Settings[Any]) -> None:
        self.most = settings.threads
        self._pace = Pace(settings.max_gets_per_second)
        self._bulk = settings.fetcher if isinstance(settings.fetcher, BulkFetcher) else None
        self._bulk_at = -math.inf
        self.bulk_size = BulkSize()

    @property
    def look_at(self) -> float:
        """When the next GET can begin."""
        return self._pace.look_at

    def begin(self, now: float, *, alone: bool) -> int:
        """Note that a GET begins; return how many other ids it can ask for."""
        self._pace.begin(now)
        if self._bulk is None or alone or now < self._bulk_at:
            return 0
        return self.bulk_size.ask(self._bulk.bulk_size) - 1

    def again(self, now: float) -> None:
        """Note that a GET begins that `begin` did not count."""
        self._pace.begin(now)

    def stop_bulk(self, until: float, ids: int) -> None:
        """Begin no bulk GET before that time: the last one, for so many ids, failed."""
        self._bulk_at = until
        self.bulk_size.failed(ids)
