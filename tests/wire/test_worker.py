"""The worker against a real queue and a real source, both on loopback."""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from change_events import (
    ChangeEvent,
    ConfigurationError,
    HTTPFetcher,
    MemorySink,
    SNSPublisher,
    SQLiteSink,
    broadcasting,
)
from change_events._consumer import acknowledgements, backoff, intake
from change_events._consumer import log as log_module
from change_events._consumer.inbox import Inbox
from change_events._consumer.run import Run
from conftest import failing, running, signalled, spy, wait_until
from verification.harness.source import answer_of
from verification.harness.wire import Answer, sqs_error

# The main job


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "FIFO"])
@pytest.mark.parametrize("raw", [False, True], ids=["envelope", "raw"])
def test_the_cache_follows_the_source(make_channel, source, sink, make_worker, outcomes, fifo, raw):
    channel = make_channel(fifo=fifo, raw=raw)
    worker = make_worker(channel.queue_url)

    source.entities |= {"p1": {"id": "p1", "n": 1}, "p2": {"id": "p2"}}
    channel.announce("p1", "p2", "never")
    assert worker.drain() == 3
    assert dict(sink.items()) == source.entities

    source.entities |= {"p1": {"id": "p1", "n": 2}, "p2": None}
    channel.announce("p1", "p2", "p1")
    assert worker.drain() == 3
    assert dict(sink.items()) == {"p1": {"id": "p1", "n": 2}}

    del source.entities["p1"]
    channel.announce("p1")
    assert worker.drain() == 1
    assert dict(sink.items()) == {}

    assert {*outcomes.seen} >= {
        ("p1", "created"), ("p2", "created"), ("never", "never_saved"), ("p1", "updated"), ("p2", "deleted"), ("p1", "deleted"),
    }  # fmt: skip
    assert channel.count() == {}
    stats = worker.stats()
    assert (
        stats.received,
        stats.acknowledged,
        stats.created,
        stats.updated,
        stats.deleted,
        stats.never_saved,
    ) == (
        7,
        7,
        2,
        1,
        2,
        1,
    )
    assert (
        stats.gets
        == stats.created + stats.updated + stats.unchanged + stats.deleted + stats.never_saved
    )
    assert (stats.held, stats.failed, stats.malformed, stats.conflicts) == (0, 0, 0, 0)


def test_a_running_worker_follows_the_source_until_it_is_stopped(
    channel, source, sink, make_worker, outcomes
):
    with running(make_worker()):
        source.entities["p1"] = {"id": "p1"}
        channel.announce("p1")
        outcomes.wait_for(("p1", "created"))
        source.entities["p1"] = None
        channel.announce("p1")
        outcomes.wait_for(("p1", "deleted"))

    assert channel.count() == {}


# The settle window


def test_a_save_that_is_slower_than_the_first_look_is_seen_by_the_second(
    channel, source, sink, make_worker, outcomes
):
    worker = make_worker(settle=1.0)
    channel.announce("p1")
    with running(worker):
        outcomes.wait_for(("p1", "never_saved"))
        assert channel.count() == {"held": 1}  # looked at, and not acknowledged

        source.entities["p1"] = {"id": "p1"}  # the save commits only now
        outcomes.wait_for(("p1", "created"))

    assert sink.get("p1") == {"id": "p1"}
    assert channel.count() == {}


def test_an_event_is_acknowledged_only_after_a_get_that_started_when_the_window_was_over(
    channel, source, make_worker
):
    gets = []
    source.answer = lambda id: gets.append(time.monotonic())
    announced = time.monotonic()
    channel.announce("p1")

    make_worker(settle=1.0).drain()

    early, late = gets
    assert early < late
    assert late - announced >= 1.0


def test_without_an_early_look_there_is_one_get(channel, source, make_worker, outcomes):
    channel.announce("p1")
    started = time.monotonic()

    make_worker(settle=1.0, early_look=False).drain()

    assert len(source.asked) == 1
    assert time.monotonic() - started >= 1.0


def test_a_queue_with_the_windows_delay_gets_one_look_at_once(make_channel, source, make_worker):
    channel = make_channel(DelaySeconds="1")
    channel.announce("p1")

    make_worker(channel.queue_url, settle=1.0).drain()

    assert source.ids() == ["p1"]
    assert channel.count() == {}


