"""
The rules that the promise rests on, switched off one at a time: each must be missed by the
exhaustive walk.

A mutant is a change to the text of a production module, which a process of its own then runs. The
walk takes the schedules of few steps first, so what it prints is a shortest one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING

from verification.harness.commands import status_of
from verification.harness.parallel import ignore_ctrl_c
from verification.proof import filling_rules, rules

if TYPE_CHECKING:
    from importlib.abc import InspectLoader

    from verification.proof.rules import Mutant

MUTANTS = (*rules.MUTANTS, *filling_rules.MUTANTS)


@dataclass(frozen=True)
class Caught:
    """
    What the walk says of a mutant: the violation, None if it has not found one, and the schedule
    that leads to it.
    """

    name: str
    violation: str | None
    schedule: tuple[tuple[str, str], ...]
    states: int
    seconds: float


def catch(name: str) -> Caught:
    """
    Look for the shortest schedule that breaks a property of a mutant. To be called in a process of
    its own.
    """
    mutant = next(each for each in MUTANTS if each.name == name)
    _import_changed(mutant)
    from verification.proof.effects import Setup
    from verification.proof.explore import History, World, shortest_violation

    started = time.monotonic()
    found = shortest_violation(
        World(
            Setup(**dict(mutant.setup)),
            History(mutant.present, mutant.puts, mutant.cached),
            faults=mutant.faults,
            failing=mutant.failing,
            alike=False,
        )
    )
    return Caught(name, found.violation, found.schedule, found.states, time.monotonic() - started)


def _import_changed(mutant: Mutant) -> None:
    name = f"change_events.{mutant.module}"
    assert name not in sys.modules, f"{name} is here already, unchanged"
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    loader: InspectLoader = spec.loader  # type: ignore[assignment]  # of a file
    source = loader.get_source(name)
    assert source is not None
    assert source.count(mutant.old) == 1, (
        f"the text of the mutant {mutant.name!r} does not stand in {name} once"
    )
    module = module_from_spec(spec)
    sys.modules[name] = module
    exec(  # noqa: S102  # our own
        compile(source.replace(mutant.old, mutant.new), spec.origin or name, "exec"),
        module.__dict__,
    )


def main(*, processes: int) -> bool:
    """Print how each mutant is caught; return whether all are."""
    print(f"mutants: {len(MUTANTS)} rules switched off, one at a time")
    caught = 0
    names = [mutant.name for mutant in MUTANTS]
    with multiprocessing.get_context("spawn").Pool(
        processes, ignore_ctrl_c, maxtasksperchild=1
    ) as pool:
        for number, each in enumerate(pool.imap(catch, names, chunksize=1), 1):
            caught += each.violation is not None
            print(f"\n{number:2}. {each.name}")
            print(f"    {each.violation or 'NOT CAUGHT'}")
            for who, what in each.schedule:
                print(f"      {who:9} {what}")
            print(
                f"    {len(each.schedule)} steps; {each.states:,} states in {each.seconds:.1f} s",
                flush=True,
            )
    print(f"\n{caught} of {len(MUTANTS)} caught", flush=True)
    return caught == len(MUTANTS)


def command(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m verification.proof.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="how many processes to use (default: 2)"
    )
    given = parser.parse_args(arguments)
    return status_of(lambda: int(not main(**vars(given))))


if __name__ == "__main__":
    sys.exit(command())
