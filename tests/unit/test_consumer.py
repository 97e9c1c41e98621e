"""One desk for many threads: each waits for what it needs until another thread provides it."""

from __future__ import annotations

import queue
import threading

import pytest
from desks import bring_down, fail, make_desk, receive, succeed
from hands import NotingCondition

from change_events._consumer.consumer import Consumer
from change_events._consumer.guard import Guard
from change_events._consumer.health import FULL, MASS_DELETION, SOURCE_DOWN
from change_events._consumer.limit import Answer, Limit


class Condition(threading.Condition):
    """A condition that tells the test of each wait. A wait ends when the thread is notified."""

    def __init__(self, lock, waits):
        super().__init__(lock)
        self._waits = waits

    def wait(self, timeout=None):
        self._waits.put(timeout)
        return super().wait()


class Noting:
    """What the consumer reports, in order."""

    def __init__(self):
        self.held = []
        self.pauses = []

    def watch(self, name, value):
        assert name == "prefetch"

    def set(self, name, number):
        assert name == "held"
        self.held.append(number)

    def begin(self, why):
        self.pauses.append(why)

    def end(self, why):
        self.pauses.append(f"no longer {why}")


class Shared:
    """A consumer, and threads that wait for it."""

    def __init__(self, **settings):
        self.now = 0.0
        self.waits = queue.SimpleQueue()
        self.noted = Noting()
        self.conditions = []
        self.hired = []
        self.consumer = Consumer(
            make_desk(**settings),
            pauses=self.noted,
            tally=self.noted,
            clock=lambda: self.now,
            condition=self.condition,
            hire=lambda: self.hired.append("look"),
        )
        self.due, _, self.room, self.backlog = self.conditions
        self.noted.pauses.clear()

    def condition(self, lock):
        self.conditions.append(Condition(lock, self.waits))
        return self.conditions[-1]

    def receive(self, *ids, **arguments):
        with self.consumer as desk:
            receive(desk, *ids, now=self.now, **arguments)

    def begin(self, wait):
        """Let a thread wait; return where its result comes, and how long it is ready to wait."""
        results = queue.SimpleQueue()
        threading.Thread(target=lambda: results.put(wait()), daemon=True).start()
        return results, self.waits.get(timeout=10)


@pytest.fixture
def shared():
    return Shared()


def result(results):
    return results.get(timeout=10)


# Looking


def test_take_returns_an_id_that_is_due_without_waiting_and_reserves_it(shared):
    shared.receive("a", "b")

    assert shared.consumer.take() == ["a"]
    assert shared.consumer.take() == ["b"]

    assert shared.waits.empty()
    with shared.consumer as desk:
        assert desk.inbox.looking() == 2


def test_take_waits_until_something_is_due(shared):
    taken, timeout = shared.begin(shared.consumer.take)
    assert timeout is None

    shared.receive("a")

    assert result(taken) == ["a"]


def test_take_waits_until_the_next_look_is_due():
    shared = Shared(early_look=False)
    shared.now = 1.0
    shared.receive("a", hold=5.0)
    taken, timeout = shared.begin(shared.consumer.take)
    assert timeout == 5.5

    shared.now = 6.5
    with shared.due:
        shared.due.notify()

    assert result(taken) == ["a"]


def test_take_waits_on_if_it_wakes_before_the_look_is_due():
    shared = Shared(early_look=False)
    shared.receive("a", hold=5.0)
    shared.begin(shared.consumer.take)

    shared.now = 2.0
    with shared.due:
        shared.due.notify()

    assert shared.waits.get(timeout=10) == 3.5


def test_take_returns_an_id_that_comes_in_while_it_waits_for_a_later_time():
    shared = Shared(early_look=False)
    shared.receive("later", hold=5.0)
    taken, timeout = shared.begin(shared.consumer.take)
    assert timeout == 5.5

    shared.receive("now")

    assert result(taken) == ["now"]


def test_each_look_that_is_due_wakes_a_thread(shared):
    first, _ = shared.begin(shared.consumer.take)
    second, _ = shared.begin(shared.consumer.take)

    shared.receive("a", "b")

    assert sorted([result(first), result(second)]) == [["a"], ["b"]]