def test_many_events_of_one_id_cost_few_gets(channel, source, make_worker):
    channel.announce(*["hot"] * 60)

    worker = make_worker(settle=1.0, early_look=False)

    assert worker.drain() == 60
    assert (
        len(source.asked) <= 12
    )  # one for the events of a tenth of the window, however many they are


def test_ids_that_are_due_together_take_one_get(channel, source, sink, make_worker):
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(10)}
    fetcher = HTTPFetcher(source.url + "/products/{id}", bulk_url=source.url + "/many")
    channel.announce(*source.entities)
    worker = make_worker(fetcher=fetcher)

    assert worker.drain() == 10

    assert dict(sink.items()) == source.entities
    assert [id for ids in source.asked_many for id in sorted(ids)] == sorted(source.entities)
    assert worker.stats().gets == len(source.asked) == 1
    channel.announce("p1")
    assert worker.drain() == 1
    assert len(source.asked_many) == 1  # who is due alone is looked at as ever
    assert worker.stats().gets == 2


def test_an_event_waits_a_little_for_the_next_of_its_id(channel, source, make_worker):
    worker = make_worker(settle=4.0, early_look=False)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().received == 1)
        channel.announce("p1")
        wait_until(lambda: worker.stats().acknowledged == 2)

    assert len(source.asked) == 1


def test_an_event_that_comes_during_a_get_gets_another(
    channel, source, sink, make_worker, outcomes
):
    worker = make_worker()
    source.gate.clear()
    source.entities["p1"] = {"id": "p1", "n": 1}
    first = answer_of(source.entities, "p1")
    answers = iter([first])
    source.answer = lambda id: next(answers, None)
    channel.announce("p1")
    with running(worker):
        assert source.arrived.acquire(
            timeout=10
        )  # the GET is under way, and will answer the old state
        source.entities["p1"] = {"id": "p1", "n": 2}
        channel.announce("p1")
        wait_until(lambda: worker.stats().received == 2)
        source.gate.set()
        outcomes.wait_for(("p1", "updated"))

    assert sink.get("p1") == {"id": "p1", "n": 2}
    assert channel.count() == {}


# What the publisher says of its save


@pytest.fixture(params=[True, False], ids=["raw", "envelope"])
def delivery(request, make_channel):
    return make_channel(raw=request.param)


def say(channel, id, **attributes):
    """Broadcast as a publisher does that has something to say beside the id."""
    SNSPublisher(channel.topic_arn).publish([ChangeEvent(id, **attributes)])


def test_a_save_that_is_confirmed_costs_one_get_which_acknowledges_both_its_events(
    delivery, source, sink, make_worker, outcomes
):
    worker = make_worker(delivery.queue_url, settle=30.0)
    with running(worker):
        with broadcasting(SNSPublisher(delivery.topic_arn), "p1", confirm=True):
            wait_until(lambda: worker.stats().held == 1)
            source.entities["p1"] = {"id": "p1"}
        outcomes.wait_for(("p1", "created"))
        wait_until(lambda: worker.stats().acknowledged == 2)  # long before the window is over

    assert source.ids() == ["p1"]  # and no early look
    assert sink.get("p1") == {"id": "p1"}
    assert delivery.count() == {}


def test_a_plain_event_beside_a_confirmed_save_is_held_for_its_window(
    delivery, source, make_worker, outcomes
):
    worker = make_worker(delivery.queue_url, settle=30.0)
    with running(worker):
        delivery.announce("p1")
        outcomes.wait_for(("p1", "never_saved"))
        say(delivery, "p1", phase="saving", save="s1")
        say(delivery, "p1", phase="saving", save="s2")
        wait_until(lambda: worker.stats().held == 3)
        say(delivery, "p1", phase="saved", save="s1")
        wait_until(lambda: worker.stats().acknowledged == 2)
        assert worker.stats().held == 2

    assert delivery.count() == {"held": 2}


