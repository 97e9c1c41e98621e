"""What a publisher tells of its save beside the id: its phase, its name, its settle window."""

from __future__ import annotations

import time

import pytest

from change_events import ChangeEvent, SNSPublisher, broadcasting
from conftest import running, spy, wait_until


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


@pytest.fixture
def time_left(make_worker):
    """
    Stop a worker once its early look is over; return for how many seconds it hands back the event
    that it holds: for the rest of the event's window.
    """

    def stop(queue_url, *, until=lambda: True, **settings):
        client, changed = spy("ChangeMessageVisibilityBatch")
        worker = make_worker(queue_url, client=client, **settings)
        with running(worker):
            wait_until(lambda: worker.stats().too_early and until())
        (entry,) = changed[-1]["Entries"]  # heartbeats come before
        return entry["VisibilityTimeout"]

    return stop


@pytest.mark.parametrize(("own", "events"), [(0.0, 3600.0), (3600.0, 0.1), (3600.0, None)])
def test_an_event_is_held_for_the_larger_of_two_windows(delivery, source, time_left, own, events):
    say(delivery, "p1", settle=events)

    assert 2700 < time_left(delivery.queue_url, settle=own) <= 3600


def test_the_queues_delay_is_part_of_an_events_window(channel, source, sqs, outcomes, time_left):
    say(channel, "covered", settle=900.0)
    say(channel, "longer", settle=3600.0)
    sqs.set_queue_attributes(  # SQS delays only what comes later
        QueueUrl=channel.queue_url, Attributes={"DelaySeconds": "900"}
    )

    def covered():
        return ("covered", "never_saved") in outcomes.seen

    assert 1800 < time_left(channel.queue_url, until=covered) <= 2700
    assert source.ids().count("covered") == 1
    assert channel.count() == {"held": 1}


def test_a_slow_save_is_seen_though_it_outlasts_the_window(channel, source, sink, make_worker):
    """The worker has settled the first broadcasts before the save commits."""
    worker = make_worker(settle=0.5)
    with running(worker):
        with broadcasting(SNSPublisher(channel.topic_arn), "p1", settle=0.5):
            wait_until(lambda: worker.stats().acknowledged >= 2)
            source.entities["p1"] = {"id": "p1"}
        wait_until(lambda: not channel.count())

    assert sink.get("p1") == {"id": "p1"}
