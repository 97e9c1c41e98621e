"""Databases that SQLAlchemy knows, and statements on them, for tests."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, text

from conftest import make_schema

DATABASES = ("SQLite", "PostgreSQL", "MariaDB")


def make_url(request, tmp_path, name):
    """Return the URL of an empty database; or skip the test."""
    if name == "SQLite":
        return f"sqlite:///{tmp_path}/cache.db"
    if name == "PostgreSQL":
        return make_schema(request.getfixturevalue("postgres")).replace("://", "+psycopg://", 1)
    return request.getfixturevalue("mariadb").make_database()


@contextmanager
def running_on(url):
    """A function that runs a statement without the sink, and returns its rows."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def run(statement):
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    engine.dispose()


def make_products(url, sql):
    """Make the table that `upsert` writes to."""
    collation = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin" if "mysql" in url else ""
    sql(
        f"CREATE TABLE products (id varchar(513) {collation} PRIMARY KEY, "
        "name varchar(100) NOT NULL CHECK (name <> ''), n integer NOT NULL)"
    )


class OfOwnTables:
    """What `SinkContract` needs if `upsert` stores products, which the fixture `products` reads."""

    @pytest.fixture(autouse=True)
    def _ask(self, products):
        self.products = products

    def entity(self, n):
        return {"name": f"Anvil {n}", "n": n}

    def listed(self, sink):
        return {id: {"name": name, "n": n} for id, name, n in self.products()}

    def stored(self, sink, id):
        return self.listed(sink).get(id)
