"""How far a backfill or an audit is, and what a backfill has done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from change_events._consumer.log import log
from change_events._operations.throttle import LISTING
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events._event import Outcome
    from change_events._operations.throttle import Throttle

TELL_EVERY = 1.0
"""Seconds between two calls of `on_progress`."""

LOG_EVERY = 5.0
"""Seconds between two lines of progress in the log."""

LATELY = 10.0
"""Seconds over which the speed is measured."""

WHAT = {
    "listing": "ids",
    "unlisted": "ids, now those that are not listed",
    "suspects": "ids, some of them read again",
    "done": "ids",
}
"""What a phase counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    How far a backfill or an audit is.

    Attributes:
        phase: `listing`; `unlisted` while it looks at what is cached and was not listed; `suspects`
            while an audit reads again what differed.
        done: How many ids are done; in the phase `unlisted` all of the listing's, and some more.
        total: How many there are; None: not known, as in the phase `unlisted`.
        per_second: How many ids were done in each second, lately.
        seconds_left: None: not known.
        slow: What most of the time is spent on: `the source`, `the listing`, `the sink`,
            `the rate limit`, `live events`, `paused`, `the second reading`; or the error that it
            waits for to end.
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
        what = WHAT[self.phase]
        speed = f"{self.per_second:,.0f} a second{left}"
        return f"{self.done:,}{total} {what}, {speed}; limited by: {self.slow}"


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
            or an audit looks at them again; and so does the worker, if the backfill is its own.
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
            f"{self.listed:,} ids listed on {self.pages:,} pages",
            f"{self.stored:,} entities stored from these pages",
            f"{sum(self.outcomes.values()):,} ids looked at ({looked or 'none'})",
            "the sink can't name its ids, so nothing that is cached and not listed was looked at"
            if self.unlisted is None
            else f"{self.unlisted:,} ids were cached and not listed",
        ]
        if self.failed:
            lines.append(f"{self.failed:,} could not be looked at:")
            lines += [f"  {printable(id)}: {why}" for id, why in self.failed_ids.items()]
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


@dataclass(frozen=True, slots=True)
class Count:
    """The part of `Progress` that the work itself knows."""

    phase: str
    done: int
    total: int | None


class Teller:
    """
    Tells the progress.

    Args:
        name: What makes the progress.
        throttle: Knows where the time goes.
        count: Returns how far it is.
        on_progress: Called about once a second; None: the progress is logged.
    """

    def __init__(
        self,
        name: str,
        throttle: Throttle,
        count: Callable[[], Count],
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        self._name = name
        self._throttle = throttle
        self._count = count
        self._on_progress = on_progress
        self._every = LOG_EVERY if on_progress is None else TELL_EVERY
        self._next = throttle.threads.clock() + self._every
        self._speed: Speed | None = None

    def tell(self, *, last: bool = False) -> None:
        """Tell it, if it is time."""
        now = self._throttle.threads.clock()
        if self._speed is None:
            self._speed = Speed()
            self._speed.at(now, self._count().done)  # not 0: it can go on with what was begun
        if now < self._next and not last:
            return
        self._next = now + self._every
        progress = self._progress(now, self._speed)
        if self._on_progress is None:
            log.info("%s: %s", self._name, printable(progress), extra={"action": "progress"})
            return
        try:
            self._on_progress(progress)
        except Exception:  # the user's; the work goes on
            log.exception("on_progress failed", extra={"action": "progress"})

    def _progress(self, now: float, measured: Speed) -> Progress:
        count, spent = self._count(), self._throttle.take_spent()
        speed = measured.at(now, count.done)
        left = None
        if count.total is not None and speed and count.phase == "listing":
            left = max(0.0, (count.total - count.done) / speed)
        return Progress(
            phase=count.phase,
            done=count.done,
            total=count.total,
            per_second=speed,
            seconds_left=left,
            slow=self._throttle.problem
            or max(spent, key=lambda what: spent[what], default=LISTING),
        )
