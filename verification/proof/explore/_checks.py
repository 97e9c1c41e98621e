"""What must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.proof.effects import Violation

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario
    from verification.proof.explore._state import State
    from verification.proof.process import Facts


class Checks:
    """The properties of states."""

    def __init__(self, scenario: Scenario) -> None:
        self._saver = scenario.saver
        self._filler = scenario.filler
        self._body = scenario.setup.body

    def check(self, state: State) -> None:
        """Check what must hold in every state."""
        if state.filler is not None:
            self._check_filled(state, self._filler.known[state.filler.number].facts)
        if self._is_stale(state) and not state.queue and not self._will_be_broadcast(state):
            raise Violation("the cache is stale, and no event is left that would repair it")

    def check_quiet(self, state: State) -> None:
        """Check what must hold when no step is left."""
        if state.queue:
            names = ", ".join(queued.name for queued in state.queue)
            raise Violation(f"no worker will ever acknowledge {names}")
        if state.filler is not None and not self._filler.known[state.filler.number].facts.over:
            raise Violation("the backfill does not end")
        if self._is_stale(state):
            raise Violation("all is quiet, and the cache is stale")

    def _will_be_broadcast(self, state: State) -> bool:
        """
        Return True if a save is under way that can need a broadcast: its renewal is under way, or
        it is in one of the holes of the promise.
        """
        under_way = (
            self._saver.known[number]
            for number in state.savers
            if number is not None and self._saver.known[number].wants
        )
        return any(
            state.fault == "SNS refuses" or known.facts.frozen or known.facts.exposed
            for known in under_way
        )

    def _check_filled(self, state: State, facts: Facts) -> None:
        """Check what a backfill that is complete leaves behind."""
        if not facts.over:
            return
        if facts.named and not state.row.version:
            raise Violation("the backfill is complete, and has not stored what was listed")
        if not state.commits and state.row.version and self._differs(state):
            raise Violation("the backfill is complete, and what was cached before is stale")

    def _is_stale(self, state: State) -> bool:
        """
        Return True if the cache differs from the source after a change.

        What has not changed since the queue exists has no events: it is the backfill's.
        """
        return self._differs(state) and (state.filler is None or bool(state.commits))

    def _differs(self, state: State) -> bool:
        if state.row.present != state.present:
            return True
        return state.present and state.row.number != self._body(state.commits)