def test_take_returns_what_a_look_makes_due(shared):
    shared.receive("a", hold=5.0)
    (id,) = shared.consumer.take()
    taken, timeout = shared.begin(shared.consumer.take)
    assert timeout is None

    with shared.consumer as desk:
        succeed(desk, 0.0, id)
    assert shared.waits.get(timeout=10) == 5.5
    shared.now = 5.5
    with shared.due:
        shared.due.notify()

    assert result(taken) == ["a"]


def test_stop_ends_every_take_with_nothing(shared):
    first, _ = shared.begin(shared.consumer.take)
    second, _ = shared.begin(shared.consumer.take)

    shared.consumer.stop()

    assert [result(first), result(second)] == [[], []]


def test_take_returns_nothing_after_the_stop_though_an_id_is_due(shared):
    shared.receive("a")
    shared.consumer.stop()

    assert shared.consumer.take() == []


# Receiving


def test_wait_for_room_returns_at_once_if_there_is_room(shared):
    assert shared.consumer.wait_for_room()

    assert shared.waits.empty()
    assert FULL not in shared.noted.pauses


def test_wait_for_room_waits_until_something_is_no_longer_held():
    shared = Shared(prefetch=5)
    shared.receive("a", "b", "c")
    may, timeout = shared.begin(shared.consumer.wait_for_room)
    assert timeout is None
    assert shared.noted.pauses == [FULL]

    with shared.consumer as desk:
        desk.drop(lambda event: event.id == "a")

    assert result(may) is True
    assert shared.noted.pauses == [FULL, f"no longer {FULL}"]


def test_wait_for_room_waits_until_a_receive_has_brought_less_than_it_could():
    shared = Shared(prefetch=5)
    with shared.consumer as desk:
        desk.receiving.begin(0.0)
    may, _ = shared.begin(shared.consumer.wait_for_room)

    with shared.consumer as desk:
        desk.end_receive([], 0.0, received=0)

    assert result(may) is True


def test_wait_for_room_waits_for_the_end_of_an_outage_without_being_full(shared):
    with shared.consumer as desk:
        bring_down(desk)
    may, _ = shared.begin(shared.consumer.wait_for_room)
    assert shared.noted.pauses == [SOURCE_DOWN]

    with shared.consumer as desk:
        succeed(desk, 1.0)

    assert result(may) is True


def test_stop_ends_wait_for_room_with_false():
    shared = Shared(prefetch=5)
    shared.receive("a", "b", "c")
    may, _ = shared.begin(shared.consumer.wait_for_room)

    shared.consumer.stop()

    assert result(may) is False
    assert shared.noted.pauses == [FULL, f"no longer {FULL}"]
    assert shared.consumer.wait_for_room() is False


def test_wait_for_backlog_waits_for_a_full_batch(shared):
    may, timeout = shared.begin(shared.consumer.wait_for_backlog)
    assert timeout is None

    shared.receive("a", "b", "c")

    assert result(may) is True
    assert shared.consumer.wait_for_backlog() is True  # there is still more


def test_each_receive_that_ends_in_a_backlog_wakes_one_more_thread_to_help():
    shared = Shared(prefetch=20)
    first, _ = shared.begin(shared.consumer.wait_for_backlog)
    second, _ = shared.begin(shared.consumer.wait_for_backlog)

    shared.receive("a", "b", "c")
    assert result(first) is True
    with shared.consumer as desk:
        succeed(desk, 0.0)  # that makes room, and asks for no help
    assert second.empty()
    shared.receive("d", "e", "f")

    assert result(second) is True


def test_stop_ends_wait_for_backlog_with_false(shared):
    may, _ = shared.begin(shared.consumer.wait_for_backlog)

    shared.consumer.stop()

    assert result(may) is False
    assert shared.consumer.wait_for_backlog() is False


def test_once_no_receive_may_begin_what_is_held_is_looked_at_as_before(shared):
    shared.receive("a")
    may, _ = shared.begin(shared.consumer.wait_for_backlog)
    shared.consumer.stop_receiving()

    assert result(may) is False
    assert shared.consumer.wait_for_room() is False
    assert shared.consumer.take() == ["a"]


def test_what_is_received_after_the_stop_is_not_held(shared):
    shared.consumer.stop()

    shared.receive("a")

    with shared.consumer as desk:
        assert len(desk.inbox) == 0


