"""Compares a cache with its source: the public class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.settings import require_fetcher, require_sink
from change_events._operations.auditor import Auditor
from change_events._operations.stopping import Stoppable
from change_events._operations.throttle import checked_rate, checked_threads
from change_events._source.listing import listing_of
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from change_events._operations.audit_report import AuditReport
    from change_events._operations.progress import Progress
    from change_events.typing import Fetcher, Listing, Sink

T = TypeVar("T")


class Audit(Generic[T]):
    """
    Compares a cache with its source, and finds what is wrong for good.

        report = Audit(listing, fetcher=fetcher, sink=sink).run()
        print(report)
        report.repair()

    It compares entities, never their `ETag`s. What differs is read again after `min_age`. It counts
    as wrong only if neither the source nor the cache has changed meanwhile. So a cache that is
    merely late is not reported, however many changes are under way.

    An audit sends GETs, and writes nothing but its result, under the name `audit` in the sink's
    state. It can run beside any number of workers.

    Args:
        listing: An `HTTPListing`; any iterable of ids, or of pairs of an id and an entity; or your
            own `Listing`. With whole entities an audit needs a GET only where the cache differs.
        fetcher: Reads the source, as for a `Worker`.
        sink: The cache, read by `sink.get_many(ids)` or `sink.get(id)`. If it has neither, or its
            entities are in tables of your own and it has no `read`, only digests are compared: a
            row that was changed by hand is not found. If it can't name its ids, what is cached and
            not listed is not found. If it keeps state, it keeps the result.
        min_age: Seconds for which an entry must be wrong, to be reported. It must be longer than
            the worker needs to follow a change, which is the settle window and some more.
        threads: How many reads run at once.
        max_gets_per_second: How many GETs to send to the source and the listing, evenly spread. A
            GET of many ids counts as one. None: no limit.
        on_progress: Called about once a second, in a thread of the audit. None: the progress is
            logged every 5 seconds.

    Raises:
        ConfigurationError: A value is out of its range, or not what the audit needs.
    """

    def __init__(
        self,
        listing: Listing[T] | Iterable[str] | Iterable[tuple[str, T]],
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        min_age: float = 65.0,
        threads: int = 10,
        max_gets_per_second: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        require_fetcher(fetcher)
        require_sink(sink)
        if not 0 <= min_age < math.inf:
            raise ConfigurationError(f"min_age must be 0 or more, not {min_age!r}")
        self._runs = Stoppable(checked_rate(max_gets_per_second), "the audit was stopped")
        self._auditor = Auditor(
            listing_of(listing),
            fetcher=fetcher,
            sink=sink,
            min_age=min_age,
            threads=checked_threads(threads),
            on_progress=on_progress,
            run=self._runs.run,
        )

    def run(self, *, sample: int | None = None) -> AuditReport:
        """
        Compare the cache with its source. It lasts as long as the reads, and `min_age` more if
        anything differs.

        While the source, the listing or the sink is down it waits, and tries again.

        Args:
            sample: How many ids to compare, chosen by chance from all that are listed or cached.
                (All of them are listed; only those chosen are read.) None: all.

        Raises:
            ConfigurationError: `sample` is less than 1.
            ListingError: The listing is none, or loops, or names ids that the source does not know,
                or not the whole entities.
            RuntimeError: `stop` was called.
        """
        if sample is not None and sample < 1:
            raise ConfigurationError(f"sample must be 1 or more, or None, not {sample!r}")
        return self._runs.run(lambda throttle: self._auditor.audit(throttle, sample))

    def stop(self) -> None:
        """
        Ask the run, or a repair, to stop, from any thread or signal handler, without waiting. It
        ends within a few seconds, even if the source, the listing or the sink hangs.
        """
        self._runs.stop()
