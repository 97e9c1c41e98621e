"""Threads as greenlets of one process, which run when they can go on."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ALL_COMPLETED, Future
from queue import Empty
from typing import TYPE_CHECKING, Any, cast

import greenlet

from change_events._consumer.crew import Threads
from verification.proof.effects import ask

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection

PARKED = ("parked",)
"""What a greenlet wants that waits for another one of its process, and not for the world."""


class Event:
    """A `threading.Event`. A wait for a time is over at once: steps can be late by any time."""

    def __init__(self, fibres: Fibres) -> None:
        self._fibres = fibres
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float) -> bool:
        self._fibres.seconds += timeout
        return self._is_set


class Queue:
    """A `queue.SimpleQueue`."""

    def __init__(self, fibres: Fibres) -> None:
        self._fibres = fibres
        self._items: deque[Any] = deque()

    def put(self, item: object) -> None:
        self._items.append(item)

    def get(self) -> Any:
        self._fibres.park(lambda: bool(self._items))
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise Empty
        return self._items.popleft()


class Fibres(Threads):
    """
    What an operation is given for its threads.

    Its clock moves only while a thread waits for a time.

    Args:
        spawn: Lets a thread begin. It gets its role, and what it does.

    Attributes:
        seconds: The time.
        waiting: The greenlets that are parked, and what each of them waits for.
    """

    def __init__(self, spawn: Callable[[str, Callable[[], None]], object]) -> None:
        self.seconds = 0.0
        self.waiting: dict[greenlet.greenlet, Callable[[], bool]] = {}
        self._spawn = spawn
        here = cast("Any", self)
        here.clock = lambda: self.seconds
        here.event = lambda: Event(self)
        here.queue = lambda: Queue(self)
        here.wait = self._wait

    def start(self, role: str, target: Callable[[], None]) -> threading.Thread:
        return cast("threading.Thread", self._spawn(role, target))

    def park(self, ready: Callable[[], bool]) -> None:
        """Let the others of the process go on until `ready` returns True."""
        while not ready():
            self.waiting[greenlet.getcurrent()] = ready
            ask(*PARKED)

    def is_ready(self, thread: greenlet.greenlet) -> bool:
        """Return True if a parked greenlet can go on."""
        return self.waiting[thread]()

    def _wait(
        self,
        futures: Collection[Future[Any]],
        timeout: float | None = None,
        return_when: str = ALL_COMPLETED,
    ) -> tuple[Collection[Future[Any]], Collection[Future[Any]]]:
        """Wait until all of them are done: nothing is done in between."""
        del timeout, return_when
        self.park(lambda: all(each.done() for each in futures))
        return futures, ()