# Which threads are woken


@pytest.fixture
def noting():
    """A consumer without other threads: its conditions note how many would be woken."""
    conditions = []

    def condition(lock):
        conditions.append(NotingCondition(lock))
        return conditions[-1]

    noted = Noting()
    consumer = Consumer(make_desk(), pauses=noted, tally=noted, condition=condition)
    return consumer, conditions


def woken(noting, block):
    """Return how many threads a block wakes that wait for looks, for room and for a backlog."""
    consumer, conditions = noting
    for condition in conditions:
        condition.woken.clear()
    with consumer as desk:
        block(desk)
    due, _, room, backlog = conditions
    return [sum(each.woken) for each in (due, room, backlog)]


def test_a_block_that_changes_nothing_wakes_no_thread(noting):
    assert woken(noting, lambda desk: None) == [0, 0, 0]
    woken(noting, lambda desk: receive(desk, "a", "b", "c"))
    assert woken(noting, lambda desk: desk.begin_get(desk.next(0.0), 0.0)) == [0, 0, 0]


def test_a_block_that_brings_events_wakes_one_thread_which_wakes_the_next(noting):
    assert woken(noting, lambda desk: receive(desk, "a", "b")) == [1, 1, 0]
    consumer, (due, *_) = noting
    due.woken.clear()

    assert consumer.take() == ["a"]
    assert due.woken == [1]
    assert consumer.take() == ["b"]
    assert due.woken == [1]


def test_the_end_of_a_backlog_wakes_a_thread_that_looks_because_ten_looks_can_run_now(noting):
    consumer, _ = noting
    with consumer as desk:
        desk.limit = Limit(64)
        receive(desk, "a", "b", "c")
        assert desk.next(0.0) == ["a"]
        assert desk.next(0.0) == []  # one at a time

    assert woken(noting, receive) == [1, 1, 0]
    assert consumer.take() == ["b"]


def test_a_block_wakes_one_thread_to_help_in_a_backlog(noting):
    assert woken(noting, lambda desk: receive(desk, "a", "b", "c")) == [1, 1, 1]


def test_a_block_that_begins_an_outage_wakes_no_thread_that_receives(noting):
    assert woken(noting, bring_down)[1:] == [0, 0]


def test_the_end_of_an_outage_wakes_a_thread_that_looks(noting):
    woken(noting, bring_down)
    woken(noting, lambda desk: receive(desk, "f", "f", hold=5.0))

    assert woken(noting, lambda desk: succeed(desk, 1.0)) == [1, 1, 0]


# What is reported


def test_the_number_of_held_events_is_reported_at_the_start_and_after_each_change(shared):
    shared.receive("a", "b")
    shared.receive()
    with shared.consumer as desk:
        succeed(desk, 0.0)

    assert shared.noted.held == [0, 2, 2, 1]


def test_an_outage_is_reported_when_it_begins_and_when_it_ends(shared):
    with shared.consumer as desk:
        bring_down(desk)
    with shared.consumer as desk:
        fail(desk, 1.0)
    assert shared.noted.pauses == [SOURCE_DOWN]

    with shared.consumer as desk:
        succeed(desk, 3.0)
    assert shared.noted.pauses == [SOURCE_DOWN, f"no longer {SOURCE_DOWN}"]


def test_a_refused_deletion_is_reported_once_and_until_resume():
    shared = Shared(guard=Guard(max_share=0.0, min_deleted=1))
    for id in ("a", "b"):
        shared.receive(id)
    with shared.consumer as desk:
        ids = [*desk.next(0.0), *desk.next(0.0)]
    for id in ids:
        with shared.consumer as desk:
            assert not desk.guard.allows_deletion()
            desk.refused(id, 0.0)
    assert shared.noted.pauses == [MASS_DELETION]

    with shared.consumer as desk:
        desk.guard.resume()
    assert shared.noted.pauses == [MASS_DELETION, f"no longer {MASS_DELETION}"]


