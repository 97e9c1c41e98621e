"""What the commands write into the docs."""

from __future__ import annotations

from pathlib import Path

EXPLANATION = Path(__file__).parents[2] / "docs" / "explanation"


def write_between_markers(name: str, text: str, *, page: str = "correctness.md") -> None:
    """Replace what stands between a name's markers in a page of explanation."""
    path = EXPLANATION / page
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no {start} and {end} to write between")
    path.write_text(f"{before}{start}\n\n{text}\n{end}{after}", encoding="utf-8")
