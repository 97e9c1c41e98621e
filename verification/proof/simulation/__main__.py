"""`python -m verification.proof.simulation`: play many worlds, or one again."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from verification.harness.commands import add_processes, add_worlds, status_of
from verification.harness.parallel import results
from verification.harness.progress import Progress
from verification.proof import simulation
from verification.proof.simulation._ghost import CHECKS
from verification.proof.simulation._run import Played, play, shrunk
from verification.proof.simulation._setups import WRITES, drawn
from verification.proof.simulation._sinks import SINKS, served

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = """
examples:
  python -m verification.proof.simulation
      a million writes, in two processes
  python -m verification.proof.simulation --writes 10_000_000
      ten million
  python -m verification.proof.simulation --writes 20_000 --world 1000 --sink postgres
      small worlds, whose caches are in a PostgreSQL server
  python -m verification.proof.simulation --seed 4711
      one world again, in which a violation was found
  python -m verification.proof.simulation --seed 4711 --trace p3
      the same, and the story of one of its entities
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    properties = "\n".join(
        textwrap.fill(f"  {name:10}{text}", 100, subsequent_indent=" " * 12)
        for name, text in CHECKS.items()
    )
    parser.description = (
        f"{(simulation.__doc__ or '').strip()}\n\nproperties, checked at every step:\n{properties}"
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--writes",
        type=int,
        default=1_000_000,
        help="how many entities to save in all worlds (default: 1_000_000)",
    )
    add_worlds(parser, writes=WRITES)
    add_processes(parser)
    parser.add_argument(
        "--sink",
        choices=SINKS,
        help="the cache of all worlds (default: by the seed, in memory or in a SQLite file)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="play this world only, and print its set-up"
    )
    parser.add_argument(
        "--trace",
        metavar="ID",
        help="with --seed: print the end of this entity's story, even without a violation",
    )


def main(arguments: argparse.Namespace) -> int:
    """Play, print the results, and return the exit status."""
    if arguments.sink is None:
        return _play(arguments)
    with served(arguments.sink) as where:
        return _play(arguments, sink=where)


def _play(arguments: argparse.Namespace, **changes: Any) -> int:
    if arguments.seed is not None:
        return _play_one(arguments, **changes)
    seeds = range(
        arguments.first_seed, arguments.first_seed + -(-arguments.writes // arguments.world)
    )
    progress = Progress(len(seeds) * arguments.world, "writes")
    counts: Counter[str] = Counter()
    writes, cpu, worlds = 0, 0.0, 0
    try:
        for played in results(
            partial(play, writes=arguments.world, **changes), seeds, processes=arguments.processes
        ):
            if played.broken is not None:
                progress.clear()
                return _report(played, arguments, **changes)
            counts += played.counts
            writes += played.writes
            cpu += played.cpu
            worlds += 1
            progress.add(played.writes)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    progress.clear()
    seeds_played = f"seeds {seeds.start} to {seeds.stop - 1}"
    print(f"simulation: {writes:,} writes in {worlds:,} worlds ({seeds_played}), no violation")
    microseconds = cpu / max(writes, 1) * 1e6
    print(
        f"            {progress.seconds:,.0f} s, {writes / progress.seconds:,.0f} writes/s, "
        f"{microseconds:.0f} µs of CPU a write"
    )
    shown = [f"{number:,} {name}" for name, number in sorted(counts.items()) if name != "forsaken"]
    print("            " + ", ".join(shown))
    return 0 if writes >= arguments.writes else 130


def _play_one(arguments: argparse.Namespace, **changes: Any) -> int:
    print(replace(drawn(arguments.seed, writes=arguments.world), **changes))
    played = play(arguments.seed, writes=arguments.world, trace=arguments.trace, **changes)
    if played.broken is not None:
        return _report(played, arguments, **changes)
    microseconds = played.cpu / played.writes * 1e6
    print(
        f"{played.writes:,} writes, no violation, {microseconds:.0f} µs of CPU each: "
        f"{dict(played.counts)}"
    )
    print("\n".join(played.story))
    return 0


def _report(played: Played, given: argparse.Namespace, **changes: Any) -> int:
    broken = played.broken
    assert broken is not None
    sink = f" --sink {given.sink}" if given.sink else ""
    print(f"VIOLATION of {broken.check!r} in the world of seed {broken.seed}: {broken.text}\n")
    print("\n".join(broken.story[-60:]))
    print(
        f"\nagain: python -m verification.proof.simulation --seed {broken.seed} "
        f"--world {given.world}{sink} --trace {broken.id}"
    )
    small = shrunk(broken, **changes)
    if small is not broken:
        print(f"\nthe same in a smaller world: {small.text}\n")
        print("\n".join(small.story))
    return 1


def command(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m verification.proof.simulation")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return status_of(lambda: main(given))


if __name__ == "__main__":
    sys.exit(command())
