"""Runs jobs in several processes, which Ctrl-C ends cleanly."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
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
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), ignore_ctrl_c)
    try:
        with signals_later():
            futures = [executor.submit(function, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)  # waits seconds, for the jobs that have begun
