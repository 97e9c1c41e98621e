"""How fast a cache is filled, beside reading the listing and storing nothing."""

from __future__ import annotations

import json
import statistics
import sys
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from verification.benchmarks.contest import Report
from verification.benchmarks.source import PAGE
from verification.harness.emulators import postgres_server
from verification.harness.figures import Figure
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench
    from verification.benchmarks.stage import Stage

LATENCY = 0.010
"""Seconds that the source needs for a page, or a GET."""


def backfilling(bench: Bench) -> Report:
    """K: a backfill of 100,000 products, pages of 100 in 10 ms; and of 20,000 ids."""
    stage = bench.stage(canned=True)
    many = max(PAGE, bench.number(100_000, 10_000))
    few = max(PAGE, bench.number(20_000, 2_000))
    stage.tell(stage.source, "begin", latency=LATENCY, still=True)
    rounds: dict[str, list[dict[str, float]]] = {}
    with postgres_server() as server:
        for _ in range(bench.rounds):
            for name, kind, number, cache in (
                ("reading", "read", many, "sqlite"),
                ("SQLite", "pages", many, "sqlite"),
                ("PostgreSQL", "pages", many, "postgres"),
                ("a GET for 50", "many", few, "sqlite"),
                ("a GET for each", "one", few, "sqlite"),
            ):
                bench.progress(name, number)
                where = _database(server) if cache == "postgres" else None
                rounds.setdefault(name, []).append(_run(stage, kind, number, where))

    def per_second(name: str, number: int) -> float:
        return number / statistics.median(each["seconds"] for each in rounds[name])

    def ratio(name: str, of: str) -> float:
        """Return the median over the rounds: what was measured side by side is compared."""
        return statistics.median(
            other["seconds"] / each["seconds"]
            for each, other in zip(rounds[name], rounds[of], strict=True)
        )

    growth = statistics.median(each["megabytes"] for each in rounds["SQLite"])
    return Report(
        [
            Figure("SQLite, share of reading's speed", ratio("SQLite", "reading"), at_least=0.8),
            Figure(
                "PostgreSQL, share of reading's speed", ratio("PostgreSQL", "reading"), at_least=0.8
            ),
            Figure("SQLite, entities a second", per_second("SQLite", many), at_least=5_000),
            Figure("PostgreSQL, entities a second", per_second("PostgreSQL", many)),
            Figure("SQLite, growth of memory", growth, "MB", at_most=20),
            Figure(
                "ids: 50 in a GET, times as fast as one",
                ratio("a GET for 50", "a GET for each"),
                at_least=5,
            ),
        ],
        notes=[f"{many:,} entities, {few:,} ids; 10 ms for each page and each GET; ten threads."],
        data={"entities": many, "ids": few, "rounds": rounds},
    )


def _database(server: Any) -> str:
    """Make a new database; return its URL."""
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url: str = server.get_uri(database=name)
    return url


def _run(stage: Stage, kind: str, number: int, cache: str | None) -> dict[str, float]:
    name = uuid.uuid4().hex
    process = stage.start(
        f"filling-{name}",
        sys.executable,
        "-m",
        "verification.benchmarks.filling",
        kind,
        stage.source,
        str(number),
        cache or str(stage.directory / f"{name}.db"),
    )
    wait_until(lambda: not process.alive, 600)
    measured: dict[str, float] = json.loads(process.text())
    return measured
