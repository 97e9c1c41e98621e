"""What a workload gets: servers, contenders, and how much of everything."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verification.benchmarks import contenders
from verification.benchmarks.capacity import gets_per_second
from verification.benchmarks.contest import Rounds, contest
from verification.benchmarks.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from verification.benchmarks.contenders import Contender

LATENCY = 0.020
"""The source's latency in seconds."""

OLD = 10.0
"""
Seconds that old events have been in the queue: longer than the settle window, and than the worker
allows for differences between SQS's clocks.
"""

AGED = f"events {OLD:.0f} s old"
"""What tables call these events."""


@dataclass
class Bench:
    """
    What a workload gets.

    Attributes:
        quick: Use so few events that all workloads take a few minutes.
        canned: Use the canned queue server instead of ministack.
        scale: The part of the events to use; tests use few.
        contenders: The contenders.
        progress: Called with what comes next, and with its number of events.
        capacity: How many GETs a second the source answers, fifty at once without a latency; 0
            until the source has started.
    """

    quick: bool = False
    canned: bool = False
    scale: float = 1.0
    contenders: Sequence[Contender] = tuple(contenders.AT_HAND)
    progress: Callable[[str, int], object] = lambda *_: None
    capacity: float = 0.0
    _exits: ExitStack = field(default_factory=ExitStack, init=False)
    _stages: dict[bool, Stage] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def stage(self, *, canned: bool = False) -> Stage:
        """Return the servers: the same ones each time."""
        canned = canned or self.canned
        if canned not in self._stages:
            self.progress("starting the servers", 0)
            stage = self._stages[canned] = self._exits.enter_context(Stage(canned=canned))
            if not self.capacity:
                stage.tell(stage.source, "begin", latency=0)
                self.capacity = gets_per_second(stage.source)
        return self._stages[canned]

    @property
    def rounds(self) -> int:
        """How many times each contender does the work."""
        return 1 if self.quick else 3

    def number(self, full: int, quick: int) -> int:
        """Return how many events to use."""
        return max(20, int((quick if self.quick else full) * self.scale))

    def gets_per_second(self, threads: int) -> float:
        """Return how many GETs a second the source answers, with so many at once and `LATENCY`."""
        stage = self.stage()
        stage.tell(stage.source, "begin", latency=LATENCY)
        return gets_per_second(stage.source, threads, seconds=2.0)

    def named(self, name: str) -> Contender:
        """Return the contender with this name."""
        return next(contender for contender in self.contenders if contender.name == name)

    def contest(
        self,
        who: Sequence[Contender],
        events: Sequence[str],
        notes: list[str],
        *,
        canned: bool = False,
        **settings: Any,
    ) -> Rounds:
        """Let those of these contenders that take part do the work in turn."""
        names = {contender.name for contender in self.contenders}
        return contest(
            self.stage(canned=canned),
            [self.named(contender.name) for contender in who if contender.name in names],
            events,
            rounds=self.rounds,
            progress=self.progress,
            notes=notes,
            **{"latency": LATENCY, **settings},
        )


def distinct(number: int) -> list[str]:
    """Return so many ids, all different."""
    return [f"p{at}" for at in range(number)]


def zipf(number: int, *, ids: int = 200, exponent: float = 1.1, seed: int = 1) -> list[str]:
    """Draw ids by Zipf's law: the most frequent one 2^1.1 times as often as the next, and so on."""
    weights = [1 / rank**exponent for rank in range(1, ids + 1)]
    return random.Random(seed).choices(distinct(ids), weights, k=number)
