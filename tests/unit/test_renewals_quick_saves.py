"""A quick save is one broadcast: it starts no further thread, and leaves nothing behind."""

from __future__ import annotations

import contextvars
import gc
import json
import signal
import threading
import weakref

import pytest
from virtual_time import saver, time

from change_events import BroadcastStats, NullPublisher, SNSPublisher, broadcasting
from change_events._producer.renewals import Renewals

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_a_quick_save_is_one_plain_broadcast(make_channel, time, saver, raw):
    channel = make_channel(raw=raw)

    assert saver.save(SNSPublisher(channel.topic_arn), lambda: "saved", "p1") == "saved"
    time.passes(100)

    (message,) = channel.messages()
    body = json.loads(message["Body"])
    assert "MessageAttributes" not in message
    assert (
        body == {"id": "p1"}
        if raw
        else (body["Message"] == '{"id": "p1"}' and "MessageAttributes" not in body)
    )
    assert time.renewals.tally.stats() == BroadcastStats()


def test_quick_saves_start_one_thread_which_sleeps():
    awake = threading.Semaphore(0)

    def clocks():
        if threading.current_thread().name == "change-events-renewals":
            awake.release()
        return (0.0,)

    renewals = Renewals(clocks=clocks)
    before = {*threading.enumerate()}

    for _ in range(1000):
        with broadcasting(NullPublisher(), "p1", settle=3600, renewals=renewals):
            pass

    assert awake.acquire(timeout=10)  # it woke once, to learn when to wake again
    with renewals._lock:  # it releases the lock when it sleeps
        assert len(renewals._earlier._waiters) == 1
    assert not awake.acquire(blocking=False)
    (watcher,) = {*threading.enumerate()} - before
    assert (watcher.name, watcher.daemon) == ("change-events-renewals", True)
    assert renewals._saves == {}


def test_a_finished_save_leaves_no_garbage_to_collect(time):
    class Request:
        pass

    request = contextvars.ContextVar("request")

    def save():
        request.set(Request())
        with time.broadcasting(NullPublisher(), "p1"):
            return weakref.ref(request.get())

    gc.disable()
    try:
        left = contextvars.Context().run(save)
        assert left() is None  # the renewals have no copy of the context any more
    finally:
        gc.enable()


def test_a_signal_handler_can_save_while_a_save_begins_or_ends():
    saved = []
    signals = iter([signal.SIGUSR1])

    def handler(*_):
        with broadcasting(NullPublisher(), "p2", renewals=renewals):
            saved.append("p2")

    def clocks():
        if renewals._lock._is_owned() and (number := next(signals, None)):
            signal.raise_signal(number)
        return (0.0,)

    renewals = Renewals(clocks=clocks, in_thread=lambda watch: None)
    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with broadcasting(NullPublisher(), "p1", renewals=renewals):
            pass
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert saved == ["p2"]
    assert renewals._saves == {}
