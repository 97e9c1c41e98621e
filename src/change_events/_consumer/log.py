"""What a worker logs about failures. No line floods the log."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("change_events")

QUIET = 30.0
"""Seconds between warnings about calls that fail. In an outage all of them do."""

REMEMBERED = 1000
"""How many malformed messages are remembered, so that each is logged once."""


class ThrottledLog:
    """Warns at most once in 30 seconds. The lines between are logged at level DEBUG."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._warn_at = -math.inf

    def warn(self, text: str, error: Exception, *, action: str) -> None:
        """Log the error. `text` has a `%s` for it."""
        now = self._clock()
        with self._lock:
            loud = now >= self._warn_at
            if loud:
                self._warn_at = now + QUIET
        log.log(logging.WARNING if loud else logging.DEBUG, text, error, extra={"action": action})


class MalformedLog:
    """Logs each message that is not a change event once, however often it is delivered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged: dict[str, None] = {}

    def add(self, message_id: str, error: Exception) -> None:
        """Log what is wrong with the message, unless it was logged before."""
        with self._lock:
            if message_id in self._logged:
                return
            self._logged[message_id] = None
            if len(self._logged) > REMEMBERED:
                del self._logged[next(iter(self._logged))]
        log.error(
            "message %s is not a change event and is left to the redrive policy: %s",
            message_id,
            error,
            extra={"action": "decode", "message_id": message_id},
        )


def log_failed_look(id: str, error: Exception, pause: float) -> None:
    """Log a look that failed, and when the next one is due."""
    log.warning(
        "looking at %r failed, again in %.0f s: %s",
        id,
        pause,
        error,
        exc_info=False if isinstance(error, FetchError) else error,
        extra={"action": "look", "id": id, "outcome": "failed", "pause": pause},
    )


def log_outage(error: Exception, pause: float, *, begins: bool) -> None:
    """Log an outage of the source or the cache: as an error when it begins, then as a warning."""
    refused = isinstance(error, FetchError) and error.status in {401, 403}
    log.log(
        logging.ERROR if begins else logging.WARNING,
        "%s%s: looks failed in a row. Nothing is received until one succeeds; "
        "the next in %.0f s: %s",
        "" if begins else "still, ",
        "the source refuses our credentials (these are gone, not the entities)"
        if refused
        else "the source or the cache is down",
        pause,
        error,
        exc_info=error if begins and not isinstance(error, FetchError) else False,
        extra={"action": "outage", "over": False, "pause": pause},
    )


def log_return() -> None:
    """Log the end of an outage."""
    log.warning("the source is back", extra={"action": "outage", "over": True})
