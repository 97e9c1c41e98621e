"""
Change the code in small ways, and see whether the tests notice.

    python -m verification.proof.mutation      (or `make mutate`)

mutmut makes the mutants. For each, it runs the tests that call its function. What it leaves out is
in pyproject.toml, with the reason. A mutant that lives must be explained in survivors.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

from verification.harness.commands import status_of
from verification.proof.survivors import SURVIVORS

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]
WORK = ROOT / "mutants"
SOURCE = Path("src/change_events")

GOAL = 95.0
"""Percent of a module's mutants that must be killed."""

KILLED = {"killed", "timeout", "segfault"}
"""A mutant that hangs is killed after a while: its status is one of the latter two."""


@dataclass(frozen=True)
class Change:
    """What a mutant is, wherever the line has moved to."""

    function: str
    line: str
    mutant: str

    def __str__(self) -> str:
        return f"{self.function}\n  - {self.line}\n  + {self.mutant}"


@dataclass(frozen=True)
class Mutant:
    name: str
    module: str
    status: str

    @property
    def change(self) -> Change:
        method, owner = orig_function_and_class_names_from_key(self.name)
        diff = get_diff_for_mutant(
            self.name, path=SOURCE / f"{self.module.replace('.', '/')}.py"
        ).splitlines()[2:]
        was, now = (
            " ".join(_code(line[1:]) for line in diff if line.startswith(sign)) for sign in "-+"
        )
        return Change(".".join(filter(None, (self.module, owner, method))), was, now)


def _code(line: str) -> str:
    return line.partition("  # ")[0].strip()


def main() -> int:
    """
    Run the mutants, print a table and the survivors; return 1 if too many live, or one without an
    explanation.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "modules",
        nargs="*",
        help="as in `_consumer.desk _codec`; default: all that pyproject.toml names",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=2 * (os.cpu_count() or 1),
        help="default: two a processor; some mutants only wait",
    )
    parser.add_argument("--show", action="store_true", help="show the last run's results again")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    if not arguments.show and (status := _run(arguments.modules, arguments.processes)):
        return status
    mutants = [
        mutant
        for mutant in _results()
        if not arguments.modules or mutant.module in arguments.modules
    ]
    if unfinished := sum(mutant.status == "not checked" for mutant in mutants):
        print(f"{unfinished} of {len(mutants)} mutants have not been run")
        return 1
    good = _print_table(mutants, time.monotonic() - started)
    explained = _print_survivors(mutants)
    return 0 if good and explained else 1


def _run(modules: list[str], processes: int) -> int:
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / SOURCE).mkdir(
        parents=True
    )  # before Python starts, which remembers of a path that it was not there
    command = [
        str(Path(sys.executable).with_name("mutmut")),
        "run",
        "--max-children",
        str(processes),
    ]
    command += [f"change_events.{module}.*" for module in modules]
    # The mutants for the tests that start a Python of their own, which would import the unchanged
    # code; and this module.
    environment = os.environ | {"PYTHONPATH": f"{WORK / 'src'}{os.pathsep}{WORK}"}
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603  # our own
        try:
            return process.wait()
        except KeyboardInterrupt:  # it has got the signal, too, and ends its workers
            process.wait()
            return 130


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Run the quickest tests first: most mutants then die within milliseconds. (This module is a
    plugin of pytest, too.)
    """
    stats = Path("mutmut-stats.json")
    if stats.exists():
        seconds = json.loads(stats.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


def _results() -> list[Mutant]:
    return [
        Mutant(name, _module(meta), status_by_exit_code[code])
        for meta in sorted((WORK / SOURCE).rglob("*.meta"))
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items()
    ]


def _module(meta: Path) -> str:
    path = meta.relative_to(WORK / SOURCE).as_posix()
    return path.removesuffix(".py.meta").replace("/", ".")


def _print_table(mutants: list[Mutant], seconds: float) -> bool:
    """Return whether each module reaches the goal."""
    print(f"\n{'module':<28}{'mutants':>9}{'killed':>9}{'(hung)':>9}{'survived':>10}{'score':>9}")
    good = bool(mutants)
    modules = sorted({mutant.module for mutant in mutants})
    for title, members in [*((module, {module}) for module in modules), ("total", set(modules))]:
        counts = Counter(mutant.status for mutant in mutants if mutant.module in members)
        killed = sum(counts[status] for status in KILLED)
        score = 100 * killed / counts.total()
        good &= score >= GOAL
        print(
            f"{title:<28}{counts.total():>9}{killed:>9}{killed - counts['killed']:>9}"
            f"{counts.total() - killed:>10}{score:>8.1f}%"
        )
    print(f"{seconds:.0f} s; the goal is {GOAL:.0f} % for each module")
    return good


def _print_survivors(mutants: list[Mutant]) -> bool:
    """Return whether all are explained."""
    known = {Change(*change): why for why, changes in SURVIVORS.items() for change in changes}
    alive = {mutant.change: mutant.status for mutant in mutants if mutant.status not in KILLED}
    for change, why in known.items():
        if change in alive:
            print(f"\nlives: {change}\n  {why}")
        elif any(change.function.startswith(f"{mutant.module}.") for mutant in mutants):
            print(f"\nexplained, but killed or gone: {change}")
    unexplained = [change for change in alive if change not in known]
    for change in unexplained:
        print(f"\nNOT EXPLAINED ({alive[change]}): {change}")
    return not unexplained


if __name__ == "__main__":
    sys.exit(status_of(main))
