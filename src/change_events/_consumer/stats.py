"""What a worker has done, in numbers."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events._event import Outcome
from change_events._meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = {outcome.value for outcome in Outcome} | {"failed", "too_early"}
"""The counts of looks. They are one metric, with the outcome as its label."""


@dataclass(frozen=True, slots=True)
class Stats:
    """
    What a worker has done since it was made.

    Attributes:
        received: Deliveries received from the queue.
        malformed: Deliveries that are not change events, or not from the topic.
        unverified: Deliveries sent back to the queue for a while, because the certificate of their
            signature could not be fetched.
        gets: GETs started.
        created: Looks that found an entity new to the cache.
        updated: Looks that found an entity not known to equal the cached one.
        unchanged: Looks that found what the cache had: the same entity, or none.
        deleted: Looks that found a cached entity gone.
        never_saved: Looks that found no entity where the cache never had one.
        too_early: Early looks that found nothing new: the commit is still to come, or the save has
            failed. They write nothing, and the next one follows soon.
        conflicts: Looks started again because another worker had changed the entry meanwhile.
        failed: Looks that decided nothing. Their events are held until it is known why, and then go
            back to the queue for a while; or stay held, if the entity has no part in it.
        retries: Events that went back to the queue after a failed look.
        acknowledged: Deliveries deleted from the queue.
        ack_failures: Failed attempts to delete a delivery.
        held: Events in the worker's hands now.
        audit_compared: Ids that `Worker(audit_per_minute=)` has compared with the source.
    """

    received: int = 0
    malformed: int = 0
    unverified: int = 0
    gets: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    never_saved: int = 0
    too_early: int = 0
    conflicts: int = 0
    failed: int = 0
    retries: int = 0
    acknowledged: int = 0
    ack_failures: int = 0
    held: int = 0
    audit_compared: int = 0


class Tally:
    """
    Counts for `Stats`, from any thread.

    Only `report` calls the user's `Metrics`, so that one that hangs stops no other thread.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self.meter = meter or Meter()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._gauges: dict[str, Callable[[], float | None]] = {}

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def set(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] = number

    def watch(self, name: str, value: Callable[[], float | None]) -> None:
        """Report that gauge, too, unless it is None. Call it before there are threads."""
        self._gauges[name] = value

    def read(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()

    def report(self) -> None:
        """Tell the meter what was counted since the last report, and how many events are held."""
        with self._lock:
            counts = self._counts.copy()
            new = counts - self._reported
            self._reported = counts
        self.meter.gauge("held", counts["held"])
        for name, read in self._gauges.items():
            if (value := read()) is not None:
                self.meter.gauge(name, value)
        for name, number in new.items():
            if name in LOOKS:
                self.meter.count("looks", number, outcome=name)
            elif name != "held":
                self.meter.count(name, number)
