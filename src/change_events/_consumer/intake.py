"""Receives messages, and turns them into held events."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from change_events._codec import decode_all
from change_events._consumer.backoff import MAX_POLL_PAUSE, pause_after, retry_pause
from change_events._consumer.health import RECEIVE_FAILED
from change_events._consumer.inbox import Held
from change_events._consumer.log import MalformedLog, log
from change_events._text import printable
from change_events.exceptions import DecodeError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._consumer.consumer import Consumer
    from change_events._consumer.queue import Message, Queue
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally
    from change_events._consumer.visibility import Visibility
    from change_events._event import ChangeEvent

DRAIN_ATTEMPTS = 4
"""Failed receives in a row after which `drain()` raises: its caller waits for it."""

DELAY_CHECK = 60.0
"""Seconds after which the queue is asked for its delay again: it can have been lowered."""


class Polled(NamedTuple):
    """A poll: the pause until the next, whether the queue is drained, why a drain is hopeless."""

    pause: float = 0.0
    drained: bool = False
    error: Exception | None = None


@dataclass(eq=False, kw_only=True)
class Intake:
    """
    Receives messages, and holds their events.

    `until_empty` is for a drain: find out whether the queue is empty, and give up after a few
    errors. `last_poll` is when SQS last answered a poll.
    """

    settings: Settings[Any]
    queue: Queue
    consumer: Consumer
    visibility: Visibility
    reader: MessageReader
    until_empty: bool = False
    clock: Callable[[], float] = time.monotonic
    last_poll: float | None = field(default=None, init=False)
    _delay: float = field(default=math.inf, init=False)
    _asked_at: float = field(default=-math.inf, init=False)
    _failures: int = field(default=0, init=False)

    def ask_delay(self) -> float:
        """
        Ask the queue for its delay, and return the shortest yet: older messages had that one.

        Raises:
            ConfigurationError: The queue can't be read.
        """
        self._asked_at = self.clock()
        self._delay = min(self._delay, self.queue.open(wait=self.settings.wait_time))
        return self._delay

    def poll(self) -> Polled:
        """Receive once. An error is logged and has its pause, because a poll loop must not end."""
        try:
            if self.clock() - self._asked_at >= DELAY_CHECK:
                self.ask_delay()
            # Asked before the receive, which then finds a message whose delay ends in between.
            maybe_empty = self.until_empty and self._is_idle() and not self.queue.delayed()
            received = self.receive(wait=1 if self.until_empty else self.settings.wait_time)
        except Exception as error:
            return self._failed(error)
        if received is None:
            return Polled()
        if self._failures:
            log.info("receiving again", extra={"action": "receive"})
        self._failures = 0
        self.last_poll = self.clock()
        self.consumer.pauses.end(RECEIVE_FAILED)
        return Polled(drained=maybe_empty and not received)

    def help(self) -> None:
        """Receive beside the thread that polls, while there is a backlog, until the run stops."""
        while self.consumer.wait_for_backlog():
            with contextlib.suppress(Exception):  # if receives fail for long, `poll` says so
                self.receive(wait=1)

    def receive(self, *, wait: int) -> int | None:
        """
        Long-poll for `wait` seconds, and hold the events.

        Return how many messages came; None if other receives took the room meanwhile.
        """
        with self.consumer as desk:
            most = desk.receiving.begin(self.clock())
        if not most:
            return None
        messages: Sequence[Message] = []
        events: Sequence[Held] = []
        try:
            messages = self.queue.receive(
                most=most, wait=wait, visibility=self.settings.visibility_timeout
            )
            events, undecided = self.reader.read(messages, delay=self._delay)
        finally:
            with self.consumer as desk:
                refused = desk.end_receive(events, self.clock(), received=len(messages))
        refused_now = [(event.receipt_handle, 0.0) for event in refused]
        self.visibility.hand_back(undecided + refused_now)
        return len(messages)

    def _is_idle(self) -> bool:
        with self.consumer as desk:
            return len(desk.inbox) == 0

    def _failed(self, error: Exception) -> Polled:
        self._failures += 1
        self.queue.renew(error)
        if self.until_empty and self._failures == DRAIN_ATTEMPTS:
            return Polled(error=error)
        self.consumer.pauses.begin(RECEIVE_FAILED)
        pause = pause_after(self._failures, MAX_POLL_PAUSE)
        log.warning(
            "receive failed, next in %.1f s: %s",
            pause,
            printable(error),
            extra={"action": "receive", "pause": pause},
        )
        return Polled(pause)


@dataclass(eq=False, kw_only=True)
class MessageReader:
    """Turns messages into events. `verify` raises for an envelope that SNS has not signed."""

    settings: Settings[Any]
    tally: Tally
    verify: Callable[[Mapping[str, object]], object] | None = None
    clock: Callable[[], float] = time.monotonic
    _malformed: MalformedLog = field(default_factory=MalformedLog, init=False)

    def read(
        self, messages: Sequence[Message], *, delay: float
    ) -> tuple[list[Held], list[tuple[str, float]]]:
        """
        Return the events; and the receipt handles of messages about which nothing could be decided,
        with the seconds for which to leave each alone.
        """
        now = self.clock()
        self.tally.add("received", len(messages))
        events, undecided = [], []
        for message in messages:
            try:
                event, attributes = decode_all(
                    message.body,
                    message.attributes,
                    topic_arn=self.settings.topic_arn,
                    verify=self.verify,
                )
                self._require_window(event)
            except DecodeError as error:
                self.tally.add("malformed")
                self._malformed.add(message.message_id, error)
            except FetchError as error:
                undecided.append((message.receipt_handle, self._unverified(message, error)))
            else:
                held = self._held(message, event, now, delay)
                if self.settings.traces is not None:
                    held.origin = self.settings.traces.origin(attributes, message.xray)
                events.append(held)
        return events, undecided

    def _require_window(self, event: ChangeEvent) -> None:
        most = self.settings.max_settle
        if window_of(event, self.settings.settle) > most:
            # To hold it for less would acknowledge it before its save is over.
            raise DecodeError(
                f"it asks to be held for {event.settle} s, and the worker has max_settle={most}"
            )

    def _held(self, message: Message, event: ChangeEvent, now: float, delay: float) -> Held:
        return Held(
            id=event.id,
            message_id=message.message_id,
            receipt_handle=message.receipt_handle,
            receive_count=message.receive_count,
            received=now,
            hold=max(0.0, window_of(event, self.settings.settle) - max(delay, message.age)),
            expires=now + self.settings.visibility_timeout,
            phase=event.phase,
            save=event.save,
            sent=message.sent,
        )

    def _unverified(self, message: Message, error: FetchError) -> float:
        self.tally.add("unverified")
        pause = retry_pause(error, message.receive_count)
        log.warning(
            "message %s can't be verified yet, again in %.0f s: %s",
            printable(message.message_id),
            pause,
            printable(error),
            extra={"action": "verify", "message_id": message.message_id, "pause": pause},
        )
        return pause


def window_of(event: ChangeEvent, settle: float) -> float:
    """Return the larger of the worker's window and the event's own; 0 for a *saved*."""
    return 0.0 if event.phase == "saved" else max(settle, event.settle or 0.0)
