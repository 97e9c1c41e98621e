"""Stops what runs in good order when Ctrl-C or SIGTERM comes."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from change_events._cli.problems import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def stopping(stop: Callable[[], object], *, then: str) -> Iterator[None]:
    """
    Call `stop` at a first Ctrl-C or SIGTERM. A second one interrupts the block.

    The block raises `RuntimeError` because of `stop`. That becomes an interrupt, and the user is
    told `then`.
    """
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        del frame
        came.append(number)
        stop()
        if len(came) > 1:
            raise _interrupt(number)

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    except (RuntimeError, KeyboardInterrupt) as error:
        if not came:
            raise
        click.echo(f"stopped. {then}", err=True)
        raise _interrupt(came[0]) from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
