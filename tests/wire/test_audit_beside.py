"""A worker compares its cache with the source, for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    Gone,
    HTTPFetcher,
    MemorySink,
    SQLiteSink,
    refresh,
)
from change_events._event import Page
from change_events._operations.state import Kept
from change_events.metrics import PrometheusMetrics
from conftest import running, wait_until
from verification.harness.wire import Answer

FAST = {"audit_per_minute": 6_000, "audit_min_age": 0.2}


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "n": n} for n in numbers}


def kept(sink):
    return json.loads(sink.state("worker audit") or "{}")


def stale(sink):
    """Return what the audit knows to be wrong, and how."""
    return {id: each["kind"] for id, each in kept(sink).get("stale", {}).items()}


class Listed:
    """A listing of what the source has, in pages of ten."""

    url = "listed"

    def __init__(self, source):
        self.source = source
        self.asked = []
        self.error = None

    def page(self, cursor):
        self.asked.append(cursor)
        if self.error is not None:
            raise self.error
        ids = sorted(id for id, entity in self.source.entities.items() if entity)
        at = int(cursor or 0)
        return Page(ids[at : at + 10], None, str(at + 10) if at + 10 < len(ids) else None)


@pytest.fixture
def file(tmp_path, source):
    """A SQLite file that is a cache of thirty products."""
    source.entities.update(products(*range(30)))
    path = tmp_path / "cache.db"
    fetcher = HTTPFetcher(f"{source.url}/products/{{id}}")
    with SQLiteSink(path) as sink:
        for id in source.entities:
            refresh(id, fetcher=fetcher, sink=sink)
    return path


def filled(source, *numbers):
    """Return a cache of these products."""
    source.entities.update(products(*numbers))
    sink = MemorySink()
    fetcher = HTTPFetcher(f"{source.url}/products/{{id}}")
    for id in products(*numbers):
        refresh(id, fetcher=fetcher, sink=sink)
    return sink


def test_planted_faults_are_found_by_a_running_worker(make_worker, source, file, caplog):
    registry = CollectorRegistry()

    def metric(name):
        labels = {"queue": worker.queue_url.rpartition("/")[2]}
        return registry.get_sample_value(f"change_events_{name}", labels)

    with SQLiteSink(file) as sink, closing(sqlite3.connect(file, isolation_level=None)) as other:
        metrics = PrometheusMetrics(registry)
        worker = make_worker(sink=sink, backfill=Listed(source), metrics=metrics, **FAST)
        with running(worker):
            wait_until(lambda: kept(sink).get("last_clean"))
            clean = kept(sink)["last_clean"]
            wait_until(lambda: metric("audit_stale") == 0)

            other.execute("UPDATE entities SET body = json_set(body, '$.n', 99) WHERE id = 'p1'")
            other.execute("DELETE FROM entities WHERE id = 'p2'")
            other.execute(
                "INSERT INTO entities (id, version, body, applied_at) "
                "VALUES ('extra', 1, '{\"id\": \"extra\"}', 0)"
            )
            source.entities["p3"] = {"id": "p3", "n": 33}  # saved without a broadcast
            wait_until(
                lambda: (
                    stale(sink)
                    == {"p1": "different", "p2": "missing", "extra": "extra", "p3": "different"}
                )
            )
            wait_until(lambda: worker.health().audit_stale == metric("audit_stale") == 4)
            assert "the cache is wrong: p2 is missing (never looked at" in caplog.text
            passes = kept(sink)["ended"]
            wait_until(lambda: kept(sink)["ended"] > passes)
            assert kept(sink)["last_pass"]["clean"] is False
            assert worker.health().last_clean_audit > 0

            for id in ("p1", "p2", "p3"):
                other.execute("DELETE FROM entities WHERE id = ?", (id,))
                worker.refresh(id)
            worker.refresh("extra")
            wait_until(lambda: kept(sink)["last_clean"] > clean and stale(sink) == {})
        assert worker.stats().audit_compared >= 60
        assert metric("audit_compared_total") == worker.stats().audit_compared
        assert 0 <= metric("last_clean_audit_seconds") < 60
    assert b"change_events_last_clean_audit_seconds" in generate_latest(registry)


def test_a_cache_that_is_merely_late_is_not_reported(make_worker, channel, source):
    sink = filled(source, 1)
    source.entities["p1"] = {"id": "p1", "n": 11}
    compared = threading.Event()
    source.answer = lambda id: compared.set()
    with running(make_worker(sink=sink, audit_per_minute=6_000, audit_min_age=3.0)):
        assert compared.wait(30)
        channel.announce("p1")
        wait_until(lambda: kept(sink).get("last_clean"))
    assert stale(sink) == {}


def test_a_restart_keeps_the_last_clean_pass_and_what_is_wrong(make_worker, source, file):
    with (
        SQLiteSink(file) as sink,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
        running(make_worker(sink=sink, **FAST)),
    ):
        wait_until(lambda: kept(sink).get("last_clean"))
        other.execute("UPDATE entities SET body = json_set(body, '$.n', 99) WHERE id = 'p1'")
        wait_until(lambda: stale(sink))
    with SQLiteSink(file) as sink:
        before = kept(sink)
        source.answer = lambda id: Answer(503)
        worker = make_worker(sink=sink, **FAST)
        assert worker.health().audit_stale is None
        with running(worker):
            wait_until(lambda: worker.health().audit_stale == 1)
            assert worker.health().last_clean_audit >= time.time() - before["last_clean"] - 1
        assert kept(sink)["last_clean"] == before["last_clean"]


def test_a_suspect_is_read_again_after_a_restart(make_worker, source):
    sink = filled(source, *range(3))
    source.entities["p1"] = {"id": "p1", "n": 11}
    with running(make_worker(sink=sink, audit_per_minute=6_000, audit_min_age=3600.0)):
        wait_until(lambda: source.asked)
        wait_until(lambda: len(source.asked) >= 6)
    assert kept(sink)["suspects"] == ["p1"]

    asked = len(source.asked)
    with running(make_worker(sink=sink, **FAST)):
        wait_until(lambda: stale(sink))
    assert source.asked[asked].path.endswith("/p1")


def _audit_until_killed(file, url, queue_url, environment):
    os.environ.update(environment)
    from change_events import Worker

    Worker(
        queue_url,
        fetcher=HTTPFetcher(f"{url}/products/{{id}}"),
        sink=SQLiteSink(file),
        wait_time=1,
        **FAST,
    ).run()


def test_the_lease_of_a_worker_that_was_killed_is_inherited(make_worker, channel, source, file):
    process = multiprocessing.get_context("spawn").Process(
        target=_audit_until_killed,
        args=(file, source.url, channel.queue_url, dict(os.environ)),
        daemon=True,
    )
    process.start()
    with SQLiteSink(file) as sink:
        wait_until(lambda: kept(sink).get("last_clean"))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        before = kept(sink)
        assert before["owner"]["pid"] == process.pid
        with running(make_worker(sink=sink, **FAST)):
            wait_until(lambda: (kept(sink).get("owner") or {}).get("pid") == os.getpid())
            wait_until(lambda: kept(sink)["last_clean"] > before["last_clean"])


def test_one_of_two_workers_audits_and_both_know_the_result(make_worker, source, caplog):
    caplog.set_level("DEBUG", logger="change_events")
    sink = filled(source, *range(3))
    one, other = (make_worker(sink=sink, **FAST) for _ in range(2))
    with running(one):
        wait_until(lambda: kept(sink).get("last_clean"))
        with running(other):
            wait_until(lambda: "another worker audit works on this cache" in caplog.text)
            assert other.health().audit_stale == 0
            assert other.stats().audit_compared == 0


def test_an_outage_only_delays(make_worker, source):
    sink = filled(source, *range(3))
    source.answer = lambda id: Answer(503)
    worker = make_worker(sink=sink, **FAST)
    with running(worker):
        wait_until(lambda: len(source.asked) > 4)
        assert not kept(sink).get("last_pass")
        source.answer = lambda id: None
        wait_until(lambda: kept(sink).get("last_clean"))
    assert kept(sink)["stale"] == kept(sink)["undecided"] == {}


def test_an_entity_that_cant_be_read_is_named_and_the_pass_is_not_clean(make_worker, source):
    sink = filled(source, *range(3))
    source.answer = {"p1": Answer(500)}.get
    with running(make_worker(sink=sink, **FAST)):
        wait_until(lambda: kept(sink).get("last_pass"))
    last = kept(sink)["last_pass"]
    assert (last["compared"], last["clean"]) == (3, False)
    assert "answered 500" in last["undecided"]["p1"]
    assert kept(sink)["last_clean"] is None


def test_an_audit_that_fails_does_not_end_the_worker(make_worker, channel, source, caplog):
    sink = filled(source, *range(3))
    listing = Listed(source)
    with running(make_worker(sink=sink, backfill=listing)) as _:
        wait_until(lambda: json.loads(sink.state("backfill") or "{}").get("phase") == "done")
    listing.page = lambda cursor: ["p1"]
    with running(make_worker(sink=sink, backfill=listing, **FAST)):
        wait_until(lambda: "the audit failed, and will be tried again" in caplog.text)
        source.entities["p1"] = {"id": "p1", "n": 11}
        channel.announce("p1")
        wait_until(lambda: sink.get("p1") == source.entities["p1"])


def test_nothing_is_compared_before_the_cache_is_filled(make_worker, source):
    source.entities.update(products(*range(3)))
    sink, listing = MemorySink(), Listed(source)
    listing.error = FetchError("away", status=503)
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    worker = make_worker(sink=sink, backfill=listing, metrics=metrics, **FAST)
    with running(worker):
        wait_until(lambda: listing.asked)
        wait_until(lambda: b"change_events_held{" in generate_latest(registry))
        assert worker.health().audit_stale is None
        assert b"change_events_audit_stale{" not in generate_latest(registry)
        assert sink.state("worker audit") is None
        listing.error = None
        wait_until(lambda: kept(sink).get("last_clean"))
    assert kept(sink)["stale"] == {}


def test_the_gets_of_an_audit_keep_to_the_workers_limit(make_worker, source):
    sink = filled(source, *range(10))
    times = []
    source.answer = lambda id: times.append(time.monotonic())
    with running(make_worker(sink=sink, max_gets_per_second=20, **FAST)):
        wait_until(lambda: len(times) >= 10)
    assert times[9] - times[0] >= 0.4


def test_a_drain_compares_nothing(make_worker, source):
    sink = filled(source, 1)
    make_worker(sink=sink, **FAST).drain()
    assert sink.state("worker audit") is None


def test_a_sink_that_cant_name_its_ids_needs_a_listing(make_worker, source):
    class Bare:
        """A sink with no more than it needs."""

        def __init__(self):
            self.all = filled(source, *range(12))

        def entry(self, id, /):
            return self.all.entry(id)

        def apply(self, id, change, /, *, if_version):
            return self.all.apply(id, change, if_version=if_version)

        def get(self, id):
            return self.all.get(id)

        def state(self, name, /):
            return self.all.state(name)

        def set_state(self, name, text, /, *, if_state):
            return self.all.set_state(name, text, if_state=if_state)

    sink = Bare()
    with pytest.raises(ConfigurationError, match="can't name its ids"):
        make_worker(sink=sink, audit_per_minute=10)
    with running(make_worker(sink=sink, backfill=Listed(source), **FAST)):
        wait_until(lambda: kept(sink).get("last_clean"))
        sink.apply("p1", Gone(), if_version=sink.entry("p1").version)
        wait_until(lambda: stale(sink) == {"p1": "missing"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"audit_per_minute": 0}, "audit_per_minute must be from 0.01 to 6000"),
        ({"audit_per_minute": "ten"}, "audit_per_minute must be from"),
        ({"audit_min_age": -1}, "audit_min_age must be from 0"),
    ],
)
def test_settings_are_checked(make_worker, settings, says):
    with pytest.raises(ConfigurationError, match=says):
        make_worker(**settings)


def test_another_listing_begins_with_its_first_page(make_worker, source):
    sink = filled(source, *range(3))
    state = {"listing": "other", "phase": "listed", "cursor": "7000", "at": 3, "compared": 9}
    assert sink.set_state("worker audit", json.dumps(state), if_state=None)
    listing = Listed(source)
    with running(make_worker(sink=sink, backfill=listing, **FAST)):
        wait_until(lambda: kept(sink).get("last_clean"))
    assert "7000" not in listing.asked


def test_many_wrong_ids_are_kept_up_to_a_hundred(make_worker, source):
    source.entities.update(products(*range(130)))
    sink = MemorySink()
    for n in range(130):
        sink.apply(f"p{n}", Found({"id": f"p{n}", "n": -1}), if_version=0)
    worker = make_worker(sink=sink, **FAST)
    with running(worker):
        wait_until(lambda: kept(sink).get("last_pass"))
        assert worker.health().audit_stale == 100
    assert len(stale(sink)) == 100


def test_the_owner_shows_that_it_works_while_it_waits(make_worker, source, monkeypatch):
    monkeypatch.setattr("change_events._operations.state.BEAT", 0.0)
    sink = filled(source, 1)
    with running(make_worker(sink=sink, audit_per_minute=0.01)):
        wait_until(lambda: kept(sink).get("beat", 0) > 3)
    assert Kept(sink, "worker audit", types={}).read()["owner"] is None


@pytest.mark.parametrize(
    "garbage",
    [
        {"stale": 5, "last_clean": "yesterday"},
        {"stale": ["p1"], "suspects": 1, "undecided": [], "compared": "many", "beat": "x"},
        {"began": [], "at": None, "phase": ["cached"], "listing": {}},
    ],
)
def test_a_state_that_cannot_be_used_stops_neither_the_audit_nor_the_health(
    make_worker, source, garbage
):
    """Another version of the library can have kept it."""
    sink = filled(source, 1)
    elsewhere = {"owner": {"host": "elsewhere", "pid": 1, "token": "t"}}
    sink.set_state("worker audit", json.dumps(garbage | elsewhere), if_state=None)
    waiting = make_worker(sink=sink, **FAST)
    with running(waiting):
        wait_until(lambda: waiting._beside._audit._kept.values)
        assert waiting.health().audit_stale is None
        assert waiting.health().last_clean_audit is None
    sink.set_state("worker audit", json.dumps(garbage), if_state=sink.state("worker audit"))
    auditing = make_worker(sink=sink, **FAST)
    with running(auditing):
        wait_until(lambda: kept(sink).get("last_clean") not in {None, "yesterday"})
        assert auditing.health().audit_stale == 0
