"""
A process that fills a cache, or only reads the listing, and prints how long that took.

    python -m verification.benchmarks.filling KIND SOURCE NUMBER CACHE

KIND is `read` or `read-ids`, which store nothing; `pages`, which stores pages of whole entities;
`many` or `one`, which have ids and GET 50 or one at once. CACHE is a SQLite file, or the URL of a
PostgreSQL database.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from change_events import Backfill, HTTPFetcher, HTTPListing, PostgresSink, SQLiteSink

if TYPE_CHECKING:
    from change_events import Sink

BULK = 50
"""The most ids of a GET of many."""


def read(listing: HTTPListing) -> None:
    """Read the listing, and store nothing."""
    cursor, more = None, True
    while more:
        page = listing.page(cursor)
        cursor, more = page.cursor, page.cursor is not None


def main(kind: str, source: str, number: int, cache: str) -> dict[str, float]:
    """Do the work; return its seconds, and the growth of this process's memory in megabytes."""
    entities = kind in {"read", "pages"}
    listing = HTTPListing(
        f"{source}/listing?first=0&end={number}", items="products", next="next", entities=entities
    )
    bulk = f"{source}/products" if kind == "many" else None
    fetcher = HTTPFetcher(f"{source}/products/{{id}}", bulk_url=bulk, bulk_size=BULK)
    make = PostgresSink if cache.startswith("postgresql:") else SQLiteSink
    sink: Sink[Any] = make(cache)
    backfill = Backfill(listing, fetcher=fetcher, sink=sink)
    process = psutil.Process()
    before, began = process.memory_info().rss, time.monotonic()
    if kind.startswith("read"):
        read(listing)
    else:
        report = backfill.run()
        assert report.listed == number  # noqa: S101  # otherwise the figure would mean nothing
    seconds = time.monotonic() - began
    return {"seconds": seconds, "megabytes": (process.memory_info().rss - before) / 1e6}


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
