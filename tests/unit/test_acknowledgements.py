"""Acknowledgements share calls of ten, are tried again, and none is lost or made twice."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter

import pytest
from hands import held, opened

from change_events._consumer.acknowledgements import LINGER, MOST, Acknowledgements
from change_events._consumer.log import ThrottledLog


@pytest.fixture
def hands():
    return opened()


# One call


def test_delete_counts_the_deleted_messages_and_returns_the_others(hands):
    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == ["h3"]

    assert hands.queue.deleted == [["h1", "h2", "h3"]]
    assert hands.counts() == {"held": 0, "acknowledged": 2, "ack_failures": 1}


@pytest.mark.parametrize(
    ("deleted", "counts"), [(3, {"acknowledged": 3}), (1, {"acknowledged": 1, "ack_failures": 2})]
)
def test_each_message_that_is_not_deleted_counts_as_a_failure(hands, deleted, counts):
    """That includes one that SQS has refused for good, so that it is not tried again."""
    hands.queue.delete = lambda handles: (deleted, [])

    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == []
    assert hands.counts() == {"held": 0} | counts


def test_delete_returns_every_message_if_sqs_does_not_answer(hands, caplog):
    hands.queue.broken = True

    assert hands.acknowledgements.delete(["h1", "h2"]) == ["h1", "h2"]
    assert hands.counts() == {"held": 0, "ack_failures": 2}
    assert "reset" in caplog.text


# Attempts


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


def attempt(*answers):
    """
    Acknowledge two messages while SQS gives these answers; return which were tried in each call,
    and the pauses between the calls.
    """
    hands, tried, pauses = opened(), [], []
    left = list(answers)

    def delete(handles):
        tried.append(handles)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    hands.queue.delete = delete
    acknowledgements = Acknowledgements(
        hands.queue, hands.tally, throttled=ThrottledLog(), pause=pauses.append
    )
    acknowledgements.add([held(handle="h1"), held(message="m2", handle="h2")])
    acknowledgements.close()
    assert acknowledgements.acknowledge()
    assert left == []
    assert not acknowledgements.acknowledge()  # nothing is left to try
    return tried, pauses


def test_messages_that_are_deleted_are_not_tried_again():
    assert attempt((2, [])) == ([["h1", "h2"]], [])


def test_only_messages_that_were_not_deleted_are_tried_again_after_a_pause(no_jitter):
    assert attempt((1, ["h2"]), (1, [])) == ([["h1", "h2"], ["h2"]], [1.0])


def test_all_messages_are_tried_again_after_a_call_that_failed(no_jitter):
    assert attempt(ConnectionError(), (2, [])) == ([["h1", "h2"]] * 2, [1.0])


def test_messages_that_sqs_refuses_for_good_are_not_tried_again():
    assert attempt((0, [])) == ([["h1", "h2"]], [])


def test_after_three_attempts_an_acknowledgement_is_given_up(no_jitter):
    assert attempt((1, ["h2"]), ConnectionError(), (0, ["h2"])) == (
        [["h1", "h2"], ["h2"], ["h2"]],
        [1.0, 1.0],
    )


# Threads


class Condition(threading.Condition):
    """
    A condition that tells the test of each wait. A wait with a timeout ends when the test says so.
    """

    def __init__(self, lock, waits):
        super().__init__(lock)
        self.waits = waits
        self.notified = 0
        self.is_over = False

    def wait_for(self, predicate, timeout=None):
        while not predicate() and not self.is_over:
            self.waits.put(timeout)
            self.wait()
        self.is_over = False

    def notify(self, n=1):
        self.notified += 1
        super().notify(n)

    def let_timeout_pass(self):
        with self:
            self.is_over = True
            super().notify()


class Acknowledging:
    """
    Threads that acknowledge, one step at a time.

    Attributes:
        waits: The timeout of each wait of a thread, when it begins.
        calls: The handles of each call, when it is made.
        gate: Every call ends only once it is set.
    """

    def __init__(self, hands, threads):
        self.waits = queue.SimpleQueue()
        self.calls = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.conditions = []
        hands.queue.delete = self.delete
        self.acknowledgements = Acknowledgements(
            hands.queue,
            hands.tally,
            throttled=ThrottledLog(),
            condition=self.condition,
        )
        self.any, self.full, self.room = self.conditions
        self.number = 0
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()
        for _ in self.threads:
            assert self.next_wait() is None

    def condition(self, lock):
        self.conditions.append(Condition(lock, self.waits))
        return self.conditions[-1]

    def run(self):
        while self.acknowledgements.acknowledge():
            pass

    def delete(self, handles):
        self.calls.put(handles)
        assert self.gate.wait(10)
        return len(handles), []

    def add(self, number):
        """Add so many events; return their handles."""
        handles = [f"h{self.number + n:02}" for n in range(number)]
        self.number += number
        self.acknowledgements.add([held(message=handle, handle=handle) for handle in handles])
        return handles

    def next_wait(self):
        return self.waits.get(timeout=10)

    def next_call(self):
        return self.calls.get(timeout=10)

    def close(self):
        self.acknowledgements.close()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        assert self.calls.empty()


@pytest.fixture
def make(hands):
    made = []

    def make(threads):
        made.append(Acknowledging(hands, threads))
        return made[-1]

    yield make
    for each in made:
        each.gate.set()
        each.close()


def test_an_event_lingers_for_others_that_share_its_call(make):
    acknowledging = make(threads=1)
    first = acknowledging.add(1)
    assert acknowledging.next_wait() == LINGER
    second = acknowledging.add(2)
    assert acknowledging.calls.empty()

    acknowledging.full.let_timeout_pass()

    assert acknowledging.next_call() == first + second


def test_the_tenth_event_ends_the_lingering_and_none_before_it(make):
    acknowledging = make(threads=1)
    handles = acknowledging.add(1)
    assert acknowledging.next_wait() == LINGER
    for _ in range(8):
        handles += acknowledging.add(1)
    assert acknowledging.full.notified == 0

    handles += acknowledging.add(1)

    assert acknowledging.next_call() == handles
    assert acknowledging.full.notified == 1


def test_one_thread_lingers_at_a_time(make):
    acknowledging = make(threads=2)
    handles = acknowledging.add(1)
    assert acknowledging.next_wait() == LINGER
    for _ in range(8):
        handles += acknowledging.add(1)

    assert acknowledging.any.notified == 1  # for the first event
    acknowledging.full.let_timeout_pass()
    assert acknowledging.next_call() == handles


def test_no_events_wake_no_thread(make):
    acknowledging = make(threads=1)

    acknowledging.add(0)

    assert acknowledging.any.notified == 0


def test_what_is_left_after_ten_is_handed_to_another_thread(make):
    acknowledging = make(threads=3)
    acknowledging.gate.clear()

    handles = acknowledging.add(25)

    calls = [acknowledging.next_call(), acknowledging.next_call()]
    assert sorted(calls) == [handles[:10], handles[10:20]]
    assert acknowledging.next_wait() == LINGER
    acknowledging.full.let_timeout_pass()
    assert acknowledging.next_call() == handles[20:]


def test_a_thread_that_comes_back_finds_what_was_added_while_all_were_busy(make):
    acknowledging = make(threads=1)
    acknowledging.gate.clear()
    acknowledging.add(10)
    acknowledging.next_call()
    handles = acknowledging.add(12)

    acknowledging.gate.set()

    assert acknowledging.next_call() == handles[:10]
    assert acknowledging.next_wait() == LINGER
    acknowledging.full.let_timeout_pass()
    assert acknowledging.next_call() == handles[10:]


def test_a_thread_that_comes_back_leaves_events_to_the_thread_that_lingers(make):
    acknowledging = make(threads=2)
    acknowledging.gate.clear()
    acknowledging.add(10)
    acknowledging.next_call()
    handles = acknowledging.add(1)
    assert acknowledging.next_wait() == LINGER

    acknowledging.gate.set()

    assert acknowledging.next_wait() is None
    acknowledging.full.let_timeout_pass()
    assert acknowledging.next_call() == handles


def test_close_ends_the_lingering(make):
    acknowledging = make(threads=2)
    handles = acknowledging.add(3)
    assert acknowledging.next_wait() == LINGER

    acknowledging.acknowledgements.close()

    assert acknowledging.next_call() == handles
    acknowledging.close()


def test_close_ends_the_waiting_of_every_thread(make):
    make(threads=3).close()


def test_after_close_the_rest_is_acknowledged_ten_at_a_time_without_waiting(make):
    acknowledging = make(threads=0)
    handles = acknowledging.add(23)
    acknowledging.acknowledgements.close()

    acknowledging.run()

    assert [acknowledging.calls.get_nowait() for _ in range(3)] == [
        handles[:10],
        handles[10:20],
        handles[20:],
    ]
    assert acknowledging.waits.empty()


@pytest.mark.parametrize("room", [True, False], ids=["room", "close"])
def test_so_many_can_wait_and_no_more_until_there_is_room_or_no_more_will_come(hands, room):
    acknowledgements = Acknowledgements(
        hands.queue, hands.tally, throttled=ThrottledLog(), pause=lambda _: None
    )
    acknowledgements.add([held(message=str(n), handle=f"h{n}") for n in range(MOST)])
    one = [held(message="one", handle="one")]
    adding = threading.Thread(target=acknowledgements.add, args=[one], daemon=True)

    adding.start()
    adding.join(0.1)
    assert adding.is_alive()

    if room:
        acknowledgements.acknowledge()
    else:
        acknowledgements.close()
    adding.join(10)
    assert not adding.is_alive()


@pytest.mark.parametrize("callers", [1, 2, 5])
def test_with_many_threads_each_event_is_acknowledged_once(hands, callers):
    lock, deleted, failed = threading.Lock(), Counter(), set()

    def delete(handles):
        assert 0 < len(handles) <= 10
        with lock:
            if handles[0].endswith("0") and handles[0] not in failed:
                failed.add(handles[0])
                raise ConnectionError("reset")
            deleting, again = (handles[1:], handles[:1]) if len(handles) > 5 else (handles, [])
            deleted.update(deleting)
            return len(deleting), again

    hands.queue.delete = delete
    acknowledgements = Acknowledgements(
        hands.queue,
        hands.tally,
        throttled=ThrottledLog(),
        pause=lambda seconds: None,
    )

    def acknowledge():
        while acknowledgements.acknowledge():
            pass

    def add(first):
        for number in range(first, first + 300, 3):
            events = [held(handle=f"h{number + n}") for n in range(3)]
            acknowledgements.add(events[: number % 4])
            acknowledgements.add(events[number % 4 :])

    acknowledging = [threading.Thread(target=acknowledge, daemon=True) for _ in range(callers)]
    adding = [threading.Thread(target=add, args=(300 * n,), daemon=True) for n in range(4)]
    for thread in acknowledging + adding:
        thread.start()
    for thread in adding:
        thread.join(30)
    acknowledgements.close()
    for thread in acknowledging:
        thread.join(30)
        assert not thread.is_alive()

    assert deleted == Counter(f"h{number}" for number in range(1200))
    assert hands.counts()["acknowledged"] == 1200
