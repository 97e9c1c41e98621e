"""A mass deletion is refused, and stops the worker until an operator says `resume`."""

from __future__ import annotations

import logging

import pytest
from hands import Hands, message, opened, outage_log

from change_events import Found
from change_events._consumer.guard import Guard


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def wiped():
    """Hands that have looked at thirty cached entities. The source knows none of them."""
    hands = Hands(settle=0.0)
    hands.settled = wipe(hands)
    return hands


def wipe(hands):
    hands.intake.ask_delay()
    for n in range(30):
        assert hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
        hands.receive(message(f"p{n}", n))
    begun = [hands.next() for _ in range(30)]
    return [len(hands.look_at(id)) for id in begun]


def test_the_twentieth_deletion_in_a_row_and_all_that_follow_are_refused(wiped):
    assert wiped.settled == [1] * 19 + [0] * 11
    assert len(wiped.sink) == 11
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
        "received. If the source is wrong, mend it, or HTTPFetcher(url), and start the worker "
        "again; if it is right, call Worker.resume() or start with allow_mass_deletion=True"
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
    assert len(wiped.sink) == 0


def test_the_worker_is_paused_by_mass_deletion_until_resume(wiped):
    assert wiped.pauses.why == "mass deletion"

    wiped.resume()
    assert wiped.pauses.why is None


def test_a_run_that_begins_after_a_refused_mass_deletion_is_paused_from_its_start():
    guard = Guard(max_share=0.0, min_deleted=1)
    assert not guard.allows(gone=True)

    hands = Hands(guard=guard)
    assert hands.pauses.why == "mass deletion"

    hands.resume()
    assert hands.pauses.why is None


def test_looks_at_ids_that_are_not_cached_do_not_count_as_deletions(hands):
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
    for _ in range(5):
        wiped.look_at(wiped.next())
    wiped.source.recover()
    wiped.guard.__init__(min_deleted=1)
    wiped.now = wiped.next_at()
    wiped.look_at(wiped.next())

    assert wiped.next_at() is None  # refused
    assert [record.over for record in outage_log(caplog)] == [False, True]
    wiped.resume()
    assert wiped.next_at() == wiped.now
    assert wiped.may_receive()
