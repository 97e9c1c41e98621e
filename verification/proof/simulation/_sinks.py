"""The production sinks, for the cache of a world: in memory, in a file, or in a server."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from change_events import DynamoDBSink, MemorySink, PostgresSink, SQLiteSink
from change_events.sinks.memory import _Row
from change_events.typing import BulkSink, EnumerableSink, Sink, StatefulSink
from verification.harness.emulators import client, make_table, postgres_server, start_emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

SINKS = ("memory", "sqlite", "postgres", "dynamodb")


class AnySink(Sink[Any], BulkSink[Any], EnumerableSink, StatefulSink, Protocol):
    """What the worker and the operations call, and `get`."""

    def get(self, id: str, /) -> Any: ...


def change_by_hand(sink: AnySink, id: str, value: int) -> bool:
    """Change the row of an entity, and nothing else; return False for a sink in a server."""
    if isinstance(sink, MemorySink):
        row = sink._rows[id]
        sink._rows[id] = _Row(row.entry, value, row.applied_at)
        return True
    if isinstance(sink, SQLiteSink):
        return sink._write("UPDATE {table} SET body = ? WHERE id = ?", (str(value), id))
    return False


@contextmanager
def opened(where: str) -> Iterator[AnySink]:
    """
    Open an empty sink: `memory`, `sqlite`, or in the server with this URL.

    Its clock stands still, because a world's time is not the machine's.
    """
    if where == "memory":
        yield MemorySink(clock=float)
    elif where == "sqlite":
        with (
            tempfile.TemporaryDirectory(prefix="change-events-") as directory,
            SQLiteSink(Path(directory, "cache.db"), clock=float) as sink,
        ):
            yield sink
    elif where.startswith("postgres"):
        with PostgresSink(where, table=f"t{uuid.uuid4().hex}", clock=float) as sink:
            yield sink
    else:
        dynamodb = client("dynamodb", where)
        yield DynamoDBSink(make_table(dynamodb), client=dynamodb, clock=float)


@contextmanager
def served(name: str) -> Iterator[str]:
    """Run the server that a sink of `SINKS` needs; return what `opened` takes."""
    if name == "postgres":
        with postgres_server() as server:
            yield server.get_uri()
    elif name == "dynamodb":
        with tempfile.TemporaryDirectory(prefix="change-events-") as directory:
            emulator = start_emulator(Path(directory, "emulator.log"))
            try:
                yield emulator.address()
            finally:
                emulator.close()
    else:
        yield name
