"""Deletes the messages of settled events from the queue, ten at a time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from change_events._consumer.backoff import pause_after
from change_events._consumer.queue import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._consumer.inbox import Held
    from change_events._consumer.log import ThrottledLog
    from change_events._consumer.queue import Queue
    from change_events._consumer.stats import Tally

LINGER = 0.1
"""Seconds that an acknowledgement waits for nine others to share its call."""

ATTEMPTS = 3
"""Failed attempts after which an acknowledgement is given up: the message comes back."""

MOST = 1000
"""
Events that wait for a call at most; looks wait then. Nobody extends their visibility any more, so
what waited for long would be received again.
"""


class Acknowledgements:
    """Events that wait to be acknowledged. `pause` waits for so many seconds."""

    def __init__(
        self,
        queue: Queue,
        tally: Tally,
        *,
        throttled: ThrottledLog,
        pause: Callable[[float], object] = time.sleep,
        condition: Callable[[threading.Lock], threading.Condition] = threading.Condition,
    ) -> None:
        self._queue = queue
        self._tally = tally
        self._throttled = throttled
        self._pause = pause
        self._events: list[Held] = []
        self._closed = False
        self._lingering = False
        lock = threading.Lock()
        self._any = condition(lock)
        self._full = condition(lock)  # of the thread that lingers
        self._room = condition(lock)

    def add(self, events: Sequence[Held]) -> None:
        """
        Let events wait, once there is room. Wakes a thread for the first; the lingering one for the
        tenth.
        """
        with self._any:
            self._room.wait_for(lambda: self._closed or len(self._events) < MOST)
            self._events += events
            self._wake()

    def close(self) -> None:
        """Let no thread wait for more events."""
        with self._any:
            self._closed = True
            self._any.notify_all()
            self._full.notify_all()
            self._room.notify_all()

    def work(self) -> None:
        """Delete the messages of events as they come, until no more will."""
        while self.acknowledge():
            pass

    def acknowledge(self) -> bool:
        """Wait for up to ten events, and delete their messages; False if no more will come."""
        handles: Sequence[str] = [event.receipt_handle for event in self._take()]
        if not handles:
            return False
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(pause_after(attempt, 1.0))
            handles = self.delete(handles)
            if not handles:
                break
        return True

    def delete(self, receipt_handles: Sequence[str]) -> Sequence[str]:
        """Delete up to ten deliveries, and return those that can be tried again."""
        try:
            deleted, again = self._queue.delete(receipt_handles)
        except Exception as error:  # boto3 has tried again already
            self._throttled.warn("acknowledging failed: %s", error, action="acknowledge")
            self._tally.add("ack_failures", len(receipt_handles))
            return receipt_handles
        self._tally.add("acknowledged", deleted)
        if deleted < len(receipt_handles):
            self._tally.add("ack_failures", len(receipt_handles) - deleted)
        return again

    def _take(self) -> list[Held]:
        with self._any:
            self._any.wait_for(lambda: self._closed or (self._events and not self._lingering))
            self._lingering = True
            self._full.wait_for(lambda: self._closed or len(self._events) >= BATCH_SIZE, LINGER)
            self._lingering = False
            taken, self._events = self._events[:BATCH_SIZE], self._events[BATCH_SIZE:]
            self._room.notify_all()
            self._wake()
            return taken

    def _wake(self) -> None:
        if self._lingering:
            if len(self._events) >= BATCH_SIZE:
                self._full.notify()
        elif self._events:
            self._any.notify()
