"""The steps of workers, and what they do to the queue and to the cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from verification.proof.explore._looks import Looker, LookSteps
from verification.proof.explore._state import (
    HELD,
    SPENT,
    Queued,
    State,
    Step,
    WorkerState,
    names_of,
    replaced,
    shown,
)

if TYPE_CHECKING:
    from verification.proof.effects import Effect
    from verification.proof.explore._scenario import Scenario


class WorkerSteps:
    """The steps that workers can take in a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._worker = scenario.worker
        self._looks = LookSteps(scenario)

    def of(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step, and the state after it."""
        for index, worker in enumerate(state.workers):
            yield from self._steps(state, index, worker)

    def _steps(self, state: State, index: int, worker: WorkerState) -> Iterator[tuple[Step, State]]:
        known = self._worker.known[worker.number]
        for actor, ticks in known.ready:
            if ticks:
                continue
            if actor == "poll" and self._scenario.setup.slow_poll:
                yield (_name(index), "begins to receive"), self._begun(state, index, actor)
            elif actor == "poll":
                yield from self._receives(state, index, worker)
            elif actor == "look":
                yield from self.look(self._begun(state, index, actor), index)
            else:
                yield from self.acknowledgement(state, index)
        wants = dict(known.wants)
        if "poll" in wants:
            yield from self._receives(state, index, worker)
        if "look" in wants:
            yield from self.look(state, index)
        yield from self._other_steps(state, index, worker)
        held = {queued.places[index] for queued in state.queue} - {0}
        if self._scenario.may(state, "worker crashes") and (known.wants or held):
            dead = state._replace(
                workers=replaced(state.workers, index, WorkerState(0, 0)),
                queue=shown(state.queue, index, held),
            )
            queue = tuple(
                queued._replace(places=replaced(queued.places, index, 0)) for queued in dead.queue
            )
            yield (_name(index), "crashes"), dead._replace(fault=SPENT, queue=queue)

    def _other_steps(
        self, state: State, index: int, worker: WorkerState
    ) -> Iterator[tuple[Step, State]]:
        """Yield an operator's step, and the heartbeat that finds that messages are lost."""
        known = self._worker.known[worker.number]
        if known.facts.refuses:
            resumed = self._worker.resume(worker.number)
            after = self._scenario.moved(state, index, resumed)
            yield ("operator", f"resumes {_name(index)}"), after
        if self._scenario.setup.heartbeats:
            own = {queued.places[index] for queued in state.queue if queued.visible_in == HELD}
            lost = tuple(place for place in range(1, known.holds + 1) if place not in own)
            if not lost:
                return
            after = self._scenario.moved(state, index, self._worker.beat(worker.number, lost))
            if self._has_changed(state, after, index):
                yield (_name(index), "heartbeat: it has lost messages"), after

    def _has_changed(self, before: State, after: State, index: int) -> bool:
        """Return False for a step that leaves a worker as it was: it could be taken for ever."""
        states = self._worker.states
        return bool(states[before.workers[index].number] != states[after.workers[index].number])

    def _begun(self, state: State, index: int, actor: str) -> State:
        moved = self._worker.go_on(state.workers[index].number, actor)
        return self._scenario.moved(state, index, moved)

    def _receives(
        self, state: State, index: int, worker: WorkerState
    ) -> Iterator[tuple[Step, State]]:
        visible = [at for at, queued in enumerate(state.queue) if queued.visible_in == 0]
        seen: set[tuple[Queued, ...]] = set()
        for number in (1, 2) if self._scenario.setup.pairs else (1,):
            for positions in itertools.permutations(visible, number):
                deliveries = tuple(state.queue[position] for position in positions)
                if deliveries not in seen:
                    seen.add(deliveries)
                    names = ", ".join(queued.name for queued in deliveries)
                    received = self._received(state, index, worker, positions)
                    yield (_name(index), f"receives {names}"), received
        if self._scenario.setup.pairs:
            empty = self._received(state, index, worker, ())
            if self._has_changed(state, empty, index):
                yield (_name(index), "receives nothing"), empty

    def _received(
        self, state: State, index: int, worker: WorkerState, positions: tuple[int, ...]
    ) -> State:
        deliveries = [state.queue[position] for position in positions]
        held_at = tuple(queued.places[index] for queued in deliveries)
        messages = tuple(queued.message._replace(age=queued.age) for queued in deliveries)
        moved = self._worker.receive(worker.number, messages, held_at)
        new = itertools.count(len(moved.places) - held_at.count(0) + 1)
        queue = state.queue
        for position, queued, at in zip(positions, deliveries, held_at, strict=True):
            places = replaced(queued.places, index, at or next(new))
            queue = replaced(queue, position, queued._replace(visible_in=HELD, places=places))
        return self._scenario.moved(state._replace(queue=queue), index, moved)

    def look(self, state: State, index: int) -> Iterator[tuple[Step, State]]:
        """Yield the steps that give a worker's look what it waits for."""
        number, read = state.workers[index]
        known = self._worker.known[number]
        effect = dict(known.wants)["look"]
        if effect[0] == "delete":  # only a mutant deletes within a look
            yield from self._deletes(state, index)
            return

        def after(world: State, answer: Any, version: int | None = None) -> State:
            moved = self._worker.go_on(number, "look", answer)
            return self._scenario.moved(world, index, moved, version)

        if effect[0] == "visibility":
            places = _places(effect)
            shown_again = state._replace(queue=shown(state.queue, index, places))
            yield (
                (_name(index), f"hands back {names_of(state, index, places)}"),
                after(shown_again, None),
            )
        else:
            looker = Looker(_name(index), known.facts, read, after)
            yield from self._looks.of(state, effect, looker)

    def acknowledgement(self, state: State, index: int) -> Iterator[tuple[Step, State]]:
        """Yield the steps by which a worker acknowledges."""
        return self._deletes(self._begun(state, index, "acknowledge"), index)

    def _deletes(self, state: State, index: int) -> Iterator[tuple[Step, State]]:
        worker, number = _name(index), state.workers[index].number
        (places,) = (
            _places(effect)
            for _, effect in self._worker.known[number].wants
            if effect[0] == "delete"
        )

        def after(failed: tuple[int, ...], *, visible: bool = False) -> State:
            queue = tuple(
                queued
                for queued in state.queue
                if queued.places[index] not in places or queued.places[index] in failed
            )
            queue = shown(queue, index, failed) if visible else queue
            moved = self._worker.acknowledged(number, failed)
            return self._scenario.moved(state._replace(queue=queue), index, moved)

        yield (worker, f"acknowledges {names_of(state, index, places)}"), after(())
        if self._scenario.may(state, "batch call half failed"):
            for failed in {(place,) for place in places} | {places}:
                names = names_of(state, index, failed)
                yield (
                    (worker, f"fails to acknowledge {names}, and will try again"),
                    after(failed)._replace(fault=SPENT),
                )
                half = after(failed, visible=True)._replace(fault=SPENT)
                given_up = self._worker.give_up(half.workers[index].number)
                yield (
                    (worker, f"fails to acknowledge {names}, and gives up"),
                    self._scenario.moved(half, index, given_up),
                )


def _places(effect: Effect) -> tuple[int, ...]:
    """Return the places of the messages that a worker wants to delete or to hand back."""
    places: tuple[int, ...] = effect[1]
    return places


def _name(index: int) -> str:
    return f"worker {index + 1}"
