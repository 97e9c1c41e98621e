"""
A worker as a process: `python -m verification.chaos.worker SETTINGS`.

SETTINGS is a JSON object. The process logs JSON lines; the last one has the worker's counts.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Any

from change_events import HTTPFetcher, SQLiteSink, Worker


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


def main(queue_url: str, url: str, path: str, get_timeout: float, **settings: Any) -> None:
    """Run a worker until a signal stops it."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONLines())
    logging.getLogger("change_events").addHandler(handler)
    logging.getLogger("change_events").setLevel(logging.INFO)
    with SQLiteSink(path) as sink:
        worker = Worker(
            queue_url, fetcher=HTTPFetcher(url, timeout=get_timeout), sink=sink, **settings
        )
        worker.run()
    print(json.dumps({"action": "stats", **dataclasses.asdict(worker.stats())}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
