"""A process as an automaton: each step of production code is computed once, then looked up."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from contextlib import ExitStack, closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from verification.proof.effects import Violation
from verification.proof.worker import numbered

if TYPE_CHECKING:
    from verification.proof.effects import Effect, Message, Setup
    from verification.proof.process import Facts, Process

KEPT = 64
"""
How many processes are kept in a state that they were the first to reach. The search often goes on
from there, and need not repeat all steps of another process.
"""


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
        self._kept: dict[int, Process] = {}
        weakref.finalize(self, _close, self._kept)
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
            step = (method, *arguments, *named)
            with ExitStack() as closing_it:
                process = closing_it.enter_context(closing(self._in_state(number)))
                _take(process, step)
                after = process.names()
                new = sorted((name for name in after if name not in names), key=int)
                places = tuple(
                    after.index(name) + 1 if name in after else 0 for name in (*names, *new)
                )
                met = len(self.states)
                state = self._intern(process, (*self._traces[number], step))
                self._moved[key] = Moved(state, places)
                if state == met:  # a new one
                    closing_it.pop_all()
                    self._keep(state, process)
        return self._moved[key]

    def _keep(self, number: int, process: Process) -> None:
        self._kept[number] = process
        if len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept))).close()

    def _in_state(self, number: int) -> Process:
        """Return the process that has just got there, or one that repeats its steps."""
        process = self._kept.pop(number, None)
        if process is None:
            process = self._make()
            for step in self._traces[number]:
                _take(process, step)
        return process

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


def _close(kept: dict[int, Process]) -> None:
    while kept:
        kept.popitem()[1].close()


def _take(process: Process, step: tuple[Any, ...]) -> None:
    name, *arguments = step
    try:
        getattr(process, name)(*arguments)
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"the production code raises {error!r}") from error


@lru_cache
def automaton(make: Callable[[Setup], Process], setup: Setup, *, merging: bool) -> Automaton:
    """Return the automaton of a kind of process: the same one each time."""
    return Automaton(lambda: make(setup), merging=merging)
