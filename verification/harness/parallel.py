"""Runs jobs in several processes, which Ctrl-C ends cleanly."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Job = TypeVar("Job")
Result = TypeVar("Result")


def ignore_ctrl_c() -> None:
    """Ignore Ctrl-C in this process: its parent receives the signal, too, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def signals_later() -> Iterator[None]:
    """
    Let Ctrl-C and SIGTERM wait for the end of the block.

    An executor that they interrupt while it starts its processes can't be shut down.
    """
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def results(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, processes: int
) -> Iterator[Result]:
    """Yield each job's result, in the order in which the jobs end."""
    if processes == 1:
        yield from map(function, jobs)
        return
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), ignore_ctrl_c)
    # Not `as_completed`: it holds the futures' locks for a moment, and an exception of a signal's
    # handler in that moment would leave them locked, so that the shutdown never ended.
    done: SimpleQueue[Future[Result]] = SimpleQueue()
    try:
        with signals_later():
            for job in jobs:
                executor.submit(function, job).add_done_callback(done.put)
        for _ in jobs:
            yield done.get().result()
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()  # the jobs that have begun can last for minutes
        raise
    finally:
        executor.shutdown(cancel_futures=True)
