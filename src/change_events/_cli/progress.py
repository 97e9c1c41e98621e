"""Shows how far a command is, on stderr: a bar on a terminal, or a line every few seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

LINE_EVERY = 5.0
"""Seconds between two lines."""


class Bar:
    """
    Shows progress while its block runs.

    Args:
        what: What is done.
        console: Where to show it. Default: stderr.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        what: str,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._next = clock() + LINE_EVERY
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
        )
        self._task = self._progress.add_task(what, total=None, text="")

    def show(self, done: int, total: int | None, text: str) -> None:
        """Show that so much is done. `total`: None if it is not known."""
        if self._console.is_terminal:
            self._progress.update(
                self._task, completed=done, total=total, text=printable(text), refresh=True
            )
        elif (now := self._clock()) >= self._next:
            self._next = now + LINE_EVERY
            click.echo(f"{self._what}: {printable(text)}", err=True)

    def stop(self) -> None:
        """Take the bar away, so that something else can be printed."""
        if self._console.is_terminal:
            self._progress.stop()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
