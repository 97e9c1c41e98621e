"""
Change the code in small ways, and see whether the tests notice.

    python -m verification.proof.mutation      (or `make mutate`)

mutmut makes the mutants. For each, it runs the tests that call its function, among those that
`TESTS` names for its module. What it leaves out is in pyproject.toml, with the reason. A mutant
that lives must be explained in survivors.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mutmut.core import MutmutCallStack
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_module_from_key, orig_function_and_class_names_from_key

from verification.harness.commands import status_of
from verification.harness.emulators import SHARED_POSTGRES, postgres_server
from verification.proof.survivors import SURVIVORS

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[2]
WORK = ROOT / "mutants"
SOURCE = Path("src/change_events")

GOAL = 95.0
"""Percent of a module's mutants that must be killed."""

TESTS = {
    "_consumer.crew": ["tests/unit/test_crew.py", "tests/unit/test_run.py"],
    "_consumer.limit": ["tests/unit/test_limit.py", "tests/unit/test_limit_windows.py"],
    "_consumer.queue": ["tests/wire/test_queue.py"],
    "_consumer.signature": ["tests/wire/test_signature.py"],
    "_consumer.usual": ["tests/unit/test_usual.py"],
    "_producer.publishers": [
        "tests/unit/test_renewals_together.py",
        "tests/wire/test_publishers*.py",
    ],
    "_producer.sharing": ["tests/unit/test_sharing.py"],
    "_producer.threads": ["tests/unit/test_broadcasting.py", "tests/unit/test_renewals_*.py"],
    "_source": [
        "tests/unit/test_exact_numbers.py",
        "tests/wire/test_client_credentials.py",
        "tests/wire/test_fetcher*.py",
        "tests/wire/test_listing.py",
        "tests/wire/test_sigv4.py",
        "tests/wire/test_traces.py",
    ],
    "integrations": ["tests/wire/test_aws_lambda.py"],
    "sinks.dynamodb": [f"tests/sinks/test_sinks_{part}.py" for part in ("dynamodb", "stored")],
    "sinks.postgres": [f"tests/sinks/test_sinks_{part}.py" for part in ("postgres", "stored")],
    "sinks.redis": [
        *(
            f"tests/sinks/test_sinks_{part}.py"
            for part in ("redis", "redis_losses", "redis_outages", "redis_cluster", "stored")
        ),
        "tests/wire/test_doctor_source.py",
    ],
    "sinks": [
        f"tests/sinks/test_sinks{part}.py"
        for part in ("", "_limits", "_sqlite_tables", "_fork", "_stored")
    ],
    "": ["tests/unit/*.py"],
}
"""
By the beginning of a module's name: the test files that must kill its mutants. The first counts.

A module that decides needs no network for that. One that talks to a server is tested with it.
"""

ELSEWHERE = {"tests/sinks/test_sinks_fork.py": "sinks.sqlite.file"}
"""
Test files that call a module in processes of their own, where mutmut does not see it. They count
for all of its functions.
"""

MODULES = "MUTATED_MODULES"
"""The environment variable that names the chosen modules, for the tests' processes."""

HUNG = {"timeout", "segfault"}
"""The status of a mutant that was ended because it ran for too long."""

KILLED = {"killed", *HUNG}

_WITHOUT_CASE = re.compile(
    r"\b(ALTER|AND|BEGIN|COMMIT|CONFLICT|CREATE|DELETE|INSERT|NULL|PRAGMA|REMOVE|ROLLBACK|ROWID"
    r"|SELECT|SET|UPDATE|WHERE)\b|headers\.get|in response\.headers"
    r"|\"Content-Length\": |_server\.command\("
)
"""
SQL, expressions of DynamoDB, commands of Redis, and where a header has its name. No test can tell
such a mutant from the code.
"""

