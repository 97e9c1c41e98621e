"""Draws examples, and uses each once."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy


Example = TypeVar("Example")

SHOWN = 5
"""The number of surprises of each kind that are printed."""

FRESH = 10
"""
The number of examples that are drawn at a time. After ten, hypothesis makes most examples by
changing the one before.
"""

HEALTH_CHECKS = [
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.too_slow,
    HealthCheck.large_base_example,
]
"""Examples can be large and slow, and filters can reject them."""


def for_each(
    strategy: SearchStrategy[Example], use: Callable[[Example], object], *, seed: int, examples: int
) -> None:
    """
    Draw examples, the same ones for the same seed, and use each once.

    Surprises are counted, and not shrunk.
    """
    for start in range(0, examples, FRESH):

        @hypothesis.seed(seed * 10**6 + start)
        @settings(
            max_examples=min(FRESH, examples - start),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=HEALTH_CHECKS,
        )
        @given(strategy)
        def draw(example: Example) -> None:
            use(example)

        draw()


class Surprises(Counter[str]):
    """Counts what must not happen, and prints the first few of each kind."""

    def see(self, what: str, *how: object) -> None:
        """Count a surprise of a kind; `how` is printed."""
        self[what] += 1
        if self[what] <= SHOWN:
            print(
                f"{what}: {' '.join(f'{part!r:.2000}' for part in how)}",
                file=sys.stderr,
                flush=True,
            )
