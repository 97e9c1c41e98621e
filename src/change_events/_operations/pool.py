"""Threads for which the interpreter's exit does not wait: a call of the user's can hang."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar

from change_events._consumer.crew import Threads

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterable, Iterator
    from queue import SimpleQueue

R = TypeVar("R")
T = TypeVar("T")

MOMENT = 0.5
"""Seconds between two calls of `meanwhile`, at most."""

LAST_WORDS = 10.0
"""Seconds that an interrupted caller waits for what is under way: a GET's longest, by default."""


class Pool:
    """
    Runs calls in threads. They start when there is something to do, and are daemons.

    Args:
        threads: The most threads.
        name: What the threads' names begin with.
        using: Starts them.
    """

    def __init__(self, threads: int, name: str, *, using: Threads | None = None) -> None:
        self._most = threads
        self._name = name
        self._threads = 0
        self._using = using or Threads()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = self._using.queue()

    def submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        """Call the function in a thread. All calls of `submit` come from one thread."""
        future: Future[R] = Future()
        if self._threads < self._most:
            self._threads += 1
            self._using.start(f"{self._name}-{self._threads}", self._work)
        self._calls.put((future, partial(function, *arguments)))
        return future

    def close(self) -> None:
        """Cancel what has not begun, and end the threads. It does not wait for them."""
        while (call := self._next()) is not None:
            call[0].cancel()
            call[0].set_running_or_notify_cancel()  # what waits for it is told
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


def results_of(
    calls: Iterable[Future[R]],
    meanwhile: Callable[[], object],
    *,
    using: Threads | None = None,
) -> Iterator[R]:
    """
    Iterate over the results, in the order in which they come.

    What a call raises is raised at once; so is what `meanwhile` raises, which is called now and
    then.
    """
    pending: Collection[Future[R]] = list(calls)
    wait = (using or Threads()).wait
    while pending:
        finished, pending = wait(pending, MOMENT, FIRST_EXCEPTION)
        for each in finished:
            yield each.result()
        meanwhile()


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
    *,
    using: Threads | None = None,
) -> None:
    """
    Call `do` with each item, in several threads, and wait until all are done.

    Args:
        do: Gets an item, and an event that is set once no more is to be done. What it raises stops
            the others, each after the item that it has.
        items: What there is to do, in this order.
        threads: The most threads.
        meanwhile: Called now and then in the caller's thread. What it raises stops the threads.
        using: Starts them.

    Raises:
        StoppedError: `do` raised something.
    """
    using = using or Threads()
    stop, pool = using.event(), Pool(threads, "operation", using=using)

    def step(item: T) -> None:
        if not stop.is_set():
            try:
                do(item, stop)
            except Exception as error:
                stop.set()
                raise StoppedError(error) from error

    calls = [pool.submit(step, item) for item in items]
    try:
        for _ in results_of(calls, meanwhile, using=using):
            pass
    finally:
        stop.set()
        pool.close()
        using.wait(calls, LAST_WORDS)
