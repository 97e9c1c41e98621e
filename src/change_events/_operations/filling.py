"""
Fills a cache from a listing of what the source has.

A page of whole entities is stored where no look has ever been (`insert_many`). "Never touched" can
only become false. So an entry that is untouched when the page is stored was untouched when the page
was read, and nothing newer is overwritten. Every other id is looked at. So is, in the end, every id
that is cached and was not listed: its absence alone deletes nothing.

What was done is kept in the sink after each page. So a backfill that was killed goes on with the
page that it had not finished.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.log import log
from change_events._event import Found, Gone, Outcome
from change_events._operations.listed import Listed, is_in
from change_events._operations.pages import checked_page, digest_of, insert_many, with_digest
from change_events._operations.pool import Pool
from change_events._operations.progress import Teller
from change_events._operations.state import Kept, stateful
from change_events._operations.sweep import Sweep
from change_events._operations.throttle import LISTING, SINK, SOURCE, TICK, Asked, Stopped
from change_events._text import printable
from change_events.exceptions import (
    AlreadyRunningError,
    ConfigurationError,
    FetchError,
    ListingError,
)
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from change_events._consumer.deletions import Deletions
    from change_events._event import Page
    from change_events._operations.progress import BackfillReport, Progress
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Listing, Sink, StatefulSink

T = TypeVar("T")
R = TypeVar("R")

STATE = "backfill"
"""The name of a backfill's state in the sink."""

BEAT = 10.0
"""Seconds after which the state is stored again: other processes see that the work goes on."""

SHOWN = 100
"""How many ids of broken entities are kept."""

SAMPLE = 3
"""Entities of a first page that are compared with what a GET returns."""

UNKNOWN = 20
"""Listed ids that the source must not know, and more than half, until the listing is refused."""

TRIES = 5
"""Failures after which an error of the listing is raised that is not a `FetchError`."""

UNLISTED_PAGE = 1000
"""Cached ids that are read from the sink at once."""