def test_a_save_whose_confirmation_is_lost_is_looked_at_after_its_window(
    channel, source, make_worker
):
    started = time.monotonic()
    say(channel, "p1", phase="saving", save="s1")

    assert make_worker(settle=1.0).drain() == 1

    assert source.ids() == ["p1"]
    assert time.monotonic() - started >= 1.0


def test_a_confirmation_alone_is_looked_at_at_once(channel, source, make_worker):
    say(channel, "p1", phase="saved", save="s1", settle=3600.0)

    assert make_worker(settle=3600.0).drain() == 1
    assert source.ids() == ["p1"]


@pytest.mark.parametrize(("own", "events"), [(0.0, 1.0), (1.0, 0.1), (1.0, None)])
def test_an_event_is_held_for_the_larger_of_two_windows(delivery, source, make_worker, own, events):
    gets = []
    source.answer = lambda id: gets.append(time.monotonic())
    announced = time.monotonic()
    say(delivery, "p1", settle=events)

    assert make_worker(delivery.queue_url, settle=own).drain() == 1

    early, late = gets
    assert early < late
    assert 1.0 <= late - announced < 10.0


def test_the_queues_delay_is_part_of_the_events_window(make_channel, source, make_worker):
    channel = make_channel(DelaySeconds="1")
    gets = []
    source.answer = lambda id: gets.append((id, time.monotonic()))
    announced = time.monotonic()
    say(channel, "covered", settle=1.0)
    say(channel, "longer", settle=2.0)

    assert make_worker(channel.queue_url).drain() == 2

    times = {id: [at - announced for got, at in gets if got == id] for id in ("covered", "longer")}
    (_,) = times["covered"]
    early, late = times["longer"]
    assert late >= 2.0 > early


def test_a_slow_save_is_seen_though_it_outlasts_the_window(channel, source, sink, make_worker):
    """The worker has settled the first broadcast, and more, when the save commits at last."""
    worker = make_worker(settle=0.5)
    with running(worker):
        with broadcasting(SNSPublisher(channel.topic_arn), "p1", settle=0.5):
            wait_until(lambda: worker.stats().acknowledged >= 2)
            source.entities["p1"] = {"id": "p1"}
        wait_until(lambda: not channel.count())

    assert sink.get("p1") == {"id": "p1"}


# Holding


def test_held_messages_stay_invisible_by_a_heartbeat(channel, source, make_worker):
    client, extended = spy("ChangeMessageVisibilityBatch")
    beats = []
    client.meta.events.register(
        "before-send.sqs.ChangeMessageVisibilityBatch", lambda **_: beats.append(time.monotonic())
    )
    channel.announce("p1", "p2")
    announced = time.monotonic()

    worker = make_worker(settle=7.0, visibility_timeout=6, client=client)
    assert worker.drain() == 2

    assert (
        worker.stats().received == 2
    )  # never delivered again, though held for longer than the timeout
    assert [len(call["Entries"]) for call in extended] == [
        2
    ]  # of the beats after 2, 4 and 6 s only the second was needed
    assert beats[0] - announced < 5.5  # and it did not come at the last moment


def test_a_heartbeat_that_fails_is_made_up_for_by_the_next(channel, source, make_worker):
    client, left = failing("ChangeMessageVisibilityBatch", ConnectionError("reset"))
    channel.announce("p1")

    worker = make_worker(settle=5.0, visibility_timeout=4, client=client)
    assert worker.drain() == 1

    assert left == []
    assert worker.stats().received == 1


def test_a_worker_that_is_full_can_be_stopped(channel, source, make_worker):
    worker = make_worker(settle=30.0, prefetch=10)
    channel.announce(*(f"p{number}" for number in range(11)))
    with running(worker) as thread:
        wait_until(lambda: worker.stats().held == 10)
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_a_delay_that_is_lowered_does_not_shorten_the_window_for_long(
    make_channel, sqs, source, sink, make_worker, monkeypatch
):
    monkeypatch.setattr(intake, "DELAY_CHECK", 0.0)
    channel = make_channel(DelaySeconds="2")
    client, polls = spy("ReceiveMessage")
    worker = make_worker(channel.queue_url, settle=2.0, client=client)
    with running(worker):
        wait_until(lambda: polls)
        sqs.set_queue_attributes(QueueUrl=channel.queue_url, Attributes={"DelaySeconds": "0"})
        before = len(polls)
        wait_until(
            lambda: len(polls) > before + 1
        )  # two polls at the most still believe in the old delay
        channel.send('{"id": "p1"}')
        wait_until(lambda: worker.stats().received == 1, seconds=1)  # no longer delayed
        received = time.monotonic()
        wait_until(lambda: worker.stats().acknowledged == 1)

    assert time.monotonic() - received >= 1.5


