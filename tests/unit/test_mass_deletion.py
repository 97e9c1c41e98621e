"""A mass deletion is refused, and stops the worker until an operator says `resume`."""

from __future__ import annotations

import logging
import threading

import pytest
from hands import Hands, message, opened, outage_log

from change_events import Found, Gone, MassDeletionError, MemorySink
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def wiped():
    """Hands that have looked at thirty of sixty cached entities. The source knows none of them."""
    hands = Hands(settle=0.0)
    hands.settled = wipe(hands)
    return hands


def wipe(hands):
    hands.intake.ask_delay()
    for n in range(60):
        assert hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
    begun = [hands.next() for _ in range(30)]
    return [len(hands.look_at(id)) for id in begun]


def test_the_twentieth_deletion_in_a_row_and_all_that_follow_are_refused(wiped):
    assert wiped.settled == [1] * 19 + [0] * 11
    assert len(wiped.sink) == 60 - 19
    assert len(wiped.held()) == 11
    assert wiped.queue.hidden == []
    counts = wiped.counts()
    assert (counts["deleted"], counts["held"], counts.get("failed")) == (19, 11, None)


def test_a_refused_mass_deletion_is_logged_once_as_critical(wiped, caplog):
    (record,) = [
        record for record in caplog.get_records("setup") if record.levelno == logging.CRITICAL
    ]
    assert record.action == "mass_deletion"
    assert record.getMessage() == (
        "20 of the last 20 looks at cached entities saw them gone. Nothing more is deleted or "
        f"received. If the source is wrong, mend it, or the URL of {wiped.source!r}, and start the "
        "worker again; if it is right, call Worker.resume(), send the worker SIGUSR1, or start "
        "with allow_mass_deletion=True"
    )
    assert str(wiped.halted) == record.getMessage()


def test_nothing_is_received_or_looked_at_from_a_refused_deletion_until_resume(wiped):
    wiped.receive(message("new", 99))
    assert not wiped.may_receive()
    assert (wiped.next(), wiped.next_at()) == (None, None)

    wiped.resume()

    assert wiped.changes[-1] == 12
    assert wiped.may_receive()
    looked = [id for _ in range(12) if wiped.look_at(id := wiped.next())]
    assert len(looked) == 12
    assert len(wiped.sink) == 30


def test_the_worker_is_paused_by_mass_deletion_until_resume(wiped):
    assert wiped.pauses.why == "mass deletion"

    wiped.resume()
    assert wiped.pauses.why is None


def test_a_run_that_begins_after_a_refused_mass_deletion_is_paused_from_its_start():
    guard = Guard(max_share=0.0, min_deleted=1)
    assert not guard.allows_deletion()

    hands = Hands(guard=guard)
    assert hands.pauses.why == "mass deletion"

    hands.resume()
    assert hands.pauses.why is None


def test_looks_at_ids_that_are_not_cached_do_not_count_as_deletions():
    hands = Hands(settle=0.0)
    hands.guard.found(cached=False)
    for n in range(50):
        hands.receive(message(f"p{n}", n))
        hands.look(f"p{n}")

    assert hands.counts()["never_saved"] == 50


def test_looks_that_find_an_entity_count_against_a_mass_deletion(hands):
    for n in range(60):
        hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
        if n % 2 == 0:
            hands.source[f"p{n}"] = {"id": f"p{n}"}
        hands.receive(message(f"p{n}", n))
    for _ in range(60):
        hands.look_at(hands.next())

    assert hands.counts()["deleted"] == 30


def test_a_refused_deletion_ends_an_outage(wiped, caplog):
    wiped.resume()
    wiped.source.fail()
    while not wiped.desk.breaker.open:
        wiped.now = wiped.next_at()
        wiped.look_at(wiped.next())
    wiped.source.recover()
    wiped.guard.__init__(min_deleted=1)
    wiped.sink.set_state("guard", "")
    wiped.now = wiped.next_at()
    wiped.look_at(wiped.next())

    assert wiped.next_at() is None  # refused
    assert [record.over for record in outage_log(caplog)] == [False, True]
    wiped.resume()
    assert wiped.next_at() == wiped.now
    assert wiped.may_receive()


# What is kept


def test_a_refusal_outlasts_a_restart_and_a_resume_reaches_all_processes(wiped):
    later = Hands(sink=wiped.sink)
    later.looks.recall()
    assert later.pauses.why == "mass deletion"
    assert isinstance(later.halted, MassDeletionError)

    wiped.resume()
    assert later.pauses.why == "mass deletion"  # it is not asked yet
    later.resume()
    assert later.pauses.why is None
    assert Hands(sink=wiped.sink).looks.recall() is None


def test_a_worker_that_starts_with_a_refusal_says_so(wiped, caplog):
    later = Hands(sink=wiped.sink)
    later.looks.recall()

    (record,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert record.action == "mass_deletion"
    assert record.getMessage() == str(later.halted)


def test_a_worker_starts_although_what_is_kept_cannot_be_read():
    class Down(MemorySink):
        def state(self, name, /):
            raise OSError("no connection")

    hands = Hands(sink=Down())
    hands.looks.recall()

    assert hands.may_receive()


def test_without_a_sink_that_keeps_state_a_refusal_ends_with_the_process(wiped):
    class Plain:
        entry = wiped.sink.entry
        apply = wiped.sink.apply

    hands = Hands(sink=Plain(), settle=0.0)
    hands.looks.recall()
    assert hands.may_receive()

    hands.receive(message("p20", 99))
    assert len(hands.look("p20")) == 1
    hands.resume()


def test_a_small_cache_loses_at_most_half_of_its_entities():
    hands = Hands(settle=0.0)
    for n in range(10):
        hands.sink.apply(f"p{n}", Found({}), if_version=0)
        hands.receive(message(f"p{n}", n))
    for _ in range(10):
        if id := hands.next():
            hands.look_at(id)

    assert len(hands.sink) == 5
    assert hands.halted is not None


# An empty cache


def test_a_small_cache_loses_at_most_half_although_deletions_are_allowed_before_others_are_stored():
    sink = MemorySink()
    for n in range(19):
        assert sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    deletions = Deletions(Guard(), sink, "source", lock=threading.Lock())

    refusals = [deletions.refused(id, sink.entry(id)) for id in sink.ids()]

    assert refusals.count(None) == 9


def test_an_empty_cache_warns_after_three_unknown_ids_and_believes_nothing_after_twenty(caplog):
    hands = Hands(settle=0.0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
        if id := hands.next():
            hands.look_at(id)

    warning, refusal = [record for record in caplog.records if record.levelno > logging.INFO]
    assert (warning.action, warning.ids, warning.levelno) == ("unknown", 3, logging.WARNING)
    assert repr(hands.source) in warning.getMessage()
    assert refusal.action == "mass_deletion"
    assert hands.counts()["never_saved"] == 19
    assert len(hands.held()) == 11


def test_a_cache_that_has_entities_is_not_empty_though_this_worker_has_found_none(caplog):
    hands = Hands(settle=0.0)
    hands.sink.apply("cached", Found({}), if_version=0)
    for n in range(30):
        hands.receive(message(f"p{n}", n))
        hands.look(f"p{n}")

    assert hands.counts()["never_saved"] == 30
    assert caplog.records == []


def test_a_tombstone_is_neither_deleted_nor_unknown():
    hands = Hands(settle=0.0)
    hands.sink.apply("p1", Gone(), if_version=0)
    hands.receive(message())
    hands.look()

    assert hands.guard.is_new
    assert hands.counts()["unchanged"] == 1
