"""Fills a cache from a listing of what the source has: the public class."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._operations.filling import fill
from change_events._operations.state import change_state, loaded, stateful
from change_events._operations.stopping import Stoppable
from change_events._operations.throttle import CONTROL, checked_rate, checked_threads
from change_events._source.listing import listing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from change_events._operations.progress import BackfillReport, Progress
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Listing, Sink, StatefulSink

T = TypeVar("T")


class Backfill(Generic[T]):
    """
    Fills a cache with what a listing names. Subscribe the queue first: what changes meanwhile comes
    as an event, and both can work at once.

        report = Backfill(listing, fetcher=fetcher, sink=sink).run()

    Args:
        listing: An `HTTPListing`; any iterable of ids, or of pairs of an id and an entity; or your
            own `Listing`.
        fetcher: Reads the source, as for a `Worker`.
        sink: The cache. It must keep state. If it can name its ids, what is cached and not listed
            is looked at, too.
        threads: How many looks run at once.
        max_gets_per_second: How many GETs of looks to send to the source, evenly spread. A GET of
            many ids counts as one. None: no limit.
        allow_mass_deletion: Refuse no deletion.
        on_progress: Called about once a second, in a thread of the backfill. None: the progress is
            logged every 5 seconds.

    Raises:
        ConfigurationError: A value is out of its range, or not what the backfill needs.
    """

    def __init__(
        self,
        listing: Listing[T] | Iterable[str] | Iterable[tuple[str, T]],
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        threads: int = 10,
        max_gets_per_second: float | None = None,
        allow_mass_deletion: bool = False,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        self._listing = listing_of(listing)
        self._state: StatefulSink = stateful(sink)
        self._fetcher = fetcher
        self._sink = sink
        self._threads = checked_threads(threads)
        self._runs = Stoppable(
            checked_rate(max_gets_per_second), "the backfill was stopped; run it again to go on"
        )
        self._guard = Guard(on=not allow_mass_deletion)
        self._on_progress = on_progress

    def run(self, *, restart: bool = False) -> BackfillReport:
        """
        Fill the cache; go on where an earlier run was killed.

        While the source, the listing or the sink is down it waits, and tries again.

        Args:
            restart: Begin with the first page again.

        Returns:
            What was done. After a complete run, the next one begins with the first page.

        Raises:
            AlreadyRunningError: Another process fills this cache.
            ListingError: The listing is none, or loops, or names ids that the source does not know,
                or not the whole entities.
            MassDeletionError: Too many cached entities seem to be gone.
            RuntimeError: `stop` was called. The next run goes on.
        """
        return self._runs.run(lambda throttle: self._fill(throttle, restart=restart))

    def _fill(self, throttle: Throttle, *, restart: bool) -> BackfillReport:
        deletions = Deletions(self._guard, self._sink, self._fetcher, lock=threading.Lock())
        deletions.learn()
        try:
            return fill(
                self._listing,
                fetcher=self._fetcher,
                sink=self._sink,
                deletions=deletions,
                throttle=throttle,
                threads=self._threads,
                on_progress=self._on_progress,
                restart=restart,
            )
        finally:
            with contextlib.suppress(Exception):  # then the next deletion is counted alone
                deletions.keep(at_least=1)

    def stop(self) -> None:
        """
        Ask the run to stop, from any thread or signal handler, without waiting. It ends within a
        few seconds, even if the source, the listing or the sink hangs.
        """
        self._runs.stop()

    def pause(self) -> None:
        """Send no more GETs, in any process and after a restart, too, until `resume`."""
        self._control(paused=True)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._control(paused=False)

    @property
    def max_gets_per_second(self) -> float | None:
        """How many GETs to send. Set, it holds in any process until the backfill is complete."""
        asked = loaded(self._state.state(CONTROL))
        return cast("float | None", asked.get("rate", self._runs.rate))

    @max_gets_per_second.setter
    def max_gets_per_second(self, per_second: float | None) -> None:
        self._control(rate=checked_rate(per_second))

    def _control(self, **changes: object) -> None:
        change_state(self._state, CONTROL, lambda text: json.dumps(loaded(text) | changes))
