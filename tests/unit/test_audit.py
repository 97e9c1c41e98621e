"""What an audit compares, finds, repairs, keeps and refuses."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    Gone,
    MassDeletionError,
    MemorySink,
    Outcome,
    Unchanged,
    refresh,
)
from change_events._operations.audit import Audit
from change_events._operations.audit_report import AuditReport, RepairReport, rates, upper_bound
from change_events._operations.auditing import Auditing, Sample
from change_events._operations.comparing import Findings
from change_events._operations.patience import patiently
from change_events._operations.progress import Teller
from change_events._operations.reading import Pages
from change_events._operations.rounds import OTHER_TRIES, TRIES, Rounds
from change_events._operations.sides import Sides, bodies_of, equal
from change_events._operations.throttle import Throttle
from change_events._source.listing import Page, listing_of
from change_events.exceptions import ListingError
from change_events.testing import FakeSource

CHECK = Path(__file__).parents[2] / "docs" / "howto" / "check.md"


def products(*numbers):
    return {f"p{n}": {"id": f"p{n}", "n": n} for n in numbers}


def filled(*numbers):
    """Return a source, and a cache of it."""
    source, sink = FakeSource(products(*numbers)), MemorySink()
    for id in source:
        refresh(id, fetcher=source, sink=sink)
    return source, sink


def audit(listing, source, sink, **settings):
    return Audit(listing, fetcher=source, sink=sink, **{"min_age": 0.0, **settings})


class Bulk(FakeSource):
    """A source that answers many at once, too; `down`: such a GET fails."""

    bulk_size = 50
    down = False

    def __init__(self, *args):
        super().__init__(*args)
        self.asked_many = []

    def fetch_many(self, ids, /):
        self.asked_many.append(list(ids))
        if self.down:
            raise FetchError("no answer")
        return {id: Found(self[id]) for id in ids if id in self}


def spoil(source, sink):
    """Plant each kind of fault that needs no SQL."""
    del source["p1"]  # extra, listed no longer
    source["p2"] = {"id": "p2", "n": 22}  # different
    sink.apply("p3", Gone(), if_version=sink.entry("p3").version)  # a tombstone
    source["p100"] = {"id": "p100"}  # missing


@pytest.mark.parametrize("entities", [True, False])
@pytest.mark.parametrize("bulk", [True, False])
def test_each_fault_is_found_and_repaired(entities, bulk):
    source, sink = filled(*range(60))
    if bulk:
        source = Bulk(source)
    spoil(source, sink)
    listing = list(source.items()) if entities else list(source)

    report = audit(listing, source, sink).run()

    assert (report.missing_ids, report.extra_ids, report.different_ids) == (
        ["p3", "p100"],
        ["p1"],
        ["p2"],
    )
    assert (report.missing, report.extra, report.different, report.stale) == (2, 1, 1, 4)
    assert (report.compared, report.cleared, report.undecided) == (61, 0, 0)
    assert not report.clean

    repaired = report.repair()

    assert repaired.outcomes == {Outcome.CREATED: 2, Outcome.DELETED: 1, Outcome.UPDATED: 1}
    assert not repaired.failed_ids
    assert dict(sink.items()) == dict(source)
    assert audit(listing, source, sink).run().clean


def test_a_cache_that_is_right_is_clean_and_whole_entities_need_no_get():
    source, sink = filled(*range(250))
    source.fetched.clear()
    asked = len(source.fetched)

    report = audit(list(source.items()), source, sink).run()

    assert report.clean
    assert report.compared == 250
    assert len(source.fetched) == asked


def test_what_is_cached_and_not_listed_is_right_if_the_source_has_it():
    source, sink = filled(*range(5))

    report = audit(["p1", "p1", "p2"], source, sink).run()

    assert report.clean
    assert report.compared == 5


def test_many_ids_are_read_with_one_get():
    source, sink = filled(*range(100))
    bulk = Bulk(source)

    assert audit(list(bulk), bulk, sink).run().clean
    assert [len(ids) for ids in bulk.asked_many] == [50, 50]
    assert bulk.fetched == []


def test_a_bulk_get_that_fails_is_replaced_by_a_get_of_each():
    source, sink = filled(*range(10))
    bulk = Bulk(source)
    bulk.down = True

    assert audit(list(bulk), bulk, sink).run().clean
    assert sorted(bulk.fetched) == sorted(source)


# Rows that differ from their digest, and sinks that can do less


class Bare:
    """A sink that can do only what it must."""

    def __init__(self, sink):
        self._sink = sink

    def entry(self, id, /):
        return self._sink.entry(id)

    def apply(self, id, change, /, *, if_version):
        return self._sink.apply(id, change, if_version=if_version)


class Bodiless(Bare):
    """A sink whose entities are in tables of the user's own."""

    def __init__(self, sink):
        super().__init__(sink)
        self.ids = sink.ids

    def get(self, id, /):
        raise ConfigurationError("the entities are in tables of your own")


