"""Several workers share a cache, in one process and in several."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import ExitStack

import pytest

from change_events import HTTPFetcher, MemorySink, SNSPublisher, SQLiteSink, Worker
from conftest import running, wait_until
from verification.harness.judge import Cache, violations
from verification.harness.source import Saver, Source

IDS = ["hot", "p1", "p2"]
SETTLE = 0.5


@pytest.fixture
def changing_source():
    source = Source()
    with source.server:
        yield source


class Noting(MemorySink):
    """A sink that remembers which of its applies succeeded, in their order."""

    def __init__(self):
        super().__init__()
        self.applied = defaultdict(list)
        self._one_at_a_time = threading.Lock()

    def apply(self, id, change, /, *, if_version):
        with self._one_at_a_time:
            succeeded = super().apply(id, change, if_version=if_version)
            if succeeded:
                self.applied[id].append((self.entry(id).version, self.get(id)))
            return succeeded


def change_and_wait(source, channel, seed):
    saver = Saver(
        source, SNSPublisher(channel.topic_arn), IDS, settle=SETTLE, per_second=1000, seed=seed
    )
    saver.start()
    wait_until(lambda: saver.saves >= 60 or not saver.is_alive(), 60)
    saver.end()
    wait_until(lambda: not channel.count())


def check(applied, source):
    """
    Assert that each apply added one to its entry's version, and that no entry went back to a state
    that the source had earlier.
    """
    assert {id: violations(applied[id], source.states[id]) for id in applied} == dict.fromkeys(
        IDS, (0, 0)
    )


def test_several_workers_on_one_queue_and_one_file_agree(channel, source, make_worker, tmp_path):
    ids = [f"p{number}" for number in range(15)]
    path = tmp_path / "cache.db"
    with SQLiteSink(path) as one, SQLiteSink(path) as other:
        workers = [
            make_worker(settle=0.3, sink=one),
            make_worker(settle=0.3, sink=other),
            make_worker(settle=0.3, sink=one),
        ]
        with running(workers[0]), running(workers[1]), running(workers[2]):
            for version in range(6):
                for id in ids:
                    source.entities[id] = {"id": id, "version": version}
                channel.announce(*ids)
            source.entities["p3"] = None
            channel.announce("p3")
            wait_until(lambda: not channel.count())

        assert dict(other.items()) == {
            id: entity for id, entity in source.entities.items() if entity
        }
        assert sum(worker.stats().acknowledged for worker in workers) >= 91


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_workers_in_one_process_that_share_a_sink_follow_a_changing_source(
    channel, changing_source, tmp_path, kind
):
    cache = Cache(tmp_path / "cache.db")
    with SQLiteSink(cache.path) as sqlite, ExitStack() as stack:
        sink = Noting() if kind == "memory" else sqlite
        fetcher = HTTPFetcher(changing_source.server.url + "/products/{id}")
        workers = [
            Worker(
                channel.queue_url,
                fetcher=fetcher,
                sink=sink,
                settle=SETTLE,
                wait_time=1,
                threads=4,
                allow_mass_deletion=True,  # three entities come and go
            )
            for _ in range(3)
        ]
        for worker in workers:
            stack.enter_context(running(worker))
        change_and_wait(changing_source, channel, seed=1)
        assert dict(sink.items()) == changing_source.live()

    applied = sink.applied if kind == "memory" else cache.applied()
    check(applied, changing_source)
    stats = [worker.stats() for worker in workers]
    assert all(one.acknowledged for one in stats)
    looks = sum(
        one.created + one.updated + one.unchanged + one.deleted + one.never_saved for one in stats
    )
    assert sum(map(len, applied.values())) == looks


PROCESS = """
import json, sys, threading
from change_events import HTTPFetcher, SQLiteSink, Worker

queue_url, url, path, settle = sys.argv[1:]
with SQLiteSink(path) as one, SQLiteSink(path) as other:
    settings = {"settle": float(settle), "wait_time": 1, "threads": 4}
    settings["allow_mass_deletion"] = True  # three entities come and go
    workers = [
        Worker(queue_url, fetcher=HTTPFetcher(url), sink=sink, **settings) for sink in (one, other)
    ]
    beside = threading.Thread(target=workers[1].run)
    beside.start()
    print("started", flush=True)
    workers[0].run()
    workers[1].stop()
    beside.join()
print(json.dumps([worker.stats().acknowledged for worker in workers]))
"""


def test_workers_in_several_processes_that_share_a_file_follow_a_changing_source(
    channel, changing_source, tmp_path
):
    cache = Cache(tmp_path / "cache.db")
    arguments = [
        channel.queue_url,
        changing_source.server.url + "/products/{id}",
        str(cache.path),
        str(SETTLE),
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "started\n"
        change_and_wait(changing_source, channel, seed=2)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=30)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert all(sum(json.loads(output)) for output in outputs)  # each had its share
    assert cache.items() == changing_source.live()
    check(cache.applied(), changing_source)
