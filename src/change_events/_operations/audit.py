"""Compares a cache with its source: the public class."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.by_hand import guarded_look
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._consumer.settings import require_fetcher, require_sink
from change_events._operations.audit_report import SHOWN, AuditReport, RepairReport, rates
from change_events._operations.auditing import SUSPECTS, Auditing, Sample
from change_events._operations.comparing import KINDS, Findings
from change_events._operations.patience import patiently
from change_events._operations.progress import Progress, Teller
from change_events._operations.reading import Pages
from change_events._operations.rounds import Rounds
from change_events._operations.sides import Sides, bodies_of
from change_events._operations.state import change_state, loaded
from change_events._operations.stopping import Stoppable
from change_events._operations.throttle import (
    SINK,
    Throttle,
    checked_rate,
    checked_threads,
)
from change_events._source.listing import listing_of
from change_events._text import printable
from change_events.exceptions import ConfigurationError
from change_events.typing import EnumerableSink, StatefulSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from change_events._event import Outcome
    from change_events.typing import Fetcher, Listing, Sink

T = TypeVar("T")

STATE = "audit"
"""The name of the last result in the sink's state."""

KEPT = 100
"""How many ids of each kind are kept there."""


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
        sink: The cache. If it can't name its ids, what is cached and not listed is not found. If it
            keeps state, it keeps the result.
        min_age: Seconds for which an entry must be wrong, to be reported. It must be longer than
            the worker needs to follow a change, which is the settle window and some more.
        read: Returns the entity as it is cached, or None: `read(id)`. It must equal what `fetcher`
            finds. None: `sink.get_many(ids)` or `sink.get(id)`. If the entities are in tables of
            your own, these have none: then only digests are compared, and a row that was changed by
            hand is not found.
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
        read: Callable[[str], T | None] | None = None,
        threads: int = 10,
        max_gets_per_second: float | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        require_fetcher(fetcher)
        require_sink(sink)
        if not 0 <= min_age < math.inf:
            raise ConfigurationError(f"min_age must be 0 or more, not {min_age!r}")
        self._listing = listing_of(listing)
        self._fetcher = fetcher
        self._sink = sink
        self._min_age = min_age
        self._read = read
        self._threads = checked_threads(threads)
        self._on_progress = on_progress
        self._runs = Stoppable(checked_rate(max_gets_per_second), "the audit was stopped")

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
        return self._runs.run(lambda throttle: self._audit(throttle, sample))

    def _audit(self, throttle: Throttle, sample: int | None) -> AuditReport:
        began = time.monotonic()
        found = Findings()
        teller = Teller("audit", throttle, found.count, self._on_progress)
        rounds = Rounds(throttle, threads=self._threads, sink=self._sink, on_tick=teller.tell)
        pages = Pages(self._listing, throttle=throttle, awaited=rounds.awaited)
        try:
            bodies = patiently(
                lambda: bodies_of(self._sink, self._read), throttle=throttle, what=SINK
            )
            sides = Sides(self._fetcher, self._sink, bodies=bodies, throttle=throttle)
            auditing = Auditing(
                pages,
                sides=sides,
                sink=self._sink,
                rounds=rounds,
                throttle=throttle,
                min_age=self._min_age,
                found=found,
            )
            chosen = None if sample is None else Sample(sample, secrets.token_bytes(8))
            for seconds in auditing.steps(chosen):
                rounds.wait(seconds, SUSPECTS)
                rounds.tick()
        finally:
            pages.close()
            rounds.close()
        teller.tell(last=True)
        report = self._report(found, sides, sample, time.monotonic() - began)
        return patiently(lambda: keep(report, self._sink), throttle=throttle, what=SINK)

    def stop(self) -> None:
        """
        Ask the run, or a repair, to stop, from any thread or signal handler, without waiting. It
        ends within a few seconds, even if the source, the listing or the sink hangs.
        """
        self._runs.stop()

    def _report(
        self, found: Findings, sides: Sides[T], sample: int | None, seconds: float
    ) -> AuditReport:
        missing, extra, different = map(found.ids, KINDS)
        ages = [stale.age for stale in found.stale.values()]
        compared = found.done - len(found.undecided)
        return AuditReport(
            compared=compared,
            sample=sample,
            whole=isinstance(self._sink, EnumerableSink),
            by="bodies" if sides.by_bodies else "digests",
            missing=len(missing),
            extra=len(extra),
            different=len(different),
            missing_ids=missing[:SHOWN],
            extra_ids=extra[:SHOWN],
            different_ids=different[:SHOWN],
            reasons=dict(Counter(stale.why for stale in found.stale.values()).most_common()),
            wrong_for=min(ages, default=0.0),
            cleared=found.cleared,
            undecided=len(found.undecided),
            undecided_ids=dict(list(found.undecided.items())[:SHOWN]),
            rates=rates(ages, compared),
            seconds=seconds,
            repairing=lambda allow: self._runs.run(
                lambda throttle: self._repaired(
                    [*missing, *extra, *different], throttle, allow=allow
                )
            ),
        )

    def _repaired(self, ids: Sequence[str], throttle: Throttle, *, allow: bool) -> RepairReport:
        deletions = Deletions(Guard(on=not allow), self._sink, self._fetcher, lock=threading.Lock())
        rounds = Rounds(throttle, threads=self._threads, sink=self._sink, on_tick=lambda: None)

        def look(ids: Sequence[str]) -> Mapping[str, Outcome | Exception]:
            (id,) = ids
            throttle.before_get()
            return {
                id: guarded_look(
                    id,
                    fetcher=self._fetcher,
                    sink=self._sink,
                    deletions=deletions,
                    force=True,
                )
            }

        try:
            results = rounds.work(ids, look)
        finally:
            rounds.close()
            with suppress(Exception):  # then the next deletion stores it
                deletions.keep(at_least=1)
        done = [each for each in results.values() if not isinstance(each, Exception)]
        return RepairReport(
            outcomes=Counter(done),
            failed_ids={
                id: printable(each, 300)
                for id, each in results.items()
                if isinstance(each, Exception)
            },
        )


def keep(report: AuditReport, sink: object) -> AuditReport:
    """
    Keep the report in the sink's state, if it has one; return it with the time of the last clean
    one.
    """
    now = time.time()
    if report.clean:
        report = dataclasses.replace(report, last_clean=now)
    if not isinstance(sink, StatefulSink):
        return report

    def kept(text: str | None) -> str:
        nonlocal report
        if not report.clean:
            last = loaded(text).get("last_clean")
            report = dataclasses.replace(
                report, last_clean=last if isinstance(last, float) else None
            )
        result = {
            name: value[:KEPT]
            if isinstance(value, list)
            else dict(list(value.items())[:KEPT])
            if isinstance(value, dict)
            else value
            for name, value in report.as_dict().items()
        }
        return json.dumps({**result, "ended": now})

    change_state(sink, STATE, kept)
    return report
