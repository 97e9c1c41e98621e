"""
Print how large the parts of `src/` and `verification/` are, and whether the goals are met.

    python -m verification.harness.structure

Lines are physical lines. A class's lines are those from `class` to its end, its methods the
distinct functions in its body, its attributes the distinct `self.x` that its own `__init__`
assigns. A function's lines are those of its body without the docstring; a function that has only a
docstring or `...` does not count. A circle is a set of modules that import one another, directly or
not, for a type checker or at run time.
"""

from __future__ import annotations

import ast
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from verification.harness import habits
from verification.harness.rooms import circles, imports_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

MODULE_LINES = 400
CLASS_LINES = 250
METHODS = 25
ATTRIBUTES = 12
"""The goals: none has more. There are no circles and no habits."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Class:
    """A class and its size."""

    module: str
    name: str
    lines: int
    methods: int
    attributes: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.lines} lines, {self.methods} methods, {self.attributes} attributes"
        )


@dataclass(frozen=True, slots=True)
class Structure:
    """
    What a directory of modules measures.

    Attributes:
        modules: Each module's lines, by its path within the directory.
        classes: All classes.
        functions: Each function's lines.
    """

    modules: dict[str, int]
    classes: list[Class]
    functions: list[int]

    def missed(self) -> Iterator[str]:
        """Yield a line for each module and class that is larger than the goals allow."""
        for name, lines in self.modules.items():
            if lines > MODULE_LINES:
                yield f"{name}: {lines} lines; goal {MODULE_LINES}"
        for each in self.classes:
            if each.lines > CLASS_LINES or each.methods > METHODS or each.attributes > ATTRIBUTES:
                yield f"{each.module}: {each}; goals {CLASS_LINES}, {METHODS}, {ATTRIBUTES}"


def measure(directory: Path) -> Structure:
    """Measure the Python files below a directory."""
    structure = Structure({}, [], [])
    for path in sorted(directory.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        name = path.relative_to(directory).as_posix()
        structure.modules[name] = len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                structure.classes.append(_class(node, name))
            elif isinstance(node, Function) and (lines := _body_lines(node)):
                structure.functions.append(lines)
    return structure


def _class(node: ast.ClassDef, module: str) -> Class:
    functions = [each for each in node.body if isinstance(each, Function)]
    attributes = {
        target.attr
        for function in functions
        if function.name == "__init__"
        for target in ast.walk(function)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }
    return Class(
        module,
        node.name,
        (node.end_lineno or node.lineno) - node.lineno + 1,
        len({function.name for function in functions}),
        len(attributes),
    )


def _body_lines(function: Function) -> int:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]  # a docstring, or `...`
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def largest(structure: Structure, what: str) -> str:
    """Name the class that has most of something."""
    return str(max(structure.classes, key=lambda each: int(getattr(each, what))))


ROWS: list[tuple[str, Callable[[Structure], object], object]] = [
    ("modules", lambda of: len(of.modules), ""),
    ("lines", lambda of: f"{sum(of.modules.values()):,}", ""),
    (
        "largest module",
        lambda of: "{}: {} lines".format(*max(of.modules.items(), key=lambda item: item[1])),
        MODULE_LINES,
    ),
    ("largest class", lambda of: largest(of, "lines"), CLASS_LINES),
    ("class with most methods", lambda of: largest(of, "methods"), METHODS),
    ("class with most attributes", lambda of: largest(of, "attributes"), ATTRIBUTES),
    ("functions", lambda of: len(of.functions), ""),
    ("their lines, median", lambda of: f"{statistics.median(of.functions):g}", ""),
    (
        "their lines, 90th percentile",
        lambda of: f"{statistics.quantiles(of.functions, n=10, method='inclusive')[-1]:g}",
        "",
    ),
]
"""What is printed of each structure, how it is found, and its goal."""


def report(console: Console) -> list[str]:
    """Print the figures; return a line for each goal that is missed."""
    structures = {name: measure(ROOT / name) for name in ("src", "verification")}
    found = {name: circles(imports_of(name)) for name in ("change_events", "verification")}
    dropped = habits.find()

    table = Table("", *(f"{name}/" for name in structures), "goal", box=box.SIMPLE_HEAD)
    for row, value, goal in ROWS:
        table.add_row(row, *(str(value(each)) for each in structures.values()), str(goal))
    table.add_row("circles of imports", *(str(len(each)) for each in found.values()), "0")
    table.add_row("habits, with docs/ and README", str(len(dropped)), "", "0")
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)

    return [
        *(f"{name}/{each}" for name, of in structures.items() for each in of.missed()),
        *(f"circle: {', '.join(each)}" for of in found.values() for each in of),
        *(
            f"{each.path.relative_to(ROOT)}:{each.line}: {each.habit}: {each.text}"
            for each in dropped
        ),
    ]


def main() -> int:
    """Print the figures and the missed goals; return 1 if one is missed."""
    console = Console(highlight=False, emoji=False)
    missed = report(console)
    for each in missed:
        console.print(f"missed: {each}", markup=False, soft_wrap=True)
    console.print(f"{len(missed)} goals missed" if missed else "all goals are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
