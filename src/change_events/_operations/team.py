"""Threads that share a list of things to do, for an operation that a caller waits for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

MOMENT = 0.5
"""Seconds between two calls of `meanwhile`, at most."""

LAST_WORDS = 10.0
"""Seconds that an interrupted caller waits for what is under way: a GET's longest, by default."""


class StoppedError(Exception):
    """One of the things to do has failed, so the others were not begun. `cause`: Its error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def in_threads(
    do: Callable[[T, threading.Event], object],
    items: Iterable[T],
    threads: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """
    Call `do` with each item, in several threads, and wait until all are done.

    Args:
        do: Gets an item, and an event that is set once no more is to be done. What it raises stops
            the others, each after the item that it has.
        items: What there is to do, in this order.
        threads: The most threads.
        meanwhile: Called now and then in the caller's thread. What it raises stops the threads.

    Raises:
        StoppedError: `do` raised something.
    """
    team = _Team(do, items)
    try:
        team.start(threads)
        while team.working:
            team.wait(MOMENT)
            meanwhile()
    finally:
        team.stop.set()
        deadline = time.monotonic() + LAST_WORDS
        while team.working and (left := deadline - time.monotonic()) > 0:
            team.wait(left)
    if team.errors:
        raise StoppedError(team.errors[0]) from team.errors[0]


class _Team(Generic[T]):
    """
    The threads.

    Attributes:
        working: How many have not ended.
        stop: Set once nothing more is to be begun.
        errors: What `do` raised.
    """

    def __init__(self, do: Callable[[T, threading.Event], object], items: Iterable[T]) -> None:
        self.working = 0
        self.stop = threading.Event()
        self.errors: list[Exception] = []
        self._do = do
        self._todo = deque(items)
        self._ended = SimpleQueue[None]()

    def start(self, most: int) -> None:
        """Start a thread for each thing to do, and at most so many."""
        for _ in range(min(most, len(self._todo))):
            # Daemons: a look that hangs must not keep the process alive after Ctrl-C.
            threading.Thread(target=self._work, name="change-events-operation", daemon=True).start()
            self.working += 1

    def wait(self, seconds: float) -> None:
        """Wait until a thread ends, for at most so long."""
        # Not `Thread.join`: if Ctrl-C interrupts it, the thread counts as ended.
        with contextlib.suppress(Empty):
            self._ended.get(timeout=seconds)
            self.working -= 1

    def _work(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    item = self._todo.popleft()
                except IndexError:
                    break
                self._do(item, self.stop)
        except Exception as error:
            self.errors.append(error)
            self.stop.set()
        finally:
            self._ended.put(None)
