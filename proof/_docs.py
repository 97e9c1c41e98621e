"""What the commands write into the docs."""

from __future__ import annotations

from pathlib import Path

CORRECTNESS = Path(__file__).parent.parent / "docs" / "explanation" / "correctness.md"


def write_between_markers(name: str, text: str) -> None:
    """Replace what stands between a name's markers in correctness.md."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, _, rest = CORRECTNESS.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{CORRECTNESS} has no {start} and {end} to write between")
    CORRECTNESS.write_text(f"{before}{start}\n\n{text}\n{end}{after}", encoding="utf-8")
