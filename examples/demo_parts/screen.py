"""Show the demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from demo_parts.story import THREADS

if TYPE_CHECKING:
    import threading

    from demo_parts.changes import Driver
    from demo_parts.story import Downstream, Story

TICK = 0.1
PLAIN_LINE_EVERY = 2.0
"""Seconds."""

MEASURES = (
    ("acknowledged", "events", "looked at and acknowledged"),
    ("gets", "GETs", "requests to the product service"),
    ("created", "created", "looks: new to the cache"),
    ("updated", "updated", "looks: changed"),
    ("unchanged", "unchanged", "looks: as cached"),
    ("deleted", "deleted", "looks: gone, 410"),
    ("never_saved", "never saved", "looks: nothing there, nothing cached"),
)


class Screen:
    """
    Shows a story.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0
        self._started = time.monotonic()
        self._next_line = 0.0

    def follow(self, story: Story, stop: threading.Event) -> None:
        """Show what happens until the story is done, or `stop` is set."""
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                while not self._over(story, stop):
                    self._print_steps(story)
                    live.update(_live_view(story), refresh=True)
        else:
            while not self._over(story, stop):
                self._print_steps(story)
                self._print_line(story)
        self._print_steps(story)

    def end(self, story: Story) -> int:
        """Show the result; return the exit status."""
        if not story.done.is_set():
            self.say("stopped")
            return 130
        if story.error is not None:
            self.say(f"{type(story.error).__name__}: {story.error}", style="bold red")
            return 1
        self._print_findings(story)
        self.say(story.verdict, style="bold green" if story.equal else "bold red")
        return 0 if story.equal and all(good for good, _ in story.findings) else 1

    def say(self, text: str, style: str = "") -> None:
        """Print a line unchanged, however long."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _print_findings(self, story: Story) -> None:
        if story.driver is not None:
            self.say(f"\n{_changes(story.driver)}")
            elapsed = time.monotonic() - self._started
            self.say(f"in {elapsed:.0f} s; the slowest took {story.driver.longest:.1f} s")
            self.say(
                f"the settle window is {story.settings.settle} s: "
                "a save that takes longer is broadcast again"
            )
        self._console.print(_table(story.downstreams))
        self.say(f"GET /summary of {story.downstreams[0].name!r}, one SQL query on its cache:")
        self._console.print(_summary(story))
        for good, finding in story.findings:
            self._mark("ok" if good else "NO", finding, "green" if good else "bold red")

    def _over(self, story: Story, stop: threading.Event) -> bool:
        return stop.is_set() or story.done.wait(TICK)

    def _print_steps(self, story: Story) -> None:
        for step in story.steps[self._steps :]:
            self._mark("up", step, "green")
            self._steps += 1

    def _mark(self, mark: str, text: str, style: str) -> None:
        self._console.print(f"[{style}]{mark}[/]  {escape(text)}", highlight=False, soft_wrap=True)

    def _print_line(self, story: Story) -> None:
        elapsed = time.monotonic() - self._started
        if story.driver is not None and elapsed >= self._next_line:
            self._next_line = elapsed + PLAIN_LINE_EVERY
            caches = "".join(
                f"; {each.name}: {Counter(each.stats)['acknowledged']} events"
                for each in story.downstreams
            )
            self.say(
                f"{elapsed:4.0f} s  {story.driver.made} of {story.driver.total} changes{caches}"
            )


def _live_view(story: Story) -> Group | str:
    driver = story.driver
    if driver is None:
        return "starting ..."
    bar = Padding(ProgressBar(total=driver.total, completed=driver.made, width=70), (1, 0))
    state = (
        "making changes ..."
        if driver.made < driver.total
        else "waiting for the queues to be empty ..."
    )
    return Group(bar, _changes(driver), _table(story.downstreams), state)


def _changes(driver: Driver) -> str:
    tally = driver.tally
    return (
        f"{driver.made} of {driver.total} changes made by {THREADS} threads:\n"
        f"  {tally['saved']:4} saved, {tally['slow']} of them slowly\n"
        f"  {tally['failed']:4} failed after their broadcast\n"
        f"  {tally['conflict']:4} lost to a faster one after their broadcast (409)\n"
        f"  {tally['rejected']:4} rejected before it"
    )


def _table(downstreams: list[Downstream]) -> Table:
    table = Table("", *(downstream.name for downstream in downstreams), "", box=box.SIMPLE_HEAD)
    for column in table.columns[1:-1]:
        column.justify = "right"
    table.columns[-1].style = "dim"
    counts = [Counter(downstream.stats) for downstream in downstreams]
    for key, name, meaning in MEASURES:
        table.add_row(name, *(str(count[key]) for count in counts), meaning)
    staleness = [downstream.staleness for downstream in downstreams]
    table.add_row(
        "staleness p50",
        *(f"{each.p50:.3f} s" if each else "" for each in staleness),
        "from commit to cache, half of them",
    )
    table.add_row(
        "staleness p99", *(f"{each.p99:.3f} s" if each else "" for each in staleness), "99 of 100"
    )
    return table


def _summary(story: Story) -> Table:
    table = Table("image host", "month", "products", box=box.SIMPLE_HEAD)
    table.columns[-1].justify = "right"
    for row in story.summary:
        table.add_row(row["host"], row["month"], str(row["products"]))
    return table
