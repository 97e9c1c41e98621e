"""Looks at ids, for a backfill: many with one GET if possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

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
from change_events._operations.pages import epoch_of, insert_many
from change_events._operations.throttle import SINK, SOURCE, Stopped
from change_events.exceptions import ConfigurationError, MassDeletionError
from change_events.typing import BulkFetcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from change_events._consumer.deletions import Deletions
    from change_events._consumer.look import Change
    from change_events._event import Entry
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")


class Sweep(Generic[T]):
    """
    Looks at ids.

    Args:
        fetcher: Reads the source; many entities at once, if it can.
        sink: The cache.
        deletions: Asked before a deletion, and told what is found.
        throttle: When a GET can begin.

    Attributes:
        bulk_size: How many ids to look at with one GET.
        counts_tombstones: Count what is gone at the source as never saved, though it was deleted
            here before: the first look at a page that was refused has left tombstones.
    """

    def __init__(
        self, fetcher: Fetcher[T], sink: Sink[T], *, deletions: Deletions, throttle: Throttle
    ) -> None:
        self.bulk_size = fetcher.bulk_size if isinstance(fetcher, BulkFetcher) else 1
        self.counts_tombstones = False
        self._fetcher = fetcher
        self._sink = sink
        self._deletions = deletions
        self._throttle = throttle

    def look(self, ids: Sequence[str]) -> dict[str, Outcome | Exception]:
        """
        Look at these ids, with one GET if possible.

        Raises:
            ConfigurationError: The fetcher or the sink can't be used like this.
            MassDeletionError: Too many entities seem to be gone.
            Stopped: Somebody asked to stop.
        """
        if len(ids) > 1:
            try:
                done = self._look_at_many(ids)
            except (ConfigurationError, Stopped):
                raise
            except Exception as error:
                return dict.fromkeys(ids, error)
        else:
            done = {}
        for id in ids:
            if id not in done:
                try:
                    done[id] = self._look_at_one(id)
                except (ConfigurationError, MassDeletionError, Stopped):
                    raise
                except Exception as error:
                    done[id] = error
        return done

    def _look_at_many(self, ids: Sequence[str]) -> dict[str, Outcome | Exception]:
        assert isinstance(self._fetcher, BulkFetcher)  # noqa: S101  # otherwise chunks have one id
        with self._throttle.spent_on(SINK):
            epoch = epoch_of(self._sink)
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
            stored_ids = self._store(entries, changes, epoch)
        done: dict[str, Outcome | Exception] = {}
        for id in stored_ids:
            self._deletions.found(cached=entries[id].present)
            done[id] = outcome(entries[id], changes[id])
        return done

    def _store(
        self, entries: Mapping[str, Entry], changes: Mapping[str, Change[T]], epoch: str | None
    ) -> set[str]:
        """Store them, those at once that no look has touched; return the ids that were stored."""
        new = {
            id: change
            for id, change in changes.items()
            if isinstance(change, Found) and not entries[id].version
        }
        ids = insert_many(self._sink, new, epoch) if new else set()
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
                    elif self.counts_tombstones and not entry.present:
                        return Outcome.NEVER_SAVED
                    return outcome(entry, change)
        raise never_stored(id, self._sink)
