"""
Every schedule: the production code, one step at a time, while SNS, SQS, source and cache do their
worst.

Each row is a set-up. It walks every history of so many saves of one entity: puts and deletes, with
the entity present or absent at first, one after the other and at the same time, with two workers.
With a backfill there is one worker, and the cache has either nothing at first, or the entity from
before the queue existed. A row can have one more saver, whose save raises (and can be committed
even so). It can have one fault at any step, of eight kinds. With bulk GETs there is one more: the
answer leaves out an entity that is present. With late saves there are two more: a save is cancelled
and commits later, or a publisher stands still for a window while its monotonic clock does. With
trouble there is one more: the source is down for up to three GETs. With a backfill there are three
more: it dies, and another one goes on; its listing leaves out an entity that is present; or the
sink fails to store a page, or to answer. `Setup` says what the set-ups are.

Schedules count as one if they differ only in the names of workers, savers and messages, or in the
moment of a step that no other process can see. Only late saves can outlast the settle window.

At the end, a walk of each of a few set-ups is compared with one that looks nothing up.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from verification.harness.commands import add_processes, status_of
from verification.harness.docs import write_between_markers
from verification.harness.parallel import results
from verification.harness.progress import Progress
from verification.proof.effects import SETTLE, Setup
from verification.proof.explore import (
    FAULTS,
    History,
    Result,
    World,
    explore,
    shortest_violation,
)

if TYPE_CHECKING:
    from verification.proof.explore._state import State


@dataclass(frozen=True)
class Walk:
    """
    A row of the table.

    Attributes:
        name: The set-up's name.
        setup: How the processes are set up.
        saves: How many saves there are.
        failing: There is one more save, which raises.
        fault: One fault can happen.
        workers: How many workers there are.
        long: Walked only with `--all`.
    """

    name: str
    setup: Setup
    saves: int
    failing: bool = False
    fault: bool = False
    workers: int = 2
    long: bool = False

    def histories(self) -> list[History]:
        """
        Return every history, without those that differ only in the order of the saves.

        A backfill finds a cache without the entity, or with one from before the queue existed.
        """
        puts = itertools.combinations_with_replacement((True, False), self.saves)
        cached = (False, True) if self.setup.page else (None,)
        return [History(*each) for each in itertools.product((True, False), puts, cached)]


LATE = Setup(renewals=True, early_look=False)
COARSE = Setup(coarse_etags=True)
BULK = Setup(bulk=True)
BULK_DELAYED = Setup(bulk=True, delay=SETTLE)
SLOW_RENEWAL = Setup(renewals=True, slow_renewal=True, early_look=False)
RAISES = Setup(renewals=True, raises=True, early_look=False)
PAIRS = Setup(pairs=True, early_look=False)
TROUBLE = Setup(outage=True, guarded=True, heartbeats=True)
SLOW = Setup(renewals=True, slow_publish=True, early_look=False)
BACKFILL = Setup(page=2, early_look=False)
BACKFILL_EARLY = Setup(page=2)
BACKFILL_SAMPLE = Setup(page=1, early_look=False)
WALKS = (
    Walk("early look", Setup(), 2, fault=True),
    Walk("early look", Setup(), 2, failing=True),
    Walk("early look", Setup(), 1, failing=True, fault=True),
    Walk("coarse ETags", COARSE, 2),
    Walk("coarse ETags", COARSE, 1, failing=True, fault=True),
    Walk("reverts", Setup(reverts=True), 2, fault=True),
    Walk("reverts once", Setup(reverts=True, early_look=False), 3),
    Walk("one look", Setup(early_look=False), 2, failing=True, fault=True),
    Walk("queue delay", Setup(delay=SETTLE), 2, failing=True, fault=True),
    Walk("confirm", Setup(confirm=True), 2),
    Walk("confirm", Setup(confirm=True), 1, failing=True, fault=True),
    Walk("late saves", LATE, 2),
    Walk("late saves", LATE, 1, fault=True),
    Walk("late saves", LATE, 0, failing=True, fault=True),
    Walk("slow SNS", SLOW, 1),
    Walk("slow renewal", replace(SLOW_RENEWAL, longest_save=3), 1),
    Walk("slow renewal", SLOW_RENEWAL, 1, fault=True),
    Walk("late, raises", RAISES, 1, fault=True),
    Walk("bulk", BULK, 2, fault=True),
    Walk("bulk", BULK, 1, failing=True, fault=True),
    Walk("bulk, delay", BULK_DELAYED, 2, failing=True, fault=True),
    Walk("slow polls", Setup(slow_poll=True, early_look=False), 2, fault=True),
    Walk("pairs", PAIRS, 2, fault=True),
    Walk("pairs", PAIRS, 2, failing=True),
    Walk("pairs, early", Setup(pairs=True), 2),
    Walk("trouble", TROUBLE, 2),
    Walk("trouble", TROUBLE, 1, fault=True),
    Walk("trouble once", replace(TROUBLE, early_look=False), 2, fault=True),
    Walk("trouble once", replace(TROUBLE, early_look=False), 1, failing=True, fault=True),
    Walk("short delay", Setup(delay=1), 2, failing=True),
    Walk("short delay", Setup(delay=1), 1, failing=True, fault=True),
    Walk("aging", Setup(aging=True), 2),
    Walk("aging", Setup(aging=True), 1, fault=True),
    Walk("aging, delay", Setup(aging=True, delay=1), 1, fault=True),
    Walk("backfill", BACKFILL, 2, fault=True, workers=1),
    Walk("backfill", BACKFILL, 2, failing=True, workers=1),
    Walk("fill, early", BACKFILL_EARLY, 1, fault=True, workers=1),
    Walk("fill, sample", BACKFILL_SAMPLE, 1, fault=True, workers=1),
    Walk("early look", Setup(), 2, failing=True, fault=True, long=True),
    Walk("early look", Setup(), 3, long=True),
    Walk("one look", Setup(early_look=False), 3, fault=True, long=True),
    Walk("queue delay", Setup(delay=SETTLE), 3, fault=True, long=True),
    Walk("confirm", Setup(confirm=True), 2, fault=True, long=True),
    Walk("confirm", Setup(confirm=True), 2, failing=True, long=True),
    Walk("late saves", LATE, 1, failing=True, long=True),
    Walk("backfill", BACKFILL, 1, failing=True, fault=True, workers=1, long=True),
    Walk("fill, early", BACKFILL_EARLY, 1, failing=True, workers=1, long=True),
)

COMPUTED = {
    "early look": (Setup(), FAULTS),
    "short delay": (Setup(delay=1), FAULTS),
    "bulk": (BULK, FAULTS),
    "pairs": (PAIRS, FAULTS),
    "trouble once": (replace(TROUBLE, early_look=False), FAULTS),
    "confirm": (Setup(confirm=True), ("worker crashes",)),
    "late saves": (LATE, ()),
    "backfill": (BACKFILL, ("backfill crashes", "left out of a page", "sink fails")),
}
"""
Set-ups in which one walk looks nothing up, and the faults. With more of them, the walks of the last
three would be too long.
"""


@dataclass(frozen=True)
class Walked:
    """The result of one history of a row, or of several."""

    walk: Walk
    histories: int
    states: int
    schedules: int
    longest: int
    seconds: float
    violations: tuple[str, ...]

    def __add__(self, other: Walked) -> Walked:
        """Return the sum of both."""
        return Walked(
            self.walk,
            self.histories + other.histories,
            self.states + other.states,
            self.schedules + other.schedules,
            max(self.longest, other.longest),
            self.seconds + other.seconds,
            self.violations + other.violations,
        )


HEAD = (
    f"{'set-up':12} {'saves':5} {'raises':6} {'fault':5} {'histories':>9} "
    f"{'states':>11} {'schedules':>9} {'steps':>5} {'seconds':>8} violations"
)


def walk_one(job: tuple[Walk, History]) -> Walked:
    """Walk one history."""
    walk, history = job
    started = time.process_time()

    def world(*, alike: bool) -> World:
        return World(
            walk.setup,
            history,
            faults=FAULTS if walk.fault else (),
            workers=walk.workers,
            failing=walk.failing,
            alike=alike,
        )

    found = explore(world(alike=True))
    violations: tuple[str, ...] = ()
    if found.violation is not None:
        shortest = shortest_violation(world(alike=False))
        steps = "\n".join(f"      {process:9} {step}" for process, step in shortest.schedule)
        violations = (f"{walk.name}, {history}: {shortest.violation}\n{steps}",)
    seconds = time.process_time() - started
    return Walked(walk, 1, found.states, found.schedules, found.longest, seconds, violations)


def line(walked: Walked) -> str:
    """Return the row of the table."""
    walk = walked.walk
    power = math.floor(math.log10(max(walked.schedules, 1)))
    schedules = (
        f"{walked.schedules:,}" if power < 6 else f"{walked.schedules / 10**power:.1f}e{power}"
    )
    failing, fault = ("one" if each else "-" for each in (walk.failing, walk.fault))
    return (
        f"{walk.name:12} {walk.saves:5} {failing:6} {fault:5} {walked.histories:9} "
        f"{walked.states:11,} {schedules:>9} {walked.longest:5} {walked.seconds:8.1f} "
        f"{len(walked.violations)}"
    )


def main(walks: Sequence[Walk], *, processes: int, save: bool = False) -> bool:
    """Print the rows, and the shortest schedule of each violation; return False if there is one."""
    jobs = [(walk, history) for walk in walks for history in walk.histories()]
    print(f"{__doc__}\n{HEAD}", flush=True)
    progress = Progress(len(jobs), "histories")
    found: dict[Walk, Walked] = {}
    for walked in results(walk_one, jobs, processes=processes):
        walk = walked.walk
        found[walk] = found[walk] + walked if walk in found else walked
        if found[walk].histories == len(walk.histories()):
            progress.clear()
            print(line(found[walk]), flush=True)
        progress.add(1)
    progress.clear()
    violations = [violation for walked in found.values() for violation in walked.violations]
    states = sum(walked.states for walked in found.values())
    total = f"{states:,} states, {len(violations)} violations, {progress.seconds:,.0f} s"
    print(total)
    if save:
        rows = [line(found[walk]) for walk in walks if walk in found]
        write_between_markers("exhaustive", "\n".join(["```", HEAD, *rows, "", total, "```"]))
    for violation in violations:
        print(f"\nVIOLATION: {violation}")
    return not violations


def computed_each_time(setup: Setup, faults: tuple[str, ...] = FAULTS) -> Result | None:
    """
    Walk a put on one worker twice: production code runs once for each situation of a process, as in
    all other walks; and again along each schedule, with nothing looked up.

    Return the result; None if the two walks differ in schedules, violations, or what they reach.
    """
    results, reached = [], []
    for merging in (True, False):
        world = World(
            setup,
            History(True, (True,), cached=True if setup.page else None),
            faults=faults,
            failing=False,
            workers=1,
            alike=False,
            merging=merging,
        )
        situations: set[Hashable] = set()
        results.append(explore(world, visit=_adder(world, situations)))
        reached.append(situations)
    (found, again), (once, each_time) = results, reached
    same = once == each_time and replace(found, states=again.states) == again
    return found if same else None


def _adder(world: World, situations: set[Hashable]) -> Callable[[State], object]:
    return lambda state: situations.add(world.situation(state))


def compare() -> bool:
    """Print whether looking up what a process does changes what is found; return False if so."""
    print("\none save on one worker, looked up, and computed along each schedule:")
    same = True
    for name, (setup, faults) in COMPUTED.items():
        found = computed_each_time(setup, faults)
        same = same and found is not None
        what = "DIFFERENT" if found is None else f"the same {found.states:,} states"
        schedules = "" if found is None else f" by {found.schedules:,} schedules"
        print(f"{name:12} {what}{schedules}", flush=True)
    return same


def command(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verification.proof.exhaustive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--all", action="store_true", help="also three saves, and other rows that take an hour"
    )
    parser.add_argument(
        "--only", metavar="SET-UP", help="only the rows of this set-up, for example 'early look'"
    )
    add_processes(parser)
    parser.add_argument(
        "--save", action="store_true", help="write the table into docs/explanation/correctness.md"
    )
    given = parser.parse_args(arguments)
    walks = [
        walk for walk in WALKS if (given.all or not walk.long) and given.only in {None, walk.name}
    ]
    if not walks:
        names = sorted({walk.name for walk in WALKS})
        parser.error(f"no set-up is called {given.only!r}; there are {', '.join(names)}")

    def walk() -> int:
        passed = main(walks, processes=given.processes, save=given.save)
        return int(not (compare() and passed if given.only is None else passed))

    return status_of(walk)


if __name__ == "__main__":
    sys.exit(command())
