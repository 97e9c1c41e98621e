"""`python -m verification.chaos`: break everything, and print the figures."""

from __future__ import annotations

import argparse
import random
import sys
import textwrap
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from verification import chaos
from verification.chaos import auditing, beliefs, failures, filling, hung, plays, publishers
from verification.chaos.fuzz import fuzz
from verification.chaos.soak import soak
from verification.harness.commands import status_of, story_of
from verification.harness.docs import markdown_table, write_between_markers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.harness.figures import Figure


@dataclass(frozen=True)
class Play:
    """
    A play and its arguments.

    Attributes:
        play: Returns its figures.
        full: The arguments for `make chaos`.
        cut: The arguments for `--quick` and the tests: seconds, not minutes.
        only_by_name: Play it only if the command line names it.
    """

    play: Callable[..., list[Figure]]
    full: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, Any] = field(default_factory=dict)
    only_by_name: bool = False


PLAYS = {
    "kill": Play(plays.kill, {"kills": 100}, {"kills": 4}),
    "outage": Play(
        plays.outage,
        {"times": 4, "visibility": 10, "max_receives": 3, "events": 1000},
        {"times": 2, "visibility": 3, "max_receives": 2, "events": 60},
    ),
    "few-in-outage": Play(
        failures.few_in_outage,
        {"numbers": (1, 2, 40), "kinds": 7, "visibility": 6, "max_receives": 2},
        {"numbers": (1, 40), "kinds": 1, "visibility": 4, "max_receives": 2},
    ),
    "wrong-answers": Play(
        plays.wrong_answers, {"rows": 200, "seconds": 15.0}, {"rows": 60, "seconds": 4.0}
    ),
    "broken-ids": Play(
        failures.broken_ids,
        {"numbers": (1, 5, 1000), "healthy": 30, "max_receives": 2},
        {"numbers": (5,), "healthy": 10, "max_receives": 1},
    ),
    "hung-look": Play(
        hung.hung_look,
        {"others": 20, "visibility": 5, "shutdown_timeout": 5.0, "probe": True},
        {"others": 3, "visibility": 3, "shutdown_timeout": 1.0, "probe": False},
    ),
    "guard-restarts": Play(
        beliefs.guard_restarts,
        {"entities": 200, "few": 19, "restarts": 10, "lives": (0.5, 2.0)},
        {"entities": 60, "few": 19, "restarts": 2, "lives": (0.3, 0.6)},
    ),
    "filled": Play(
        filling.filled,
        {"entities": 20_000, "kills": 20, "lives": (0.0, 0.3), "down": 5.0},
        {"entities": 500, "kills": 2, "lives": (0.0, 0.05), "down": 1.0},
    ),
    "audited": Play(
        auditing.audited,
        {"entities": 500, "kills": 30, "lives": (0.5, 4.0), "min_age": 30.0, "per_second": 8.0},
        # Nobody saves: on a busy machine a cache can be late for longer than so short an age.
        {"entities": 50, "kills": 1, "lives": (0.0, 0.5), "min_age": 1.0, "per_second": 0.0},
    ),
    "wrong-url": Play(beliefs.wrong_url, {"events": 200}, {"events": 40}),
    "coarse-etags": Play(beliefs.coarse_etags, {"saves": 20}, {"saves": 2}),
    "forgotten-connections": Play(
        beliefs.forgotten_connections,
        {"idle": (5.0, 35.0), "get_timeout": 3.0},
        {"idle": (1.0,), "get_timeout": 2.0},
    ),
    "frozen-publisher": Play(publishers.frozen_publisher, {"publishers": 5}, {"publishers": 2}),
    "cancelled-save": Play(
        publishers.cancelled_save, {"delays": [6.0, 7.0, 8.0, 9.0]}, {"delays": [6.0]}
    ),
    "fork": Play(
        publishers.fork,
        {"rounds": 3, "children": 4, "works": 20},
        {"rounds": 1, "children": 2, "works": 5},
    ),
    "sqs-away": Play(plays.sqs_away, {"seconds": 60.0}, {"seconds": 4.0}),
    "failed-batches": Play(
        plays.failed_batches, {"seconds": 120.0, "every": 10}, {"seconds": 8.0, "every": 3}
    ),
    "stop": Play(
        plays.stop,
        {"times": 50, "lives": (1.0, 5.0), "idle": 5, "wait_time": 20},
        {"times": 3, "lives": (0.1, 1.5), "idle": 1, "wait_time": 1},
    ),
    "fuzz": Play(fuzz, {"bodies": 10_000, "answers": 10_000}, {"bodies": 150, "answers": 300}),
    "soak": Play(
        soak,
        {
            "seconds": 1800.0,
            "warm_up": 120.0,
            "every": 5.0,
            "full_load_for": 10.0,
            "most_growth": 5.0,
            "late_threads": 0,
            "least_share": 0.45,
        },
        # Pools and caches still fill after so short a warm-up, looking threads still start,
        # and the machine can be busy.
        {
            "seconds": 10.0,
            "warm_up": 3.0,
            "every": 0.5,
            "full_load_for": 2.0,
            "most_growth": 20.0,
            "late_threads": 10,
            "least_share": 0.1,
        },
        only_by_name=True,
    ),
}


def main(arguments: argparse.Namespace) -> int:
    """Play, print the figures, and return 1 if one of them misses its goal."""
    console = Console()
    console.print(f"seed {arguments.seed}: --seed {arguments.seed} repeats the random choices")
    table = Table("play", "figure", "measured", "goal", title="change-events under chaos")
    missed = 0
    for name in arguments.plays or [name for name, play in PLAYS.items() if not play.only_by_name]:
        play = PLAYS[name]
        console.print(f"\n{name}: {textwrap.fill(story_of(play.play), 110)}")
        started = time.monotonic()
        figures = play.play(arguments.seed, **(play.cut if arguments.quick else play.full))
        console.print(f"{name}: {time.monotonic() - started:.0f} s")
        for number, figure in enumerate(figures):
            verdict = figure.verdict(met=" ✓", missed=" [red]MISSED[/]")
            table.add_row("" if number else name, figure.what, str(figure), figure.goal + verdict)
            missed += not figure.met
        table.add_section()
        if arguments.save:
            write_between_markers(name, _markdown(figures, arguments.seed), page="chaos.md")
    console.print()
    console.print(table)
    console.print(f"{missed} goals missed" if missed else "all goals met")
    return int(bool(missed))


def _markdown(figures: Sequence[Figure], seed: int) -> str:
    rows = [[figure.what, str(figure), figure.goal] for figure in figures]
    return markdown_table([[f"seed {seed}", "measured", "goal"], *rows]) + "\n"


def command(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and play."""
    stories = "\n".join(
        textwrap.fill(f"  {name:22}{story_of(play.play)}", 110, subsequent_indent=" " * 24)
        for name, play in PLAYS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m verification.chaos",
        description=f"{chaos.__doc__}\nplays:\n{stories}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "plays",
        nargs="*",
        choices=[*PLAYS, []],
        metavar="PLAY",
        help="which plays (default: all but soak)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="seconds each, like the tests (default: about forty minutes in all)",
    )
    seed = random.randrange(10**6)
    parser.add_argument(
        "--seed",
        type=int,
        default=seed,
        metavar="N",
        help="the seed of all random choices (default: a new one)",
    )
    parser.add_argument(
        "--save", action="store_true", help="write the figures into docs/explanation/chaos.md"
    )
    given = parser.parse_args(arguments)
    return status_of(lambda: main(given))


if __name__ == "__main__":
    sys.exit(command())
