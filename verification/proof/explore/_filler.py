"""The steps of a backfill."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from change_events import Found
from verification.proof.effects import GETS, ID, RAISES, Effect, Violation
from verification.proof.explore._looks import ABSENT, Looker, LookSteps, row_in, sink_with
from verification.proof.explore._state import SPENT, WorkerState
from verification.proof.stand_ins import digest_of

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario
    from verification.proof.explore._state import Row, State, Step
    from verification.proof.process import Facts

NAME = "backfill"


class FillerSteps:
    """The steps that the backfill of a scenario can take, if it has one."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._filler = scenario.filler
        self._looks = LookSteps(scenario)

    def of(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step, and the state after it."""
        if state.filler is not None:
            for actor, effect in self._filler.known[state.filler.number].wants:
                yield from self._effect(state, state.filler, actor, effect)
            yield from self._crash(state, state.filler)

    def unseen(self, state: State, *, still: bool) -> Iterator[tuple[Step, State]] | None:
        """
        Return the steps of a thread whose moment no other process can see, if there is one.

        It can crash instead, and no other process sees when.

        Args:
            state: The state.
            still: The source will not change any more.
        """
        if state.filler is None:
            return None
        for actor, effect in self._filler.known[state.filler.number].wants:
            if effect[0] == "save" or (still and effect[0] in {"page", *GETS}):
                steps = self._effect(state, state.filler, actor, effect)
                return itertools.chain(steps, self._crash(state, state.filler))
        return None

    def _crash(self, state: State, filler: WorkerState) -> Iterator[tuple[Step, State]]:
        over = self._filler.known[filler.number].facts.over
        if self._scenario.may(state, "backfill crashes") and not over:
            number = self._filler.crash(filler.number).number
            crashed = state._replace(filler=WorkerState(number, 0), fault=SPENT)
            yield (NAME, "crashes, and another one goes on"), crashed

    def _effect(
        self, state: State, filler: WorkerState, actor: str, effect: Effect
    ) -> Iterator[tuple[Step, State]]:
        """Yield the steps that give a thread what it waits for."""
        number, read = filler

        def after(world: State, answer: Any, version: int | None = None) -> State:
            moved = self._filler.go_on(number, actor, answer).number
            if self._scenario.alike and not self._scenario.may(world, "backfill crashes"):
                moved = self._saved(moved)
            wants = {wanted[0] for _, wanted in self._filler.known[moved].wants}
            version = read if version is None else version
            looks = not wants.isdisjoint({*GETS, "apply"})
            return world._replace(filler=WorkerState(moved, version if looks else 0))

        facts = self._filler.known[number].facts
        if effect[0] == "page":
            yield from self._page(state, after)
        elif effect[0] == "insert":
            yield from self._inserts(state, effect, facts, after)
        elif effect[0] == "ids":
            what = "is cached" if state.row.present else "is not cached"
            yield (NAME, f"reads the cached ids: it {what}"), after(state, state.row.present)
        elif effect[0] == "save":
            _, phase, pages = effect
            yield (NAME, f"keeps its place: {phase}, {pages} pages"), after(state, None)
        else:
            yield from self._looks.of(state, effect, Looker(NAME, facts, read, after))

    def _saved(self, number: int) -> int:
        """Return the backfill's state once it has kept its place, if it is about to."""
        for actor, effect in self._filler.known[number].wants:
            if effect[0] == "save":
                return self._saved(self._filler.go_on(number, actor).number)
        return number

    def _page(
        self, state: State, after: Callable[[State, Any], State]
    ) -> Iterator[tuple[Step, State]]:
        page = f"reads page {self._scenario.setup.page} at commit {state.commits}"
        unnamed = (ABSENT, state.commits)
        if not state.present:
            yield (NAME, f"{page}: it is not there"), after(state, unnamed)
            return
        yield (NAME, f"{page}: it is there"), after(state, (200, state.commits))
        if self._scenario.may(state, "left out of a page"):
            left_out = after(state._replace(fault=SPENT), unnamed)
            yield (NAME, f"{page}: it is left out"), left_out

    def _inserts(
        self, state: State, effect: Effect, facts: Facts, after: Callable[[State, Any], State]
    ) -> Iterator[tuple[Step, State]]:
        _, _, number, etag = effect
        _, saw = facts.saw
        stored, row = _inserted(state.row, number, etag)
        if stored:
            row = row._replace(saw=saw)
            if saw < state.row.saw:
                raise Violation(f"the cache goes back from commit {state.row.saw} to commit {saw}")
            if row.number != self._scenario.setup.body(saw):
                raise Violation(f"{row.number} is stored, and the page had commit {saw}")
        what = "stores the page" if stored else "stores nothing of the page"
        filled = state._replace(row=row)
        yield (NAME, f"{what}: commit {saw}"), after(filled, stored)
        if self._scenario.may(state, "sink fails"):
            failed = state._replace(fault=SPENT)
            yield (NAME, "fails to store the page"), after(failed, RAISES)
            lost = filled._replace(fault=SPENT)
            yield (NAME, f"{what}: commit {saw}, and gets no answer"), after(lost, RAISES)


@lru_cache(None)
def _inserted(row: Row, number: int, etag: str | None) -> tuple[bool, Row]:
    """Let the production sink store a page with the entity."""
    sink = sink_with(row)
    stored = sink.insert_many({ID: Found(number, etag, digest_of(number))})
    return bool(stored), row_in(sink, row.saw)
