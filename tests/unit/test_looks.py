"""Looks at one id: what they store, report, settle, count and log."""

from __future__ import annotations

import contextlib
import logging
import random

import pytest
from hands import Catalogue, Hands, fail_look, message, opened

from change_events import FetchError, Found, MemorySink, Outcome, Unchanged
from change_events._consumer.guard import Guard
from change_events.testing import FakeSource


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


def test_a_look_returns_the_events_that_it_settles_and_reports_its_outcome(hands):
    hands.source["p1"] = {"id": "p1"}
    hands.receive(message())

    assert hands.look() == []
    hands.now = 105.5
    (settled,) = hands.look()

    assert settled.receipt_handle == "h1"
    assert hands.sink.get("p1") == {"id": "p1"}
    assert hands.outcomes == [("p1", Outcome.CREATED), ("p1", Outcome.UNCHANGED)]
    assert hands.counts() == {"received": 1, "gets": 2, "created": 1, "unchanged": 1, "held": 0}
    assert hands.changes == [1, 1]


def test_a_look_settles_the_events_that_were_due_when_its_get_started():
    class Slow(FakeSource):
        def fetch(self, id, /, *, etag=None):
            assert not hands.is_locked()
            hands.now += 100.0
            return super().fetch(id, etag=etag)

    hands = opened(fetcher=Slow())
    hands.receive(message())

    assert hands.look() == []
    assert len(hands.look()) == 1


def test_a_lost_compare_and_set_counts_as_a_conflict_and_costs_another_get(hands):
    lost = iter([True, True, False])

    class Contended(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return not next(lost) and super().apply(id, change, if_version=if_version)

    hands = Hands(sink=Contended(), settle=0.0)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert hands.counts() == {"received": 1, "gets": 3, "conflicts": 2, "never_saved": 1, "held": 0}


def test_after_a_lost_compare_and_set_the_entry_is_read_again(hands):
    class Rival(MemorySink):
        """Another worker stores something before the first look does."""

        def apply(self, id, change, /, *, if_version):
            if rivals:
                super().apply(id, rivals.pop(), if_version=if_version)
            return super().apply(id, change, if_version=if_version)

    rivals = []
    hands = Hands(sink=Rival(), settle=0.0)
    hands.source["p1"] = {"id": "p1", "n": 2}
    hands.sink = hands.settings.sink
    hands.sink.apply("p1", Found({"n": 0}), if_version=0)
    rivals.append(Found({"n": 1}))
    hands.receive(message())

    assert len(hands.look()) == 1
    assert hands.sink.get("p1") == {"id": "p1", "n": 2}
    assert hands.counts()["conflicts"] == 1


def test_a_look_stands_though_on_outcome_raises(caplog):
    hands = Hands(settle=0.0, on_outcome=lambda id, outcome: 1 / 0)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_look_is_counted_without_on_outcome():
    hands = Hands(settle=0.0, on_outcome=None)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert hands.counts()["never_saved"] == 1


# The pace


def test_gets_are_spread_evenly():
    hands = Hands(max_gets_per_second=4.0, settle=0.0)
    for number in range(3):
        hands.receive(message(f"p{number}", number))

    assert hands.next() == "p0"
    assert hands.next() is None
    assert hands.next_at() == 100.25
    hands.now = 100.25
    assert hands.next() == "p1"


def test_a_get_after_a_conflict_counts_for_the_pace():
    lost = iter([True, False])

    class Contended(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return not next(lost) and super().apply(id, change, if_version=if_version)

    hands = Hands(max_gets_per_second=4.0, sink=Contended())
    hands.receive(message(), message("p2", 2))
    assert hands.next() == "p1"
    hands.look_at("p1")

    assert hands.next_at() == 100.5


# Looks that fail


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (FetchError("500", status=500), 8.0),
        (FetchError("500", status=500, retry_after=7.0), 8.0),
        (FetchError("500", status=500, retry_after=90.0), 90.0),
        (FetchError("500", status=500, retry_after=1e6), 3600.0),
        (OSError("database is locked"), 8.0),
    ],
)
def test_after_a_failed_look_all_events_of_the_id_go_back_for_a_while(
    hands, no_jitter, error, pause
):
    first, second = fail_look(hands, error)

    assert first == [(f"h{number}", pause) for number in range(10)]
    assert second == [("h10", pause), ("h11", pause)]
    assert hands.held() == {}
    assert hands.counts() == {"received": 12, "gets": 1, "failed": 1, "retries": 12, "held": 0}
    assert hands.changes == [1]
    assert hands.outcomes == []


