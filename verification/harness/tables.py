"""
Lists the tables of the docs that are older than the code that they speak of.

    python -m verification.harness.tables      (a part of `make figures`)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from verification.harness import ROOT
from verification.harness.docs import EXPLANATION, git

CONSUMER = ("src/change_events/_consumer", "src/change_events/_event.py")
PRODUCER = ("src/change_events/_producer",)
SOURCE = ROOT / "src" / "change_events" / "_source"
FETCHER = tuple(
    each.relative_to(ROOT).as_posix()
    for each in sorted(SOURCE.glob("*.py"))
    if each.name not in {"items.py", "listing.py"}
)
WORKER = (*CONSUMER, *FETCHER, "src/change_events/sinks")
BOTH = (*CONSUMER, *PRODUCER)
OPERATIONS = (*WORKER, "src/change_events/_source", "src/change_events/_operations")
BACKFILL = (
    "src/change_events/_operations/filled.py",
    "src/change_events/_operations/filling.py",
    "src/change_events/_operations/listed.py",
    "src/change_events/_operations/pages.py",
    "src/change_events/_operations/patience.py",
    "src/change_events/_operations/reading.py",
    "src/change_events/_operations/rounds.py",
    "src/change_events/_operations/state.py",
    "src/change_events/_operations/sweep.py",
    "src/change_events/_operations/throttle.py",
)
WALK = (
    "verification/proof/effects.py",
    "verification/proof/exhaustive.py",
    "verification/proof/explore",
    "verification/proof/fibres.py",
    "verification/proof/filler.py",
    "verification/proof/process.py",
    "verification/proof/saver.py",
    "verification/proof/spec.py",
    "verification/proof/stand_ins.py",
    "verification/proof/worker.py",
)

SPEAKS_OF: dict[str, dict[str, tuple[str, ...]]] = {
    "correctness.md": {
        "exhaustive": (*BOTH, *BACKFILL, *WALK),
        "field": (*BOTH, "verification/proof/field", "verification/proof/simulation"),
    },
    "chaos.md": {
        "filled": (*OPERATIONS, "verification/chaos"),
        "audited": (*OPERATIONS, "verification/chaos"),
        "frozen-publisher": PRODUCER,
        "cancelled-save": PRODUCER,
        "fork": ("src/change_events/sinks/sqlite", *PRODUCER),
        "fuzz": (*WORKER, "src/change_events/_codec.py", "verification/chaos/fuzz"),
        "soak": (*WORKER, "verification/chaos/soak.py"),
        "": (*WORKER, "verification/chaos"),
    },
    "performance.md": {
        "contenders": ("verification/benchmarks/contenders",),
        "F": (*PRODUCER, "verification/benchmarks/publishing.py"),
        "G": (*BOTH, "verification/benchmarks/freshness.py", "verification/benchmarks/fresh.py"),
        "H": (*CONSUMER, "verification/benchmarks/hold.py"),
        "I": ("verification/benchmarks/capacity.py",),
        "J": (*OPERATIONS, "verification/benchmarks/redriving.py"),
        "K": (*OPERATIONS, "verification/benchmarks/backfilling.py"),
        "L": (*OPERATIONS, "verification/benchmarks/auditing.py"),
        "M": (*OPERATIONS, "verification/benchmarks/beside.py"),
        "N": ("src/change_events/sinks", "verification/benchmarks/sinks.py"),
        "": (*WORKER, "verification/benchmarks/contenders"),
    },
    "design.md": {
        "": (
            "src/change_events/_consumer/limit.py",
            "src/change_events/_consumer/usual.py",
            "verification/scale/source.py",
        )
    },
    "scale.md": {"": (*CONSUMER, "verification/scale")},
}
"""The code that each table of a page speaks of; under no name, that of its other tables."""

TABLE = re.compile(r"<!-- (.+): start -->(.*?)<!-- \1: end -->", re.DOTALL)
MADE_AT = re.compile(r"^Made at ([0-9a-f]{7,})", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """A table of the docs, and the commit that it was made at; None if the table names none."""

    page: str
    name: str
    commit: str | None

    @property
    def speaks_of(self) -> tuple[str, ...]:
        """The paths of the code that it speaks of."""
        tables = SPEAKS_OF[self.page]
        return tables.get(self.name) or tables[""]

    def newer(self) -> int | None:
        """
        Return how many commits have changed that code since; None if nobody knows: a commit that
        was rebased is in no clone.
        """
        if self.commit is None or git("merge-base", "--is-ancestor", self.commit, "HEAD") is None:
            return None
        newer = git("rev-list", "--count", f"{self.commit}..HEAD", "--", *self.speaks_of)
        return None if newer is None else int(newer)


def tables() -> list[Table]:
    """Return the tables that commands have written into the docs."""
    return [
        Table(page, name, made[1] if (made := MADE_AT.search(text)) else None)
        for page in SPEAKS_OF
        for name, text in TABLE.findall((EXPLANATION / page).read_text(encoding="utf-8"))
    ]


def main() -> None:
    """Print each table that is old, or of a commit that is not known."""
    for table in tables():
        newer = table.newer()
        if newer is None:
            print(f"tables      {table.page}, {table.name}: made at a commit that is not known")
        elif newer:
            print(
                f"tables      {table.page}, {table.name}: made at {table.commit}; "
                f"{newer} commits have changed its code since"
            )


if __name__ == "__main__":
    main()
