"""Many workers on one cache, in one process and in several, while the source never rests."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing

import pytest

from change_events import HTTPFetcher, MemorySink, SNSPublisher, SQLiteSink, Worker, broadcasting
from conftest import running, wait_until

IDS = ["hot", "p1", "p2"]
SETTLE = 0.5


class Owner(threading.Thread):
    """Changes the source for a while, through broadcasts: slow and quick, confirmed and not, deletes and failures, too."""

    def __init__(self, source, channel, seed, changes=60):
        super().__init__()
        self._source = source
        self._publisher = SNSPublisher(channel.topic_arn)
        self._random = random.Random(seed)
        self._changes = changes
        self.error = None

    def run(self):
        try:
            for n in range(1, self._changes + 1):
                self._change(n)
        except BaseException as error:
            self.error = error

    def _change(self, n):
        id = self._random.choice(IDS)
        with broadcasting(self._publisher, id, settle=SETTLE, confirm=self._random.random() < 0.5):
            if self._random.random() < 0.1:
                return  # as if the save had failed
            if self._random.random() < 0.3:
                time.sleep(self._random.choice([0.02, 0.3, 0.7]))  # a slow save is what this plays
            self._source.entities[id] = None if self._random.random() < 0.2 else {"id": id, "n": n}


def check(applied):
    """Each apply adds one to its entry's version, and no state is followed by one that the source had before it."""
    for id in IDS:
        mine = [(version, n) for entry, version, n in applied if entry == id]
        assert [version for version, _ in mine] == list(range(mine[0][0], mine[0][0] + len(mine)))
        newest, deleted = 0, False
        for _, n in mine:
            if n is not None:  # what was deleted does not come back as it was
                assert n > newest or (n == newest and not deleted), f"{id} moved backward: {mine}"
                newest = n
            deleted = n is None


class Noting(MemorySink):
    """A sink that knows which of its applies succeeded, in their order."""

    def __init__(self):
        super().__init__()
        self.applied = []
        self._one_at_a_time = threading.Lock()

    def apply(self, id, change, /, *, if_version):
        with self._one_at_a_time:
            succeeded = super().apply(id, change, if_version=if_version)
            if succeeded:
                self.applied.append((id, self.entry(id).version, (self.get(id) or {}).get("n")))
            return succeeded


def note_applies(path):
    """Let SQLite itself note every write, in the transaction that makes it."""
    SQLiteSink(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE applied (number INTEGER PRIMARY KEY, id TEXT, version INTEGER, n INTEGER)")
        for verb in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TRIGGER note_{verb} AFTER {verb} ON entities BEGIN "
                "INSERT INTO applied (id, version, n) VALUES (new.id, new.version, json_extract(new.body, '$.n')); END"
            )
        connection.commit()


def noted(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, version, n FROM applied ORDER BY number").fetchall()


def change_and_wait(source, channel, seed):
    owner = Owner(source, channel, seed)
    owner.start()
    owner.join(60)
    assert owner.error is None
    wait_until(lambda: not channel.count())


def live(source):
    return {id: entity for id, entity in source.entities.items() if entity is not None}


def make_worker(channel, source, sink, **settings):
    fetcher = HTTPFetcher(source.url + "/products/{id}")
    return Worker(channel.queue_url, fetcher=fetcher, sink=sink, settle=SETTLE, wait_time=1, threads=4, **settings)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_workers_that_share_a_sink_in_one_process(channel, source, tmp_path, kind):
    path = tmp_path / "cache.db"
    note_applies(path)
    with SQLiteSink(path) as sqlite, ExitStack() as stack:
        sink = Noting() if kind == "memory" else sqlite
        workers = [make_worker(channel, source, sink) for _ in range(3)]
        for worker in workers:
            stack.enter_context(running(worker))
        change_and_wait(source, channel, seed=1)
        assert dict(sink.items()) == live(source)

    applied = sink.applied if kind == "memory" else noted(path)
    check(applied)
    stats = [worker.stats() for worker in workers]
    assert all(one.acknowledged for one in stats)
    looks = sum(one.created + one.updated + one.unchanged + one.deleted + one.never_saved for one in stats)
    assert len(applied) == looks


PROCESS = """
import json, sys, threading
from change_events import HTTPFetcher, SQLiteSink, Worker

queue_url, url, path, settle = sys.argv[1:]
with SQLiteSink(path) as one, SQLiteSink(path) as other:
    workers = [
        Worker(queue_url, fetcher=HTTPFetcher(url), sink=sink, settle=float(settle), wait_time=1, threads=4)
        for sink in (one, other)
    ]
    beside = threading.Thread(target=workers[1].run)
    beside.start()
    print("started", flush=True)
    workers[0].run()
    workers[1].stop()
    beside.join()
print(json.dumps([worker.stats().acknowledged for worker in workers]))
"""


def test_workers_in_several_processes_that_share_a_file(channel, source, tmp_path):
    path = tmp_path / "cache.db"
    note_applies(path)
    arguments = [channel.queue_url, source.url + "/products/{id}", str(path), str(SETTLE)]
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *arguments], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "started\n"
        change_and_wait(source, channel, seed=2)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=30)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert all(sum(json.loads(output)) for output in outputs)  # each had its share
    with SQLiteSink(path) as sink:
        assert dict(sink.items()) == live(source)
    check(noted(path))
