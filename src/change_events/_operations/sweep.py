"""Looks at many ids, for a backfill or an audit: in threads, many with one GET if possible."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.backoff import is_own
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
from change_events._event import Found, Gone, Outcome
from change_events._operations.pages import insert_many
from change_events._operations.pool import Pool, results_of
from change_events._operations.throttle import SINK, SOURCE, TICK, Stopped
from change_events._text import printable
from change_events.exceptions import MassDeletionError
from change_events.typing import BulkFetcher, EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._consumer.deletions import Deletions
    from change_events._consumer.look import Change
    from change_events._event import Entry
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

OWN_TRIES = 2
"""Failed looks after which an id counts as broken: it can be its own fault, and others succeed."""

OTHER_TRIES = 5
"""The same if no answer came, or one that tells of the source."""


class Sweep(Generic[T]):
    """
    Looks at many ids.

    Args:
        fetcher: Reads the source; many entities at once, if it can.
        sink: The cache.
        deletions: Asked before a deletion, and told what is found.
        throttle: When a GET can begin.
        threads: How many looks run at once.
    """

    def __init__(
        self,
        fetcher: Fetcher[T],
        sink: Sink[T],
        *,
        deletions: Deletions,
        throttle: Throttle,
        threads: int,
    ) -> None:
        self._fetcher = fetcher
        self._sink = sink
        self._deletions = deletions
        self._throttle = throttle
        self._bulk_size = fetcher.bulk_size if isinstance(fetcher, BulkFetcher) else 1
        self._pool = Pool(threads, "sweep")
        self._good: str | None = None
        self.problem: str | None = None

    def close(self) -> None:
        """End the threads, once the looks under way are over. It does not wait for them."""
        self._pool.close()

    def look(
        self, ids: Sequence[str], *, on_tick: Callable[[], object]
    ) -> dict[str, Outcome | Exception]:
        """
        Look at each of the ids, again and again while the source or the sink is down.

        Args:
            ids: The ids.
            on_tick: Called every half a second or more often.

        Returns:
            By id: what the look did, or why it failed, if that is the entity's own fault.

        Raises:
            MassDeletionError: Too many entities seem to be gone.
            Stopped: Somebody asked to stop.
        """
        done: dict[str, Outcome | Exception] = {}
        left, tries = list(dict.fromkeys(ids)), 0
        while left:
            results = self._round(left, on_tick, alone=tries > 0)
            tries += 1
            succeeded = {id: each for id, each in results.items() if isinstance(each, Outcome)}
            self._good = next(iter(succeeded), self._good)
            done |= succeeded
            done |= self._broken(results, tries, on_tick)
            left = [id for id in left if id not in done]
            if left and (tries > 1 or self._bulk_size == 1):  # not before each is looked at alone
                errors = [each for each in results.values() if isinstance(each, Exception)]
                self._pause(tries, errors, on_tick)
        self.problem = None
        return done

    def _broken(
        self, results: Mapping[str, Outcome | Exception], tries: int, on_tick: Callable[[], object]
    ) -> dict[str, Outcome | Exception]:
        """Return which of them fail by their own fault: they do although the source is up."""
        suspects = [
            id
            for id, each in results.items()
            if isinstance(each, Exception) and tries >= (OWN_TRIES if is_own(each) else OTHER_TRIES)
        ]
        if not suspects or not self._is_up(on_tick):
            return {}
        return self._round(suspects, on_tick, alone=True)  # an outage can have ended meanwhile

    def _is_up(self, on_tick: Callable[[], object]) -> bool:
        """Look at an id that was fine before."""
        good = self._good
        if good is None and isinstance(self._sink, EnumerableSink):
            try:
                good = next(iter(self._sink.ids(limit=1)), None)
            except Exception:  # then the sink is down
                return False
        return good is not None and not isinstance(
            self._round([good], on_tick, alone=True)[good], Exception
        )

    def _pause(
        self, failures: int, errors: Sequence[Exception], on_tick: Callable[[], object]
    ) -> None:
        pause = max(self._throttle.pause_after(failures, error) for error in errors)
        if self.problem is None:
            log.warning(
                "%d looks failed, and will be tried again: %s",
                len(errors),
                printable(errors[0]),
                extra={"action": "sweep", "failed": len(errors)},
            )
        self.problem = printable(errors[0], 300)
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            self._throttle.wait(min(left, TICK), SOURCE)
            on_tick()

    def _round(
        self, ids: Sequence[str], on_tick: Callable[[], object], *, alone: bool
    ) -> dict[str, Outcome | Exception]:
        size = 1 if alone else self._bulk_size
        chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
        calls = [self._pool.submit(self._look, chunk) for chunk in chunks]
        results: dict[str, Outcome | Exception] = {}
        try:
            for some in results_of(calls, on_tick):
                results |= some
        finally:
            for each in calls:
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
            except Stopped:
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
        changes = {
            id: compared(found[id], id, entry, self._fetcher, None)
            for id, entry in entries.items()
            if id in found
        }
        with self._throttle.spent_on(SINK):
            stored_ids = self._store(entries, changes)
        done: dict[str, Outcome | Exception] = {}
        for id in stored_ids:
            self._deletions.found(cached=entries[id].present)
            done[id] = outcome(entries[id], changes[id])
        return done

    def _store(self, entries: Mapping[str, Entry], changes: Mapping[str, Change[T]]) -> set[str]:
        """Store them, those at once that no look has touched; return the ids that were stored."""
        new = {
            id: change
            for id, change in changes.items()
            if isinstance(change, Found) and not entries[id].version
        }
        ids = insert_many(self._sink, new) if new else set()
        ids |= {
            id
            for id, change in changes.items()
            if id not in new and stored(self._sink, id, change, entries[id])
        }
        return ids

    def _look_at_one(self, id: str) -> Outcome:
        for _ in range(MAX_CONFLICTS):
            with self._throttle.spent_on(SINK):
                entry = entry_of(self._sink, id)
            etag = etag_to_send(entry, self._fetcher, early=False)
            self._throttle.before_get()
            with self._throttle.spent_on(SOURCE):
                fetched = self._fetcher.fetch(id, etag=etag)
            change = compared(fetched, id, entry, self._fetcher, etag)
            if isinstance(change, Gone):
                self._deletions.require(id, entry)
            with self._throttle.spent_on(SINK):
                if stored(self._sink, id, change, entry):
                    if not isinstance(change, Gone):
                        self._deletions.found(cached=entry.present)
                    return outcome(entry, change)
        raise never_stored(id, self._sink)
