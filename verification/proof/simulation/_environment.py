"""What the parts of a world share. They import this module, and the world imports them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from verification.proof.simulation._chance import Durations, Faults, Latencies

if TYPE_CHECKING:
    from verification.proof.simulation._ghost import Ghost
    from verification.proof.simulation._kernel import Kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a world is set up. Times are seconds; the library's settings have their own meaning."""

    writes: int
    ids: int
    zipf: float
    rate: float
    unique_states: bool
    many: float
    settle: float
    worker_settle: float
    confirm: float
    renewals: bool
    services: int
    workers: int
    threads: int
    early_look: bool
    prefetch: int
    visibility: int
    queue_delay: float
    most_receives: int
    raw: bool
    etags: str
    latencies: Latencies = field(repr=False)
    faults: Faults = field(repr=False)
    bulk: int = 1
    guard: bool = False  # and somebody deploys a wrong URL
    sink: str = "memory"  # see `opened`
    shares_calls: bool = False  # saves of the same moment share calls to SNS
    finds_limit: bool = False  # workers find out how many GETs at once the source can bear
    operations: bool = False  # backfills, audits, redrives, and what they are for
    same_outages: bool = False  # in all worlds of a seed, whatever else happens in them


class Environment:
    """
    What the parts of a world share.

    Args:
        kernel: The clock.
        ghost: Is told everything.
        seed: Of everything random.
        setup: How the world is set up.

    Attributes:
        chance: Draws everything random but outages.
        random: `chance.random`.
        outages: Draws when outages come and how long they last.
        setup: How the world is set up.
        durations: Draw how long something lasts.
        faults: What goes wrong now. `NO_FAULTS` after the last save.
    """

    def __init__(self, kernel: Kernel, ghost: Ghost, seed: int, setup: Setup) -> None:
        self.setup = setup
        self.kernel = kernel
        self.ghost = ghost
        self.chance = chance = random.Random(seed)
        self.outages = random.Random(f"outages {seed}") if setup.same_outages else chance
        self.random = chance.random
        self.durations = Durations.of(setup.latencies, chance)
        self.faults = setup.faults

    def soon(self) -> float:
        """Draw a moment within the next ten seconds, evenly by magnitude."""
        pause: float = 1e-3 * 1e4 ** self.random()
        return self.kernel.now + pause


class HasEnvironment(Protocol):
    """What most parts of a world know of it."""

    @property
    def environment(self) -> Environment: ...
