"""A process as an automaton: each step of production code is computed once, then looked up."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from verification.proof.effects import Violation
from verification.proof.worker import numbered

if TYPE_CHECKING:
    from verification.proof.effects import Effect, Message, Setup
    from verification.proof.process import Facts, Process


class Known(NamedTuple):
    """
    What is known of a process in one of its states.

    Attributes:
        wants: By actor, what it waits for.
        ready: By actor, in how many ticks it has something to begin.
        facts: Other facts.
        holds: How many messages it holds.
    """

    wants: tuple[tuple[str, Effect], ...]
    ready: tuple[tuple[str, float], ...]
    facts: Facts
    holds: int


class Moved(NamedTuple):
    """
    The result of a process's step.

    Attributes:
        number: The new state.
        places: The new place of each message that the process held, by its old place, then that of
            each new message; 0: the process no longer holds it.
    """

    number: int
    places: tuple[int, ...]


class Automaton:
    """
    The states of a process that were met, and how they follow one another.

    Args:
        make: Makes the process, before its first step.
        merging: Take it for one state if the process says that it is (`Process.state`). Otherwise
            each sequence of steps leads to a state of its own, where production code runs.

    Attributes:
        known: What is known of each state.
        states: What the process says of each state.
    """

    def __init__(self, make: Callable[[], Process], *, merging: bool) -> None:
        self._make = make
        self._merging = merging
        self._numbers: dict[Hashable, int] = {}
        self._traces: list[tuple[tuple[Any, ...], ...]] = []
        self._names: list[tuple[str, ...]] = []
        self._moved: dict[tuple[Any, ...], Moved] = {}
        self.known: list[Known] = []
        self.states: list[Any] = []
        process = make()
        self._intern(process, ())
        process.close()

    def knows(self, number: int, place: int) -> Hashable:
        """Return what a worker knows of the message at a place; None if it holds none there."""
        return self.states[number][0][place - 1] if place else None

    def go_on(self, number: int, actor: str, answer: Any = None) -> Moved:
        """Take an actor's next step."""
        return self._after(number, "go_on", actor, answer)

    def tick(self, number: int) -> Moved:
        """Let time pass."""
        return self._after(number, "tick")

    def freeze(self, number: int) -> Moved:
        """Let a saver stand still for a window."""
        return self._after(number, "freeze")

    def receive(self, number: int, messages: tuple[Message, ...], places: tuple[int, ...]) -> Moved:
        """Let a worker receive messages. A place is not 0 if the worker holds that one already."""
        return self._after(number, "receive", messages, places=places)

    def acknowledged(self, number: int, failed: tuple[int, ...]) -> Moved:
        """Answer a worker's acknowledgement; `failed` has the places of messages that failed."""
        return self._after(number, "acknowledged", places=failed)

    def beat(self, number: int, refused: tuple[int, ...]) -> Moved:
        """Let a worker's heartbeat find that some messages are no longer its own."""
        return self._after(number, "beat", places=refused)

    def resume(self, number: int) -> Moved:
        """Tell a worker to go on after a mass deletion was refused."""
        return self._after(number, "resume")

    def crash(self, number: int) -> Moved:
        """Let a backfill die, and another one go on."""
        return self._after(number, "crash")

    def give_up(self, number: int) -> Moved:
        """Let a worker stop trying to acknowledge."""
        return self._after(number, "give_up")

    def _after(
        self, number: int, method: str, *arguments: Any, places: tuple[int, ...] | None = None
    ) -> Moved:
        key = (number, method, arguments, places)
        if key not in self._moved:
            names = self._names[number]
            named = () if places is None else (tuple(("", *names)[each] for each in places),)
            trace = (*self._traces[number], (method, *arguments, *named))
            process = self._make()
            try:
                for name, *given in trace:
                    _call(getattr(process, name), given)
                after = process.names()
                new = sorted((name for name in after if name not in names), key=int)
                places = tuple(
                    after.index(name) + 1 if name in after else 0 for name in (*names, *new)
                )
                self._moved[key] = Moved(self._intern(process, trace), places)
            finally:
                process.close()
        return self._moved[key]

    def _intern(self, process: Process, trace: tuple[tuple[Any, ...], ...]) -> int:
        state = process.state()
        key = state if self._merging else trace
        if key not in self._numbers:
            names = process.names()
            self._numbers[key] = len(self._traces)
            self.states.append(state)
            self._traces.append(trace)
            self._names.append(names)
            wants = tuple(
                (actor, numbered(effect, names)) for actor, effect in process.wants.items()
            )
            ready = tuple(process.ready_in().items())
            self.known.append(Known(wants, ready, process.facts(), len(names)))
        return self._numbers[key]


def _call(step: Callable[..., None], arguments: list[Any]) -> None:
    try:
        step(*arguments)
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"the production code raises {error!r}") from error


@lru_cache
def automaton(make: Callable[[Setup], Process], setup: Setup, *, merging: bool) -> Automaton:
    """Return the automaton of a kind of process: the same one each time."""
    return Automaton(lambda: make(setup), merging=merging)
