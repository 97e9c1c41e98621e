"""Looks at many ids, for a backfill or an audit: in threads, many with one GET if possible."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.backoff import MAX_PROBE_PAUSE, asked_pause, is_own, pause_after
from change_events._consumer.breaker import Pace
from change_events._consumer.log import log
from change_events._consumer.look import (
    MAX_CONFLICTS,
    compared,
    entry_of,
    etag_to_send,
    never_stored,
    outcome,
    stored,
)
from change_events._event import Gone, Outcome
from change_events._text import printable
from change_events.exceptions import MassDeletionError
from change_events.typing import BulkFetcher, EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from change_events._consumer.deletions import Deletions
    from change_events._consumer.guard import Guard
    from change_events._event import Entry
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

OWN_TRIES = 5
"""Failed looks after which an id counts as broken, if others succeed and it can be its own fault."""

OTHER_TRIES = 12
"""The same if no answer came, or one that tells of the source: four minutes or so."""

TICK = 0.5
"""The most seconds between two calls of `on_tick` while looks are under way."""

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
        pause: Returns the seconds to wait after `n` failures, up to the given most.
    """

    def __init__(self, pause: Callable[[int, float], float] = pause_after) -> None:
        self._pause = pause
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()
        self._pace = Pace(None)
        self.stopping = threading.Event()
        self.running = threading.Event()  # cleared while paused
        self.running.set()
        self.yields: Callable[[], float] = lambda: 0.0

    def set_rate(self, per_second: float | None) -> None:
        """Limit the GETs from now on."""
        with self._lock:
            self._pace = Pace(per_second)

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count the time of the block as spent on that."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._spent[what] += time.monotonic() - began  # type: ignore[assignment]

    def take_spent(self) -> Mapping[str, float]:
        """Return the seconds since the last such call, over all threads."""
        with self._lock:
            spent, self._spent = self._spent, Counter()
        return spent

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
        """Return for how long to wait after so many failures, the last of which was this one."""
        return max(self._pause(failures, MAX_PROBE_PAUSE), asked_pause(error))

    def before_get(self) -> None:
        """Wait until a GET can begin: not while paused, after live events, at the rate."""
        while not self.running.is_set():
            self.wait(TICK, PAUSED)
        self.wait(self.yields(), LIVE_EVENTS)
        with self._lock:
            now = time.monotonic()
            at = max(now, self._pace.look_at)
            self._pace.begin(at)
        self.wait(at - now, RATE_LIMIT)


