"""
A service downstream: it needs to know how many products show images of which host, month by month,
and asks nobody for it.

A worker keeps a cache of all products in step with the product service; a question is one SQL query
on that cache.
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

import anyio.to_thread
from fastapi import FastAPI

from change_events import ConfigurationError, HTTPFetcher, Outcome, SQLiteSink, Worker
from product_service.serving import add_serving_arguments, serve

log = logging.getLogger(__name__)

SUMMARY = """
    WITH product AS (
        SELECT
            substr(json_extract(body, '$.imageURL'), instr(json_extract(body, '$.imageURL'), '://') + 3) || '/' AS place,
            substr(json_extract(body, '$.lastModified'), 1, 7) AS month
        FROM entities
        WHERE body IS NOT NULL
    )
    SELECT substr(place, 1, instr(place, '/') - 1) AS host, month, count(*) AS products
    FROM product
    GROUP BY host, month
    ORDER BY host, month
"""


class Follower:
    """
    Runs a worker in a thread of this process.

    Attributes:
        error: What the worker died of, if it did.
    """

    def __init__(self, worker: Worker[dict[str, Any]]) -> None:
        self.worker = worker
        self.error: Exception | None = None

    @asynccontextmanager
    async def following(self, _: FastAPI) -> AsyncIterator[None]:
        """Follow the source as long as the application runs (its lifespan)."""
        thread = threading.Thread(target=self._follow, name="worker")
        thread.start()
        try:
            yield
        finally:
            self.worker.stop()
            await anyio.to_thread.run_sync(thread.join)

    def _follow(self) -> None:
        try:
            self.worker.run()
        except Exception as error:
            # A service whose cache no longer follows must not go on answering from it.
            log.critical(
                "the worker died: %s", error, exc_info=not isinstance(error, ConfigurationError)
            )
            self.error = error
            os.kill(os.getpid(), signal.SIGTERM)


def create_app(worker: Worker[dict[str, Any]], cache: str, lifespan: Any = None) -> FastAPI:
    """
    Make the service's application.

    Args:
        worker: Whose counts to tell.
        cache: The cache's SQLite file.
        lifespan: What runs beside the application.
    """
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
        """Tell what the worker has done."""
        return asdict(worker.stats())

    return app


class OutcomeLog:
    """
    Writes what each look did to a file, a JSON object a line: `time`, `id`, `outcome`, and the
    `lastModified` then cached.

    Looks at one id come one after another, so what is cached when a look is reported is what that
    look found.
    """

    def __init__(self, path: Path, cache: SQLiteSink) -> None:
        self._path = path
        self._cache = cache
        self._lock = threading.Lock()

    def write(self, id: str, outcome: Outcome) -> None:
        """Append a line. May be called from many threads."""
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
        settle=arguments.settle,
        wait_time=2,  # stopping waits for the poll under way, and nobody likes to wait after Ctrl-C
        on_outcome=OutcomeLog(arguments.outcome_log, cache).write
        if arguments.outcome_log
        else None,
    )
    follower = Follower(worker)
    app = create_app(worker, arguments.cache, follower.following)
    started = serve(app, host=arguments.host, port=arguments.port, log_level=arguments.log_level)
    return 0 if started and follower.error is None else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m product_service.downstream",
        description="A service that counts products by image host and month, from a cache that follows the product service.",
        epilog="boto3 finds credentials, Region and endpoint (AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, ...).",
    )
    parser.add_argument(
        "--queue-url", required=True, help="the SQS queue that is subscribed to the products' topic"
    )
    parser.add_argument(
        "--source", required=True, help="where the product service is, say http://127.0.0.1:8000"
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
