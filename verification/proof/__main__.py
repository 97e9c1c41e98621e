"""
The proof: `make prove`, in minutes, or `make prove-all`, in an hour or two.

1. exhaustive: every schedule of a few saves of one entity; of some set-ups also with one more save,
   that raises, and a fault at once
   (`python -m verification.proof.exhaustive`)
2. mutants: with any rule switched off that the promise rests on, 1 finds a violation
   (`python -m verification.proof.mutants`)
3. operations: with any of five rules of a backfill, an audit or a redrive switched off, a test
   fails
   (`python -m verification.proof.operations`)
4. random: many entities, bursts, heavy tails, crashes, in worlds drawn by seed
   (`python -m verification.proof.simulation`)

Two other commands: `python -m verification.proof.field` plays other protocols under the same
faults. `python -m verification.proof.mutation` checks that the tests notice small changes to the
code.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from verification.harness.commands import add_processes, status_of
from verification.proof import exhaustive, mutants, operations
from verification.proof.simulation import __main__ as simulation

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Run all of them; return 1 if one has found a violation or missed a mutant."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also three saves, and ten million random writes instead of one million",
    )
    add_processes(parser)
    given = parser.parse_args()
    started = time.monotonic()
    processes = str(given.processes)
    writes = "10_000_000" if given.all else "1_000_000"
    parts: dict[str, Callable[[], int]] = {
        "exhaustive": lambda: exhaustive.command(
            ["--processes", processes, *(["--all"] if given.all else [])]
        ),
        "mutants": lambda: mutants.command(["--processes", processes]),
        "operations": lambda: status_of(operations.main),
        "random": lambda: simulation.command(["--processes", processes, "--writes", writes]),
    }
    statuses = {}
    for name, part in parts.items():
        print(f"\n== {name} ==\n", flush=True)
        statuses[name] = part()
        if statuses[name] == 130:  # Ctrl-C
            return 130
    verdict = ", ".join(
        f"{name} {'FAILED' if status else 'passed'}" for name, status in statuses.items()
    )
    print(f"\nproof: {verdict}; {time.monotonic() - started:,.0f} s")
    return int(any(statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
