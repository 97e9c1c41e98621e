"""Contenders on the same work, in turn."""

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
    What a workload has found.

    Attributes:
        figures: What is measured against a goal, or worth to be seen.
        table: Rows to print; the first has the columns' names.
        notes: What is to be said about it.
        data: All of it, for JSON.
    """

    figures: list[Figure] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Any = None


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """Write it short."""
        if self.least == self.most:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}-{self.most:,.{digits}f})"


Rounds = dict[str, list["Run"]]
"""By contender, its runs; the first of each belong together."""


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
        contenders: Who takes part.
        ids: The events.
        rounds: How often.
        others: Which part of their share all but ours get, where they would take minutes.
        progress: Told of each contender before it runs, with how many events it gets.
        notes: Where to say who could not take part.
        settings: Of `Stage.run`.
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
                if contender.name in {"ours", "tuned"}:
                    raise
                failed.add(contender.name)
                runs.pop(contender.name, None)
                notes.append(f"{contender.name} did not take part: {error}")
    return {
        contender.name: runs[contender.name] for contender in contenders if contender.name in runs
    }


def times(runs: Rounds, name: str, who: str = "ours") -> Spread | None:
    """
    Return how many times as fast as that contender ours is, or another; None if one of them did not
    take part.
    """
    if name not in runs or who not in runs:
        return None
    return Spread.of(
        [one.rate / other.rate for one, other in zip(runs[who], runs[name], strict=True)]
    )


def spread(runs: Sequence[Run], value: Callable[[Run], float]) -> Spread:
    """Return the spread of a value of runs."""
    return Spread.of([value(run) for run in runs])


def table(runs: Rounds) -> list[list[str]]:
    """Return a contest's table."""
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
