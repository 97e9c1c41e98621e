"""When a GET of an operation can begin, and where its time goes."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from change_events._consumer.backoff import MAX_PROBE_PAUSE, asked_pause, pause_after
from change_events._consumer.breaker import Pace
from change_events._consumer.crew import Threads
from change_events._operations.state import change_state, loaded
from change_events._text import printable
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from change_events.typing import StatefulSink

TICK = 0.5
"""Seconds between two looks at whether a pause is over."""

CONTROL = "backfill control"
"""The name of the rate and the pause that somebody has asked for."""

CONTROL_EVERY = 1.0
"""Seconds between two looks at what somebody asks for."""

THREADS = 10
"""The most threads of an operation for a worker: it does not find out what the source can bear."""

SOURCE, SINK, RATE_LIMIT, LIVE_EVENTS, PAUSED, LISTING = (
    "the source",
    "the sink",
    "the rate limit",
    "live events",
    "paused",
    "the listing",
)
"""What the time is spent on."""


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """Somebody asked to stop."""


class Throttle:
    """
    When a GET can begin, when to stop, and where the time goes. Threads share it.

    Args:
        rate: The GETs in each second, unless somebody asks for another rate; None: no limit.
        pause: Returns the seconds to wait after `n` failures, up to the given most.
        may_begin: Returns 0 if a GET can begin beside live events, after it has waited for so many
            seconds; otherwise the seconds after which to ask again.
        stopping: An event that somebody sets to stop.
        threads: Time and threads, of the whole operation.
    """

    def __init__(
        self,
        rate: float | None = None,
        *,
        pause: Callable[[int, float], float] = pause_after,
        may_begin: Callable[[float], float] = lambda waited: 0.0,  # noqa: ARG005
        stopping: threading.Event | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._pause = pause
        self._may_begin = may_begin
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()
        self._waits_for: dict[str, str] = {}
        self._pace = Pace(rate)
        self.rate = rate
        self.threads = threads or Threads()
        self.stopping = stopping or self.threads.event()
        self.running = self.threads.event()  # cleared while paused
        self.running.set()

    def set_rate(self, per_second: float | None) -> None:
        """Limit the GETs from now on."""
        if per_second != self.rate:
            with self._lock:
                self.rate = per_second
                self._pace = Pace(per_second)

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count the time of the block as spent on that."""
        began = self.threads.clock()
        try:
            yield
        finally:
            with self._lock:
                self._spent[what] += self.threads.clock() - began  # type: ignore[assignment]  # Counter's values are int

    def take_spent(self) -> Mapping[str, float]:
        """Return the seconds since the last such call, over all threads."""
        with self._lock:
            spent, self._spent = self._spent, Counter()
        return spent

    def waits_for(self, what: str, error: Exception | None) -> bool:
        """
        Note that it waits for an error of that to end, or no longer waits for it (None).

        Return False if it did so before.
        """
        with self._lock:
            before = self._waits_for.pop(what, None)
            if error is not None:
                self._waits_for[what] = printable(error, 300)
        return before is None

    @property
    def problem(self) -> str | None:
        """The error that it waits for to end; None: it waits for none."""
        with self._lock:
            return next(reversed(self._waits_for.values()), None)

    def wait(self, seconds: float, what: str) -> None:
        """
        Wait.

        Raises:
            Stopped: Somebody asked to stop.
        """
        with self.spent_on(what):
            if self.stopping.wait(max(0.0, seconds)):
                raise Stopped

    def pause_after(self, failures: int, error: Exception) -> float:
        """Return the seconds to wait after so many failures. `error` is the last one."""
        return max(self._pause(failures, MAX_PROBE_PAUSE), asked_pause(error))

    def before_get(self) -> None:
        """Wait until a GET can begin: not while paused, after live events, at the rate."""
        while not self.running.is_set():
            self.wait(TICK, PAUSED)
        waited = 0.0
        while (pause := self._may_begin(waited)) > 0:
            self.wait(pause, LIVE_EVENTS)
            waited += pause
        with self._lock:
            now = self.threads.clock()
            at = max(now, self._pace.look_at)
            self._pace.begin(at)
        self.wait(at - now, RATE_LIMIT)


class Asked:
    """What somebody asks for while a backfill runs: another rate, or a pause."""

    def __init__(
        self,
        throttle: Throttle,
        state: StatefulSink,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._throttle = throttle
        self._state = state
        self._rate = throttle.rate
        self._next = -math.inf

    def ask(self) -> None:
        """Look whether somebody asks for something, about once a second."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + CONTROL_EVERY
        try:
            asked = loaded(self._state.state(CONTROL))
            rate = checked_rate(asked.get("rate", self._rate))
        except Exception:  # the sink is down: then the next time
            return
        self._throttle.set_rate(rate)
        if asked.get("paused") is True:
            self._throttle.running.clear()
        else:
            self._throttle.running.set()

    def clear(self) -> None:
        """Forget what was asked for: it was for this backfill."""
        change_state(self._state, CONTROL, lambda _: "{}")


def threads_for(threads: int) -> int:
    """Return how many threads an operation has that is done for a worker with so many."""
    return min(threads, THREADS)


def checked_threads(threads: int) -> int:
    """
    Return a number of threads.

    Raises:
        ConfigurationError: It is out of its range.
    """
    if 1 <= threads <= 256:
        return threads
    raise ConfigurationError(f"threads must be from 1 to 256, not {threads!r}")


def checked_rate(per_second: float | None) -> float | None:
    """
    Return a rate of GETs.

    Raises:
        ConfigurationError: It is out of its range.
    """
    if per_second is None or (
        isinstance(per_second, (int, float))
        and not isinstance(per_second, bool)
        and 0.01 <= per_second <= 10_000
    ):
        return per_second
    raise ConfigurationError(
        f"max_gets_per_second must be from 0.01 to 10000, or None, not {per_second!r}"
    )
