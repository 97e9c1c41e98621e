"""Child processes, and waiting for what tells nobody when it happens."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_PATIENCE = 60.0
"""Seconds that a process may take until it works, on a busy machine."""


class Process:
    """
    A child process, and what it has printed.

    Args:
        log: The file that it prints to.
        command: What to run.
        environment: What it finds in its environment, beside ours.
    """

    def __init__(self, log: Path, *command: str, **environment: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  # what we say
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for the parent, which ends its children
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        """Return what it has printed."""
        return self._log.read_text(errors="replace")

    def require_alive(self) -> None:
        """Raise if it has died."""
        if not self.alive:
            raise RuntimeError(f"a process has died: {self.text()[-2000:]}")

    def address(self) -> str:
        """Wait until it says where it listens, and return that."""
        wait_until(lambda: "listening on " in self.text() or not self.alive, START_PATIENCE)
        self.require_alive()
        return self.text().split()[-1]

    def send(self, signal: int) -> None:
        """Send a signal."""
        self._process.send_signal(signal)

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        return self._process.wait(START_PATIENCE)

    def close(self) -> None:
        """Kill it, if it lives."""
        self._process.kill()
        self._process.wait()


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """
    Look every twentieth of a second; return how long it took.

    Raises:
        TimeoutError: It has not come true.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"nothing came of it in {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started
