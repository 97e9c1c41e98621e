"""`python -m verification.benchmarks`: measure, and print the figures."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table

from verification import benchmarks
from verification.benchmarks import contenders
from verification.benchmarks.bench import Bench
from verification.benchmarks.capacity import CONNECTIONS
from verification.benchmarks.results import machine, save, versions
from verification.benchmarks.workloads import WORKLOADS
from verification.harness.commands import status_of, story_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.benchmarks.contest import Report

BY_NAME = {contender.name: contender for contender in contenders.ALL}
OTHERS = [contender.name for contender in contenders.OTHERS if contender != contenders.TUNED]

WIDTH = 140
"""The width of the output in columns, without a terminal."""


def main(arguments: argparse.Namespace) -> int:
    """Run the workloads, and print the figures; return 1 if a full run misses a goal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    at_hand = [contender.name for contender in contenders.AT_HAND]
    always = {contender.name for contender in [*contenders.OWN, contenders.TUNED]}
    names = {*always, *(arguments.contenders or (at_hand if arguments.quick else BY_NAME))}
    missed = 0
    with Bench(
        quick=arguments.quick,
        canned=arguments.canned or arguments.quick,
        scale=arguments.scale,
        contenders=[contender for name, contender in BY_NAME.items() if name in names],
    ) as bench:
        for name in arguments.workloads or WORKLOADS:
            report = play(console, bench, name)
            show(console, name, report)
            missed += sum(not figure.met for figure in report.figures)
            if arguments.save:  # at once, because the next workload can fail
                save({name: report}, taken(bench))
    if bench.capacity:
        console.print(
            f"the source answers {bench.capacity:,.0f} GETs a second without a latency, "
            f"{CONNECTIONS} at once"
        )
    if arguments.save:
        console.print("written: verification/benchmarks/results/, docs/explanation/performance.md")
    console.print(f"{missed} goals missed" if missed else "all goals met")
    return int(bool(missed) and not arguments.quick)


def play(console: Console, bench: Bench, name: str) -> Report:
    """Run a workload, and show what it is doing."""
    console.print(f"\n[bold]{textwrap.fill(story_of(WORKLOADS[name]), 110)}[/]")
    with console.status("") as status:

        def progress(what: str, events: int) -> None:
            text = f"{name}: {what}" + (f", {events:,} events" if events else "")
            status.update(text)
            if not console.is_terminal:
                console.print(text, style="dim")

        bench.progress = progress
        started = time.monotonic()
        report = WORKLOADS[name](bench)
    console.print(f"{name}: {time.monotonic() - started:.0f} s")
    return report


def taken(bench: Bench) -> dict[str, Any]:
    """Return how the figures were measured."""
    return {
        "machine": machine(),
        "versions": versions({contender.name for contender in bench.contenders}),
        "quick": bench.quick,
        "scale": bench.scale,
        "queue": "canned" if bench.canned else "ministack",
        "source_gets_per_second": round(bench.capacity),
    }


def show(console: Console, name: str, report: Report) -> None:
    """Print a report."""
    if report.table:
        table = Table(*report.table[0])
        for row in report.table[1:]:
            table.add_row(*row)
        console.print(table)
    table = Table(name, "measured", "goal", "")
    for figure in report.figures:
        verdict = figure.verdict(met="met", missed="[red]MISSED[/]")
        table.add_row(figure.what, str(figure), figure.goal, verdict)
    if report.figures:
        console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False)


def command(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and measure."""
    stories = "\n".join(
        textwrap.fill(f"  {story_of(play)}", 110, subsequent_indent="     ")
        for play in WORKLOADS.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m verification.benchmarks",
        description=f"{benchmarks.__doc__}\n\nworkloads:\n{stories}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workloads",
        nargs="*",
        choices=[*WORKLOADS, []],
        metavar="WORKLOAD",
        help="which (default: all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few minutes in all: one round, the canned queue, only what needs no installation",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        choices=OTHERS,
        help=f"which contenders, besides ours and tuned: {', '.join(OTHERS)}",
    )
    parser.add_argument(
        "--canned",
        action="store_true",
        help="use the canned queue server, which costs next to nothing",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help="use this part of the events, for example 0.2",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write verification/benchmarks/results/ and docs/explanation/performance.md",
    )
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `finally` then ends the processes
    try:
        return status_of(lambda: main(parsed))
    finally:
        end_children()


def end_children() -> None:
    """Kill the processes that were just being started when an interrupt came."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
            child.wait()


if __name__ == "__main__":
    sys.exit(command())
