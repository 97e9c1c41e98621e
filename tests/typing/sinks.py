"""Checked by mypy and pyright, never run: the sinks fit the seams."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from redis import Redis, RedisCluster
from sqlalchemy import URL, Connection, Engine
from typing_extensions import assert_type

from change_events import (
    BulkSink,
    DynamoDBSink,
    ForgetfulSink,
    Found,
    Gone,
    MemorySink,
    PostgresSink,
    ReadableSink,
    RedisSink,
    Sink,
    SQLAlchemySink,
    SQLiteSink,
)


def bulk_sinks() -> None:
    sinks: list[BulkSink[dict[str, Any]]] = [
        MemorySink(),
        SQLiteSink("cache.db"),
        PostgresSink(""),
        SQLAlchemySink("sqlite:///cache.db"),
        DynamoDBSink("products"),
        RedisSink("redis://"),
    ]
    assert_type(sinks[0].insert_many({"p1": Found({"id": "p1"})}), set[str])
    sinks[0].insert_many({"p1": Gone()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]  # only what was found
    sinks[0].insert_many({"p1": Found(1)})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another type


def bulk_sink_or_not(sink: Sink[Any]) -> None:
    if isinstance(sink, BulkSink):
        assert_type(sink.insert_many({}), set[str])


def readable_sinks() -> None:
    sinks: list[ReadableSink[dict[str, Any]]] = [
        MemorySink(),
        SQLiteSink("cache.db"),
        PostgresSink(""),
        SQLAlchemySink("sqlite:///cache.db"),
        DynamoDBSink("products"),
        RedisSink("redis://"),
    ]
    assert_type(sinks[0].get_many(["p1"]), Mapping[str, dict[str, Any]])
    assert_type(SQLiteSink("cache.db").get_many(["p1"]), dict[str, dict[str, Any]])
    sinks[0].get_many([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # no id


def readable_sink_or_not(sink: Sink[Any]) -> None:
    if isinstance(sink, ReadableSink):
        assert_type(sink.get_many([]), Mapping[str, Any])


def forgetful_sink_or_not(sink: Sink[Any]) -> None:
    if isinstance(sink, ForgetfulSink):
        assert_type(sink.epoch(), str)


def redis_sink(client: Redis, cluster: RedisCluster) -> None:
    RedisSink(client, name="products", keep_tombstones=30 * 86400.0, timeout=1)
    with RedisSink(cluster) as sink:
        forgetful: ForgetfulSink = sink
        assert_type(forgetful.epoch(), str)
        assert_type(sink.since_loss, float | None)
        assert_type(sink.get("p1"), dict[str, Any] | None)
    RedisSink(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no server


def upsert(connection: Connection, id: str, value: Mapping[str, Any]) -> None: ...


def delete(connection: Connection, id: str) -> None: ...


def read(connection: Connection, id: str) -> Mapping[str, Any] | None: ...


def upsert_in_sqlite(connection: sqlite3.Connection, id: str, value: Mapping[str, Any]) -> None: ...


def delete_in_sqlite(connection: sqlite3.Connection, id: str) -> None: ...


def tables_of_ones_own(engine: Engine, url: URL) -> None:
    SQLAlchemySink(engine, upsert=upsert, delete=delete)
    SQLAlchemySink(url, table="shop.entities", upsert=upsert, delete=delete)
    SQLiteSink("cache.db", upsert=upsert_in_sqlite, delete=delete_in_sqlite)
    SQLAlchemySink(engine, upsert=upsert, delete=delete, read=read)
    PostgresSink(url)
    assert_type(SQLAlchemySink(engine).get("p1"), dict[str, Any] | None)
    assert_type(SQLAlchemySink(engine).purge(), int)
    SQLAlchemySink(engine, upsert=upsert_in_sqlite, delete=delete)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another library's connection
    SQLiteSink("cache.db", upsert=upsert_in_sqlite, delete=delete)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another library's connection
    SQLAlchemySink(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no database