def test_a_sink_without_bodies_is_compared_by_digests_and_the_report_says_so():
    source, sink = filled(*range(10))
    spoil(source, sink)

    report = audit(list(source.items()), source, Bodiless(sink)).run()

    assert (report.missing, report.extra, report.different) == (2, 1, 1)
    assert report.by == "digests"
    assert "give the sink read=" in str(report)
    report.repair()
    assert dict(sink.items()) == dict(source)


def test_a_sink_that_reads_many_at_once_is_asked_for_a_page_with_one_call():
    class Many(MemorySink):
        asked = ()

        def get_many(self, ids, /):
            self.asked = (*self.asked, list(ids))
            return {id: entity for id in ids if (entity := self.get(id)) is not None}

    source, sink = FakeSource(products(*range(150))), Many()
    for id in source:
        refresh(id, fetcher=source, sink=sink)
    del source["p1"]

    report = audit([*source.items(), ("p1", {"id": "p1"})], source, sink).run()

    assert [len(ids) for ids in sink.asked] == [1, 100, 50, 1, 1]  # the first asks if it can read
    assert report.extra_ids == ["p1"]


def test_what_is_cached_in_a_table_of_ones_own_is_compared_if_the_sink_can_read_it():
    source, sink = filled(1, 2, 3)
    table = dict(source)
    table["p1"] = {"id": "p1", "n": 7}
    del table["p2"]
    own = Bodiless(sink)
    own.get = table.get

    report = audit(list(source), source, own).run()

    assert report.by == "bodies"
    assert (report.different_ids, report.missing_ids) == (["p1"], ["p2"])
    assert report.reasons == {
        "not what a look has stored: changed by hand": 1,
        "counted as cached, and not there: deleted by hand": 1,
    }


def test_a_sink_that_cant_name_its_ids_is_compared_by_the_listing_and_the_report_says_so():
    source, sink = filled(*range(10))
    del source["p1"]

    report = audit(list(source), source, Bare(sink)).run()

    assert report.clean
    assert not report.whole
    assert "the sink can't name its ids" in str(report)


def test_what_neither_side_has_is_right_without_bodies_too():
    source, sink = filled(1)

    report = audit(["p1", "p2"], source, Bodiless(sink)).run()

    assert (report.clean, report.compared) == (True, 2)


def test_an_entry_without_a_digest_cant_be_compared_without_its_body():
    source, sink = filled(1, 2)
    entry = sink.entry("p1")
    sink.apply("p1", Found(source["p1"]), if_version=entry.version)

    report = audit(list(source.items()), source, Bodiless(sink)).run()

    assert report.undecided_ids == {"p1": "there is no digest to compare: give the sink read="}
    assert (report.compared, report.undecided, report.stale, report.clean) == (1, 1, 0, False)
    assert "1 could not be compared" in str(report)


