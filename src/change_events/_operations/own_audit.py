"""A worker's own audit, beside its looks."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from change_events._operations.aside import keep_trying, throttle_beside
from change_events._operations.filled import name_of
from change_events._operations.rolling import TYPES, Rolling, begun
from change_events._operations.state import Kept, stateful
from change_events._operations.throttle import LISTING, SINK
from change_events.exceptions import ConfigurationError
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    import threading

    from change_events._consumer.looks import Looks
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally
    from change_events._operations.own_backfill import OwnBackfill

T = TypeVar("T")

STATE = "worker audit"
"""The name of the audit's state in the sink."""

MINUTE = 60.0
"""Seconds more than the settle window for which an entry must be wrong, by default."""

SHORTLY = 1.0
"""Seconds between two looks at whether the cache is filled."""


class OwnAudit(Generic[T]):
    """
    Compares a worker's cache with the source, in one of its processes at a time.

    Args:
        settings: The worker's.
        tally: Counts the comparisons, and is told of the gauges.
        backfill: Its listing names what the source has. Nothing is compared before it is complete.

    Raises:
        ConfigurationError: The sink keeps no state, or nothing names ids.
    """

    def __init__(
        self, settings: Settings[T], tally: Tally, backfill: OwnBackfill[T] | None
    ) -> None:
        if backfill is None and not isinstance(settings.sink, EnumerableSink):
            raise ConfigurationError(
                f"audit_per_minute needs backfill=, because {settings.sink!r} can't name its ids"
            )
        self._settings = settings
        self._tally = tally
        self._backfill = backfill
        self._state = stateful(settings.sink)
        self._kept = Kept(self._state, STATE, types=TYPES)
        tally.watch("audit_stale", lambda: self.stale)
        tally.watch("last_clean_audit_seconds", lambda: self.since_clean)

    @property
    def stale(self) -> int | None:
        """How many ids are known to be wrong; None: this process does not know yet."""
        stale = self._kept.values.get("stale")
        return None if stale is None else len(stale)

    @property
    def since_clean(self) -> float | None:
        """Seconds since the last clean pass, or since the first began; None: not known yet."""
        values = self._kept.values
        at = values.get("last_clean") or values.get("began")
        return None if at is None else max(0.0, time.time() - at)

    def work(self, looks: Looks[T], stopping: threading.Event) -> None:
        """Compare until `stopping`, unless another process does."""
        keep_trying("audit", lambda: self._audit(looks, stopping), stopping)

    def _audit(self, looks: Looks[T], stopping: threading.Event) -> None:
        settings, listing = self._settings, None
        throttle = throttle_beside(looks, stopping)
        if self._backfill is not None:
            listing = self._backfill.listing
            while not self._backfill.synced:
                throttle.wait(SHORTLY, LISTING)
        self._kept = kept = Kept(self._state, STATE, types=TYPES)
        kept.take(lambda seconds: throttle.wait(seconds, SINK))
        try:
            begun(kept.values, None if listing is None else name_of(listing))
            Rolling(
                listing,
                fetcher=settings.fetcher,
                sink=settings.sink,
                throttle=throttle,
                pauses=looks.consumer.pauses,
                kept=kept,
                tally=self._tally,
                per_minute=settings.audit_per_minute or 0.0,
                min_age=min_age_of(settings),
            ).work()
        finally:
            with suppress(Exception):  # then the next one waits for a minute
                kept.release()


def min_age_of(settings: Settings[Any]) -> float:
    """Return the seconds for which an entry of a worker's cache must be wrong to count."""
    if settings.audit_min_age is None:
        return settings.settle + MINUTE
    return settings.audit_min_age
