"""How often things go wrong, and how long they take."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = 8192
"""The length of a table of durations."""


def latency(
    median: float, *, sigma: float = 0.5, tail: float = 0.0, worst: tuple[float, float] = (0.0, 0.0)
) -> list[float]:
    """
    Return a table of durations in seconds.

    They are log-normal, except a share `tail`, which is spread over the interval `worst`, evenly by
    magnitude. Drawing from a table is five times as fast as drawing from a distribution.
    """
    random_ = random.Random(repr((median, sigma, tail, worst)))
    low, high = worst
    body = [median * random_.lognormvariate(0.0, sigma) for _ in range(SAMPLES)]
    for position in range(round(SAMPLES * tail)):
        body[position] = low * (high / low) ** random_.random()
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Tables of durations in seconds."""

    publish: list[float]
    save: list[float]
    deliver: list[float]
    get: list[float]
    sink: list[float]
    queue: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Functions that draw a duration in seconds."""

    publish: Callable[[], float]
    save: Callable[[], float]
    deliver: Callable[[], float]
    get: Callable[[], float]
    sink: Callable[[], float]
    queue: Callable[[], float]

    @classmethod
    def of(cls, latencies: Latencies, chance: random.Random) -> Durations:
        """Draw from these tables."""
        draw = chance.random

        def picker(table: list[float]) -> Callable[[], float]:
            return lambda: table[int(draw() * SAMPLES)]

        return cls(**{each.name: picker(getattr(latencies, each.name)) for each in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """
    What goes wrong.

    Numbers are probabilities per event, except those named `per_second`: these are mean numbers per
    second of virtual time.

    Attributes:
        save_fails: A save raises and commits nothing (a constraint, a deadlock, a lost connection).
        save_hides: A save raises although it is committed, or will be soon (its answer is lost).
        save_cancelled: A save is cancelled, and commits in a thread soon after that.
        publish_fails: A publish raises and is not accepted.
        publish_hides: A publish raises although it is accepted.
        batch_entry_fails: An entry of a batch call is in the answer's `Failed`.
        call_fails: A call to SQS raises, done or not.
        service_crashes: A service dies, with all of its saves under way. Per save that begins.
        worker_crashes: A worker dies. Per message that is delivered to it.
        worker_stops: A worker is asked to stop, as in a deployment. Per message.
        stalls: A process does not run for a while; every other time its monotonic clock stands
            still, too. Per message or save.
        heartbeat_stalls: The heartbeat misses beats. Per beat.
        duplicated: SNS delivers a message twice.
        undelivered: SNS gives up a delivery; the message goes to the subscription's dead-letter
            queue. Only where somebody redrives that.
        redelivered: SQS delivers a message that is in flight, or was deleted.
        get_fails: A GET is answered by an error, or its answer is lost.
        sink_fails: The sink raises, applied or not.
        outages_per_second: The source answers 5xx to everything, for a while.
        topic_outages_per_second: SNS refuses everything, for a while.
        cache_outages_per_second: The database of the cache does not answer, for a while.
    """

    save_fails: float = 0.0
    save_hides: float = 0.0
    save_cancelled: float = 0.0
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
    undelivered: float = 0.0
    redelivered: float = 0.0
    get_fails: float = 0.0
    sink_fails: float = 0.0
    outages_per_second: float = 0.0
    topic_outages_per_second: float = 0.0
    cache_outages_per_second: float = 0.0

    def times(self, factor: float) -> Faults:
        """Multiply all numbers, up to one half each."""
        return replace(
            self,
            **{each.name: min(0.5, getattr(self, each.name) * factor) for each in fields(self)},
        )


NO_FAULTS = Faults()
