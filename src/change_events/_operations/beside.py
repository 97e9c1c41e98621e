"""What a worker does beside its looks: its backfill, and its audit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._operations.own_audit import OwnAudit
from change_events._operations.own_backfill import OwnBackfill

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from change_events._consumer.health import Health
    from change_events._consumer.looks import Looks
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally

T = TypeVar("T")


class Beside(Generic[T]):
    """
    What a worker's settings ask for beside its looks.

    Raises:
        ConfigurationError: The sink can't do that, or the listing is not one.
    """

    def __init__(self, settings: Settings[T], tally: Tally) -> None:
        self._sink = settings.sink
        self._backfill = None if settings.backfill is None else OwnBackfill(settings)
        self._audit = None
        if settings.audit_per_minute is not None:
            self._audit = OwnAudit(settings, tally, self._backfill)

    def work(self) -> Sequence[Callable[[Looks[T], threading.Event], None]]:
        """Return what to do, each in a thread of its own, until the event is set."""
        return [each.work for each in (self._backfill, self._audit) if each is not None]

    @property
    def synced(self) -> bool:
        """False until the backfill is complete, as the sink says; without one, True."""
        return self._backfill is None or self._backfill.synced

    def health(self, health: Health) -> Health:
        """Add what is known to a worker's health. The sink is not asked."""
        health = replace(
            health,
            synced=self._backfill is None or self._backfill.known,
            since_loss=getattr(self._sink, "since_loss", None),
        )
        if self._audit is None:
            return health
        stale, since_clean = self._audit.stale, self._audit.since_clean
        return replace(health, audit_stale=stale, last_clean_audit=since_clean)
