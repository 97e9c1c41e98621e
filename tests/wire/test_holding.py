"""How much a worker holds and does at the same time, and how it keeps messages invisible."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

import boto3
import pytest

from change_events import MemorySink
from change_events._consumer.run import Run
from conftest import failing, running, spy, wait_until
from verification.harness.wire import sqs_error

# The heartbeat


def test_the_heartbeat_keeps_held_messages_invisible(channel, source, make_worker):
    client, extended = spy("ChangeMessageVisibilityBatch")
    channel.announce("p1", "p2")

    worker = make_worker(settle=7.0, visibility_timeout=6, client=client)
    assert worker.drain() == 2

    # Neither was delivered again, though both were held for longer than the timeout.
    assert worker.stats().received == 2
    assert extended


def test_a_beat_that_failed_is_repeated_by_the_next_in_time(channel, source, make_worker):
    client, left = failing("ChangeMessageVisibilityBatch", ConnectionError("reset"))
    channel.announce("p1")

    worker = make_worker(settle=5.0, visibility_timeout=4, client=client)
    assert worker.drain() == 1

    assert left == []
    assert worker.stats().received == 1


# Old events


def answering_later(seconds):
    """Return a client whose receives are answered that much later, by their `Date`."""
    client = boto3.client("sqs")

    def shift(parsed, **_):
        headers = parsed["ResponseMetadata"]["HTTPHeaders"]
        date = parsedate_to_datetime(headers["date"]) + timedelta(seconds=seconds)
        headers["date"] = format_datetime(date, usegmt=True)

    client.meta.events.register("after-call.sqs.ReceiveMessage", shift)
    return client


@pytest.mark.parametrize(("age", "gets"), [(0, 2), (3600, 1)])
def test_an_event_that_lay_in_the_queue_for_its_window_costs_one_get(
    channel, source, make_worker, age, gets
):
    ids = [f"p{number}" for number in range(20)]
    source.entities |= {id: {"id": id} for id in ids}
    channel.announce(*ids)

    assert make_worker(settle=2.0, client=answering_later(age)).drain() == 20

    assert sorted(source.ids()) == sorted(ids * gets)


# Limits


def test_no_more_events_are_held_than_prefetch(channel, source, make_worker):
    held = []
    worker = make_worker(
        settle=0.5, prefetch=10, on_outcome=lambda *_: held.append(worker.stats().held)
    )
    source.entities |= {f"p{number}": {"id": f"p{number}"} for number in range(25)}
    channel.announce(*source.entities)

    assert worker.drain() == 25
    assert max(held) == 10


def test_no_more_gets_run_at_once_than_there_are_threads(channel, source, make_worker):
    source.gate.clear()
    worker = make_worker(threads=4)
    channel.announce(*(f"p{number}" for number in range(8)))

    with running(worker):
        # The fifth look has read the cache, and begins its GET when another one's is over.
        wait_until(lambda: worker.health().in_flight == 5)
        wait_until(lambda: len(source.asked) == 4)
        time.sleep(0.2)
        assert len(source.asked) == 4
        source.gate.set()
        wait_until(lambda: worker.stats().acknowledged == 8)


def test_looks_that_hang_in_the_cache_keep_others_from_the_source_for_a_moment_only(
    channel, source, make_worker
):
    done = threading.Event()

    class Slow(MemorySink):
        def apply(self, id, change, *, if_version):
            assert id not in {"p0", "p1", "p2"} or done.wait(30)
            return super().apply(id, change, if_version=if_version)

    worker = make_worker(threads=4, sink=Slow())
    channel.announce(*(f"p{number}" for number in range(12)))

    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 9)
        done.set()
        wait_until(lambda: worker.stats().acknowledged == 12)


def test_acknowledgements_share_calls(channel, source, make_worker):
    client, calls = spy("DeleteMessageBatch")
    source.entities |= {f"p{number}": {"id": f"p{number}"} for number in range(50)}
    channel.announce(*source.entities)

    make_worker(settle=1.0, early_look=False, threads=10, client=client).drain()

    assert sum(len(call["Entries"]) for call in calls) == 50
    assert len(calls) <= 25


# A backlog


def numbered(line, operation, fault):
    """Let `fault` answer each call of one operation. It gets the call, and its number from 0."""
    numbers = itertools.count()
    line.fault = lambda asked: (
        fault(asked, next(numbers)) if asked.headers["X-Amz-Target"].endswith(operation) else None
    )


@pytest.mark.parametrize("operation", ["ReceiveMessage", "DeleteMessageBatch"])
def test_a_worker_that_is_behind_receives_and_acknowledges_in_several_calls_at_once(
    line, channel, source, make_worker, operation
):
    meet = threading.Barrier(2)

    def wait_for_each_other(_, number):
        if number in {1, 2}:
            meet.wait(10)

    numbered(line, operation, wait_for_each_other)
    source.entities |= {f"p{number}": {"id": f"p{number}"} for number in range(40)}
    channel.announce(*source.entities)
    worker = make_worker()
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 40)

    assert not meet.broken


def test_a_worker_that_is_not_behind_receives_in_one_call_at_a_time(
    line, channel, make_worker, outcomes
):
    under_way, most = [], []

    def count(asked, number):
        under_way.append(number)
        most.append(len(under_way))
        answer = line.forward(asked)
        under_way.remove(number)
        return answer

    numbered(line, "ReceiveMessage", count)
    with running(make_worker()):
        for id in ("p1", "p2"):
            channel.announce(id)
            outcomes.wait_for((id, "never_saved"))

    assert set(most) == {1}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_receive_that_fails_in_a_backlog_loses_nothing(line, channel, make_worker, failing):
    numbered(
        line,
        "ReceiveMessage",
        lambda _, number: sqs_error(500, "InternalError") if number == failing else None,
    )
    channel.announce("p1", "p2", "p3", "p4", "p5", "p6")
    worker = make_worker(batch_size=2)
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 6)

    assert channel.count() == {}


def test_a_receive_that_brings_less_than_a_batch_makes_room_for_the_next(
    line, channel, make_worker
):
    worker = make_worker(early_look=False, settle=30.0, prefetch=15)  # no look makes room
    run = Run(
        worker,
        queue=worker._queue,
        guard=worker._guard,
        tally=worker._tally,
        control=queue.SimpleQueue(),
    )
    run.ask_delay()
    waiting = threading.Thread(target=run.consumer.wait_for_room, daemon=True)

    def wait_meanwhile(*_):
        waiting.start()
        wait_until(lambda: run.consumer.pauses.why == "full")

    numbered(line, "ReceiveMessage", wait_meanwhile)
    channel.announce("p1")
    run.intake.receive(wait=1)

    waiting.join(10)
    assert not waiting.is_alive()
