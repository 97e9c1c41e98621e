"""The sinks that ship."""

from __future__ import annotations

import re

from change_events.exceptions import ConfigurationError

MAX_EVENT_AGE = 14 * 24 * 3600.0
"""
The longest that an event can live in a queue: `MessageRetentionPeriod` is 1,209,600 s at the most
(Amazon SQS API Reference, SetQueueAttributes). A tombstone must outlive every event that could
bring a late look with it.
"""


def check_purge_age(older_than: float) -> None:
    """Refuse to purge tombstones that an event still on its way might need."""
    if older_than < MAX_EVENT_AGE:
        raise ConfigurationError(
            f"tombstones younger than 14 days ({MAX_EVENT_AGE:.0f} s) can't be purged: an event may still be in a queue, "
            f"and its look could bring the entity back; not older_than={older_than}"
        )


def first_version(now: float) -> int:
    """
    Return the version of an entry that has just been made: the time, in microseconds since the
    epoch.

    Not 1: versions would come again once a tombstone is purged, and a look that had read the
    tombstone's could be applied to the entry made after it. As it is, a new entry's version is
    greater than all that were purged, unless clocks differ by the 14 days that a purge waits, or
    somebody looks at one id a million times a second.

    Args:
        now: The time, in seconds since the epoch.
    """
    return max(1, int(now * 1_000_000))


def check_table_name(table: str) -> None:
    """Refuse what would have to be quoted in SQL."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
        raise ConfigurationError(
            f"{table!r} can't be a table's name; use letters, digits and underscores"
        )
