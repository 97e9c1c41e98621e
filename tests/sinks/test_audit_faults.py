"""An audit finds what was done to a cache by SQL, and a repair mends it, on real databases."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import psycopg
import pytest

from change_events import (
    DynamoDBSink,
    Gone,
    HTTPFetcher,
    PostgresSink,
    SQLAlchemySink,
    SQLiteSink,
    refresh,
)
from change_events._operations.audit import Audit
from conftest import make_schema, make_table
from databases import running_on
from hooks import postgres_products

NUMBER = 30


@pytest.fixture
def fetcher(source):
    for n in range(NUMBER):
        source.entities[f"p{n}"] = {"id": f"p{n}", "name": f"Anvil {n}", "n": n}
    return HTTPFetcher(f"{source.url}/products/{{id}}", bulk_url=f"{source.url}/many")


@pytest.fixture
def sqlite(tmp_path):
    """A sink, and what runs SQL beside it."""
    path = tmp_path / "cache.db"
    with SQLiteSink(path) as sink, closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield sink, other.execute, "json_set(body, '$.name', 'Hammer')"


@pytest.fixture
def postgresql(postgres):
    database = make_schema(postgres)
    with (
        PostgresSink(database) as sink,
        psycopg.connect(database, autocommit=True) as connection,
    ):
        yield sink, connection.execute, """jsonb_set(body, '{name}', '"Hammer"')"""


@pytest.fixture
def mariadb_database(mariadb):
    url = mariadb.make_database()
    with SQLAlchemySink(url) as sink, running_on(url) as execute:
        yield sink, execute, "json_set(body, '$.name', 'Hammer')"


def spoil(sink, execute, changed, source):
    """Plant the five faults."""
    execute(f"UPDATE entities SET body = {changed} WHERE id = 'p1'")
    execute("DELETE FROM entities WHERE id = 'p2'")
    columns, values = "id, version, body, applied_at", "'extra', 1, '{\"id\": \"extra\"}'"
    if isinstance(sink, PostgresSink):
        execute(f"INSERT INTO entities ({columns}, present) VALUES ({values}, now(), true)")
    elif isinstance(sink, SQLAlchemySink):
        execute(f"INSERT INTO entities ({columns}, present, revision) VALUES ({values}, 0, 1, '')")
    else:
        execute(f"INSERT INTO entities ({columns}) VALUES ({values}, 0)")
    source.entities["p3"] = {"id": "p3", "name": "Saved without a broadcast", "n": 3}
    sink.apply("p4", Gone(), if_version=sink.entry("p4").version)


@pytest.mark.parametrize("entities", [True, False])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb_database"])
def test_planted_faults_are_found_and_repaired(kind, entities, request, source, fetcher):
    sink, execute, changed = request.getfixturevalue(kind)
    for id in source.entities:
        refresh(id, fetcher=fetcher, sink=sink)
    listing = list(source.entities)
    audit = Audit(listing, fetcher=fetcher, sink=sink, min_age=0.0)
    assert audit.run().clean

    spoil(sink, execute, changed, source)
    if entities:
        listing = list(source.entities.items())
    audit = Audit(listing, fetcher=fetcher, sink=sink, min_age=0.0)
    report = audit.run()

    assert (report.missing_ids, report.extra_ids, sorted(report.different_ids)) == (
        ["p2", "p4"],
        ["extra"],
        ["p1", "p3"],
    )
    assert report.reasons == {
        "not what a look has stored: changed by hand": 1,
        "never looked at: never announced, or its row was deleted by hand": 1,
        "a row without a digest: inserted by hand, or stored under another revision": 1,
        "changed at the source and never announced": 1,
        "a tombstone: created again and never announced, or deleted by hand": 1,
    }
    assert audit.run(sample=1000).stale == 5

    report.repair()

    assert audit.run().clean
    assert dict(sink.items()) == source.entities
    assert json.loads(sink.state("audit"))["clean"] is True


def test_numbers_that_a_database_writes_in_another_way_are_the_same(postgresql, source, fetcher):
    sink, _, _ = postgresql
    source.entities["p0"] = {"id": "p0", "numbers": [1e22, 1e23, 1.0, -0.0, 1e-7, 2**70]}
    refresh("p0", fetcher=fetcher, sink=sink)

    assert Audit(["p0"], fetcher=fetcher, sink=sink, min_age=0.0).run().clean


def test_tables_of_ones_own_are_compared_by_what_read_returns(postgres, source, fetcher):
    database = make_schema(postgres)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE products (id text PRIMARY KEY, name text, n integer)")

        def read(connection, id):
            found = postgres_products.read(connection, id)
            return found and {"id": id, **found}

        hooks = {"upsert": postgres_products.upsert, "delete": postgres_products.delete}
        with (
            PostgresSink(database, **hooks) as sink,
            PostgresSink(database, **hooks, read=read) as reading,
        ):
            for id in source.entities:
                refresh(id, fetcher=fetcher, sink=sink)
            connection.execute("UPDATE products SET name = 'Hammer' WHERE id = 'p1'")
            connection.execute("DELETE FROM products WHERE id = 'p2'")
            settings = {"fetcher": fetcher, "min_age": 0.0}

            by_digest = Audit(list(source.entities), **settings, sink=sink).run()
            assert (by_digest.by, by_digest.clean) == ("digests", True)

            audit = Audit(list(source.entities), **settings, sink=reading)
            report = audit.run()
            assert (report.different_ids, report.missing_ids) == (["p1"], ["p2"])
            report.repair()
            assert audit.run().clean


def test_a_dynamodb_table_is_compared(aws, source, fetcher):
    sink = DynamoDBSink(make_table())
    for id in source.entities:
        refresh(id, fetcher=fetcher, sink=sink)
    source.entities["p3"] = {"id": "p3", "n": 33}
    source.entities["p5"] = None
    audit = Audit(list(source.entities), fetcher=fetcher, sink=sink, min_age=0.0)

    report = audit.run()

    assert (report.different_ids, report.extra_ids, report.missing) == (["p3"], ["p5"], 0)
    report.repair()
    assert audit.run().clean
