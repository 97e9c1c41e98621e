"""What is walked: the set-up, the history, and what can go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from verification.proof.explore._automaton import Moved, automaton
from verification.proof.explore._state import DOWN, State, WorkerState, replaced, with_places
from verification.proof.filler import Filler
from verification.proof.saver import Saver
from verification.proof.worker import Worker

if TYPE_CHECKING:
    from verification.proof.effects import Setup

LONGEST_LANDING = 4
"""Ticks from the cancellation of a save until its commit, at most."""

LONGEST_PUBLISH = 2
"""Ticks that SNS takes at most to answer, where it is slow."""

LONGEST_RENEWAL = 1
"""The same for a renewal. The promise needs that: half a window."""


@dataclass(frozen=True)
class History:
    """
    What is saved. A scenario can have one more saver, whose save raises.

    Attributes:
        present: The entity is present at first.
        puts: For each saver, True for a put and False for a delete.
        cached: What the cache has of the entity at first. True: the entity, as it was before the
            queue existed; False: nothing; None: what the source has.
    """

    present: bool
    puts: tuple[bool, ...]
    cached: bool | None = None

    def __str__(self) -> str:
        saves = ", ".join("put" if put else "delete" for put in self.puts)
        cached = {None: "", True: ", long cached", False: ", not cached"}[self.cached]
        return f"{'present' if self.present else 'absent'}{cached}: {saves}"


class Scenario:
    """
    What is walked.

    Args:
        setup: How the processes are set up.
        history: What is saved.
        faults: The faults that can happen, one of them in a schedule.
        failing: There is one more saver, whose save raises.
        alike: Take states for one that differ only in names.
        merging: See `Automaton`.

    Attributes:
        puts: For each saver, True for a put and False for a delete.
        failing: The index of the saver whose save raises, or None.
        saver: The savers' automaton.
        worker: The workers' automaton.
        filler: The backfill's automaton.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        *,
        faults: tuple[str, ...],
        failing: bool,
        alike: bool,
        merging: bool,
    ) -> None:
        self.setup = setup
        self.puts = (*history.puts, True) if failing else history.puts
        self.failing = len(history.puts) if failing else None
        self.faults = faults
        self.alike = alike
        self.saver = automaton(Saver, setup, merging=merging)
        self.worker = automaton(Worker, setup, merging=merging)
        self.filler = automaton(Filler, setup, merging=merging)

    def may(self, state: State, fault: str) -> bool:
        """Return whether a fault can still happen."""
        return state.fault is None and fault in self.faults

    def next_failure(self, state: State) -> str | None:
        """Return the fault of a schedule once the source is down for one more GET, if it can be."""
        if not self.setup.outage:
            return None
        if state.fault in DOWN[:-1]:
            return DOWN[DOWN.index(state.fault) + 1]
        return DOWN[0] if self.may(state, DOWN[0]) else None

    def moved(self, state: State, index: int, moved: Moved, version: int | None = None) -> State:
        """Return the state after a worker's step; `version` is what its look has read."""
        version = state.workers[index].version if version is None else version
        looks = "look" in dict(self.worker.known[moved.number].wants)
        after = WorkerState(moved.number, version if looks else 0)
        return state._replace(
            workers=replaced(state.workers, index, after),
            queue=with_places(state.queue, index, moved.places),
        )
