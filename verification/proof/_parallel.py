"""Work in several processes, with progress, ended cleanly by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Job = TypeVar("Job")
Result = TypeVar("Result")


def ignore_ctrl_c() -> None:
    """Leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends its children


def results(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int
) -> Iterator[Result]:
    """Yield what the jobs return, in the order in which they end."""
    if processes == 1:
        yield from map(function, jobs)
        return
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), ignore_ctrl_c)
    try:
        for future in as_completed([executor.submit(function, job) for job in jobs]):
            yield future.result()
    finally:  # what has begun is waited for, a few seconds
        executor.shutdown(cancel_futures=True)


class Progress:
    """A line that is renewed on a terminal, and printed every half a minute elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, number: int) -> None:
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
        """Take the line off a terminal; the next one comes when it is due."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
