"""Measure how long a cache was stale."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from demo_parts.changes import Saved


@dataclass(frozen=True, slots=True)
class Staleness:
    """
    Seconds from a commit until the cache had it, or something newer.

    Attributes:
        p50: Half of all commits reached the cache within this time.
        p99: 99 of a hundred did.
    """

    p50: float
    p99: float


def staleness(saved: Iterable[Saved], outcome_log: Path) -> Staleness:
    """
    Measure staleness from the log in which a downstream describes each look.

    The processes share one clock. A delay is counted from `lastModified`, which the service sets
    just before it commits. So it includes that write, and is a little too long, never too short.
    """
    looks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in outcome_log.read_text().splitlines():
        look = json.loads(line)
        looks[look["id"]].append(look)
    saved = list(saved)
    deleted_at = {change.id: _seconds(change.last_modified) for change in saved if change.deleted}
    delays = [
        _delay(change, looks[change.id], deleted_at.get(change.id, math.inf)) for change in saved
    ]
    percentiles = statistics.quantiles(delays, n=100, method="inclusive")
    return Staleness(percentiles[49], percentiles[98])


def _delay(change: Saved, looks: list[dict[str, Any]], deleted_at: float) -> float:
    """
    Return how long a change needed to reach the cache; infinity if no look found it.

    A look that found nothing has found the change only if the product had been deleted by then.
    """
    for look in looks:
        version, time = look["lastModified"], look["time"]
        if (
            (time >= deleted_at)
            if version is None
            else (version >= change.last_modified and not change.deleted)
        ):
            return float(time - _seconds(change.last_modified))
    return math.inf


def _seconds(last_modified: str) -> float:
    return datetime.fromisoformat(last_modified).timestamp()
