"""The work of an audit and of its repair, once."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.by_hand import guarded_look, own_deletions
from change_events._operations.audit_report import SHOWN, AuditReport, RepairReport, rates
from change_events._operations.auditing import SUSPECTS, Auditing, Sample
from change_events._operations.comparing import KEPT, KINDS, Findings
from change_events._operations.patience import patiently
from change_events._operations.progress import Teller
from change_events._operations.reading import Pages
from change_events._operations.rounds import Rounds
from change_events._operations.sides import Sides, bodies_of
from change_events._operations.state import change_state, loaded
from change_events._operations.throttle import SINK
from change_events._text import printable
from change_events.typing import EnumerableSink, StatefulSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._event import Outcome
    from change_events._operations.progress import Progress
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Listing, Sink

T = TypeVar("T")

STATE = "audit"
"""The name of the last result in the sink's state."""


class Auditor(Generic[T]):
    """
    Audits and repairs.

    Args:
        listing: Names what the source has.
        fetcher: Reads the source.
        sink: The cache.
        min_age: Seconds between the two readings.
        threads: How many reads run at once.
        on_progress: Called about once a second.
        run: Runs a repair, and gives it a throttle.
    """

    def __init__(
        self,
        listing: Listing[T],
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        min_age: float,
        threads: int,
        on_progress: Callable[[Progress], object] | None,
        run: Callable[[Callable[[Throttle], RepairReport]], RepairReport],
    ) -> None:
        self._listing = listing
        self._fetcher = fetcher
        self._sink = sink
        self._min_age = min_age
        self._threads = threads
        self._on_progress = on_progress
        self._run = run

    def audit(self, throttle: Throttle, sample: int | None) -> AuditReport:
        """
        Compare, as `Audit.run` describes it.

        Raises:
            ListingError: See `Audit.run`.
            Stopped: Somebody asked to stop.
        """
        clock = throttle.threads.clock
        began = clock()
        found = Findings()
        teller = Teller("audit", throttle, found.count, self._on_progress)
        rounds = Rounds(throttle, threads=self._threads, sink=self._sink, on_tick=teller.tell)
        pages = Pages(self._listing, throttle=throttle, awaited=rounds.awaited)
        try:
            bodies = patiently(lambda: bodies_of(self._sink), throttle=throttle, what=SINK)
            sides = Sides(self._fetcher, self._sink, bodies=bodies, throttle=throttle, clock=clock)
            auditing = Auditing(
                pages,
                sides=sides,
                sink=self._sink,
                rounds=rounds,
                throttle=throttle,
                min_age=self._min_age,
                found=found,
                clock=clock,
            )
            chosen = None if sample is None else Sample(sample, secrets.token_bytes(8))
            for seconds in auditing.steps(chosen):
                rounds.wait(seconds, SUSPECTS)
                rounds.tick()
        finally:
            pages.close()
            rounds.close()
        teller.tell(last=True)
        report = self._report(found, sides, sample, clock() - began)
        return patiently(lambda: keep(report, self._sink), throttle=throttle, what=SINK)

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
            repairing=lambda allow: self._run(
                lambda throttle: self._repaired(
                    [*missing, *extra, *different], throttle, allow=allow
                )
            ),
        )

    def _repaired(self, ids: Sequence[str], throttle: Throttle, *, allow: bool) -> RepairReport:
        deletions = own_deletions(self._sink, self._fetcher, allow=allow, threads=throttle.threads)
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
