"""
Find habits of language that make a reader read twice.

    python -m verification.harness.habits [PATH ...]

Reads the comments, strings and names of Python files, and the paragraphs of Markdown and YAML
files, but not their code blocks. A phrase counts where a line breaks in it, too. Most of these
words have a plain sense as well ("takes 5 seconds"); the patterns let that pass if they can.

A file that says "habits are quoted here" is not read.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]

DEFAULT = (ROOT / "src", ROOT / "docs", ROOT / "README.md")
"""Where the goal is no habit."""

SUFFIXES = {".md", ".py", ".yaml"}

QUOTED = "habits are quoted here"

UNIT = r"(?:µs|ms|s|%|(?:micro|milli)?seconds?|minutes?|hours?|days?|weeks?)(?!\w)"
DURATION = (
    rf"(?:(?:\d[\d.,]*|\{{\}}) ?|[a-z]+ )(?:(?:to|or|and) [\w.,]+ ?)?{UNIT}|{UNIT}"
    r"|(?:an?|half an?|another|quite a) (?:second|minute|hour|day|while|moment|few|lot)\b"
    r"|(?:much |too |as |even |far )?(?:long|longer|longest|less|more|little)\b"
    r"|(?:at (?:most|least)|up to|about|half|twice|effect|over|care)\b"
    r"|(?:its |their |your )?(?:part|place|time|turns?)\b"
    r"|(?:a|the|no|its|this|that|each|both|any)(?: \w+)? locks?\b"
)
"""The words after "takes" in its plain senses."""

HOW_LONG = re.compile(
    r"\bhow (?:long|much time|many \w*(?:seconds|minutes))\b[^.;:]*\Z", re.IGNORECASE
)

PEOPLE = (
    r"anyone|anybody|someone|somebody|everyone|everybody|nobody|no one|people|person|persons"
    r"|admins?|administrators?|attackers?|authors?|colleagues?|contributors?|customers?"
    r"|developers?|engineers?|humans?|maintainers?|newcomers?|operators?|others|programmers?"
    r"|readers?|reviewers?|strangers?|teams?|those|users?|writers?|you"
)

SUBJECT = (
    r"(?:it|its|they|their|he|she|we|you|your|there|this|these|those|that|the|nobody|nothing|no"
    r"|each|all|some|what|whatever|most|one|only|both|neither|every|everything|else)\b"
    r"|(?:an?|(?-i:[A-Z])\w+|boto3|moto|pytest) (?:\w+ )?"
    r"(?:is|are|was|were|has|can|can't|must|will)\b"
)
LIKE = (
    r"(?: (?:same|above|before)\b"
    r"| (?:\w+ )?(?:asked|asks|says|said|shows|(?:does|do|did)(?! not))\b"
    r"| (?:is|are|was|were|have|has)(?: (?:where|when|today)\b| ?[,.;:()]|\Z))"
)
"""The words after a subject if "as" means "like"."""

HABITS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        '"at the most", "at the least": write "at most", "at least"': (
            r"\bat the (?:most|least)\b(?! (?:common|important|likely|recent)\b)"
        ),
        '"anew": write "again"': r"\banew\b",
        '"may be": write "can be"': r"\bmay be\b",
        '"is no": write "is not a"': (
            r"\b(?:is|are|was|were|be|being|been) no\b"
            r"(?! (?:better|earlier|fewer|later|less|longer|more|one|such)\b)"
        ),
        '"takes" for "needs"': rf"\btakes\b(?! (?:{DURATION}))",
        '"as" for "because"': (
            rf"(?:[,;(] ?|[.:!?] )as (?:{SUBJECT})(?!{LIKE})|\AAs (?:{SUBJECT})(?!{LIKE})"
        ),
        '"who" for things': r"\bwhoever\b",
        '"that which", "of which"': r"\b(?:that|(?<!because )of) which\b",
        "a name from the table in our conventions": (
            r"\b(?:_let_go|_Why|_Place|concerns_all|hides_headers|SPARE)\b"
        ),
        "a riddle from the table in our conventions": (
            r"\bwithout more ado\b|\bmust not mind\b|\bbelongs into\b|\bwithout being told\b"
            r"|\bmake up for it\b|\bbe it\b|\b(?:is|are) told from\b|\ball one\b|\blest\b"
        ),
    }.items()
}
THERE = re.compile(r"\bthere(?: \w+)? \Z", re.IGNORECASE)

WHO = re.compile(r"\bwho\b(?= \w)", re.IGNORECASE)
BEFORE_WHO = re.compile(rf"\b(?:{PEOPLE}),?\Z", re.IGNORECASE)
QUESTION = re.compile(r"[^.!;]*\?")

NAMES = {"_let_go", "_Why", "_Place", "anew", "concerns_all", "hides_headers", "SPARE"}
FUNCTIONS = {"company", "hurry"}
"""Names from the table in our conventions; those of functions are usual words elsewhere."""


class Found(NamedTuple):
    """A habit, and where it is."""

    path: Path
    line: int
    habit: str
    text: str


class Prose(NamedTuple):
    """A paragraph, its white space made single spaces; and each word's line."""

    text: str
    lines: list[int]