class Filling(Generic[T]):
    """
    One run of a backfill.

    Args:
        listing: Names what the source has.
        fetcher: Reads the source.
        sink: The cache.
        sweep: Looks at ids.
        throttle: When to wait, and to stop.
        kept: What was done, and is kept in the sink.
        on_progress: Called about once a second.
    """

    def __init__(
        self,
        listing: Listing[T],
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        sweep: Sweep[T],
        throttle: Throttle,
        kept: Kept,
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        self._listing = listing
        self._fetcher = fetcher
        self._sink = sink
        self._sweep = sweep
        self._throttle = throttle
        self._kept = kept
        self._listed = Listed(kept)
        self._told = Teller(throttle, kept, on_progress)
        self._control = Asked(throttle, kept.sink)
        self._reader = Pool(2, "listing")  # a sample must not wait for the next page
        self._cursors: set[str] = set()

    def close(self) -> None:
        """End the threads, once what is under way is over. It does not wait for that."""
        self._reader.close()
        self._sweep.close()

    def work(self) -> BackfillReport:
        """Do what is left."""
        self.tick()
        if self._kept.values["phase"] == "listing":
            self._list()
        if isinstance(self._sink, EnumerableSink):
            self._look_at_unlisted(self._sink)
        self._save(phase="done")
        self._patiently(self._control.clear, SINK)
        self._told.tell(last=True)
        return self._told.report()

    def tick(self) -> None:
        """Tell how far it is, show that the work goes on, and learn what somebody asks for."""
        if self._throttle.stopping.is_set():
            raise Stopped
        self._control.ask()
        self._told.tell(problem=self._sweep.problem)
        self._kept.beat(BEAT)

    # Listed ids

    def _list(self) -> None:
        values = self._kept.values
        reading = self._read_ahead(values["cursor"])
        while True:
            page = self._awaited(reading)
            more = page.cursor is not None
            if more:
                reading = self._read_ahead(page.cursor)  # while this one is stored
            if not values["pages"]:
                self._check_sample(page)
            stored = self._store(page)
            self._look([id for id in page.ids if id not in stored])
            self._listed.add(page.ids)
            self._save(
                phase="listing" if more else "unlisted",
                cursor=page.cursor,
                pages=values["pages"] + 1,
                listed=values["listed"] + len(page.ids),
                stored=values["stored"] + len(stored),
                total=page.total,
            )
            self.tick()
            if not more:
                return

    def _read_ahead(self, cursor: str | None) -> Future[Page[T]]:
        if cursor is not None:
            if cursor in self._cursors:
                raise ListingError(
                    f"{self._listing!r} loops: the page {printable(cursor, 200)!r} comes again"
                )
            self._cursors.add(cursor)
        return self._reader.submit(self._read, cursor)

    def _read(self, cursor: str | None) -> Page[T]:
        """Read a page; try again while the listing is down."""

        def read() -> Page[T]:
            return checked_page(self._listing.page(cursor), cursor, self._listing)

        return self._patiently(read, LISTING, before=self._throttle.before_get, tries=TRIES)

    def _awaited(self, future: Future[R]) -> R:
        while not future.done():
            wait([future], timeout=TICK)
            self.tick()
        return future.result()

    def _store(self, page: Page[T]) -> set[str]:
        """Store what no look has ever touched; return its ids."""
        if not page.found:
            return set()
        found = {id: with_digest(each) for id, each in page.found.items()}
        try:
            with self._throttle.spent_on(SINK):
                return insert_many(self._sink, found)
        except Exception as error:  # a look at each id tells which one can't be stored
            log.warning(
                "a page of %d entities was not stored, so each is looked at: %s",
                len(found),
                printable(error),
                extra={"action": "backfill"},
            )
            return set()

    def _check_sample(self, page: Page[T]) -> None:
        """
        Compare a few entities of a page with what a GET returns.

        Raises:
            ListingError: They are not the same, or the source does not know them.
        """
        sample = dict(list((page.found or {}).items())[:SAMPLE])
        gone, other = [], []
        for id, listed in sample.items():
            # Not in this thread, which must learn meanwhile that a pause is over.
            fetched = self._awaited(self._reader.submit(self._fetched, id))
            if isinstance(fetched, Gone):
                gone.append(id)
            elif isinstance(fetched, Found) and digest_of(fetched) != digest_of(listed):
                other.append(id)
        if sample and len(gone) == len(sample):
            raise ListingError(
                f"{self._listing!r} names {gone}, and {self._fetcher!r} knows none of them. Does "
                "it list entities of another type?"
            )
        if sample and len(other) == len(sample):
            raise ListingError(
                f"{self._listing!r} has {other} not as {self._fetcher!r} returns them. If it does "
                "not list whole entities, use entities=False; if they have just changed, run again"
            )

    def _fetched(self, id: str) -> object:
        fetch = partial(self._fetcher.fetch, id)
        return self._patiently(fetch, SOURCE, before=self._throttle.before_get, tries=TRIES)

    def _wait_after(self, failures: int, error: Exception, what: str) -> None:
        """Wait after a failure, and say once why."""
        if failures == 1:
            log.warning(
                "%s does not answer; it is asked again: %s",
                printable(what),
                printable(error),
                extra={"action": "backfill"},
            )
        self._told.problem = printable(error, 300)
        self._throttle.wait(self._throttle.pause_after(failures, error), what)
        self._told.problem = None

    # Looks

    def _look(self, ids: Sequence[str]) -> None:
        values = self._kept.values
        outcomes = Counter(values["outcomes"])
        for id, done in self._sweep.look(ids, on_tick=self.tick).items():
            if isinstance(done, Exception):
                values["failed"] += 1
                if len(values["failed_ids"]) < SHOWN:
                    values["failed_ids"][id] = printable(done, 300)
            else:
                outcomes[done.value] += 1
        values["outcomes"] = dict(outcomes)
        unknown = outcomes[Outcome.NEVER_SAVED.value]
        if unknown >= UNKNOWN and unknown > sum(outcomes.values()) / 2:
            raise ListingError(
                f"{self._listing!r} has named {sum(outcomes.values()):,} ids that were looked at, "
                f"and {self._fetcher!r} does not know {unknown:,} of them. Does it list entities "
                "of another type?"
            )

    def _look_at_unlisted(self, sink: EnumerableSink) -> None:
        """Look at each id that is cached, and was not listed."""
        values = self._kept.values
        listed = self._patiently(self._listed.ordered, SINK)

        def more_ids() -> list[str]:
            return sink.ids(after=values["after"], limit=UNLISTED_PAGE)

        while ids := self._patiently(more_ids, SINK):
            unlisted = [id for id in ids if not is_in(listed, id)]
            self._look(unlisted)
            self._save(after=ids[-1], unlisted=(values["unlisted"] or 0) + len(unlisted))
            self.tick()
        self._save(unlisted=values["unlisted"] or 0)

    def _save(self, **changes: object) -> None:
        self._patiently(lambda: self._kept.save(**changes), SINK)

    def _patiently(
        self,
        call: Callable[[], R],
        what: str,
        *,
        before: Callable[[], object] = lambda: None,
        tries: float = math.inf,
    ) -> R:
        """
        Return what a call returns; call again after a failure, without end if it is a `FetchError`.

        `before` is called before each call; it does not count as time that is spent on `what`.
        `tries`: Failures after which another error is raised.
        """
        failures = 0
        while True:
            before()
            try:
                with self._throttle.spent_on(what):
                    return call()
            except (AlreadyRunningError, ConfigurationError, ListingError, Stopped):
                raise
            except Exception as error:
                failures += 1
                if failures >= tries and not isinstance(error, FetchError):
                    raise
                self._wait_after(failures, error, what)


def fill(
    listing: Listing[T],
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    deletions: Deletions,
    throttle: Throttle,
    threads: int,
    on_progress: Callable[[Progress], object] | None = None,
    restart: bool = False,
) -> BackfillReport:
    """
    Fill a cache, as `Backfill.run` describes it.

    Raises:
        Stopped: Somebody asked to stop.
        Exception: See `Backfill.run`.
    """
    kept = Kept(stateful(sink), STATE)
    kept.take(lambda seconds: throttle.wait(seconds, SINK))
    sweep = Sweep(fetcher, sink, deletions=deletions, throttle=throttle, threads=threads)
    filling = Filling(
        listing,
        fetcher=fetcher,
        sink=sink,
        sweep=sweep,
        throttle=throttle,
        kept=kept,
        on_progress=on_progress,
    )
    try:
        if restart or not _is_unfinished(kept, listing):
            _begin(kept, listing)
        return filling.work()
    finally:
        filling.close()
        with contextlib.suppress(Exception):  # then the next one waits for a minute
            kept.release()


def is_filled(sink: StatefulSink, listing: object) -> bool:
    """Return True if the cache was filled from that listing, by any process."""
    values = Kept(sink, STATE).read()
    return values.get("phase") == "done" and values.get("listing") == _name(listing)


def _is_unfinished(kept: Kept, listing: object) -> bool:
    values = kept.values
    return values.get("phase") in {"listing", "unlisted"} and values["listing"] == _name(listing)


def _name(listing: object) -> str:
    """Return a name that the listing has after a restart, too."""
    return str(getattr(listing, "url", type(listing).__qualname__))


def _begin(kept: Kept, listing: object) -> None:
    kept.values.clear()
    kept.values.update(
        listing=_name(listing),
        phase="listing",
        cursor=None,
        pages=0,
        listed=0,
        stored=0,
        total=None,
        outcomes={},
        unlisted=None,
        failed=0,
        failed_ids={},
        chunks=0,
        recent="",
        after=None,
    )
