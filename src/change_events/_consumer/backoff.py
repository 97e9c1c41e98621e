"""How long to wait after failures. Pure, apart from the jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAUSE = 300.0
"""Longest pause in seconds before an id is looked at again, unless the source asks for more."""

MAX_ASKED_PAUSE = 3600.0
"""Longest pause in seconds that the source can ask for (`Retry-After`)."""

MAX_PROBE_PAUSE = 30.0
"""Longest pause in seconds between looks in an outage, unless the source asks for more."""

MAX_POLL_PAUSE = 30.0
"""Longest pause in seconds between receives that fail."""

EARLY_PAUSE = 0.03
"""Seconds after an early look that found nothing new until the next. Each further one triples."""

NOT_OWN = {None, 401, 403, 429, 502, 503, 504}
"""
Statuses of a failed GET that say nothing about its entity: they tell of the source, of a proxy, or
of our credentials. None: no answer, half of one, or no credentials to ask with.
"""

OVERLOADED = {None, 429, 503, 504}
"""Statuses of a failed GET that can mean that the source has too much to do. None: no answer."""


def pause_after(failures: int, most: float) -> float:
    """
    Return the seconds to wait after `failures` failures: doubling, up to `most`.

    With jitter: many workers must not come back at the same moment.
    """
    return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


@dataclass(frozen=True)
class Backoff:
    """
    How long a worker waits. The proof has its own.

    Attributes:
        pause: Returns the seconds to wait after `n` failures, up to the given most.
        early: The seconds between an early look that found nothing new and the next one.
    """

    pause: Callable[[int, float], float] = pause_after
    early: float = EARLY_PAUSE


def retry_pause(error: Exception, receive_count: int) -> float:
    """Return the seconds until a failed look's events come back: at least what the source asks."""
    return max(pause_after(receive_count, MAX_PAUSE), asked_pause(error))


def asked_pause(error: Exception) -> float:
    """Return for how many seconds the source has asked to be left alone."""
    asked = (error.retry_after or 0.0) if isinstance(error, FetchError) else 0.0
    return min(asked, MAX_ASKED_PAUSE)


def is_limited(error: Exception) -> bool:
    """Return True if the source is up, and asks for fewer GETs (429)."""
    return isinstance(error, FetchError) and error.status == 429


def is_own(error: Exception) -> bool:
    """Return True if a look can have failed because of its entity alone."""
    return not isinstance(error, FetchError) or error.status not in NOT_OWN