def test_looks_go_on_as_soon_as_the_sink_says_that_another_process_was_told_to():
    shared = Shared(guard=Guard(max_share=0.0, min_deleted=1))
    shared.receive("a")
    with shared.consumer as desk:
        (id,) = desk.next(0.0)
        assert not desk.guard.allows_deletion()
        desk.refused(id, 0.0)
    taken, _ = shared.begin(shared.consumer.take)

    with shared.consumer as desk:
        desk.guard.load('{"believes": true, "gone": "", "at": []}')

    assert result(taken) == ["a"]
    assert shared.noted.pauses == [MASS_DELETION, f"no longer {MASS_DELETION}"]


def test_a_refusal_that_no_look_of_an_event_has_met_ends_as_soon():
    shared = Shared(guard=Guard(max_share=0.0, min_deleted=1))
    with shared.consumer as desk:
        assert not desk.guard.allows_deletion()  # of a backfill
    assert shared.noted.pauses == [MASS_DELETION]
    shared.receive("a")
    taken, _ = shared.begin(shared.consumer.take)

    with shared.consumer as desk:
        desk.guard.load('{"believes": true, "gone": "", "at": []}')

    assert result(taken) == ["a"]


def test_looks_go_on_though_a_refusal_came_under_another_lock():
    """A look by hand that began before this run has the lock of then."""
    shared = Shared(guard=Guard(max_share=0.0, min_deleted=1))
    shared.receive("a", hold=0.0)
    assert not shared.consumer._desk.guard.allows_deletion()
    taken, _ = shared.begin(shared.consumer.take)

    shared.consumer.resume()

    assert result(taken) == ["a"]


def test_a_block_that_raises_wakes_reports_and_leaves_the_lock(shared):
    taken, _ = shared.begin(shared.consumer.take)

    def receive_and_raise():
        with shared.consumer as desk:
            receive(desk, "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        receive_and_raise()
    assert result(taken) == ["a"]
    assert shared.noted.held == [0, 1]


def test_take_waits_for_less_than_a_second():
    shared = Shared(early_look=False)
    shared.receive("a", hold=0.5)

    _, timeout = shared.begin(shared.consumer.take)

    assert timeout == pytest.approx(0.55)


# Threads that are missing


def test_a_thread_is_hired_if_what_resume_makes_due_finds_all_of_them_busy():
    hired = []
    desk = make_desk(guard=Guard(max_share=0.0, min_deleted=1))
    noted = Noting()
    consumer = Consumer(
        desk, pauses=noted, tally=noted, clock=lambda: 0.0, hire=lambda: hired.append("look")
    )
    with consumer as desk:
        receive(desk, "a", "b")
    for id in [consumer.take(), consumer.take()]:
        with consumer as desk:
            if not desk.guard.allows_deletion():
                desk.refused(*id, 0.0)
    hired.clear()

    consumer.resume()

    assert hired == ["look"]


def test_no_thread_is_woken_for_a_look_that_is_due_when_one_wakes_by_itself():
    shared = Shared(early_look=False)
    shared.receive("a", hold=5.0)
    _, timeout = shared.begin(shared.consumer.take)
    assert timeout == 5.5

    shared.receive("b", hold=9.0)

    with pytest.raises(queue.Empty):  # woken, it would wait once more
        shared.waits.get(timeout=0.2)
    assert shared.hired == ["look"]  # for the first event, when no thread was there


def test_of_several_threads_that_wait_for_a_look_one_wakes_by_itself():
    shared = Shared(early_look=False)
    shared.receive("a", hold=5.0)

    assert [shared.begin(shared.consumer.take)[1] for _ in range(3)] == [5.5, None, None]


def test_no_thread_is_hired_while_one_is_idle(shared):
    first, _ = shared.begin(shared.consumer.take)
    second, _ = shared.begin(shared.consumer.take)

    shared.receive("a")
    assert result(first) == ["a"]
    shared.receive("b")
    assert result(second) == ["b"]

    assert shared.hired == []


def test_a_slow_get_of_one_id_says_nothing_about_bulk_gets():
    shared = Shared(bulk_size=50)
    with shared.consumer as desk:
        size = desk.gets.bulk_size.size
    shared.receive("a")
    assert shared.consumer.take() == ["a"]
    shared.consumer.answers.append(Answer(0.0, 60.0))
    shared.receive("b")

    assert shared.consumer.take(after=["a"]) == ["b"]

    with shared.consumer as desk:
        assert desk.gets.bulk_size.size == size
