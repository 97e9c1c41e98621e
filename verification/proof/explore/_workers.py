"""The steps of workers, and what they do to the queue and to the cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from change_events import Entry, Found, Gone, MemorySink, Unchanged
from change_events.sinks import memory
from verification.proof.effects import GETS, ID, Effect, Violation
from verification.proof.explore._state import (
    FAILING_GETS,
    HELD,
    SPENT,
    Queued,
    Row,
    State,
    Step,
    WorkerState,
    names_of,
    replaced,
    shown,
)
from verification.proof.stand_ins import digest_of

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario

ABSENT = 206
"""
Stands for the status of an entity that the answer to a GET of many leaves out. It never deletes.
"""


class WorkerSteps:
    """The steps that workers can take in a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._worker = scenario.worker

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
        worker = _name(index)
        number, read = state.workers[index]
        effect = dict(self._worker.known[number].wants)["look"]

        def after(answer: Any, version: int | None = None) -> State:
            moved = self._worker.go_on(number, "look", answer)
            return self._scenario.moved(state, index, moved, version)

        wanted = effect[0]
        if wanted == "entry":
            row = state.row
            entry = (min(row.version, 1), row.present, row.etag, row.number)
            yield (worker, f"reads the entry: version {row.version}"), after(entry, row.version)
        elif wanted in GETS:
            for what, answer, fault in self._answers(state, effect):
                yield (worker, what), after(answer)._replace(fault=fault)
        elif wanted == "arrive":
            yield (worker, "gets the answer"), after(None)
        elif wanted == "apply":
            saw = self._worker.known[number].facts.saw
            applied, row = _apply(state, saw, effect, read, self._scenario.setup.body)
            if self._worker.known[number].facts.refuses and row.present < state.row.present:
                raise Violation("it deletes, although the guard refuses deletions")
            what = "applies" if applied else "lost the compare-and-set of"
            yield (
                (worker, f"{what} {_shown_change(effect)}, if version is {read}"),
                after(applied)._replace(row=row),
            )
        elif wanted == "delete":  # only a mutant deletes within a look
            yield from self._deletes(state, index)
        else:
            places = _places(effect)
            state = state._replace(queue=shown(state.queue, index, places))
            yield (worker, f"hands back {names_of(state, index, places)}"), after(None)

    def _answers(
        self, state: State, effect: Effect
    ) -> Iterator[tuple[str, tuple[int, int], str | None]]:
        """
        Yield what the source can answer.

        It is in words; as status and commit; and with the fault that the schedule then has had.
        """
        scenario = self._scenario
        if effect[0] == "get":
            answer = self._answer(state, effect[1])
            yield f"GETs commit {state.commits}: {answer[0]}", answer, state.fault
        else:
            status, there = (200, "there") if state.present else (ABSENT, "not there")
            what = f"GETs many at commit {state.commits}: it is {there}"
            yield what, (status, state.commits), state.fault
            if state.present and scenario.may(state, "left out of many"):
                yield "GETs many: it is left out", (ABSENT, state.commits), SPENT
        for fault, code in FAILING_GETS.items():
            if scenario.may(state, fault):
                what = "GETs" if effect[0] == "get" else "GETs many"
                yield f"{what}: {code}", (code, -1), SPENT
        if failure := scenario.next_failure(state):
            yield "GETs: the source is down", (503, -1), failure

    def _answer(self, state: State, known_etag: Hashable) -> tuple[int, int]:
        if state.present:
            same = known_etag == self._scenario.setup.etag(state.commits)
            return (304 if same else 200, state.commits)
        return (410 if state.commits else 404, state.commits)

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


def _apply(
    state: State, seen: tuple[int, int], effect: Effect, read: int, body: Callable[[int], int]
) -> tuple[bool, Row]:
    """Apply what a look has found; check that it is right."""
    _, kind, number, etag, if_version = effect
    assert if_version == min(read, 1), "a look applies with the version it has read"
    status, saw = seen
    row = state.row
    applied, after = _applied(row, kind, number, etag, read)
    if not applied:
        return False, row
    after = after._replace(saw=max(saw, row.saw))
    if row.present and not after.present and status not in {404, 410}:
        raise Violation(f"the answer {status} deletes")
    if saw < row.saw and (row.present or after.present):
        raise Violation(f"the cache goes back from commit {row.saw} to commit {saw}")
    if after.present and after.number not in {body(saw), row.number}:
        raise Violation(f"{after.number} is stored, and the look saw commit {saw}")
    return True, after


@lru_cache(None)
def _applied(
    row: Row, kind: str, number: int | None, etag: str | None, if_version: int
) -> tuple[bool, Row]:
    """Let the production sink apply a change to a row."""
    sink: MemorySink[Any] = MemorySink(clock=lambda: 0.0)
    if row.version:
        entry = Entry(row.version, row.present, row.etag, digest_of(row.number))
        sink._rows[ID] = memory._Row(entry, row.number, 0.0)
    change: Found[Any] | Unchanged | Gone = Found(number, etag, digest_of(number))
    if kind != "Found":
        change = Gone() if kind == "Gone" else Unchanged(etag)
    applied = sink.apply(ID, change, if_version=if_version)
    after, value = sink.entry(ID), sink.get(ID)
    assert after.digest == digest_of(value)
    return applied, Row(after.version, after.present, value, after.etag, row.saw)


def _places(effect: Effect) -> tuple[int, ...]:
    """Return the places of the messages that a worker wants to delete or to hand back."""
    places: tuple[int, ...] = effect[1]
    return places


def _name(index: int) -> str:
    return f"worker {index + 1}"


def _shown_change(effect: Effect) -> str:
    return f"commit {effect[2]}" if effect[1] == "Found" else str(effect[1]).lower()
