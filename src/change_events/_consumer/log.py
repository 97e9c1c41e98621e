"""What a worker logs about failures. No line floods the log."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from change_events._aws import is_denied
from change_events._text import printable
from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("change_events")

QUIET = 30.0
"""Seconds between warnings about calls of one kind that fail. In an outage all of them do."""

REMEMBERED = 10_000
"""How many malformed messages are remembered, so that each is logged once."""

MAX_LINES = 100
"""How many malformed messages are logged in each `PERIOD`; the others are only counted."""

PERIOD = 3600.0
"""Seconds."""

_NEEDED = {
    "change_visibility": "sqs:ChangeMessageVisibility. Without it, messages come back while they "
    "are held, and end in the dead-letter queue",
    "acknowledge": "sqs:DeleteMessage. Without it, messages come back until they are in the "
    "dead-letter queue",
}
"""By action, what the worker's role must allow, and why."""


class ThrottledLog:
    """
    Warns at most once in 30 seconds for each action. The lines between are logged at level DEBUG.

    A call that AWS denies is logged as an error, with what the worker's role must allow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._warn_at: dict[str, float] = {}

    def warn(self, text: str, error: Exception, *, action: str) -> None:
        """Log the error. `text` has a `%s` for it."""
        now = self._clock()
        with self._lock:
            loud = now >= self._warn_at.get(action, -math.inf)
            if loud:
                self._warn_at[action] = now + QUIET
        level, why = logging.WARNING, printable(error)
        if action in _NEEDED and is_denied(error):
            level, why = logging.ERROR, f"{why}. The worker's role must allow {_NEEDED[action]}"
        log.log(level if loud else logging.DEBUG, text, why, extra={"action": action})


class MalformedLog:
    """
    Logs each message that is not a change event once, however often it is delivered.

    At most `MAX_LINES` are logged in an hour. The next line after that says how many were not. A
    message is logged again only if more than `REMEMBERED` others came in between.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[int, None] = {}  # hashes, because they are small
        self._period_ends = -math.inf
        self._lines = self._unlogged = 0

    def add(self, message_id: str, error: Exception) -> None:
        """Log what is wrong with the message, unless it was logged before."""
        with self._lock:
            if not self._is_new(message_id):
                return
            before = self._begin_period()
            self._lines += 1
            lines = self._lines
            self._unlogged += lines > MAX_LINES
        if before:
            log.error(
                "%d further messages that are not change events were not logged",
                before,
                extra={"action": "decode", "count": before},
            )
        if lines <= MAX_LINES:
            log.error(
                "message %s is not a change event and is left to the redrive policy: %s%s",
                printable(message_id),
                printable(error),
                " (too many: for an hour, further ones are only counted)"
                if lines == MAX_LINES
                else "",
                extra={"action": "decode", "message_id": message_id},
            )

    def _is_new(self, message_id: str) -> bool:
        key = hash(message_id)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True

    def _begin_period(self) -> int:
        """Return how many were not logged in the last period, if a new one begins."""
        now = self._clock()
        if now < self._period_ends:
            return 0
        unlogged, self._unlogged, self._lines = self._unlogged, 0, 0
        self._period_ends = now + PERIOD
        return unlogged


def log_failed_look(id: str, error: Exception, pause: float) -> None:
    """Log a look that failed, and when the next one is due."""
    log.warning(
        "looking at %r failed, again in %.0f s: %s",
        id,
        pause,
        printable(error),
        exc_info=False if isinstance(error, FetchError) else error,
        extra={"action": "look", "id": id, "outcome": "failed", "pause": pause},
    )


def log_outage(error: Exception, pause: float, *, begins: bool) -> None:
    """Log an outage of the source or the cache: as an error when it begins, then as a warning."""
    refused = isinstance(error, FetchError) and error.status in {401, 403}
    log.log(
        logging.ERROR if begins else logging.WARNING,
        "%s%s. Nothing is received until a look succeeds; the next in %.0f s: %s",
        "" if begins else "still, ",
        "the source refuses our credentials (these are gone, not the entities)"
        if refused
        else "the source or the cache is down",
        pause,
        printable(error),
        exc_info=error if begins and not isinstance(error, FetchError) else False,
        extra={"action": "outage", "over": False, "pause": pause},
    )


def log_return() -> None:
    """Log the end of an outage."""
    log.warning("the source is back", extra={"action": "outage", "over": True})
