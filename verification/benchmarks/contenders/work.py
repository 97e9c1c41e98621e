"""
What all contenders of Python share: where everything is, and the upsert. Imports nothing that one
of them might not have.

They are told by one JSON object on the command line or, where the library has a command line of its
own, in `BENCH`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """
    Where everything is.

    Attributes:
        queue_url: The queue.
        source: The source's URL; a product is at `/products/{id}`.
        path: The cache's file.
        threads: How many threads may GET.
        more: What only one contender knows.
    """

    queue_url: str
    source: str
    path: str
    threads: int
    more: dict[str, Any]

    @property
    def queue_name(self) -> str:
        """The queue's name, for libraries that want to find its URL themselves."""
        return self.queue_url.rpartition("/")[2]

    def url(self, id: str) -> str:
        """Return where a product is."""
        return f"{self.source}/products/{id}"


def told() -> Work:
    """Return what the benchmark has told."""
    return Work(**json.loads(os.environ.get("BENCH") or sys.argv[1]))


def in_threads(consume: Callable[[], object], number: int) -> None:
    """Run it in so many threads, and wait for them all."""
    threads = [threading.Thread(target=consume) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Cache:
    """
    One SQLite connection behind a lock, with the promise that ours makes: a commit is on the disk
    before its event is deleted.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=30, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS entities (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID"
        )

    def upsert(self, id: str, body: str) -> None:
        """Store an entity."""
        with self._lock:
            self._connection.execute(
                "INSERT INTO entities VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (id, body),
            )
