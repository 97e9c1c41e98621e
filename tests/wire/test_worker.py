"""A worker keeps the cache in step with its source, over a real queue and a real source."""

from __future__ import annotations

import time

import pytest

from change_events import ConfigurationError, HTTPFetcher
from change_events._consumer import intake
from conftest import running, spy, wait_until
from verification.harness.source import answer_of


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
        ("p1", "created"),
        ("p2", "created"),
        ("never", "never_saved"),
        ("p1", "updated"),
        ("p2", "deleted"),
        ("p1", "deleted"),
    }
    assert channel.count() == {}
    stats = worker.stats()
    assert (stats.received, stats.acknowledged) == (7, 7)
    looks = (stats.created, stats.updated, stats.deleted, stats.never_saved)
    assert looks == (2, 1, 2, 1)
    assert stats.gets == sum(looks) + stats.unchanged
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


def test_a_queue_that_can_not_be_read_is_an_error_at_start(make_worker, aws):
    with pytest.raises(ConfigurationError, match="can't be read"):
        make_worker(f"{aws}/123456789012/missing").run()
    with pytest.raises(ConfigurationError, match="queue's URL"):
        make_worker("products")


# The settle window


def test_a_save_that_is_slower_than_the_first_look_is_seen_by_the_second(
    channel, source, sink, make_worker, outcomes
):
    worker = make_worker(settle=1.0)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().too_early)
        assert channel.count() == {"held": 1}  # not acknowledged

        source.entities["p1"] = {"id": "p1"}  # the save commits only now
        outcomes.wait_for(("p1", "created"))
        wait_until(lambda: not channel.count())

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

    early, late = gets[0], gets[-1]
    assert early < late
    assert late - announced >= 1.0


def test_early_looks_find_a_save_soon_after_its_commit(
    channel, source, sink, make_worker, outcomes
):
    """The first look comes before the commit; without another one the cache is late by 30 s."""
    worker = make_worker(settle=30.0)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().too_early == 2)
        committed = time.monotonic()
        source.entities["p1"] = {"id": "p1"}
        outcomes.wait_for(("p1", "created"))
        seconds = time.monotonic() - committed

    assert seconds < 5.0
    assert outcomes.seen == [("p1", "created")]


def test_without_an_early_look_there_is_one_get_after_the_window(
    channel, source, make_worker, outcomes
):
    channel.announce("p1")
    started = time.monotonic()

    make_worker(settle=1.0, early_look=False).drain()

    assert len(source.asked) == 1
    assert time.monotonic() - started >= 1.0


def test_an_event_that_was_delayed_for_the_window_is_looked_at_once(
    make_channel, source, make_worker
):
    channel = make_channel(DelaySeconds="1")
    channel.announce("p1")

    make_worker(channel.queue_url, settle=1.0).drain()

    assert source.ids() == ["p1"]
    assert channel.count() == {}


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
        # At most two polls still believe in the old delay.
        wait_until(lambda: len(polls) > before + 1)
        channel.send('{"id": "p1"}')
        wait_until(lambda: worker.stats().received == 1, seconds=1)  # no longer delayed
        received = time.monotonic()
        wait_until(lambda: worker.stats().acknowledged == 1)

    assert time.monotonic() - received >= 1.5


# Events that share a GET


def test_many_events_of_one_id_cost_few_gets(channel, source, make_worker):
    channel.announce(*["hot"] * 60)
    worker = make_worker(settle=1.0, early_look=False)
    started = time.monotonic()

    assert worker.drain() == 60

    received_in = time.monotonic() - started - 1.0
    # One for all the events of a tenth of the window, however many they are.
    assert len(source.asked) <= 2 + received_in / 0.1


def test_ids_that_are_due_together_share_one_get(channel, source, sink, make_worker):
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
    assert len(source.asked_many) == 1  # an id that is due alone needs no bulk GET
    assert worker.stats().gets == 2


def test_an_event_waits_a_little_to_share_the_look_of_a_later_event(channel, source, make_worker):
    worker = make_worker(settle=4.0, early_look=False)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().received == 1)
        channel.announce("p1")
        wait_until(lambda: worker.stats().acknowledged == 2)

    assert len(source.asked) == 1


def test_an_event_that_comes_during_a_get_gets_another_get(
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
        # The GET is under way, and will answer the old state.
        assert source.arrived.acquire(timeout=10)
        source.entities["p1"] = {"id": "p1", "n": 2}
        channel.announce("p1")
        wait_until(lambda: worker.stats().received == 2)
        source.gate.set()
        outcomes.wait_for(("p1", "updated"))

    assert sink.get("p1") == {"id": "p1", "n": 2}
    assert channel.count() == {}
