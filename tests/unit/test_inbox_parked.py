"""In an outage ids are parked: their events are held, and no look is due."""

from __future__ import annotations

import math

import pytest
from hands import held, look, saving

from change_events._consumer.inbox import Inbox


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


def fail(inbox, id, now):
    """Reserve the look, start its GET, and let it fail in an outage."""
    assert inbox.next(now) == id
    inbox.freeze(id, now)
    inbox.park(id)


def test_a_parked_id_is_held_and_not_due_until_release(inbox):
    event = held(hold=1.0)
    inbox.add(event, 0.0)
    fail(inbox, "p1", 0.0)

    assert inbox.expiring(math.inf) == [event]
    assert inbox.next_at() is None
    assert inbox.next(100.0) is None
    assert inbox.parked() == "p1"

    inbox.release(50.0)
    assert inbox.parked() is None
    assert inbox.next_at() == 50.0
    assert look(inbox, "p1", 50.0) == [event]


def test_an_id_can_be_parked_before_its_get_has_started(inbox):
    inbox.add(held(), 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.park("p1")

    assert inbox.next_at() is None
    assert inbox.parked() == "p1"


def test_a_parked_id_has_no_look_under_way_until_retry(inbox):
    inbox.add(held(), 0.0)
    fail(inbox, "p1", 0.0)
    assert inbox.looking() == 0

    inbox.reserve("p1", 0.0)
    assert inbox.looking() == 1
    assert inbox.parked() is None


def test_an_event_that_came_during_the_look_is_parked_with_the_others(inbox):
    inbox.add(held(), 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.freeze("p1", 0.0)
    inbox.add(held(message="m2"), 0.5)
    inbox.park("p1")

    assert inbox.next_at() is None


def test_an_event_that_comes_to_a_parked_id_asks_for_a_look(inbox):
    inbox.add(held(hold=0.0), 0.0)
    fail(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=3.0, hold=0.0), 3.0)

    assert inbox.parked() is None
    assert [event.message_id for event in look(inbox, "p1", 3.0)] == ["m1", "m2"]


def test_a_saving_that_comes_to_a_parked_id_asks_for_a_look_too(inbox):
    inbox.add(held(hold=0.0), 0.0)
    fail(inbox, "p1", 0.0)
    inbox.add(saving("m2", now=3.0), 3.0)

    assert [event.message_id for event in look(inbox, "p1", 3.0)] == ["m1"]
    assert inbox.next_at() == 8.5


def test_the_id_that_was_parked_first_is_retried_first(inbox):
    for id in ("p1", "p2", "p3"):
        inbox.add(held(id, id, hold=0.0), 0.0)
    for id in ("p1", "p2", "p3"):
        fail(inbox, id, 0.0)

    assert inbox.parked() == "p1"
    inbox.reserve("p1", 0.0)
    assert inbox.parked() == "p2"
    inbox.freeze("p1", 5.0)
    inbox.park("p1")
    for id in ("p2", "p3", "p1"):
        assert inbox.parked() == id
        inbox.reserve(id, 0.0)
    assert inbox.parked() is None
    inbox.freeze("p2", 6.0)
    assert [event.id for event in inbox.settle("p2")] == ["p2"]


def test_an_id_without_events_can_be_looked_at_and_leaves_no_trace(inbox):
    for end in (inbox.settle, inbox.park):
        inbox.reserve("p1", 0.0)
        assert inbox.looking("p1")
        assert not inbox.freeze("p1", 1.0)  # it is not early
        assert not end("p1")
        assert "p1" not in inbox
        assert not inbox.looking()


def test_an_event_that_comes_during_a_look_at_an_id_without_events_has_one_of_its_own(inbox):
    inbox.reserve("p1", 0.0)
    inbox.freeze("p1", 1.0)
    inbox.add(held(now=1.5), 1.5)

    assert inbox.settle("p1") == []
    assert inbox.next(1.5) == "p1"


def test_release_changes_no_id_that_is_not_parked(inbox):
    inbox.add(held("p1", "m1", hold=0.0), 0.0)
    inbox.add(held("p2", "m2", hold=5.0), 0.0)
    inbox.add(held("p3", "m3"), 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.freeze("p1", 0.0)
    assert look(inbox, "p2", 0.0) == []
    fail(inbox, "p3", 0.0)

    inbox.release(1.0)

    assert inbox.next(1.0) == "p3"
    assert inbox.next_at() == 5.5
