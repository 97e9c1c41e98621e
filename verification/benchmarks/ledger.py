"""
What happens to a queue, as its server sees it. Runs in the queue server's own environment, too.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

SNS_LAG = 0.015
"""
Seconds from a publish to its message in the queue, in both servers. An assumption; emulators take
none.
"""


class Ledger:
    """
    The calls that a queue had between being filled and being empty.

    Attributes:
        left: Messages that nobody has deleted.
        filled: When its messages were put in, in monotonic seconds; these are the same in all
            processes of a machine.
        emptied: When the last of them was deleted; None until then.
        polling: Receives under way; those that wait when the queue is filled count as calls, as
            they bring the first events.
        received: Deliveries.
        missed: Messages that were deleted or extended when they had been visible to others again.
    """

    def __init__(self) -> None:
        self.left = 0
        self.filled: float | None = None
        self.emptied: float | None = None
        self.polling = 0
        self.received = self.missed = 0
        self._calls: Counter[str] = Counter()

    def call(self, operation: str) -> None:
        """Count a call, unless the work is done."""
        if self.emptied is None:
            self._calls[operation] += 1

    def fill(self) -> None:
        """Forget what was before: the work begins now."""
        self._calls = Counter(ReceiveMessage=self.polling)
        self.received = self.missed = 0
        self.filled = time.monotonic()
        self.emptied = None

    def delete(self) -> None:
        """Count a message out."""
        self.left -= 1
        if not self.left:
            self.emptied = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {
            "left": self.left,
            "filled": self.filled,
            "emptied": self.emptied,
            "received": self.received,
            "missed": self.missed,
            "calls": dict(self._calls),
        }
