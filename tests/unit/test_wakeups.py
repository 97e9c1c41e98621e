"""
A hypothesis machine runs a worker's threads one step at a time, and checks that no thread waits for
what is already there.
"""

from __future__ import annotations

from dataclasses import dataclass

from desks import make_desk
from hands import held
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from change_events._consumer.consumer import Consumer
from change_events._consumer.experiment import Failed
from change_events._consumer.guard import Guard
from change_events._consumer.health import Pauses
from change_events._consumer.limit import Answer, Limit
from change_events._consumer.stats import Tally
from change_events._meter import Meter

RESULTS = ["found", "found", "gone", "fails", "fails", "too early", "undecided"]
LOOKERS = 3
BATCH_SIZE = 2


class Waits(Exception):  # noqa: N818  # not an error
    """A thread waits, for so many seconds at most."""


@dataclass(eq=False)
class Thread:
    """
    A thread of a worker.

    Attributes:
        wait: The consumer's method that it repeats.
        until: When it stops waiting by itself; None: never.
        ids: The ids of its look, or of its receive the number of messages; empty between them.
        began: When that look began.
    """

    wait: object
    until: float | None = None
    ids: object = ()
    began: float = 0.0


class Condition:
    """A condition whose waiting threads leave the consumer, and enter it again when they wake."""

    def __init__(self, lock):
        self.lock = lock
        self.waiting = []  # first come, first woken
        self.woken = []

    def wait(self, timeout=None):
        raise Waits(timeout)

    def wait_for(self, predicate):
        if not predicate():
            raise Waits(None)

    def notify(self, number=1):
        assert self.lock.locked()
        self.woken += self.waiting[:number]
        del self.waiting[:number]


EPSILON = 1e-9
"""Seconds: now + (then - now) can be a little more than then."""


class Machine(RuleBasedStateMachine):
    """Three threads that look, one that receives, and one that helps it."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.conditions = []

    @initialize(
        early_look=st.booleans(),
        bulk_size=st.sampled_from([1, 2]),
        per_second=st.sampled_from([None, 2]),
        limit=st.sampled_from([Limit.fixed, lambda: Limit(2), lambda: Limit(64)]),
    )
    def make(self, early_look, bulk_size, per_second, limit):
        guard = Guard(min_deleted=2)
        self.desk = make_desk(
            early_look=early_look,
            guard=guard,
            per_second=per_second,
            prefetch=8,
            batch_size=BATCH_SIZE,
            bulk_size=bulk_size,
            limit=limit(),
        )
        clock = lambda: self.now  # noqa: E731
        self.consumer = Consumer(
            self.desk,
            pauses=Pauses(Meter(), clock=clock),
            tally=Tally(),
            clock=clock,
            condition=self.condition,
        )
        self.due, _, self.room, self.backlog = self.conditions
        self.due.woken = [Thread(self.look) for _ in range(LOOKERS)]
        self.room.woken = [Thread(self.consumer.wait_for_room)]
        self.backlog.woken = [Thread(self.consumer.wait_for_backlog)]
        self.busy = []

    def condition(self, lock):
        self.conditions.append(Condition(lock))
        return self.conditions[-1]

    def look(self, thread):
        after, thread.ids = thread.ids, ()
        return self.consumer.take(after)

    def enter(self, condition, thread):
        """Let a thread ask the consumer for something to do."""
        try:
            found = thread.wait(*[thread] * (condition is self.due))
        except Waits as waits:
            (timeout,) = waits.args
            thread.until = None if timeout is None else self.now + timeout
            condition.waiting.append(thread)
            return
        if condition is self.due:
            thread.ids, thread.began = found, self.now
        else:
            with self.consumer as desk:
                thread.ids = [desk.receiving.begin(self.now)]
        self.busy.append((condition, thread))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 60.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @precondition(lambda self: any(condition.woken for condition in self.conditions))
    @rule(data=st.data())
    def run_a_woken_thread(self, data):
        condition = data.draw(st.sampled_from([each for each in self.conditions if each.woken]))
        self.enter(
            condition, condition.woken.pop(data.draw(st.integers(0, len(condition.woken) - 1)))
        )

    def timed_out(self):
        return [
            thread
            for thread in self.due.waiting
            if thread.until is not None and thread.until <= self.now
        ]

    @precondition(lambda self: self.timed_out())
    @rule(data=st.data())
    def run_a_thread_whose_wait_is_over(self, data):
        thread = data.draw(st.sampled_from(self.timed_out()))
        self.due.waiting.remove(thread)
        self.enter(self.due, thread)

    def draw_busy(self, data, *conditions):
        chosen = data.draw(st.sampled_from([each for each in self.busy if each[0] in conditions]))
        self.busy.remove(chosen)
        condition, thread = chosen
        condition.woken.append(thread)  # it asks for more when it runs next
        return thread

    @precondition(lambda self: any(condition is not self.due for condition, _ in self.busy))
    @rule(data=st.data())
    def end_receive(self, data):
        (most,) = self.draw_busy(data, self.room, self.backlog).ids
        if not most:
            return
        wanted = st.tuples(st.sampled_from("abcde"), st.sampled_from([0.0, 1.0, 5.0]))
        events = []
        for id, hold in data.draw(st.lists(wanted, max_size=most)):
            self.number += 1
            events.append(held(id, f"m{self.number}", self.now, hold))
        with self.consumer as desk:
            desk.end_receive(events, self.now, received=len(events))
        if self.desk.receiving.may_help():
            assert self.backlog.woken or not self.backlog.waiting, "nobody is asked to help"

    @precondition(lambda self: any(condition is self.due for condition, _ in self.busy))
    @rule(data=st.data(), result=st.sampled_from(RESULTS), own=st.booleans())
    def end_look(self, data, result, own):
        thread = self.draw_busy(data, self.due)
        ids, fails = thread.ids, result == "fails"
        seconds = None if fails else self.now - thread.began
        overload = fails and not own
        self.consumer.answers.append(Answer(thread.began, seconds, len(ids), overload=overload))
        with self.consumer as desk:
            early = desk.begin_get(ids, self.now)
        if result == "undecided" and len(ids) > 1:
            with self.consumer as desk:
                desk.look_again(ids, self.now, alone=True)
            return
        for id in ids:
            gone = result == "gone"
            with self.consumer as desk:
                if result == "fails":
                    desk.failed(id, self.now, Failed(OSError(), own=own))
                elif result == "too early" and id in early:
                    desk.too_early(id, self.now, cached=True)
                elif gone and not desk.guard.allows_deletion():
                    desk.refused(id, self.now)
                else:
                    desk.succeeded(id, self.now, started=self.now, found=not gone, cached=True)

    @precondition(lambda self: self.desk.guard.tripped)
    @rule()
    def resume(self):
        with self.consumer as desk:
            desk.guard.resume()

    @rule()
    def drop(self):
        with self.consumer as desk:
            desk.drop(lambda event: event.expires < self.now + 30.0)

    @invariant()
    def no_thread_waits_for_a_look_that_is_due(self):
        at = self.desk.next_at()
        if at is not None and self.due.waiting and not self.due.woken:
            assert any(
                thread.until is not None and thread.until <= max(at, self.now) + EPSILON
                for thread in self.due.waiting
            ), "all threads sleep longer than until the next look is due"

    @invariant()
    def no_thread_waits_for_room_that_is_there(self):
        if self.room.waiting:
            assert not self.desk.receiving.may_begin()


TestMachine = Machine.TestCase
