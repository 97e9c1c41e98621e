"""When an inbox has a look due, and which events a look settles."""

from __future__ import annotations

import math

import pytest
from hands import held, look

from change_events._consumer.inbox import Inbox


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


@pytest.fixture
def patient():
    return Inbox(early_look=False)


def test_an_empty_inbox_has_no_look_due(inbox):
    assert len(inbox) == 0
    assert inbox.next_at() is None
    assert inbox.next(math.inf) is None


# The early look and the settling look


def test_an_event_is_looked_at_at_once_and_settled_by_a_second_look_after_the_window(inbox):
    event = held()
    inbox.add(event, 0.0)

    assert look(inbox, "p1", 0.0) == []
    assert len(inbox) == 1
    assert inbox.next_at() == 5.5
    assert inbox.next(5.4) is None
    assert look(inbox, "p1", 5.5) == [event]
    assert len(inbox) == 0
    assert inbox.next_at() is None


def test_without_an_early_look_there_is_one_look_after_the_window(patient):
    event = held()
    patient.add(event, 0.0)

    assert patient.next_at() == 5.5
    assert look(patient, "p1", 5.5) == [event]


@pytest.mark.parametrize("early_look", [True, False])
def test_an_event_without_a_hold_is_settled_by_one_look_at_once(early_look):
    inbox = Inbox(early_look=early_look)
    event = held(hold=0.0, now=3.0)
    inbox.add(event, 3.0)

    assert inbox.next_at() == 3.0
    assert look(inbox, "p1", 3.0) == [event]


def test_a_get_that_started_too_early_settles_nothing_however_late_it_ends(inbox):
    inbox.add(held(), 0.0)
    inbox.next(4.9)
    inbox.freeze("p1", 4.9)

    assert inbox.settle("p1") == []  # the time by now makes no difference
    inbox.next(5.5)
    inbox.freeze("p1", 5.0)
    assert len(inbox.settle("p1")) == 1


# Looks that are shared


def test_looks_that_fall_due_close_together_are_one(patient):
    for number in range(100):
        patient.add(held(message=f"m{number}", now=number / 200), number / 200)

    assert len(look(patient, "p1", patient.next_at())) == 100


def test_looks_that_fall_due_far_apart_stay_separate(patient):
    patient.add(held(message="m1", now=0.0), 0.0)
    patient.add(held(message="m2", now=1.0), 1.0)

    assert [event.message_id for event in look(patient, "p1", patient.next_at())] == ["m1"]
    assert patient.next_at() == 6.5


def test_events_of_different_holds_are_each_looked_at_in_time(patient):
    for message, hold in (("m1", 10.0), ("m2", 2.0), ("m3", 5.0)):
        patient.add(held(message=message, hold=hold), 0.0)

    due = []
    while (at := patient.next_at()) is not None:
        due.append((at, [event.message_id for event in look(patient, "p1", at)]))
    assert due == [
        (pytest.approx(2.2), ["m2"]),
        (pytest.approx(5.5), ["m3"]),
        (pytest.approx(11.0), ["m1"]),
    ]


