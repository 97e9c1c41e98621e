"""A measured number and its goal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """
    A number and its goal.

    Attributes:
        what: What was counted or measured.
        value: The number.
        unit: Its unit.
        at_most: The goal, if there is one.
        at_least: The goal, if there is one.
    """

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """True if the number reaches its goal, or has none."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def goal(self) -> str:
        """The goal in words; empty if there is none."""
        if self.at_most == self.at_least:
            return "" if self.at_most is None else f"{self.at_most:,g}"
        if self.at_most is None:
            return f"at least {self.at_least:,g}"
        return (
            f"at most {self.at_most:,.4g}"
            if self.at_least is None
            else f"{self.at_least:,g} to {self.at_most:,g}"
        )

    def verdict(self, *, met: str, missed: str) -> str:
        """Return the text for a goal that is met or missed; empty without a goal."""
        if not self.goal:
            return ""
        return met if self.met else missed

    def __str__(self) -> str:
        """Return the number with its unit."""
        number = f"{self.value:,.2f}" if isinstance(self.value, float) else f"{self.value:,}"
        return f"{number} {self.unit}".rstrip()


def exactly(what: str, value: float, goal: float) -> Figure:
    """Return a figure whose goal is one number."""
    return Figure(what, value, at_most=goal, at_least=goal)


def none(**counts: int) -> list[Figure]:
    """Return a figure for each count; its goal is 0, its name the argument's, without `_`."""
    return [exactly(what.replace("_", " "), count, 0) for what, count in counts.items()]
