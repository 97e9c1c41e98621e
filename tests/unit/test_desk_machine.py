"""A hypothesis machine receives and looks as several threads do, and holds a desk to its rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from desks import make_desk
from hands import held
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from change_events._consumer.guard import Guard

PREFETCH, BATCH_SIZE = 12, 3


@dataclass
class Look:
    """A look under way."""

    in_outage: bool
    get_started: float | None = None
    reads_for: set[str] = field(default_factory=set)  # the messages held when the GET started


class Machine(RuleBasedStateMachine):
    """Receives and looks that begin when the desk lets them, and end in any order."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.receives = []  # how many messages each receive under way can bring
        self.looks = {}  # id: Look
        self.held = {}  # message: its event
        self.closed = False

    @initialize(
        early_look=st.booleans(),
        bulk_size=st.sampled_from([1, 3]),
        per_second=st.sampled_from([None, 2]),
    )
    def make(self, early_look, bulk_size, per_second):
        self.desk = make_desk(
            early_look=early_look,
            guard=Guard(min_deleted=3),
            per_second=per_second,
            prefetch=PREFETCH,
            batch_size=BATCH_SIZE,
            bulk_size=bulk_size,
        )

    def draw_look(self, data, *, with_get=False):
        ids = [
            id for id, look in self.looks.items() if look.get_started is not None or not with_get
        ]
        return data.draw(st.sampled_from(sorted(ids)))

    def forget(self, events):
        for event in events:
            assert self.held.pop(event.message_id) is event, "an event is let go of twice"

    def outage_over(self):
        for look in self.looks.values():
            look.in_outage = False

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 60.0]))
    def wait(self, seconds):
        self.now += seconds

    # Receiving

    @precondition(lambda self: self.desk.may_receive())
    @rule()
    def begin_receive(self):
        assert not self.desk.guard.tripped
        most = self.desk.begin_receive()
        assert most == (1 if self.desk.breaker.open else BATCH_SIZE)
        self.receives.append(most)

    @precondition(lambda self: self.receives)
    @rule(data=st.data(), malformed=st.booleans())
    def end_receive(self, data, malformed):
        most = self.receives.pop()
        wanted = st.tuples(st.sampled_from("abcdef"), st.sampled_from([0.0, 1.0, 5.0]))
        events = []
        for id, hold in data.draw(st.lists(wanted, max_size=most)):
            self.number += 1
            events.append(held(id, f"m{self.number}", self.now, hold))
        received = min(most, len(events) + malformed)
        refused = self.desk.end_receive(events, self.now, received=received)
        assert refused == (events if self.closed and not self.receives else [])
        self.held |= {event.message_id: event for event in events if event not in refused}
        assert self.desk.may_help_receive() <= (received == BATCH_SIZE)

    @rule()
    def close(self):
        self.desk.close()
        self.closed = True

    # Looking

    @rule()
    def reserve(self):
        in_outage, at = self.desk.breaker.open, self.desk.next_at()
        ids = self.desk.next(self.now)
        assert bool(ids) == (at is not None and at <= self.now)
        assert len(set(ids)) == len(ids)
        assert not set(ids) & self.looks.keys(), "two looks at one id"
        if in_outage and ids:
            assert len(ids) == 1
            assert not any(look.in_outage for look in self.looks.values()), "two looks in an outage"
        self.looks |= {id: Look(in_outage) for id in ids}

    @precondition(lambda self: self.looks)
    @rule(data=st.data())
    def get(self, data):
        id = self.draw_look(data)
        look = self.looks[id]
        self.desk.begin_get([id], self.now, again=look.get_started is not None)
        look.get_started = self.now
        look.reads_for = {event.message_id for event in self.held.values() if event.id == id}

    @precondition(lambda self: any(look.get_started is not None for look in self.looks.values()))
    @rule(data=st.data(), gone=st.booleans(), cached=st.booleans())
    def answer(self, data, gone, cached):
        id = self.draw_look(data, with_get=True)
        look = self.looks.pop(id)
        was_down = self.desk.breaker.open
        if cached and not self.desk.allows(id, self.now, gone=gone):
            assert gone
            assert self.desk.guard.tripped
        else:
            settled = self.desk.succeeded(id, self.now)
            assert {event.message_id for event in settled.events} == {
                message for message in look.reads_for if self.held[message].due <= look.get_started
            }
            self.forget(settled.events)
        assert not self.desk.breaker.open
        if was_down:
            self.outage_over()

    @precondition(lambda self: self.looks)
    @rule(data=st.data(), retry_after=st.sampled_from([0.0, 0.0, 9.0]), source_wide=st.booleans())
    def fail(self, data, retry_after, source_wide):
        id = self.draw_look(data)
        was_down, look = self.desk.breaker.open, self.looks.pop(id)
        failure = self.desk.failed(id, self.now, retry_after=retry_after, source_wide=source_wide)
        self.forget(failure.events)
        assert failure.begins == (self.desk.breaker.open and not was_down)
        assert failure.outage == (failure.begins or look.in_outage)
        if self.desk.breaker.open:
            assert failure.events == []
        else:
            assert id not in self.desk.inbox
        if failure.outage:
            assert failure.pause >= max(1.0, retry_after)

    @precondition(lambda self: any(not look.in_outage for look in self.looks.values()))
    @rule(data=st.data(), until=st.sampled_from([0.0, 30.0]))
    def look_alone(self, data, until):
        ids = sorted(id for id, look in self.looks.items() if not look.in_outage)
        alone = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
        self.desk.stop_bulk(self.now + until)
        self.desk.look_alone(alone, self.now)
        for id in alone:
            del self.looks[id]

    @precondition(lambda self: self.desk.guard.tripped)
    @rule()
    def resume(self):
        self.desk.resume(self.now)
        assert not self.desk.guard.tripped

    # What always holds

    @invariant()
    def no_event_is_lost(self):
        assert len(self.desk.inbox) == len(self.held)
        assert self.desk.inbox.looking() == len(self.looks)

    @invariant()
    def no_more_is_held_and_received_than_can_be_held(self):
        assert len(self.held) + BATCH_SIZE * len(self.receives) <= PREFETCH

    @invariant()
    def each_waiting_event_has_a_look_ahead(self):
        waiting = {event.id for event in self.held.values()} - self.looks.keys()
        probing = any(look.in_outage for look in self.looks.values())
        halts = self.desk.guard.tripped or probing
        assert (self.desk.next_at() is not None) == (bool(waiting) and not halts)


TestMachine = Machine.TestCase
