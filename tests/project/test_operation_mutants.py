"""
The mutants of a backfill, an audit and a redrive fit the code.

`python -m verification.proof.operations` runs their tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import change_events
from verification.proof.operations import MUTANTS, ROOT, changed

OPERATIONS = Path(change_events.__file__).parent / "_operations"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_changes_a_text_that_is_there_and_names_a_test(mutant):
    text = (OPERATIONS / mutant.module).read_text()
    compile(changed(text, mutant), mutant.module, "exec")
    path, name = mutant.test.split("::")
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_a_text_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="has 0 times"):
        changed("", MUTANTS[0])
