"""What a run's main thread is told, by its other threads and by signals."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNAL_CHECK = 0.25
"""Seconds between the main thread's checks for a signal."""


class Notice(Enum):
    """
    What the main thread is told.

    Attributes:
        STOP: `Worker.stop()` was called.
        SIGNAL: SIGTERM or SIGINT came.
        RESUME: SIGUSR1 came: an operator says that the entities are meant to be gone.
        DRAINED: The queue is empty, and nothing is held.
        FINISHED: The run has stopped in good order.
    """

    STOP = auto()
    SIGNAL = auto()
    RESUME = auto()
    DRAINED = auto()
    FINISHED = auto()


Control: TypeAlias = "queue.SimpleQueue[Notice | BaseException]"
"""
What the main thread is told: a notice, or the error of a thread that died.

A queue and not an event, because `put` is safe in a signal handler.
"""


def next_notice(control: Control, seconds: float) -> Notice | BaseException | None:
    """Wait up to `seconds`, and never long, for what comes in next. None: nothing came in."""
    # Short waits: a signal that another thread gets does not end the main thread's waiting.
    with contextlib.suppress(queue.Empty):
        return control.get(timeout=max(0.0, min(SIGNAL_CHECK, seconds)))
    return None


@contextlib.contextmanager
def signals_put_into(control: Control) -> Iterator[None]:
    """
    Turn signals into notices while the block runs, if it runs in the main thread.

    SIGUSR1 is left to a handler that the program has for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    notices = {signal.SIGTERM: Notice.SIGNAL, signal.SIGINT: Notice.SIGNAL}
    if hasattr(signal, "SIGUSR1") and not callable(signal.getsignal(signal.SIGUSR1)):
        notices[signal.SIGUSR1] = Notice.RESUME
    previous = {
        number: signal.signal(
            number, lambda number, _: control.put(notices[signal.Signals(number)])
        )
        for number in notices
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