def test_values_that_are_not_json_are_compared():
    class Numbers:
        def fetch(self, id, /, *, etag=None):
            return Found({"a": 1j, "b": 2j}[id])

    sink = MemorySink()
    sink.apply("a", Found(1j), if_version=0)
    sink.apply("b", Found(3j), if_version=0)

    report = audit(["a", "b"], Numbers(), sink).run()

    assert (report.compared, report.different_ids) == (2, ["b"])
    assert report.reasons == {
        "a row without a digest: inserted by hand, or stored under another revision": 1
    }


def test_a_read_that_does_not_return_what_was_stored_is_named():
    class Rows(MemorySink):
        def get_many(self, ids, /):
            return {id: (id, 1) for id in super().get_many(ids)}

    source, sink = FakeSource(products(1)), Rows()
    for id in source:
        refresh(id, fetcher=source, sink=sink)

    report = audit(list(source), source, sink).run()

    assert report.reasons == {
        "not JSON as read: read= returns something else than upsert= got, or never announced": 1
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1.0, 1, True),
        (1e23, 10**23, True),
        (10**23, 1e23, True),
        (1, True, False),
        (0.0, False, False),
        (True, True, True),
        (10**400, 1e300, False),
        ("1", 1, False),
        (None, None, True),
        (None, {}, False),
        ({"a": [1, {"b": 2}]}, {"a": [1.0, {"b": 2}]}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1], False),
        ([1], {"a": 1}, False),
    ],
)
def test_equal_compares_json(one, other, same):
    assert equal(one, other) is same


# Why


def test_the_report_says_why_each_entry_can_be_wrong():
    source, sink = filled(*range(10))
    spoil(source, sink)
    sink.apply("inserted", Found({"id": "inserted"}), if_version=0)

    report = audit(list(source), source, sink).run()

    assert report.reasons == {
        "changed at the source and never announced": 2,
        "a tombstone: created again and never announced, or deleted by hand": 1,
        "never looked at: never announced, or its row was deleted by hand": 1,
        "a row without a digest: inserted by hand, or stored under another revision": 1,
    }


# Rates


@pytest.mark.parametrize(
    ("found", "of", "bound"),
    [
        (0, 1000, 2.9912e-3),  # 1 - 0.05 ** (1 / 1000): the rule of three
        (0, 1, 0.95),
        (1, 10, 0.39416),  # from tables of Clopper and Pearson
        (5, 100, 0.10225),
        (10, 10, 1.0),
        (9, 10, 0.99488),
        (0, 0, 1.0),
        (500, 1000, 0.526482),
        (90_000, 100_000, 0.90156),
    ],
)
def test_the_bound_is_that_of_clopper_and_pearson(found, of, bound):
    assert upper_bound(found, of) == pytest.approx(bound, rel=1e-4)


def test_what_can_be_told_of_times_that_are_longer_than_min_age():
    source, sink = filled(*range(1000))
    source["p1"] = {"id": "p1", "n": 11}

    report = audit(list(source.items()), source, sink).run()

    longer = report.rates["stale_5_minutes"]
    assert (longer.least, longer.most) == (0.0, 1000.0)
    assert longer.bound == pytest.approx(4735, rel=1e-3)
    assert "stale for more than 5 min: 0 to 1,000 per million, under 4,73" in str(report)


# The report


def test_a_report_reads_well_and_names_the_first_twenty_ids():
    source, sink = filled(1)
    source.update(products(*range(100, 150)))

    report = audit(list(source), source, sink).run(sample=51)
    text = str(report)

    assert text.startswith(
        "51 compared by their bodies (a sample): 50 missing, 0 extra, 0 different\n"
    )
    assert "50: never looked at: never announced" in text
    assert " and 30 more" in text
    assert text.count("p1") == 20
    assert len(report.missing_ids) == 50


def test_a_report_counts_what_differed_at_first():
    source, sink = filled(1)
    source["p1"] = {"id": "p1", "n": 11}

    class Following(FakeSource):
        def fetch(self, id, /, *, etag=None):
            found = super().fetch(id, etag=etag)
            sink.apply("p1", found, if_version=sink.entry("p1").version)
            return found

    report = audit(["p1"], Following(source), sink).run()

    assert (report.clean, report.cleared) == (True, 1)
    assert "1 differed at first, and changed meanwhile: not reported" in str(report)


