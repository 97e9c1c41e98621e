"""
Runs the tests again and again, while busy loops keep the processors from them.

    python -m verification.harness.under_load      (or `make test-under-load`; two hours)

A test that fails once in ten runs fails for everybody, now and then. What fails is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time

from verification.harness import ROOT
from verification.harness.commands import status_of

BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A loop that ends with this process, however that ends."""

TESTS = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "8", "--dist", "worksteal"]

FAILED = re.compile(r"^(?:FAILED|ERROR) .*", re.MULTILINE)


def main() -> int:
    """Run the tests so many times; return 1 if a test has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.harness.under_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tests", nargs="*", help="which tests, as for pytest; default: all")
    parser.add_argument("--times", type=int, default=10, help="how often (default: 10)")
    parser.add_argument("--busy", type=int, default=2, help="how many busy loops (default: 2)")
    given = parser.parse_args()
    command = [sys.executable, "-c", BUSY]
    loops = [subprocess.Popen(command) for _ in range(given.busy)]  # noqa: S603  # our own
    try:
        bad = sum(not _passes(number, given.tests) for number in range(1, given.times + 1))
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    print(f"{given.times} times beside {given.busy} busy loops: {bad} with a failure")
    return int(bad > 0)


def _passes(number: int, tests: list[str]) -> bool:
    started = time.monotonic()
    run = subprocess.run(  # noqa: S603  # our own
        [*TESTS, *tests],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "400"},  # a failure's reason is cut off at the line's end
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (run.stdout or run.stderr).strip().splitlines()
    print(
        f"{number}: {lines[-1] if lines else ''} ({time.monotonic() - started:.0f} s)", flush=True
    )
    if run.returncode:
        # Without a summary of its own, a run has broken off, and its end says why.
        for failed in FAILED.findall(run.stdout) or lines[-30:]:
            print(f"   {failed}")
    return run.returncode == 0


if __name__ == "__main__":
    sys.exit(status_of(main))
