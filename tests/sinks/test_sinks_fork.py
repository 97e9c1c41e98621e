"""Sinks and forks, in processes of their own: a test that forks pytest would fork its threads."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from change_events import ConfigurationError, Found, SQLiteSink
from change_events.sinks.sqlite.file import FORKS
from conftest import make_schema, make_table

FOUND = Found({"n": 1}, '"one"')


START = """
import os, sys, threading
from change_events import *

def apply(sink, id):
    version = sink.entry(id).version
    assert sink.apply(id, Found({"n": 1}), if_version=version) is True
    os.write(1, f"{id}\\n".encode())

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit()
    return pid

def attempt(work):
    try:
        return work()
    except ConfigurationError as error:
        os.write(1, f"{error}\\n".encode())
"""


def start(script, *args):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end_of(process):
    """Return what a process and its forks write until the end of the last of them."""
    try:
        output, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    assert process.returncode == 0, output
    return output.splitlines()


def run(script, *args):
    return end_of(start(script, *args))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def ids_in(path):
    with SQLiteSink(path) as sink:
        return sink.ids(limit=1_000_000)


def test_what_a_fork_writes_outlives_its_parent_and_a_reader(path):
    process = start(
        """
sink = SQLiteSink(sys.argv[1])
apply(sink, "p0")
child(lambda: (sys.stdin.read(), apply(sink, "p1"), os._exit(0)))
""",
        path,
    )
    process.wait(60)  # the parent only
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT id FROM entities").fetchall() == [("p0",)]
    reader.close()

    assert end_of(process) == ["p0", "p1"]  # the child waits for the end of its input
    assert ids_in(path) == ["p0", "p1"]


def test_forks_amid_the_writes_of_many_threads_lose_nothing(path):
    acknowledged = run(
        """
sink, other = SQLiteSink(sys.argv[1], timeout=60), SQLiteSink(sys.argv[1], table="t", timeout=60)
ended = threading.Event()

def write(thread):
    n = 0
    while not ended.is_set():
        apply(sink, f"thread{thread}-{n}")
        apply(other, f"thread{thread}-{n}")
        n += 1

def write_in_child(number):
    for n in range(5):
        apply(sink, f"child{number}-{n}")

threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for number in range(10):
    os.waitpid(child(lambda: write_in_child(number)), 0)
ended.set()
for thread in threads:
    thread.join()
apply(sink, "parent")
""",
        path,
    )

    assert set(ids_in(path)) == set(acknowledged)
    assert {f"child{number}-{n}" for number in range(10) for n in range(5)} < set(acknowledged)


def test_a_fork_finds_the_file_from_another_directory(path, tmp_path):
    run(
        """
os.chdir(sys.argv[1])
sink = SQLiteSink("cache.db")
os.waitpid(child(lambda: (os.chdir("/"), apply(sink, "p1"))), 0)
apply(sink, "p2")
""",
        tmp_path,
    )

    assert ids_in(path) == ["p1", "p2"]


def test_a_cache_in_memory_stays_with_the_parent():
    (refused, found) = run(
        """
sink = SQLiteSink(":memory:")
apply(sink, "p1")
os.waitpid(child(lambda: attempt(lambda: apply(sink, "p2"))), 0)
os.write(1, repr(sink.ids()).encode())
"""
    )[1:]

    assert "cache in memory was made in process" in refused
    assert found == "['p1']"


def test_a_listing_that_began_before_a_fork_ends_on_both_sides():
    listed = run(
        """
sink = SQLiteSink(":memory:")
apply(sink, "p1")
items = sink.items()
def write(): os.write(1, repr(list(items)).encode() + b"\\n")
os.waitpid(child(write), 0)
write()
"""
    )

    assert listed == ["p1", *["[('p1', {'n': 1})]"] * 2]


def test_a_fork_can_not_use_connections_to_postgres_and_the_parents_stay_good(postgres):
    refused, *written = run(
        """