def test_the_report_in_the_docs_is_one():
    reasons = {
        "changed at the source and never announced": 5,
        "not what a look has stored: changed by hand": 1,
    }
    report = AuditReport(
        compared=50_000,
        sample=None,
        whole=True,
        by="bodies",
        missing=2,
        extra=1,
        different=3,
        missing_ids=["p17", "p4411"],
        extra_ids=["p9"],
        different_ids=["p1", "p2", "p3"],
        reasons=reasons,
        wrong_for=65.2,
        cleared=8,
        undecided=0,
        undecided_ids={},
        rates=rates([65.2] * 6, 50_000),
        seconds=120.0,
        last_clean=1772330441.0,
        repairing=lambda allow: RepairReport(outcomes={}, failed_ids={}),
    )

    assert f"```\n{report}\n```" in CHECK.read_text()


def test_a_report_is_json():
    source, sink = filled(*range(10))
    spoil(source, sink)

    report = audit(list(source), source, sink).run()
    loaded = json.loads(json.dumps(report.as_dict()))

    assert loaded["stale"] == 4
    assert loaded["extra_ids"] == ["p1"]
    assert loaded["per_million"]["stale_1_minute"].keys() == {"least", "most", "bound_95"}
    assert loaded["clean"] is False


def test_the_result_and_the_time_of_the_last_clean_audit_are_kept_in_the_sink():
    source, sink = filled(*range(10))
    clean = audit(list(source), source, sink).run()
    kept = json.loads(sink.state("audit"))
    assert kept["clean"] is True
    assert kept["last_clean"] == clean.last_clean == kept["ended"]

    spoil(source, sink)
    stale = audit(list(source), source, sink).run()

    kept = json.loads(sink.state("audit"))
    assert kept["clean"] is False
    assert kept["stale"] == 4
    assert kept["last_clean"] == stale.last_clean == clean.last_clean
    assert kept["ended"] > clean.last_clean
    assert "last clean audit: 20" in str(stale)


def test_two_audits_that_end_at_once_both_keep_their_results():
    class Contended(MemorySink):
        raced = False

        def set_state(self, name, text, /, *, if_state):
            if not self.raced:
                self.raced = True
                assert super().set_state(name, '{"last_clean": 7.0}', if_state=if_state)
            return super().set_state(name, text, if_state=if_state)

    sink = Contended()
    source = FakeSource(products(1))

    report = audit(["p1"], source, sink).run()

    assert report.last_clean == 7
    assert json.loads(sink.state("audit"))["missing"] == 1


# Samples


def test_a_sample_is_of_listed_and_cached_ids_without_those_twice():
    source, sink = filled(*range(50))
    listed = [f"p{n}" for n in range(20)]

    report = audit([*listed, *listed], source, sink).run(sample=40)

    assert report.compared == 40
    assert len({*source.fetched[50:]}) == 40
    assert audit(listed, source, sink).run(sample=1000).compared == 50


def test_each_id_is_chosen_as_often():
    counts = dict.fromkeys((f"p{n}" for n in range(20)), 0)
    for salt in range(400):
        sample = Sample(5, salt.to_bytes(8, "big"))
        sample.add(list(counts)[:12], listed=True)
        sample.add(counts, listed=False)
        listed, rest = sample.chosen()
        assert len({*listed, *rest}) == 5
        assert {*listed} <= {*list(counts)[:12]}
        for id in [*listed, *rest]:
            counts[id] += 1

    assert all(60 <= count <= 140 for count in counts.values())  # 100, or 5 standard deviations


# Listings and failures


def tried_at_once():
    return Throttle(pause=lambda failures, most: 0.0)


