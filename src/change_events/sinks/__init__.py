"""The sinks that ship."""

from __future__ import annotations

from change_events.exceptions import ConfigurationError

MAX_EVENT_AGE = 14 * 24 * 3600.0
"""The longest that an event can live in a queue: `MessageRetentionPeriod` is 1,209,600 s at the most (Amazon SQS API
Reference, SetQueueAttributes). A tombstone must outlive every event that could bring a late look with it."""


def check_purge_age(older_than: float) -> None:
    """Refuse to purge tombstones that an event still on its way might need."""
    if older_than < MAX_EVENT_AGE:
        raise ConfigurationError(
            f"tombstones younger than 14 days ({MAX_EVENT_AGE:.0f} s) can't be purged: an event may still be in a queue, "
            f"and its look could bring the entity back; not older_than={older_than}"
        )
