"""PostgresSink behind a real PgBouncer in transaction mode: each transaction gets any session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from change_events import Found, PostgresSink
from change_events.testing import SinkContract
from conftest import any_free_port, wait_until

SETTINGS = """
[databases]
* = host={socket} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
"""


@pytest.fixture(scope="module")
def bouncer(postgres):
    """A PgBouncer before the server; its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    port = any_free_port()
    (socket,) = parse_qs(urlsplit(postgres.get_uri()).query)["host"]
    # It does not run as root, and only the server's user can reach its socket.
    user = {"user": pwd.getpwuid(Path(socket).stat().st_uid).pw_name} if os.geteuid() == 0 else {}
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
        file.write(SETTINGS.format(port=port, socket=socket))
        file.flush()
        Path(file.name).chmod(0o644)
        with subprocess.Popen([program, "-q", file.name], **user) as process:
            wait_until(lambda: can_connect(f"host=127.0.0.1 port={port} dbname=postgres"))
            yield port
            process.kill()


def can_connect(conninfo):
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def database(postgres, bouncer):
    """A new database, through PgBouncer, which refuses the `options` that choose a schema."""
    name = f"bounced_{uuid.uuid4().hex}"  # a process can run this module's tests in two parts
    with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"host=127.0.0.1 port={bouncer} dbname={name}"


@pytest.fixture
def tables():
    """The names of two tables that no other test uses."""
    return [f"{name}_{uuid.uuid4().hex}" for name in ("products", "orders")]


class TestPostgresSinkBehindPgBouncer(SinkContract):
    @pytest.fixture
    def sink(self, open_again, clock):
        with open_again(clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, database, tables):
        return partial(PostgresSink, database, table=tables[0])


@pytest.fixture(params=["pools of its own", "a pool of the user"])
def open_sink(request, database):
    if request.param == "pools of its own":
        yield partial(PostgresSink, database)
    else:
        with ConnectionPool(database, min_size=2, open=True) as pool:
            yield partial(PostgresSink, pool)


def test_the_entities_of_two_sinks_stay_in_their_own_tables(open_sink, tables):
    one, other = tables
    with open_sink(table=one) as products, open_sink(table=other) as orders:
        for n in range(50):
            assert products.apply(f"p{n}", Found({"kind": "product"}), if_version=0)
            assert orders.apply(f"o{n}", Found({"kind": "order"}), if_version=0)
            assert products.get(f"p{n}") == {"kind": "product"}
            assert orders.get(f"o{n}") == {"kind": "order"}

        assert dict(products.items()) == {f"p{n}": {"kind": "product"} for n in range(50)}
        assert dict(orders.items()) == {f"o{n}": {"kind": "order"} for n in range(50)}


def test_statements_of_upsert_stay_in_their_own_tables(open_sink, database, tables):
    def insert(table, connection, id, value):
        connection.execute(f"INSERT INTO {table} VALUES (%s)", (id,))

    def delete(connection, id):
        raise NotImplementedError

    with psycopg.connect(database, autocommit=True) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id text PRIMARY KEY)")
        one, other = (
            open_sink(table=f"v_{table}", upsert=partial(insert, table), delete=delete)
            for table in tables
        )
        with one, other:
            for n in range(50):
                assert one.apply(f"p{n}", Found({}), if_version=0)
                assert other.apply(f"o{n}", Found({}), if_version=0)

        for table in tables:
            rows = connection.execute(f"SELECT id FROM {table}").fetchall()
            assert {id for (id,) in rows} == {f"{table[0]}{n}" for n in range(50)}
