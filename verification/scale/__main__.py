"""`python -m verification.scale`: the model beside the simulation."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from verification import scale
from verification.harness.commands import add_processes, status_of
from verification.harness.docs import markdown_table, write_between_markers
from verification.harness.parallel import results
from verification.scale.model import Needs, Setup, needs
from verification.scale.play import WARM, measured_of, outage

if TYPE_CHECKING:
    from collections.abc import Sequence

SETUPS = (
    Setup("1,000 a second, 1 queue, 10 workers", 1e3),
    Setup("10,000 a second, 1 queue, 50 workers", 1e4, workers=50),
    Setup("100,000 a second, 8 queues, 1,000 workers", 1e5, queues=8, workers=125),
    Setup("1,000 confirmed a second, 1 queue, 10 workers", 1e3, confirm=True),
    Setup(
        "1,000 confirmed a second, 10 queues, 10 workers", 1e3, queues=10, workers=1, confirm=True
    ),
)

LOST = Setup("50 a second, 1 queue, 2 workers", 50, workers=2)
"""What loses its Region for an hour."""

HOUR = 3600.0

NEAR = 0.2
"""By which part of the model's figure the simulation's can differ."""


def command(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.scale",
        description=scale.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help=f"virtual seconds to measure, after {WARM:.0f} (default: 3)",
    )
    parser.add_argument(
        "--most",
        type=float,
        default=1e5,
        metavar="RATE",
        help="leave out set-ups with more saves a second (default: 100_000)",
    )
    parser.add_argument(
        "--hour", type=float, default=HOUR, help="seconds without the Region (default: 3600)"
    )
    parser.add_argument("--save", action="store_true", help="write docs/explanation/scale.md")
    add_processes(parser)
    given = parser.parse_args(arguments)
    return status_of(lambda: _main(given))


def _main(given: argparse.Namespace) -> int:
    setups = [setup for setup in SETUPS if setup.rate <= given.most]
    jobs = [(setup, queue) for setup in setups for queue in range(setup.queues)]
    found: dict[str, list[Needs]] = {setup.name: [] for setup in setups}
    play = partial(measured_of, seconds=given.seconds)
    for setup, each in results(play, jobs, processes=given.processes):
        found[setup.name].append(each)
    rows = [
        [
            *("saves", "messages in flight, each queue", "commit to cache, median, ms"),
            *("GETs/s", "$ a million saves"),
        ]
    ]
    near = True
    for setup in setups:
        paper, played = needs(setup), _mean(found[setup.name])
        near = near and _is_near(paper, played)
        rows.append([setup.name, *map(_both, _shown(paper), _shown(played))])
    _print(rows, "on paper / in virtual time")
    lost = [["", "on paper", "in virtual time"], *outage(LOST, seconds=given.hour).rows()]
    _print(lost, f"{LOST.name}: the Region is away for {given.hour:,.0f} s")
    if given.save:
        write_between_markers("scale", markdown_table(rows), page="scale.md")
        write_between_markers("outage", markdown_table(lost), page="scale.md")
    print("they agree within a fifth" if near else "they differ by more than a fifth")
    return int(not near)


def _mean(played: list[Needs]) -> Needs:
    """Return the mean of the queues; each has told the GETs of all queues."""
    number = len(played)
    first, *others = played
    return replace(
        first,
        **{
            name: sum(getattr(each, name) for each in (first, *others)) / number
            for name in ("in_flight", "stale", "gets", "dollars")
        },
    )


def _is_near(paper: Needs, played: Needs) -> bool:
    return all(
        abs(getattr(played, name) - getattr(paper, name)) <= NEAR * getattr(paper, name)
        for name in ("in_flight", "stale", "gets", "dollars")
    )


def _shown(given: Needs) -> list[str]:
    return [
        f"{given.in_flight:,.0f}",
        f"{given.stale * 1e3:.0f}",
        f"{given.gets:,.0f}",
        f"{given.dollars:.2f}",
    ]


def _both(paper: str, played: str) -> str:
    return f"{paper} / {played}"


def _print(rows: list[list[str]], title: str) -> None:
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column)
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(command())
