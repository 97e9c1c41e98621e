"""Runs several worker processes: starts them, restarts those that died, passes signals on."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from change_events._cli.child import STARTED
from change_events._cli.problems import BUG, MISTAKE, UNFINISHED, Mistake
from change_events._consumer.backoff import pause_after
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TICK = 0.1
"""Seconds between two looks at the processes."""

ATTEMPTS = 5
"""Failures to start, in a row, after which the command ends, if none has ever started."""

MOST_PAUSE = 30.0
"""The most seconds before a process starts again."""

LONG = 60.0
"""Seconds after which a process counts as good: if it dies then, it starts again soon."""

KILLING_SIGNAL = 3
"""The number of the signal that kills the processes."""

STOPPED = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
"""Exit statuses of a process that was asked to stop, perhaps before its worker had started."""


@dataclass(slots=True)
class Child:
    """
    A process.

    Attributes:
        line: The socket that is its stdin.
        began: When it was started, in monotonic seconds.
        started: Its worker has started.
    """

    process: subprocess.Popen[bytes]
    line: socket.socket
    began: float
    started: bool = False

    def look(self) -> int | None:
        """Learn whether it has started. Return its exit status if it has ended."""
        ended = self.process.poll()
        if not self.started:
            with suppress(OSError):  # there is nothing to read
                self.started = self.line.recv(1) == STARTED
        return ended


@dataclass(slots=True)
class Place:
    """
    A place for a process.

    Attributes:
        child: The process; None: there is none now.
        failures: How many in a row have not lived for long.
        start_at: When to start the next one, in monotonic seconds.
        done: No process is to be started any more.
    """

    number: int
    child: Child | None = None
    failures: int = 0
    start_at: float = 0.0
    done: bool = False


class Processes:
    """
    Several worker processes.

    Args:
        command: Returns the command of the process that has a number, from 0.
        count: How many to run.
        once: Each one ends by itself, and is not restarted.
        pause: Returns the seconds to wait after `n` failures, up to the given most.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        count: int,
        *,
        once: bool = False,
        pause: Callable[[int, float], float] = pause_after,
    ) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise Mistake("--processes needs Linux, macOS or another Unix")
        self._command = command
        self._places = [Place(number) for number in range(count)]
        self._once = once
        self._pause = pause
        self._signals: deque[int] = deque()
        self._stops = 0
        self._proved = False  # one has started, so it is worth starting the others
        self._status = 0

    def run(self) -> int:
        """Run them until a signal comes; return the exit status."""
        try:
            with self._signals_caught():
                while not self._is_over():
                    time.sleep(TICK)
                    self._pass_signals_on()
                    for place in self._places:
                        self._look_at(place)
        finally:
            self._kill()
        return self._status

    def _is_over(self) -> bool:
        return all(place.done for place in self._places)

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
        previous = {
            number: signal.signal(number, lambda number, _: self._signals.append(number))
            for number in numbers
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _pass_signals_on(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number == signal.SIGUSR1:
                self._send(number, only_started=True)  # it would kill one that is starting
                continue
            self._stops += 1
            self._send(signal.SIGKILL if self._stops >= KILLING_SIGNAL else signal.SIGTERM)

    def _send(self, number: int, *, only_started: bool = False) -> None:
        for place in self._places:
            if place.child is not None and (place.child.started or not only_started):
                place.child.process.send_signal(number)

    def _look_at(self, place: Place) -> None:
        if place.child is not None:
            status = place.child.look()
            self._proved |= place.child.started
            if status is not None:
                self._ended(place, place.child, status)
        elif self._stops:
            place.done = True
        elif not place.done and self._may_start(place):
            try:
                place.child = self._started(place.number)
            except OSError as error:  # too many processes or files, perhaps not for long
                self._failed(place, f"can't be started: {printable(error)}", UNFINISHED)

    def _may_start(self, place: Place) -> bool:
        # One first: what is wrong with all of them is told once.
        return time.monotonic() >= place.start_at and (self._proved or not place.number)

    def _started(self, number: int) -> Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ours.settimeout(0)
                process = subprocess.Popen(  # noqa: S603  # this interpreter, and this program
                    list(self._command(number)),
                    stdin=theirs.fileno(),
                    start_new_session=True,  # a terminal's Ctrl-C must not be a second signal to it
                )
        except OSError:
            ours.close()
            raise
        return Child(process, ours, time.monotonic())

    def _ended(self, place: Place, child: Child, status: int) -> None:
        child.line.close()
        place.child = None
        how = f"(pid {child.process.pid}) {_how(status)}"
        if self._stops or self._once:
            self._proved |= not status
            place.done = True
            if status not in (STOPPED if self._stops else {0}):
                self._tell(place, how)
                self._status = max(self._status, _own(status))
                self._end_if_none_started(self._status)
            return
        if time.monotonic() - child.began >= LONG:
            place.failures = 0
        self._failed(place, how, _own(status))

    def _failed(self, place: Place, how: str, status: int) -> None:
        """Try again later, unless none has ever started and it looks as if none could."""
        place.failures += 1
        if not self._proved and (status == MISTAKE or place.failures >= ATTEMPTS):
            self._tell(place, f"{how}; none has ever started, so this ends")
            self._end_if_none_started(status)
            return
        pause = self._pause(place.failures, MOST_PAUSE)
        place.start_at = time.monotonic() + pause
        self._tell(place, f"{how}; it starts again in {pause:.1f} s")

    def _end_if_none_started(self, status: int) -> None:
        if not self._proved:
            self._status = status
            for place in self._places:
                place.done = True

    def _tell(self, place: Place, what: str) -> None:
        number = f"process {place.number + 1} of {len(self._places)}"
        click.echo(f"change-events: {number} {what}", err=True)

    def _kill(self) -> None:
        """End what is left, if this loop has died of an error."""
        for place in self._places:
            if place.child is not None:
                place.child.process.kill()
                place.child.process.wait()
                place.child.line.close()


def _own(status: int) -> int:
    """Return what the command ends with if a process has ended with that status."""
    return status if status in {MISTAKE, UNFINISHED, BUG} else UNFINISHED


def _how(status: int) -> str:
    if status >= 0:
        return f"has ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"
