"""Ids that are due at the same time can be looked at together."""

from __future__ import annotations

import pytest
from hands import held

from change_events._consumer.inbox import Inbox


@pytest.fixture
def inbox():
    return Inbox(early_look=True)


def hold(inbox, number, now=0.0):
    for n in range(number):
        inbox.add(held(f"p{n}", f"m{n}", now=now), now)


def test_due_with_reserves_other_ids_that_are_due(inbox):
    hold(inbox, 5)

    assert inbox.next(0.0) == "p0"
    assert inbox.due_with("p0", 0.0, 3) == ["p1", "p2", "p3"]
    assert inbox.looking() == 4
    assert inbox.next(0.0) == "p4"
    assert inbox.due_with("p4", 0.0, 3) == []


@pytest.mark.parametrize("most", [0, -1])
def test_due_with_reserves_none_if_none_is_wanted(inbox, most):
    hold(inbox, 2)

    assert inbox.due_with(inbox.next(0.0), 0.0, most) == []


def test_due_with_reserves_no_id_that_is_due_later(inbox):
    hold(inbox, 2)
    inbox.add(held("p2", now=0.1), 0.1)

    assert inbox.next(0.0) == "p0"
    assert inbox.due_with("p0", 0.0, 9) == ["p1"]
    assert inbox.next_at() == 0.1


def test_ids_that_are_looked_at_together_are_settled_one_by_one(inbox):
    hold(inbox, 3)
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
def test_an_undecided_id_is_due_again_and_alone_until_a_look_succeeds(inbox, get_began, more):
    hold(inbox, 3)
    assert inbox.next(1.0) == "p0"
    assert inbox.due_with("p0", 1.0, 1) == ["p1"]
    if get_began:
        inbox.freeze("p0", 1.0)
        inbox.freeze("p1", 1.0)
    if more:
        inbox.add(held("p1", "more", now=1.5), 1.5)

    inbox.look_again("p1", 2.0, alone=True)

    assert inbox.looking() == 1
    assert inbox.next(2.0) == "p2"
    assert inbox.due_with("p2", 2.0, 9) == []  # p1 comes next, and needs a look alone
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


def test_an_id_that_is_looked_at_again_can_share_a_get(inbox):
    hold(inbox, 2)
    assert inbox.next(1.0) == "p0"
    assert inbox.due_with("p0", 1.0, 1) == ["p1"]
    inbox.look_again("p0", 2.0)
    inbox.look_again("p1", 2.0)

    assert inbox.next(2.0) == "p0"
    assert inbox.due_with("p0", 2.0, 9) == ["p1"]


def test_an_id_that_needs_a_look_alone_still_needs_one_after_it_was_parked(inbox):
    hold(inbox, 1)
    assert inbox.next(0.0) == "p0"
    inbox.look_again("p0", 0.0, alone=True)
    assert inbox.next(0.0) == "p0"
    inbox.freeze("p0", 0.0)
    inbox.park("p0")
    inbox.release(1.0)
    inbox.add(held("p1", now=1.0), 1.0)

    assert inbox.next(1.0) == "p0"
    assert inbox.due_with("p0", 1.0, 9) == []