def test_an_event_that_comes_before_the_get_joins_the_look(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.add(held(message="m2", hold=0.0), 0.1)
    inbox.freeze("p1", 0.2)

    assert len(inbox.settle("p1")) == 2
    assert inbox.next_at() is None


def test_an_event_that_comes_after_the_get_started_asks_for_another_look(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.2)
    late = held(message="m2", hold=0.0, now=0.3)
    inbox.add(late, 0.3)

    assert [event.message_id for event in inbox.settle("p1")] == ["m1"]
    assert look(inbox, "p1", 0.3) == [late]


def test_a_look_that_begins_again_reads_for_the_events_held_by_then(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.2)
    inbox.add(held(message="m2", hold=0.0, now=0.3), 0.3)
    inbox.freeze("p1", 0.4)

    assert len(inbox.settle("p1")) == 2


def test_an_id_has_at_most_one_look_at_a_time(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.add(held("p2", hold=0.0), 0.0)

    assert {inbox.next(0.0), inbox.next(0.0)} == {"p1", "p2"}
    inbox.add(held(message="m2", hold=0.0), 0.0)
    assert inbox.next(math.inf) is None


def test_the_id_that_has_been_due_the_longest_comes_first(inbox):
    for number in (2, 0, 1):
        inbox.add(held(f"p{number}", f"m{number}"), float(number))

    assert [inbox.next(9.0) for _ in range(3)] == ["p0", "p1", "p2"]


# What is held


def test_first_looked_returns_each_event_once(inbox):
    one, two = held(), held(message="m2")
    inbox.add(one, 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.0)
    inbox.add(two, 0.1)  # during the GET, so this look does not read for it

    assert inbox.first_looked("p1") == [one]
    assert inbox.first_looked("p1") == []
    inbox.settle("p1")
    inbox.next(0.1)
    inbox.freeze("p1", 0.1)
    assert inbox.first_looked("p1") == [two]


def test_an_inbox_counts_the_looks_under_way(inbox):
    assert inbox.looking() == 0

    inbox.add(held("p1", "m1", now=2.0), 2.0)
    inbox.add(held("p2", "m2", now=1.0), 2.0)
    inbox.add(held("p2", "m3", now=3.0), 3.0)
    assert inbox.looking() == 0

    inbox.next(3.0)
    assert inbox.looking() == 1
    inbox.next(3.0)
    assert inbox.looking() == 2
    inbox.freeze("p1", 3.0)
    inbox.settle("p1")
    assert inbox.looking() == 1


def test_a_message_that_is_delivered_again_is_the_same_event_with_a_new_handle(inbox):
    inbox.add(held(), 0.0)
    look(inbox, "p1", 0.0)

    inbox.add(held(handle="h2", count=2, now=4.0), 4.0)

    assert len(inbox) == 1
    (event,) = look(inbox, "p1", 5.5)  # its window counts from the first delivery
    assert (event.receipt_handle, event.receive_count, event.expires) == ("h2", 2, 64.0)


def test_expiring_returns_the_events_that_become_visible_before_a_time(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2", "m2", now=10.0), 10.0)

    assert inbox.expiring(before=60.0) == []
    assert [event.id for event in inbox.expiring(before=61.0)] == ["p1"]
    assert len(inbox.expiring(before=71.0)) == 2


# What is no longer held


def test_give_up_returns_every_event_of_the_id(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2"), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.0)
    inbox.add(held(message="m2"), 1.0)

    assert [event.message_id for event in inbox.give_up("p1")] == ["m1", "m2"]
    assert len(inbox) == 1
    assert inbox.next(9.0) == "p2"
    assert inbox.next(9.0) is None


def test_an_id_that_was_given_up_can_come_back(inbox):
    inbox.add(held(), 0.0)
    inbox.next(0.0)
    inbox.give_up("p1")
    event = held(count=2, now=8.0)
    inbox.add(event, 8.0)

    assert look(inbox, "p1", 8.0) == []
    assert look(inbox, "p1", 13.5) == [event]


def test_an_event_that_is_delivered_again_makes_no_look_due_sooner(inbox):
    assert inbox.add(held(), 0.0)

    assert not inbox.add(held(handle="h2"), 0.0)


def test_what_is_dropped_is_no_longer_held(inbox):
    events = [held("p1", "m1"), held("p1", "m2"), held("p2", "m3")]
    for event in events:
        inbox.add(event, 0.0)

    assert inbox.drop(events[::2]) == events[::2]
    assert inbox.drop(events[::2]) == []

    assert (len(inbox), inbox.ids) == (1, 1)
    assert inbox.expiring(math.inf) == [events[1]]
    assert (inbox.next(0.0), inbox.next(0.0)) == ("p1", None)


def test_a_look_under_way_settles_nothing_that_was_dropped_meanwhile(inbox):
    events = [held("p1", "m1", hold=0.0), held("p1", "m2", hold=0.0)]
    for event in events:
        inbox.add(event, 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.freeze("p1", 0.0)

    assert inbox.drop(events[:1]) == events[:1]
    again = held("p1", "m1", 1.0)
    inbox.add(again, 1.0)

    assert inbox.settle("p1") == events[1:]
    assert inbox.expiring(math.inf) == [again]
    assert inbox.next(1.0) == "p1"


def test_drop_hung_drops_the_events_of_looks_that_began_before_a_time(inbox):
    for now, id in enumerate(["p1", "p2"]):
        inbox.add(held(id, id, now), now)
        assert inbox.next(now) == id

    assert inbox.drop_hung(0.0) == []
    assert inbox.drop_hung(1.0, most=0) == []
    assert [event.id for event in inbox.drop_hung(1.0)] == ["p1"]

    assert (len(inbox), inbox.looking()) == (1, 2)
    assert inbox.settle("p1") == []
    assert inbox.ids == 1


def test_drop_hung_keeps_what_came_later(inbox):
    first, later = held("p1", "m1", 0.0), held("p1", "m2", 1.0)
    inbox.add(first, 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.add(later, 1.0)

    assert inbox.drop_hung(1.0) == [first]
