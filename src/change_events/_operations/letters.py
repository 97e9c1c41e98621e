"""Dead letters in hand: received, and neither deleted nor handed back."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from change_events._consumer.backoff import pause_after
from change_events._consumer.crew import Threads
from change_events._consumer.intake import window_of
from change_events._consumer.log import ThrottledLog
from change_events._consumer.queue import BATCH_SIZE, CLOCK_SLACK, Queue, batches
from change_events._operations.pool import StoppedError, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._consumer.queue import Message
    from change_events._event import ChangeEvent

T = TypeVar("T")

VISIBILITY = 900
"""Seconds after which the letters of a redrive that was killed come back."""

BEAT = VISIBILITY / 3
"""Seconds between two times that the letters in hand are kept invisible for longer."""

WAIT = 1
"""
Seconds of a receive. With one or more it asks all of SQS's servers (Amazon SQS Developer Guide,
"Amazon SQS short and long polling").
"""

CALLERS = 4
"""How many threads receive, and how many hand back."""

ATTEMPTS = 3
"""Failed calls in a row after which SQS is given up."""


class Look(NamedTuple):
    """
    A look that was stored.

    Attributes:
        started: When it began, in monotonic seconds.
        since: A moment before that, in seconds since the epoch by SQS's clock.
    """

    started: float
    since: float


@dataclass(frozen=True, slots=True)
class Letter:
    """
    A dead letter that is a change event.

    Attributes:
        due: When a look that settles it can begin, in monotonic seconds.
        old_from: The same by SQS's clock, in seconds since the epoch; infinity if it can't tell.
    """

    message_id: str
    id: str
    due: float
    old_from: float

    @classmethod
    def of(cls, message: Message, event: ChangeEvent, *, settle: float, received: float) -> Letter:
        """Return a message that was just received as a letter."""
        window = window_of(event, settle)
        sent = math.inf if message.sent is None else message.sent
        hold = max(0.0, window - message.age)
        return cls(message.message_id, event.id, received + hold, sent + window + CLOCK_SLACK)

    def settled_by(self, look: Look) -> bool:
        """
        Return whether the save behind the letter was over when the look began.

        The look can be from before the letter's receipt. Only SQS's clock tells that: a local one
        stops while a computer sleeps.
        """
        return self.due <= look.started or self.old_from <= look.since


class Hand:
    """
    Letters in hand.

    Attributes:
        deleted: How many were deleted.
        since: The latest time that SQS has told, in seconds since the epoch.
        oldest: The age of the oldest letter in seconds, at its receipt.
    """

    def __init__(self, queue: Queue, *, threads: Threads | None = None) -> None:
        self.deleted = 0
        self.since = -math.inf
        self.oldest = 0.0
        self._queue = queue
        self._threads = threads or Threads()
        self._lock = threading.Lock()
        self._handles: dict[str, str] = {}  # the latest receipt handle of each letter
        self._settled: list[str] = []
        self._next_beat = self._threads.clock() + BEAT
        self._log = ThrottledLog()

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def is_fifo(self) -> bool:
        """True if a letter in hand holds back the later ones of its group."""
        return self._queue.url.endswith(".fifo")

    def receive(self, most: int) -> tuple[Sequence[Message], bool]:
        """
        Receive up to ten letters.

        Return those that are not in hand already, and whether SQS had any.
        """
        messages = self._tried(
            lambda: self._queue.receive(most=most, wait=WAIT, visibility=VISIBILITY)
        )
        with self._lock:
            new = [each for each in messages if each.message_id not in self._handles]
            for message in messages:
                self._handles[message.message_id] = message.receipt_handle
                self.since = max(self.since, message.answered or -math.inf)
                self.oldest = max(self.oldest, message.age)
        return new, bool(messages)

    def settle(self, message_ids: Sequence[str], *, flush: bool = False) -> None:
        """Delete letters, ten at a time. Fewer wait for others, unless `flush`."""
        with self._lock:
            self._settled += message_ids
        while batch := self._next_batch(1 if flush else BATCH_SIZE):
            self._delete(batch)

    def beat(self) -> None:
        """Keep the letters in hand invisible, if it is time. Without that, they come again."""
        if self._threads.clock() >= self._next_beat:
            self._next_beat = self._threads.clock() + BEAT
            self._change(VISIBILITY)

    def hand_back(self) -> None:
        """Let the letters in hand be received again at once. If SQS fails, they come back later."""
        self._change(0)

    def _change(self, seconds: float) -> None:
        with self._lock:
            deliveries = [(handle, seconds) for handle in self._handles.values()]
        try:
            in_threads(
                lambda batch, _: self._queue.change_visibility(batch),
                batches(deliveries),
                CALLERS,
                using=self._threads,
            )
        except StoppedError as error:
            self._log.warn(
                "changing visibility failed: %s", error.cause, action="change_visibility"
            )

    def _next_batch(self, least: int) -> list[str]:
        with self._lock:
            if len(self._settled) < least:
                return []
            batch, self._settled = self._settled[:BATCH_SIZE], self._settled[BATCH_SIZE:]
            return batch

    def _delete(self, message_ids: Sequence[str]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            with self._lock:
                by_handle = {self._handles[each]: each for each in message_ids}
            deleted, again = self._tried(lambda: self._queue.delete(list(by_handle)))  # noqa: B023
            with self._lock:
                self.deleted += deleted
                for handle in by_handle.keys() - set(again):
                    self._handles.pop(by_handle[handle])
            message_ids = [by_handle[handle] for handle in again]
            if not message_ids:
                return
            self._threads.sleep(pause_after(attempt, 1.0))

    def _tried(self, call: Callable[[], T]) -> T:
        """Call SQS; after an error again, perhaps with new credentials."""
        for attempt in range(1, ATTEMPTS):
            try:
                return call()
            except Exception as error:
                self._queue.renew(error)
            self._threads.sleep(pause_after(attempt, 1.0))
        return call()
