"""
How fast an audit by pages is, beside reading the listing alone.

    python -m verification.benchmarks.auditing [--entities N]

A listing answers with a page of 100 whole entities, as JSON, after 10 ms. First its pages are read,
each parsed and dropped; then an audit compares them with a cache that is right. Both read the next
page while they work on one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from change_events import Audit, Found, PostgresSink, SQLiteSink
from change_events._consumer.look import digest
from change_events._event import Page
from change_events._operations.reading import Pages
from change_events._operations.throttle import Throttle
from change_events.testing import FakeSource
from verification.benchmarks.contest import Report
from verification.harness.commands import status_of
from verification.harness.emulators import postgres_server
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

PAGE = 100
LATENCY = 0.010
"""Entities on a page, and seconds until it comes."""


class SlowListing:
    """A listing that parses each page, after `LATENCY`."""

    def __init__(self, entities: Sequence[dict[str, Any]]) -> None:
        self._bodies = [
            json.dumps(entities[at : at + PAGE]) for at in range(0, len(entities), PAGE)
        ]

    def page(self, cursor: str | None, /) -> Page[dict[str, Any]]:
        at = int(cursor or 0)
        time.sleep(LATENCY)
        found = {each["id"]: Found(each) for each in json.loads(self._bodies[at])}
        more = str(at + 1) if at + 1 < len(self._bodies) else None
        return Page(list(found), found, more, PAGE * len(self._bodies))


def auditing(bench: Bench) -> Report:
    """K: an audit of 100,000 entities by pages of 100 in 10 ms, beside reading the listing."""
    return measured(bench.number(100_000, 5_000))


def measured(number: int) -> Report:
    """Measure with so many entities."""
    entities: list[dict[str, Any]] = [
        {"id": f"p{n}", "name": f"Anvil {n}", "price": n / 100, "tags": ["iron", "heavy"]}
        for n in range(number)
    ]
    listing = SlowListing(entities)
    source = FakeSource({each["id"]: each for each in entities})
    reading = seconds_to_read(listing)
    figures = [Figure("reading alone, entities", number / reading, "/s")]
    with ExitStack() as exits:
        directory = exits.enter_context(tempfile.TemporaryDirectory())
        server = exits.enter_context(postgres_server())
        sinks: dict[str, SQLiteSink | PostgresSink] = {
            "SQLite": exits.enter_context(SQLiteSink(Path(directory) / "cache.db")),
            "PostgreSQL": exits.enter_context(PostgresSink(server.get_uri())),
        }
        for name, sink in sinks.items():
            for each in entities:
                sink.apply(each["id"], Found(each, None, digest(each)), if_version=0)
            began, used = time.monotonic(), time.process_time()
            report = Audit(listing, fetcher=source, sink=sink).run()
            took, used = time.monotonic() - began, time.process_time() - used
            if not report.clean or report.compared != number:
                raise AssertionError(str(report))
            figures += [
                Figure(f"{name}, of the speed of reading alone", reading / took, at_least=0.8),
                Figure(f"{name}, CPU", 1e6 * used / number, "µs an entity"),
            ]
    return Report(figures=figures)


def seconds_to_read(listing: SlowListing) -> float:
    """Read all pages, and return how long it took."""
    pages = Pages(listing, throttle=Throttle(), awaited=lambda future: future.result())
    began = time.monotonic()
    for _ in pages:
        pass
    pages.close()
    return time.monotonic() - began


def command(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.benchmarks.auditing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--entities", type=int, default=100_000, metavar="N")
    number = parser.parse_args(arguments).entities

    def main() -> int:
        figures = measured(number).figures
        for figure in figures:
            print(f"{figure.what}: {figure}  {figure.goal}")
        return int(not all(figure.met for figure in figures))

    return status_of(main)


if __name__ == "__main__":
    raise SystemExit(command())
