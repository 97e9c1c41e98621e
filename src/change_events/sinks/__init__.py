"""The sinks that ship."""

from __future__ import annotations

import re

from change_events.exceptions import ConfigurationError

MAX_EVENT_AGE = 14 * 24 * 3600.0
"""
The longest time that an event can stay in a queue: `MessageRetentionPeriod` is at most 1,209,600 s
(Amazon SQS API Reference, SetQueueAttributes). A tombstone must outlive every event that could
cause a late look.
"""


def check_purge_age(older_than: float) -> None:
    """Refuse to purge tombstones that protect against an event still in a queue."""
    if older_than < MAX_EVENT_AGE:
        raise ConfigurationError(
            f"tombstones younger than 14 days ({MAX_EVENT_AGE:.0f} s) can't be purged: an event "
            "could still be in a queue, and its look could bring the entity back; "
            f"not older_than={older_than}"
        )


def first_version(now: float) -> int:
    """
    Return the version of a new entry: the time, in microseconds since the epoch.

    With 1, versions would repeat once a tombstone is purged: a look that read the tombstone's could
    then be applied to the entry after it. The time is greater than every purged version, unless
    clocks differ by the 14 days of a purge, or one id gets a million looks a second.

    Args:
        now: The time, in seconds since the epoch.
    """
    return max(1, int(now * 1_000_000))


def check_table_name(table: str) -> None:
    """Refuse a table's name that SQL would have to quote."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table):
        raise ConfigurationError(
            f"{table!r} can't be a table's name; use letters, digits and underscores"
        )
