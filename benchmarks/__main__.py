"""`python -m benchmarks`: measure, and print what came of it."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.capacity import CONNECTIONS
from benchmarks.environments import ROOT
from benchmarks.results import machine, save, versions
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contest import Report

WIDTH = 140
"""Columns, where there is no terminal to ask."""


def main(arguments: argparse.Namespace) -> int:
    """Play the workloads, print their tables and figures, and return 1 if a goal is missed."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    everybody = {contender.name: contender for contender in contenders.ALL}
    at_hand = [contender.name for contender in contenders.AT_HAND]
    chosen = [everybody[name] for name in arguments.contenders or (at_hand if arguments.quick else everybody)]
    reports: dict[str, Report] = {}
    canned = arguments.canned or arguments.quick
    with Bench(quick=arguments.quick, canned=canned, scale=arguments.scale, contenders=chosen) as bench:
        for name in arguments.workloads or WORKLOADS:
            console.print(f"\n[bold]{textwrap.fill(WORKLOADS[name].__doc__ or '', 110)}[/]")
            with console.status("") as status:

                def progress(what: str, events: int, name: str = name) -> None:
                    text = f"{name}: {what}" + (f", {events:,} events" if events else "")
                    status.update(text)
                    if not console.is_terminal:
                        console.print(text, style="dim")

                bench.progress = progress
                started = time.monotonic()
                reports[name] = WORKLOADS[name](bench)
            show(console, name, reports[name])
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    if bench.capacity:
        console.print(
            f"\nthe source answers {bench.capacity:,.0f} GETs a second, {CONNECTIONS} at once, when it has no latency"
        )
    if arguments.save:
        taken = {
            "machine": machine(),
            "versions": versions({contender.name for contender in chosen}),
            "quick": arguments.quick,
            "queue": "canned" if canned else "ministack",
            "source_gets_per_second": round(bench.capacity),
        }
        console.print("written:", *(str(path.relative_to(ROOT)) for path in save(reports, taken)))
    missed = sum(not figure.met for report in reports.values() for figure in report.figures)
    console.print(f"{missed} goals missed" if missed else "all goals met")
    return int(bool(missed))


def show(console: Console, name: str, report: Report) -> None:
    """Print a report."""
    if report.table:
        table = Table(*report.table[0])
        for row in report.table[1:]:
            table.add_row(*row)
        console.print(table)
    table = Table(name, "measured", "goal", "")
    for figure in report.figures:
        verdict = "" if not figure.goal else "met" if figure.met else "[red]MISSED[/]"
        table.add_row(figure.what, str(figure), figure.goal, verdict)
    if report.figures:
        console.print(table)
    for note in report.notes:
        console.print(note)


def command(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and measure."""
    stories = "\n".join(textwrap.fill(f"  {play.__doc__}", 110, subsequent_indent="     ") for play in WORKLOADS.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{benchmarks.__doc__}\n\nworkloads:\n{stories}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []], metavar="WORKLOAD", help="which (default: all)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute or two in all: one round, the canned queue, and only what needs no install",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        choices=[contender.name for contender in contenders.ALL],
        help="who takes part; ours and tuned must",
    )
    parser.add_argument("--canned", action="store_true", help="the canned queue server, which costs next to nothing")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="play that part of the events, as 0.2")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/ and the figures in docs/explanation/performance.md"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended
    try:
        return main(parser.parse_args(arguments))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(command())
