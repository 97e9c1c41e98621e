"""
When to leave the source alone. Pure: no clock, no thread, no I/O.

In an outage the worker looks at one id at a time, with growing pauses, until a look succeeds. It
makes no difference whether the source or the sink is down, because a look needs both.

`Experiment` finds out that there is an outage. Where it can't, because no id is known to be good,
the failures are counted: five looks in a row that failed, at three ids or more, are an outage; and
so are two at one id whose failure is not the entity's own (no answer, for example).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from change_events._consumer.backoff import MAX_PROBE_PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = 5
"""Failed looks in a row that show an outage."""

IDS = 3
"""Different ids that these looks must have."""

HUNG = 60.0
"""Seconds after which a look that tests the source counts as hung, and the next one can begin."""


class Breaker:
    """
    Spreads looks in an outage. Times are passed in, in monotonic seconds.

    Args:
        pause: Returns the seconds to wait after `n` failures, up to the given most.

    Attributes:
        open: True in an outage.
        look_at: When the next look can begin.
        probing: True while the only look of an outage runs, and does not count as hung.
        failures: How many looks have shown this outage: the one that began it, and all that began
            since, and failed or hung.
    """

    def __init__(self, pause: Callable[[int, float], float]) -> None:
        self._pause = pause
        self.open = self._held_first = False
        self.succeeded()

    @property
    def wants_good(self) -> bool:
        """
        True if the next look of an outage is to be at a good id, and not at one in hand.

        In turn, because both can be broken. The order changes after an outage that a good id has
        ended: a source that answers one GET now and then must not spend them all on good ids.
        """
        return self.failures % 2 != self._held_first

    @property
    def probing(self) -> bool:
        """True while the only look of an outage runs, and does not count as hung."""
        return self._probe is not None

    def succeeded(self, *, good: bool = False) -> None:
        """Note that a look has succeeded, `good`: at an id that is not in hand. No outage then."""
        if self.open and good:
            self._held_first = not self._held_first
        self.open = False
        self.look_at = -math.inf
        self.failures = 0
        self._in_a_row = 0
        self._ids: set[str] = set()
        self._not_before = -math.inf  # what the source asked for
        self._probe: str | None = None

    def begin(self, id: str, now: float) -> None:
        """Note that a look begins."""
        if self.open:
            self._probe = id
            self.look_at = now + HUNG

    def tests(self, id: str) -> bool:
        """Return True if the only look of an outage is at that id."""
        return id == self._probe

    def hangs(self) -> None:
        """Note that the only look of an outage has lasted until `look_at`: it tells nothing."""
        self._probe = None
        self.failures += 1

    def count(self, id: str, *, own: bool) -> bool:
        """
        Count a look that failed; return True if the failures in a row show an outage.

        `own`: The entity itself can be the reason.
        """
        self._in_a_row += 1
        again = id in self._ids
        self._ids.add(id)
        return (self._in_a_row >= FAILURES and len(self._ids) >= IDS) or (again and not own)

    def failed(self, id: str, now: float, retry_after: float) -> bool:
        """
        Begin an outage, or note that a look in it has failed; return False if that tells nothing.

        A look that began before the outage tells nothing. `retry_after` is for how many seconds the
        source asked to be left alone.
        """
        self._not_before = max(self._not_before, now + retry_after)
        if self.open and not self.tests(id):
            self.look_at = max(self.look_at, self._not_before)
            return False
        self.look_at = max(now + self._pause(self.failures, MAX_PROBE_PAUSE), self._not_before)
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
