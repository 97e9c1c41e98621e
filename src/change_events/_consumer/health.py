"""A worker's health, and why it receives nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events._meter import Meter

FULL = "full"
"""`prefetch` has no room for another batch. The worker is only busy: it goes on by itself."""

RECEIVE_FAILED = "receive failed"
"""SQS does not answer a receive, or refuses it."""

SOURCE_DOWN = "source down"
"""Looks fail at ids that were good before, too."""

MASS_DELETION = "mass deletion"
"""Too many looks found cached entities gone; `Worker.resume()` ends the pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """
    A worker's health. An idle worker is alive; so is one in an outage, which no restart would end.

    Attributes:
        alive: The worker runs, starts or stops, and none of its threads has died. If False, only a
            new process helps.
        ready: SQS has answered a poll, and the worker receives or is only `full`. It is not ready
            while it starts or stops, or while SQS or the source is down.
        paused: Why the worker receives nothing: `not running`, `starting`, `stopping`, `stopped`,
            `gave up` (its stop took too long, and a thread can still hang), `died` (the last run
            has raised), `full` (no room in
            `prefetch` for another batch), `receive failed`, `source down`, `mass deletion`; all
            reasons, if there are several. None: it receives.
        last_poll: Seconds since SQS last answered a receive, with messages or without. None: never.
        oldest_held: Seconds since the oldest held event was received. None: the worker holds none.
        held: The number of held events.
        prefetch: The number of events that the worker would hold now.
        in_flight: The number of looks that are running.
        get_limit: How many GETs at once the worker sends in a backlog, at most, because the source
            seems to bear so many; below four, they are spread over time. Without a backlog ten are
            allowed in any case. None: it does not run.
        synced: False until this process knows that the worker's `backfill` is complete, and again
            once the sink can have lost something.
        since_loss: Seconds since this process noticed that the sink can have lost entities. None:
            it has not, or the sink can't.
        audit_stale: How many ids the worker's audit knows to be wrong, up to a hundred. None: there
            is no audit, or this process does not know yet.
        last_clean_audit: Seconds since a pass of that audit ended and nothing was wrong, or, before
            the first one, since the audit began; by the wall clocks of its processes.
    """

    alive: bool
    ready: bool
    paused: str | None
    last_poll: float | None = None
    oldest_held: float | None = None
    held: int = 0
    prefetch: int = 0
    in_flight: int = 0
    get_limit: float | None = None
    synced: bool = True
    since_loss: float | None = None
    audit_stale: int | None = None
    last_clean_audit: float | None = None


NOT_RUNNING = Health(alive=False, ready=False, paused="not running")
"""`run()` was not called, or has returned."""

STOPPED = Health(alive=False, ready=False, paused="stopped")
"""`Worker.stop()` was called, perhaps before `run()`: this worker does not run again."""

GAVE_UP = Health(alive=False, ready=False, paused="gave up")
"""The last stop gave up: a look can still hang in a thread of this process."""

DIED = Health(alive=False, ready=False, paused="died")
"""The last run has raised, at its start or because one of its threads has died."""


class Pauses:
    """
    The reasons why a worker receives nothing. Any thread can begin and end any reason.

    A reason is a constant of the code, never an error's text: it labels a metric, and everybody who
    reaches the endpoint can read it.
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}  # that no report has had

    def begin(self, why: str) -> None:
        """Add a reason. One that has begun already goes on."""
        with self._lock:
            self._since.setdefault(why, self._clock())

    def end(self, why: str) -> None:
        """Remove a reason, if it has begun."""
        with self._lock:
            if why in self._since:
                self._count(why)
                del self._since[why]

    def report(self) -> None:
        """Tell the meter the seconds up to now: a long pause shows before its end."""
        with self._lock:
            for why in self._since:
                self._count(why)
            seconds, self._seconds = self._seconds, {}
        for why, number in seconds.items():
            self._meter.count("paused_seconds", number, reason=why)

    @property
    def why(self) -> str | None:
        """All reasons, in the order in which they began. None: there is none."""
        with self._lock:
            return ", ".join(self._since) or None

    def _count(self, why: str) -> None:
        now = self._clock()
        self._seconds[why] = self._seconds.get(why, 0.0) + now - self._since[why]
        self._since[why] = now


def is_ready(paused: str | None, last_poll: float | None) -> bool:
    """Return whether SQS has answered a poll and the worker is not paused, or only `full`."""
    return last_poll is not None and paused in {None, FULL}
