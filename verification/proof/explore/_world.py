"""A world: its states, and the steps between them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from verification.proof.effects import GETS, Setup
from verification.proof.explore._checks import Checks
from verification.proof.explore._filler import FillerSteps
from verification.proof.explore._savers import SaverSteps
from verification.proof.explore._scenario import History, Scenario
from verification.proof.explore._state import (
    FAILING_GETS,
    FAULTS,
    HELD,
    NO_ROW,
    SPENT,
    Row,
    State,
    Step,
    WorkerState,
    replaced,
)
from verification.proof.explore._symmetry import Symmetry
from verification.proof.explore._time import Time
from verification.proof.explore._workers import WorkerSteps

BEFORE = -1
"""Stands for the commit that the cache has, if it has the entity from before the queue existed."""


class World:
    """
    The states of a scenario, and the steps between them.

    Args:
        setup: How the processes are set up.
        history: What is saved.
        faults: The faults that can happen, one of them in a schedule.
        workers: How many workers there are.
        failing: There is one more saver, whose save raises.
        alike: Take states for one that differ only in names.
        merging: Take states of a process for one if they lead to the same. Without it, a walk runs
            production code along each sequence of steps, and looks nothing up.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        *,
        faults: tuple[str, ...] = FAULTS,
        workers: int = 2,
        failing: bool = True,
        alike: bool = True,
        merging: bool = True,
    ) -> None:
        scenario = Scenario(
            setup, history, faults=faults, failing=failing, alike=alike, merging=merging
        )
        self._history = history
        self._number_of_workers = workers
        self._scenario = scenario
        self._savers = SaverSteps(scenario)
        self._workers = WorkerSteps(scenario)
        self._filler = FillerSteps(scenario)
        self._time = Time(scenario)
        self._checks = Checks(scenario)
        self._symmetry = Symmetry(scenario)

    def start(self) -> State:
        """Return the state from which all schedules begin."""
        present, cached = self._history.present, self._history.cached
        setup = self._scenario.setup
        row = Row(1, False, None, None, 0) if setup.tombstone else NO_ROW
        if cached:
            row = Row(1, True, BEFORE, setup.etag(BEFORE), BEFORE)
        elif present and cached is None:
            row = Row(1, True, 0, setup.etag(0), 0)
        savers = (0,) * len(self._scenario.puts)
        workers = (WorkerState(0, 0),) * self._number_of_workers
        filler = WorkerState(0, 0) if setup.page else None
        return State(savers, workers, (), 0, present, row, None, (), filler)

    def steps(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step that can come next, and the state after it."""
        for step, after in self._steps(state):
            yield step, self._symmetry.same(after) if self._scenario.alike else after

    def situation(self, state: State) -> Hashable:
        """Return the state with what each process says of itself, instead of numbers and places."""
        saver, worker = self._scenario.saver, self._scenario.worker
        savers, workers, queue, *rest, filler = state
        return (
            tuple(None if number is None else saver.states[number] for number in savers),
            tuple((worker.states[number], version) for number, version in workers),
            tuple(
                (
                    *queued._replace(places=()),
                    *(
                        worker.knows(each.number, place)
                        for each, place in zip(workers, queued.places, strict=True)
                    ),
                )
                for queued in queue
            ),
            *rest,
            filler and (self._scenario.filler.states[filler.number], filler.version),
        )

    def check(self, state: State) -> None:
        """Check what must hold in every state."""
        self._checks.check(state)

    def check_quiet(self, state: State) -> None:
        """Check what must hold when no step is left."""
        self._checks.check_quiet(state)

    def _steps(self, state: State) -> Iterator[tuple[Step, State]]:
        if self._scenario.alike and (unseen := self._unseen_steps(state)):
            yield from unseen
            return
        yield from self._savers.of(state)
        yield from self._workers.of(state)
        yield from self._filler.of(state)
        if self._scenario.may(state, "visibility expires"):
            for position, queued in enumerate(state.queue):
                if queued.visible_in == HELD:
                    queue = replaced(state.queue, position, queued._replace(visible_in=0))
                    step = ("fault", f"the visibility timeout of {queued.name} is over")
                    yield step, state._replace(fault=SPENT, queue=queue)
        if self._scenario.setup.renewals and self._scenario.may(state, "publisher freezes"):
            for index, after in self._time.after_freezes(state):
                yield (
                    (self._savers.name(index), "stands still for a window"),
                    after._replace(fault=SPENT),
                )
        if self._time.may_pass(state):
            yield ("clock", "a tick"), self._time.tick(state)

    def _unseen_steps(self, state: State) -> Iterator[tuple[Step, State]] | None:
        """Return the steps of a process whose moment no other process can see, if there is one."""
        scenario = self._scenario
        for index, worker in enumerate(state.workers):
            if self._acknowledges_unseen(state, index, worker):
                return self._workers.acknowledgement(state, index)
        failing = scenario.failing
        raising = None if failing is None or scenario.setup.renewals else state.savers[failing]
        if raising is not None and scenario.saver.known[raising].wants == (("save", ("commit",)),):
            return self._savers.effect(state, failing or 0, raising, "save", ("commit",))
        still = self._is_still(state)
        if unseen := self._filler.unseen(state, still=still):
            return unseen
        if still and self._answers_always(state):
            for index, worker in enumerate(state.workers):
                wants = dict(scenario.worker.known[worker.number].wants)
                if wants.get("look", ("",))[0] in GETS:
                    return self._workers.look(state, index)
        return None

    def _acknowledges_unseen(self, state: State, index: int, worker: WorkerState) -> bool:
        scenario = self._scenario
        known = scenario.worker.known[worker.number]
        if (scenario.faults and state.fault is None) or ("acknowledge", 0) not in known.ready:
            return False
        return not any(queued.places[index] and queued.visible_in != HELD for queued in state.queue)

    def _is_still(self, state: State) -> bool:
        """Return whether the source will not change any more."""
        return not state.orphans and all(
            number is None or self._scenario.saver.known[number].facts.over
            for number in state.savers
        )

    def _answers_always(self, state: State) -> bool:
        """Return whether no GET of a worker can fail any more, and no worker die in it."""
        scenario = self._scenario
        return not scenario.next_failure(state) and not any(
            scenario.may(state, fault)
            for fault in (*FAILING_GETS, "left out of many", "worker crashes")
        )
