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

Send: TypeAlias = Callable[[Sequence[Message]], Sequence[Why]]


class _Group:
    """
    Messages that are sent in one call.

    Attributes:
        full: Is set when no message can join any more.
        sent: Is set when the call is over, or will not be made.
        whys: What the call has returned. None: its thread was interrupted.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.bytes = 0
        self.full = threading.Event()
        self.sent = threading.Event()
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
    """

    def __init__(self, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._inside: set[int] = set()
        self._groups: dict[int, _Group] = {}  # by the thread that leads them
        self._open: _Group | None = None
        self._usual = 0.0

    def send(self, messages: Sequence[Message]) -> Sequence[Why]:
        """
        Send one to ten messages, perhaps with others; return for each what `send` has said.

        When this returns, no call with one of them is under way.
        """
        thread = threading.get_ident()
        if (
            thread in self._inside
        ):  # a signal's handler, or a hook: it would wait for its own thread
            return self._send(messages)
        self._inside.add(thread)
        try:
            return self._sent_with_others(messages, thread)
        finally:
            self._inside.discard(thread)

    def _sent_with_others(self, messages: Sequence[Message], thread: int) -> Sequence[Why]:
        while True:
            try:
                group, position = self._joined(messages, thread)
                if position:
                    group.sent.wait()
                else:
                    self._lead(group)
            finally:  # Ctrl-C can have come anywhere; the others must not wait for ever
                self._end_group_of(thread)
            if group.whys is not None:
                break
        whys = group.whys[position : position + len(messages)]
        if len(group.messages) > len(messages) and any(map(_is_refusal, whys)):
            return self._send(messages)  # perhaps it was refused because of the others' messages
        return whys

    def _joined(self, messages: Sequence[Message], thread: int) -> tuple[_Group, int]:
        """Return the messages' group, and their position in it. The first thread leads it."""
        size = sum(map(_bytes, messages))
        with self._lock:
            group = self._open
            if group is None or not group.has_room_for(messages, size):
                self._close(group)
                group = self._groups[thread] = _Group()
                if len(self._groups) == 1:  # nothing is under way that it could wait for
                    group.full.set()
                else:
                    self._open = group
            position = group.add(messages, size)
            if len(group.messages) == BATCH_SIZE:
                self._close(group)
        return group, position

    def _lead(self, group: _Group) -> None:
        group.full.wait(min(PART * self._usual, LONGEST))
        self._close(group)
        began = self._clock()
        group.whys = self._send(group.messages)
        self._usual += NEWEST * (self._clock() - began - self._usual)

    def _end_group_of(self, thread: int) -> None:
        group = self._groups.get(thread)
        if group is not None:
            self._close(group)
            del self._groups[thread]
            group.sent.set()

    def _close(self, group: _Group | None) -> None:
        """Let no message join any more."""
        with self._lock:
            if group is not None:
                group.full.set()
            if group is self._open:
                self._open = None


def _bytes(message: Message) -> int:
    """Return the bytes of a message's text and of its attributes."""
    attributes: dict[str, Any] = message.get("MessageAttributes", {})
    texts = [
        message["Message"],
        *attributes,
        *(each["StringValue"] for each in attributes.values()),
    ]
    return sum(len(text.encode()) for text in texts)


def _is_refusal(why: Why) -> bool:
    """Return True if SNS has refused a whole call because of what was in it."""
    answer = getattr(why, "response", {})
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = answer.get("Error", {}).get("Code", "")
    return 400 <= status < 429 and not code.startswith("Throttl")