def test_no_more_is_held_than_the_prefetch(channel, source, make_worker):
    held = []
    worker = make_worker(
        settle=0.5, prefetch=10, on_outcome=lambda *_: held.append(worker.stats().held)
    )
    channel.announce(*(f"p{number}" for number in range(25)))

    assert worker.drain() == 25
    assert max(held) == 10


def test_no_more_gets_run_at_once_than_there_are_threads(channel, source, make_worker):
    source.gate.clear()
    worker = make_worker(threads=4)
    channel.announce(*(f"p{number}" for number in range(8)))

    with running(worker):
        wait_until(lambda: worker.health().in_flight == 5)
        wait_until(lambda: len(source.asked) == 4)
        time.sleep(0.2)
        assert len(source.asked) == 4
        source.gate.set()
        wait_until(lambda: worker.stats().acknowledged == 8)


def test_while_all_of_them_write_one_more_goes_on(channel, source, make_worker):
    done = threading.Event()

    class Slow(MemorySink):
        def apply(self, id, change, *, if_version):
            assert id not in {"p0", "p1", "p2", "p3"} or done.wait(30)
            return super().apply(id, change, if_version=if_version)

    worker = make_worker(threads=4, sink=Slow())
    channel.announce(*(f"p{number}" for number in range(12)))

    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 8)
        done.set()
        wait_until(lambda: worker.stats().acknowledged == 12)


def test_acknowledgements_share_calls(channel, source, make_worker):
    client, calls = spy("DeleteMessageBatch")
    channel.announce(*(f"p{number}" for number in range(50)))

    make_worker(settle=1.0, early_look=False, threads=10, client=client).drain()

    assert sum(len(call["Entries"]) for call in calls) == 50
    assert len(calls) <= 25


# A backlog


def numbered(line, operation, fault):
    """What a fault makes of each call of one operation, given the call and its number, from 0."""
    numbers = itertools.count()
    line.fault = lambda asked: (
        fault(asked, next(numbers)) if asked.headers["X-Amz-Target"].endswith(operation) else None
    )


@pytest.mark.parametrize("operation", ["ReceiveMessage", "DeleteMessageBatch"])
def test_a_worker_that_is_behind_receives_and_acknowledges_in_several_calls_at_once(
    line, channel, make_worker, operation
):
    meet = threading.Barrier(2)

    def wait_for_each_other(_, number):
        if number in {1, 2}:
            meet.wait(10)

    numbered(line, operation, wait_for_each_other)
    channel.announce(*(f"p{number}" for number in range(40)))
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


def test_room_that_a_receive_has_not_taken_is_the_next_ones(line, channel, make_worker):
    worker = make_worker(early_look=False, settle=30.0, prefetch=15)  # no look makes any
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


# Looks that decide nothing


@pytest.mark.parametrize(
    "answer",
    [Answer(503, b"{}"), Answer(404, b"<h1>no backend</h1>", {"Content-Type": "text/html"})],
)
def test_a_look_that_decides_nothing_leaves_the_cache_and_is_tried_again(
    channel, source, sink, make_worker, outcomes, answer
):
    worker = make_worker()
    source.entities["p1"] = {"id": "p1", "n": 1}
    channel.announce("p1")
    worker.drain()

    source.entities["p1"] = {"id": "p1", "n": 2}
    answers = iter([answer])
    source.answer = lambda id: next(answers, None)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().failed)
        assert sink.get("p1") == {"id": "p1", "n": 1}
        outcomes.wait_for(("p1", "updated"))

    assert sink.get("p1") == {"id": "p1", "n": 2}
    assert channel.count() == {}


