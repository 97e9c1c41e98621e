"""One world, played: in silence, and with its story told if a property did not hold."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from verification.proof.simulation._ghost import CHECKS
from verification.proof.simulation._kernel import Violation
from verification.proof.simulation._setups import WRITES, Ours, drawn
from verification.proof.simulation._world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.proof.simulation._ghost import Ghost
    from verification.proof.simulation._world import Protagonists, Setup

ALL_CHECKS = frozenset(CHECKS)


@dataclass(frozen=True, slots=True)
class Broken:
    """
    A property that did not hold.

    Attributes:
        seed: Of the world.
        check: Which property, of `CHECKS`.
        id: Of which entity.
        text: What was seen.
        story: What happened to the entity until then.
    """

    seed: int
    check: str
    id: str
    text: str
    story: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Played:
    """How a world went."""

    seed: int
    writes: int
    cpu: float
    counts: Counter[str]
    broken: Broken | None = None
    story: tuple[str, ...] = ()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """
    Neither log (it is faults all the way) nor collect garbage (a world is garbage when it ends, and
    not before).
    """
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
) -> Played:
    """
    Play the world of a seed.

    Args:
        seed: Which world.
        writes: How many entities are saved in it.
        checks: Which properties must hold, of `CHECKS`.
        trace: The id whose story to keep; default: that of the first violation, for which the world
            is played again.
    """
    setup = drawn(seed, writes=writes)
    started = time.process_time()
    try:
        ghost = run(seed, setup, Ours(), checks=checks, trace=trace)
    except Violation as violation:
        broken = _told(seed, setup, violation, checks, trace or violation.id)
        return Played(seed, writes, time.process_time() - started, Counter(), broken)
    return Played(
        seed, writes, time.process_time() - started, ghost.counts, story=tuple(ghost.story)
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
    Play a world of one's own making.

    Raises:
        Violation: A property of `checks` did not hold.
    """
    with undisturbed():
        return World(seed, setup, protagonists, checks=checks, traced=trace).run()


def _told(seed: int, setup: Setup, violation: Violation, checks: frozenset[str], id: str) -> Broken:
    world = World(seed, setup, Ours(), checks=checks, traced=id)
    with undisturbed(), contextlib.suppress(Violation):
        world.run()
    return Broken(seed, violation.check, id, str(violation), tuple(world.ghost.story))


def shrunk(broken: Broken, *, attempts: int = 60) -> Broken:
    """
    Look for the same violation in small worlds of the same set-up; the story of the smallest is the
    easiest to read.
    """
    for writes in (3, 10, 30, 100, 300, 1000):
        setup = replace(drawn(broken.seed, writes=writes), ids=1 + writes // 100)
        for seed in range(attempts):
            try:
                run(seed, setup, Ours(), checks=frozenset([broken.check]))
            except Violation as violation:
                told = _told(seed, setup, violation, frozenset([broken.check]), violation.id)
                return told if len(told.story) < len(broken.story) else broken
    return broken
