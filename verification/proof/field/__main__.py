"""`python -m verification.proof.field`: play every protocol under the same faults, and compare."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verification.harness import ROOT
from verification.harness.commands import add_processes, add_worlds, status_of
from verification.harness.docs import EXPLANATION, write_between_markers
from verification.harness.parallel import results
from verification.harness.progress import Progress
from verification.proof import field
from verification.proof.field._conditions import BY_NAME, CONTENDERS, WRITES
from verification.proof.field._play import Job, play
from verification.proof.field._plot import draw
from verification.proof.field._results import (
    CODE,
    Sum,
    as_json,
    as_markdown,
    as_text,
    conditions,
    rounded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULTS = ROOT / "verification" / "proof" / "results" / "field.json"
PLOT = EXPLANATION / "field.svg"

EXAMPLES = """
examples:
  python -m verification.proof.field
      the table, in a few minutes
  python -m verification.proof.field --faults 10
      everything goes wrong ten times as often
  python -m verification.proof.field --writes 10_200_000 --peer-writes 1_000_000 --save
      what is published: JSON, the plot, and the table in the docs
  python -m verification.proof.field --only 'ours, delay' --first-seed 7 --writes 20_000
      one world
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (field.__doc__ or "").strip() + "\n\n" + conditions(1.0)
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--writes",
        type=int,
        default=180_000,
        help="writes of ours, in all three set-ups (default: 180_000)",
    )
    parser.add_argument(
        "--peer-writes",
        type=int,
        default=60_000,
        help="writes of each of the others (default: 60_000)",
    )
    parser.add_argument(
        "--faults",
        type=_factor,
        default=1.0,
        metavar="TIMES",
        help="multiply all fault rates: 10, or 10x",
    )
    add_worlds(parser, writes=WRITES)
    add_processes(parser)
    parser.add_argument(
        "--only", action="append", choices=BY_NAME, help="play only this one; can be repeated"
    )
    parser.add_argument(
        "--parts",
        type=Path,
        default=ROOT / "build" / "field",
        help="the directory that keeps the results of worlds that were played",
    )
    parser.add_argument(
        "--restart", action="store_true", help="play again the worlds that were played before"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write verification/proof/results/field.json, the plot, and the table in the docs",
    )


def _factor(text: str) -> float:
    return float(text.removesuffix("x"))


def main(arguments: argparse.Namespace) -> int:
    """Play, print the table, and return the exit status: 1 if a property of ours did not hold."""
    sums: dict[str, Sum] = {}
    jobs = _jobs(arguments)
    progress = Progress(sum(job[2] for job in jobs), "writes")
    try:
        for part in _parts(arguments, jobs):
            sums.setdefault(part["job"][0], Sum()).add(part)
            progress.add(part["writes"])
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
    progress.clear()
    sums = {name: sums[name] for name in BY_NAME if name in sums}
    _print(sums, arguments.faults, progress.seconds)
    if arguments.save:
        _save(sums, arguments, progress.seconds)
    if sum(each.writes for each in sums.values()) < sum(job[2] for job in jobs):
        return 130
    ours = _sum_of_ours(sums)
    return int(bool(_broken(ours) or ours.counts["forsaken"] or ours.counts["backward"]))


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the jobs of all contenders in turn, so an interrupted run has results of each."""
    ours = sum(contender.ours for contender in CONTENDERS)
    jobs: list[tuple[int, Job]] = []
    for contender in CONTENDERS:
        if not arguments.only or contender.name in arguments.only:
            writes = (
                arguments.writes / (1 if arguments.only else ours)
                if contender.ours
                else arguments.peer_writes
            )
            jobs += [
                (
                    world,
                    (
                        contender.name,
                        arguments.first_seed + world,
                        arguments.world,
                        arguments.faults,
                    ),
                )
                for world in range(-(-round(writes) // arguments.world))
            ]
    return [job for _, job in sorted(jobs, key=lambda each: each[0])]


def _parts(arguments: argparse.Namespace, jobs: list[Job]) -> Iterator[dict[str, Any]]:
    """Yield every job's result: first those that the same code has played before."""
    path = arguments.parts / f"{_code()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {} if arguments.restart or not path.exists() else dict(_played(path))
    yield from (before[job] for job in jobs if job in before)
    with path.open("a", encoding="utf-8") as parts:
        for part in results(
            play, [job for job in jobs if job not in before], processes=arguments.processes
        ):
            print(json.dumps(part), file=parts, flush=True)
            yield part


def _played(path: Path) -> Iterator[tuple[Job, dict[str, Any]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a last line that is incomplete
            part = json.loads(line)
            name, seed, writes, factor = part["job"]
            yield (name, seed, writes, factor), part


def _code() -> str:
    """Return a hash of the code that plays. Results of other code do not count."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _print(sums: dict[str, Sum], factor: float, seconds: float) -> None:
    print(as_text(sums))
    print("\n(< n): none was seen; a rate of n or more is excluded with 95 % confidence.\n")
    print(conditions(factor))
    ours = _sum_of_ours(sums)
    if ours.writes:
        bad, counts = _broken(ours), ours.counts
        print(
            f"\nours: {ours.writes:,} writes (< {rounded(ours.bound())} per million), "
            f"{counts['forsaken']} stale for ever, {counts['backward']} backward, "
            f"{', '.join(bad) or 'no property broken'}; "
            f"{counts['double faults left out']} double faults left out; "
            f"{ours.cpu / ours.writes * 1e6:.0f} µs of CPU a write"
        )
    print(f"all:  {sum(each.writes for each in sums.values()):,} writes; {seconds:,.0f} s")


def _sum_of_ours(sums: dict[str, Sum]) -> Sum:
    total = Sum()
    for name, each in sums.items():
        if BY_NAME[name].ours:
            total.writes += each.writes
            total.cpu += each.cpu
            total.counts += each.counts
    return total


def _broken(ours: Sum) -> list[str]:
    """Return the simulation's properties that did not hold, with their counts."""
    return [f"{number} {name}" for name, number in ours.counts.items() if name.startswith("broken")]


def _save(sums: dict[str, Sum], arguments: argparse.Namespace, seconds: float) -> None:
    path = RESULTS
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        as_json(sums, factor=arguments.faults, world=arguments.world, seconds=seconds),
        encoding="utf-8",
    )
    write_between_markers("field", as_markdown(sums))
    draw(sums, PLOT)
    written = [RESULTS, PLOT, EXPLANATION / "correctness.md"]
    print(f"\nwritten: {', '.join(str(each.relative_to(ROOT)) for each in written)}")


def command(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m verification.proof.field")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return status_of(lambda: main(given))


if __name__ == "__main__":
    sys.exit(command())
