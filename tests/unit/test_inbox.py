"""
The inbox, with time passed in; and a hypothesis machine that holds it against what it promises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from change_events._consumer.agenda import REST
from change_events._consumer.inbox import Held, Inbox


def held(id="p1", message="m1", now=0.0, hold=5.0, handle="h1", count=1, phase=None, save=None):
    return Held(
        id,
        message,
        handle,
        count,
        received=now,
        hold=hold,
        expires=now + 60,
        phase=phase,
        save=save,
    )


def saving(message="m1", now=0.0, save="s1", **other):
    return held(message=message, now=now, phase="saving", save=save, **other)


def saved(message="m2", now=0.0, save="s1", **other):
    return held(message=message, now=now, hold=0.0, phase="saved", save=save, **other)


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


@pytest.fixture
def patient():
    return Inbox(early_look=False)


def look(inbox, id, now):
    """Reserve the look, start its GET and settle it, all at once."""
    assert inbox.next(now) == id
    inbox.freeze(id, now)
    return inbox.settle(id)


def test_an_empty_inbox_awaits_nothing(inbox):
    assert len(inbox) == 0
    assert inbox.next_at() is None
    assert inbox.next(math.inf) is None


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
def test_without_a_hold_one_look_at_once_settles(early_look):
    inbox = Inbox(early_look=early_look)
    event = held(hold=0.0, now=3.0)
    inbox.add(event, 3.0)

    assert inbox.next_at() == 3.0
    assert look(inbox, "p1", 3.0) == [event]


def test_a_get_that_started_too_early_settles_nothing_however_late_it_ends(inbox):
    inbox.add(held(), 0.0)
    inbox.next(4.9)
    inbox.freeze("p1", 4.9)

    assert inbox.settle("p1") == []  # whatever the time is by now
    inbox.next(5.5)
    inbox.freeze("p1", 5.0)
    assert len(inbox.settle("p1")) == 1


def test_looks_that_fall_due_close_together_are_one(patient):
    for number in range(100):
        patient.add(held(message=f"m{number}", now=number / 200), number / 200)

    assert len(look(patient, "p1", patient.next_at())) == 100


def test_looks_that_do_not_are_not(patient):
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


def test_while_there_is_more_an_id_that_was_just_looked_at_is_left_alone_for_a_moment(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    assert inbox.next_at() == 0.0
    look(inbox, "p1", 0.0)

    for number in range(2, 5):
        inbox.add(held(message=f"m{number}", now=0.5, hold=0.0), 0.5, more=True)

    assert inbox.next_at() == REST
    assert len(look(inbox, "p1", REST)) == 3


def test_other_ids_are_not_left_alone(inbox):
    inbox.add(held("a", "m1", hold=0.0), 0.0, more=True)
    look(inbox, "a", 0.0)
    inbox.add(held("b", "m2", now=0.5, hold=0.0), 0.5, more=True)

    assert inbox.next_at() == 0.5


def test_nor_is_an_id_when_there_is_no_more(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5)

    assert inbox.next_at() == 0.5


def test_nor_is_one_that_was_looked_at_long_ago(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=REST, hold=0.0), REST, more=True)

    assert inbox.next_at() == REST


def test_what_was_left_alone_is_due_when_there_is_no_more(inbox):
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5, more=True)
    inbox.add(held(message="m3", now=0.6, hold=0.0), 0.6, more=True)

    assert inbox.stop_resting() == 1
    assert inbox.next_at() == 0.5
    assert inbox.stop_resting() == 0


def test_but_not_before_its_time(patient):
    patient.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(patient, "p1", 0.0)
    patient.add(held(message="m2", now=0.5, hold=1.0), 0.5, more=True)
    assert patient.next_at() == REST

    patient.stop_resting()

    assert patient.next_at() == 0.5 + 1.1


def test_an_event_that_was_left_alone_and_is_gone_asks_for_nothing(inbox):
    """A look took it along, or failed."""
    inbox.add(held(message="m1", hold=0.0), 0.0, more=True)
    look(inbox, "p1", 0.0)
    inbox.add(held(message="m2", now=0.5, hold=0.0), 0.5, more=True)
    inbox.drop(inbox.expiring(math.inf))
    inbox.add(saving(now=1.0, hold=5.0), 1.0)

    inbox.stop_resting()

    assert inbox.next_at() == 1.0 + 5.5


@pytest.fixture
def crowded(inbox):
    """Ids that were looked at at 0 and have 1, 3 and 2 events since; there is more in the queue."""
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


def test_while_so_many_looks_make_room_no_other_has_to(crowded):
    crowded.make_room(2, 0.5)

    assert crowded.make_room(2, 0.5) == 0

    look(crowded, "b", 0.5)
    assert crowded.make_room(2, 0.5) == 1
    assert crowded.make_room(9, 0.5) == 0


def test_nor_has_one_that_would_settle_nothing(crowded):
    crowded.add(held("d", "d", hold=0.0), 0.5, more=True)
    look(crowded, "d", 0.5)
    for number in range(4):
        crowded.add(held("d", f"d{number}", now=0.5, hold=5.0), 0.5, more=True)

    assert crowded.make_room(9, 0.5) == 3

    assert [crowded.next(0.5) for _ in range(4)] == ["a", "b", "c", None]
    assert crowded.make_room(9, 5.5) == 1


@pytest.mark.parametrize("fail", [Inbox.give_up, Inbox.park])
def test_a_look_that_fails_makes_no_room(crowded, fail):
    crowded.make_room(1, 0.5)
    fail(crowded, crowded.next(0.5))

    assert crowded.make_room(1, 0.5) == 1
    assert crowded.next(0.5) == "c"


def test_what_is_parked_does_not_wait_for_more(crowded):
    assert crowded.make_room(1, 0.5) == 1
    assert crowded.next(0.5) == "b"
    crowded.add(held("b", "b3", now=0.6, hold=0.0), 0.6, more=True)

    crowded.park("b")

    assert crowded.stop_resting() == 2
    assert [crowded.next(0.6), crowded.next(0.6), crowded.next(0.6)] == ["a", "c", None]


def test_only_recent_looks_are_remembered(inbox):
    for number in range(100):
        inbox.add(held(f"p{number}", f"m{number}", now=number, hold=0.0), number)
        look(inbox, f"p{number}", number)

    assert len(inbox._rest._looked) == REST + 1


def test_an_event_that_comes_before_the_get_joins_the_look(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.add(held(message="m2", hold=0.0), 0.1)
    inbox.freeze("p1", 0.2)

    assert len(inbox.settle("p1")) == 2
    assert inbox.next_at() is None


def test_an_event_that_comes_after_it_asks_for_another(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.2)
    late = held(message="m2", hold=0.0, now=0.3)
    inbox.add(late, 0.3)

    assert [event.message_id for event in inbox.settle("p1")] == ["m1"]
    assert look(inbox, "p1", 0.3) == [late]


def test_the_first_look_at_an_event_is_told_once(inbox):
    one, two = held(), held(message="m2")
    inbox.add(one, 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.0)
    inbox.add(two, 0.1)  # during the GET, so not of this look

    assert inbox.first_looked("p1") == [one]
    assert inbox.first_looked("p1") == []
    inbox.settle("p1")
    inbox.next(0.1)
    inbox.freeze("p1", 0.1)
    assert inbox.first_looked("p1") == [two]


def test_looks_under_way_and_the_age_of_the_oldest_event_are_told(inbox):
    assert (inbox.looking(), inbox.oldest()) == (0, None)

    inbox.add(held("p1", "m1", now=2.0), 2.0)
    inbox.add(held("p2", "m2", now=1.0), 2.0)
    inbox.add(held("p2", "m3", now=3.0), 3.0)
    assert (inbox.looking(), inbox.oldest()) == (0, 1.0)

    inbox.next(3.0)
    assert inbox.looking() == 1
    inbox.next(3.0)
    assert inbox.looking() == 2
    inbox.freeze("p1", 3.0)
    inbox.settle("p1")
    assert (inbox.looking(), inbox.oldest()) == (1, 1.0)


def test_a_look_that_begins_again_freezes_again(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.2)
    inbox.add(held(message="m2", hold=0.0, now=0.3), 0.3)
    inbox.freeze("p1", 0.4)

    assert len(inbox.settle("p1")) == 2


def test_at_most_one_look_at_an_id_at_a_time(inbox):
    inbox.add(held(hold=0.0), 0.0)
    inbox.add(held("p2", hold=0.0), 0.0)

    assert {inbox.next(0.0), inbox.next(0.0)} == {"p1", "p2"}
    inbox.add(held(message="m2", hold=0.0), 0.0)
    assert inbox.next(math.inf) is None


def test_the_longest_due_comes_first(inbox):
    for number in (2, 0, 1):
        inbox.add(held(f"p{number}", f"m{number}"), float(number))

    assert [inbox.next(9.0) for _ in range(3)] == ["p0", "p1", "p2"]


def test_a_message_that_is_delivered_again_is_the_same_event_with_a_new_handle(inbox):
    inbox.add(held(), 0.0)
    look(inbox, "p1", 0.0)

    inbox.add(held(handle="h2", count=2, now=4.0), 4.0)

    assert len(inbox) == 1
    (event,) = look(inbox, "p1", 5.5)  # its window counts from the first delivery
    assert (event.receipt_handle, event.receive_count, event.expires) == ("h2", 2, 64.0)


def test_a_look_that_decides_nothing_lets_go_of_every_event_of_the_id(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2"), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.0)
    inbox.add(held(message="m2"), 1.0)

    assert [event.message_id for event in inbox.give_up("p1")] == ["m1", "m2"]
    assert len(inbox) == 1
    assert inbox.next(9.0) == "p2"
    assert inbox.next(9.0) is None


def test_an_id_that_was_given_up_may_come_back(inbox):
    inbox.add(held(), 0.0)
    inbox.next(0.0)
    inbox.give_up("p1")
    event = held(count=2, now=8.0)
    inbox.add(event, 8.0)

    assert look(inbox, "p1", 8.0) == []
    assert look(inbox, "p1", 13.5) == [event]


def test_what_expires_is_told(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2", "m2", now=10.0), 10.0)

    assert inbox.expiring(before=60.0) == []
    assert [event.id for event in inbox.expiring(before=61.0)] == ["p1"]
    assert len(inbox.expiring(before=71.0)) == 2


def test_clearing_lets_go_of_everything(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2", "m2"), 0.0)

    assert sorted(event.id for event in inbox.clear()) == ["p1", "p2"]
    assert len(inbox) == 0
    assert inbox.next(9.0) is None


# Looks at several ids together


def crowd(inbox, number, now=0.0):
    for n in range(number):
        inbox.add(held(f"p{n}", f"m{n}", now=now), now)


def test_ids_that_are_due_keep_each_other_company(inbox):
    crowd(inbox, 5)

    assert inbox.next(0.0) == "p0"
    assert inbox.due_with("p0", 0.0, 3) == ["p1", "p2", "p3"]
    assert inbox.looking() == 4
    assert inbox.next(0.0) == "p4"
    assert inbox.due_with("p4", 0.0, 3) == []


@pytest.mark.parametrize("most", [0, -1])
def test_who_wants_no_company_gets_none(inbox, most):
    crowd(inbox, 2)

    assert inbox.due_with(inbox.next(0.0), 0.0, most) == []


def test_only_what_is_due_is_company(inbox):
    crowd(inbox, 2)
    inbox.add(held("p2", now=0.1), 0.1)

    assert inbox.next(0.0) == "p0"
    assert inbox.due_with("p0", 0.0, 9) == ["p1"]
    assert inbox.next_at() == 0.1


def test_looks_together_are_settled_one_by_one(inbox):
    crowd(inbox, 3)
    ids = [inbox.next(5.0), *inbox.due_with("p0", 5.0, 9)]
    for id in ids:
        inbox.freeze(id, 5.0)

    assert [event.message_id for id in reversed(ids) for event in inbox.settle(id)] == [
        "m2",
        "m1",
        "m0",
    ]
    assert len(inbox) == 0


@pytest.mark.parametrize("get_began", [True, False])
@pytest.mark.parametrize("more", [True, False])
def test_what_is_left_undecided_is_due_again_and_alone_until_a_look_has_succeeded(
    inbox, get_began, more
):
    crowd(inbox, 3)
    assert inbox.next(1.0) == "p0"
    assert inbox.due_with("p0", 1.0, 1) == ["p1"]
    if get_began:
        inbox.freeze("p0", 1.0)
        inbox.freeze("p1", 1.0)
    if more:
        inbox.add(held("p1", "more", now=1.5), 1.5)

    inbox.look_alone("p1", 2.0)

    assert inbox.looking() == 1
    assert inbox.next(2.0) == "p2"
    assert inbox.due_with("p2", 2.0, 9) == []  # as the next would be one that is alone
    assert inbox.next(1.9) is None
    assert inbox.next(2.0) == "p1"
    inbox.add(held("p3", now=2.0), 2.0)
    assert inbox.due_with("p1", 2.0, 9) == []
    inbox.freeze("p1", 2.0)
    assert inbox.settle("p1") == []
    assert inbox.next(2.0) == "p3"
    for id in ("p0", "p2", "p3"):
        inbox.freeze(id, 2.0)
        inbox.settle(id)
    assert inbox.next(9.0) == "p0"
    assert inbox.due_with("p0", 9.0, 9) == ["p1", "p2", "p3"]


def test_a_failed_look_leaves_an_id_alone(inbox):
    crowd(inbox, 1)
    assert inbox.next(0.0) == "p0"
    inbox.look_alone("p0", 0.0)
    assert inbox.next(0.0) == "p0"
    inbox.freeze("p0", 0.0)
    inbox.park("p0")
    inbox.release(1.0)
    inbox.add(held("p1", now=1.0), 1.0)

    assert inbox.next(1.0) == "p0"
    assert inbox.due_with("p0", 1.0, 9) == []


# Confirmed saves


def test_saving_asks_for_no_early_look(inbox):
    event = saving()
    inbox.add(event, 0.0)

    assert inbox.next(5.4) is None
    assert look(inbox, "p1", 5.5) == [event]  # its confirmation was lost


@pytest.mark.parametrize("early_look", [True, False])
def test_saved_is_looked_at_at_once_and_that_settles_both(early_look):
    inbox = Inbox(early_look=early_look)
    events = [saving(), saved(now=1.0)]
    inbox.add(events[0], 0.0)
    inbox.add(events[1], 1.0)

    assert inbox.next_at() == 1.0
    assert look(inbox, "p1", 1.0) == events
    assert inbox.next_at() is None


def test_saved_releases_all_broadcasts_of_its_save(inbox):
    for number in range(3):
        inbox.add(saving(f"m{number}", now=float(number)), float(number))
    inbox.add(saved("m3", now=3.0), 3.0)

    assert len(look(inbox, "p1", 3.0)) == 4


@pytest.mark.parametrize("early_look", [True, False])
def test_saving_that_arrives_after_its_saved_is_released_too(early_look):
    inbox = Inbox(early_look=early_look)
    events = [saved(now=0.0), saving(now=1.0)]
    inbox.add(events[0], 0.0)
    inbox.add(events[1], 1.0)

    assert look(inbox, "p1", 1.0) == events


def test_saving_that_arrives_after_its_saved_is_done_with_waits_for_its_window(inbox):
    inbox.add(saved(), 0.0)
    assert len(look(inbox, "p1", 0.0)) == 1
    event = saving(now=1.0)
    inbox.add(event, 1.0)

    assert inbox.next_at() == 6.5  # nothing is lost but time
    assert look(inbox, "p1", 6.5) == [event]


def test_a_get_that_was_under_way_when_saved_arrived_settles_neither(inbox):
    """It may have seen the state before the save."""
    events = [saving(), saved(now=0.2)]
    inbox.add(events[0], 0.0)
    inbox.add(held(message="m3", hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.1)
    inbox.add(events[1], 0.2)

    assert [event.message_id for event in inbox.settle("p1")] == ["m3"]
    assert inbox.next_at() == 0.2
    assert look(inbox, "p1", 0.2) == events


def test_a_get_that_began_at_the_tick_of_the_clock_at_which_saved_arrived_settles_neither(inbox):
    """Found by the explorer: the two have the same time, and the GET may still have been first."""
    inbox.add(saving(hold=5.5), 0.0)  # due by itself
    inbox.next(5.5)
    inbox.add(saving("m3", hold=5.0, now=1.0), 1.0)
    inbox.freeze("p1", 5.5)
    inbox.add(saved(now=5.5), 5.5)

    assert [event.message_id for event in inbox.settle("p1")] == ["m1"]
    assert inbox.next_at() == 5.5


def test_a_look_that_begins_again_after_saved_arrived_settles_both(inbox):
    inbox.add(saving(hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.1)
    inbox.add(saved(now=0.2), 0.2)
    inbox.freeze("p1", 0.3)

    assert len(inbox.settle("p1")) == 2


def test_the_events_of_other_saves_are_not_released(inbox):
    others = [saving("m1", save="s1"), held(message="m2"), saving("m3", save="s3")]
    for event in others:
        inbox.add(event, 0.0)
    look(inbox, "p1", 0.0)  # the plain event's early look
    inbox.add(saved("m4", save="s4", now=1.0), 1.0)

    assert [event.message_id for event in look(inbox, "p1", 1.0)] == ["m4"]
    assert look(inbox, "p1", 5.5) == others


def test_the_same_save_of_another_id_is_not_released(inbox):
    """A save of several ids has one name; each id has its own `saved`."""
    inbox.add(saving(id="p1"), 0.0)
    inbox.add(saved(id="p2", now=1.0), 1.0)

    assert len(look(inbox, "p2", 1.0)) == 1
    assert inbox.next(5.4) is None


def test_saved_without_a_name_releases_nothing(inbox):
    inbox.add(held(), 0.0)
    look(inbox, "p1", 0.0)
    inbox.add(saved(save=None, now=1.0), 1.0)

    assert [event.message_id for event in look(inbox, "p1", 1.0)] == ["m2"]
    assert inbox.next_at() == 5.5


def test_saved_does_not_lengthen_a_hold_that_is_over(inbox):
    event = saving(hold=2.0)
    inbox.add(event, 0.0)
    inbox.add(saved(now=10.0), 10.0)

    assert event.due == 2.0
    assert len(look(inbox, "p1", 10.0)) == 2


def test_saved_that_is_delivered_again_changes_nothing(inbox):
    inbox.add(saving(), 0.0)
    inbox.add(saved(now=1.0), 1.0)
    inbox.add(saved(now=2.0, handle="h2"), 2.0)

    assert len(inbox) == 2
    assert [event.receipt_handle for event in look(inbox, "p1", 2.0)] == ["h1", "h2"]


def fail(inbox, id, now):
    """Reserve the look, start its GET, and let it decide nothing."""
    assert inbox.next(now) == id
    inbox.freeze(id, now)
    inbox.park(id)


def test_what_is_parked_is_held_and_not_looked_at_until_it_is_released(inbox):
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


def test_a_look_that_did_not_come_to_its_get_can_be_parked_too(inbox):
    inbox.add(held(), 0.0)
    assert inbox.next(0.0) == "p1"
    inbox.park("p1")

    assert inbox.next_at() is None
    assert inbox.parked() == "p1"


def test_a_look_in_vain_is_no_longer_under_way(inbox):
    inbox.add(held(), 0.0)
    fail(inbox, "p1", 0.0)
    assert inbox.looking() == 0

    assert inbox.retry() == "p1"
    assert inbox.looking() == 1


def test_an_event_that_came_during_a_look_in_vain_waits_with_the_others(inbox):
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


def test_who_was_parked_first_is_retried_first(inbox):
    for id in ("p1", "p2", "p3"):
        inbox.add(held(id, id, hold=0.0), 0.0)
    for id in ("p1", "p2", "p3"):
        fail(inbox, id, 0.0)

    assert inbox.retry() == "p1"
    assert inbox.parked() == "p2"
    inbox.freeze("p1", 5.0)
    inbox.park("p1")
    assert [inbox.retry(), inbox.retry(), inbox.retry(), inbox.retry()] == ["p2", "p3", "p1", None]
    inbox.freeze("p2", 6.0)
    assert [event.id for event in inbox.settle("p2")] == ["p2"]


def test_releasing_leaves_alone_what_is_not_parked(inbox):
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


def test_events_are_dropped_unless_their_id_is_being_looked_at(inbox):
    events = [
        held("p1", "m1"),
        held("p1", "m2"),
        held("p2", "m3"),
        held("p2", "m4"),
        held("p3", "m5"),
    ]
    for event in events:
        inbox.add(event, 0.0)
    assert inbox.next(0.0) == "p1"

    assert inbox.drop(events[:3]) == events[2:3]
    assert inbox.drop(events[4:]) == events[4:]
    assert inbox.drop(events[2:3] + events[4:]) == []  # no longer there

    assert (len(inbox), inbox.ids) == (3, 2)
    assert inbox.expiring(math.inf) == [*events[:2], events[3]]
    assert inbox.next(0.0) == "p2"


@dataclass
class Kept:
    """What the machine knows of a held event."""

    id: str
    received: float
    hold: float
    phase: str | None
    save: str | None
    seen: float = math.inf  # when the first look began that it was part of

    @property
    def due(self):
        return self.received + self.hold


class Machine(RuleBasedStateMachine):
    """
    Events of plain and of confirmed saves, redeliveries, looks that succeed, fail or begin again,
    in any order, against the promises of the module.
    """

    ids = st.sampled_from("abc")
    saves = st.sampled_from(["s1", "s2"])
    holds = st.sampled_from([0.0, 1.0, 5.0])

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.inbox = Inbox(early_look=True)
        self.kept = {}  # message: what is known of it
        self.looking = {}  # id: (GET started, messages held when it did), or None before the GET
        self.parked = set()
        self.released = set()
        self.alone = set()
        self.rests = {}  # id: until when it may be left alone, as there is more in the queue
        self.looked = {}
        self.number = 0

    def add(self, id, hold, phase=None, save=None, *, more=False):
        self.number += 1
        message = f"m{self.number}"
        if id in self.parked:
            self.parked.remove(id)
            self.released.add(id)
        over = phase == "saving" and any(
            kept.phase == "saved" for kept in self.of_save(id, save).values()
        )
        self.kept[message] = Kept(id, self.now, 0.0 if over else hold, phase, save)
        if more and id in self.looked:
            self.rests[id] = self.looked[id] + REST
        self.inbox.add(
            held(id, message, self.now, hold, phase=phase, save=save), self.now, more=more
        )

    def of(self, id):
        return {message for message, kept in self.kept.items() if kept.id == id}

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0, 10.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(id=ids, hold=holds, more=st.booleans())
    def receive(self, id, hold, more):
        self.add(id, hold, more=more)

    @rule(id=ids, hold=holds, save=saves, more=st.booleans())
    def receive_saving(self, id, hold, save, more):
        self.add(id, hold, "saving", save, more=more)

    @rule(id=ids, save=saves, more=st.booleans())
    def receive_saved(self, id, save, more):
        released = {
            message for message, kept in self.of_save(id, save).items() if kept.due > self.now
        }
        for message in released:
            self.kept[message].hold = self.now - self.kept[message].received
        if self.looking.get(id):
            started, present = self.looking[id]
            self.looking[id] = (started, present - released)
        self.add(id, 0.0, "saved", save, more=more)

    @rule()
    def stop_resting(self):
        self.inbox.stop_resting()
        self.rests.clear()

    @rule(looks=st.integers(1, 3))
    def make_room(self, looks):
        assert self.inbox.make_room(looks, self.now) <= looks

    def of_save(self, id, save):
        return {
            message: kept
            for message, kept in self.kept.items()
            if (kept.id, kept.save) == (id, save)
        }

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def receive_again(self, data):
        message = data.draw(st.sampled_from(sorted(self.kept)))
        kept = self.kept[message]
        again = held(
            kept.id,
            message,
            self.now,
            5.0,
            handle=f"again at {self.now}",
            phase=kept.phase,
            save=kept.save,
        )
        self.inbox.add(again, self.now)

    @rule()
    def reserve(self):
        id = self.inbox.next(self.now)
        if id is None:
            for kept in self.kept.values():
                late = max(kept.received + kept.hold * 1.1, self.rests.get(kept.id, 0.0))
                assert kept.id in self.looking | dict.fromkeys(self.parked) or self.now < late, (
                    "an event waits beyond its time"
                )
        else:
            assert id not in self.looking, "two looks at one id"
            kept = [self.kept[message] for message in self.of(id)]
            wanted = [
                one
                for one in kept
                if one.due <= self.now or (one.phase is None and one.seen == math.inf)
            ]
            assert wanted or id in self.released, "a look that nobody needs yet"
            self.looking[id] = None
            self.released.discard(id)

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), most=st.integers(0, 2))
    def reserve_due_with(self, data, most):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        company = self.inbox.due_with(id, self.now, most)
        assert len(company) <= most
        assert not self.alone & {id, *company} or not company, "company for one that is to be alone"
        for other in company:
            assert other not in self.looking, "two looks at one id"
            kept = [self.kept[message] for message in self.of(other)]
            wanted = [
                one
                for one in kept
                if one.due <= self.now or (one.phase is None and one.seen == math.inf)
            ]
            assert wanted or other in self.released, "a look that nobody needs yet"
            self.looking[other] = None
            self.released.discard(other)

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def leave_undecided(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        self.inbox.look_alone(id, self.now)
        del self.looking[id]
        self.alone.add(id)
        self.released.add(id)

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def get(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        self.inbox.freeze(id, self.now)
        self.looking[id] = (self.now, self.of(id))
        self.looked[id] = self.now
        for message in self.of(id):
            self.kept[message].seen = min(self.kept[message].seen, self.now)

    @precondition(lambda self: any(self.looking.values()))
    @rule(data=st.data())
    def settle(self, data):
        id = data.draw(st.sampled_from(sorted(id for id, get in self.looking.items() if get)))
        started, present = self.looking.pop(id)
        self.alone.discard(id)
        settled = {event.message_id for event in self.inbox.settle(id)}
        assert settled == {message for message in present if self.kept[message].due <= started}
        for message in settled:
            del self.kept[message]

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def fail(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        del self.looking[id]
        self.alone.discard(id)
        given_up = {event.message_id for event in self.inbox.give_up(id)}
        assert given_up == self.of(id)
        for message in given_up:
            del self.kept[message]

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def park(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        del self.looking[id]
        self.inbox.park(id)
        self.parked.add(id)

    @rule()
    def retry(self):
        id = self.inbox.retry()
        assert (id is None) == (not self.parked)
        if id is not None:
            self.parked.remove(id)
            self.looking[id] = None

    @rule()
    def release(self):
        self.inbox.release(self.now)
        self.released |= self.parked
        self.parked.clear()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop(self, data):
        messages = data.draw(st.sets(st.sampled_from(sorted(self.kept))))
        events = [event for event in self.inbox.expiring(math.inf) if event.message_id in messages]
        dropped = {event.message_id for event in self.inbox.drop(events)}
        assert dropped == {
            message for message in messages if self.kept[message].id not in self.looking
        }
        for message in dropped:
            self.released.add(self.kept[message].id)  # the look that it was for comes all the same
            del self.kept[message]
        self.parked &= {kept.id for kept in self.kept.values()}
        self.alone &= {kept.id for kept in self.kept.values()}

    @invariant()
    def nothing_is_lost(self):
        assert len(self.inbox) == len(self.kept)
        assert {event.message_id for event in self.inbox.expiring(math.inf)} == set(self.kept)

    @invariant()
    def every_event_has_a_look_ahead(self):
        waiting = {kept.id for kept in self.kept.values()} - set(self.looking) - self.parked
        assert (self.inbox.next_at() is not None) == bool(waiting)


TestMachine = Machine.TestCase
