"""What can be received. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from change_events._consumer.prefetch import Prefetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._consumer.breaker import Breaker
    from change_events._consumer.guard import Guard
    from change_events._consumer.inbox import Held, Inbox
    from change_events._consumer.settings import Settings


MOMENT = 1.0
"""A receive that waits for so many seconds finds the queue empty, even in another region."""


class Receiving:
    """
    Decides whether a receive can begin: there is room in the inbox, no outage, and no refusal.

    Attributes:
        backlog: True if the last receive brought a full batch, so the queue has more.
        prefetch: How many events to hold.
    """

    def __init__(
        self, settings: Settings[Any], inbox: Inbox, breaker: Breaker, guard: Guard
    ) -> None:
        self._settings = settings
        self._inbox = inbox
        self._breaker = breaker
        self._guard = guard
        self.prefetch = Prefetch(least=settings.first_held, most=settings.most_held)
        self._under_way = 0
        self.backlog = self._help = self._closed = False
        self._behind_until = self._began = -math.inf

    def live_at(self) -> float:
        """
        Return when there is no backlog any more, in monotonic seconds.

        `inf`: It lasts until what it brought has been looked at. One full batch can be the saves of
        a moment: then the next receive waits.
        """
        if self._inbox.next_at(received_by=self._behind_until) is not None:
            return math.inf
        if not self.backlog:
            return -math.inf
        return math.inf if self.blocked else self._began + MOMENT

    def fall_behind(self, now: float) -> None:
        """Note that what was received by now is a backlog, even if the queue has no more."""
        self._behind_until = now

    @property
    def full(self) -> bool:
        """True if one more batch, and those under way, could be more than can be held."""
        coming = (self._under_way + 1) * self._settings.batch_size
        return len(self._inbox) + coming > self.prefetch.size

    @property
    def blocked(self) -> bool:
        """True if there is no room, not even for a receive under way."""
        return self.full and not self._under_way

    def may_begin(self) -> bool:
        """
        Return True if a receive can begin.

        In an outage, none does; but after each look there is one message if all ids in hand were
        tried in vain, or hang: perhaps these ids are broken, and not the source.
        """
        if self._guard.tripped or self.full:
            return False
        breaker = self._breaker
        return not breaker.open or (
            breaker.failures > self._inbox.ids - self._inbox.looking()
            and not breaker.probing
            and self._inbox.next_at() is None
        )

    def may_help(self) -> bool:
        """Return True if one receive at a time is not enough."""
        return self.backlog and not self._breaker.open and self.may_begin()

    def begin(self, now: float) -> int:
        """Reserve room for a receive; return for how many messages, 0 if others took the room."""
        if self.full:
            return 0
        self._under_way += 1
        self._began = now
        return 1 if self._breaker.open else self._settings.batch_size

    def end(self, events: Sequence[Held], now: float, *, received: int) -> int | None:
        """
        Hold the events that a receive of so many messages brought; None if they are not held.

        Return how many looks are due, or due sooner than before. A full batch means that the queue
        has more. A batch of one says nothing. Once closed, an event is held only while another
        receive is under way, which would get it again.
        """
        self._under_way -= 1
        self._began = now  # the next receive, if there is room for one
        before = self.backlog
        self.backlog = self._help = received == self._settings.batch_size > 1
        if self._closed and not self._under_way:
            return None
        due = sum(self._inbox.add(event, event.received, more=self.backlog) for event in events)
        if before and self.backlog:
            self.fall_behind(now)
        self._adapt(now)
        return due + self._stop_resting(now)

    def _adapt(self, now: float) -> None:
        """Hold more, or fewer; not more in an outage, or when deletions are refused."""
        held, full = len(self._inbox), self.full
        if not self.backlog:
            self.prefetch.drained(held)
        elif self.prefetch.is_due(now, full=full) and not (
            self._breaker.open or self._guard.tripped
        ):
            waiting = self._inbox.waiting(now)
            self.prefetch.adapt(now, held=held, waiting=waiting, full=full)

    def _stop_resting(self, now: float) -> int:
        if not self.backlog:
            return self._inbox.stop_resting()
        return self._inbox.make_room(self._settings.threads, now) if self.full else 0

    def close(self) -> None:
        """Hold nothing that the last receive brings, and nothing that comes later."""
        self._closed = True

    def wants_help(self) -> bool:
        """Return True if a receive has ended since the last such call, and one more can begin."""
        ended, self._help = self._help, False
        return ended and self.may_help()
