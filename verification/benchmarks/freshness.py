"""
A consumer that prints when each edition of a product has arrived in its cache.

    python -m verification.benchmarks.freshness KIND WORK

KIND is `ours`, the worker, or `article`, the plain loop on a queue with a delay.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from change_events import (
    Found,
    Gone,
    HTTPFetcher,
    HTTPListing,
    SQLiteSink,
    Unchanged,
    Worker,
)
from change_events._consumer.look import look
from verification.benchmarks.contenders import plain
from verification.benchmarks.contenders.work import Cache, Work

if TYPE_CHECKING:
    from collections.abc import Mapping


ENDLESS = 10**9
"""Products of a listing that is never read to its end."""


def tell(id: str, product: Mapping[str, Any]) -> None:
    """Print that an edition is in the cache now, if it is not what was there at first."""
    if not product["edition"]:
        return
    line = {"id": id, "edition": product["edition"], "at": time.monotonic()}
    sys.stdout.write(json.dumps(line) + "\n")  # in one piece: several threads print
    sys.stdout.flush()


class TellingSink(SQLiteSink):
    """A sink that prints what it stores."""

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """Store, then print."""
        applied = super().apply(id, change, if_version=if_version)
        if applied and isinstance(change, Found):
            tell(id, change.value)
        return applied


def article(work: Work) -> None:
    """Consume with the plain loop."""
    cache = Cache(work.path)

    def upsert(id: str, body: str) -> None:
        cache.upsert(id, body)
        tell(id, json.loads(body))

    plain.consume(work, upsert)


def ours(work: Work) -> None:
    """Consume with the worker in its default settings. The cache has all products already."""
    fetcher = HTTPFetcher(f"{work.source}/products/{{id}}")
    sink = TellingSink(work.path)
    for id in work.more["ids"]:
        look(id, fetcher=fetcher, sink=sink)
    kind = work.more["backfill"]
    listing = HTTPListing(
        f"{work.source}/listing?first=0&end={ENDLESS}",
        items="products",
        next="next",
        entities=kind == "entities",
    )
    Worker(
        work.queue_url,
        fetcher=fetcher,
        sink=sink,
        threads=work.threads,
        backfill=listing if kind else None,
    ).run()


if __name__ == "__main__":
    {"article": article, "ours": ours}[sys.argv[1]](Work(**json.loads(sys.argv[2])))
