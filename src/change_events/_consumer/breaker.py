"""
When to leave the source alone. Pure: no clock, no thread, no I/O.

The source is down when five looks in a row have failed, at three ids or more: one id that is
broken, or two, can't look like that for as long as others succeed. Whether the source or the sink
failed is all one, as nothing comes of a look without both. A queue may hold events of fewer ids for
as long as an outage lasts. So the source is down, too, when an id fails a second time in a row for
a reason that is no entity's own: no answer, say. From then on one id is looked at, with growing
pauses, until a look succeeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = 5
"""So many looks must have failed in a row."""

IDS = 3
"""And at so many different ids."""


class Breaker:
    """
    Tells an outage by looks that fail in a row. Times are passed in, in monotonic seconds; the
    caller serializes the calls.

    Args:
        pause: Returns how many seconds to wait after so many looks of an outage that failed.

    Attributes:
        open: The source is down.
        look_at: When the next look may begin; infinity while the only look of an outage is under
            way.
        failures: How many looks have told of this outage: the one that began it, and all since that
            were begun in it.
    """

    def __init__(self, pause: Callable[[int], float]) -> None:
        self._pause = pause
        self.succeeded()

    def succeeded(self) -> None:
        """Say that a look has succeeded: whatever was the matter, the source is up."""
        self.open = False
        self.look_at = -math.inf
        self.failures = 0
        self._in_a_row = 0
        self._ids: set[str] = set()
        self._not_before = -math.inf  # the source's own wish
        self._probe: str | None = None

    def begin(self, id: str) -> None:
        """Say that a look begins."""
        if self.open:
            self._probe = id
            self.look_at = math.inf

    def failed(
        self, id: str, now: float, retry_after: float, *, concerns_all: bool = False
    ) -> bool:
        """
        Say that a look has failed.

        Args:
            id: At which id.
            now: The time.
            retry_after: For how many seconds the source has asked to be left alone.
            concerns_all: The reason is the source's own, and not that of one of its entities.

        Returns:
            True if that shows that the source is down, or still is; False if it is up, or the look
            began before it went down.
        """
        self._not_before = max(self._not_before, now + retry_after)
        self._in_a_row += 1
        again = id in self._ids
        self._ids.add(id)
        if self.open and id != self._probe:
            self.look_at = max(self.look_at, self._not_before)
            return False
        many = self._in_a_row >= FAILURES and len(self._ids) >= IDS
        if not (self.open or many or (again and concerns_all)):
            return False
        self.look_at = max(now + self._pause(self.failures), self._not_before)
        self.open = True
        self.failures += 1
        self._probe = None
        return True


class Pace:
    """
    Spreads looks evenly.

    Args:
        per_second: How many there may be. None: any number.

    Attributes:
        look_at: When the next look may begin, in monotonic seconds.
    """

    def __init__(self, per_second: float | None) -> None:
        self._gap = 1 / per_second if per_second else 0.0
        self.look_at = -math.inf

    def begin(self, now: float) -> None:
        """Say that a GET begins."""
        self.look_at = max(self.look_at, now) + self._gap