def test_the_pause_grows_with_the_receives_of_the_message(channel, source, sqs, make_worker):
    client, changed = spy("ChangeMessageVisibilityBatch")
    source.answer = lambda id: Answer(503, b"{}")
    channel.announce("p1")
    for _ in range(3):
        sqs.receive_message(QueueUrl=channel.queue_url, VisibilityTimeout=0)

    make_worker(client=client).drain()

    ((entry,),) = [call["Entries"] for call in changed]
    assert 8 <= entry["VisibilityTimeout"] <= 16


@pytest.mark.parametrize(("asked", "pause"), [("77", 77), ("999999", 3600)])
def test_the_pause_is_what_the_source_asks_for_to_a_limit(
    channel, source, make_worker, caplog, asked, pause
):
    client, changed = spy("ChangeMessageVisibilityBatch")
    source.answer = lambda id: Answer(503, b"{}", {"Retry-After": asked})
    channel.announce("p1")

    assert make_worker(client=client).drain() == 0

    assert [entry["VisibilityTimeout"] for call in changed for entry in call["Entries"]] == [pause]
    assert channel.count() == {"held": 1}
    (record,) = [
        record for record in caplog.records if getattr(record, "outcome", None) == "failed"
    ]
    assert (record.levelno, record.id, record.pause, record.exc_info) == (
        logging.WARNING,
        "p1",
        float(pause),
        False,
    )


def test_the_pause_doubles_with_every_delivery_to_a_limit():
    pauses = [backoff.pause_after(failures, 300.0) for failures in range(40)]

    assert all(min(2**n, 300) / 2 <= pause <= min(2**n, 300) for n, pause in enumerate(pauses))


def test_a_sink_that_fails_is_a_look_that_decides_nothing(channel, source, make_worker, caplog):
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            raise sqlite3.OperationalError("database is locked")

    channel.announce("p1")

    worker = make_worker(sink=Broken())
    assert worker.drain() == 0

    assert worker.stats().failed >= 1
    assert sum(channel.count().values()) == 1
    assert "database is locked" in caplog.text


def test_one_broken_id_does_not_hold_up_the_others(channel, source, sink, make_worker):
    source.entities |= {f"p{number}": {"id": f"p{number}"} for number in range(20)}
    source.answer = lambda id: Answer(500, b"{}") if id == "p7" else None
    channel.announce(*source.entities)

    assert make_worker().drain() == 19
    assert len(sink) == 19


def test_a_lost_compare_and_set_is_counted_and_looked_at_again(channel, source, make_worker):
    class Contended(MemorySink):
        lost = 0

        def apply(self, id, change, /, *, if_version):
            if not self.lost:
                self.lost += 1
                super().apply(id, change, if_version=if_version)  # another worker was quicker
            return super().apply(id, change, if_version=if_version)

    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")

    worker = make_worker(sink=Contended())
    assert worker.drain() == 1
    assert (worker.stats().conflicts, worker.stats().gets) == (1, 2)


def test_what_on_outcome_raises_is_logged_and_the_event_is_acknowledged(
    channel, source, make_worker, caplog
):
    channel.announce("p1")

    assert make_worker(on_outcome=lambda id, outcome: 1 / 0).drain() == 1

    assert "ZeroDivisionError" in caplog.text


def test_on_outcome_is_optional(channel, source, make_worker):
    channel.announce("p1")

    assert make_worker(on_outcome=None).drain() == 1


# Malformed messages


def test_a_malformed_message_is_logged_once_and_left_to_the_redrive_policy(
    make_channel, sqs, source, make_worker, outcomes, caplog
):
    dead = make_channel()
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead.queue_url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    channel = make_channel(
        RedrivePolicy=json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": "2"})
    )
    channel.send('{"productId": "p1"}')
    channel.announce("p2")

    worker = make_worker(channel.queue_url, visibility_timeout=3)
    with running(worker):
        (message,) = sqs.receive_message(QueueUrl=dead.queue_url, WaitTimeSeconds=20)["Messages"]
        outcomes.wait_for(("p2", "never_saved"))

    assert message["Body"] == '{"productId": "p1"}'
    assert source.ids() == ["p2"]
    assert worker.stats().malformed == 2
    records = [record for record in caplog.records if getattr(record, "action", None) == "decode"]
    assert [(record.levelno, record.message_id) for record in records] == [
        (logging.ERROR, message["MessageId"])
    ]
    assert "productId" not in caplog.text


