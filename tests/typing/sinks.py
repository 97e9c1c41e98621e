"""Checked by mypy and pyright, never run: the sinks fit the seams."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from change_events import (
    BulkSink,
    DynamoDBSink,
    Found,
    Gone,
    MemorySink,
    PostgresSink,
    Sink,
    SQLiteSink,
)


def bulk_sinks() -> None:
    sinks: list[BulkSink[dict[str, Any]]] = [
        MemorySink(),
        SQLiteSink("cache.db"),
        PostgresSink(""),
        DynamoDBSink("products"),
    ]
    assert_type(sinks[0].insert_many({"p1": Found({"id": "p1"})}), set[str])
    sinks[0].insert_many({"p1": Gone()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # only what was found
    sinks[0].insert_many({"p1": Found(1)})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another type


def bulk_sink_or_not(sink: Sink[Any]) -> None:
    if isinstance(sink, BulkSink):
        assert_type(sink.insert_many({}), set[str])
