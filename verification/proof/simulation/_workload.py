"""What is saved, and when."""

from __future__ import annotations

from bisect import bisect
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verification.proof.simulation._books import State
    from verification.proof.simulation._environment import Environment, Setup


@lru_cache
def _weights(ids: int, zipf: float) -> list[float]:
    return list(accumulate((rank + 1) ** -zipf for rank in range(ids)))


class Workload:
    """
    Draws what is saved.

    Args:
        environment: What the world's parts share.
        setup: How the world is set up.

    Attributes:
        written: How many entities were drawn.
    """

    def __init__(self, environment: Environment, setup: Setup) -> None:
        self._environment = environment
        self._setup = setup
        self._weights = _weights(setup.ids, setup.zipf)
        self._rate = setup.rate
        self._states = 0
        self.written = 0

    @property
    def done(self) -> bool:
        """True once everything was drawn."""
        return self.written >= self._setup.writes

    def next(self) -> dict[str, State]:
        """Draw the ids of a save, and their states."""
        chance = self._environment.chance
        number = chance.randrange(2, 13) if chance.random() < self._setup.many else 1
        states = {self._any_id(): self._any_state() for _ in range(number)}
        self.written += len(states)
        return states

    def pause(self) -> float:
        """Draw the seconds until the next save."""
        return self._environment.chance.expovariate(self._rate)

    def change_rate(self) -> None:
        """Begin a burst, a lull, or the usual rate, until the next change."""
        chance, kernel = self._environment.chance, self._environment.kernel
        self._rate = self._setup.rate * chance.choice([0.1, 1.0, 1.0, 1.0, 5.0])
        kernel.at(kernel.now + chance.expovariate(0.1), self.change_rate)

    def _any_id(self) -> str:
        weights = self._weights
        return f"p{bisect(weights, self._environment.random() * weights[-1])}"

    def _any_state(self) -> State:
        if self._environment.random() < 0.15:
            return None
        if self._setup.unique_states:
            self._states += 1
            return self._states
        return int(self._environment.random() * 4)  # few, so that states and ETags come back
