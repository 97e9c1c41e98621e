"""Plays a world; if a property does not hold, plays it again and tells the story."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from verification.proof.simulation._ghost import CHECKS
from verification.proof.simulation._kernel import Violation
from verification.proof.simulation._operations import Operations
from verification.proof.simulation._setups import WRITES, Ours, drawn
from verification.proof.simulation._sinks import opened
from verification.proof.simulation._world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.proof.simulation._environment import Setup
    from verification.proof.simulation._ghost import Ghost
    from verification.proof.simulation._sinks import AnySink
    from verification.proof.simulation._world import Protagonists

ALL_CHECKS = frozenset(CHECKS)


@dataclass(frozen=True, slots=True)
class Broken:
    """
    A property that did not hold.

    Attributes:
        seed: The world's seed.
        check: The property, of `CHECKS`.
        id: The entity's id.
        text: What was seen.
        story: What had happened to the entity.
    """

    seed: int
    check: str
    id: str
    text: str
    story: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Played:
    """The result of a world. `cpu` is in seconds."""

    seed: int
    writes: int
    cpu: float
    counts: Counter[str]
    broken: Broken | None = None
    story: tuple[str, ...] = ()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Neither log, because faults are all there is, nor collect garbage before a world ends."""
    log = logging.getLogger("change_events")
    disabled, log.disabled = log.disabled, True
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        log.disabled = disabled
        if collects:
            gc.enable()
        gc.collect()


def play(
    seed: int,
    *,
    writes: int = WRITES,
    checks: frozenset[str] = ALL_CHECKS,
    trace: str | None = None,
    **changes: Any,
) -> Played:
    """
    Play the world of a seed.

    Args:
        seed: The world's seed.
        writes: How many entities are saved.
        checks: The properties of `CHECKS` that must hold.
        trace: The id whose story is kept. By default it is the id of the first violation, for which
            the world is played again.
        changes: What is not as the seed draws it, by the names of a `Setup`.
    """
    setup = replace(drawn(seed, writes=writes), **changes)
    started = time.process_time()
    try:
        ghost = _run_ours(seed, setup, checks=checks, trace=trace)
    except Violation as violation:
        broken = _told(seed, setup, violation, checks, trace or violation.id)
        return Played(seed, writes, time.process_time() - started, Counter(), broken)
    return Played(
        seed, writes, time.process_time() - started, ghost.counts, story=tuple(ghost.story.lines)
    )


def run(
    seed: int,
    setup: Setup,
    protagonists: Protagonists,
    *,
    checks: frozenset[str],
    trace: str | None = None,
) -> Ghost:
    """
    Play a world with this set-up.

    Raises:
        Violation: A property of `checks` did not hold.
    """
    with undisturbed():
        return World(seed, setup, protagonists, checks=checks, traced=trace).run()


def _world(
    seed: int, setup: Setup, sink: AnySink, *, checks: frozenset[str], trace: str | None
) -> World:
    return World(
        seed,
        setup,
        Ours(sink),
        operations=lambda world: Operations(world, sink),
        checks=checks,
        traced=trace,
    )


def _run_ours(
    seed: int, setup: Setup, *, checks: frozenset[str], trace: str | None = None
) -> Ghost:
    with opened(setup.sink) as sink, undisturbed():
        return _world(seed, setup, sink, checks=checks, trace=trace).run()


def _told(seed: int, setup: Setup, violation: Violation, checks: frozenset[str], id: str) -> Broken:
    with opened(setup.sink) as sink:
        world = _world(seed, setup, sink, checks=checks, trace=id)
        with undisturbed(), contextlib.suppress(Violation):
            world.run()
    return Broken(seed, violation.check, id, str(violation), tuple(world.ghost.story.lines))


def shrunk(broken: Broken, *, attempts: int = 60, **changes: Any) -> Broken:
    """Search the same violation in smaller worlds of the same set-up, whose stories are shorter."""
    for writes in (3, 10, 30, 100, 300, 1000):
        setup = replace(drawn(broken.seed, writes=writes), ids=1 + writes // 100, **changes)
        for seed in range(attempts):
            try:
                _run_ours(seed, setup, checks=frozenset([broken.check]))
            except Violation as violation:
                told = _told(seed, setup, violation, frozenset([broken.check]), violation.id)
                return told if len(told.story) < len(broken.story) else broken
    return broken
