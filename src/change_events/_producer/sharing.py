"""Broadcasts of the same moment share a call, like the commits of a database share a write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from change_events._producer.batches import BATCH_SIZE, Message, Why

PART = 0.25
"""A broadcast waits for others for at most this part of the time that calls take now."""

LONGEST = 0.025
"""The most seconds that a broadcast waits for others, however long calls take."""

NEWEST = 0.2
"""How much of the time that calls take now is that of the newest call."""

MOST_BYTES = 200_000
"""
The most bytes of text in a shared call. SNS allows 262,144 for all of it (Amazon SNS API Reference,
PublishBatch).
"""

PATIENCE = 1.0
"""
The most seconds that a broadcast waits for a call of another thread, which can wait for something
that this thread does: a signal handler that joins it, a lock. Then it makes a call of its own.
"""

Send: TypeAlias = Callable[[Sequence[Message]], Sequence[Why]]


class _Group:
    """
    Messages that are sent in one call, by the thread that has made the group.

    It has locks, and not events, because an error that a signal's handler raises can leave the
    lock inside an event held for ever.

    Attributes:
        others: The groups of the threads that have joined this one.
        pause: Is held until its thread is to go on.
        under_way: Is held while its thread leads.
        whys: What the call has returned. None: it is not over, or was interrupted.
    """

    def __init__(self, lock: Callable[[], threading.Lock] = threading.Lock) -> None:
        self.messages: list[Message] = []
        self.bytes = 0
        self.others: list[_Group] = []
        self.pause = lock()
        self.pause.acquire()
        self.under_way = lock()
        self.whys: Sequence[Why] | None = None

    def add(self, messages: Sequence[Message], size: int) -> int:
        """Add messages; return the position of the first."""
        position = len(self.messages)
        self.messages += messages
        self.bytes += size
        return position

    def has_room_for(self, messages: Sequence[Message], size: int) -> bool:
        """Return True if they fit into the call."""
        fit = len(self.messages) + len(messages) <= BATCH_SIZE
        return fit and self.bytes + size <= MOST_BYTES


class SharedCalls:
    """
    Sends the messages of several threads in few calls.

    While nothing is under way, messages are sent at once. Otherwise the first thread to come waits
    for others until they have ten messages together, or for a quarter of the time that a call
    needs. Then it sends them all, and the others get their part of the answer.

    Args:
        send: Sends one to ten messages in one call; returns for each why it is not known to be
            accepted, or None. It raises nothing but what interrupts a thread.
        clock: Returns monotonic seconds.
        lock: Makes what threads wait for. The proof has its own, in virtual time.
        ident: Tells which thread calls.
    """

    def __init__(
        self,
        send: Send,
        *,
        clock: Callable[[], float] = time.monotonic,
        lock: Callable[[], threading.Lock] = threading.Lock,
        ident: Callable[[], int] = threading.get_ident,
    ) -> None:
        self._send = send
        self._clock = clock
        self._new_lock = lock
        self._ident = ident
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._inside: set[int] = set()
        self._under_way: list[threading.Lock] = []
        self._open: _Group | None = None
        self._usual = 0.0

    def send(self, messages: Sequence[Message]) -> Sequence[Why]:
        """Send one to ten messages, perhaps with others; return for each what `send` has said."""
        thread = self._ident()
        if thread in self._inside:  # a signal's handler, or a hook: it would wait for itself
            return self._send(messages)
        try:
            self._inside.add(thread)
            return self._sent_with_others(messages)
        finally:
            self._inside.discard(thread)

    def _sent_with_others(self, messages: Sequence[Message]) -> Sequence[Why]:
        own = _Group(self._new_lock)
        with own.under_way:
            group, position = self._joined(own, messages)
            if group is own:
                self._lead(own)
        if group is not own:
            own.pause.acquire(timeout=PATIENCE)
        if group.whys is None:  # its thread was interrupted, or waits for something else
            self._close(group)
            return self._send(messages)
        whys = group.whys[position : position + len(messages)]
        if len(group.messages) > len(messages) and any(map(_may_be_anothers, whys)):
            return self._send(messages)
        return whys

    def _joined(self, own: _Group, messages: Sequence[Message]) -> tuple[_Group, int]:
        """Return the messages' group, and their position in it."""
        size = sum(map(_bytes, messages))
        with self._lock:
            group = self._open
            if group is None or not group.has_room_for(messages, size):
                self._close(group)
                group = own
                self._under_way = [each for each in self._under_way if each.locked()]
                if self._under_way:
                    self._open = own
                else:  # nothing is under way that it could wait for
                    own.pause.release()
                self._under_way.append(own.under_way)
            else:
                group.others.append(own)
            position = group.add(messages, size)
            if len(group.messages) == BATCH_SIZE:
                self._close(group)
        return group, position

    def _lead(self, group: _Group) -> None:
        try:
            group.pause.acquire(timeout=min(PART * self._usual, LONGEST))
            self._close(group)
            began = self._clock()
            group.whys = self._send(group.messages)
            self._usual += NEWEST * (self._clock() - began - self._usual)
        finally:  # where Ctrl-C comes just here, the others have patience
            self._close(group)
            for other in group.others:
                other.pause.release()

    def _close(self, group: _Group | None) -> None:
        """Let no message join any more."""
        with self._lock:
            if group is not None and group is self._open:
                self._open = None
                group.pause.release()


def _bytes(message: Message) -> int:
    """Return the bytes of a message's text and of its attributes."""
    attributes: dict[str, Any] = message.get("MessageAttributes", {})
    texts = [
        message["Message"],
        *attributes,
        *(each["StringValue"] for each in attributes.values()),
    ]
    return sum(len(str(text).encode(errors="replace")) for text in texts)


def _may_be_anothers(why: Why) -> bool:
    """Return True if another message of the same call can be why it failed."""
    if not isinstance(why, Exception):
        return False
    if isinstance(answer := getattr(why, "response", None), dict):  # botocore's ClientError
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return 400 <= status < 429 and "Throttl" not in str(answer.get("Error"))
    names = {kind.__name__ for kind in type(why).__mro__}
    return not names & {"ConnectionError", "HTTPClientError"}  # Python's, or botocore's: no answer
