"""Child processes, and waiting for what sends no signal when it happens."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from signal import SIGSTOP
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_PATIENCE = 60.0
"""Seconds that a process gets to start, on a busy machine."""


class Process:
    """
    A child process and what it has printed.

    Args:
        log: The file that it prints to.
        command: The command to run.
        environment: Variables that are added to our environment.
    """

    def __init__(self, log: Path, *command: str, **environment: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  # a command of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for the parent, which ends its children
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    def text(self) -> str:
        """Return what the process has printed."""
        return self._log.read_text(errors="replace")

    def require_alive(self) -> None:
        """Raise an error if the process has ended."""
        if not self.alive:
            raise RuntimeError(f"a process has died: {self.text()[-2000:]}")

    def address(self) -> str:
        """Wait until the process prints where it listens; return the URL."""
        wait_until(lambda: "listening on " in self.text() or not self.alive, START_PATIENCE)
        self.require_alive()
        return self.text().split()[-1]

    def send(self, signal: int) -> None:
        """Send a signal; if it stops the process, wait until it stands still."""
        self._process.send_signal(signal)
        if signal == SIGSTOP:
            stopped = psutil.Process(self._process.pid)
            wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, START_PATIENCE)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        return self._process.wait(START_PATIENCE)

    def close(self) -> None:
        """Kill the process if it is alive."""
        self._process.kill()
        self._process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """
    Check a condition until it is true, ever less often; return the seconds that this took.

    Pauses grow from 10 to 200 ms: many conditions are calls to a server, and cost it time.

    Raises:
        TimeoutError: The condition was still false after `seconds`.
    """
    started = time.monotonic()
    pause = 0.01
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"the condition was still false after {seconds:.0f} s")
        time.sleep(pause)
        pause = min(0.2, pause * 1.25)
    return time.monotonic() - started


def free_port(*, second: int = 0) -> int:
    """
    Return a port of loopback on which nothing listens, nor on the one that is `second` higher.

    Servers can go away and come back: no client gets one of these ports meanwhile, because they are
    below those that Linux gives to clients.
    """
    while True:
        port = random.randrange(10_000, 32_768 - second)
        with suppress(OSError), ExitStack() as sockets:
            for each in {port, port + second}:
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port
