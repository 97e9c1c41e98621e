"""What a backfill stores, looks at, keeps and refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from change_events import Found, Gone, MemorySink, Outcome
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._consumer.look import digest
from change_events._event import Page
from change_events._operations import filling
from change_events._operations.backfill import Backfill
from change_events._operations.listed import CHUNK
from change_events._operations.pages import insert_many
from change_events._operations.progress import Speed
from change_events._operations.rounds import Rounds
from change_events._operations.state import LEASE, Kept, Owner, change_state, loaded
from change_events._operations.sweep import Sweep
from change_events._operations.throttle import Asked, Stopped, Throttle
from change_events._source.listing import listing_of
from change_events.exceptions import (
    AlreadyRunningError,
    ConfigurationError,
    FetchError,
    ListingError,
    MassDeletionError,
)
from change_events.testing import FakeSource
from verification.harness.processes import wait_until


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "n": n} for n in numbers}


def backfill(listing, source, sink, **settings):
    return Backfill(listing, fetcher=source, sink=sink, **settings)


def cached(sink):
    return dict(sink.items())


class Pages:
    """A listing of pages of whole entities, or of ids, that notes what it was asked for."""

    url = "pages"

    def __init__(self, *pages, entities=True):
        self._pages = pages
        self._entities = entities
        self.asked = []

    def page(self, cursor):
        self.asked.append(cursor)
        at = int(cursor or 0)
        page = self._pages[at]
        if callable(page):
            page = page()
        found = {id: Found(entity) for id, entity in page.items()} if self._entities else None
        more = str(at + 1) if at + 1 < len(self._pages) else None
        return Page(list(page), found, more)


def test_ids_are_looked_at():
    source, sink = FakeSource(products(*range(250))), MemorySink()

    report = backfill(list(source), source, sink).run()

    assert cached(sink) == dict(source)
    assert (report.pages, report.listed, report.stored) == (3, 250, 0)
    assert report.outcomes == {Outcome.CREATED: 250}
    assert report.unlisted == 0


def test_whole_entities_are_stored_without_a_get_of_each():
    source, sink = FakeSource(products(*range(250))), MemorySink()

    report = backfill(list(source.items()), source, sink).run()

    assert cached(sink) == dict(source)
    assert (report.listed, report.stored, report.outcomes) == (250, 250, {})
    assert len(source.fetched) == 3  # a sample


def test_what_a_look_has_touched_is_looked_at_again_and_never_overwritten():
    source, sink = FakeSource(products(1, 2, 3)), MemorySink()
    old = dict(source)
    source["p1"] = {"id": "p1", "n": 100}
    sink.apply("p1", Found(source["p1"]), if_version=0)
    del source["p2"]
    sink.apply("p2", Gone(), if_version=0)

    report = backfill(old.items(), source, sink).run()

    assert cached(sink) == {"p1": {"id": "p1", "n": 100}, "p3": {"id": "p3", "n": 3}}
    assert report.stored == 1
    assert report.outcomes == {Outcome.UPDATED: 1, Outcome.UNCHANGED: 1}


def test_what_changes_while_a_page_is_under_way_is_not_overwritten():
    source, sink = FakeSource(products(1, 2)), MemorySink()
    old = dict(source)

    def page():
        source["p1"] = {"id": "p1", "n": 100}
        sink.apply("p1", Found(source["p1"]), if_version=0)
        return old

    backfill(Pages(page), source, sink).run()

    assert cached(sink) == dict(source)


def test_what_is_cached_and_not_listed_is_looked_at():
    source, sink = FakeSource(products(1, 2, 3)), MemorySink()
    for id, entity in products(1, 2, 8, 9).items():
        sink.apply(id, Found(entity), if_version=0)
    source["p8"] = {"id": "p8", "n": 8}

    report = backfill(["p1", "p3"], source, sink).run()

    assert cached(sink) == {id: source[id] for id in ("p1", "p2", "p3", "p8")}
    assert report.unlisted == 3
    assert report.outcomes[Outcome.DELETED] == 1


def test_an_empty_listing_deletes_nothing_that_the_source_has():
    source, sink = FakeSource(products(1, 2, 3)), MemorySink()
    for id, entity in source.items():
        sink.apply(id, Found(entity), if_version=0)

    report = backfill([], source, sink).run()

    assert cached(sink) == dict(source)
    assert report.unlisted == 3


def test_a_mass_deletion_is_refused_unless_it_is_meant():
    source, sink = FakeSource(products(1)), MemorySink()
    for id, entity in products(*range(100)).items():
        sink.apply(id, Found(entity), if_version=0)

    with pytest.raises(MassDeletionError):
        backfill(["p1"], source, sink, threads=1).run()
    assert 79 <= len(sink) < 100

    report = backfill(["p1"], source, sink, allow_mass_deletion=True).run()
    assert cached(sink) == dict(source)
    assert report.unlisted == 80


class Killed(BaseException):
    pass


class DyingSink(MemorySink):
    """A sink whose process is killed at one of its calls."""

    dies_at = None

    def _call(self):
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at < 0:
                raise Killed

    def state(self, name, /):
        self._call()
        return super().state(name)

    def set_state(self, name, text, /, *, if_state):
        self._call()
        return super().set_state(name, text, if_state=if_state)

    def entry(self, id, /):
        self._call()
        return super().entry(id)

    def apply(self, id, change, /, *, if_version):
        self._call()
        return super().apply(id, change, if_version=if_version)

    def ids(self, *, after=None, limit=1000):
        self._call()
        return super().ids(after=after, limit=limit)


@pytest.mark.parametrize("entities", [True, False])
def test_a_backfill_that_is_killed_at_any_call_of_the_sink_goes_on_there(entities):
    source = FakeSource(products(*range(6)))
    pages = [products(0, 1), products(2, 3), products(4, 5)]
    died = True
    dies_at = 0
    while died:
        sink = DyingSink()
        for id, entity in products(7).items():
            sink.apply(id, Found(entity), if_version=0)
        listing = Pages(*pages, entities=entities)
        sink.dies_at, died = dies_at, False
        try:
            backfill(listing, source, sink, threads=1).run()
        except Killed:
            died = True
        sink.dies_at = None
        if died and json.loads(sink.state("backfill") or "{}").get("phase") != "done":
            report = backfill(listing, source, sink, threads=1).run()
            assert cached(sink) == dict(source)
            assert report.listed == 6
            assert report.unlisted in {0, 1}  # 0: it was gone, and that was not yet kept
            # At most the page that was being stored, and the one that was being read, come again.
            assert len(listing.asked) <= len(pages) + 2
            assert sorted(set(listing.asked), key=str) == ["1", "2", None]
        dies_at += 1
    assert dies_at > 15


def fill(listing, source, sink, *, on_progress=None):
    """Run a backfill that does not wait before it tries again."""
    return filling.fill(
        listing_of(listing),
        fetcher=source,
        sink=sink,
        deletions=Deletions(Guard(), sink, source, lock=threading.Lock()),
        throttle=Throttle(pause=lambda failures, most: 0.0),
        threads=4,
        on_progress=on_progress,
    )


def test_an_outage_of_the_source_only_delays(caplog):
    source, sink = FakeSource(products(*range(30))), MemorySink()
    source.fail(times=100)

    report = fill(list(source), source, sink)

    assert cached(sink) == dict(source)
    assert (report.outcomes, report.failed) == ({Outcome.CREATED: 30}, 0)
    assert "will be tried again" in caplog.text


def test_an_entity_that_is_broken_itself_is_named_and_the_others_go_on():
    source, sink = FakeSource(products(*range(30))), MemorySink()
    source.fail("p7", status=500)
    source.fail("p9", status=503)

    report = fill(list(source), source, sink)

    assert report.failed == 2
    assert report.failed_ids.keys() == {"p7", "p9"}
    assert "answered 500" in report.failed_ids["p7"]
    assert cached(sink).keys() == source.keys() - {"p7", "p9"}


def test_only_broken_entities_on_a_page_are_told_from_an_outage_by_a_good_one():
    source, sink = FakeSource(products(*range(3))), MemorySink()
    sink.apply("p0", Found(source["p0"]), if_version=0)
    source.fail("p1", status=500)
    source.fail("p2", status=500)

    report = fill(Pages(products(1, 2), products(0), entities=False), source, sink)

    assert report.failed_ids.keys() == {"p1", "p2"}


def test_a_listing_that_is_down_is_asked_again(caplog):
    source, sink = FakeSource(products(1, 2)), MemorySink()
    failures = iter([FetchError("no answer"), OSError("reset"), FetchError("503", status=503)])

    def page():
        for error in failures:
            raise error
        return products(2)

    report = fill(Pages(products(1), page), source, sink)

    assert report.listed == 2
    assert "the listing does not answer" in caplog.text


def test_an_error_of_the_listings_own_code_is_raised_in_the_end():
    def page():
        return {}["no such key"]

    with pytest.raises(KeyError, match="no such key"):
        fill(Pages(page), FakeSource(), MemorySink())


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (["p1"], "must return a Page, not"),
        (Page([7], None, None), "must name ids as text, not 7"),
        (Page([None], None, None), "an id is text"),
        (Page([""], None, None), "an id has 1 to 512 characters"),
        (Page(["p1"], {"p2": Found({})}, None), "whose ids it does not name"),
    ],
)
def test_a_listing_that_returns_no_page_is_refused(page, says):
    class Listing:
        def page(self, cursor):
            return page

    with pytest.raises(ListingError, match=says):
        backfill(Listing(), FakeSource(), sink := MemorySink()).run()
    assert cached(sink) == {}


@pytest.mark.parametrize("cursors", [("a", "a"), ("a", "b", "c", "a")])
def test_a_listing_that_loops_is_refused(cursors):
    after = iter(cursors)

    class Listing:
        def page(self, cursor):
            return Page(["p1"], None, next(after))

    with pytest.raises(ListingError, match=r"itself as the next page|loops"):
        backfill(Listing(), FakeSource(products(1)), MemorySink()).run()


def test_a_page_that_repeats_ids_does_no_harm():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    backfill(["p1", "p1", "p2", "p1"], source, sink).run()

    assert cached(sink) == dict(source)
    assert sorted(source.fetched) == ["p1", "p2"]


def test_entities_of_another_type_are_refused_and_nothing_is_stored():
    sink = MemorySink()

    with pytest.raises(ListingError, match="another type"):
        backfill({"o1": {"id": "o1"}}.items(), FakeSource(products(1)), sink).run()
    assert cached(sink) == {}


def test_entities_that_are_not_whole_are_refused_and_nothing_is_stored():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    with pytest.raises(ListingError, match="entities=False"):
        backfill([("p1", {"id": "p1"}), ("p2", {"id": "p2"})], source, sink).run()
    assert cached(sink) == {}


def test_ids_of_another_type_are_refused_at_a_cache_that_is_not_empty():
    source, sink = FakeSource(products(1)), MemorySink()
    sink.apply("p1", Found(source["p1"]), if_version=0)

    with pytest.raises(ListingError, match="another type"):
        backfill([f"o{n}" for n in range(100)], source, sink).run()
    assert cached(sink) == dict(source)


def test_ids_of_another_type_are_refused_each_time_and_what_is_mended_is_filled():
    source, sink = FakeSource(products(1)), MemorySink()
    sink.apply("p1", Found(source["p1"]), if_version=0)
    ids = ["p1", *(f"o{n}" for n in range(100))]

    for _ in range(3):
        with pytest.raises(ListingError, match=r"named 100 ids .* does not know 99 of them"):
            backfill(ids, source, sink).run()
    source.update({id: {"id": id} for id in ids[1:]})
    report = backfill(ids, source, sink).run()

    assert cached(sink) == dict(source)
    assert report.outcomes == {Outcome.UNCHANGED: 1, Outcome.CREATED: 100}


def test_a_listing_that_names_what_was_deleted_is_not_refused():
    source, sink = FakeSource(products(*range(10))), MemorySink()
    for n in range(40):
        sink.apply(f"o{n}", Gone(), if_version=0)

    backfill([*source, *(f"o{n}" for n in range(40))], source, sink).run()

    assert cached(sink) == dict(source)


def test_what_is_deleted_while_unlisted_ids_are_looked_at_says_nothing_of_the_listing():
    class Purged(MemorySink):
        def ids(self, *, after=None, limit=1000):
            found = super().ids(after=after, limit=limit)
            for id in found:
                if id.startswith("o"):
                    self.apply(id, Gone(), if_version=1)
            return found

    source, sink = FakeSource(products(1)), Purged()
    for n in range(40):
        sink.apply(f"o{n}", Found({}), if_version=0)

    backfill(source.items(), source, sink, allow_mass_deletion=True).run()

    assert cached(sink) == dict(source)


def test_a_backfill_that_ends_with_an_error_on_its_first_page_is_nobodys():
    with pytest.raises(ListingError):
        backfill({"o1": {"id": "o1"}}.items(), FakeSource(products(1)), sink := MemorySink()).run()

    assert json.loads(sink.state("backfill"))["owner"] is None


def test_a_second_backfill_of_a_cache_says_that_another_one_runs():
    source, sink = FakeSource(products(1, 2)), MemorySink()
    refused = []

    def page():
        with pytest.raises(AlreadyRunningError) as caught:
            backfill(["p1"], source, sink).run()
        refused.append(str(caught.value))
        return products(2)

    backfill(Pages(products(1), page, entities=False), source, sink).run()

    assert f"process {os.getpid()} on " in refused[0]
    assert cached(sink) == dict(source)


def test_a_stop_ends_it_and_the_next_run_goes_on():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    def page():
        first.stop()
        return products(2)

    listing = Pages(products(1), page, entities=False)
    first = backfill(listing, source, sink)
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()

    report = backfill(listing, source, sink).run()
    assert listing.asked[:2] == [None, "1"]
    assert report.listed == 2
    assert cached(sink) == dict(source)


def test_another_listing_and_a_restart_begin_with_the_first_page():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    def page():
        wait_until(lambda: loaded(sink.state("backfill")).get("pages") == 1)
        first.stop()
        return products(2)

    for again, asked in [({}, ["1"]), ({"restart": True}, [None, "1"])]:
        first = backfill(Pages(products(1), page, entities=False), source, sink)
        with pytest.raises(RuntimeError, match="was stopped"):
            first.run(restart=True)
        second = Pages(products(1), products(2), entities=False)
        backfill(second, source, sink).run(**again)
        assert second.asked == asked

    first = backfill(Pages(products(1), page, entities=False), source, sink)
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()
    other = Pages(products(1), entities=False)
    other.url = "other pages"
    backfill(other, source, sink).run()
    assert other.asked == [None]


def test_many_listed_ids_are_known_after_a_restart():
    source, sink = FakeSource(), MemorySink()
    listed = [f"p{n}" for n in range(3 * CHUNK)]
    for id in listed:
        source[id] = {"id": id}
        sink.apply(id, Found(source[id]), if_version=0)
    sink.apply("x", Found({"id": "x"}), if_version=0)
    half = len(listed) // 2

    def page():
        first.stop()
        return listed[half:]

    class Listing(Pages):
        def page(self, cursor):
            page = self._pages[int(cursor or 0)]
            ids = page() if callable(page) else page
            return Page(ids, None, None if cursor else "1")

    listing = Listing(listed[:half], page)
    first = backfill(listing, source, sink, threads=2)
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()

    report = backfill(listing, source, sink, threads=2).run()
    assert (report.listed, report.unlisted) == (len(listed), 1)
    assert report.outcomes[Outcome.DELETED] == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threads": 0}, "threads must be from 1 to 256"),
        ({"max_gets_per_second": 0}, "max_gets_per_second must be from"),
        ({"max_gets_per_second": "many"}, "max_gets_per_second must be from"),
    ],
)
def test_settings_are_checked(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        backfill([], FakeSource(), MemorySink(), **settings)


def test_a_sink_without_state_is_refused():
    class Stateless:
        def entry(self, id, /): ...
        def apply(self, id, change, /, *, if_version): ...

    with pytest.raises(ConfigurationError, match="keeps no state"):
        backfill([], FakeSource(), Stateless())


class FailingSink(MemorySink):
    """A sink whose state can't be stored, and whose entities can't either, for a while."""

    failures = 0

    def _fail(self):
        if self.failures > 0:
            self.failures -= 1
            raise OSError("the database is away")

    def set_state(self, name, text, /, *, if_state):
        self._fail()
        return super().set_state(name, text, if_state=if_state)

    def apply(self, id, change, /, *, if_version):
        self._fail()
        return super().apply(id, change, if_version=if_version)

    def insert_many(self, found, /):
        self._fail()
        return super().insert_many(found)


def test_an_outage_of_the_sink_only_delays(caplog):
    source, sink = FakeSource(products(*range(10))), FailingSink()

    def page():
        wait_until(lambda: loaded(sink.state("backfill")).get("pages") == 1)
        sink.failures = 20
        return dict(source)

    report = fill(Pages(products(1), page), source, sink)

    assert cached(sink) == dict(source)
    assert report.failed == 0
    assert "a page of 10 entities was not stored, so each is looked at" in caplog.text


def test_state_that_was_stored_by_a_call_that_failed_is_the_owners_own():
    class Sink(MemorySink):
        def set_state(self, name, text, /, *, if_state):
            stored = super().set_state(name, text, if_state=if_state)
            if name == "backfill" and '"pages": 1' in text and not failed:
                failed.append(text)
                raise OSError("the answer is lost")
            return stored

    failed = []
    source, sink = FakeSource(products(1, 2)), Sink()

    report = fill(Pages(products(1), products(2)), source, sink)

    assert failed
    assert report.listed == 2


def test_a_process_that_took_over_ends_the_first_one():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    def page():
        kept = sink.state("backfill")
        other = json.loads(kept) | {"owner": {"host": "other", "pid": 7, "token": "other"}}
        assert sink.set_state("backfill", json.dumps(other), if_state=kept)
        return products(2)

    with pytest.raises(AlreadyRunningError, match="process 7 on other"):
        fill(Pages(products(1), page), source, sink)
    assert loaded(sink.state("backfill"))["owner"]["token"] == "other"


def test_a_process_of_another_host_that_says_nothing_is_replaced_after_the_lease():
    sink = MemorySink()
    owner = {"host": "other", "pid": 7, "token": "other"}
    assert sink.set_state("backfill", json.dumps({"owner": owner, "beat": 3}), if_state=None)
    waited = []
    kept = Kept(sink, "backfill", types={}, clock=lambda: sum(waited))

    kept.take(waited.append)

    assert sum(waited) == LEASE
    assert kept.values["owner"]["pid"] == os.getpid()


def test_a_process_of_another_host_that_works_is_not_replaced():
    sink = MemorySink()
    owner = {"host": "other", "pid": 7, "token": "other"}
    assert sink.set_state("backfill", json.dumps({"owner": owner, "beat": 3}), if_state=None)

    def wait(seconds):
        if kept.values["beat"] == 3:
            text = json.dumps({"owner": owner, "beat": 4})
            assert sink.set_state("backfill", text, if_state=sink.state("backfill"))

    kept = Kept(sink, "backfill", types={})
    with pytest.raises(AlreadyRunningError, match="process 7 on other"):
        kept.take(wait)


def test_a_process_of_this_host_that_is_dead_is_replaced_at_once():
    sink = MemorySink()
    ended = multiprocessing.get_context("spawn").Process(target=int)
    ended.start()
    ended.join()
    for pid in (ended.pid, os.getpid()):
        owner = {"host": socket.gethostname(), "pid": pid, "token": "killed"}
        text = json.dumps({"owner": owner, "beat": 3})
        assert sink.set_state("backfill", text, if_state=sink.state("backfill"))
        kept = Kept(sink, "backfill", types={})
        kept.take(pytest.fail)
        kept.release()


def test_what_is_asked_for_holds_in_the_process_that_runs_and_after_a_restart():
    source, sink = FakeSource(products(*range(20))), MemorySink()
    told = []
    paused = threading.Event()

    def on_progress(progress):
        told.append(progress)
        if progress.slow == "paused":
            paused.set()

    first = backfill(list(source), source, sink, on_progress=on_progress)
    backfill([], source, sink).pause()
    thread = threading.Thread(target=first.run)
    thread.start()
    assert paused.wait(30)
    assert source.fetched == []

    other = backfill([], source, sink)
    other.max_gets_per_second = 5_000
    assert first.max_gets_per_second == 5_000
    other.resume()
    thread.join(30)
    assert cached(sink) == dict(source)
    assert other.max_gets_per_second is None  # it was for that backfill


def test_the_rate_limits_the_gets():
    throttle = Throttle()
    throttle.set_rate(100)
    began = time.monotonic()
    for _ in range(21):
        throttle.before_get()

    assert time.monotonic() - began >= 0.2


def test_progress_says_how_far_it_is_and_why_it_is_slow():
    source, sink = FakeSource(products(*range(300))), MemorySink()
    told = []

    fill(list(source), source, sink, on_progress=told.append)

    last = told[-1]
    assert (last.phase, last.done, last.total) == ("done", 300, 300)
    assert str(last).startswith("300 of 300 ids")


def test_progress_goes_on_counting_while_it_looks_at_what_is_not_listed(monkeypatch):
    monkeypatch.setattr("change_events._operations.progress.TELL_EVERY", 0.0)
    source, sink = FakeSource(products(*range(1500))), MemorySink()
    for id, entity in source.items():
        sink.apply(id, Found(entity), if_version=0)
    told = []

    fill(["p1", "p2"], source, sink, on_progress=told.append)

    counted = [(each.phase, each.done, each.total) for each in told]
    page = told[counted.index(("unlisted", 1000, None))]  # 2 listed, and a page without them
    assert str(page).startswith("1,000 ids, now those that are not listed")
    assert counted[-1] == ("done", 1500, 1500)


def test_what_on_progress_raises_is_logged_and_the_backfill_goes_on(caplog):
    source, sink = FakeSource(products(1)), MemorySink()

    fill(["p1"], source, sink, on_progress=lambda progress: 1 / 0)

    assert cached(sink) == dict(source)
    assert "on_progress failed" in caplog.text


def test_a_report_reads_well():
    source, sink = FakeSource(products(1, 2)), MemorySink()
    source.fail("p2", status=500)

    report = fill(["p1", "p2"], source, sink)

    assert str(report).splitlines() == [
        "2 ids listed on 1 pages",
        "0 entities stored from these pages",
        "1 ids looked at (1 created)",
        "0 ids were cached and not listed",
        "1 could not be looked at:",
        "  p2: GET 'p2' answered 500: this test said fail()",
    ]


class Catalogue(FakeSource):
    """A source that can be asked for two products at once."""

    bulk_size = 2

    def __init__(self, entities):
        super().__init__(entities)
        self.asked_many = []
        self.left_out = set()
        self.error = None

    def fetch_many(self, ids, /):
        self.asked_many.append(tuple(ids))
        if self.error is not None:
            raise self.error
        return {id: Found(self[id]) for id in ids if id in self and id not in self.left_out}


def test_ids_are_looked_at_with_one_get_for_many_and_alone_where_that_decides_nothing():
    source, sink = Catalogue(products(*range(5))), MemorySink()
    for id, value in [("p1", source["p1"]), ("p2", {"id": "p2"}), ("p9", {"id": "p9"})]:
        sink.apply(id, Found(value, digest=digest(value)), if_version=0)
    source.left_out = {"p3"}

    report = fill(["p0", "p1", "p2", "p3", "p4"], source, sink)

    assert cached(sink) == dict(source)
    assert source.asked_many == [("p0", "p1"), ("p2", "p3")]
    assert sorted(source.fetched) == ["p3", "p4", "p9"]
    assert report.outcomes == {
        Outcome.CREATED: 3,
        Outcome.UNCHANGED: 1,
        Outcome.UPDATED: 1,
        Outcome.DELETED: 1,
    }


def test_after_a_get_of_many_that_failed_each_id_is_looked_at_alone():
    source, sink = Catalogue(products(*range(4))), MemorySink()
    source.error = FetchError("no answer")

    fill(list(source), source, sink)

    assert cached(sink) == dict(source)
    assert len(source.asked_many) == 2
    assert sorted(source.fetched) == sorted(source)


def test_what_another_worker_has_stored_during_a_get_is_looked_at_again():
    class Contended(Catalogue):
        def fetch_many(self, ids, /):
            found = super().fetch_many(ids)
            self["p1"] = {"id": "p1", "n": 100}
            sink.apply("p1", Found(self["p1"]), if_version=0)
            return found

        def fetch(self, id, /, *, etag=None):
            fetched = super().fetch(id, etag=etag)
            if len(self.fetched) == 1:
                self["p1"] = {"id": "p1", "n": 101}
                sink.apply("p1", Found(self["p1"]), if_version=sink.entry("p1").version)
            return fetched

    source, sink = Contended(products(0, 1)), MemorySink()

    fill(list(source), source, sink)

    assert cached(sink) == dict(source)
    assert source.fetched == ["p1", "p1"]


def test_a_sink_that_refuses_every_version_is_named():
    class Refusing(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return False

    source, sink = FakeSource(products(0, 1)), Refusing()
    sink.insert_many({"p0": Found(source["p0"])})
    fine = sink.apply
    sink.apply = lambda id, change, *, if_version: (
        id == "p0" or fine(id, change, if_version=if_version)
    )

    report = fill(list(source), source, sink)

    assert "Refusing refused what 50 looks in a row found" in report.failed_ids["p1"]


class Plain:
    """A sink that has what it must have, and keeps state."""

    def __init__(self):
        self.all = MemorySink()

    def entry(self, id, /):
        return self.all.entry(id)

    def apply(self, id, change, /, *, if_version):
        return self.all.apply(id, change, if_version=if_version)

    def state(self, name, /):
        return self.all.state(name)

    def set_state(self, name, text, /, *, if_state):
        return self.all.set_state(name, text, if_state=if_state)


def test_a_sink_that_can_name_no_ids_and_stores_one_entity_at_a_time_is_filled():
    source, sink = FakeSource(products(*range(4))), Plain()
    sink.apply("p9", Found({"id": "p9"}), if_version=0)
    source.fail("p3", status=500)

    report = fill(Pages(products(0, 1), products(2)), source, sink)

    assert cached(sink.all) == products(0, 1, 2) | {"p9": {"id": "p9"}}
    assert (report.stored, report.unlisted) == (3, None)
    assert "the sink can't name its ids" in str(report)


def test_a_sink_that_returns_something_else_than_what_it_stored_is_refused(caplog):
    class Wrong(MemorySink):
        def insert_many(self, found, /):
            return len(found)

    source, sink = FakeSource(products(1)), Wrong()

    fill(Pages(products(1)), source, sink)

    assert "Wrong.insert_many() must return the set of ids that it stored" in caplog.text
    assert cached(sink) == dict(source)  # it was looked at


def test_a_source_that_is_down_is_waited_for_although_the_sink_can_name_no_ids():
    source, sink = FakeSource(products(1)), Plain()
    source.fail("p1", times=6, status=500)

    report = fill(["p1"], source, sink)

    assert (report.failed, report.outcomes) == (0, {Outcome.CREATED: 1})


def test_a_source_that_does_not_answer_for_the_sample_is_asked_again():
    source, sink = FakeSource(products(1)), MemorySink()
    source.fail(times=3)

    assert fill(Pages(products(1)), source, sink).stored == 1


def test_an_outage_in_which_the_sink_names_no_good_id_is_waited_for():
    class Away(FailingSink):
        def ids(self, *, after=None, limit=1000):
            self._fail()
            return super().ids(after=after, limit=limit)

    source, sink = FakeSource(products(1)), Away()
    source.fail(times=20, status=500)

    def page():
        sink.failures = 1
        return products(1)

    report = fill(Pages(page, entities=False), source, sink)

    assert (cached(sink), report.failed) == (dict(source), 0)


def test_a_hundred_broken_ids_are_named_and_all_are_counted():
    source, sink = FakeSource(products(*range(120))), MemorySink()
    for id in list(source)[1:]:
        source.fail(id, status=500)

    report = fill(list(source), source, sink)

    assert report.failed == 119
    assert len(report.failed_ids) == 100


def test_a_state_that_is_not_ours_counts_as_none():
    for text in ("no JSON", "[]", '{"owner": {"host": 1}}'):
        sink = MemorySink()
        sink.set_state("backfill", text, if_state=None)
        source = FakeSource(products(1))

        assert fill(["p1"], source, sink).listed == 1


def test_of_two_that_begin_at_once_one_wins():
    class Contended(MemorySink):
        def set_state(self, name, text, /, *, if_state):
            if name == "backfill" and if_state is None:
                owner = {"host": "other", "pid": 7, "token": "other"}
                super().set_state(name, json.dumps({"owner": owner}), if_state=None)
            return super().set_state(name, text, if_state=if_state)

    with pytest.raises(AlreadyRunningError, match="process 7 on other"):
        Kept(Contended(), "backfill", types={}).take(lambda seconds: None)


def test_a_process_of_this_host_that_lives_is_not_replaced_before_the_lease():
    sink, waited = MemorySink(), []
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "token": "other"}
    assert sink.set_state("backfill", json.dumps({"owner": owner}), if_state=None)

    Kept(sink, "backfill", types={}, clock=lambda: sum(waited)).take(waited.append)

    assert sum(waited) == LEASE


def test_what_is_asked_for_is_stored_although_others_ask_at_once():
    class Contended(MemorySink):
        refusals = 3

        def set_state(self, name, text, /, *, if_state):
            self.refusals -= 1
            return self.refusals < 0 and super().set_state(name, text, if_state=if_state)

    sink = Contended()
    backfill([], FakeSource(), sink).pause()
    assert json.loads(sink.state("backfill control")) == {"paused": True}

    sink.refusals = 1000
    with pytest.raises(RuntimeError, match="has refused to store"):
        backfill([], FakeSource(), sink).resume()


def test_a_backfill_that_was_stopped_can_run_again():
    source, sink = FakeSource(products(1, 2)), MemorySink()

    class Listing:
        url = "x"
        stopped = False

        def page(self, cursor):
            if not self.stopped:
                self.stopped = True
                first.stop()
            return Page(["p1", "p2"], None, None)

    first = backfill(Listing(), source, sink)
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()
    first.run()
    assert cached(sink) == dict(source)


def test_a_sink_that_is_down_at_the_beginning_only_delays():
    class Down(MemorySink):
        def state(self, name):
            if name == "backfill" and refused:
                raise refused.pop()
            return super().state(name)

    refused = [OSError("the sink is down")]
    sink = Down()
    report = backfill(["p1"], FakeSource(products(1)), sink).run()

    assert (report.listed, refused) == (1, [])
    assert len(sink) == 1


def test_a_sink_that_is_down_while_it_names_its_ids_only_delays():
    class Down(MemorySink):
        failed = False

        def ids(self, *, after=None, limit=1000):
            if not self.failed:
                self.failed = True
                raise OSError("the sink is down")
            return super().ids(after=after, limit=limit)

    source, sink = FakeSource(products(1)), Down()
    assert fill(["p1"], source, sink).unlisted == 0


def test_an_outage_of_the_sink_that_is_longer_than_a_beat_only_delays(monkeypatch):
    monkeypatch.setattr("change_events._operations.state.BEAT", 0.0)
    source, sink = FakeSource(products(*range(10))), FailingSink()

    def page():
        wait_until(lambda: loaded(sink.state("backfill")).get("pages") == 1)
        sink.failures = 20
        return dict(source)

    fill(Pages(products(1), page), source, sink)

    assert cached(sink) == dict(source)


@pytest.mark.parametrize("state", ["backfill", "backfill listed 0"])
def test_a_sink_that_is_down_once_while_a_state_is_stored_only_delays(monkeypatch, state):
    class Down(MemorySink):
        def set_state(self, name, text, /, *, if_state):
            if name == state and refused:
                raise refused.pop()
            return super().set_state(name, text, if_state=if_state)

    monkeypatch.setattr("change_events._operations.listed.CHUNK", 2)
    refused = [OSError("the sink is down")]
    source, sink = FakeSource(products(*range(10))), Down()

    fill(list(source), source, sink)

    assert (cached(sink), refused) == (dict(source), [])


def test_a_listing_that_was_refused_is_trusted_again_once_a_page_was_right():
    source, sink = FakeSource(products(*range(100))), MemorySink()
    before = list(source)
    with pytest.raises(ListingError):
        backfill([f"x{n}" for n in range(40)], source, sink, allow_mass_deletion=True).run()
    backfill(before, source, sink).run()
    for id in before[:60]:
        del source[id]
        sink.apply(id, Gone(), if_version=sink.entry(id).version)

    assert backfill(before, source, sink, allow_mass_deletion=True).run().listed == 100


def test_a_new_run_forgets_what_the_last_one_has_listed(monkeypatch):
    monkeypatch.setattr("change_events._operations.listed.CHUNK", 2)
    source, sink = FakeSource(products(*range(6))), MemorySink()
    backfill(list(source), source, sink).run()
    del source["p0"]

    backfill(list(source), source, sink, allow_mass_deletion=True).run()

    assert cached(sink) == dict(source)


def test_a_rate_of_its_own_holds_although_nobody_asks_for_another():
    throttle = Throttle(5.0)

    Asked(throttle, MemorySink()).ask()

    assert throttle.rate == 5.0


def test_nothing_is_stored_from_a_page_if_the_sink_can_forget_and_stores_one_at_a_time():
    class OneAtATime(MemorySink):
        insert_many = None

    sink, page = OneAtATime(), {"p1": Found({"id": "p1"})}

    assert insert_many(sink, page, "an epoch") == set()
    assert sink.entry("p1").version == 0
    assert insert_many(sink, page, None) == {"p1"}


def looks(source, sink, throttle, *, on_tick=lambda: None):
    """Return what looks at many ids, and what ends its threads."""
    deletions = Deletions(Guard(), sink, source, lock=threading.Lock())
    sweep = Sweep(source, sink, deletions=deletions, throttle=throttle)
    rounds = Rounds(throttle, threads=1, sink=sink, on_tick=on_tick)
    return lambda ids: rounds.work(ids, sweep.look, size=sweep.bulk_size), rounds.close


def test_an_id_that_failed_just_before_a_long_outage_ended_is_looked_at():
    class Down(FakeSource):
        down = True

        def fetch(self, id, /, *, etag=None):
            if id == "good":
                self.down = False  # the outage is over by the time the good id is asked for
            elif self.down:
                raise FetchError("no answer")
            return super().fetch(id, etag=etag)

    source, sink = Down({"good": {"id": "good"}, "p1": {"id": "p1"}}), MemorySink()
    sink.apply("good", Found({"id": "good"}), if_version=0)

    look, _ = looks(source, sink, Throttle(pause=lambda failures, most: 0.0))
    done = look(["p1"])

    assert not isinstance(done["p1"], Exception)


def test_a_broken_id_on_each_page_does_not_stop_each_page_for_half_a_minute():
    pauses = []

    class Counting(Throttle):
        def pause_after(self, failures, error):
            pauses.append(2.0 ** min(failures, 5))
            return 0.0

    source, sink = FakeSource(products(*range(50))), MemorySink()
    for n in range(0, 50, 10):
        source.fail(f"p{n}", status=500)
    look, _ = looks(source, sink, Counting())
    for n in range(0, 50, 10):
        look([f"p{m}" for m in range(n, n + 10)])

    assert sum(pauses) < 60  # 150 s for 5 pages: 25 hours for 3,000 of them


def test_a_bulk_get_that_fails_costs_no_pause():
    pauses = []

    class Counting(Throttle):
        def pause_after(self, failures, error):
            pauses.append(failures)
            return 0.0

    class Bulk(FakeSource):
        bulk_size = 50

        def fetch_many(self, ids, /):
            raise FetchError("404", status=404)

    source, sink = Bulk(products(*range(50))), MemorySink()
    look, _ = looks(source, sink, Counting())
    look(list(source))

    assert pauses == []  # a worker looks at each id alone at once; here each page waits 1 to 2 s


def test_a_stop_ends_the_looks_of_many_and_the_pause_after_a_failure():
    class Stopping(Catalogue):
        def fetch(self, id, /, *, etag=None):
            throttle.stopping.set()
            raise FetchError("no answer")

    throttle = Throttle()
    source = Stopping(products(1, 2))
    look, _ = looks(source, MemorySink(), throttle)
    with pytest.raises(Stopped):
        look(["p1"])
    with pytest.raises(Stopped):
        look(["p1", "p2"])
    assert source.asked_many == []


def test_what_is_asked_for_is_asked_again_after_an_outage_of_the_sink():
    class Away(MemorySink):
        away = True

        def state(self, name, /):
            if self.away:
                raise OSError("the database is away")
            return super().state(name)

    sink, throttle = Away(), Throttle()
    times = iter([0.0, 0.5, 1.5])
    asked = Asked(throttle, sink, clock=lambda: next(times))
    asked.ask()
    sink.away = False
    backfill([], FakeSource(), sink).pause()
    asked.ask()
    assert throttle.running.is_set()
    asked.ask()
    assert not throttle.running.is_set()


def test_the_work_that_takes_long_is_shown_to_go_on():
    sink, now = MemorySink(), [0.0]
    kept = Kept(sink, "backfill", types={}, clock=lambda: now[0])
    kept.take(lambda seconds: None)
    before = sink.state("backfill")
    now[0] = 9.9
    kept.beat()
    assert sink.state("backfill") == before
    now[0] = 10.0
    kept.beat()
    assert sink.state("backfill") != before


def test_a_state_that_others_change_at_once_is_set_in_the_end():
    class Contended(MemorySink):
        refusals = 3

        def set_state(self, name, text, /, *, if_state):
            self.refusals -= 1
            return self.refusals < 0 and super().set_state(name, text, if_state=if_state)

    sink = Contended()
    change_state(sink, "name", lambda before: "text")
    assert sink.state("name") == "text"


def test_another_users_process_of_this_host_is_alive(monkeypatch):
    def refused(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)  # a test as root can't make one
    me = Owner.me()
    assert not me.is_dead(Owner(me.host, me.pid + 1, "other"))


def test_the_speed_is_that_of_the_last_seconds():
    speed = Speed()
    assert speed.at(0.0, 0) == 0.0
    assert speed.at(1.0, 1000) == 1000.0
    assert speed.at(11.0, 1100) == pytest.approx(10.0)
    assert speed.at(21.0, 1200) == pytest.approx(10.0)


def test_a_pause_after_a_failure_goes_on_with_ticks():
    source, ticks = FakeSource(products(1)), []
    source.fail(times=1)
    throttle = Throttle(pause=lambda failures, most: 0.01)

    look, _ = looks(source, MemorySink(), throttle, on_tick=lambda: ticks.append(1))
    look(["p1"])

    assert len(ticks) >= 3  # two rounds, and a pause


def test_looks_that_have_not_begun_when_it_is_stopped_do_not_begin():
    gate = threading.Event()

    class Slow(FakeSource):
        def fetch(self, id, /, *, etag=None):
            assert gate.wait(30)
            return super().fetch(id, etag=etag)

    def stop():
        raise Stopped

    source = Slow(products(1, 2, 3))
    look, close = looks(source, MemorySink(), Throttle(), on_tick=stop)
    with pytest.raises(Stopped):
        look(list(source))
    gate.set()
    close()
    wait_until(lambda: source.fetched == ["p1"])


def test_a_stop_does_not_wait_for_a_listing_that_hangs():
    class Hanging:
        def page(self, cursor):
            first.stop()
            threading.Event().wait()

    first = backfill(Hanging(), FakeSource(), MemorySink())
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()


@pytest.mark.parametrize("call", ["state", "set_state", "ids", "insert_many"])
def test_a_stop_does_not_wait_for_a_sink_that_hangs(call):
    hangs, never = threading.Event(), threading.Event()

    class Hanging(MemorySink):
        def __getattribute__(self, name):
            if name == call and hung:
                hangs.set()
                never.wait()
            return super().__getattribute__(name)

    def page():
        hung.append(True)
        return products(1)

    hung = []
    first = backfill(Pages(page), FakeSource(products(1)), Hanging())
    threading.Thread(target=lambda: hangs.wait(60) and first.stop(), daemon=True).start()
    with pytest.raises(RuntimeError, match="was stopped"):
        first.run()
    assert hangs.is_set()
    never.set()


def test_a_listing_that_hangs_does_not_keep_the_process():
    script = (
        "import threading\n"
        "from change_events import Backfill, MemorySink\n"
        "from change_events.testing import FakeSource\n"
        "class Hanging:\n"
        "    def page(self, cursor):\n"
        "        backfill.stop()\n"
        "        threading.Event().wait()\n"
        "backfill = Backfill(Hanging(), fetcher=FakeSource(), sink=MemorySink())\n"
        "try:\n"
        "    backfill.run()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, timeout=60
    )
    assert done.stdout.startswith(b"the backfill was stopped")


def test_a_pause_before_the_sample_is_read_ends_with_resume():
    source, sink = FakeSource(products(1)), MemorySink()
    paused = threading.Event()

    def page():
        backfill([], source, sink).pause()
        assert paused.wait(30)
        return products(1)

    def on_progress(progress):
        if json.loads(sink.state("backfill control") or "{}").get("paused"):
            paused.set()

    first = backfill(Pages(page), source, sink, on_progress=on_progress)
    thread = threading.Thread(target=first.run, daemon=True)
    thread.start()
    assert paused.wait(30)
    wait_until(lambda: len(first._listing.asked) == 1)
    backfill([], source, sink).resume()
    thread.join(20)
    assert not thread.is_alive()
    assert cached(sink) == dict(source)