with PostgresSink(sys.argv[1]) as sink:
    def use():
        with sink:
            attempt(lambda: sink.entry("p1"))
    os.waitpid(child(use), 0)
    sessions = lambda: sink._table.rows("SELECT pid FROM pg_stat_activity WHERE datname <> ''")
    before = sessions()
    for n in range(3):
        apply(sink, f"p{n}")
    assert sessions() == before
""",
        make_schema(postgres),
    )

    assert "PostgresSink was made in process" in refused
    assert written == ["p0", "p1", "p2"]


def test_a_fork_can_not_use_connections_of_sqlalchemy_and_the_parents_stay_good(mariadb):
    refused, *written = run(
        """
with SQLAlchemySink(sys.argv[1], connections=1) as sink:
    def use():
        with sink:
            attempt(lambda: sink.entry("p1"))
    session = lambda: sink._transactions.run(
        lambda connection: connection.exec_driver_sql("SELECT connection_id()").scalar()
    )
    before = session()
    os.waitpid(child(use), 0)
    for n in range(3):
        apply(sink, f"p{n}")
    assert session() == before
""",
        mariadb.make_database(),
    )

    assert "SQLAlchemySink was made in process" in refused
    assert written == ["p0", "p1", "p2"]


def test_a_fork_can_not_use_connections_to_dynamodb(aws):
    table = make_table()
    refused, *written = run(
        """
sink = DynamoDBSink(sys.argv[1])
os.waitpid(child(lambda: attempt(lambda: sink.entry("p1"))), 0)
apply(sink, "p1")
""",
        table,
    )

    assert "DynamoDBSink was made in process" in refused
    assert written == ["p1"]


def test_a_fork_can_not_use_connections_to_redis_and_the_parents_stay_good(redis_server):
    refused, *written = run(
        """
with RedisSink(sys.argv[1], name=sys.argv[2]) as sink:
    def use():
        with sink:
            attempt(lambda: sink.entry("p1"))
    connection = sink._server.command("CLIENT", b"ID")
    os.waitpid(child(use), 0)
    for n in range(3):
        apply(sink, f"p{n}")
    assert sink._server.command("CLIENT", b"ID") == connection
""",
        redis_server.url,
        uuid.uuid4().hex,
    )

    assert "RedisSink was made in process" in refused
    assert written == ["p0", "p1", "p2"]


# Without a fork: what its hooks do.

OPEN_FILES = Path("/proc/self/fd")


def fork(*, side="parent"):
    """Do with the sinks of this process what a fork does with those of one of its sides."""
    FORKS.before()
    FORKS.after_in_parent() if side == "parent" else FORKS.after_in_child()


def as_child(monkeypatch):
    pid = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: pid)


@pytest.mark.parametrize("name", ["cache.db", "a b?mode=memory#%41.db", "\u00fc\udcff.db"])
def test_a_file_is_opened_again_whatever_its_name(tmp_path, name):
    with SQLiteSink(tmp_path / name) as sink:
        sink.apply("p1", FOUND, if_version=0)
        fork()
        assert sink.get("p1") == FOUND.value
        assert sink._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="this system does not show what is open")
def test_no_file_is_open_during_a_fork(path):
    with SQLiteSink(path) as sink:
        sink.apply("p1", FOUND, if_version=0)
        FORKS.before()
        try:
            links = [link.resolve() for link in OPEN_FILES.iterdir()]
        finally:
            FORKS.after_in_parent()

    assert not [link for link in links if link.name.startswith(path.name)]


def test_a_file_that_is_gone_after_a_fork_is_an_error_at_each_use_until_it_is_back(path, tmp_path):
    with SQLiteSink(path) as sink:
        sink.apply("p1", FOUND, if_version=0)
        fork()
        path.rename(tmp_path / "moved.db")
        for _ in range(2):
            with pytest.raises(
                ConfigurationError, match=r"cache\.db' can't be used: unable to open"
            ):
                sink.entry("p1")
            with pytest.raises(
                ConfigurationError, match=r"cache\.db' can't be used: unable to open"
            ):
                sink.apply("p2", FOUND, if_version=0)
        assert not path.exists()

        (tmp_path / "moved.db").rename(path)
        assert sink.ids() == ["p1"]


def test_writes_that_wait_during_a_fork_are_not_the_childs(path):
    with SQLiteSink(path) as sink:
        sink._file.waiting.append("a write of a thread that the child does not have")
        fork(side="child")

        assert sink.apply("p1", FOUND, if_version=0)


def test_a_fork_that_python_did_not_see_can_not_use_the_sink(path, monkeypatch):
    sink = SQLiteSink(path)
    with monkeypatch.context() as patch:
        as_child(patch)
        for use in (sink.ids, fork, sink.ids, sink.close, sink.ids):
            if use == sink.ids:
                with pytest.raises(ConfigurationError, match="this SQLiteSink was made in process"):
                    use()
            else:
                use()

    assert sink.apply("p1", FOUND, if_version=0)  # it was not closed there
    sink.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_closed_sink_stays_closed_through_a_fork(path, when):
    sink = SQLiteSink(path)
    if when == "before":
        sink.close()
    fork()
    sink.close()
    fork()

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        sink.entry("p1")


def test_a_sink_that_nobody_closes_is_not_kept(path):
    sink = SQLiteSink(path)
    file, connection = weakref.ref(sink._file), sink._file.connection
    del sink
    gc.collect()
    connection.close()  # otherwise Python warns

    assert file() is None


def test_a_fork_waits_for_a_hook_that_uses_another_sink(tmp_path):
    script = """
