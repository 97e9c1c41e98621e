"""What `make mutate` runs, and the mutants whose life is explained."""

from __future__ import annotations

import ast
import sys

import pytest

from verification.harness import ROOT
from verification.proof import mutation
from verification.proof.mutation import ELSEWHERE, SOURCE, TESTS, Change, Mutant
from verification.proof.survivors import SURVIVORS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]


def name_of(path):
    parts = (ROOT / path).relative_to(ROOT / SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MUTATED = {name_of(path): ROOT / path for path in SETTINGS["only_mutate"]}


def on_one_line(lines):
    return " ".join(line.partition("  # ")[0].strip() for line in lines)


def functions():
    """Return the code of each function that is mutated, on one line, as survivors.py has it."""
    code = {}

    def add(owner, body, lines):
        for node in body:
            if isinstance(node, ast.ClassDef):
                add(f"{owner}.{node.name}", node.body, lines)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{owner}.{node.name}"
                code[name] = on_one_line(lines[node.lineno - 1 : node.end_lineno])

    for module, path in MUTATED.items():
        text = path.read_text()
        add(module, ast.parse(text).body, text.splitlines())
    return code


def test_every_mutant_that_is_explained_changes_a_line_that_is_there():
    code = functions()

    assert [
        (function, line)
        for changes in SURVIVORS.values()
        for function, line, _ in changes
        if line not in code.get(function, "")
    ] == []


def test_tests_are_chosen_for_modules_that_are_mutated_and_are_there():
    files = [file for files in TESTS.values() for file in files]
    names = [*TESTS, *ELSEWHERE.values()]

    assert [file for file in [*files, *ELSEWHERE] if not any(ROOT.glob(file))] == []
    assert [
        name for name in names if not any(f"{each}.".startswith(name) for each in MUTATED)
    ] == []


def alive(line, mutant):
    """Return a mutant that lives."""
    made = Mutant("change_events._event.x_f__mutmut_1", SOURCE / "_event.py", "survived")
    made.__dict__["change"] = Change("_event.f", line, mutant)
    return made


ZIP = "for a, b in zip(some, others, strict=True):"


@pytest.mark.parametrize(
    ("line", "mutant", "explained"),
    [
        ("work(late=False)", "work(late=None)", True),
        ("work(late=False)", "work(late=True)", False),
        *((ZIP, ZIP.replace("strict=True", strict), True) for strict in ("", "strict=False")),
        (ZIP, ZIP.replace("others", "None"), False),
        ("work(1, strict=True)", "work(1, )", False),
    ],
)
def test_a_mutant_that_lives_must_be_explained(capsys, line, mutant, explained):
    assert mutation._print_survivors([alive(line, mutant)]) is explained

    assert ("NOT EXPLAINED" in capsys.readouterr().out) is not explained