_STRICT = re.compile(r", (strict=\w+)?(?=\))")
"""How zip() is told to check its arguments, or what is left of that in a mutant."""


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
    path: Path
    status: str

    @property
    def module(self) -> str:
        return _module_of(self.name)

    @property
    def is_the_same(self) -> bool:
        """Return True if the mutant differs in a case that has no meaning."""
        line, mutant = self.change.line, self.change.mutant
        return bool(_WITHOUT_CASE.search(line)) and line.lower() == mutant.lower()

    @cached_property
    def change(self) -> Change:
        method, owner = orig_function_and_class_names_from_key(self.name)
        diff = get_diff_for_mutant(self.name, path=self.path).splitlines()[2:]
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
        help="as in `_consumer.desk sinks`; default: all that pyproject.toml names",
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
        if not arguments.modules or any(_is_in(mutant.module, part) for part in arguments.modules)
    ]
    if unfinished := sum(mutant.status == "not checked" for mutant in mutants):
        print(f"{unfinished} of {len(mutants)} mutants have not been run")
        return 1
    mutants = [
        mutant for mutant in mutants if mutant.status != "survived" or not mutant.is_the_same
    ]
    good = _print_table(mutants, time.monotonic() - started)
    explained = _print_survivors(mutants)
    return 0 if good and explained else 1


def _run(modules: list[str], processes: int) -> int:
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / SOURCE).mkdir(
        parents=True
    )  # before Python starts, which remembers of a path that it was not there
    with postgres_server() as server:
        # The mutants for the tests that start a Python of their own, which would import the
        # unchanged code; and this module.
        environment = os.environ | {
            "PYTHONPATH": f"{WORK / 'src'}{os.pathsep}{WORK}",
            MODULES: " ".join(modules),
            SHARED_POSTGRES: server.get_uri(),
        }
        names = [f"change_events.{module}.*" for module in modules]
        status = _mutmut(processes, names, environment)
        # A slow test looks like one that hangs while others keep the machine busy. So try again.
        hung = [mutant.name for mutant in _results() if mutant.status in HUNG]
        return status or (_mutmut(1, hung, environment) if hung else 0)


def _mutmut(processes: int, names: list[str], environment: dict[str, str]) -> int:
    mutmut = Path(sys.executable).with_name("mutmut")
    command = [str(mutmut), "run", "--max-children", str(processes), *names]
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603  # our own
        try:
            return process.wait()
        except KeyboardInterrupt:  # it has got the signal, too, and ends its workers
            process.wait()
            return 130


def pytest_configure() -> None:
    # pytest collects garbage ten times at its end. What is loaded already would double the time
    # that a mutant lives.
    gc.freeze()
    # Nobody asks which function has called which, and CPython 3.11 sometimes loses the context
    # variable in which mutmut records it.
    for name in ("set", "reset"):
        setattr(MutmutCallStack, name, lambda _: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Run only tests that a chosen module needs, the quickest first: most mutants then die within
    milliseconds. (This module is a plugin of pytest, too.)
    """
    wanted = {
        file
        for chosen in os.environ.get(MODULES, "").split() or [""]
        for part in TESTS
        if _is_in(part, chosen) or TESTS[part] is _tests_of(chosen)
        for file in TESTS[part]
    }
    items[:] = [item for item in items if _is_one_of(item, wanted)]
    stats = Path("mutmut-stats.json")
    if stats.exists():
        seconds = json.loads(stats.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Choose the functions whose mutants the test must kill."""
    called = {
        function
        for function in state()._stats.copy()  # a thread can still add to it
        if _is_one_of(item, _tests_of(_module_of(function)))
    }
    state()._stats = called | {
        function
        for function in state().current_function_hashes
        if _module_of(function) == ELSEWHERE.get(_file_of(item))
    }


def _tests_of(module: str) -> Collection[str]:
    return next(files for part, files in TESTS.items() if _is_in(module, part))


def _is_one_of(item: pytest.Item, files: Collection[str]) -> bool:
    return any(fnmatch(_file_of(item), file) for file in files)


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _is_in(module: str, part: str) -> bool:
    return not part or f"{module}.".startswith(f"{part}.")


def _module_of(key: str) -> str:
    return get_module_from_key(key).removeprefix("change_events.")


def _results() -> list[Mutant]:
    return [
        Mutant(name, meta.relative_to(WORK).with_suffix(""), status_by_exit_code[code])
        for meta in sorted((WORK / SOURCE).rglob("*.meta"))
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items()
    ]


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
    for change in alive:
        if change.mutant.replace("None", "False") == change.line.replace("None", "False"):
            known[change] = "None is as false as False"
        if "zip(" in change.line and _STRICT.sub("", change.mutant) == _STRICT.sub("", change.line):
            known[change] = "what zip() gets has one length"
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
