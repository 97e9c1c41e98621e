"""Which states are the same but for names."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from verification.proof.explore._state import SPENT, Queued, State, WorkerState

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario


class Symmetry:
    """Returns one state for all that differ only in names."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._sorted: dict[tuple[int | None, ...], tuple[int | None, ...]] = {}

    def same(self, state: State) -> State:
        """Return the state that stands for this one."""
        setup = self._scenario.setup
        fault = state.fault
        if fault == "SNS refuses" and not setup.renewals:
            fault = SPENT
        savers = state.savers if setup.confirm else self._sorted_savers(state.savers)
        filler = state.filler
        version, filled, *versions = _renumbered(
            (
                state.row.version,
                filler.version if filler else 0,
                *(worker.version for worker in state.workers),
            )
        )
        row = state.row if version == state.row.version else state.row._replace(version=version)
        unsorted = [
            (worker.number, read) for worker, read in zip(state.workers, versions, strict=True)
        ]
        workers = sorted(unsorted)
        order = tuple(sorted(range(len(workers)), key=unsorted.__getitem__))
        queue = _in_order(state.queue, order)
        if len(set(workers)) < len(workers):
            queue = min(queue, _in_order(state.queue, order[::-1]))
        return State(
            savers,
            tuple(WorkerState(*each) for each in workers),
            queue,
            state.commits,
            state.present,
            row,
            fault,
            tuple(sorted(state.orphans)),
            filler and filler._replace(version=filled),
        )

    def _sorted_savers(self, savers: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Sort the savers that save the same."""
        scenario = self._scenario
        if savers not in self._sorted:
            sorted_ = list(savers)
            for puts in (True, False):
                indices = [
                    index
                    for index, each in enumerate(scenario.puts)
                    if each == puts and index != scenario.failing
                ]
                numbers = sorted(
                    (savers[index] for index in indices),
                    key=lambda number: -1 if number is None else number,
                )
                for index, number in zip(indices, numbers, strict=True):
                    sorted_[index] = number
            self._sorted[savers] = tuple(sorted_)
        return self._sorted[savers]


@lru_cache(None)
def _in_order(queue: tuple[Queued, ...], order: tuple[int, ...]) -> tuple[Queued, ...]:
    """Return the sorted queue, with the workers in this order."""
    return tuple(
        sorted(
            queued._replace(places=tuple(queued.places[index] for index in order))
            for queued in queue
        )
    )


@lru_cache(None)
def _renumbered(versions: tuple[int, ...]) -> tuple[int, ...]:
    """
    Number versions from one.

    Only their order means anything, and that 0 is an entry that was never touched.
    """
    counted = sorted({0, *versions})
    return tuple(counted.index(version) for version in versions)
