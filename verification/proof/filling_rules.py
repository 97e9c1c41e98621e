"""The rules of a backfill that the walk can see, each with a change that switches it off."""

from __future__ import annotations

from verification.proof import operations
from verification.proof.rules import Mutant

MODULE = "filling.py"
BACKFILL = (("page", 2), ("early_look", False))

TEXTS = {
    **{each.name: (each.old, each.new) for each in operations.MUTANTS if each.module == MODULE},
    "a listed id that was touched is not looked at": (
        "self._look([id for id in page.ids if id not in stored])",
        "self._look([id for id in page.ids if not self._sink.entry(id).version])",
    ),
    "an id that is cached and not listed is not looked at": (
        "            self._look(unlisted)\n",
        "            self._look(unlisted[:0])\n",
    ),
}
"""Some of them `operations` has, too: there a test fails."""


def _mutant(
    name: str,
    *,
    puts: tuple[bool, ...] = (),
    present: bool = True,
    cached: bool = False,
    faults: tuple[str, ...] = (),
) -> Mutant:
    return Mutant(
        name,
        f"_operations.{MODULE.removesuffix('.py')}",
        *TEXTS[name],
        setup=BACKFILL,
        puts=puts,
        present=present,
        cached=cached,
        faults=faults,
    )


MUTANTS = (
    _mutant("a page is stored at a version that was read after the page", puts=(True,)),
    _mutant("the cursor is saved before its page is stored", faults=("backfill crashes",)),
    _mutant("what is not listed is deleted without a look", puts=(True,), present=False),
    _mutant("a listed id that was touched is not looked at", cached=True),
    _mutant("an id that is cached and not listed is not looked at", present=False, cached=True),
)
