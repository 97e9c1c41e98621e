"""
A worker's database goes away and comes back: no event is lost, and the cache is right afterwards.

MemorySink needs no such test: its storage goes away only together with the worker.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from contextlib import suppress

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from change_events import (
    DynamoDBSink,
    Found,
    Gone,
    PostgresSink,
    RedisSink,
    SQLAlchemySink,
    SQLiteSink,
)
from change_events._consumer import backoff
from conftest import make_table, running, wait_until
from demo_parts.emulator import OneAtATime

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
"""


class SQLite:
    """Another process holds the write lock for longer than the sink waits."""

    def __init__(self, path):
        self._path = path

    def open(self):
        return SQLiteSink(self._path, timeout=0.05)

    def go_away(self):
        self._other = subprocess.Popen(
            [sys.executable, "-c", LOCK, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._other.stdout.readline() == "locked\n"

    def come_back(self):
        self._other.communicate()


class Postgres:
    """The server stops, which ends all connections and refuses new ones, and starts again."""

    def __init__(self, server):
        self._server = server
        self.go_away = server.stop
        self.come_back = server.ensure_postgres_running

    def open(self):
        return PostgresSink(self._server.get_uri(), table=f"t{uuid.uuid4().hex}", timeout=0.5)


class MariaDB:
    """The server is killed, and starts again."""

    def __init__(self, server):
        self._url = server.make_database()
        self.go_away = server.stop
        self.come_back = server.start

    def open(self):
        return SQLAlchemySink(self._url, timeout=0.5)


class DynamoDB:
    """
    The endpoint refuses connections. The emulator keeps its tables in this process, so they outlive
    its servers.
    """

    def __init__(self):
        self._port = 0
        self.come_back()

    def come_back(self):
        # It ends each connection after one answer, so none is left to a server that is gone.
        app = OneAtATime(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", self._port, app, threaded=True)
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def go_away(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def open(self):
        client = boto3.client(
            "dynamodb",
            endpoint_url=f"http://127.0.0.1:{self._port}",
            config=Config(retries={"total_max_attempts": 1}),
        )
        return DynamoDBSink(make_table(client), client=client)


class Redis:
    """The server is stopped, which saves a snapshot, and starts again."""

    def __init__(self, server):
        self._server = server
        self.come_back = server.start

    def go_away(self):
        with self._server.client as client:
            client.save()
        self._server.kill()

    def open(self):
        return RedisSink(self._server.url, timeout=0.5)


@pytest.fixture(params=["SQLite", "PostgreSQL", "MariaDB", "DynamoDB", "Redis"])
def database(request, tmp_path):
    if request.param == "SQLite":
        yield SQLite(tmp_path / "cache.db")
    elif request.param == "PostgreSQL":
        yield Postgres(request.getfixturevalue("postgres"))
    elif request.param == "Redis":
        with request.getfixturevalue("make_redis")() as server:
            yield Redis(server)
    elif request.param == "MariaDB":
        yield MariaDB(request.getfixturevalue("mariadb"))
    else:
        database = DynamoDB()
        yield database
        database.go_away()


@pytest.fixture
def sink(database):
    sink = database.open()
    yield sink
    getattr(sink, "close", lambda: None)()


def test_a_cache_is_right_again_after_an_outage_of_its_database(
    channel, source, sink, database, make_worker, outcomes, monkeypatch
):
    # The pauses would double, up to five minutes.
    monkeypatch.setattr(backoff, "MAX_PAUSE", 0.4)
    worker = make_worker()
    source.entities |= {f"p{n}": {"id": f"p{n}", "n": 1} for n in range(4)}
    channel.announce(*source.entities)
    with running(worker):
        outcomes.wait_for(*((id, "created") for id in source.entities))

        database.go_away()
        try:
            source.entities |= {"p0": {"id": "p0", "n": 2}, "p1": None, "p4": {"id": "p4", "n": 1}}
            channel.announce("p0", "p1", "p4", "p5")
            wait_until(lambda: worker.stats().failed >= 4)
            source.entities["p2"] = None
            channel.announce("p2")
            wait_until(lambda: worker.stats().failed >= 8)
        finally:
            database.come_back()

        outcomes.wait_for(
            ("p0", "updated"),
            ("p1", "deleted"),
            ("p2", "deleted"),
            ("p4", "created"),
            ("p5", "never_saved"),
        )

    assert channel.count() == {}
    assert dict(sink.items()) == {id: entity for id, entity in source.entities.items() if entity}
    assert worker.stats().acknowledged == 9


def test_a_page_can_be_stored_again_after_an_outage_of_its_database(sink, database):
    page = {f"p{n}": Found({"id": f"p{n}", "n": n}) for n in range(20)}
    sink.apply("p1", Gone(), if_version=0)
    database.go_away()
    try:
        with pytest.raises(Exception, match=r"."):  # each database has its own
            sink.insert_many(page)
    finally:
        database.come_back()

    stored = []

    def store_again():
        with suppress(Exception):  # PostgreSQL's pool first finds out that its connections are dead
            # Redis first finds out that it was started again.
            stored.extend(ids for ids in [sink.insert_many(page)] if ids)
        return stored

    wait_until(store_again)

    assert stored == [page.keys() - {"p1"}]
    assert len(sink) == 19
