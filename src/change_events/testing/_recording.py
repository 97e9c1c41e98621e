"""Broadcasts that are recorded instead of sent."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from change_events._producer.publishers import NullPublisher, SNSPublisher
from change_events.exceptions import PublishError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from change_events._event import ChangeEvent
    from change_events.typing import Publisher


class Broadcasts:
    """
    What has been broadcast, in the order of the `publish()` calls. Threads can share it.

    It is a publisher, too, for code that is given one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[ChangeEvent] = []
        self._subscribers: list[Publisher] = []
        self._failures = 0.0

    @property
    def events(self) -> list[ChangeEvent]:
        """The events that were accepted since the start, or since the last `clear()`."""
        with self._changed:
            return self._events.copy()

    @property
    def ids(self) -> list[str]:
        """The ids of these events; an id that was broadcast twice is listed twice."""
        return [event.id for event in self.events]

    def clear(self) -> None:
        """Forget the events so far. Subscribers and future failures stay."""
        with self._changed:
            self._events.clear()

    def fail(self, *, times: int | None = None) -> None:
        """
        Refuse broadcasts with a `PublishError`. What is refused is not recorded.

        Args:
            times: How many `publish()` calls to refuse, from now on; None: all until `recover()`.
        """
        with self._changed:
            self._failures = math.inf if times is None else times

    def recover(self) -> None:
        """Accept broadcasts again."""
        self.fail(times=0)

    def subscribe(self, subscriber: Publisher, /) -> None:
        """Publish further broadcasts to this publisher, too: to a `FakeQueue`, say."""
        with self._changed:
            self._subscribers.append(subscriber)

    def wait_for(self, count: int, *, timeout: float = 5.0) -> list[ChangeEvent]:
        """
        Wait for events that another thread broadcasts, and return `events`.

        Args:
            count: How many events to wait for, past ones included.
            timeout: The most seconds to wait.

        Raises:
            TimeoutError: There were fewer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._events) >= count, timeout):
                number = f"{len(self._events)} of {count} events"
                raise TimeoutError(f"{number} were broadcast in {timeout} s: {self._events}")
            return self._events.copy()

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """
        Publish the events to the subscribers, then record them.

        Raises:
            PublishError: After `fail()`, or raised by a subscriber. Nothing is recorded.
        """
        with self._changed:
            if self._failures > 0:
                self._failures -= 1
                raise PublishError(
                    "no broadcast: this test said fail()", ids=[event.id for event in events]
                )
            subscribers = self._subscribers.copy()
        for subscriber in subscribers:
            subscriber.publish(events)
        with self._changed:
            self._events += events
            self._changed.notify_all()


@contextmanager
def recording() -> Iterator[Broadcasts]:
    """
    Record the broadcasts of this process, in all its threads, instead of sending them.

    Every `SNSPublisher` is recorded, wherever the code under test holds it and whatever the
    environment says: it needs no topic, no client and no credentials. So is `NullPublisher`, which
    can replace it in tests, because a test wants to see what a save *would* broadcast. A publisher
    of your own works as always, unless it calls one of the two.

    Recordings can be nested; then the innermost one records. Afterwards publishers send again, also
    after an exception. So first wait for what other threads still broadcast
    (`Broadcasts.wait_for`), or they send it.
    """
    broadcasts = Broadcasts()

    def publish(_: object, events: Sequence[ChangeEvent], /) -> None:
        broadcasts.publish(events)

    with (
        patch.object(SNSPublisher, "publish", publish),
        patch.object(NullPublisher, "publish", publish),
    ):
        yield broadcasts
