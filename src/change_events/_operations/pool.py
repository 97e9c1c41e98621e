"""Threads for which the interpreter's exit does not wait: a call of the user's can hang."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


class Pool:
    """
    Runs calls in threads. They start when there is something to do, and are daemons.

    Args:
        threads: The most threads.
        name: What the threads' names begin with.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._threads = 0
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        """Call the function in a thread. All calls of `submit` come from one thread."""
        future: Future[R] = Future()
        if self._threads < self._most:
            self._threads += 1
            name = f"change-events-{self._name}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._calls.put((future, partial(function, *arguments)))
        return future

    def close(self) -> None:
        """Cancel what has not begun, and end the threads. It does not wait for them."""
        while (call := self._next()) is not None:
            call[0].cancel()
        for _ in range(self._threads):
            self._calls.put(None)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._calls.get_nowait()
        except Empty:
            return None

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
