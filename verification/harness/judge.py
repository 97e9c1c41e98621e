"""Compares what a cache has held with what its source has held."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any

from change_events import SQLiteSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from verification.harness.source import Entity


class Cache:
    """
    A SQLite file that workers share.

    SQLite records every write itself, in the transaction of that write.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        SQLiteSink(path).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TABLE applied "
                "(number INTEGER PRIMARY KEY, id TEXT, version INTEGER, body TEXT)"
            )
            for verb in ("INSERT", "UPDATE"):
                connection.execute(
                    # A row with a state is the worker's own.
                    f"CREATE TRIGGER note_{verb} AFTER {verb} ON entities WHEN new.state IS NULL "
                    "BEGIN INSERT INTO applied (id, version, body) "
                    "VALUES (new.id, new.version, new.body); END"
                )
            connection.commit()

    def items(self) -> dict[str, Any]:
        """Return what is cached."""
        with SQLiteSink(self.path) as sink:
            return dict(sink.items())

    def applied(self) -> dict[str, list[tuple[int, Entity | None]]]:
        """Return the versions and states that each id has had, in order."""
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            rows = connection.execute(
                "SELECT id, version, body FROM applied ORDER BY number"
            ).fetchall()
        applied = defaultdict(list)
        for id, version, body in rows:
            applied[id].append((version, None if body is None else json.loads(body)))
        return applied


def violations(
    applied: Sequence[tuple[int, Entity | None]], states: Sequence[Entity | None]
) -> tuple[int, int]:
    """
    Compare the states of an id in the cache with its states in the source.

    Returns:
        How many states are wrong: the source never had them, or their version does not follow the
        one before. And how many steps go backward: to a state older than the one before.
    """
    history = [None, *states]
    wrong, backward, at = 0, 0, 0
    for number, (version, state) in enumerate(applied, start=applied[0][0] if applied else 0):
        if state not in history or version != number:
            wrong += 1
        elif state in history[at:]:
            at = history.index(state, at)
        else:
            backward += 1
    return wrong, backward
