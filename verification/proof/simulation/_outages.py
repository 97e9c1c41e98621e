"""Outages of the source, of SNS and of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from verification.proof.simulation._chance import NO_FAULTS

if TYPE_CHECKING:
    import random

    from verification.proof.simulation._environment import Environment


class CanBeDown(Protocol):
    """What can have an outage."""

    is_down: bool


class Outages:
    """
    Makes something fail, and work again, again and again.

    Args:
        environment: What the world's parts share.
        what: The thing that fails.
        per_second: The mean number of outages per second.
        stops_looks: No look can succeed meanwhile.
        chance: Draws when they come and how long they last.
    """

    def __init__(
        self,
        environment: Environment,
        what: CanBeDown,
        per_second: float,
        *,
        stops_looks: bool,
        chance: random.Random,
    ) -> None:
        self._environment = environment
        self._what = what
        self._per_second = per_second
        self._stops_looks = stops_looks
        self._chance = chance

    def await_next(self) -> None:
        """Schedule the next outage."""
        if self._per_second > 0:
            kernel = self._environment.kernel
            pause = self._chance.expovariate(self._per_second)
            kernel.at(kernel.now + pause, self._begin)

    def _begin(self) -> None:
        environment = self._environment
        if environment.faults is not NO_FAULTS:
            self._what.is_down = True
            if self._stops_looks:
                environment.ghost.downtime.begin(self._what)
            environment.ghost.counts["outages"] += 1
            kernel = environment.kernel
            kernel.at(kernel.now + 1e3 ** self._chance.random(), self._end)

    def end(self) -> None:
        """End the outage, if there is one."""
        if self._what.is_down and self._stops_looks:
            self._environment.ghost.downtime.end(self._what)
        self._what.is_down = False

    def _end(self) -> None:
        self.end()
        self.await_next()