def audited(listing, source, sink, *, throttle=None, threads=4):
    """Run an audit that waits for nothing."""
    throttle = throttle or tried_at_once()
    rounds = Rounds(throttle, threads=threads, sink=sink, on_tick=lambda: None)
    pages = Pages(listing_of(listing), throttle=throttle, awaited=rounds.awaited)
    found = Findings()
    auditing = Auditing(
        pages,
        sides=Sides(
            source,
            sink,
            bodies=patiently(lambda: bodies_of(sink), throttle=throttle, what="the sink"),
            throttle=throttle,
        ),
        sink=sink,
        rounds=rounds,
        throttle=throttle,
        min_age=0.0,
        found=found,
    )
    try:
        for _ in auditing.steps():
            pass
    finally:
        pages.close()
        rounds.close()
    return found


@pytest.mark.parametrize("status", [None, 500, 503])
def test_an_outage_of_the_source_only_delays(status, caplog):
    source, sink = filled(*range(30))
    del source["p7"]
    source.fail(times=100, status=status)

    found = audited(list(source), source, sink)

    assert found.ids("extra") == ["p7"]
    assert (found.done, found.undecided) == (30, {})
    assert "will be tried again" in caplog.text


def test_an_outage_between_the_two_readings_only_delays():
    source, sink = filled(*range(30))
    source["p7"] = {"id": "p7", "n": 77}

    class Failing(FakeSource):
        gets = 0

        def fetch(self, id, /, *, etag=None):
            self.gets += 1
            if 30 < self.gets < 45:
                raise FetchError("no answer")
            return super().fetch(id, etag=etag)

    assert audited(list(source), Failing(source), sink).ids("different") == ["p7"]


def test_entities_that_are_broken_themselves_are_named_and_do_not_keep_the_others():
    source, sink = filled(*range(30))
    source.fail("p7", status=500)
    source.fail("p9", status=503)

    found = audited(list(source), source, sink)

    assert found.undecided.keys() == {"p7", "p9"}
    assert "answered 500" in found.undecided["p7"]
    assert found.done == 30
    asked = source.fetched[30:]
    assert asked.count("p7") == 1 + TRIES + 1
    assert asked.count("p9") == 1 + OTHER_TRIES + 1


def test_an_entity_that_breaks_between_the_two_readings_is_not_judged():
    source, sink = filled(*range(30))
    source["p7"] = {"id": "p7", "n": 77}

    class Breaking(FakeSource):
        def fetch(self, id, /, *, etag=None):
            found = super().fetch(id, etag=etag)
            if id == "p7":
                self.fail("p7", status=500)
            return found

    found = audited(list(source), Breaking(source), sink)

    assert found.undecided.keys() == {"p7"}
    assert found.stale == {}


def test_a_source_without_any_good_answer_is_waited_for():
    source, sink = FakeSource(products(1)), MemorySink()
    source.fail(times=50, status=500)

    found = audited(["p1"], source, sink)

    assert (found.ids("missing"), found.undecided) == (["p1"], {})


def test_a_fetcher_that_breaks_its_contract_is_named():
    class Wrong(FakeSource):
        def fetch(self, id, /, *, etag=None):
            return Unchanged()

    source, sink = filled(1)

    with pytest.raises(ConfigurationError, match="must return Found or Gone"):
        audited(["p1"], Wrong(source), sink)


class DownSink(MemorySink):
    """A sink that fails at some of its calls."""

    fails = 0

    def _call(self):
        if self.fails:
            self.fails -= 1
            raise OSError("the sink is down")

    def entry(self, id, /):
        self._call()
        return super().entry(id)

    def get(self, id, /):
        self._call()
        return super().get(id)

    def ids(self, *, after=None, limit=1000):
        self._call()
        return super().ids(after=after, limit=limit)


@pytest.mark.parametrize("entities", [True, False])
def test_an_outage_of_the_sink_only_delays(entities, caplog):
    source, sink = FakeSource(products(*range(30))), DownSink()
    for id in source:
        refresh(id, fetcher=source, sink=sink)
    sink.fails = 8

    found = audited(list(source.items() if entities else source), source, sink)

    assert (found.done, found.undecided, found.stale) == (30, {}, {})


