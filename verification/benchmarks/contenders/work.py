"""
What all Python contenders share: where everything is, and the upsert.

It comes as a JSON object on the command line, or in the variable `BENCH` if the library has a
command of its own. This module imports only what each contender's environment has.
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
        queue_url: The queue's URL.
        source: The source's URL. A product is at `/products/{id}`.
        path: The cache's file.
        threads: How many threads may GET.
        more: Settings that only one contender knows.
    """

    queue_url: str
    source: str
    path: str
    threads: int
    more: dict[str, Any]

    @property
    def queue_name(self) -> str:
        """The queue's name, for libraries that look up the URL themselves."""
        return self.queue_url.rpartition("/")[2]

    def url(self, id: str) -> str:
        """Return a product's URL."""
        return f"{self.source}/products/{id}"


def told() -> Work:
    """Return the work that the benchmark has sent."""
    return Work(**json.loads(os.environ.get("BENCH") or sys.argv[1]))


def in_threads(consume: Callable[[], object], number: int) -> None:
    """Run a function in so many threads, and wait for all of them."""
    threads = [threading.Thread(target=consume) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


UPSERT = "INSERT INTO entities VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
"""Stores an entity: its id, and its body."""


class Cache:
    """
    A SQLite connection behind a lock.

    As with our sink, a commit is on the disk before its event is deleted.

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
            self._connection.execute(UPSERT, (id, body))
