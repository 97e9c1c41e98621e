"""
What a worker decides. Pure: no clock, no thread, no I/O.

The desk owns the four parts that decide together, and answers for them: what can be received
(`inbox`, `breaker`, `guard`), which ids are looked at next (and `pace`), and what a success, a
failure or a refused deletion means for the events in hand. Times are passed in, in monotonic
seconds. `Consumer` calls a desk from one thread at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from change_events._consumer.breaker import Breaker, Pace
from change_events._consumer.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from change_events._consumer.guard import Guard
    from change_events._consumer.inbox import Held
    from change_events._consumer.settings import Settings
    from change_events.typing import BulkFetcher


class Settled(NamedTuple):
    """A look that was stored: the events to acknowledge, and those that it read first."""

    events: Sequence[Held]
    first: Sequence[Held]


class Failure(NamedTuple):
    """
    A look that failed: the events to hand back, whether it shows an outage, whether the outage
    begins, and the seconds until the next look.
    """

    events: Sequence[Held]
    outage: bool
    begins: bool
    pause: float


class Desk:
    """
    Decides what a worker receives and looks at, and what a result means.

    `probe_pause` is the breaker's. `bulk` is the fetcher, if it reads many entities with one GET.
    """

    def __init__(
        self,
        settings: Settings[Any],
        guard: Guard,
        *,
        probe_pause: Callable[[int], float],
        bulk: BulkFetcher[Any] | None = None,
    ) -> None:
        self.inbox = Inbox(early_look=settings.early_look)
        self.breaker = Breaker(probe_pause)
        self.guard = guard
        self._pace = Pace(settings.max_gets_per_second)
        self._settings = settings
        self._bulk = bulk
        self._receiving = 0
        self._backlog = False
        self._bulk_at = -math.inf
        self._closed = False
        self._due: int | None = None
        self._help = False

    # Receiving

    @property
    def full(self) -> bool:
        """True if one more batch, and those under way, could be more than can be held."""
        coming = (self._receiving + 1) * self._settings.batch_size
        return len(self.inbox) + coming > self._settings.most_held

    def may_receive(self) -> bool:
        """
        Return True if a receive can begin.

        In an outage, none does; but after each look there is one message if all ids in hand were
        tried in vain: perhaps these ids are broken, and not the source.
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
        """Return True if one receive at a time is not enough."""
        return self._backlog and not self.breaker.open and self.may_receive()

    def begin_receive(self) -> int:
        """Reserve room for a receive; return for how many messages, 0 if others took the room."""
        if self.full:
            return 0
        self._receiving += 1
        return 1 if self.breaker.open else self._settings.batch_size

    def end_receive(self, events: Sequence[Held], now: float, *, received: int) -> Sequence[Held]:
        """
        Hold the events that a receive of so many messages brought; return those to hand back.

        A full batch means that the queue has more. A batch of one says nothing. Once closed, the
        desk holds an event only while another receive is under way, which would get it again.
        """
        self._receiving -= 1
        self._backlog = self._help = received == self._settings.batch_size > 1
        if self._closed and not self._receiving:
            self._change()
            return events
        for event in events:
            self.inbox.add(event, event.received, more=self._backlog)
        self._change(len(events) + self._stop_resting(now))
        return []

    def _stop_resting(self, now: float) -> int:
        if not self._backlog:
            return self.inbox.stop_resting()
        return self.inbox.make_room(self._settings.threads, now) if self.full else 0

    # Looking

    def next(self, now: float) -> list[str]:
        """Reserve the ids to look at now, with one GET; none if the source is to be left alone."""
        if self.guard.tripped or now < max(self.breaker.look_at, self._pace.look_at):
            return []
        id = self.inbox.next(now) or (self.inbox.retry() if self.breaker.open else None)
        if id is None:
            return []
        self.breaker.begin(id)
        self._pace.begin(now)
        if self._bulk is None or self.breaker.open or now < self._bulk_at:
            return [id]
        return [id, *self.inbox.due_with(id, now, self._bulk.bulk_size - 1)]

    def next_at(self) -> float | None:
        """Return when to ask for the next ids; None: once something has changed."""
        parked = self.breaker.open and self.inbox.parked() is not None
        at = -math.inf if parked else self.inbox.next_at()
        if at is None or self.guard.tripped or self.breaker.look_at == math.inf:
            return None
        return max(at, self.breaker.look_at, self._pace.look_at)

    def begin_get(self, ids: Iterable[str], now: float, *, again: bool = False) -> None:
        """Note that a GET starts: the events held by now are its own. `again`: after a conflict."""
        if again:
            self._pace.begin(now)
        for id in ids:
            self.inbox.freeze(id, now)

    def allows(self, id: str, now: float, *, gone: bool) -> bool:
        """
        Ask the guard before a look at a cached entity is stored.

        If it would be a mass deletion, the look is over, and its events are held until `resume`.
        """
        if self.guard.allows(gone=gone):
            return True
        self.inbox.park(id)
        self._answered(now)
        return False

    def succeeded(self, id: str, now: float) -> Settled:
        """Settle what the look at the reserved id settles, now that it is stored."""
        first, events = self.inbox.first_looked(id), self.inbox.settle(id)
        self._change(id in self.inbox)  # then it waits for its next look
        self._answered(now)
        return Settled(events, first)

    def failed(self, id: str, now: float, *, retry_after: float, source_wide: bool) -> Failure:
        """
        Decide what becomes of the events of a look that failed. In an outage they are held.

        `retry_after` and `source_wide` are as for `Breaker.failed`.
        """
        was_open = self.breaker.open
        outage = self.breaker.failed(id, now, retry_after, source_wide=source_wide)
        self._change()
        events: Sequence[Held] = []
        if self.breaker.open:
            self.inbox.park(id)
        else:
            events = self.inbox.give_up(id)
        begins = outage and not was_open
        return Failure(events, outage, begins=begins, pause=self.breaker.look_at - now)

    def look_alone(self, ids: Sequence[str], now: float) -> None:
        """Make each of the reserved ids due, for a look of its own: a bulk GET decided nothing."""
        for id in ids:
            self.inbox.look_alone(id, now)
        self._change(len(ids))

    def stop_bulk(self, until: float) -> None:
        """Begin no bulk GET before that time."""
        self._bulk_at = until

    def drop(self, unwanted: Callable[[Held], bool]) -> list[Held]:
        """Stop holding these events, except those of an id with a look under way; return which."""
        self._change()
        return self.inbox.drop(filter(unwanted, self.inbox.expiring(math.inf)))

    def clear(self) -> list[Held]:
        """Stop holding all events; return them to be handed back."""
        self._change()
        return self.inbox.clear()

    def _answered(self, now: float) -> None:
        was_open = self.breaker.open
        self.breaker.succeeded()
        self._change()
        if was_open:
            self._release(now)

    def _release(self, now: float) -> None:
        self.inbox.release(now)
        self._change(len(self.inbox))

    # Stopping, and going on

    def resume(self, now: float) -> None:
        """Go on after a mass deletion was refused."""
        if self.guard.tripped:
            self.guard.resume()
            self._release(now)

    def close(self) -> None:
        """Hold nothing that the last receive brings, and nothing that comes later."""
        self._closed = True

    # What the threads that wait must know

    def newly_due(self) -> int | None:
        """
        Return how many looks can be due, or sooner than thought, since the last such call.

        None: nothing has changed for a thread that waits.
        """
        due, self._due = self._due, None
        return due

    def wants_help(self) -> bool:
        """Return True if a receive has ended since the last such call, and one more can begin."""
        ended, self._help = self._help, False
        return ended and self.may_help_receive()

    def _change(self, due: int = 0) -> None:
        self._due = (self._due or 0) + due
