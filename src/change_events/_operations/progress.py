"""How far a backfill is, and what it has done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from change_events._event import Outcome

LATELY = 10.0
"""Seconds over which the speed is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    How far a backfill is.

    Attributes:
        phase: `listing`, or `unlisted` while it looks at what is cached and was not listed.
        done: How many listed ids, or unlisted ones, are done.
        total: How many there are; None: not known.
        per_second: How many ids were done in each second, lately.
        seconds_left: None: not known.
        slow: What most of the time is spent on: `the source`, `the listing`, `the sink`,
            `the rate limit`, `live events`, `paused`; or the error that it waits for to end.
    """

    phase: str
    done: int
    total: int | None
    per_second: float
    seconds_left: float | None
    slow: str

    def __str__(self) -> str:
        """Return it as one line."""
        total = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.seconds_left is None else f", {self.seconds_left:,.0f} s to go"
        what = "ids" if self.phase == "listing" else "ids that are not listed"
        return f"{self.done:,}{total} {what}, {self.per_second:,.0f} a second{left}; {self.slow}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """
    What a backfill has done, also before a restart.

    Attributes:
        pages: How many pages were read.
        listed: How many ids they named.
        stored: How many entities of the pages were stored as they were listed.
        outcomes: How many looks did what; see `Outcome`.
        unlisted: How many ids were cached, and not listed; None: the sink can't name its ids.
        failed: How many ids could not be looked at, by their own fault. An event, another backfill
            or an audit looks at them again.
        failed_ids: Up to a hundred of them, and why.
    """

    pages: int
    listed: int
    stored: int
    outcomes: Mapping[Outcome, int]
    unlisted: int | None
    failed: int
    failed_ids: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as lines of text."""
        looked = ", ".join(f"{number:,} {each.value}" for each, number in self.outcomes.items())
        lines = [
            f"{self.listed:,} ids listed on {self.pages:,} pages: {self.stored:,} entities stored "
            f"from them, {sum(self.outcomes.values()):,} looked at ({looked or 'none'})",
            "the sink can't name its ids, so nothing that is cached and not listed was looked at"
            if self.unlisted is None
            else f"{self.unlisted:,} ids were cached and not listed",
        ]
        if self.failed:
            lines.append(f"{self.failed:,} could not be looked at:")
            lines += [f"  {id}: {why}" for id, why in self.failed_ids.items()]
        return "\n".join(lines)


class Speed:
    """How many were done in each second, lately."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float:
        """Return the speed now that so many are done."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > LATELY:
            self._marks.popleft()
        (began, before), (ended, after) = self._marks[0], self._marks[-1]
        return (after - before) / (ended - began) if ended > began else 0.0
