"""
A worker as a process: `python -m verification.chaos.worker SETTINGS`.

SETTINGS is a JSON object. The process logs JSON lines; the last one has the worker's counts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import threading
from typing import Any

import urllib3

from change_events import HTTPFetcher, HTTPListing, SQLiteSink, Worker

HUNG_ID = "hung"
"""The id for which a user's code has no timeout."""


class JSONLines(logging.Formatter):
    """Formats a record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        more = {
            name: getattr(record, name)
            for name in ("action", "pause", "over")
            if hasattr(record, name)
        }
        return json.dumps(
            {"at": record.created, "level": record.levelname, "text": record.getMessage(), **more}
        )


class HangingFetcher(HTTPFetcher):
    """Asks for one id without a timeout."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._hung_url = url.replace("{id}", HUNG_ID)

    def fetch(self, id: str, /, *, etag: str | None = None) -> Any:
        """GET the entity."""
        if id == HUNG_ID:
            urllib3.request("GET", self._hung_url, timeout=None, retries=False)
        return super().fetch(id, etag=etag)


class HangingSink(SQLiteSink):
    """Never stores one id."""

    def apply(self, id: str, change: Any, /, *, if_version: int) -> bool:
        """Store what a look found."""
        if id == HUNG_ID:
            threading.Event().wait()
        return super().apply(id, change, if_version=if_version)


def main(
    queue_url: str,
    url: str,
    path: str,
    get_timeout: float,
    *,
    hangs: str = "",
    trust_etags: bool = False,
    health_port: int = 0,
    listing: str = "",
    **settings: Any,
) -> None:
    """Run a worker until a signal stops it. `hangs` is `fetcher` or `sink`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONLines())
    logging.getLogger("change_events").addHandler(handler)
    logging.getLogger("change_events").setLevel(logging.INFO)
    make_fetcher = HangingFetcher if hangs == "fetcher" else HTTPFetcher
    make_sink = HangingSink if hangs == "sink" else SQLiteSink
    with make_sink(path) as sink:
        worker = Worker(
            queue_url,
            fetcher=make_fetcher(url, timeout=get_timeout, trust_etags=trust_etags),
            sink=sink,
            health_address=("127.0.0.1", health_port) if health_port else None,
            backfill=HTTPListing(listing, entities=True, cursor="after") if listing else None,
            **settings,
        )
        worker.run()
    print(json.dumps({"action": "stats", **dataclasses.asdict(worker.stats())}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