def test_a_sink_that_is_down_while_it_names_its_ids_is_asked_again(caplog):
    sink = DownSink()
    sink.fails = 3

    assert audited([], FakeSource(), sink).done == 0
    assert "the sink does not answer" in caplog.text


class Pageful:
    """A listing with these pages; one that is callable is called."""

    def __init__(self, *pages):
        self._pages = pages

    def page(self, cursor):
        page = self._pages[int(cursor or 0)]
        return page() if callable(page) else page


def test_a_listing_that_is_down_is_asked_again(caplog):
    source, sink = filled(1, 2)
    failures = iter([FetchError("no answer"), OSError("reset"), FetchError("503", status=503)])

    def page():
        for error in failures:
            raise error
        return Page(["p2"], None, None)

    found = audited(Pageful(Page(["p1"], None, "1"), page), source, sink)

    assert found.done == 2
    assert "the listing does not answer" in caplog.text


def test_an_id_that_failed_just_before_an_outage_ended_is_read_again():
    source, sink = filled(1, 2)
    source["p1"] = {"id": "p1", "n": 11}

    class Down(FakeSource):
        down = False

        def fetch(self, id, /, *, etag=None):
            if self.down and id == "p2":
                self.down = False  # the outage is over when the good id is asked for
            if self.down:
                raise FetchError("no answer")
            if id == "p1":
                self.down = True
            return super().fetch(id, etag=etag)

    found = audited(["p2", "p1"], Down(source), sink, threads=1)

    assert found.ids("different") == ["p1"]


def test_an_error_of_the_listings_own_code_is_raised_in_the_end():
    def page():
        return {}["no such key"]

    with pytest.raises(KeyError, match="no such key"):
        audited(Pageful(page), FakeSource(), MemorySink())


def test_a_listing_that_loops_is_refused():
    listing = Pageful(*(Page([], None, str(to)) for to in (1, 2, 1)))

    with pytest.raises(ListingError, match="loops"):
        audited(listing, FakeSource(), MemorySink())


@pytest.mark.parametrize("number", [3, 100])
@pytest.mark.parametrize("sample", [None, 1000])
def test_ids_of_another_type_are_refused_and_nothing_is_kept(number, sample):
    source, sink = filled(1)

    with pytest.raises(ListingError, match=r"^the listing has named .* another type"):
        audit([f"o{n}" for n in range(number)], source, sink).run(sample=sample)
    assert sink.state("audit") is None


@pytest.mark.parametrize("number", [3, 100])
def test_entities_that_are_not_whole_are_refused(number):
    source, sink = filled(*range(number))

    with pytest.raises(ListingError, match="entities=False"):
        audit([(id, {"id": id}) for id in source], source, sink).run()


# Repair


def test_a_repair_obeys_the_guard_unless_the_deletions_are_meant():
    source, sink = filled(*range(100))
    source.clear()
    report = audit([], source, sink).run()
    assert report.extra == 100

    with pytest.raises(MassDeletionError):
        report.repair()
    assert 70 < len(sink) < 100

    repaired = report.repair(allow_mass_deletion=True)
    assert len(sink) == 0
    assert sum(repaired.outcomes.values()) == 100


def test_a_repair_names_what_it_cant_repair(monkeypatch):
    source, sink = filled(*range(5))
    source["p1"] = {"id": "p1", "n": 11}
    source["p2"] = {"id": "p2", "n": 22}
    report = audit(list(source), source, sink).run()

    monkeypatch.setattr("change_events._consumer.backoff.random.uniform", lambda low, high: 0.0)
    source.fail("p1", status=500)
    repaired = report.repair()

    assert repaired.outcomes == {Outcome.UPDATED: 1}
    assert repaired.failed_ids.keys() == {"p1"}
    assert str(repaired).startswith("1 ids repaired (1 updated)\nnot p1: ")


