"""A worker fills its cache beside live events."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection

import pytest

from change_events import ConfigurationError, FetchError, Found, MemorySink
from change_events._event import Page
from change_events._operations.filled import ids_left
from conftest import Answer, running, wait_until


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "n": n} for n in numbers}


class Pages:
    """A listing of a page for each of these groups of ids, that waits where a test says so."""

    url = "pages"

    def __init__(self, *pages):
        self.pages = pages
        self.asked = []
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def page(self, cursor):
        self.asked.append(cursor)
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        at = int(cursor or 0)
        more = str(at + 1) if at + 1 < len(self.pages) else None
        return Page(list(self.pages[at]), None, more)


def test_however_many_threads_a_worker_can_have_its_backfill_sends_two_gets_at_once(
    make_worker, source
):
    source.entities.update(products(*range(20)))
    source.gate.clear()
    with running(make_worker(threads=64, backfill=Pages(list(source.entities)))):
        try:
            wait_until(lambda: len(source.asked) == 2)
            time.sleep(0.5)
            assert len(source.asked) == 2
        finally:
            source.gate.set()


def test_a_cache_is_filled_once_and_says_when_it_is(make_worker, source):
    source.entities.update(products(*range(20)))
    listing = Pages(list(source.entities))
    listing.gate.clear()
    sink = MemorySink()
    worker = make_worker(sink=sink, backfill=listing)
    assert not worker.synced
    with running(worker):
        wait_until(lambda: listing.asked)
        assert not worker.health().synced
        listing.gate.set()
        wait_until(lambda: worker.synced)
        assert worker.health().synced
    assert dict(sink.items()) == source.entities

    again = make_worker(sink=sink, backfill=listing)
    with running(again):
        wait_until(lambda: again.health().last_poll is not None)
        assert again.synced
    assert listing.asked == [None]


def test_a_listing_that_names_nothing_is_told(make_worker, caplog):
    worker = make_worker(backfill=Pages([]))
    with caplog.at_level("INFO"), running(worker):
        wait_until(lambda: "mend it" in caplog.text)

    assert worker.synced
    filled = [each for each in caplog.records if getattr(each, "action", "") == "filled"]
    assert [each.levelname for each in filled] == ["INFO", "WARNING"]


def test_the_report_is_logged_as_one_readable_line(make_worker, caplog):
    worker = make_worker(backfill=Pages(["p1"]))
    with caplog.at_level("INFO"), running(worker):
        wait_until(lambda: "the cache is filled" in caplog.text)

    (text,) = (each.getMessage() for each in caplog.records if "is filled" in each.getMessage())
    assert "1 ids listed on 1 pages; 0 entities stored from these pages; 1 ids looked at" in text
    assert "\\n" not in text


def test_the_probe_tells_whether_the_cache_is_filled(make_worker, source, free_port):
    def status(path):
        connection = HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.request("GET", path)
        answered = connection.getresponse().status
        connection.close()
        return answered

    listing = Pages(["p1"])
    listing.gate.clear()
    worker = make_worker(backfill=listing, health_address=("127.0.0.1", free_port))
    with running(worker):
        wait_until(lambda: worker.health().ready)
        assert (status("/readyz"), status("/readyz?synced")) == (200, 503)
        listing.gate.set()
        wait_until(lambda: worker.synced)
        assert (status("/readyz"), status("/readyz?synced")) == (200, 200)


def test_events_are_applied_while_the_cache_is_filled(make_worker, channel, source):
    source.entities.update(products(1, 2))
    listing = Pages(["p1"])
    listing.gate.clear()
    sink = MemorySink()
    with running(make_worker(sink=sink, backfill=listing)):
        wait_until(lambda: listing.asked)
        channel.announce("p2")
        wait_until(lambda: sink.get("p2"))
        assert sink.get("p1") is None
        listing.gate.set()
        wait_until(lambda: sink.get("p1"))


def test_a_stop_does_not_wait_for_a_backfill_and_a_restart_goes_on(make_worker, source):
    source.entities.update(products(*range(4)))
    listing = Pages(["p0", "p1"], ["p2", "p3"])
    sink = MemorySink()
    first = make_worker(sink=sink, backfill=listing)
    listing.error = FetchError("away", status=503)
    with running(first):
        wait_until(lambda: listing.asked)
    assert not first.synced

    listing.error = None
    second = make_worker(sink=sink, backfill=listing)
    with running(second):
        wait_until(lambda: second.synced)
    assert dict(sink.items()) == source.entities


def test_a_listing_that_is_wrong_does_not_end_the_worker(make_worker, channel, source, caplog):
    source.entities.update(products(1))
    sink = MemorySink()

    class Wrong:
        def page(self, cursor):
            return ["p1"]

    worker = make_worker(sink=sink, backfill=Wrong())
    with running(worker):
        wait_until(lambda: "the backfill failed, and will be tried again" in caplog.text)
        channel.announce("p1")
        wait_until(lambda: sink.get("p1"))
        assert not worker.synced


def test_what_a_backfill_has_left_out_is_looked_at_again_until_it_is_cached(
    make_worker, source, sink, caplog, monkeypatch
):
    monkeypatch.setattr("change_events._operations.own_backfill.WATCH", 0.1)
    monkeypatch.setattr("change_events._operations.own_backfill.SELDOM", 0.5)
    source.entities.update(products(*range(4)))
    down = {"p1", "p3"}
    source.answer = lambda id: Answer(500, b"") if id in down else None
    listing = list(source.entities)

    with running(worker := make_worker(sink=sink, backfill=listing)):
        wait_until(lambda: worker.synced)
        wait_until(lambda: "2 entities are not in the cache" in caplog.text)
        assert set(dict(sink.items())) == {"p0", "p2"}
        down.remove("p1")
        wait_until(lambda: "p1" in dict(sink.items()))

    asked = len(source.ids())
    with running(again := make_worker(sink=sink, backfill=listing)):
        assert again.synced
        down.clear()
        wait_until(lambda: "p3" in dict(sink.items()))
        wait_until(lambda: not ids_left(sink)[0])
    assert dict(sink.items()) == source.entities
    assert set(source.ids()[asked:]) == {"p3"}


def test_a_sink_that_is_down_when_ids_are_left_only_delays(make_worker, source, monkeypatch):
    monkeypatch.setattr("change_events._operations.own_backfill.WATCH", 0.1)
    monkeypatch.setattr("change_events._operations.own_backfill.SELDOM", 0.2)
    failed = []

    class Down(MemorySink):
        def state(self, name):
            if down.is_set():
                failed.append(name)
                raise OSError("the sink is down")
            return super().state(name)

    down = threading.Event()
    source.entities.update(products(1, 2))
    source.answer = lambda id: Answer(500, b"") if id == "p1" and not failed else None

    with running(worker := make_worker(sink=(sink := Down()), backfill=list(source.entities))):
        wait_until(lambda: worker.synced)
        down.set()
        wait_until(lambda: "backfill" in failed)
        down.clear()
        wait_until(lambda: dict(sink.items()) == source.entities)


def test_a_mass_deletion_stops_the_backfill_and_the_worker_until_resume(
    make_worker, source, caplog
):
    sink = MemorySink()
    for id, entity in products(*range(40)).items():
        sink.apply(id, Found(entity), if_version=0)
    source.entities["p1"] = {"id": "p1"}

    worker = make_worker(sink=sink, backfill=Pages(["p1"]))
    with running(worker):
        wait_until(lambda: worker.health().paused == "mass deletion")
        assert len(sink) > 20
        worker.resume()
        wait_until(lambda: worker.synced)
    assert list(sink.ids()) == ["p1"]


def test_the_gets_of_a_backfill_keep_to_the_workers_limit(make_worker, source):
    source.entities.update(products(*range(10)))
    times = []
    source.answer = lambda id: times.append(time.monotonic())
    worker = make_worker(backfill=Pages(list(source.entities)), max_gets_per_second=20)
    with running(worker):
        wait_until(lambda: worker.synced)
    assert len(times) == 10
    assert max(times) - min(times) >= 0.4


def test_two_workers_fill_a_cache_once(make_worker, source):
    source.entities.update(products(*range(4)))
    listing = Pages(["p0", "p1"], ["p2", "p3"])
    listing.gate.clear()
    sink = MemorySink()
    one, other = (make_worker(sink=sink, backfill=listing) for _ in range(2))
    with running(one), running(other):
        wait_until(lambda: listing.asked)
        listing.gate.set()
        wait_until(lambda: one.synced and other.synced)
    assert listing.asked == [None, "1"]


def test_a_drain_does_not_fill_the_cache(make_worker, source):
    listing = Pages(["p1"])
    make_worker(backfill=listing).drain()
    assert listing.asked == []


@pytest.mark.parametrize("backfill", [7, "p1", b"p1"])
def test_what_is_not_a_listing_is_refused(make_worker, backfill):
    with pytest.raises(ConfigurationError):
        make_worker(backfill=backfill)


def test_a_backfill_needs_a_sink_that_keeps_state(make_worker):
    class Stateless:
        def entry(self, id, /): ...
        def apply(self, id, change, /, *, if_version): ...

    with pytest.raises(ConfigurationError, match="keeps no state"):
        make_worker(backfill=["p1"], sink=Stateless())


def test_a_sink_that_is_down_says_nothing_of_whether_it_is_filled(make_worker):
    class Down(MemorySink):
        def state(self, name, /):
            raise OSError("the database is away")

    assert not make_worker(backfill=["p1"], sink=Down()).synced


def test_a_sink_that_hangs_does_not_keep_the_health_waiting(make_worker):
    class Hanging(MemorySink):
        def state(self, name, /):
            assert asked.release() is None
            assert gate.wait(30)
            return super().state(name)

    asked, gate = threading.Semaphore(0), threading.Event()
    worker = make_worker(backfill=["p1"], sink=Hanging())
    with running(worker):
        assert asked.acquire(timeout=30)  # in a thread of the run
        began = time.monotonic()
        assert not worker.health().synced
        waited = time.monotonic() - began
        gate.set()
    assert waited < 20
