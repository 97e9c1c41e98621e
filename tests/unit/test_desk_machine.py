"""
A random walk receives and looks as several threads do, and holds a desk to its rules: also while
looks fail, hang, or are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from desks import make_desk, resume
from hands import held
from hypothesis import given, settings
from hypothesis import strategies as st

from change_events._consumer.breaker import HUNG
from change_events._consumer.experiment import PATIENCE, PERIOD, Failed
from change_events._consumer.guard import Guard

PREFETCH, BATCH_SIZE = 12, 3
IDS = "abcdef"
LOOKS = 1000
"""More looks than a desk can need to be done with all that it holds."""


@dataclass(eq=False)
class Look:
    """A look under way."""

    began: float
    in_outage: bool
    get_started: float | None = None
    early: bool = False
    reads_for: set[str] = field(default_factory=set)  # the messages held when the GET started


class Walk:
    """
    Receives and looks that begin when the desk lets them, and end in any order, or never.

    A hypothesis state machine tries these rules too evenly: few of its looks meet an open question.
    """

    def __init__(self, random):
        self.random = random
        self.now = 0.0
        self.number = 0
        self.receives = []  # how many messages each receive under way can bring
        self.looks = {}  # id: Look
        self.held = {}  # message: its event
        self.closed = False
        self.control = None  # the look at a control that is under way
        self.asked_at = -math.inf  # when the last question's first control look began
        self.in_the_sink = random.choice(["", "a", "cxy", "abcdefxyz"])
        self.desk = make_desk(
            early_look=self.chance(0.5),
            guard=Guard(min_deleted=random.choice([3, 99])),
            per_second=random.choice([None, None, 2]),
            prefetch=PREFETCH,
            batch_size=BATCH_SIZE,
            bulk_size=random.choice([1, 3]),
        )
        self.desk.experiment.learn(random.choice(["", "a", "ab", "xyz"]), self.now)
        self.failing = random.choice([0.1, 0.4, 0.8])

    def chance(self, share):
        return self.random.random() < share

    def step(self):
        (rule,) = self.random.choices(
            [
                self.wait,
                self.begin_receive,
                self.end_receive,
                self.look,
                self.get,
                self.answer,
                self.look_alone,
                self.drop,
                self.drop_hung,
                self.resume,
                self.close,
            ],
            [15, 12, 12, 20, 8, 30, 2, 2, 2, 2, 0.1],
        )
        rule()
        self.note_the_control()
        self.check()

    def wait(self):
        self.now += self.random.choice([0.1, 0.1, 1.0, 5.0, 60.0])

    # Receiving

    def begin_receive(self):
        if not self.desk.receiving.may_begin():
            return
        assert not self.desk.guard.tripped
        most = self.desk.receiving.begin(self.now)
        assert most == (1 if self.desk.breaker.open else BATCH_SIZE)
        self.receives.append(most)

    def end_receive(self):
        if self.receives:
            most = self.receives.pop()
            number = self.random.randint(0, most)
            self.number += number
            events = [
                held(
                    self.random.choice(IDS),
                    f"m{self.number - each}",
                    self.now,
                    self.random.choice([0.0, 1.0, 5.0]),
                )
                for each in range(number)
            ]
            self.brought(events, self.random.choice([number, most]))

    def brought(self, events, received):
        refused = self.desk.end_receive(events, self.now, received=received)
        assert refused == (events if self.closed and not self.receives else [])
        self.held |= {event.message_id: event for event in events if event not in refused}
        assert self.desk.receiving.may_help() <= (received == BATCH_SIZE)

    def close(self):
        self.desk.receiving.close()
        self.closed = True

    def drop(self):
        if self.held:
            wanted = self.random.choice(sorted(self.held))
            dropped = self.desk.drop(lambda event: event.message_id == wanted)
            assert [event.message_id for event in dropped] == [wanted]
            self.forget(dropped)

    def drop_hung(self):
        blocked = self.desk.receiving.blocked
        dropped = [event for event, _ in self.desk.drop_hung(self.now)]
        for id in {event.id for event in dropped}:
            assert self.now - self.looks[id].began > (HUNG if blocked else PATIENCE) - 1e-6
        self.forget(dropped)

    # Looking

    def look(self):
        self.now += self.random.choice([0.0, 0.0, 0.1, 1.0])
        before = set(self.looks)
        for _ in range(self.random.randint(1, 3)):
            self.reserve()
            self.note_the_control()
        if self.chance(0.8):
            for id in sorted(set(self.looks) - before):
                self.begin_get(id)

    def reserve(self):
        in_outage, at = self.desk.breaker.open, self.desk.next_at()
        ids = self.desk.next(self.now)
        assert len(set(ids)) == len(ids)
        assert not set(ids) & self.looks.keys(), "two looks at one id"
        if ids:
            assert at is not None
            assert at <= self.now
        else:
            at = self.desk.next_at()
            assert at is None or at > self.now, "a thread asks again and again"
        if in_outage and ids:
            assert len(ids) == 1
            assert not any(
                look.in_outage and self.now < look.began + HUNG for look in self.looks.values()
            ), "two looks in an outage"
        self.looks |= {id: Look(self.now, in_outage) for id in ids}
        control = self.looks.get(self.desk.experiment.control)
        if control is not self.control and control is not None:
            assert ids == [self.desk.experiment.control]
            assert self.control is None or self.now >= self.control.began + HUNG, "two controls"
            if not self.desk.experiment._tried:
                assert self.now >= self.asked_at + PERIOD, "two questions a second"
                self.asked_at = self.now

    def get(self):
        if self.looks:
            self.begin_get(self.random.choice(sorted(self.looks)))

    def begin_get(self, id):
        look = self.looks[id]
        test = id == self.desk.experiment.control or self.desk.breaker.tests(id)
        early = self.desk.begin_get([id], self.now, again=look.get_started is not None)
        if early is None:
            assert not test
            assert self.desk.guard.tripped or self.desk.breaker.open
            del self.looks[id]
            return
        look.early = early == {id}
        look.get_started = self.now
        look.reads_for = {event.message_id for event in self.held.values() if event.id == id}
        if look.early:
            assert not test
            assert look.reads_for
        if not test:
            assert not self.desk.breaker.open
            assert not self.desk.guard.tripped

    def answer(self):
        if not self.looks:
            return
        id = self.random.choice(sorted(self.looks))
        if self.chance(self.failing):
            self.hear()
            retry_after = self.random.choice([0.0, 0.0, 9.0])
            self.failed(id, own=self.chance(0.6), retry_after=retry_after)
        elif self.looks[id].get_started is not None:
            if self.chance(0.6):
                self.found(id, new=self.chance(0.5), cached=self.chance(0.5))
            else:
                self.gone(id, cached=self.chance(0.7))

    def gone(self, id, *, cached):
        if cached:
            self.hear()
            allowed = self.desk.guard.allows_deletion()
        else:
            allowed = self.desk.guard.allows_unknown(id)
        if allowed:
            self.found(id, new=cached, cached=cached, found=False)
        else:
            assert self.desk.guard.tripped
            was_down = self.desk.breaker.open
            del self.looks[id]
            self.desk.refused(id, self.now)
            self.answered(was_down)

    def found(self, id, *, new=True, cached=True, found=True):
        look, was_down = self.looks.pop(id), self.desk.breaker.open
        if look.early and not new:
            self.desk.too_early(id, self.now, cached=cached)
            assert self.desk.breaker.open == was_down
            return
        settled = self.desk.succeeded(id, self.now, started=look.began, found=found, cached=cached)
        assert {event.message_id for event in settled.events} == {
            message
            for message in look.reads_for & self.held.keys()
            if self.held[message].due <= look.get_started
        }
        self.forget(settled.events)
        self.judge(settled.at_fault)
        self.answered(was_down)

    def answered(self, was_down):
        assert not self.desk.breaker.open
        if was_down:
            for look in self.looks.values():
                look.in_outage = False

    def failed(self, id, *, own=True, retry_after=0.0):
        was_down, look = self.desk.breaker.open, self.looks.pop(id)
        if number := self.desk.experiment.wants_ids(id, self.now):
            self.desk.experiment.learn(self.in_the_sink[:number], self.now)
        failure = self.desk.failed(id, self.now, Failed(OSError(), own, retry_after))
        assert failure.begins == (self.desk.breaker.open and not was_down)
        assert failure.outage <= (failure.begins or look.in_outage)
        if self.desk.breaker.open:
            assert not failure.at_fault, "an outage spends no receive"
        if failure.outage:
            assert failure.pause >= max(1.0, retry_after) - 1e-6
        self.judge(failure.at_fault)

    def judge(self, at_fault):
        for verdict in at_fault:
            assert verdict.id not in self.looks, "the look under way will tell"
            assert verdict.pause > 0.0
            self.forget(verdict.events)
            assert (verdict.id in self.desk.inbox) == (not verdict.events)

    def forget(self, events):
        for event in events:
            assert self.held.pop(event.message_id) is event, "an event is let go of twice"

    def look_alone(self):
        with_events = {event.id for event in self.held.values()}
        ids = [
            id
            for id, look in sorted(self.looks.items())
            if id in with_events and not look.in_outage and look is not self.control
        ]
        if ids:
            alone = self.random.sample(ids, self.random.randint(1, len(ids)))
            self.desk.gets.stop_bulk(self.now + self.random.choice([0.0, 30.0]), 2)
            self.desk.look_again(alone, self.now, alone=True)
            for id in alone:
                del self.looks[id]

    def resume(self):
        self.hear()
        if self.desk.guard.tripped:
            resume(self.desk, self.now)
        assert not self.desk.guard.tripped

    def hear(self):
        """Read in the sink, perhaps, that another process was told to go on."""
        if self.desk.guard.tripped and self.chance(0.3):
            self.desk.guard.load('{"believes": true, "gone": "", "at": []}')
            self.desk.release(self.now)

    # What always holds

    def note_the_control(self):
        self.control = self.looks.get(self.desk.experiment.control)
        assert (self.control is None) == (self.desk.experiment.control is None)

    def check(self):
        assert len(self.desk.inbox) == len(self.held), "an event is lost"
        assert self.desk.inbox.looking() == len(self.looks)
        assert len(self.held) + BATCH_SIZE * len(self.receives) <= PREFETCH
        waiting = {event.id for event in self.held.values()} - self.looks.keys()
        if waiting and not self.desk.guard.tripped:
            assert self.desk.next_at() is not None, "an event waits for ever"

    # Whatever has happened, it goes on

    def end(self, how):
        """Let all looks end this way, until all events are handed back, or an outage is known."""
        while self.receives:
            self.receives.pop()
            self.brought([], 0)
        for _ in range(LOOKS):
            self.resume()
            if not self.looks and (not self.held or (how != "found" and self.desk.breaker.open)):
                return
            if not self.looks:
                self.now = max(self.now, self.desk.next_at())
                self.reserve()
                self.note_the_control()
            for id in list(self.looks):
                self.begin_get(id)
                self.now += 0.1
                if id not in self.looks:
                    pass  # put off
                elif how == "found":
                    self.found(id)
                else:
                    self.failed(id, own=how == "own failure")
                self.note_the_control()
        raise AssertionError(f"it is never done with {self.held}")


@settings(max_examples=600)
@given(
    st.randoms(use_true_random=True),
    st.sampled_from([15, 40, 120]),
    st.sampled_from(["found", "own failure", "failure"]),
)
def test_a_desk_keeps_its_rules_while_looks_succeed_fail_hang_or_are_refused(random, steps, end):
    walk = Walk(random)
    for _ in range(steps):
        walk.step()
    walk.end(end)
