"""
What happens to a queue, from its server's point of view.

Both queue servers use this module, and one of them runs in an environment of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

SNS_LAG = 0.015
"""Seconds from a publish to its message in the queue. Assumed, because emulators need no time."""


class Ledger:
    """
    The calls to a queue from its filling until it is empty.

    Times are in monotonic seconds, which all processes of a machine share.

    Attributes:
        left: Messages that are not deleted.
        filled: When the messages were put in.
        emptied: When the last one was deleted; None until then.
        polling: Receives under way. Those that wait when the queue is filled count as calls,
            because they return the first events.
        received: Deliveries.
        missed: Deletes and extensions of messages that had become visible again.
    """

    def __init__(self) -> None:
        self.left = 0
        self.filled: float | None = None
        self.emptied: float | None = None
        self.polling = 0
        self.received = self.missed = 0
        self._calls: Counter[str] = Counter()

    def call(self, operation: str) -> None:
        """Count a call, unless the queue is empty already."""
        if self.emptied is None:
            self._calls[operation] += 1

    def fill(self) -> None:
        """Begin to count, because the queue is being filled."""
        self._calls = Counter(ReceiveMessage=self.polling)
        self.received = self.missed = 0
        self.filled = time.monotonic()
        self.emptied = None

    def delete(self) -> None:
        """Count a delete."""
        self.left -= 1
        if not self.left:
            self.emptied = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return all counts, for JSON."""
        return {
            "left": self.left,
            "filled": self.filled,
            "emptied": self.emptied,
            "received": self.received,
            "missed": self.missed,
            "calls": dict(self._calls),
        }
