"""How long to wait after failures. Pure, apart from the jitter."""

from __future__ import annotations

import random

from change_events.exceptions import FetchError

MAX_PAUSE = 300.0
"""Longest pause in seconds before an id is looked at again, unless the source asks for more."""

MAX_ASKED_PAUSE = 3600.0
"""Longest pause in seconds that the source can ask for (`Retry-After`)."""

MAX_PROBE_PAUSE = 60.0
"""Longest pause in seconds between looks in an outage, unless the source asks for more."""

MAX_POLL_PAUSE = 30.0
"""Longest pause in seconds between receives that fail."""

SOURCE_WIDE = {None, 401, 429, 502, 503, 504}
"""
Statuses of a failed GET that say nothing about its entity: any other entity's GET would have
failed, too. None: no answer, or half of one.
"""


def pause_after(failures: int, most: float) -> float:
    """
    Return the seconds to wait after `failures` failures: doubling, up to `most`.

    With jitter: many workers must not come back at the same moment.
    """
    return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


def probe_pause(failures: int) -> float:
    """Return the seconds to wait after `failures` looks of an outage that failed."""
    return pause_after(failures, MAX_PROBE_PAUSE)


def retry_pause(error: Exception, receive_count: int) -> float:
    """Return the seconds until a failed look's events come back: at least what the source asks."""
    return max(pause_after(receive_count, MAX_PAUSE), asked_pause(error))


def asked_pause(error: Exception) -> float:
    """Return for how many seconds the source has asked to be left alone."""
    asked = (error.retry_after or 0.0) if isinstance(error, FetchError) else 0.0
    return min(asked, MAX_ASKED_PAUSE)


def is_source_wide(error: Exception) -> bool:
    """Return True if a look failed for a reason that is not its entity's own."""
    return isinstance(error, FetchError) and error.status in SOURCE_WIDE
