"""How many looks a second each sink stores, in its real database."""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from change_events import (
    DynamoDBSink,
    Found,
    MemorySink,
    PostgresSink,
    RedisSink,
    SQLAlchemySink,
    SQLiteSink,
    Unchanged,
)
from verification.benchmarks.bench import distinct
from verification.benchmarks.contest import Report, Spread
from verification.harness.emulators import (
    MariaDB,
    client,
    make_table,
    mariadb_server,
    postgres_server,
    start_emulator,
)
from verification.harness.redis_server import program as redis_program
from verification.harness.redis_server import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events import Gone
    from verification.benchmarks.bench import Bench

THREADS = 10

PAGE = 100
"""Entities that are stored at once."""

DYNAMODB = "DynamoDBSink, emulator"

COLUMNS = [
    "sink",
    "new, 1 thread",
    "changed, 1 thread",
    f"changed, {THREADS} threads",
    f"unchanged, {THREADS} threads",
    f"in pages of {PAGE}",
    "CPU ms a look",
]


def storing(bench: Bench) -> Report:
    """
    N: looks that each sink stores in a second: it reads the entry, and writes what was found.
    """
    notes: list[str] = []
    rounds: dict[str, list[list[float]]] = {}
    with ExitStack() as exits:
        makes = sinks(exits, notes)
        for number in range(bench.rounds):
            turn = number % len(makes)
            names = [*makes]
            for name in [*names[turn:], *names[:turn]]:  # each round in another order
                few = name == DYNAMODB  # the emulator is slow
                looks = bench.number(500, 50) if few else bench.number(5_000, 300)
                bench.progress(name, looks)
                rounds.setdefault(name, []).append(measured(makes[name](), distinct(looks)))
    notes.append(
        "A second has so many looks, or entities of pages. The processor time is that of the "
        f"client, for a changed entity and {THREADS} threads; an emulator says nothing else."
    )
    return Report(
        table=[COLUMNS, *([name, *_cells(rounds[name])] for name in makes)],
        notes=notes,
        data=rounds,
    )


def sinks(exits: ExitStack, notes: list[str]) -> dict[str, Callable[[], Any]]:
    """
    Start the databases, which `exits` ends; add notes on those that are missing.

    Returns:
        By the name of each sink, what makes an empty one.
    """
    directory = Path(exits.enter_context(tempfile.TemporaryDirectory()))
    postgres = exits.enter_context(postgres_server()).get_uri()
    emulator = start_emulator(directory / "emulator.log")
    exits.callback(emulator.close)
    dynamodb = client("dynamodb", emulator.address())

    def in_file(make: Callable[..., Any], prefix: str) -> Any:
        return exits.enter_context(make(f"{prefix}{directory}/{uuid.uuid4().hex}.db"))

    def in_table(make: Callable[..., Any], database: str) -> Any:
        return exits.enter_context(make(database, table=f"t{uuid.uuid4().hex}"))

    with_driver = postgres.replace("postgresql:", "postgresql+psycopg:")
    makes: dict[str, Callable[[], Any]] = {
        "MemorySink": MemorySink,
        "SQLiteSink": partial(in_file, SQLiteSink, ""),
        "SQLAlchemySink, SQLite": partial(in_file, SQLAlchemySink, "sqlite:///"),
        "PostgresSink": partial(in_table, PostgresSink, postgres),
        "SQLAlchemySink, PostgreSQL": partial(in_table, SQLAlchemySink, with_driver),
        DYNAMODB: lambda: DynamoDBSink(make_table(dynamodb), client=dynamodb),
    }
    if MariaDB.program is None:
        notes.append("SQLAlchemySink, MariaDB did not take part: MariaDB is not installed.")
    else:
        mariadb = exits.enter_context(mariadb_server()).make_database()
        makes["SQLAlchemySink, MariaDB"] = partial(in_table, SQLAlchemySink, mariadb)
    if redis_program() is None:
        notes.append("RedisSink did not take part: Redis is not installed.")
    else:  # like the other databases, it answers when a change is on the disk
        settings = {"appendonly": "yes", "appendfsync": "always"}
        redis = exits.enter_context(redis_server(**settings)).url
        makes["RedisSink"] = lambda: exits.enter_context(RedisSink(redis, name=uuid.uuid4().hex))
    return makes


def measured(sink: Any, ids: Sequence[str]) -> list[float]:
    """Return looks a second for each column of figures, and the milliseconds of CPU of a look."""
    products = {id: {"id": id, "name": f"Anvil {id}", "price": 100} for id in ids}

    def look(change: Callable[[str], Found[Any] | Unchanged | Gone], id: str) -> None:
        if not sink.apply(id, change(id), if_version=sink.entry(id).version):
            raise AssertionError(f"another look at {id}")

    def found(name: str, id: str) -> Found[Any]:
        return Found({**products[id], "name": name}, f'"{name}"', f"{name} {id}")

    def page(at: int) -> None:
        sink.insert_many({f"page-{id}": found("new", id) for id in ids[at : at + PAGE]})

    new, changed = partial(look, partial(found, "new")), partial(look, partial(found, "changed"))
    again, unchanged = partial(look, partial(found, "again")), partial(look, lambda _: Unchanged())
    one = [len(ids) / seconds(each, ids, 1)[0] for each in (new, changed)]
    wall, cpu = seconds(again, ids, THREADS)
    at_once, _ = seconds(unchanged, ids, THREADS)
    pages, _ = seconds(page, range(0, len(ids), PAGE), 1)
    return [*one, *(len(ids) / each for each in (wall, at_once, pages)), cpu / len(ids) * 1e3]


def seconds(call: Callable[[Any], object], of: Sequence[Any], threads: int) -> tuple[float, float]:
    """Call with each of these; return the seconds, and those of this process's CPU."""
    with ThreadPoolExecutor(threads) as pool:
        wall, cpu = time.perf_counter(), time.process_time()
        list(pool.map(call, of))
        return time.perf_counter() - wall, time.process_time() - cpu


def _cells(rounds: list[list[float]]) -> list[str]:
    *rates, cpu = zip(*rounds, strict=True)
    return [*(Spread.of(rate).text(0) for rate in rates), f"{statistics.median(cpu):.2f}"]
