"""Keeps held messages invisible to other workers, and hands back what is no longer held."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from change_events._consumer.log import log
from change_events._consumer.queue import MAX_VISIBILITY, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._consumer.consumer import Consumer
    from change_events._consumer.inbox import Held
    from change_events._consumer.log import ThrottledLog
    from change_events._consumer.queue import Queue

LONGEST_HOLD = MAX_VISIBILITY - 3600.0
"""Seconds after which a message is handed back. An hour later, SQS would extend it no more."""


@dataclass(eq=False, kw_only=True)
class Visibility:
    """
    Changes the visibility of messages.

    `timeout` is the worker's visibility timeout. `handed_back` is True once SQS was told of all
    that was held.
    """

    queue: Queue
    consumer: Consumer
    timeout: float
    throttled: ThrottledLog
    clock: Callable[[], float] = time.monotonic
    handed_back: bool = field(default=False, init=False)
    _period: float = field(init=False)
    _next_beat: float = field(init=False)

    def __post_init__(self) -> None:
        self._period = self.timeout / 3
        self._next_beat = self.clock() + self._period

    def until_beat(self) -> float:
        """Return the seconds until the next beat."""
        return max(0.0, self._next_beat - self.clock())

    def beat(self) -> None:
        """Extend what would become visible before the next beat but one."""
        started = self.clock()
        extended = self.extend(self._next_beat + 2 * self._period)
        with self.consumer as desk:
            desk.receiving.prefetch.beat(extended, self.clock() - started, self._period)
        self._next_beat += self._period

    def extend(self, before: float) -> int:
        """
        Keep what would become visible before that time invisible for another timeout.

        Return for how many events SQS has answered.
        """
        self._hand_back_what_is_held_too_long()
        with self.consumer as desk:
            expiring = desk.inbox.expiring(before)
        extended = 0
        for batch in batches(expiring):
            if not self._extend(batch):
                break  # the other calls would take as long to fail; the next beat tries again
            extended += len(batch)
        return extended

    def hand_back(self, deliveries: Sequence[tuple[str, float]]) -> None:
        """Make messages visible again: receipt handles, each with the seconds to wait."""
        for batch in batches(deliveries):
            self._change(batch)

    def hand_back_all(self) -> None:
        """Stop holding everything; each message becomes visible when its window is over."""
        held = self._drop(lambda _: True)
        now = self.clock()
        self.hand_back([(event.receipt_handle, max(0.0, event.due - now)) for event in held])
        self.handed_back = True

    def _hand_back_what_is_held_too_long(self) -> None:
        before = self.clock() - LONGEST_HOLD
        dropped = self._drop(lambda event: event.received < before)
        self.hand_back([(event.receipt_handle, 0.0) for event in dropped])
        with self.consumer as desk:
            hung = desk.drop_hung(self.clock())
        if hung:
            log.warning(
                "looks hang, the first one at %r: %d messages go back to the queue",
                hung[0][0].id,
                len(hung),
                extra={"action": "hang", "id": hung[0][0].id},
            )
        self.hand_back([(event.receipt_handle, pause) for event, pause in hung])

    def _drop(self, unwanted: Callable[[Held], bool]) -> list[Held]:
        with self.consumer as desk:
            return desk.drop(unwanted)

    def _extend(self, events: Sequence[Held]) -> bool:
        """Return False if SQS did not answer."""
        now = self.clock()
        seconds = {event.receipt_handle: self._extension(event, now) for event in events}
        failed = self._change(list(seconds.items()))
        if failed is None:
            return False
        refused, again = failed
        if refused:  # other workers have received these messages since
            self._drop(lambda event: event.receipt_handle in refused)
        with self.consumer:
            for event in events:
                if event.receipt_handle in seconds and event.receipt_handle not in again:
                    event.expires = now + seconds[event.receipt_handle]
        return True

    def _extension(self, event: Held, now: float) -> float:
        # A minute less than SQS allows, because SQS can have begun to count earlier.
        most = event.received + MAX_VISIBILITY - 60 - now
        return min(self.timeout, most)

    def _change(
        self, deliveries: Sequence[tuple[str, float]]
    ) -> tuple[list[str], list[str]] | None:
        """As `Queue.change_visibility` returns it; None if SQS did not answer."""
        try:
            return self.queue.change_visibility(deliveries)
        except Exception as error:  # the messages become visible by themselves
            self.throttled.warn("changing visibility failed: %s", error, action="change_visibility")
            return None