# Settings, stops, progress


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threads": 0}, "threads must be from 1 to 256"),
        ({"min_age": -1.0}, "min_age must be 0 or more"),
        ({"min_age": float("inf")}, "min_age must be 0 or more"),
        ({"max_gets_per_second": 0}, "max_gets_per_second must be from"),
    ],
)
def test_settings_are_checked(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        audit([], FakeSource(), MemorySink(), **settings)
    with pytest.raises(ConfigurationError, match="sample must be 1 or more"):
        audit([], FakeSource(), MemorySink()).run(sample=0)


def test_a_stop_ends_a_run_that_waits_and_the_next_one_can_run():
    source, sink = filled(1)
    source["p1"] = {"id": "p1", "n": 11}
    waits = threading.Event()

    def progress(progress):
        if progress.phase == "suspects":
            waits.set()
            first.stop()

    first = audit(["p1"], source, sink, min_age=3600.0, on_progress=progress)
    with pytest.raises(RuntimeError, match="the audit was stopped"):
        first.run()
    assert waits.is_set()
    refresh("p1", fetcher=source, sink=sink)
    assert first.run().clean


def test_a_stop_does_not_wait_for_a_sink_that_hangs():
    hangs, never = threading.Event(), threading.Event()

    class Hanging(MemorySink):
        def ids(self, *, after=None, limit=1000):
            hangs.set()
            never.wait()
            return super().ids(after=after, limit=limit)

    first = audit([], FakeSource(), Hanging())
    threading.Thread(target=lambda: hangs.wait(60) and first.stop(), daemon=True).start()
    with pytest.raises(RuntimeError, match="the audit was stopped"):
        first.run()
    never.set()


def test_progress_is_told_and_an_error_of_on_progress_is_logged(caplog):
    source, sink = filled(*range(10))
    told = []

    def progress(progress):
        told.append(progress)
        raise ValueError("mine")

    report = audit(list(source), source, sink, on_progress=progress).run()

    assert report.clean
    assert told[-1].done == told[-1].total == 10
    assert "10 of 10 ids" in str(told[-1])
    assert "on_progress failed" in caplog.text


def test_progress_says_how_long_the_rest_of_the_listing_will_take():
    told, found = [], Findings(total=100)
    throttle = Throttle()
    throttle.waits_for("the source", FetchError("no answer"))
    teller = Teller("audit", throttle, found.count, told.append)
    for done in (0, 20):
        found.done = done
        teller.tell(last=True)

    assert told[0].seconds_left is None
    assert told[1].seconds_left > 0
    assert told[1].slow == "no answer"


def test_work_that_is_over_before_its_first_progress_has_a_speed():
    told, found, clock = [], Findings(total=100), [0.0]
    found.done = 40  # before a restart
    throttle = Throttle()
    throttle.threads.clock = lambda: clock[0]
    teller = Teller("audit", throttle, found.count, told.append)
    teller.tell()
    clock[0], found.done = 2.0, 100
    teller.tell(last=True)

    assert str(told[0]) == "100 of 100 ids, 30 a second, 0 s to go; limited by: the listing"


def test_progress_is_logged_without_on_progress(caplog):
    caplog.set_level("INFO", logger="change_events")
    source, sink = filled(*range(10))

    audit(list(source), source, sink).run()

    assert "audit: 10 of 10 ids" in caplog.text


def test_patience_ends_with_an_error_of_the_configuration():
    def call():
        raise ConfigurationError("no such table")

    with pytest.raises(ConfigurationError):
        patiently(call, throttle=tried_at_once(), what="the sink")


def test_patience_ends_with_an_error_that_code_raises_by_its_own_fault():
    calls = []

    def call():
        calls.append(None)
        row = None
        return row["name"]

    with pytest.raises(TypeError, match="subscriptable"):
        patiently(call, throttle=tried_at_once(), what="the sink")
    assert len(calls) == 5
