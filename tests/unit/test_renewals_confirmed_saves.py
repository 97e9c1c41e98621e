"""A confirmed save is broadcast a second time when it has returned."""

from __future__ import annotations

import logging
import math
import threading

import pytest
from virtual_time import attributes, attributes_of, flaky, own, saver, time

from change_events import BroadcastStats, SNSPublisher, broadcasting
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Senders

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_a_confirmed_save_is_broadcast_before_and_after(make_channel, time, saver, raw):
    channel = make_channel(raw=raw)

    before = saver.save(SNSPublisher(channel.topic_arn), channel.messages, "p1", confirm=True)
    after = channel.messages()

    ((phase, save, settle),) = attributes_of(before, "phase", "save", "settle")
    assert (phase, settle) == ("saving", None)
    assert attributes_of(after, "phase", "save", "settle") == [("saved", save, None)]
    assert save


def test_all_broadcasts_of_a_confirmed_save_share_an_id_of_its_own(channel, time, flaky, saver):
    saver.save(flaky, lambda: time.passes(3.0), "p1", "p2", confirm=True, settle=4)
    saver.save(flaky, lambda: None, "p1", confirm=True, settle=4)

    messages = attributes_of(channel.messages(), "phase", "save")
    first = messages[0][1]
    assert [phase for phase, save in messages if save == first] == ["saving"] * 4 + ["saved"] * 2
    assert [phase for phase, save in messages if save != first] == ["saving", "saved"]


def test_a_save_that_raises_is_not_confirmed(channel, time, saver):
    with pytest.raises(ZeroDivisionError):
        saver.save(SNSPublisher(channel.topic_arn), lambda: 1 / 0, "p1", confirm=True)

    assert attributes_of(channel.messages(), "phase") == [("saving",)]


def test_a_late_save_is_confirmed_by_the_broadcast_after_its_end(channel, time, flaky, saver):
    saver.save(flaky, lambda: setattr(time, "now", 6.0), "p1", confirm=True)

    assert attributes_of(channel.messages(), "phase") == [("saving",), ("saved",)]


class Gated:
    """A publisher that delays the confirmation until the gate opens."""

    def __init__(self, publisher):
        self._publisher = publisher
        self.gate = threading.Event()
        self.done = threading.Event()

    def publish(self, events, /):
        if events[0].phase == "saved":
            assert self.gate.wait(20)
        self._publisher.publish(events)
        if events[0].phase == "saved":
            self.done.set()


def test_the_caller_does_not_wait_for_the_confirmation(channel, saver):
    publisher = Gated(SNSPublisher(channel.topic_arn))

    # However busy the machine is, the save is not late.
    saved = saver.save(
        publisher, lambda: "saved", "p1", confirm=True, settle=3600.0, renewals=Renewals()
    )
    assert saved == "saved"
    assert attributes_of(channel.messages(), "phase") == [("saving",)]
    publisher.gate.set()
    assert publisher.done.wait(20)
    assert attributes_of(channel.messages(), "phase") == [("saved",)]


def test_a_lost_confirmation_is_logged_and_does_not_fail_the_save(
    channel, time, flaky, saver, caplog
):
    caplog.set_level(logging.INFO, "change_events")

    def body():
        flaky.fails = (0.0, math.inf)
        return "saved"

    assert saver.save(flaky, body, "p1", confirm=True) == "saved"

    assert attributes_of(channel.messages(), "phase") == [("saving",)]
    assert [(record.levelno, record.action) for record in own(caplog)] == [
        (logging.INFO, "confirm")
    ]
    assert time.renewals.senders._waiting == 0
    assert time.renewals.tally.stats() == BroadcastStats()


def test_confirmations_beyond_the_limit_are_dropped(channel):
    waiting = []
    senders = Senders(waiting.append, max_confirmations=3)
    renewals = Renewals(in_thread=lambda watch: None, senders=senders)
    publisher = SNSPublisher(channel.topic_arn)

    def save(number):
        with broadcasting(publisher, f"p{number}", confirm=True, renewals=renewals):
            pass

    for number in range(5):
        save(number)
    assert len(waiting) == 3
    for confirm in waiting:
        confirm()
    save(5)
    assert len(waiting) == 4

    assert attributes_of(channel.messages(), "phase").count(("saved",)) == 3


def test_a_confirmation_without_a_thread_is_dropped_and_frees_its_place(channel):
    def submit(job):
        if next(attempts) == 0:
            raise RuntimeError("can't start new thread")
        job()

    attempts = iter(range(2))
    senders = Senders(submit, max_confirmations=1)
    renewals = Renewals(in_thread=lambda watch: None, senders=senders)
    for id in ("p1", "p2"):
        publisher = SNSPublisher(channel.topic_arn)
        with broadcasting(publisher, id, confirm=True, renewals=renewals):
            pass

    confirmed = [
        message["Body"] for message in channel.messages() if attributes(message)["phase"] == "saved"
    ]
    assert confirmed == ['{"id": "p2"}']
