"""A hypothesis machine compares an inbox with what its module promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hands import held
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from change_events._consumer.agenda import REST
from change_events._consumer.inbox import Inbox


@dataclass
class Kept:
    """What the machine knows of a held event."""

    id: str
    received: float
    hold: float
    phase: str | None
    save: str | None
    seen: float = math.inf  # when the first GET started that read for it

    @property
    def due(self):
        return self.received + self.hold


class Machine(RuleBasedStateMachine):
    """
    Events of plain and of confirmed saves, redeliveries, and looks that succeed, fail or begin
    again, in any order.
    """

    ids = st.sampled_from("abc")
    saves = st.sampled_from(["s1", "s2"])
    holds = st.sampled_from([0.0, 1.0, 5.0])

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.inbox = Inbox(early_look=True)
        self.kept = {}  # message: Kept
        # id: when the GET of its look started, and the messages held by then; None before the GET
        self.looking = {}
        self.parked = set()
        self.released = set()
        self.alone = set()
        self.rests = {}  # id: until when it can rest, because the queue has more
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
        others = self.inbox.due_with(id, self.now, most)
        assert len(others) <= most
        assert not others or not self.alone & {id, *others}, "an id that needs a look alone is not"
        for other in others:
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
        self.inbox.look_again(id, self.now, alone=True)
        del self.looking[id]
        self.alone.discard(id)
        if self.of(id):
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
        if self.inbox.park(id):
            self.parked.add(id)
        else:
            assert not self.of(id)
            self.alone.discard(id)

    @rule()
    def retry(self):
        id = self.inbox.parked()
        assert (id is None) == (not self.parked)
        if id is not None:
            self.inbox.reserve(id, self.now)
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
        assert dropped == messages
        for message in dropped:
            self.released.add(self.kept[message].id)  # the look that was due for it still comes
            del self.kept[message]
        for id, get in self.looking.items():
            if get:
                started, present = get
                self.looking[id] = (started, present - dropped)
        self.parked &= {kept.id for kept in self.kept.values()}
        self.alone &= {kept.id for kept in self.kept.values()} | self.looking.keys()

    @invariant()
    def nothing_is_lost(self):
        assert len(self.inbox) == len(self.kept)
        assert {event.message_id for event in self.inbox.expiring(math.inf)} == set(self.kept)

    @invariant()
    def every_event_has_a_look_ahead(self):
        waiting = {kept.id for kept in self.kept.values()} - set(self.looking) - self.parked
        assert (self.inbox.next_at() is not None) == bool(waiting)


TestMachine = Machine.TestCase
