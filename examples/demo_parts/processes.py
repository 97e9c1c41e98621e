"""Child processes: each prints its URL, has a log, and never outlives the demo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

START_PATIENCE = 30.0
"""Seconds within which a child must listen."""

STOP_PATIENCE = 5.0
"""Seconds within which a child must stop when asked, or it is killed."""


class ChildError(Exception):
    """A child did not do its job. The message ends with the last lines of its log."""


class Child:
    """
    A process.

    Attributes:
        name: Its name, for people.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def url(self) -> str:
        """
        Wait until the child listens; return its URL.

        Raises:
            ChildError: The child ended, or did not listen in time.
        """
        deadline = time.monotonic() + START_PATIENCE
        while (
            match := re.search(r"^listening on (\S+)$", self._log.read_text(), re.MULTILINE)
        ) is None:
            if (failure := self.failure()) is not None:
                raise failure
            if time.monotonic() > deadline:
                raise ChildError(
                    f"{self.name} does not listen after {START_PATIENCE:.0f} s; "
                    f"{self._last_output()}"
                )
            time.sleep(0.02)
        return match[1]

    def failure(self) -> ChildError | None:
        """Return how the child ended, or None if it runs."""
        status = self._process.poll()
        return (
            None
            if status is None
            else ChildError(f"{self.name} ended with status {status}; {self._last_output()}")
        )

    def terminate(self) -> None:
        """Ask the child to stop."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait for the child's end; kill it if it does not stop in time."""
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_output(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return (
            "\n".join(["its last output:", *(f"    {line}" for line in lines)])
            if lines
            else "it printed nothing"
        )


class Children:
    """
    All child processes.

    Args:
        directory: Where to write their logs.
        path: A directory of modules that they can import.
    """

    def __init__(self, directory: Path, path: Path) -> None:
        self._directory = directory
        self._environment = {**os.environ, "PYTHONPATH": str(path)}
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def set_environment(self, **variables: str) -> None:
        """Set environment variables for the children that start later."""
        self._environment.update(variables)

    def start(self, name: str, module: str, *arguments: str) -> Child:
        """
        Run a Python module as a process.

        Raises:
            ChildError: The children have been stopped already.
        """
        log = self._directory / f"{name}.log"
        with self._lock:
            if self._closed:
                raise ChildError("stopped")
            with log.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603  # this Python, and a module of ours
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C reaches the demo only, which stops them
                )
            child = Child(name, process, log)
            self._children.append(child)
            return child

    def failure(self) -> ChildError | None:
        """Return how one of them ended, or None if all run."""
        return next(
            (failure for child in self._children if (failure := child.failure()) is not None), None
        )

    def stop(self) -> None:
        """Stop all, and start no more. The first one is last, because the others need it."""
        with self._lock:
            self._closed = True
            for tier in self._children[1:], self._children[:1]:
                for child in tier:
                    child.terminate()
                for child in tier:
                    child.wait()
