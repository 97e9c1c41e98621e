"""Writes what the commands have found into the docs, with the commit that they found it at."""

from __future__ import annotations

import subprocess

from verification.harness import ROOT

EXPLANATION = ROOT / "docs" / "explanation"

CODE = ("src", "verification", ":(exclude)verification/*/results/*")
"""What decides the figures."""


def write_between_markers(name: str, text: str, *, page: str = "correctness.md") -> None:
    """Replace the text between the markers of a name, in a page of `docs/explanation`."""
    path = EXPLANATION / page
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no {start} and {end} to write between")
    text = f"{text.rstrip()}\n\nMade at {commit()}."
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def commit() -> str:
    """Return the commit that is checked out, and whether the code has been changed since."""
    if (found := git("rev-parse", "--short=7", "HEAD")) is None:
        return "an unknown commit"
    changed = git("diff", "--quiet", "HEAD", "--", *CODE) is None
    return f"{found} with changes" if changed else found


def git(*arguments: str) -> str | None:
    """Return what git prints; None if it fails, or is not there."""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None


def markdown_table(rows: list[list[str]]) -> str:
    """Return a table in Markdown; the first row names the columns."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
