"""How fast an audit by pages is, beside reading the listing alone, and what it reports falsely."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from change_events import (
    Audit,
    Backfill,
    ChangeEvent,
    Found,
    HTTPFetcher,
    HTTPListing,
    PostgresSink,
    SNSPublisher,
    SQLiteSink,
)
from change_events._consumer.look import digest
from change_events._event import Page
from change_events._operations.reading import Pages
from change_events._operations.throttle import Throttle
from change_events.testing import FakeSource
from verification.benchmarks.contest import Report
from verification.benchmarks.source import PAGE
from verification.harness.emulators import postgres_server
from verification.harness.figures import Figure, exactly

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from change_events import AuditReport
    from verification.benchmarks.bench import Bench
    from verification.benchmarks.stage import Stage

LATENCY = 0.010
"""Seconds until a page comes, or the answer to a GET."""

RATE = 100
"""Changes a second beside an audit."""

TOGETHER = 10
"""Changes that are announced by one call."""

LATE = 2
"""Seconds by which the queue's delay makes the cache late."""

MIN_AGE = 10.0
"""The audit's `min_age`: longer than the cache is late."""


class SlowListing:
    """A listing that parses each page, after `LATENCY`."""

    def __init__(self, entities: Sequence[dict[str, Any]]) -> None:
        self._bodies = [
            json.dumps(entities[at : at + PAGE]) for at in range(0, len(entities), PAGE)
        ]

    def page(self, cursor: str | None, /) -> Page[dict[str, Any]]:
        """Read a page."""
        at = int(cursor or 0)
        time.sleep(LATENCY)
        found = {each["id"]: Found(each) for each in json.loads(self._bodies[at])}
        more = str(at + 1) if at + 1 < len(self._bodies) else None
        return Page(list(found), found, more, PAGE * len(self._bodies))


def auditing(bench: Bench) -> Report:
    """
    L: an audit of 100,000 products, pages of 100 in 10 ms, beside reading the listing; and of
    20,000 beside 100 changes a second.
    """
    many = max(PAGE, bench.number(100_000, 5_000))
    few = max(PAGE, bench.number(20_000, 2_000))
    rounds: list[dict[str, float]] = []
    with ExitStack() as exits:
        speed = _Speed(bench.stage().directory / f"{uuid.uuid4().hex}.db", many, exits)
        for _ in range(bench.rounds):
            bench.progress("auditing", many)
            rounds.append(speed.measured())
    bench.progress(f"auditing beside {RATE} changes a second", few)
    report, changes, seconds = _beside_changes(bench, few)

    note = (
        f"{many:,} entities, {few:,} beside changes; 10 ms for each page and each GET. Beside "
        f"changes the queue has a delay of {LATE} s, so that the cache is late by that; the "
        f"audit's `min_age` is {MIN_AGE:.0f} s."
    )

    def median(name: str) -> float:
        return statistics.median(each[name] for each in rounds)

    return Report(
        [
            *(
                Figure(f"{name}, share of reading's speed", median(name), at_least=0.8)
                for name in ("SQLite", "PostgreSQL")
            ),
            Figure("reading, entities a second", median("reading")),
            *(
                Figure(f"{name}, CPU", median(f"{name}, CPU") * 1e6, "µs an entity")
                for name in ("SQLite", "PostgreSQL")
            ),
            exactly("beside changes, compared", report.compared, few),
            exactly("beside changes, false reports", report.stale, 0),
            Figure("beside changes, differed at first", report.cleared, at_least=1),
            Figure("beside changes, changes a second", changes / seconds),
        ],
        notes=[note],
        data={"entities": many, "rounds": rounds, "beside": report.as_dict()},
    )


class _Speed:
    """Audits caches that are right, and reads the listing alone."""

    def __init__(self, path: Path, number: int, exits: ExitStack) -> None:
        entities: list[dict[str, Any]] = [
            {"id": f"p{n}", "name": f"Anvil {n}", "price": n / 100, "tags": ["iron", "heavy"]}
            for n in range(number)
        ]
        self._number = number
        self._listing = SlowListing(entities)
        self._source = FakeSource({each["id"]: each for each in entities})
        self._sinks: dict[str, SQLiteSink | PostgresSink] = {
            "SQLite": exits.enter_context(SQLiteSink(path)),
            "PostgreSQL": exits.enter_context(
                PostgresSink(exits.enter_context(postgres_server()).get_uri())
            ),
        }
        for sink in self._sinks.values():
            for at in range(0, number, 1000):
                some = entities[at : at + 1000]
                sink.insert_many({each["id"]: Found(each, None, digest(each)) for each in some})

    def measured(self) -> dict[str, float]:
        """Return the rate of reading alone; for each sink, the share of it, and the CPU."""
        reading = self._seconds_to_read()
        found = {"reading": self._number / reading}
        for name, sink in self._sinks.items():
            began, used = time.monotonic(), time.process_time()
            report = Audit(self._listing, fetcher=self._source, sink=sink).run()
            found[name] = reading / (time.monotonic() - began)
            found[f"{name}, CPU"] = (time.process_time() - used) / self._number
            if not report.clean or report.compared != self._number:
                raise AssertionError(str(report))
        return found

    def _seconds_to_read(self) -> float:
        pages = Pages(self._listing, throttle=Throttle(), awaited=lambda future: future.result())
        began = time.monotonic()
        for _ in pages:
            pass
        pages.close()
        return time.monotonic() - began


def _beside_changes(bench: Bench, number: int) -> tuple[AuditReport, int, float]:
    """Audit a cache that follows changes; return the changes, and the seconds that they lasted."""
    stage = bench.stage()
    stage.tell(stage.source, "begin", latency=LATENCY, still=True)
    listing = HTTPListing(
        f"{stage.source}/listing?first=0&end={number}", items="products", next="next", entities=True
    )
    fetcher = HTTPFetcher(f"{stage.source}/products/{{id}}")
    queue_url = stage.queue(DelaySeconds=str(LATE))
    path = stage.directory / f"{uuid.uuid4().hex}.db"
    under_way, over = threading.Event(), threading.Event()
    ours = bench.named("ours")
    with SQLiteSink(path) as sink, ThreadPoolExecutor(1) as executor:
        Backfill(listing, fetcher=fetcher, sink=sink).run()
        worker = stage.consume(queue_url, ours, path, threads=10, **ours.more)
        try:
            stage.wait_for_polls(queue_url, [worker])
            began = time.monotonic()
            topic_arn = stage.topic(queue_url)
            changes = executor.submit(_change, stage, topic_arn, number, under_way, over)
            try:
                under_way.wait(30)
                report = Audit(listing, fetcher=fetcher, sink=sink, min_age=MIN_AGE).run()
            finally:
                over.set()
            return report, changes.result(), time.monotonic() - began
        finally:
            worker.close()


def _change(
    stage: Stage, topic_arn: str, number: int, under_way: threading.Event, over: threading.Event
) -> int:
    """Change products until it is over; return how many changes there were."""
    publisher = SNSPublisher(topic_arn, client=stage.client("sns"))
    rng, began, made = random.Random(1), time.monotonic(), 0
    while not over.wait(began + made / RATE - time.monotonic()):
        ids = [f"p{at}" for at in rng.sample(range(number), TOGETHER)]
        publisher.publish([ChangeEvent(id) for id in ids])
        made += TOGETHER
        stage.tell(stage.source, "save", **dict.fromkeys(ids, made))
        if made >= RATE:
            under_way.set()
    return made
