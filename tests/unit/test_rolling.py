"""A worker's own audit, without the worker."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress

from change_events import MemorySink, refresh
from change_events._consumer.health import FULL, RECEIVE_FAILED
from change_events._consumer.stats import Tally
from change_events._event import Page
from change_events._operations.own_audit import STATE
from change_events._operations.rolling import FIRST, Rolling, begun
from change_events._operations.state import Kept
from change_events._operations.throttle import Stopped, Throttle
from change_events.exceptions import ListingError
from change_events.testing import FakeSource
from verification.harness.processes import wait_until


class Pauses:
    """Whether the worker receives, as far as an audit asks."""

    def __init__(self):
        self.now = FULL
        self.asked = 0

    @property
    def why(self):
        self.asked += 1
        return self.now


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "n": n} for n in numbers}


def filled(source):
    sink = MemorySink()
    for id in source:
        refresh(id, fetcher=source, sink=sink)
    return sink


def rolling(source, sink, *, listing=None, pauses=None, min_age=0.0):
    """Return an audit without pauses, what it keeps, and what stops it."""
    throttle = Throttle(pause=lambda failures, most: 0.0)
    kept = Kept(sink, STATE, types={})
    kept.take(lambda seconds: None)
    begun(kept.values, "listing")
    audit = Rolling(
        listing,
        fetcher=source,
        sink=sink,
        throttle=throttle,
        pauses=pauses or Pauses(),
        kept=kept,
        tally=Tally(),
        per_minute=1e9,
        min_age=min_age,
    )
    return audit, kept, throttle.stopping


@contextmanager
def audited(source, sink, **settings):
    """Audit in a thread; return what is kept."""
    audit, kept, stopping = rolling(source, sink, **settings)

    def work():
        with suppress(Stopped):
            audit.work()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield kept
    finally:
        stopping.set()
        thread.join(30)
        kept.release()
    assert not thread.is_alive()


def test_what_differs_while_the_worker_receives_nothing_is_read_again_once_it_does():
    class Pausing(FakeSource):
        """From the second GET on the worker receives nothing."""

        def fetch(self, id, /, *, etag=None):
            if len(self.fetched) == 1:
                pauses.now = RECEIVE_FAILED
            return super().fetch(id, etag=etag)

    pauses, source = Pauses(), FakeSource(products(1))
    sink = filled(source)
    source["p1"] = {"id": "p1", "n": 11}
    source = Pausing(source)
    with audited(source, sink, pauses=pauses) as kept:
        wait_until(lambda: len(source.fetched) == 2)
        asked = pauses.asked
        wait_until(lambda: pauses.asked > asked + 5)
        assert kept.values["suspects"] == ["p1"]
        assert len(source.fetched) == 2  # the second of them does not count
        assert kept.values["stale"] == {}
        pauses.now = None
        wait_until(lambda: kept.values["stale"])
        assert len(source.fetched) >= 4


def test_an_id_that_is_known_to_be_wrong_is_compared_more_often_than_the_others():
    source = FakeSource(products(*range(1000)))
    sink = filled(source)
    source["p0"] = {"id": "p0", "n": -1}
    with audited(source, sink) as kept:
        wait_until(lambda: kept.values["stale"])
        wait_until(lambda: kept.values["phase"] == "cached" and kept.values["compared"] > 300)
        compared = source.fetched.count("p0")
        sink.apply("p0", source.fetch("p0"), if_version=sink.entry("p0").version)
        wait_until(lambda: kept.values["stale"] == {})
    assert compared > 10


def test_a_listing_that_becomes_wrong_is_read_from_its_beginning():
    class Listing:
        def page(self, cursor):
            asked.append(cursor)
            if cursor == "1":
                raise ListingError("no such cursor")
            return Page(["p1"], None, "1")

    asked = []
    source = FakeSource(products(1))
    sink = filled(source)
    audit, kept, _ = rolling(source, sink, listing=Listing())
    with suppress(ListingError):
        audit.work()
    assert asked == [None, "1"]
    assert (kept.values["cursor"], kept.values["at"]) == (None, 0)


def test_the_first_id_can_be_broken_and_so_can_the_next_ones():
    source = FakeSource(products(*range(5)))
    sink = filled(source)
    for id in ("p0", "p1", "p2"):
        source.fail(id, status=500)
    with audited(source, sink) as kept:
        wait_until(lambda: kept.values.get("last_pass"))
    assert kept.values["last_pass"]["undecided"].keys() == {"p0", "p1", "p2"}


def test_a_wait_that_ends_early_for_a_suspect_goes_on(monkeypatch):
    audit, _, _ = rolling(FakeSource(products(1)), MemorySink())
    now, waits = [0.0], []

    def wait(seconds, why):
        waits.append(seconds)
        now[0] += min(seconds, 1.0)

    monkeypatch.setattr("change_events._operations.rolling.time.monotonic", lambda: now[0])
    monkeypatch.setattr(audit._rounds, "wait", wait)
    monkeypatch.setattr(audit, "_tick", lambda: None)
    audit._next = 2.5

    audit._pause()

    assert waits == [2.5, 1.5, 0.5]


def test_a_pass_that_goes_on_within_a_page_leaves_out_nothing_of_the_next_one():
    class Listing:
        def page(self, cursor):
            ids, more = (["p1", "p2"], "1") if cursor is None else (["p3", "p4"], None)
            return Page(ids, None, more)

    source = FakeSource(products(1, 2, 3, 4))
    audit, kept, _ = rolling(source, MemorySink(), listing=Listing())
    kept.values |= {"phase": "listed", "at": 1}

    assert [id for id, _ in audit._pass(kept.values) if id] == ["p2", "p3", "p4"]
    audit._rounds.close()
    kept.release()


def test_a_listing_that_becomes_wrong_within_a_page_is_read_from_its_beginning():
    class Listing:
        def page(self, cursor):
            raise ListingError("no such cursor")

    audit, kept, _ = rolling(FakeSource(products(1)), MemorySink(), listing=Listing())
    kept.values |= {"phase": "listed", "cursor": "1", "at": 1}

    with suppress(ListingError):
        audit.work()

    assert (kept.values["cursor"], kept.values["at"]) == (None, 0)


def test_a_pass_over_another_listing_begins_anew_and_suspects_are_kept():
    kept = {
        "listing": "another",
        "phase": "listed",
        "after": "p5",
        "cursor": "7000",
        "at": 3,
        "compared": 9,
        "undecided": {"p1": "why"},
        "stale": {"p2": {}},
    }

    values = begun(kept, "mine")

    assert {name: values[name] for name in FIRST} == FIRST
    assert values["stale"] == {"p2": {}}
