"""What a look is answered: by the cache, and by the source."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from change_events import Entry, Found, Gone, MemorySink, Unchanged
from change_events.sinks import memory
from verification.proof.effects import GETS, ID, Effect, Violation
from verification.proof.explore._state import FAILING_GETS, SPENT, Row, State, Step
from verification.proof.stand_ins import digest_of

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario
    from verification.proof.process import Facts

After: TypeAlias = "Callable[[State, Any, int | None], State]"
"""
Returns the state after a process's step. It gets the world as it is then, the answer, and the
version that the process has read; None: none.
"""

ABSENT = 206
"""
Stands for the status of an entity that the answer to a GET of many leaves out. It never deletes.
"""


class Looker(NamedTuple):
    """
    A process that looks.

    Attributes:
        name: Its name in a schedule.
        facts: What the walk must know of it.
        version: The version that its look has read.
        after: Returns the state after its step.
    """

    name: str
    facts: Facts
    version: int
    after: After


class LookSteps:
    """The steps of a look, whoever looks."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def of(self, state: State, effect: Effect, looker: Looker) -> Iterator[tuple[Step, State]]:
        """Yield the steps that give a look what it waits for."""
        name, facts, read, after = looker
        wanted = effect[0]
        if wanted == "entry":
            row = state.row
            entry = (min(row.version, 1), row.present, row.etag, row.number)
            yield (
                (name, f"reads the entry: version {row.version}"),
                after(state, entry, row.version),
            )
        elif wanted in GETS:
            for what, answer, fault in self._answers(state, effect):
                yield (name, what), after(state._replace(fault=fault), answer, None)
        elif wanted == "arrive":
            yield (name, "gets the answer"), after(state, None, None)
        else:
            applied, row = _apply(state, facts.saw, effect, read, self._scenario.setup.body)
            if facts.refuses and row.present < state.row.present:
                raise Violation("it deletes, although the guard refuses deletions")
            what = "applies" if applied else "lost the compare-and-set of"
            yield (
                (name, f"{what} {_shown_change(effect)}, if version is {read}"),
                after(state._replace(row=row), applied, None),
            )

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
        raise Violation(f"the answer {status} deletes" if status else "it deletes without a GET")
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
    sink = sink_with(row)
    change: Found[Any] | Unchanged | Gone = Found(number, etag, digest_of(number))
    if kind != "Found":
        change = Gone() if kind == "Gone" else Unchanged(etag)
    applied = sink.apply(ID, change, if_version=if_version)
    return applied, row_in(sink, row.saw)


def sink_with(row: Row) -> MemorySink[Any]:
    """Return a production sink that has the row."""
    sink: MemorySink[Any] = MemorySink(clock=lambda: 0.0)
    if row.version:
        entry = Entry(row.version, row.present, row.etag, digest_of(row.number))
        sink._rows[ID] = memory._Row(entry, row.number, 0.0)
    return sink


def row_in(sink: MemorySink[Any], saw: int) -> Row:
    """Return the row that a production sink has."""
    entry, value = sink.entry(ID), sink.get(ID)
    assert entry.digest == digest_of(value)
    return Row(entry.version, entry.present, value, entry.etag, saw)


def _shown_change(effect: Effect) -> str:
    return f"commit {effect[2]}" if effect[1] == "Found" else str(effect[1]).lower()
