"""
Which lines of the library the walk and the random worlds run, module by module.

    python -m verification.proof.covered       (a few minutes)

A cut of each is enough: a history of each row of the walk with at most one save, and small worlds
with each of the sinks. `make test` runs every line; this says how many of them a prover watches.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

from verification.harness import ROOT
from verification.harness.commands import status_of

PACKAGE = ROOT / "src" / "change_events"

PROVERS = ("walk", "worlds")


def main() -> int:
    """Run both, each in a process that imports the library anew; print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.proof.covered",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prover", nargs="?", choices=PROVERS, help=argparse.SUPPRESS)
    prover = parser.parse_args().prover
    if prover:
        {"walk": _walk, "worlds": _play}[prover]()
        return 0
    with tempfile.TemporaryDirectory(prefix="change-events-") as directory:
        runs = {prover: _run(prover, Path(directory, prover)) for prover in PROVERS}
        _print(runs)
    return 0


def _walk() -> None:
    from verification.proof.exhaustive import WALKS, walk_one

    for walk in WALKS:
        if walk.saves + walk.failing <= 1:
            assert not walk_one((walk, walk.histories()[0])).violations


def _play() -> None:
    from verification.proof.simulation import play
    from verification.proof.simulation._sinks import SINKS, served

    for sink in SINKS:
        with served(sink) as where:
            for seed in range(10 if sink == "memory" else 2):
                assert not play(seed, writes=300, sink=where).broken


def _run(prover: str, data: Path) -> Coverage:
    print(f"{prover} ...", flush=True)
    command = [sys.executable, "-m", "coverage", "run", f"--data-file={data}"]
    command += ["--concurrency=greenlet,thread", "-m", "verification.proof.covered", prover]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603  # our own
    coverage = Coverage(data, branch=True)
    coverage.load()
    return coverage


def _print(runs: dict[str, Coverage], package: Path = PACKAGE) -> None:
    print(f"{'module':36} {'lines':>5} {'walk':>6} {'worlds':>6} {'either':>6}")
    total = 0
    hit: dict[str, int] = dict.fromkeys((*PROVERS, "either"), 0)
    for path in sorted(package.rglob("*.py")):
        lines = {name: _lines(run, path) for name, run in runs.items()}
        every = set.union(*(every for every, _ in lines.values()))
        ran = {name: len(ran) for name, (_, ran) in lines.items()}
        ran["either"] = len(set.union(*(ran for _, ran in lines.values())))
        total += len(every)
        hit = {name: number + ran[name] for name, number in hit.items()}
        if ran["either"]:
            _print_row(str(path.relative_to(package)), len(every), ran)
    _print_row("all modules, the others too", total, hit)


def _print_row(name: str, number: int, ran: dict[str, int]) -> None:
    shares = " ".join(f"{ran[each] / max(number, 1):6.0%}" for each in (*PROVERS, "either"))
    print(f"{name:36} {number:5} {shares}")


def _lines(coverage: Coverage, path: Path) -> tuple[set[int], set[int]]:
    """Return the lines that can run, and those that did."""
    _, statements, _, missing, _ = coverage.analysis2(str(path))
    return set(statements), set(statements) - set(missing)


if __name__ == "__main__":
    sys.exit(status_of(main))
