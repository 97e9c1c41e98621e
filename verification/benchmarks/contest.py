"""Contenders that do the same work in turn."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verification.benchmarks.contenders import ALL, change_event
from verification.benchmarks.environments import EnvironmentUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.benchmarks.contenders import Contender
    from verification.benchmarks.stage import Run, Stage
    from verification.harness.figures import Figure


@dataclass
class Report:
    """
    The result of a workload.

    Attributes:
        figures: What was measured, with or without a goal.
        table: Rows to print; the first one names the columns.
        notes: Remarks.
        data: Everything, for JSON.
    """

    figures: list[Figure] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Any = None


@dataclass(frozen=True)
class Spread:
    """A median, a minimum and a maximum."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Return the spread as a short text."""
        if self.least == self.most:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}-{self.most:,.{digits}f})"


Rounds = dict[str, list["Run"]]
"""The runs of each contender; runs with the same index are of the same round."""


def contest(
    stage: Stage,
    contenders: Sequence[Contender],
    ids: Sequence[str],
    *,
    rounds: int,
    others: float = 1.0,
    progress: Callable[[str, int], object],
    notes: list[str],
    **settings: Any,
) -> Rounds:
    """
    Let contenders do the same work in turn, each round in another order.

    Args:
        stage: The servers.
        contenders: The contenders.
        ids: The ids of the events.
        rounds: How many times each contender does the work.
        others: A factor for the share of all contenders but ours, where they would take minutes.
        progress: Called before each run, with the contender and its number of events.
        notes: Gets a note for each contender that could not run.
        settings: Arguments of `Stage.run`.
    """
    runs: Rounds = {}
    failed: set[str] = set()
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            if contender.name in failed:
                continue
            share = contender.share * (1.0 if contender.name.startswith("ours") else others)
            part = ids[: max(10, int(len(ids) * share))]
            progress(f"round {number + 1} of {rounds}: {contender.name}", len(part))
            try:
                runs.setdefault(contender.name, []).append(stage.run(contender, part, **settings))
            except (EnvironmentUnavailableError, TimeoutError, RuntimeError) as error:
                if contender.name.startswith(("ours", "tuned")):
                    raise
                failed.add(contender.name)
                runs.pop(contender.name, None)
                notes.append(f"{contender.name} did not take part: {error}")
    return {
        contender.name: runs[contender.name] for contender in contenders if contender.name in runs
    }


def times(runs: Rounds, name: str, of: str = "ours") -> Spread | None:
    """
    Return how many times as fast as a contender another one is, by default ours.

    It is None if one of them did not take part.
    """
    if name not in runs or of not in runs:
        return None
    return Spread.of(
        [one.rate / other.rate for one, other in zip(runs[of], runs[name], strict=True)]
    )


def spread(runs: Sequence[Run], value: Callable[[Run], float]) -> Spread:
    """Return the spread of a value over runs."""
    return Spread.of([value(run) for run in runs])


def table(runs: Rounds) -> list[list[str]]:
    """Return the table of a contest."""
    head = [
        "contender",
        "events",
        "events/s",
        "ours is x times",
        "CPU ms/event",
        "calls/1,000",
        "GETs/event",
        "queue ms/event",
    ]
    return [head, *(_row(runs, name) for name in runs)]


def _row(runs: Rounds, name: str) -> list[str]:
    of = runs[name]
    ratio = times(runs, name)
    missing = sum(run.missing for run in of)
    own = any(contender.name == name and contender.message is not change_event for contender in ALL)
    return [
        name + (", own messages" if own else "") + (f" (LOST {missing})" if missing else ""),
        f"{of[0].events:,}",
        spread(of, lambda run: run.rate).text(0),
        ratio.text() if ratio and name != "ours" else "",
        spread(of, lambda run: run.cpu / run.events * 1e3).text(),
        spread(of, lambda run: sum(run.calls.values()) / run.events * 1e3).text(0),
        spread(of, lambda run: run.gets / run.events).text(3),
        spread(of, lambda run: run.server_cpu / run.events * 1e3).text(),
    ]
