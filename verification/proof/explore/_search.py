"""The search: all schedules, or the shortest one to a violation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from change_events._consumer import inbox
from verification.proof.effects import Violation

if TYPE_CHECKING:
    from verification.proof.explore._state import State, Step
    from verification.proof.explore._world import World


@dataclass
class Result:
    """
    What a search has found.

    Attributes:
        states: How many states there are.
        schedules: How many schedules there are.
        longest: How many steps the longest one has.
        violation: The violation that ended the search, if any.
        schedule: The schedule that leads to the violation, if it was asked for.
    """

    states: int = 0
    schedules: int = 0
    longest: int = 0
    violation: str | None = None
    schedule: tuple[Step, ...] = field(default=(), repr=False)


def explore(world: World, *, visit: Callable[[State], object] = lambda _: None) -> Result:
    """
    Take every step from every state, and count the schedules.

    Args:
        world: The world.
        visit: Called with each state.
    """
    result = Result()
    ways: dict[State, int] = {}
    depth: dict[State, int] = {}
    with _quietly():
        # Depth first, without recursion: what is ahead of a state is known once its last step has
        # been followed.
        path = [(world.start(), iter([*world.steps(world.start())]))]
        totals = [[0, 0]]
        try:
            while path:
                state, ahead = path[-1]
                for _, after in ahead:
                    if after in ways:
                        totals[-1][0] += ways[after]
                        totals[-1][1] = max(totals[-1][1], depth[after] + 1)
                        continue
                    world.check(after)
                    path.append((after, world.steps(after)))
                    totals.append([0, 0])
                    break
                else:
                    schedules, longest = totals.pop()
                    path.pop()
                    if not schedules:
                        world.check_quiet(state)
                    ways[state], depth[state] = schedules or 1, longest
                    visit(state)
                    if totals:
                        totals[-1][0] += ways[state]
                        totals[-1][1] = max(totals[-1][1], longest + 1)
                    else:
                        result.schedules, result.longest = ways[state], longest
        except Violation as violation:
            result.violation = str(violation)
        result.states = len(ways)
    return result


def shortest_violation(world: World) -> Result:
    """
    Take every step from every state until a property does not hold.

    States that few steps lead to come first, so the schedule to the violation is a shortest one.
    """
    result = Result()
    at = world.start()
    came: dict[State, tuple[State, Step] | None] = {at: None}
    level = [at]
    with _quietly():
        try:
            while level:
                found = []
                for state in level:
                    at, quiet = state, True
                    for step, after in world.steps(state):
                        quiet = False
                        if after not in came:
                            came[after] = (state, step)
                            found.append(after)
                            at = after
                            world.check(after)
                            at = state
                    if quiet:
                        world.check_quiet(state)
                level = found
        except Violation as violation:
            result.violation = str(violation)
            result.schedule = _schedule(came, at)
    result.states = len(came)
    return result


def _schedule(came: dict[State, tuple[State, Step] | None], state: State) -> tuple[Step, ...]:
    steps: list[Step] = []
    while (before := came[state]) is not None:
        state, step = before
        steps.append(step)
    return tuple(reversed(steps))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """
    Silence the production code's logs, and let no look wait for others that are due soon.

    Here a look can be late by any time, so this wait adds nothing.
    """
    before, slack = logging.root.manager.disable, inbox.SLACK
    logging.disable(logging.CRITICAL)
    inbox.SLACK = 0.0
    try:
        yield
    finally:
        logging.disable(before)
        inbox.SLACK = slack