class Sweep(Generic[T]):
    """
    Looks at many ids.

    Args:
        fetcher: Reads the source; many entities at once, if it can.
        sink: The cache.
        deletions: Asked before a deletion.
        guard: Counts what is found.
        lock: Held while the guard is used.
        throttle: When a GET can begin.
        threads: How many looks run at once.
        on_tick: Called every half a second or more often while looks are under way.
    """

    def __init__(
        self,
        fetcher: Fetcher[T],
        sink: Sink[T],
        *,
        deletions: Deletions,
        guard: Guard,
        lock: AbstractContextManager[object],
        throttle: Throttle,
        threads: int,
        on_tick: Callable[[], object],
    ) -> None:
        self._fetcher = fetcher
        self._sink = sink
        self._deletions = deletions
        self._guard = guard
        self._lock = lock
        self._throttle = throttle
        self._tick = on_tick
        self._bulk_size = fetcher.bulk_size if isinstance(fetcher, BulkFetcher) else 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="change-events-sweep")
        self._good: str | None = None
        self.problem: str | None = None

    def close(self) -> None:
        """End the threads, once the looks under way are over. It does not wait for them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self, ids: Sequence[str]) -> dict[str, Outcome | Exception]:
        """
        Look at each of the ids, again and again while the source or the sink is down.

        Returns:
            By id: what the look did, or why it failed, if that is the entity's own fault.

        Raises:
            MassDeletionError: Too many entities seem to be gone.
            Stopped: Somebody asked to stop.
        """
        done: dict[str, Outcome | Exception] = {}
        left, failures = list(dict.fromkeys(ids)), 0
        while left:
            results = self._round(left, alone=failures > 0)
            failed = {id: each for id, each in results.items() if isinstance(each, Exception)}
            succeeded = {id: results[id] for id in results if id not in failed}
            done |= succeeded
            self._good = next(iter(succeeded), self._good)
            failures += 1
            broken = self._broken(failed, failures, up=bool(succeeded))
            done |= broken
            left = [id for id in left if id not in done]
            if left:
                self._pause(failures, [failed[id] for id in left])
        self.problem = None
        return done

    def _broken(
        self, failed: Mapping[str, Exception], failures: int, *, up: bool
    ) -> dict[str, Exception]:
        """Return which of them fail by their own fault: the source and the sink are up."""
        enough = {
            id: error
            for id, error in failed.items()
            if failures >= (OWN_TRIES if is_own(error) else OTHER_TRIES)
        }
        return enough if enough and (up or self._is_up()) else {}

    def _is_up(self) -> bool:
        """Look at an id that was fine before."""
        good = self._good
        if good is None and isinstance(self._sink, EnumerableSink):
            try:
                good = next(iter(self._sink.ids(limit=1)), None)
            except Exception:  # then the sink is down
                return False
        return good is not None and not isinstance(self._round([good], alone=True)[good], Exception)

    def _pause(self, failures: int, errors: Sequence[Exception]) -> None:
        pause = max(self._throttle.pause_after(failures, error) for error in errors)
        text = printable(errors[0], 300)
        if self.problem is None:
            log.warning(
                "%d looks failed, and will be tried again: %s",
                len(errors),
                text,
                extra={"action": "sweep", "failed": len(errors)},
            )
        self.problem = text
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            self._throttle.wait(min(left, TICK), SOURCE)
            self._tick()

    def _round(self, ids: Sequence[str], *, alone: bool) -> dict[str, Outcome | Exception]:
        size = 1 if alone else self._bulk_size
        chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
        pending = {self._pool.submit(self._look, chunk) for chunk in chunks}
        results: dict[str, Outcome | Exception] = {}
        try:
            while pending:
                finished, pending = wait(pending, timeout=TICK)
                for each in finished:
                    results |= each.result()
                self._tick()
        finally:
            for each in pending:
                each.cancel()
        return results

    def _look(self, ids: Sequence[str]) -> dict[str, Outcome | Exception]:
        """
        Look at these ids, with one GET if possible.

        Raises:
            MassDeletionError: Too many entities seem to be gone.
            Stopped: Somebody asked to stop.
        """
        if len(ids) > 1:
            try:
                done = self._look_at_many(ids)
            except (MassDeletionError, Stopped):
                raise
            except Exception as error:
                return dict.fromkeys(ids, error)
        else:
            done = {}
        for id in ids:
            if id not in done:
                try:
                    done[id] = self._look_at_one(id)
                except (MassDeletionError, Stopped):
                    raise
                except Exception as error:
                    done[id] = error
        return done

    def _look_at_many(self, ids: Sequence[str]) -> dict[str, Outcome | Exception]:
        assert isinstance(self._fetcher, BulkFetcher)  # noqa: S101  # otherwise chunks have one id
        with self._throttle.spent_on(SINK):
            entries = {id: entry_of(self._sink, id) for id in ids}
        self._throttle.before_get()
        with self._throttle.spent_on(SOURCE):
            found = self._fetcher.fetch_many(ids)
        done: dict[str, Outcome | Exception] = {}
        for id, entry in entries.items():
            if id in found:
                change = compared(found[id], id, entry, self._fetcher, None)
                with self._throttle.spent_on(SINK):
                    if stored(self._sink, id, change, entry):
                        self._found(entry)
                        done[id] = outcome(entry, change)
        return done

    def _look_at_one(self, id: str) -> Outcome:
        for _ in range(MAX_CONFLICTS):
            with self._throttle.spent_on(SINK):
                entry = entry_of(self._sink, id)
            etag = etag_to_send(entry, self._fetcher, early=False)
            self._throttle.before_get()
            with self._throttle.spent_on(SOURCE):
                fetched = self._fetcher.fetch(id, etag=etag)
            change = compared(fetched, id, entry, self._fetcher, etag)
            if isinstance(change, Gone) and (refusal := self._deletions.refused(id, entry)):
                raise refusal
            with self._throttle.spent_on(SINK):
                if stored(self._sink, id, change, entry):
                    if not isinstance(change, Gone):
                        self._found(entry)
                    return outcome(entry, change)
        raise never_stored(id, self._sink)

    def _found(self, entry: Entry) -> None:
        with self._lock:
            self._guard.found(cached=entry.present)
