"""The steps of savers, and of the database after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from verification.proof.effects import CANCELLED, RAISES, SETTLE, Effect, Message, Violation
from verification.proof.explore._state import SPENT, Orphan, Queued, State, Step, with_saver

if TYPE_CHECKING:
    from verification.proof.explore._scenario import Scenario
    from verification.proof.process import Facts


class SaverSteps:
    """The steps that savers can take in a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._saver = scenario.saver

    def of(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step, and the state after it."""
        for index, number in enumerate(state.savers):
            if number is not None:
                yield from self._steps(state, index, number)
        for orphan in state.orphans:
            yield from _orphan_steps(state, orphan)

    def _steps(self, state: State, index: int, number: int) -> Iterator[tuple[Step, State]]:
        known = self._saver.known[number]
        saver = self.name(index)
        for actor, ticks in known.ready:
            if not ticks:
                begun = self._saver.go_on(number, actor).number
                slow = actor in self._scenario.setup.slow_actors
                if slow and self._saver.known[begun].wants != known.wants:
                    what = "renew" if actor == "renew" else "broadcast"
                    yield (saver, f"begins to {what}"), with_saver(state, index, begun)
                elif effect := dict(self._saver.known[begun].wants).get(actor):
                    yield from self.effect(state, index, begun, actor, effect)
                else:
                    yield (saver, f"{actor}: nothing is sent"), with_saver(state, index, begun)
        for actor, effect in known.wants:
            yield from self.effect(state, index, number, actor, effect)
        if (
            self._scenario.may(state, "publisher crashes")
            and (known.wants or ("confirm", 0) in known.ready)
            and not known.facts.exposed
        ):  # that is the first hole of the promise
            dead = with_saver(state, index, None)._replace(fault=SPENT)
            yield (saver, "crashes"), dead
            if ("save", ("commit",)) in known.wants and known.facts.rely_on > 0:
                orphan = Orphan(self._scenario.puts[index], int(known.facts.rely_on))
                yield (
                    (saver, "crashes, its commit under way"),
                    dead._replace(orphans=(*dead.orphans, orphan)),
                )

    def effect(
        self, state: State, index: int, number: int, actor: str, effect: Effect
    ) -> Iterator[tuple[Step, State]]:
        """Yield the steps that give an actor of a saver what it waits for."""
        saver = self.name(index)

        def after(answer: Any) -> State:
            return with_saver(state, index, self._saver.go_on(number, actor, answer).number)

        if effect[0] == "publish":
            yield from self._publish_steps(state, saver, actor, effect, after)
        elif effect[0] == "answer":
            yield (saver, "SNS has answered"), after(True)
            if self._scenario.may(state, "SNS refuses"):
                yield (saver, "SNS's answer is lost"), after(False)._replace(fault="SNS refuses")
        elif effect[0] == "commit":
            facts = self._saver.known[number].facts
            yield from self._commit_steps(
                state, index, after(index != self._scenario.failing), facts
            )
            # At once: a later cancellation would only add renewals before it.
            may = self._scenario.setup.renewals and self._scenario.may(state, "save is cancelled")
            if may and not facts.saving:
                cancelled = after(CANCELLED)._replace(fault=SPENT)
                yield (saver, "is cancelled, its commit in a thread"), cancelled
        elif effect[0] == "land":
            self._require_announced(state, saver, self._saver.known[number].facts)
            puts = self._scenario.puts[index]
            yield (saver, f"{_verb(puts=puts)} in its thread"), _committed(after(None), puts=puts)
        else:
            yield (saver, "the save returns"), after(None)
            if self._scenario.setup.raises:
                yield (saver, "the save raises"), after(RAISES)

    def _publish_steps(
        self, state: State, saver: str, actor: str, effect: Effect, after: Callable[[bool], State]
    ) -> Iterator[tuple[Step, State]]:
        scenario = self._scenario
        message = _message(effect, saver)
        what = " ".join([actor if actor != "save" else "broadcast", *_shown_attributes(message)])
        places = (0,) * len(state.workers)
        queued = Queued("" if scenario.alike else saver, message, scenario.setup.delay, places)
        accepted = after(True)
        yield (saver, f"{what}: accepted"), accepted._replace(queue=(*state.queue, queued))
        if scenario.may(state, "duplicate delivery"):
            twice = accepted._replace(queue=(*state.queue, queued, queued), fault=SPENT)
            yield (saver, f"{what}: accepted, delivered twice"), twice
        if scenario.may(state, "SNS refuses") or (
            state.fault == "SNS refuses" and actor == "renew"
        ):
            yield (saver, f"{what}: refused by SNS"), after(False)._replace(fault="SNS refuses")

    def _commit_steps(
        self, state: State, index: int, after: State, facts: Facts
    ) -> Iterator[tuple[Step, State]]:
        saver, puts = self.name(index), self._scenario.puts[index]
        if index == self._scenario.failing:
            yield (saver, "the save raises"), after
            if facts.rely_on > 0:
                orphan = Orphan(puts, int(facts.rely_on))
                yield (
                    (saver, "the save raises, its commit under way"),
                    after._replace(orphans=(*state.orphans, orphan)),
                )
            return
        self._require_announced(state, saver, facts)
        yield (saver, _verb(puts=puts)), _committed(after, puts=puts)

    def _require_announced(self, state: State, saver: str, facts: Facts) -> None:
        if facts.begun_with <= 0:
            raise Violation(f"{saver} begins to save a settle window after its broadcast, or later")
        renewing = facts.renewing is not None and facts.renewing < SETTLE
        hole = state.fault == "SNS refuses" or facts.frozen
        if not (facts.rely_on or renewing or hole):
            raise Violation(
                f"{saver} commits, and its last broadcast began a settle window ago, or more"
            )

    def name(self, index: int) -> str:
        """Return a saver's name in a schedule."""
        return "abc"[index] if index != self._scenario.failing else "f"


def _orphan_steps(state: State, orphan: Orphan) -> Iterator[tuple[Step, State]]:
    left = list(state.orphans)
    left.remove(orphan)
    without = state._replace(orphans=tuple(left))
    yield (
        ("database", f"{_verb(puts=orphan.puts)} after all"),
        _committed(without, puts=orphan.puts),
    )
    yield ("database", "rolls back"), without


def _committed(state: State, *, puts: bool) -> State:
    return state._replace(commits=state.commits + 1, present=puts)


def _message(effect: Effect, saver: str) -> Message:
    """Return the message that a saver publishes; the save's id is the saver's name."""
    _, body, attributes = effect
    return Message(
        body, tuple((name, saver if name == "save" else value) for name, value in attributes)
    )


def _shown_attributes(message: Message) -> list[str]:
    return [f"{name}={value}" for name, value in message.attributes if name != "settle"]


def _verb(*, puts: bool) -> str:
    return "commits a put" if puts else "commits a delete"
