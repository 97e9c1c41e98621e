"""One look by hand: alone, beside workers, and by a worker."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    HTTPFetcher,
    MassDeletionError,
    MemorySink,
    Outcome,
    refresh,
)
from conftest import running, wait_until
from verification.harness.wire import Answer


@pytest.fixture
def fetcher(source):
    return HTTPFetcher(source.url + "/products/{id}")


def fill(sink, number):
    """Cache so many entities that the source does not know."""
    for n in range(number):
        assert sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)


class PlainSink:
    """Does no more than each sink must."""

    def __init__(self, sink):
        self.entry, self.apply = sink.entry, sink.apply


def test_a_refresh_stores_what_the_source_says_and_returns_what_that_did(source, sink, fetcher):
    def look():
        return refresh("p1", fetcher=fetcher, sink=sink), sink.get("p1")

    assert look() == (Outcome.NEVER_SAVED, None)
    source.entities["p1"] = {"id": "p1", "n": 1}
    assert look() == (Outcome.CREATED, {"id": "p1", "n": 1})
    assert look() == (Outcome.UNCHANGED, {"id": "p1", "n": 1})
    source.entities["p1"] = {"id": "p1", "n": 2}
    assert look() == (Outcome.UPDATED, {"id": "p1", "n": 2})
    source.entities["p1"] = None
    assert look() == (Outcome.DELETED, None)
    assert look() == (Outcome.UNCHANGED, None)


def test_a_refresh_asks_for_the_whole_entity(source, sink, fetcher):
    source.entities["7"] = {"id": "7"}

    assert [refresh(7, fetcher=fetcher, sink=sink) for _ in range(2)] == ["created", "unchanged"]

    assert all("If-None-Match" not in asked.headers for asked in source.asked)


def test_an_outage_is_raised_and_leaves_the_cache_as_it_was(source, sink, fetcher):
    fill(sink, 1)
    version = sink.entry("p0").version
    source.answer = lambda id: Answer(503, b"{}")

    with pytest.raises(FetchError, match="503"):
        refresh("p0", fetcher=fetcher, sink=sink)

    assert sink.get("p0") == {"id": "p0"}
    assert sink.entry("p0").version == version


@pytest.mark.parametrize("id", ["", ".", "a\nb", "x" * 513, None, 1.5])
def test_a_bad_id_is_refused_before_anything_is_asked(source, sink, fetcher, id):
    with pytest.raises(ConfigurationError, match="an id"):
        refresh(id, fetcher=fetcher, sink=sink)

    assert source.asked == []


def test_what_is_not_a_fetcher_or_a_sink_is_refused(sink, fetcher):
    with pytest.raises(ConfigurationError, match="sink needs entry and apply"):
        refresh("p1", fetcher=fetcher, sink=None)
    with pytest.raises(ConfigurationError, match="fetcher needs fetch"):
        refresh("p1", fetcher=None, sink=sink)
    with pytest.raises(ConfigurationError, match="allow_mass_deletion must be True or False"):
        refresh("p1", fetcher=fetcher, sink=sink, allow_mass_deletion="no")


def test_a_refresh_never_writes_an_old_state_over_a_new_one(source, sink, fetcher):
    """The refresh gets an old answer, and another look stores a new one meanwhile."""
    source.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(refresh, "p1", fetcher=fetcher, sink=sink)
        source.arrived.acquire()
        assert sink.apply("p1", Found({"id": "p1", "n": 2}), if_version=0)
        source.answer = lambda id: (
            Answer(200, b'{"id": "p1", "n": 1}') if len(source.asked) == 1 else None
        )
        source.entities["p1"] = {"id": "p1", "n": 2}
        source.gate.set()

        assert slow.result() is Outcome.UPDATED  # the other look told no digest

    assert source.ids() == ["p1", "p1"]
    assert sink.get("p1") == {"id": "p1", "n": 2}


def test_refreshes_beside_a_worker_leave_the_cache_as_the_source_is(
    channel, source, sink, fetcher, make_worker
):
    ids = [f"p{n}" for n in range(5)]
    worker = make_worker()

    def change(n):
        id = ids[n % len(ids)]
        source.entities[id] = {"id": id, "n": n}
        channel.announce(id)
        worker.refresh(id) if n % 2 else refresh(id, fetcher=fetcher, sink=sink)

    with running(worker), ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(60)))
        wait_until(lambda: worker.stats().acknowledged == 60)

    assert {id: sink.get(id) for id in ids} == source.entities


# Deletions


def test_refreshes_share_the_guards_counts_through_the_sink(source, sink, fetcher, caplog):
    fill(sink, 60)

    deleted = [refresh(f"p{n}", fetcher=fetcher, sink=sink) for n in range(19)]
    with pytest.raises(MassDeletionError, match="20 of the last 20 looks"):
        refresh("p19", fetcher=fetcher, sink=sink)

    assert set(deleted) == {Outcome.DELETED}
    assert sink.get("p19") == {"id": "p19"}
    assert refresh("p19", fetcher=fetcher, sink=sink, allow_mass_deletion=True) == "deleted"


def test_entities_that_a_refresh_found_count_for_a_worker(source, sink, make_worker):
    fill(sink, 60)
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(30)}
    worker = make_worker(sink=PlainSink(sink))

    outcomes = [worker.refresh(f"p{n}") for n in range(60)]

    assert [outcomes.count(each) for each in ("updated", "deleted")] == [30, 30]


def test_a_worker_that_does_not_run_has_the_same_guard_for_its_refreshes(
    channel, source, sink, make_worker
):
    fill(sink, 60)
    worker = make_worker(sink=PlainSink(sink))

    for n in range(19):
        assert worker.refresh(f"p{n}") is Outcome.DELETED
    with pytest.raises(MassDeletionError):
        worker.refresh("p19")
    with pytest.raises(MassDeletionError):
        worker.drain()

    worker.resume()
    assert worker.refresh("p19") is Outcome.DELETED
    assert worker.drain() == 0


def test_a_refused_deletion_stops_the_worker_until_resume(channel, source, sink, make_worker):
    fill(sink, 60)
    worker = make_worker(sink=PlainSink(sink))

    with running(worker):
        wait_until(lambda: worker.health().ready)
        for n in range(19):
            worker.refresh(f"p{n}")
        with pytest.raises(MassDeletionError):
            worker.refresh("p19")
        assert worker.health().paused == "mass deletion"
        assert sink.get("p19") == {"id": "p19"}

        worker.resume()
        assert worker.health().paused is None
        assert worker.refresh("p19") is Outcome.DELETED


def test_a_drain_ends_with_the_deletion_that_a_refresh_was_refused(
    channel, source, sink, make_worker
):
    fill(sink, 60)
    channel.announce("new")
    worker = make_worker(sink=PlainSink(sink), settle=3600.0)
    raised = []

    def drain():
        with pytest.raises(MassDeletionError) as error:
            worker.drain()  # would hold the event for an hour
        raised.append(error.value)

    thread = threading.Thread(target=drain)
    thread.start()
    wait_until(lambda: worker.stats().held)
    for n in range(19):
        worker.refresh(f"p{n}")
    with pytest.raises(MassDeletionError) as refused:
        worker.refresh("p19")
    thread.join(30)

    assert raised == [refused.value]


# By a worker


def test_a_worker_counts_and_reports_its_refreshes(source, sink, make_worker, outcomes):
    source.entities["p1"] = {"id": "p1"}
    worker = make_worker()

    assert worker.refresh("p1") is Outcome.CREATED
    with running(worker):
        wait_until(lambda: worker.health().ready)
        assert worker.refresh("p1") is Outcome.UNCHANGED
    source.entities["p1"] = None
    assert worker.refresh("p1") is Outcome.DELETED  # it is stopped

    assert outcomes.seen == [("p1", "created"), ("p1", "unchanged"), ("p1", "deleted")]
    stats = worker.stats()
    assert (stats.gets, stats.created, stats.unchanged, stats.deleted) == (3, 1, 1, 1)


def test_a_workers_refresh_raises_what_the_fetcher_and_the_sink_raise(source, make_worker):
    class Broken(MemorySink):
        def entry(self, id, /):
            raise OSError("the disk is gone")

    source.answer = lambda id: Answer(503, b"{}")
    with pytest.raises(FetchError, match="503"):
        make_worker().refresh("p1")
    with pytest.raises(OSError, match="the disk is gone"):
        make_worker(sink=Broken()).refresh("p1")
    with pytest.raises(ConfigurationError, match="an id"):
        make_worker().refresh("")
