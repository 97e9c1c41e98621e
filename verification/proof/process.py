"""
A process of production code, which the walk runs one step at a time.

Production code runs in greenlets, without changes. Where it calls AWS, the source, the sink or the
database, it pauses. The walk decides when it goes on, and with which answer. A process has no other
input, so what it does is a function of its answers. That is computed once and then looked up: a
walk of millions of schedules runs each piece of production code a few thousand times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import greenlet

from verification.proof.effects import CLOSED, SETTLE, Effect


class Process(ABC):
    """
    Production code in greenlets. It gets answers by `go_on`, and time by `tick`.

    It knows how long ago things were, not when. So the same situation has the same state at any
    time.

    Attributes:
        now: The time in ticks.
        running: The greenlet of each actor that is running.
        wants: What each of them wants of the world.
    """

    def __init__(self) -> None:
        self.now = 0
        self.running: dict[str, greenlet.greenlet] = {}
        self.wants: dict[str, Effect] = {}

    def go_on(self, actor: str, answer: Any = None) -> None:
        """Let an actor run until it wants something, or is done."""
        if actor not in self.running:
            self.running[actor] = greenlet.greenlet(self.task(actor))
            effect = self.running[actor].switch()
        else:
            effect = self.running[actor].switch(answer)
        if self.running[actor].dead:
            del self.running[actor]
            self.wants.pop(actor, None)
        else:
            self.wants[actor] = effect

    def tick(self) -> None:
        """Let a tick pass."""
        self.now += 1

    def close(self) -> None:
        """End the greenlets. Otherwise they would run on when they are garbage collected."""
        while self.running:
            _, actor = self.running.popitem()
            while not actor.dead:
                actor.switch(CLOSED)

    @abstractmethod
    def task(self, actor: str) -> Callable[[], object]:
        """Return what an actor does."""

    @abstractmethod
    def ready_in(self) -> dict[str, float]:
        """Return the actors that have something to begin, and in how many ticks."""

    def names(self) -> tuple[str, ...]:
        """Return the messages that it holds, in an order that does not depend on their names."""
        return ()

    @abstractmethod
    def state(self) -> Hashable:
        """Return all that decides what the process will do. Messages are places in `names`."""

    @abstractmethod
    def facts(self) -> Facts:
        """Return what the walk must know of it."""

    def ticks_to(self, time: float) -> float:
        """Return the ticks until a time; 0 for every time in the past."""
        return max(0.0, time - self.now)

    def ticks_since(self, time: float) -> float:
        """Return the ticks since a time, at most the settle window."""
        return min(self.now - time, float(SETTLE))


@dataclass(frozen=True)
class Facts:
    """
    What the walk must know of a process.

    Attributes:
        rely_on: Of a saver: the ticks in which it may commit, by its last accepted broadcast.
        begun_with: Of a saver: `rely_on` when its save began.
        asked: Of a saver: the ticks since it began to broadcast.
        renewing: Of a saver: the ticks since it began a renewal that is under way.
        exposed: Of a saver: it committed a window or more after its last accepted broadcast, while
            a renewal was under way, which SNS has not accepted since.
        saving: Of a saver: the ticks since its save began, or since it was cancelled.
        frozen: Of a saver: it stood still during its save.
        over: Of a saver or a backfill: it is done.
        saw: Of a worker: status and commit of its last GET. Of a backfill: of what it is about to
            store.
        polling: Of a worker: the ticks since its receive began, at most a window.
        refuses: Of a worker: it refuses deletions.
        named: Of a backfill: its listing has named the entity.
    """

    rely_on: float = 0.0
    begun_with: int = 0
    asked: int = 0
    renewing: int | None = None
    exposed: bool = False
    saving: int = 0
    frozen: bool = False
    over: bool = False
    saw: tuple[int, int] = (0, 0)
    polling: float = 0.0
    refuses: bool = False
    named: bool = False
