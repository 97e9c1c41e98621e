"""
Find habits of language that make a reader read twice.

    python -m verification.harness.habits [PATH ...]

Each pattern is a word that we used in a sense that its readers have to guess. Some have a plain
sense, too ("takes 5 seconds"), which the patterns leave alone as far as a pattern can.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

DEFAULT = ("src", "docs", "README.md")
"""Where no habit is left."""

DURATION = (
    r"\d|(?:milli|micro)?seconds?\b|minutes?\b|hours?\b|days?\b|ms\b|long(?:er|est)?\b|time\b"
    r"|part\b|place\b|effect\b|over\b|turns\b|care\b|about\b|at (?:most|least)\b|up to\b|less\b|more\b"
    r"|too long\b|as long\b|half\b|twice\b|several\b"
    r"|a (?:minute|second|while|moment|day|few)\b|an hour\b"
)

PEOPLE = (
    r"anyone|anybody|someone|somebody|everyone|everybody|nobody|no one|people|person|engineers?"
    r"|operators?|users?|readers?|developers?|maintainers?|reviewers?|teams?|those|colleagues?"
    r"|strangers?|newcomers?|attackers?|you"
)

HABITS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        '"at the most", "at the least": write "at most", "at least"': r"\bat the (?:most|least)\b",
        '"anew": write "again"': r"\banew\b",
        '"may be": write "can be"': r"\bmay be\b",
        '"is no": write "is not a"': r"\b(?:is|are|was|were|be|being|been) no\b(?! longer\b)",
        '"takes" for "needs"': rf"\btakes\b(?! (?:{DURATION}))",
        '"as" for "because"': (
            r"[,;(] ?as (?:it|its|they|their|he|she|we|you|your|there|this|these|those|that|the"
            r"|nobody|nothing|no|each|all|some|what|whatever|most|many|one|only|both|neither|every|else)\b"
            r"(?! (?:same|above|before)\b)"
        ),
        '"who" for things': r"\bwhoever\b",
        '"that which", "of which"': r"\b(?:that|of) which\b",
        "a riddle from the table in our conventions": (
            r"\bwithout more ado\b|\bmust not mind\b|\bbelongs into\b|\bwithout being told\b"
            r"|\bmake up for it\b|\bbe it\b|\bis told from\b|\bare told from\b|\ball one\b|\blest\b"
        ),
        "a name from the table in our conventions": (
            r"\b(?:_let_go|_Why|_Place|hides_headers|concerns_all|SPARE)\b"
            r"|\bdef (?:company|hurry)\b"
        ),
    }.items()
}

WHO = re.compile(r"\bwho\b", re.IGNORECASE)
BEFORE_WHO = re.compile(rf"\b(?:{PEOPLE}),?$", re.IGNORECASE)


class Found(NamedTuple):
    """A habit, and where it is."""

    path: Path
    line: int
    habit: str
    text: str


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that somebody reads: of Python, comments and strings only."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in {tokenize.COMMENT, tokenize.STRING}:
                yield from enumerate(token.string.split("\n"), token.start[0])
        for number, line in enumerate(text.split("\n"), 1):
            if line.lstrip().startswith("def "):
                yield number, line
    else:
        yield from enumerate(text.split("\n"), 1)


def habits_in(path: Path) -> Iterator[Found]:
    """Yield the habits in a file."""
    for number, line in prose_of(path):
        for habit, pattern in HABITS.items():
            if pattern.search(line):
                yield Found(path, number, habit, line.strip())
        for match in WHO.finditer(line):
            before = line[: match.start()].rstrip()
            if before and not BEFORE_WHO.search(before):
                yield Found(path, number, '"who" for things', line.strip())


def files(paths: list[Path]) -> list[Path]:
    """Return the Python and Markdown files at or below these paths."""
    found: list[Path] = []
    for path in paths:
        found += (
            sorted(each for each in path.rglob("*") if each.suffix in {".py", ".md"})
            if path.is_dir()
            else [path]
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print what is found; return 1 if anything is."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.harness.habits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / each for each in DEFAULT])
    found = [each for path in files(parser.parse_args(arguments).paths) for each in habits_in(path)]
    for each in found:
        print(f"{each.path}:{each.line}: {each.habit}\n    {each.text}")
    print(f"{len(found)} habits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
