"""
When to leave the source alone. Pure: no clock, no thread, no I/O.

The worker assumes an outage when five looks in a row have failed, at three ids or more: while other
ids succeed, one or two broken ids can't look like that. It makes no difference whether the source
or the sink failed, because a look needs both. The queue can hold fewer ids for as long as an outage
lasts. So the worker also assumes an outage when one id fails twice in a row for a reason that any
other id would have met, too: no answer, for example. From then on it looks at one id at a time,
with growing pauses, until a look succeeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = 5
"""Failed looks in a row that show an outage."""

IDS = 3
"""Different ids that these looks must have."""


class Breaker:
    """
    Detects an outage by looks that fail in a row. Times are passed in, in monotonic seconds.

    Args:
        pause: Returns the seconds to wait after `n` looks of an outage that failed.

    Attributes:
        open: True in an outage.
        look_at: When the next look can begin; infinity while the only look of an outage runs.
        failures: How many looks have shown this outage: the one that began it, and all that began
            and failed since.
    """

    def __init__(self, pause: Callable[[int], float]) -> None:
        self._pause = pause
        self.succeeded()

    def succeeded(self) -> None:
        """Note that a look has succeeded: there is no outage."""
        self.open = False
        self.look_at = -math.inf
        self.failures = 0
        self._in_a_row = 0
        self._ids: set[str] = set()
        self._not_before = -math.inf  # what the source asked for
        self._probe: str | None = None

    def begin(self, id: str) -> None:
        """Note that a look begins."""
        if self.open:
            self._probe = id
            self.look_at = math.inf

    def failed(self, id: str, now: float, retry_after: float, *, source_wide: bool = False) -> bool:
        """
        Note that a look has failed; return True if it shows an outage.

        It does not if it began before the outage. `retry_after` is for how many seconds the source
        asked to be left alone; `source_wide`, that any other id's look would have failed, too.
        """
        self._not_before = max(self._not_before, now + retry_after)
        self._in_a_row += 1
        again = id in self._ids
        self._ids.add(id)
        if self.open and id != self._probe:
            self.look_at = max(self.look_at, self._not_before)
            return False
        many = self._in_a_row >= FAILURES and len(self._ids) >= IDS
        if not (self.open or many or (again and source_wide)):
            return False
        self.look_at = max(now + self._pause(self.failures), self._not_before)
        self.open = True
        self.failures += 1
        self._probe = None
        return True


class Pace:
    """Spreads GETs evenly over time. The next look can begin at `look_at`."""

    def __init__(self, per_second: float | None) -> None:
        self._gap = 1 / per_second if per_second else 0.0
        self.look_at = -math.inf

    def begin(self, now: float) -> None:
        """Note that a GET begins."""
        self.look_at = max(self.look_at, now) + self._gap
