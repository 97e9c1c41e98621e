"""An operation that its caller waits for, and that can be stopped at any time."""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

from change_events._operations.pool import Pool
from change_events._operations.throttle import TICK, Stopped, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")

LAST_WORDS = 3.0
"""Seconds that a stop waits for a call of the sink under way, so that the lease is given back."""


class Stoppable:
    """
    Runs an operation, one at a time, in a thread of its own: a call of the user's can hang, and a
    stop or Ctrl-C must not wait for it.

    Args:
        rate: The GETs in each second; None: no limit.
        stopped: What the error of a run says that was stopped.
    """

    def __init__(self, rate: float | None, stopped: str) -> None:
        self.rate = rate
        self._stopped = stopped
        self._throttle = Throttle(rate)

    def stop(self) -> None:
        """Ask the run to stop, or the next one if none is under way."""
        self._throttle.stopping.set()

    def run(self, work: Callable[[Throttle], R]) -> R:
        """
        Return what `work` returns.

        Raises:
            RuntimeError: `stop` was called.
            BaseException: `work` raised it.
        """
        throttle, pool = self._throttle, Pool(1, "operation")
        working = pool.submit(work, throttle)
        try:
            while not (working.done() or throttle.stopping.is_set()):
                wait([working], TICK)
        finally:
            throttle.stopping.set()  # for its threads
            wait([working], LAST_WORDS)
            pool.close()
            self._throttle = Throttle(self.rate)
        try:
            if working.done():
                return working.result()
        except Stopped:
            pass
        raise RuntimeError(self._stopped)
