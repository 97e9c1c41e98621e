"""Looks of many threads or processes at one id: what the contract of sinks does with them."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from change_events._event import Found, Gone, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from threading import Barrier

    from change_events.typing import Sink

Change: TypeAlias = Found[Any] | Unchanged | Gone
"""What a look finds."""

Win: TypeAlias = tuple[int, Change]
"""A change that was applied, and the version that it was applied to."""

_shared: Barrier
"""Where the processes of a contention meet. Each has only one contention."""

MOST_LOST = 10_000
"""Other looks cannot beat a change so often in a row: then the sink refuses everything."""


def contend_in_threads(sink: Sink[Any], changes: Sequence[Sequence[Change]]) -> list[Win]:
    """Apply each list of changes in a thread of its own. The lists have the same length."""
    barrier = threading.Barrier(len(changes))
    with threads_that_switch_often(), ThreadPoolExecutor(len(changes)) as pool:
        return list(chain(*pool.map(partial(_contend, sink, barrier), changes)))


def contend_in_processes(
    open_again: Callable[[], Sink[Any]], changes: Sequence[Sequence[Change]]
) -> list[Win]:
    """Apply each list of changes in a process of its own, which opens the sink."""
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit what can't be pickled
    meet = spawn.Barrier(len(changes))
    with ProcessPoolExecutor(len(changes), spawn, _share, (meet,)) as pool:
        return list(chain(*pool.map(partial(_open_and_contend, open_again), changes)))


@contextlib.contextmanager
def opened(open_again: Callable[[], Sink[Any]]) -> Iterator[Sink[Any]]:
    """Open the sink; at the end close it, if it has a `close()`."""
    sink: Any = open_again()
    try:
        yield sink
    finally:
        if hasattr(sink, "close"):
            sink.close()


def _contend(sink: Sink[Any], barrier: Barrier, changes: Sequence[Change]) -> list[Win]:
    """Apply each change to `p1`. All contenders apply theirs to the same version at first."""
    won: list[Win] = []
    with aborting(barrier):
        for change in changes:
            barrier.wait()  # until nobody writes any more
            version = sink.entry("p1").version
            barrier.wait()  # until all have read it: a busy machine runs one after the other
            won.append((_apply(sink, change, version), change))
    return won


def _apply(sink: Sink[Any], change: Change, version: int) -> int:
    """Apply the change again and again until no other look gets in between; return to what."""
    for _ in range(MOST_LOST):
        if sink.apply("p1", change, if_version=version):
            return version
        version = sink.entry("p1").version
    return pytest.fail(f"{type(sink).__name__} refused {MOST_LOST} looks in a row")


def _share(barrier: Barrier) -> None:  # pragma: no cover  # coverage does not see other processes
    global _shared  # noqa: PLW0603  # a barrier can be given to a process only at its start
    _shared = barrier


def _open_and_contend(
    open_again: Callable[[], Sink[Any]], changes: Sequence[Change]
) -> list[Win]:  # pragma: no cover  # as above
    with aborting(_shared), opened(open_again) as sink:
        return _contend(sink, _shared, changes)


@contextlib.contextmanager
def aborting(barrier: Barrier) -> Iterator[None]:
    """Let no contender wait for one that has raised: then end the block."""
    try:
        yield
    except threading.BrokenBarrierError:
        pass  # another contender raises the reason
    except BaseException:
        barrier.abort()
        raise


@contextlib.contextmanager
def threads_that_switch_often() -> Iterator[None]:
    """Let threads get in each other's way more often than usual, for the length of the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the default, 5 ms, seldom ends between a check and its write
    try:
        yield
    finally:
        sys.setswitchinterval(before)