def prose(line: int, text: str) -> Iterator[Prose]:
    """Yield the paragraphs of a text that starts at a line."""
    words: list[tuple[int, str]] = []
    for number, content in enumerate([*text.split("\n"), ""], line):
        words += [(number, word) for word in content.split()]
        if words and not content.strip():
            yield Prose(" ".join(word for _, word in words), [number for number, _ in words])
            words = []


def habits_in(path: Path) -> Iterator[Found]:
    """Yield the habits in a file."""
    source = path.read_text(encoding="utf-8")
    if QUOTED in source:
        return
    if path.suffix == ".py":
        tree = ast.parse(source)
        yield from (Found(path, *found) for found in _names(tree))
        read = [*_strings(tree), *_comments(source)]
    elif path.suffix == ".yaml":
        read = list(_yaml(source))
    else:
        read = list(prose(1, _without_code(source)))
    for paragraph in sorted(read, key=lambda each: each.lines):
        for habit, start in sorted(_habits(paragraph.text), key=lambda found: found[1]):
            word = paragraph.text.count(" ", 0, start)
            text = " ".join(paragraph.text.split(" ")[max(0, word - 5) : word + 7])
            yield Found(path, paragraph.lines[word], habit, text)


def _habits(text: str) -> Iterator[tuple[str, int]]:
    """Yield each habit in a paragraph, and where in it the habit starts."""
    for habit, pattern in HABITS.items():
        for match in pattern.finditer(text):
            before = text[: match.start()]
            if "takes" in habit and HOW_LONG.search(before):
                continue
            if '"is no"' in habit and THERE.search(before):
                continue
            # A match can start with the mark before its first word.
            yield habit, match.end() - len(match.group().lstrip(" ,;(.:!?"))
    for match in WHO.finditer(text):
        before = text[: match.start()].rstrip()
        if not BEFORE_WHO.search(before) and not QUESTION.match(text, match.start()):
            yield '"who" for things', match.start()


def _names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield the names that are given here and should be others."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                unwanted = NAMES | FUNCTIONS
            case (
                ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
            ):
                unwanted = NAMES
            case _:
                continue
        if name in unwanted:
            yield node.lineno, "a name from the table in our conventions", name


def _strings(tree: ast.AST) -> Iterator[Prose]:
    """Yield the strings; of f-strings, the text around what is put in."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield from prose(tree.lineno, tree.value)
    elif isinstance(tree, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in tree.values]
        yield from prose(tree.lineno, "".join(map(str, parts)))
    else:
        for child in ast.iter_child_nodes(tree):
            yield from _strings(child)


def _comments(source: str) -> Iterator[Prose]:
    """Yield the comments; those that stand one below the other are one."""
    block: list[str] = []
    first = last = column = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, at = token.start
        if (line, at) != (last + 1, column):
            yield from prose(first, "\n".join(block))
            block, first, column = [], line, at
        block.append(token.string.lstrip("# "))
        last = line
    yield from prose(first, "\n".join(block))


def _without_code(source: str) -> str:
    """Blank the code blocks in Markdown."""
    fence = ""
    lines = []
    for line in source.split("\n"):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
            lines.append("")
        else:
            lines.append("" if fence else line)
    return "\n".join(lines)


def _yaml(source: str) -> Iterator[Prose]:
    """Yield the comments of YAML, then its texts."""
    lines = source.split("\n")
    comments = [line.lstrip().startswith("#") for line in lines]
    pairs = list(zip(lines, comments, strict=True))
    yield from prose(1, "\n".join(line.lstrip("# ") if comment else "" for line, comment in pairs))
    yield from prose(1, "\n".join("" if comment else line for line, comment in pairs))


def files(paths: Iterable[Path]) -> list[Path]:
    """Return the Python, Markdown and YAML files at or below these paths."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        else:
            found.append(path)
    return found


def find(paths: Iterable[Path] = DEFAULT) -> list[Found]:
    """Return the habits in the files at or below these paths."""
    return [found for path in files(paths) for found in habits_in(path)]


def main(arguments: list[str] | None = None) -> int:
    """Print what is found; return 1 if anything is."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.harness.habits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", type=Path, default=DEFAULT)
    found = find(parser.parse_args(arguments).paths)
    for each in found:
        print(f"{each.path}:{each.line}: {each.habit}\n    {each.text}")
    print(f"{len(found)} habits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
