"""How a worker is, for who asks; and why it receives nothing, when it does not."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._meter import Meter

FULL = "full"
"""It holds as many events as it may. That is no trouble: it is busy, and goes on by itself."""

RECEIVE_FAILED = "receive failed"
"""SQS does not answer, or refuses."""

SOURCE_DOWN = "source down"
"""Looks in a row have decided nothing, and not for the fault of one or two entities."""

MASS_DELETION = "mass deletion"
"""Too many looks at cached entities saw them gone; `Worker.resume()` ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    How a worker is at the moment. An idle queue is healthy, and so is an outage that a restart
    would not end.

    Attributes:
        alive: It runs, starts or stops, and none of its threads has died. If not, only a new
            process helps.
        ready: It does its work: it has polled the queue, and receives, or would if it were not
            `full`. Not while it starts or stops, nor while SQS or the source is away.
        paused: Why it receives nothing: `not running`, `starting`, `stopping`, `full` (it holds
            `prefetch` events), `receive failed`, `source down`, `mass deletion`; of several
            reasons, all. None: it receives.
        last_poll: How many seconds ago SQS last answered a receive, with messages or without; None:
            never yet.
        oldest_held: For how many seconds it has had the oldest event that it holds; None: it holds
            none.
        held: Events in its hands.
        in_flight: Looks under way.
    """

    alive: bool
    ready: bool
    paused: str | None
    last_poll: float | None = None
    oldest_held: float | None = None
    held: int = 0
    in_flight: int = 0


NOT_RUNNING = Health(alive=False, ready=False, paused="not running")


class Pauses:
    """
    Why a worker receives nothing, and since when. Reasons come and go independently of each other,
    from any thread.

    A reason is a constant of the code, never an error's text: it is a metric's label, and told to
    whoever can reach the endpoint.

    Args:
        meter: Where the seconds are counted, by reason.
        clock: Tells monotonic seconds.
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[str, float] = {}  # until when, for each reason

    def begin(self, why: str) -> None:
        """Note a reason; one that is known already counts once."""
        with self._lock:
            self._counted.setdefault(why, self._clock())

    def end(self, why: str) -> None:
        """Forget a reason, known or not."""
        with self._lock:
            now, since = self._clock(), self._counted.pop(why, None)
        if since is not None:
            self._meter.count("paused_seconds", now - since, reason=why)

    def count(self) -> None:
        """Count the seconds until now, so that a long pause is seen before it is over."""
        with self._lock:
            now = self._clock()
            seconds = {why: now - since for why, since in self._counted.items()}
            self._counted = dict.fromkeys(seconds, now)
        for why, number in seconds.items():
            self._meter.count("paused_seconds", number, reason=why)

    @property
    def why(self) -> str | None:
        """All reasons, in the order in which they came; None without any."""
        with self._lock:
            return ", ".join(self._counted) or None


def is_ready(paused: str | None, last_poll: float | None) -> bool:
    """
    Say whether a worker does its work: what it waits for is room, or nothing, and SQS has answered
    it.
    """
    return last_poll is not None and paused in {None, FULL}