def test_a_message_of_another_topic_is_logged_once_and_never_acknowledged(
    make_channel, sns, sqs, source, make_worker, outcomes, caplog
):
    mine, others = make_channel(raw=False), make_channel()
    queue_arn = sqs.get_queue_attributes(QueueUrl=mine.queue_url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    sns.subscribe(
        TopicArn=others.topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={"RawMessageDelivery": "false"},
    )
    others.announce("strange")
    mine.send('{"id": "sent by hand"}')
    mine.announce("p1")

    worker = make_worker(mine.queue_url, topic_arn=mine.topic_arn, visibility_timeout=3)
    with running(worker):
        outcomes.wait_for(("p1", "never_saved"))
        wait_until(lambda: worker.stats().malformed >= 4)  # twice each

    assert source.ids() == ["p1"]
    assert worker.stats().acknowledged == 1
    records = [record for record in caplog.records if getattr(record, "action", None) == "decode"]
    assert len({record.message_id for record in records}) == len(records) == 2
    assert f"it comes from the topic '{others.topic_arn}', not from {mine.topic_arn}" in caplog.text


def test_only_so_many_malformed_messages_are_remembered(channel, make_worker, monkeypatch, caplog):
    monkeypatch.setattr(log_module, "REMEMBERED", 2)
    for _ in range(5):
        channel.send("{}")

    worker = make_worker()
    assert worker.drain() == 0

    assert worker.stats().malformed == 5
    assert channel.count() == {"held": 5}


# When SQS fails


@pytest.fixture
def pauses(monkeypatch):
    """The failures for which the worker wanted to pause; it pauses for a moment only."""
    wanted = []

    def pause(failures, most):
        wanted.append(failures)
        return 0.4

    for module in (intake, acknowledgements):
        monkeypatch.setattr(module, "pause_after", pause)
    return wanted


def test_the_poll_loop_outlives_errors_with_growing_pauses(
    channel, source, make_worker, outcomes, caplog, pauses
):
    client, left = failing(
        "ReceiveMessage",
        ConnectionError("reset"),
        ConnectionError("reset"),
        {},
        ConnectionError("reset"),
    )
    channel.announce("p1")
    started = time.monotonic()

    with running(make_worker(client=client)):
        outcomes.wait_for(("p1", "never_saved"))

    assert left == []
    assert caplog.text.count("receive failed") == 3
    assert pauses == [1, 2, 1]  # one that succeeds in between ends the count
    assert time.monotonic() - started >= 1.2


def test_a_drain_does_not_outlive_errors_for_ever(channel, make_worker, pauses):
    client, _ = failing("ReceiveMessage", *[ConnectionError("reset")] * 10)

    with pytest.raises(ConnectionError, match="reset"):
        make_worker(client=client).drain()

    assert pauses == [1, 2, 3]


def test_acknowledgements_that_fail_are_tried_again(channel, source, make_worker, pauses):
    retriable = {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError"}],
    }
    client, left = failing("DeleteMessageBatch", ConnectionError("reset"), retriable)
    channel.announce("p1")

    worker = make_worker(client=client)
    assert worker.drain() == 1

    assert left == []
    assert pauses == [1, 2]
    assert channel.count() == {}


def test_acknowledgements_that_keep_failing_are_given_up_and_the_message_comes_back(
    channel, source, make_worker
):
    client, _ = failing("DeleteMessageBatch", *[ConnectionError("reset")] * 3)
    channel.announce("p1")

    assert make_worker(client=client).drain() == 0
    assert channel.count() == {"held": 1}


def test_a_receipt_handle_that_has_expired_is_not_tried_again(channel, source, make_worker):
    expired = {
        "Successful": [],
        "Failed": [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}],
    }
    client, left = failing("DeleteMessageBatch", expired, ConnectionError("asked again"))
    channel.announce("p1")

    assert make_worker(client=client).drain() == 0
    assert len(left) == 1


