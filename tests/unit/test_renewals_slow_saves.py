"""A slow save is broadcast again while it runs, and a slow broadcast before the save."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter

import pytest
from virtual_time import attributes_of, flaky, saver, time

from change_events import (
    BroadcastStats,
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcasting,
    broadcasts_before_save,
)
from change_events._producer.clocks import read_clocks
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Senders
from conftest import wait_until

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

# Slow saves


def test_a_slow_save_is_broadcast_again_whenever_half_of_the_window_has_passed(
    channel, time, flaky, saver
):
    saver.save(flaky, lambda: time.passes(9.0), "p1")
    time.passes(100)

    assert flaky.started == [0.0, 2.5, 5.0, 7.5]
    assert channel.bodies() == ['{"id": "p1"}'] * 4
    assert time.renewals.tally.stats() == BroadcastStats(renewals=3)


def test_all_ids_of_a_slow_save_are_broadcast_again(channel, time, flaky, saver):
    ids = [f"p{number}" for number in range(12)]  # more than one call to SNS

    saver.save(flaky, lambda: time.passes(3.0), *ids)

    assert sorted(channel.ids()) == sorted(ids * 2)


def test_the_half_window_counts_from_the_start_of_the_last_accepted_broadcast(time, flaky):
    flaky.durations = [1.0, 2.0]

    with time.broadcasting(flaky, "p1"):
        time.passes(7.0)

    assert flaky.started == [0.0, 2.5, 5.0, 7.5]


def test_a_slow_save_is_renewed_with_real_threads_and_a_real_clock(channel, saver):
    renewals = Renewals()

    def wait_for_three_renewals():
        # A renewal is counted after its publish, so a publish alone does not show that it counts.
        wait_until(lambda: renewals.tally.stats().renewals >= 3)
        return True

    publisher = SNSPublisher(channel.topic_arn)
    assert saver.save(publisher, wait_for_three_renewals, "p1", settle=2.0, renewals=renewals)
    assert renewals._saves == {}
    assert len(channel.messages()) >= 4


def test_renewals_stop_when_the_save_raises(time, flaky, saver):
    def body():
        time.passes(3.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        saver.save(flaky, body, "p1")
    time.passes(100)

    assert flaky.started == [0.0, 2.5]


def test_a_renewal_still_waiting_for_a_sender_when_the_save_ends_is_not_sent(channel, time, flaky):
    block = time.broadcasting(flaky, "p1")
    with block:
        time.now = 3.0
        assert time.renewals.collect_due() == 1
    time.renewals.renew_next()

    assert flaky.started == [0.0]


def test_a_save_that_ends_while_it_is_renewed_does_not_rely_on_that_renewal(channel, time, flaky):
    block = time.broadcasting(flaky, "p1")
    block.__enter__()

    def ends():
        time.now = 5.0
        block.__exit__(None, None, None)

    flaky.meanwhile = ends
    time.now = 4.9
    time.renewals.collect_due()
    time.renewals.renew_next()
    time.passes(100)

    assert flaky.started == [0.0, 4.9, 5.0]  # the second one could still be refused
    assert time.renewals.tally.stats() == BroadcastStats(renewals=1, late=1)


def test_many_slow_saves_do_not_wait_for_each_other():
    renewals = Renewals()
    saves = 10
    together = threading.Barrier(saves)  # opens when so many renewals are under way at once
    renewed = []
    senders = set()

    class Meeting:
        def __init__(self):
            self.calls = 0
            self.renewed = threading.Event()

        def publish(self, events, /):
            self.calls += 1
            if self.calls == 2:
                together.wait(20)
                senders.add(threading.current_thread().name)
                renewed.append(events[0].id)
                self.renewed.set()

    def save(id):
        publisher = Meeting()
        with broadcasting(publisher, id, settle=0.5, renewals=renewals):
            assert publisher.renewed.wait(20)

    threads = [threading.Thread(target=save, args=(f"p{number}",)) for number in range(saves)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(renewed) == sorted(f"p{number}" for number in range(saves))
    assert len(senders) == saves
    assert all(name.startswith("change-events-broadcast-") for name in senders)


def test_no_kind_of_broadcast_waits_for_the_threads_of_another_kind():
    started = []
    senders = Senders(start=lambda work, name: started.append(name.rpartition("-")[0]))

    for _ in range(50):  # no job ends, because no thread runs
        senders.renew(lambda: None)
        senders.confirm(lambda: None)
        senders.late.submit(lambda: None)
        senders.callers.submit(lambda: None)

    assert Counter(started) == {
        "change-events-broadcast": 10,
        "change-events-confirm": 10,
        "change-events-late": 10,
        "change-events-save": 32,
    }


def test_the_watcher_wakes_earlier_for_a_shorter_window():
    class Counting:
        def __init__(self):
            self.sent = threading.Semaphore(0)

        def publish(self, events, /):
            self.sent.release()

    renewals = Renewals()
    short = Counting()
    with (
        broadcasting(NullPublisher(), "p1", settle=3600, renewals=renewals),
        broadcasting(short, "p2", settle=0.2, renewals=renewals),
    ):
        assert all(short.sent.acquire(timeout=20) for _ in range(3))


def test_one_watcher_wakes_for_the_renewal_that_is_due_first():
    watchers = []
    renewals = Renewals(clocks=lambda: (0.0,), in_thread=watchers.append)
    with (
        broadcasting(NullPublisher(), "p1", settle=9, renewals=renewals),
        broadcasting(NullPublisher(), "p2", settle=4, renewals=renewals),
    ):
        slow, _ = renewals._saves
        renewals._waiting[slow] = None
        renewals.renew_next()

    assert len(watchers) == 1
    assert renewals._wake_at == 2.0


def test_the_watcher_sleeps_until_a_renewal_is_due():
    wakes = []

    def clocks():
        if threading.current_thread().name == "change-events-renewals":
            wakes.append(None)
        return read_clocks()

    class Counting:
        sent = threading.Semaphore(0)

        def publish(self, events, /):
            self.sent.release()

    with broadcasting(Counting(), "p1", settle=0.5, renewals=Renewals(clocks=clocks)):
        assert all(Counting.sent.acquire(timeout=20) for _ in range(3))

    assert len(wakes) < 100


def test_renewals_and_confirmations_run_in_the_context_of_the_save(channel, time, saver):
    tenant = contextvars.ContextVar("tenant", default="nobody")
    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: {"tenant": tenant.get()})

    def save():
        tenant.set("t1")
        saver.save(publisher, body, "p1", confirm=True)

    def body():
        contextvars.Context().run(time.passes, 3.0)  # the watcher has another context

    contextvars.copy_context().run(save)

    assert attributes_of(channel.messages(), "tenant", "phase") == [
        ("t1", "saving"),
        ("t1", "saving"),
        ("t1", "saved"),
    ]


# Slow broadcasts


def test_a_broadcast_that_took_longer_than_half_the_window_is_repeated_before_the_save(
    channel, time, flaky, saver
):
    flaky.durations = [2.6, 0.1]

    assert len(saver.save(flaky, channel.bodies, "p1")) == 2
    assert flaky.started == [0.0, 2.6]


def test_a_broadcast_that_took_half_the_window_is_not_repeated(channel, time, flaky, saver):
    flaky.durations = [2.5]

    assert len(saver.save(flaky, channel.bodies, "p1")) == 1


def test_a_save_is_renewed_at_once_if_its_repeated_broadcast_took_almost_the_window(time, flaky):
    flaky.durations = [6.0, 4.9]

    with time.broadcasting(flaky, "p1"):
        time.passes(0.0)

    assert flaky.started == [0.0, 6.0, 10.9]


def test_nothing_is_saved_if_two_broadcasts_took_the_whole_window_each(time, flaky, saver):
    flaky.durations = [5.0, 5.0]

    with pytest.raises(
        PublishError, match=r"the broadcast took 5.0 s, longer than settle=5.0; nothing saved"
    ) as caught:
        saver.save(flaky, lambda: pytest.fail("saved"), "p1")

    assert caught.value.ids == ("p1",)
    assert flaky.started == [0.0, 5.0]
    assert time.renewals._saves == {}
