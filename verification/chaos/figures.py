"""What a play has measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """
    A number, and what it must be.

    Attributes:
        what: What was counted or measured.
        at_most: The goal, if it is one.
        at_least: Likewise.
    """

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def goal(self) -> str:
        """Say what it must be; nothing if it is no goal."""
        if self.at_most == self.at_least:
            return "" if self.at_most is None else f"{self.at_most:,g}"
        if self.at_most is None:
            return f"at least {self.at_least:,g}"
        return (
            f"at most {self.at_most:,.4g}"
            if self.at_least is None
            else f"{self.at_least:,g} to {self.at_most:,g}"
        )

    def __str__(self) -> str:
        """Return the number with its unit."""
        number = f"{self.value:,.2f}" if isinstance(self.value, float) else f"{self.value:,}"
        return f"{number} {self.unit}".rstrip()


def exactly(what: str, value: float, goal: float) -> Figure:
    """Return a figure that must be just that."""
    return Figure(what, value, at_most=goal, at_least=goal)


def none(**counts: int) -> list[Figure]:
    """Return counts of what must not be."""
    return [exactly(what.replace("_", " "), count, 0) for what, count in counts.items()]
