"""An id that was just looked at rests while the queue has more and there is room."""

from __future__ import annotations

import math

import pytest
from hands import held, look, saving

from change_events._consumer.agenda import REST
from change_events._consumer.inbox import Inbox


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


def test_an_id_that_was_just_looked_at_rests_while_the_queue_has_more(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    assert inbox.next_at() == 0.0
    look(inbox, "p1", 0.0)

    for number in range(2, 5):
        inbox.add(held(message=f"m{number}", now=0.5, hold=0.0), 0.5, more=True)

    assert inbox.next_at() == REST
    assert len(look(inbox, "p1", REST)) == 3


def test_an_id_that_was_never_looked_at_does_not_rest(inbox):
    inbox.add(held("a", "m1", hold=0.0), 0.0, more=True)
    look(inbox, "a", 0.0)
    inbox.add(held("b", "m2", now=0.5, hold=0.0), 0.5, more=True)

    assert inbox.next_at() == 0.5


def test_an_id_does_not_rest_if_the_queue_has_no_more(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5)

    assert inbox.next_at() == 0.5


def test_an_id_that_was_looked_at_long_ago_does_not_rest(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=REST, hold=0.0), REST, more=True)

    assert inbox.next_at() == REST


def test_a_resting_id_is_due_once_the_queue_has_no_more(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5, more=True)
    inbox.add(held(message="m3", now=0.6, hold=0.0), 0.6, more=True)

    assert inbox.stop_resting() == 1
    assert inbox.next_at() == 0.5
    assert inbox.stop_resting() == 0


def test_an_id_that_stops_resting_is_not_due_before_its_hold_is_over():
    patient = Inbox(early_look=False)
    patient.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(patient, "p1", 0.0)
    patient.add(held(message="m2", now=0.5, hold=1.0), 0.5, more=True)
    assert patient.next_at() == REST

    patient.stop_resting()

    assert patient.next_at() == 0.5 + 1.1


def test_a_resting_id_whose_events_were_dropped_asks_for_no_look(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5, more=True)
    inbox.drop(inbox.expiring(math.inf))
    inbox.add(saving(now=1.0, hold=5.0), 1.0)

    inbox.stop_resting()

    assert inbox.next_at() == 1.0 + 5.5


def test_a_resting_id_whose_events_were_dropped_during_a_look_makes_no_room_and_asks_for_none(
    inbox,
):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    assert inbox.next(0.0) == "p1"
    inbox.freeze("p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5, more=True)
    inbox.drop(inbox.expiring(math.inf))

    assert inbox.make_room(1, 1.0) == 0
    assert inbox.settle("p1") == []
    assert inbox.stop_resting() == 0
    assert inbox.next_at() is None


def test_only_recent_looks_are_remembered(inbox):
    for number in range(100):
        inbox.add(held(f"p{number}", f"m{number}", now=number, hold=0.0), number)
        look(inbox, f"p{number}", number)

    assert len(inbox._rest._looked) == REST + 1


# Without room


@pytest.fixture
def crowded(inbox):
    """
    An inbox with three ids that rest after a look at 0.0 and have got 1, 3 and 2 events since. The
    queue has more.
    """
    for id, events in (("a", 1), ("b", 3), ("c", 2)):
        inbox.add(held(id, id, hold=0.0), 0.0, more=True)
        look(inbox, id, 0.0)
        for number in range(events):
            inbox.add(held(id, f"{id}{number}", now=0.5, hold=0.0), 0.5, more=True)
    return inbox


def test_without_room_the_ids_with_most_events_are_looked_at_first(crowded):
    assert crowded.make_room(1, 0.5) == 1
    assert crowded.next(0.5) == "b"
    assert crowded.next(0.5) is None

    assert crowded.make_room(2, 0.5) == 1
    assert crowded.next(0.5) == "c"
    assert crowded.next(0.5) is None


def test_no_more_looks_than_asked_for_make_room_at_a_time(crowded):
    crowded.make_room(2, 0.5)

    assert crowded.make_room(2, 0.5) == 0

    look(crowded, "b", 0.5)
    assert crowded.make_room(2, 0.5) == 1
    assert crowded.make_room(9, 0.5) == 0


def test_an_id_whose_look_would_settle_nothing_rests_on(crowded):
    crowded.add(held("d", "d", hold=0.0), 0.5, more=True)
    look(crowded, "d", 0.5)
    for number in range(4):
        crowded.add(held("d", f"d{number}", now=0.5, hold=5.0), 0.5, more=True)

    assert crowded.make_room(9, 0.5) == 3

    assert [crowded.next(0.5) for _ in range(4)] == ["a", "b", "c", None]
    assert crowded.make_room(9, 5.5) == 1


@pytest.mark.parametrize("fail", [Inbox.give_up, Inbox.park])
def test_a_look_that_failed_no_longer_counts_as_making_room(crowded, fail):
    crowded.make_room(1, 0.5)
    fail(crowded, crowded.next(0.5))

    assert crowded.make_room(1, 0.5) == 1
    assert crowded.next(0.5) == "c"


def test_a_look_that_leaves_an_event_no_longer_counts_as_making_room(crowded):
    crowded.make_room(1, 0.5)
    assert crowded.next(0.5) == "b"
    crowded.freeze("b", 0.5)
    crowded.add(held("b", "late", now=0.6, hold=0.0), 0.6)
    crowded.settle("b")

    assert crowded.make_room(1, 0.6) == 1


def test_a_parked_id_does_not_rest(crowded):
    assert crowded.make_room(1, 0.5) == 1
    assert crowded.next(0.5) == "b"
    crowded.add(held("b", "b3", now=0.6, hold=0.0), 0.6, more=True)

    crowded.park("b")

    assert crowded.stop_resting() == 2
    assert [crowded.next(0.6), crowded.next(0.6), crowded.next(0.6)] == ["a", "c", None]
