"""Time: when it can pass, and what it does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from verification.proof.effects import SETTLE
from verification.proof.explore._scenario import (
    LONGEST_LANDING,
    LONGEST_PUBLISH,
    LONGEST_RENEWAL,
    Scenario,
)
from verification.proof.explore._state import with_saver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.proof.explore._automaton import Known
    from verification.proof.explore._state import Queued, State

OLD = SETTLE + 1
"""Ticks in the queue after which a message settles at once, though SQS's clocks can differ."""


class Time:
    """The time of a scenario, in ticks."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def may_pass(self, state: State) -> bool:
        """Return whether a tick can come next."""
        return self._matters(state) and self._is_free_to_pass(state)

    def after_freezes(self, state: State) -> Iterator[tuple[int, State]]:
        """Yield each saver that can stand still for a window, and the state after it."""
        scenario = self._scenario
        for index, number in enumerate(state.savers):
            if number is None or not scenario.saver.known[number].wants:
                continue
            after, passed = state, 0
            while passed < SETTLE and self._is_free_to_pass(after, frozen=index):
                after, passed = self.tick(after, frozen=index), passed + 1
            if passed == SETTLE:
                yield index, with_saver(after, index, scenario.saver.freeze(number).number)

    def tick(self, state: State, *, frozen: int | None = None) -> State:
        """Return the state a tick later. `frozen`: the index of a saver that stands still."""
        scenario = self._scenario
        for index, worker in enumerate(state.workers):
            state = scenario.moved(state, index, scenario.worker.tick(worker.number))
        return state._replace(
            savers=tuple(
                number if number is None or index == frozen else scenario.saver.tick(number).number
                for index, number in enumerate(state.savers)
            ),
            queue=tuple(
                queued._replace(
                    visible_in=queued.visible_in - (queued.visible_in > 0), age=self._older(queued)
                )
                for queued in state.queue
            ),
            orphans=tuple(
                orphan._replace(in_time_for=orphan.in_time_for - 1) for orphan in state.orphans
            ),
        )

    def _older(self, queued: Queued) -> int:
        return min(queued.age + 1, OLD) if self._scenario.setup.aging else 0

    def _matters(self, state: State) -> bool:
        """Return whether something waits for time to pass. Otherwise it could pass for ever."""
        scenario = self._scenario
        if any(queued.visible_in > 0 for queued in state.queue):
            return True
        if any(self._older(queued) > queued.age for queued in state.queue if not queued.visible_in):
            return True
        if scenario.setup.slow_poll and any(
            "poll" in dict(known.wants) and known.facts.polling < SETTLE
            for known in (scenario.worker.known[worker.number] for worker in state.workers)
        ):
            return True
        if any(
            0 < ticks < math.inf
            for worker in state.workers
            for _, ticks in scenario.worker.known[worker.number].ready
        ):
            return True
        return (scenario.setup.renewals or scenario.setup.slow_publish) and any(
            number is not None and scenario.saver.known[number].wants for number in state.savers
        )

    def _is_free_to_pass(self, state: State, *, frozen: int | None = None) -> bool:
        """Return False if a saver must act before, by the conditions of the promise."""
        if any(orphan.in_time_for <= 1 for orphan in state.orphans):
            return False
        return all(
            self._can_wait(self._scenario.saver.known[number])
            for index, number in enumerate(state.savers)
            if number is not None and index != frozen
        )

    def _can_wait(self, known: Known) -> bool:
        wants = {effect[0] for _, effect in known.wants}
        if {"publish", "answer"} & wants and known.facts.asked >= LONGEST_PUBLISH:
            return False
        if (known.facts.renewing or 0) >= LONGEST_RENEWAL:
            return False
        if not {"commit", "return", "land"} & wants:
            return True
        if not self._scenario.setup.renewals:
            return known.facts.rely_on > 1
        longest = LONGEST_LANDING if "land" in wants else self._scenario.setup.longest_save
        return ("renew", 0) not in known.ready and known.facts.saving < longest
