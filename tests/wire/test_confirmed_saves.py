"""What a publisher tells of its save beside the id: its phase, its name, its settle window."""

from __future__ import annotations

import time

import pytest

from change_events import ChangeEvent, SNSPublisher, broadcasting
from conftest import running, wait_until


@pytest.fixture(params=[True, False], ids=["raw", "envelope"])
def delivery(request, make_channel):
    return make_channel(raw=request.param)


def say(channel, id, **attributes):
    """Broadcast an event as a publisher does that tells more than the id."""
    SNSPublisher(channel.topic_arn).publish([ChangeEvent(id, **attributes)])


def test_a_confirmed_save_costs_one_get_that_settles_both_its_events(
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
    delivery, source, make_worker
):
    worker = make_worker(delivery.queue_url, settle=30.0)
    with running(worker):
        delivery.announce("p1")
        wait_until(lambda: worker.stats().too_early)
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


# The publisher's window


@pytest.mark.parametrize(("own", "events"), [(0.0, 1.0), (1.0, 0.1), (1.0, None)])
def test_an_event_is_held_for_the_larger_of_two_windows(delivery, source, make_worker, own, events):
    gets = []
    source.answer = lambda id: gets.append(time.monotonic())
    announced = time.monotonic()
    say(delivery, "p1", settle=events)

    assert make_worker(delivery.queue_url, settle=own).drain() == 1

    early, late = gets[0], gets[-1]
    assert early < late
    assert 1.0 <= late - announced < 10.0


def test_the_queues_delay_is_part_of_an_events_window(make_channel, source, make_worker):
    channel = make_channel(DelaySeconds="1")
    gets = []
    source.answer = lambda id: gets.append((id, time.monotonic()))
    announced = time.monotonic()
    say(channel, "covered", settle=1.0)
    say(channel, "longer", settle=2.0)

    assert make_worker(channel.queue_url).drain() == 2

    times = {id: [at - announced for got, at in gets if got == id] for id in ("covered", "longer")}
    (_,) = times["covered"]
    early, late = times["longer"][0], times["longer"][-1]
    assert late >= 2.0 > early


def test_a_slow_save_is_seen_though_it_outlasts_the_window(channel, source, sink, make_worker):
    """The worker has settled the first broadcasts before the save commits."""
    worker = make_worker(settle=0.5)
    with running(worker):
        with broadcasting(SNSPublisher(channel.topic_arn), "p1", settle=0.5):
            wait_until(lambda: worker.stats().acknowledged >= 2)
            source.entities["p1"] = {"id": "p1"}
        wait_until(lambda: not channel.count())

    assert sink.get("p1") == {"id": "p1"}
