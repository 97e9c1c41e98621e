"""Calls that are made again while what they ask is down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from change_events._consumer.log import log
from change_events._operations.throttle import Stopped
from change_events._text import printable
from change_events.exceptions import (
    AlreadyRunningError,
    ConfigurationError,
    FetchError,
    ListingError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._operations.throttle import Throttle

R = TypeVar("R")

FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What code raises by a fault of its own; what is down seldom does."""

TRIES = 5
"""Failures after which such an error is raised."""


def patiently(
    call: Callable[[], R],
    *,
    throttle: Throttle,
    what: str,
    before: Callable[[], object] = lambda: None,
    tries: float = math.inf,
) -> R:
    """
    Call it until it returns, or until its own code seems to be at fault.

    Args:
        call: What to call.
        throttle: How long to pause after a failure, and when to stop.
        what: What it asks.
        before: Called before each call. It does not count as time that is spent on `what`.
        tries: Failures after which another error than a `FetchError` is raised.

    Raises:
        AlreadyRunningError, ConfigurationError, ListingError: It raised this.
        Stopped: Somebody asked to stop.
        Exception: See `FAULTS` and `tries`.
    """
    failures = 0
    while True:
        before()
        try:
            with throttle.spent_on(what):
                result = call()
        except (AlreadyRunningError, ConfigurationError, ListingError, Stopped):
            raise
        except Exception as error:
            failures += 1
            most = TRIES if isinstance(error, FAULTS) else tries
            if failures >= most and not isinstance(error, FetchError):
                raise
            if failures == 1:
                log.warning(
                    "%s does not answer; it is asked again: %s",
                    printable(what),
                    printable(error),
                    extra={"action": "ask_again"},
                )
            throttle.waits_for(what, error)
            throttle.wait(throttle.pause_after(failures, error), what)
        else:
            throttle.waits_for(what, None)
            return result
