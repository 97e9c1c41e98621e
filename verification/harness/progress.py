"""A line that shows how far a command is."""

from __future__ import annotations

import math
import sys
import time


class Progress:
    """
    Prints how much is done: on a terminal as one line, elsewhere as a new line every 30 seconds.

    Args:
        total: How many there are to do.
        what: Their name, in the plural.
    """

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._started

    def add(self, number: int) -> None:
        """Count so many as done."""
        self._done += number
        now = time.monotonic()
        if now - self._shown < (0.5 if self._terminal else 30.0) and self._done < self._total:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        left = max(0, self._total - self._done) / rate
        speed = f", {rate:,.0f} a second" if rate >= 1 else ""
        text = f"{self._done:,} of {self._total:,} {self._what}{speed}, {left:.0f} s to go"
        print(
            f"\r\033[K{text}" if self._terminal else text,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def clear(self) -> None:
        """Erase the line on a terminal. The next one appears when it is due."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def sleep(seconds: float, what: str) -> None:
    """Sleep, rounded up to whole seconds, and show the progress."""
    progress = Progress(math.ceil(seconds), what)
    for _ in range(math.ceil(seconds)):
        time.sleep(1.0)
        progress.add(1)
