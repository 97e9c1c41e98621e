"""
The rules of a backfill, an audit and a redrive, switched off one at a time: a test must fail.

    python -m verification.proof.operations

A mutant is a change to the text of a production module. The test runs on a copy of the package that
has this change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from verification.harness.commands import status_of

ROOT = Path(__file__).parents[2]

LONGEST = 300.0
"""Seconds after which a test that does not end counts as failed."""


class Mutant(NamedTuple):
    """
    A rule that is switched off.

    Attributes:
        name: What is done instead.
        module: Where, in `_operations`.
        old: A text of that module; it stands there once.
        new: What stands there instead.
        test: The test that must fail.
    """

    name: str
    module: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        name="a page is stored at a version that was read after the page",
        module="filling.py",
        old='return insert_many(self._sink, found, self._kept.values["epoch"])\n',
        new="return {\n"
        "                    id\n"
        "                    for id, each in found.items()\n"
        "                    if self._sink.apply(\n"
        "                        id, each, if_version=self._sink.entry(id).version\n"
        "                    )\n"
        "                }\n",
        test="tests/unit/test_backfill.py::"
        "test_what_changes_while_a_page_is_under_way_is_not_overwritten",
    ),
    Mutant(
        name="the cursor is saved before its page is stored",
        module="filling.py",
        old="                stored = self._store(page)\n",
        new="                self._save(cursor=page.cursor, pages=values['pages'] + 1)\n"
        "                stored = self._store(page)\n",
        test="tests/unit/test_backfill.py::"
        "test_a_backfill_that_is_killed_at_any_call_of_the_sink_goes_on_there",
    ),
    Mutant(
        name="what is not listed is deleted without a look",
        module="filling.py",
        old="            self._look(unlisted)\n",
        new="            for id in unlisted:\n"
        "                self._sink.apply(id, Gone(), if_version=self._sink.entry(id).version)\n",
        test="tests/unit/test_backfill.py::"
        "test_an_empty_listing_deletes_nothing_that_the_source_has",
    ),
    Mutant(
        name="an audit reports without the second reading",
        module="comparing.py",
        old="        if not first.confirmed_by(second):\n",
        new="        second = first\n        if not first.differs:\n",
        test="tests/unit/test_audit_late.py::test_a_cache_that_is_merely_late_is_never_reported",
    ),
    Mutant(
        name="a redrive deletes letters before their look settles",
        module="dead_letters.py",
        old="        look = self.looks.look(letters, stop)\n",
        new="        self.hand.settle([each.message_id for each in letters], flush=True)\n"
        "        look = self.looks.look(letters, stop)\n",
        test="tests/wire/test_redrive.py::test_a_failing_look_keeps_its_letters",
    ),
)


def is_caught(mutant: Mutant) -> bool:
    """Return True if the mutant's test fails, and passes without the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True)
        if not _passes(mutant.test, folder):
            raise RuntimeError(f"{mutant.test} fails without a mutant, too")
        module = Path(folder, "change_events", "_operations", mutant.module)
        module.write_text(changed(module.read_text(), mutant))
        return not _passes(mutant.test, folder)


def changed(text: str, mutant: Mutant) -> str:
    """
    Return the module's text with the change.

    Raises:
        ValueError: The old text is not there once.
    """
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.module} has {text.count(mutant.old)} times: {mutant.old!r}")
    return text.replace(mutant.old, mutant.new)


def _passes(test: str, package: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  # our own tests
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{ROOT}"},
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in {0, 1}:  # it did not run
        raise RuntimeError(done.stdout.decode() + done.stderr.decode())
    return done.returncode == 0


def main() -> int:
    """Print of each mutant whether it is caught."""
    caught = 0
    for mutant in MUTANTS:
        found = is_caught(mutant)
        caught += found
        print(f"{'caught' if found else 'MISSED'}  {mutant.name}", flush=True)
    print(f"{caught} of {len(MUTANTS)} caught")
    return 0 if caught == len(MUTANTS) else 1


if __name__ == "__main__":
    sys.exit(status_of(main))
