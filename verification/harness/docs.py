"""Writes what the commands have found into the docs."""

from __future__ import annotations

from verification.harness import ROOT

EXPLANATION = ROOT / "docs" / "explanation"


def write_between_markers(name: str, text: str, *, page: str = "correctness.md") -> None:
    """Replace the text between the markers of a name, in a page of `docs/explanation`."""
    path = EXPLANATION / page
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no {start} and {end} to write between")
    path.write_text(f"{before}{start}\n\n{text}\n{end}{after}", encoding="utf-8")


def markdown_table(rows: list[list[str]]) -> str:
    """Return a table in Markdown; the first row names the columns."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
