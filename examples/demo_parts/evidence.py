"""Measure how long a cache was stale, and whether it equals the source in the end."""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import urllib3

    from demo_parts.changes import Saved

Bodies = dict[str, dict[str, Any]]


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


def source_bodies(pool: urllib3.PoolManager, url: str) -> Bodies:
    """Read all products from the service, page by page."""
    bodies: Bodies = {}
    following: str | None = f"{url}/products"
    while following:
        response = pool.request("GET", following)
        bodies.update({product["id"]: product for product in response.json()})
        following = _next_page(response.headers.get("Link", ""))
    return bodies


def cached_bodies(cache: Path) -> Bodies:
    """Read all products from a cache's table, with plain SQL."""
    with closing(sqlite3.connect(cache)) as database:
        return {
            id: json.loads(body)
            for id, body in database.execute("SELECT id, body FROM entities WHERE body IS NOT NULL")
        }


def difference(source: Bodies, cached: Bodies) -> str:
    """Say how a cache differs from the source; empty if it doesn't."""
    counts = {
        "missing": len(source.keys() - cached.keys()),
        "too many": len(cached.keys() - source.keys()),
        "out of date": sum(source[id] != cached[id] for id in source.keys() & cached.keys()),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _next_page(link: str) -> str | None:
    target, _, parameters = link.partition(">")
    return target.removeprefix("<") if 'rel="next"' in parameters else None
