"""How often things go wrong, how long they take, and why these figures."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 8192


def latency(
    median: float, *, sigma: float = 0.5, tail: float = 0.0, worst: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    """
    Draw the seconds that something takes: log-normal, and a share `tail` of it spread over `worst`,
    evenly by magnitude.

    A table, made once, as drawing from one is five times as fast as drawing from a distribution.
    """
    random_ = random.Random(repr((median, sigma, tail, worst)))
    low, high = worst
    body = [median * random_.lognormvariate(0.0, sigma) for _ in range(SAMPLES)]
    for position in range(round(SAMPLES * tail)):
        body[position] = low * (high / low) ** random_.random()
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds, as tables of samples."""

    publish: list[float]
    save: list[float]
    deliver: list[float]
    get: list[float]
    sink: list[float]
    queue: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """
    What goes wrong: a probability per event, or a mean number per second of virtual time where the
    name says so.

    Attributes:
        save_fails: A save raises and nothing was committed (a constraint, a deadlock, a lost
            connection).
        save_hides: A save raises although it was committed, or will be shortly (a timeout on the
            way back).
        publish_fails: A publish raises, nothing accepted.
        publish_hides: A publish raises although it was accepted.
        batch_entry_fails: One entry of a batch call is in the answer's `Failed`.
        call_fails: A call to SQS raises, done or not.
        service_crashes: A process that saves dies, per save begun; all its saves under way with it.
        worker_crashes: A process that follows dies, per message delivered to it.
        worker_stops: It is asked to stop (a deployment), per message.
        stalls: A process does not run for a while, per message or save.
        heartbeat_stalls: The heartbeat misses beats, per beat.
        duplicated: SNS delivers a message twice.
        redelivered: SQS delivers a message that is in somebody's hands, or was deleted.
        get_fails: A GET is answered by a 5xx, or its answer is lost.
        sink_fails: The sink raises, applied or not.
        outages_per_second: The source answers 5xx to everything, for a while.
        topic_outages_per_second: SNS refuses everything, for a while.
    """

    save_fails: float = 0.0
    save_hides: float = 0.0
    publish_fails: float = 0.0
    publish_hides: float = 0.0
    batch_entry_fails: float = 0.0
    call_fails: float = 0.0
    service_crashes: float = 0.0
    worker_crashes: float = 0.0
    worker_stops: float = 0.0
    stalls: float = 0.0
    heartbeat_stalls: float = 0.0
    duplicated: float = 0.0
    redelivered: float = 0.0
    get_fails: float = 0.0
    sink_fails: float = 0.0
    outages_per_second: float = 0.0
    topic_outages_per_second: float = 0.0

    def times(self, factor: float) -> Faults:
        """Multiply all rates; a probability is cut at one half."""
        return replace(
            self,
            **{each.name: min(0.5, getattr(self, each.name) * factor) for each in fields(self)},
        )


NO_FAULTS = Faults()


def picker(random_: random.Random, table: list[float]) -> Callable[[], float]:
    """Return what draws from a table."""
    draw = random_.random
    return lambda: table[int(draw() * SAMPLES)]