def test_visibility_that_can_not_be_changed_is_logged(channel, source, make_worker, caplog):
    client, _ = failing("ChangeMessageVisibilityBatch", ConnectionError("reset"))
    source.answer = lambda id: Answer(503)
    channel.announce("p1")

    make_worker(client=client).drain()

    assert "changing visibility failed: reset" in caplog.text


# Stopping


def test_stopping_gives_back_what_is_held(channel, source, sink, make_worker, outcomes):
    client, changed = spy("ChangeMessageVisibilityBatch")
    channel.announce("p1")
    worker = make_worker(settle=30.0, client=client)
    with running(worker):
        outcomes.wait_for(("p1", "never_saved"))

    (entry,) = [entry for call in changed for entry in call["Entries"]]
    assert 25 <= entry["VisibilityTimeout"] <= 30  # what remains of its window
    assert worker.stats().held == 0
    assert channel.count() == {"held": 1}


def test_stopping_ends_the_look_in_progress_and_acknowledges_it(channel, source, sink, make_worker):
    source.entities["p1"] = {"id": "p1"}
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker()
    with running(worker) as thread:
        assert source.arrived.acquire(timeout=10)
        worker.stop()
        thread.join(0.2)
        assert thread.is_alive()
        source.gate.set()

    assert sink.get("p1") == {"id": "p1"}
    assert channel.count() == {}


def test_what_a_long_poll_brings_after_the_stop_goes_back_at_once(channel, source, make_worker):
    client, polls = spy("ReceiveMessage")
    worker = make_worker(wait_time=20, client=client)
    with running(worker) as thread:
        wait_until(lambda: polls)
        worker.stop()
        thread.join(0.2)
        assert thread.is_alive()
        channel.announce("p1")
        thread.join(10)
        assert not thread.is_alive()

    assert channel.count() == {"visible": 1}
    assert source.asked == []


def test_stopping_takes_no_longer_than_its_timeout(channel, source, make_worker, caplog):
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker(shutdown_timeout=0.2)
    with running(worker) as thread:
        assert source.arrived.acquire(timeout=10)
        worker.stop()
        worker.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert channel.count() == {"held": 1}  # comes back when its visibility timeout is over
    source.gate.set()

    assert "stopped halfway" in caplog.text


def test_a_stopped_worker_does_not_run_again(channel, make_worker):
    worker = make_worker()
    worker.stop()
    channel.announce("p1")

    worker.run()

    assert worker.drain() == 0
    assert channel.count() == {"visible": 1}


def test_a_worker_runs_once_at_a_time(channel, source, make_worker, outcomes):
    worker = make_worker()
    channel.announce("p1")
    with running(worker):
        outcomes.wait_for(("p1", "never_saved"))
        with pytest.raises(RuntimeError, match="runs already"):
            worker.drain()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_worker_in_good_order(
    channel, source, make_worker, outcomes, caplog, number
):
    caplog.set_level(logging.INFO, "change_events")
    before = signal.getsignal(number)
    channel.announce("p1")
    thread = signalled(number, when=lambda: outcomes.wait_for(("p1", "never_saved")))

    make_worker(settle=30.0).run()

    thread.join()
    assert signal.getsignal(number) is before
    assert caplog.messages[-1] == "stopped"


def test_a_second_signal_returns_at_once(channel, source, make_worker, caplog):
    source.gate.clear()
    channel.announce("p1")
    thread = signalled(
        signal.SIGTERM, signal.SIGINT, when=lambda: source.arrived.acquire(timeout=10)
    )

    make_worker().run()

    assert "stopped halfway" in caplog.text
    assert channel.count() == {"held": 1}
    source.gate.set()
    thread.join()


@pytest.fixture
def ctrl_c():
    """
    SIGINT raises KeyboardInterrupt, also where the tests run in a shell's background, which ignores
    it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


WORKER = """
import signal, sys
from change_events import HTTPFetcher, MemorySink, Worker