@pytest.mark.parametrize(
    ("error", "traceback"),
    [(FetchError("500", status=500), False), (OSError("database is locked"), True)],
)
def test_a_failed_look_is_logged_with_a_traceback_unless_the_source_failed(
    hands, caplog, no_jitter, error, traceback
):
    fail_look(hands, error)

    (record,) = caplog.records
    assert (record.levelno, record.action, record.id, record.outcome) == (
        logging.WARNING,
        "look",
        "p1",
        "failed",
    )
    assert record.pause == 8.0
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) is traceback


def test_the_pause_after_a_failed_look_grows_with_the_receives_up_to_five_minutes(hands, no_jitter):
    hands.source.fail(status=500)
    hands.receive(message(count=5), message("p2", 2, count=20))

    hands.look("p1")
    hands.look("p2")

    assert hands.queue.hidden == [[("h1", 32.0)], [("h2", 300.0)]]


def test_a_look_has_failed_once_the_sink_has_refused_it_fifty_times(caplog):
    class Refusing(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return False

    hands = Hands(sink=Refusing())
    hands.receive(message())

    assert hands.look() == []

    counts = hands.counts()
    assert (counts["gets"], counts["conflicts"], counts["failed"]) == (50, 49, 1)
    assert "Refusing refused what 50 looks in a row found at 'p1'" in caplog.text
    assert len(hands.queue.hidden) == 1


def test_an_early_get_sends_the_etag_of_what_is_cached_and_a_settling_one_does_not(hands):
    sent = []
    fetch = hands.source.fetch
    hands.source.fetch = lambda id, etag=None: (sent.append(etag), fetch(id, etag=etag))[1]
    hands.source["p1"] = {"id": "p1"}
    hands.receive(message())
    hands.look()
    hands.receive(message(number=2))
    hands.look()
    hands.now += 10.0
    hands.look()

    etag = hands.sink.entry("p1").etag
    assert etag is not None
    assert sent == [None, etag, None]


def test_an_early_look_that_finds_nothing_new_writes_nothing_and_the_next_follows_soon(hands):
    hands.receive(message())
    hands.look()
    for pause in (0.03, 0.09, 0.27):
        assert hands.next_at() == pytest.approx(hands.now + pause)
        hands.now = hands.next_at()
        hands.look()

    assert hands.sink.entry("p1").version == 0
    assert hands.outcomes == []
    assert hands.counts() == {"received": 1, "gets": 4, "too_early": 4, "held": 1}

    hands.source["p1"] = {"id": "p1"}
    hands.now = hands.next_at()
    hands.look()
    assert hands.outcomes == [("p1", Outcome.CREATED)]
    assert hands.next_at() == 105.5  # when the event is due


def test_early_looks_end_when_an_event_is_due(hands):
    hands.receive(message())
    times = [100.0]
    while hands.look() == []:
        hands.now = hands.next_at()
        times.append(hands.now)

    assert times[-1] == 105.5
    assert len(times) == 7
    assert hands.counts()["never_saved"] == 1


def test_while_the_queue_has_more_no_second_early_look_follows():
    hands = opened(batch_size=1, prefetch=10)
    hands.receive(message())
    with hands.consumer as desk:
        desk.receiving.backlog = True
    hands.look()

    assert hands.next_at() == 105.5


def test_the_sink_is_asked_for_good_ids_if_only_the_failing_one_is_known():
    class Listed(MemorySink):
        def ids(self, *, after=None, limit=1000):
            asked.append(limit)
            return super().ids(after=after, limit=limit)

    asked = []
    hands = opened(sink=Listed(), settle=0.0)
    hands.source["p1"] = {"id": "p1"}
    hands.receive(message())
    hands.look()

    fail_look(hands, FetchError("503"))

    assert len(asked) == 1


def test_a_failed_look_can_do_without_a_sink_that_names_good_ids(caplog):
    class Plain:
        """The smallest possible sink."""

        def __init__(self):
            sink = MemorySink()
            self.entry, self.apply = sink.entry, sink.apply

    hands = opened(sink=Plain(), settle=0.0)
    hands.source["p1"] = {"id": "p1"}
    hands.receive(message())
    hands.look()

    fail_look(hands, FetchError("503"))

    (record,) = caplog.records
    assert "503" in record.getMessage()


def test_an_answer_that_no_fetcher_can_give_names_the_fetcher_and_the_id(hands, caplog):
    hands.source.fetch = lambda id, etag=None: Unchanged()
    hands.receive(message())

    hands.look()

    (record,) = caplog.records
    assert "FakeSource.fetch('p1', etag=None) must return Found, Gone or" in record.getMessage()


# While a look waits for its GET


def stop(hands):
    hands.consumer.stop()


def refuse_a_deletion(hands):
    assert not hands.guard.allows_deletion()


def bring_down(hands):
    hands.desk.breaker.failed("p9", hands.now, 0.0)


def look_while(happens, fetcher):
    """Look at two ids that are due; while the look waits for its GET, something happens."""
    hands = opened(fetcher=fetcher, guard=Guard(max_share=0.0, min_deleted=1))

    @contextlib.contextmanager
    def slot():
        happens(hands)
        yield

    hands.looks.slot = slot()
    hands.receive(message("p1", 1), message("p2", 2))
    ids = hands.desk.next(hands.now)
    hands.changes.clear()
    assert not any(hands.looks.look(ids))
    return hands, ids


@pytest.mark.parametrize("happens", [stop, refuse_a_deletion, bring_down])
@pytest.mark.parametrize(("source", "number"), [(FakeSource, 1), (Catalogue, 2)])
def test_a_look_whose_turn_comes_when_none_may_begin_asks_nothing(source, number, happens):
    hands, ids = look_while(happens, source())

    assert len(ids) == number
    assert "gets" not in hands.counts()
    assert hands.inbox.looking() == 0
    assert hands.held().keys() == {"m1", "m2"}


@pytest.mark.parametrize("source", [FakeSource, Catalogue])
def test_what_an_outage_has_put_off_tests_the_source(source):
    hands, ids = look_while(bring_down, source())
    assert hands.desk.next(hands.now) == []
    assert hands.changes == [1]

    hands.now += 1.0

    assert hands.desk.next(hands.now) == ids[:1]
    hands.looks.slot = contextlib.nullcontext()
    hands.look_at(ids[0])
    assert hands.counts()["gets"] == 1


@pytest.mark.parametrize("source", [FakeSource, Catalogue])
def test_what_a_refused_deletion_has_put_off_is_looked_at_after_resume(source):
    hands, _ = look_while(refuse_a_deletion, source())

    hands.resume()

    assert set(hands.desk.next(hands.now) + hands.desk.next(hands.now)) == {"p1", "p2"}


@pytest.mark.parametrize("happens", [stop, refuse_a_deletion, bring_down])
def test_after_a_lost_compare_and_set_no_look_goes_on_that_may_not_begin(happens):
    class Contended(MemorySink):
        def apply(self, id, change, /, *, if_version):
            happens(hands)
            return False

    hands = Hands(sink=Contended(), guard=Guard(max_share=0.0, min_deleted=1))
    hands.receive(message())

    assert hands.look() == []

    assert hands.counts()["gets"] == 1
    assert hands.inbox.looking() == 0
    assert hands.held().keys() == {"m1"}