from change_events.sinks.sqlite import file
entered, go_on = threading.Event(), threading.Event()

def upsert(connection, id, value):
    entered.set()
    assert go_on.wait(30)
    other.get("p1")

other = SQLiteSink(sys.argv[1])
sink = SQLiteSink(sys.argv[2], upsert=upsert, delete=lambda connection, id: None)
file.FORKS.files = [other._file, sink._file]
file.PATIENCE = 0.05
threading.Thread(target=apply, args=(sink, "p1")).start()
entered.wait()
threading.Timer(0.3, go_on.set).start()
os.waitpid(child(lambda: apply(other, "p2")), 0)
apply(other, "p3")
"""

    assert sorted(run(script, tmp_path / "other.db", tmp_path / "sink.db")) == ["p1", "p2", "p3"]


def test_a_fork_lets_go_of_all_files_while_one_is_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr("change_events.sinks.sqlite.file.PATIENCE", 0.05)
    free, used = SQLiteSink(tmp_path / "free.db"), SQLiteSink(tmp_path / "used.db")
    monkeypatch.setattr(FORKS, "files", [free._file, used._file])

    with ThreadPoolExecutor(1) as pool:
        with used._file.lock:
            assert pool.submit(FORKS._take_all, None).result() is used._file
            assert not FORKS.lock.locked()
            with free._file.lock:
                fork = pool.submit(FORKS.before)
                time.sleep(0.2)
                assert not fork.done()
        fork.result(30)
        pool.submit(FORKS.after_in_parent).result()


def test_a_fork_waits_for_a_file_in_use_alone_and_then_takes_all(tmp_path, monkeypatch):
    monkeypatch.setattr("change_events.sinks.sqlite.file.PATIENCE", 0.05)
    used, free = SQLiteSink(tmp_path / "used.db"), SQLiteSink(tmp_path / "free.db")
    monkeypatch.setattr(FORKS, "files", [used._file, free._file])

    def stays_free():
        return not any(FORKS.lock.locked() for _ in range(10) if time.sleep(0.01) is None)

    with ThreadPoolExecutor(1) as pool:
        with used._file.lock:
            fork = pool.submit(FORKS.before)
            time.sleep(0.05)
            assert any(stays_free() for _ in range(50))
        fork.result(30)
        assert FORKS._held == [used._file, free._file]
        pool.submit(FORKS.after_in_parent).result()