signal.signal(signal.SIGINT, signal.default_int_handler)
Worker(sys.argv[1], fetcher=HTTPFetcher("http://127.0.0.1:1/{id}"), sink=MemorySink()).run()
"""


def test_ctrl_c_ends_a_worker_whose_queue_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, f"{url}/1/q"],
            env=os.environ | {"AWS_ENDPOINT_URL": url},
            stderr=subprocess.DEVNULL,
        )
        connection, _ = silent.accept()  # it asks for the queue's delay, and gets no answer
        process.send_signal(signal.SIGINT)

        assert process.wait(10) != 0
        connection.close()


OUTLIVING = """
import sys, threading, time
from change_events import HTTPFetcher, MemorySink, Worker

worker = Worker(sys.argv[1], fetcher=HTTPFetcher("http://127.0.0.1:1/{id}"), sink=MemorySink(), wait_time=1)
threading.Thread(target=worker.run).start()
threading.Thread(target=lambda: threading.main_thread().join() or worker.stop()).start()
while "change-events-finish" not in {thread.name for thread in threading.enumerate()}:
    time.sleep(0.01)
"""


def test_a_worker_in_a_thread_stops_in_good_order_even_after_the_main_thread_has_ended(channel):
    process = subprocess.run(
        [sys.executable, "-c", OUTLIVING, channel.queue_url],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert (process.returncode, process.stderr) == (0, "")


def test_ctrl_c_ends_a_drain_in_good_order(channel, source, make_worker, outcomes, ctrl_c):
    client, changed = spy("ChangeMessageVisibilityBatch")
    channel.announce("p1")
    worker = make_worker(settle=30.0, client=client)
    thread = signalled(signal.SIGINT, when=lambda: outcomes.wait_for(("p1", "never_saved")))

    with pytest.raises(KeyboardInterrupt):
        worker.drain()

    thread.join()
    assert len(changed) == 1
    assert worker.stats().held == 0


def test_a_thread_that_dies_stops_the_worker_with_its_error(
    channel, make_worker, monkeypatch, caplog
):
    monkeypatch.setattr(Inbox, "next", lambda self, now: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        make_worker().run()

    assert "the look thread died" in caplog.text


# Several workers


def test_several_workers_on_one_queue_and_one_file_agree(channel, source, make_worker, tmp_path):
    ids = [f"p{number}" for number in range(15)]
    path = tmp_path / "cache.db"
    with SQLiteSink(path) as one, SQLiteSink(path) as other:
        workers = [
            make_worker(settle=0.3, sink=one),
            make_worker(settle=0.3, sink=other),
            make_worker(settle=0.3, sink=one),
        ]
        with running(workers[0]), running(workers[1]), running(workers[2]):
            for version in range(6):
                for id in ids:
                    source.entities[id] = {"id": id, "version": version}
                channel.announce(*ids)
            source.entities["p3"] = None
            channel.announce("p3")
            wait_until(lambda: not channel.count())

        assert dict(other.items()) == {
            id: entity for id, entity in source.entities.items() if entity
        }
        assert sum(worker.stats().acknowledged for worker in workers) >= 91


# Settings


@pytest.mark.parametrize(
    "setting",
    [
        {"threads": 2.0},
        {"batch_size": "5"},
        {"prefetch": float("inf")},
        {"wait_time": 0.5},
        {"visibility_timeout": 30.0},
    ],
)
def test_a_setting_that_is_no_integer_is_refused_by_name(make_worker, setting):
    with pytest.raises(ConfigurationError, match=rf"{next(iter(setting))} must be an integer"):
        make_worker(**setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"settle": -1},
        {"settle": None},
        {"settle": "5"},
        {"settle": float("nan")},
        {"threads": 0},
        {"threads": 257},
        {"batch_size": 0},
        {"batch_size": 11},
        {"prefetch": 9},
        {"prefetch": 9001},
        {"wait_time": 21},
        {"wait_time": 0},
        {"visibility_timeout": 2},
        {"visibility_timeout": 43_201},
        {"shutdown_timeout": -1},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(make_worker, setting):
    with pytest.raises(ConfigurationError, match=rf"{next(iter(setting))} must be from"):
        make_worker(**setting)


def test_a_queue_that_can_not_be_read_is_an_error_at_start(make_worker, aws):
    with pytest.raises(ConfigurationError, match="can't be read"):
        make_worker(f"{aws}/123456789012/missing").run()
    with pytest.raises(ConfigurationError, match="is not a queue's URL"):
        make_worker("products")
