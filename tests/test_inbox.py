"""The inbox, with time passed in; and a hypothesis machine that holds it against what it promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from change_events._inbox import Held, Inbox


def held(id="p1", message="m1", now=0.0, hold=5.0, handle="h1", count=1):
    return Held(id, message, handle, count, received=now, hold=hold, expires=now + 60)


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
    assert due == [(pytest.approx(2.2), ["m2"]), (pytest.approx(5.5), ["m3"]), (pytest.approx(11.0), ["m1"])]


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

    assert [event.id for event in inbox.expiring(before=61.0)] == ["p1"]
    assert len(inbox.expiring(before=71.0)) == 2


def test_clearing_lets_go_of_everything(inbox):
    inbox.add(held(), 0.0)
    inbox.add(held("p2", "m2"), 0.0)

    assert sorted(event.id for event in inbox.clear()) == ["p1", "p2"]
    assert len(inbox) == 0
    assert inbox.next(9.0) is None


class Machine(RuleBasedStateMachine):
    """Events, redeliveries, looks that succeed, fail or begin again, in any order, against the promises of the module."""

    ids = st.sampled_from("abc")

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.inbox = Inbox(early_look=True)
        self.received = {}  # message: (id, received, hold)
        self.looking = {}  # id: (GET started, messages held when it did), or None before the GET
        self.number = 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0, 10.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(id=ids, hold=st.sampled_from([0.0, 1.0, 5.0]))
    def receive(self, id, hold):
        self.number += 1
        message = f"m{self.number}"
        self.received[message] = (id, self.now, hold)
        self.inbox.add(held(id, message, self.now, hold), self.now)

    @precondition(lambda self: self.received)
    @rule(data=st.data())
    def receive_again(self, data):
        message = data.draw(st.sampled_from(sorted(self.received)))
        id, _, hold = self.received[message]
        self.inbox.add(held(id, message, self.now, hold, handle=f"again at {self.now}"), self.now)

    @rule()
    def reserve(self):
        id = self.inbox.next(self.now)
        if id is None:
            for id, received, hold in self.received.values():
                assert id in self.looking or self.now < received + hold * 1.1, "an event waits beyond its time"
        else:
            assert id not in self.looking, "two looks at one id"
            self.looking[id] = None

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def get(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        self.inbox.freeze(id, self.now)
        self.looking[id] = (self.now, {message for message, event in self.received.items() if event[0] == id})

    @precondition(lambda self: any(self.looking.values()))
    @rule(data=st.data())
    def settle(self, data):
        id = data.draw(st.sampled_from(sorted(id for id, get in self.looking.items() if get)))
        started, present = self.looking.pop(id)
        settled = {event.message_id for event in self.inbox.settle(id)}
        assert settled == {message for message in present if self.received[message][1] + self.received[message][2] <= started}
        for message in settled:
            del self.received[message]

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def fail(self, data):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        del self.looking[id]
        given_up = {event.message_id for event in self.inbox.give_up(id)}
        assert given_up == {message for message, event in self.received.items() if event[0] == id}
        for message in given_up:
            del self.received[message]

    @invariant()
    def nothing_is_lost(self):
        assert len(self.inbox) == len(self.received)
        assert {event.message_id for event in self.inbox.expiring(math.inf)} == set(self.received)

    @invariant()
    def every_event_has_a_look_ahead(self):
        waiting = {id for id, _, _ in self.received.values()} - set(self.looking)
        assert (self.inbox.next_at() is not None) == bool(waiting)


TestMachine = Machine.TestCase
