"""A confirmed save: `saving` waits for its `saved`, which makes both due at once."""

from __future__ import annotations

import pytest
from hands import held, look, saved, saving

from change_events._consumer.inbox import Inbox


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


def test_saving_asks_for_no_early_look(inbox):
    event = saving()
    inbox.add(event, 0.0)

    assert inbox.next(5.4) is None
    assert look(inbox, "p1", 5.5) == [event]  # its confirmation was lost


@pytest.mark.parametrize("early_look", [True, False])
def test_saved_is_due_at_once_and_its_look_settles_its_saving_too(early_look):
    inbox = Inbox(early_look=early_look)
    events = [saving(), saved(now=1.0)]
    inbox.add(events[0], 0.0)
    inbox.add(events[1], 1.0)

    assert inbox.next_at() == 1.0
    assert look(inbox, "p1", 1.0) == events
    assert inbox.next_at() is None


def test_saved_makes_all_broadcasts_of_its_save_due(inbox):
    for number in range(3):
        inbox.add(saving(f"m{number}", now=float(number)), float(number))
    inbox.add(saved("m3", now=3.0), 3.0)

    assert len(look(inbox, "p1", 3.0)) == 4


@pytest.mark.parametrize("early_look", [True, False])
def test_saving_that_arrives_after_its_saved_is_due_at_once(early_look):
    inbox = Inbox(early_look=early_look)
    events = [saved(now=0.0), saving(now=1.0)]
    inbox.add(events[0], 0.0)
    inbox.add(events[1], 1.0)

    assert look(inbox, "p1", 1.0) == events


def test_saving_that_arrives_after_its_saved_was_settled_waits_for_its_window(inbox):
    inbox.add(saved(), 0.0)
    assert len(look(inbox, "p1", 0.0)) == 1
    event = saving(now=1.0)
    inbox.add(event, 1.0)

    assert inbox.next_at() == 6.5  # nothing is lost but time
    assert look(inbox, "p1", 6.5) == [event]


def test_a_get_that_was_under_way_when_saved_arrived_settles_neither(inbox):
    """It can have read the state before the save."""
    events = [saving(), saved(now=0.2)]
    inbox.add(events[0], 0.0)
    inbox.add(held(message="m3", hold=0.0), 0.0)
    inbox.next(0.0)
    inbox.freeze("p1", 0.1)
    inbox.add(events[1], 0.2)

    assert [event.message_id for event in inbox.settle("p1")] == ["m3"]
    assert inbox.next_at() == 0.2
    assert look(inbox, "p1", 0.2) == events


def test_a_get_that_started_at_the_very_tick_at_which_saved_arrived_settles_neither(inbox):
    """The explorer found this: at equal times, the GET can still have been first."""
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


def test_saved_makes_no_event_of_another_save_due(inbox):
    others = [saving("m1", save="s1"), held(message="m2"), saving("m3", save="s3")]
    for event in others:
        inbox.add(event, 0.0)
    look(inbox, "p1", 0.0)  # the plain event's early look
    inbox.add(saved("m4", save="s4", now=1.0), 1.0)

    assert [event.message_id for event in look(inbox, "p1", 1.0)] == ["m4"]
    assert look(inbox, "p1", 5.5) == others


def test_saved_makes_no_event_of_another_id_due(inbox):
    """A save of several ids has one name; each id has its own `saved`."""
    inbox.add(saving(id="p1"), 0.0)
    inbox.add(saved(id="p2", now=1.0), 1.0)

    assert len(look(inbox, "p2", 1.0)) == 1
    assert inbox.next(5.4) is None


def test_saved_without_a_save_id_makes_no_other_event_due(inbox):
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
