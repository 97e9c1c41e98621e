"""
A service downstream. It counts the products by image host and month.

A worker fills a cache with all products of the product service, and keeps it in step. The counts
are one SQL query on that cache.
"""

import argparse
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from change_events import (
    ConfigurationError,
    HTTPFetcher,
    HTTPListing,
    Outcome,
    SQLiteSink,
    Worker,
)
from product_service.serving import add_serving_arguments, serve

log = logging.getLogger(__name__)

SUMMARY = """
    WITH product AS (
        SELECT
            substr(url, instr(url, '://') + 3) || '/' AS place,
            substr(modified, 1, 7) AS month
        FROM (
            SELECT
                json_extract(body, '$.imageURL') AS url,
                json_extract(body, '$.lastModified') AS modified
            FROM entities
            WHERE body IS NOT NULL
        )
    )
    SELECT substr(place, 1, instr(place, '/') - 1) AS host, month, count(*) AS products
    FROM product
    GROUP BY host, month
    ORDER BY host, month
"""


def create_app(worker: Worker[dict[str, Any]], cache: str) -> FastAPI:
    """
    Make the service's application.

    Args:
        worker: The worker that fills the cache. It runs for as long as the application does.
        cache: The cache's SQLite file.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # A dead worker's cache no longer follows the source: the service must not answer from it.
        async with worker.running(on_death=lambda _: os.kill(os.getpid(), signal.SIGTERM)):
            yield

    app = FastAPI(title="Products by image host", lifespan=lifespan)

    @app.get("/summary")
    def summary() -> list[dict[str, Any]]:
        """Count the products by image host and by the month in which they were last modified."""
        with closing(sqlite3.connect(cache)) as database:
            rows = database.execute(SUMMARY).fetchall()
        return [
            {"host": host, "month": month, "products": products} for host, month, products in rows
        ]

    @app.get("/stats")
    def stats() -> dict[str, int]:
        """Return the worker's counts, and 1 as `synced` once the cache was filled."""
        return {**asdict(worker.stats()), "synced": worker.synced}

    return app


class OutcomeLog:
    """
    Writes what each look did to a file.

    Each line is a JSON object: `time`, `id`, `outcome`, and the cached `lastModified`. Looks at one
    id run one after another, so this is what the reported look found.
    """

    def __init__(self, path: Path, cache: SQLiteSink) -> None:
        self._path = path
        self._cache = cache
        self._lock = threading.Lock()

    def write(self, id: str, outcome: Outcome) -> None:
        """Append a line. Safe to call from many threads."""
        now = time.time()
        last_modified = (self._cache.get(id) or {}).get("lastModified")
        line = json.dumps(
            {"time": now, "id": id, "outcome": outcome.value, "lastModified": last_modified}
        )
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def main() -> int:
    """Run the service; return the exit status."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper())
    try:
        with SQLiteSink(arguments.cache) as cache:
            return _serve(arguments, cache)
    except ConfigurationError as error:
        log.critical("%s", error)
        return 1


def _serve(arguments: argparse.Namespace, cache: SQLiteSink) -> int:
    products = f"{arguments.source.rstrip('/')}/products"
    worker = Worker(
        arguments.queue_url,
        fetcher=HTTPFetcher(f"{products}/{{id}}", bulk_url=products),
        sink=cache,
        backfill=HTTPListing(products, entities=True),
        settle=arguments.settle,
        wait_time=2,  # after Ctrl-C the worker waits for the poll under way
        on_outcome=OutcomeLog(arguments.outcome_log, cache).write
        if arguments.outcome_log
        else None,
    )
    app = create_app(worker, arguments.cache)
    started = serve(app, host=arguments.host, port=arguments.port, log_level=arguments.log_level)
    return 0 if started and worker.health().paused != "died" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m product_service.downstream",
        description="A service that counts products by image host and month, from a cache that "
        "follows the product service.",
        epilog="boto3 finds credentials, Region and endpoint (AWS_ACCESS_KEY_ID, "
        "AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, ...).",
    )
    parser.add_argument(
        "--queue-url", required=True, help="the SQS queue that is subscribed to the products' topic"
    )
    parser.add_argument(
        "--source", required=True, help="the product service's URL, such as http://127.0.0.1:8000"
    )
    parser.add_argument(
        "--cache", default="products.db", help="the cache's SQLite file (default: %(default)s)"
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=5.0,
        help="the settle window in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--outcome-log", type=Path, metavar="FILE", help="append what each look did, as JSON lines"
    )
    add_serving_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
