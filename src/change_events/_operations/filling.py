"""
Fills a cache from a listing of what the source has.

A page of whole entities is stored where no look has ever been (`insert_many`). "Never touched" can
only become false. So an entry that is untouched when the page is stored was untouched when the page
was read, and nothing newer is overwritten. Every other id is looked at. So is, in the end, every id
that is cached and was not listed: its absence alone deletes nothing.

What was done is kept in the sink after each page. So a backfill that was killed goes on with the
page that it had not finished. If the sink can have lost something meanwhile, it begins again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.log import log
from change_events._event import Found, Gone, Outcome
from change_events._operations.filled import STATE, TYPES, begin, is_unfinished, that_fit
from change_events._operations.listed import Listed, is_in
from change_events._operations.pages import digest_of, epoch_of, insert_many, with_digest
from change_events._operations.patience import patiently
from change_events._operations.progress import BackfillReport, Count, Teller
from change_events._operations.reading import Pages
from change_events._operations.rounds import Rounds
from change_events._operations.state import Kept, stateful
from change_events._operations.sweep import Sweep
from change_events._operations.throttle import SINK, SOURCE, Asked, Stopped
from change_events._text import printable
from change_events.exceptions import AlreadyRunningError, ListingError
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._consumer.deletions import Deletions
    from change_events._event import Page
    from change_events._operations.progress import Progress
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Listing, Sink

T = TypeVar("T")
R = TypeVar("R")

SHOWN = 100
"""How many ids that failed are kept with their errors."""

SAMPLE = 3
"""Entities of a first page that are compared with what a GET returns."""

UNKNOWN = 20
"""Listed ids that the source must not know, and more than half, until the listing is refused."""

UNLISTED_PAGE = 1000
"""Cached ids that are read from the sink at once."""


class LostError(Exception):
    """The sink can have lost what a backfill has stored."""


class Filling(Generic[T]):
    """
    One run of a backfill.

    Args:
        listing: Names what the source has.
        fetcher: Reads the source.
        sink: The cache.
        sweep: Looks at ids.
        throttle: When to wait, and to stop.
        threads: How many looks run at once.
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
        threads: int,
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
        self._told = Teller("backfill", throttle, self._count, on_progress)
        self._control = Asked(throttle, kept.sink, clock=throttle.threads.clock)
        self._rounds = Rounds(throttle, threads=threads, sink=sink, on_tick=self.tick)

    def close(self) -> None:
        """End the threads, once what is under way is over. It does not wait for that."""
        self._rounds.close()

    def work(self) -> BackfillReport:
        """Do what is left."""
        self.tick()
        if self._kept.values["phase"] == "listing":
            self._list()
        if isinstance(self._sink, EnumerableSink):
            self._look_at_unlisted(self._sink)
        self._save(phase="done")
        self._require_epoch()
        self._patiently(self._control.clear)
        self._told.tell(last=True)
        values = self._kept.values
        return BackfillReport(
            pages=values["pages"],
            listed=values["listed"],
            stored=values["stored"],
            outcomes={Outcome(name): number for name, number in values["outcomes"].items()},
            unlisted=values["unlisted"],
            failed=values["failed"],
            failed_ids=values["failed_ids"],
        )

    def _count(self) -> Count:
        values = self._kept.values
        phase, done = values["phase"], values["listed"] + (values["unlisted"] or 0)
        return Count(phase, done, {"listing": values["total"], "unlisted": None}.get(phase, done))

    def tick(self) -> None:
        """Tell how far it is, show that the work goes on, and learn what somebody asks for."""
        if self._throttle.stopping.is_set():
            raise Stopped
        self._control.ask()
        self._told.tell()
        self._patiently(self._kept.beat)

    # Listed ids

    def _list(self) -> None:
        values, throttle = self._kept.values, self._throttle
        awaited, start = self._rounds.awaited, values["cursor"]
        with closing(
            Pages(self._listing, throttle=throttle, awaited=awaited, start=start)
        ) as pages:
            for page in pages:
                if not values["pages"]:
                    self._check_sample(page)
                stored = self._store(page)
                self._look([id for id in page.ids if id not in stored])
                self._patiently(partial(self._listed.add, page.ids))
                self._save(
                    phase="unlisted" if page.cursor is None else "listing",
                    cursor=page.cursor,
                    pages=values["pages"] + 1,
                    listed=values["listed"] + len(page.ids),
                    stored=values["stored"] + len(stored),
                    total=page.total,
                )
                self._require_epoch()
                self.tick()

    def _store(self, page: Page[T]) -> set[str]:
        """Store what no look has ever touched; return its ids."""
        if not page.found:
            return set()
        found = {id: with_digest(each) for id, each in page.found.items()}
        try:
            with self._throttle.spent_on(SINK):
                return insert_many(self._sink, found, self._kept.values["epoch"])
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
        for id, fetched in self._rounds.work(list(sample), self._fetched).items():
            if isinstance(fetched, Gone):
                gone.append(id)
            elif isinstance(fetched, Found) and digest_of(fetched) != digest_of(sample[id]):
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

    def _fetched(self, ids: Sequence[str]) -> dict[str, object]:
        (id,) = ids
        self._throttle.before_get()
        with self._throttle.spent_on(SOURCE):
            return {id: self._fetcher.fetch(id)}

    # Looks

    def _look(self, ids: Sequence[str]) -> None:
        values = self._kept.values
        self._sweep.counts_tombstones = values["doubted"]
        looked = self._rounds.work(
            list(dict.fromkeys(ids)), self._sweep.look, size=self._sweep.bulk_size
        )
        failed = {id: done for id, done in looked.items() if isinstance(done, Exception)}
        outcomes = Counter(values["outcomes"])
        outcomes.update(done.value for done in looked.values() if isinstance(done, Outcome))
        unknown = outcomes[Outcome.NEVER_SAVED.value]
        refused = unknown >= UNKNOWN and unknown > sum(outcomes.values()) / 2
        if refused and values["phase"] == "listing":
            values["doubted"] = True
            raise ListingError(
                f"{self._listing!r} has named {sum(outcomes.values()):,} ids that were looked at, "
                f"and {self._fetcher!r} does not know {unknown:,} of them. Does it list entities "
                "of another type?"
            )
        values["doubted"] = False
        values["outcomes"] = dict(outcomes)  # not before: this page can be tried again
        values["failed"] += len(failed)
        for id, error in list(failed.items())[: SHOWN - len(values["failed_ids"])]:
            values["failed_ids"][id] = printable(error, 300)
        values["left"] = that_fit([*values["left"], *failed])

    def _look_at_unlisted(self, sink: EnumerableSink) -> None:
        """Look at each id that is cached, and was not listed."""
        values = self._kept.values
        listed = self._patiently(self._listed.ordered)

        def more_ids() -> list[str]:
            return sink.ids(after=values["after"], limit=UNLISTED_PAGE)

        while ids := self._patiently(more_ids):
            unlisted = [id for id in ids if not is_in(listed, id)]
            self._look(unlisted)
            self._save(after=ids[-1], unlisted=(values["unlisted"] or 0) + len(unlisted))
            self._require_epoch()
            self.tick()
        self._save(unlisted=values["unlisted"] or 0)

    def _require_epoch(self) -> None:
        if self._patiently(lambda: epoch_of(self._sink)) != self._kept.values["epoch"]:
            raise LostError

    def _save(self, **changes: object) -> None:
        self._patiently(lambda: self._kept.save(**changes))

    def _patiently(self, call: Callable[[], R]) -> R:
        return patiently(call, throttle=self._throttle, what=SINK)


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

    def ask_epoch() -> str | None:
        return patiently(lambda: epoch_of(sink), throttle=throttle, what=SINK)

    def fill_from(kept: Kept, epoch: str | None) -> BackfillReport:
        filling = Filling(
            listing,
            fetcher=fetcher,
            sink=sink,
            sweep=Sweep(fetcher, sink, deletions=deletions, throttle=throttle),
            throttle=throttle,
            threads=threads,
            kept=kept,
            on_progress=on_progress,
        )
        try:
            if restart or not is_unfinished(kept, listing, epoch):
                begin(kept, listing, epoch)
            return filling.work()
        finally:
            filling.close()

    while True:
        epoch = ask_epoch()
        kept = Kept(stateful(sink), STATE, types=TYPES, clock=throttle.threads.clock)
        take = partial(kept.take, lambda seconds: throttle.wait(seconds, SINK))
        try:
            patiently(take, throttle=throttle, what=SINK)
            return fill_from(kept, epoch)
        except (AlreadyRunningError, LostError):  # what is lost with the state looks like the first
            if ask_epoch() == epoch:
                raise
        finally:
            with suppress(Exception):  # then the next one waits for a minute
                kept.release()
        log.warning(
            "the backfill begins again, because the sink can have lost entities",
            extra={"action": "backfill"},
        )
