"""Looks that decide nothing leave the cache as it is, and are tried again after a pause."""

from __future__ import annotations

import logging
import sqlite3

import pytest

from change_events import MemorySink
from conftest import running, spy, wait_until
from verification.harness.wire import Answer


@pytest.mark.parametrize(
    "answer",
    [Answer(503, b"{}"), Answer(404, b"<h1>no backend</h1>", {"Content-Type": "text/html"})],
)
def test_a_look_that_decides_nothing_leaves_the_cache_as_it_is_and_is_tried_again(
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


def test_a_look_decides_nothing_if_the_sink_fails(channel, source, make_worker, caplog):
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            raise sqlite3.OperationalError("database is locked")

    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")

    worker = make_worker(sink=Broken())
    with running(worker):  # however often it looks until it is stopped
        wait_until(lambda: worker.stats().failed)

    wait_until(lambda: channel.count() == {"visible": 1})  # it comes again
    assert "database is locked" in caplog.text


def test_one_broken_id_does_not_hold_up_the_others(channel, source, sink, make_worker):
    source.entities |= {f"p{number}": {"id": f"p{number}"} for number in range(20)}
    source.answer = lambda id: Answer(500, b"{}") if id == "p7" else None
    channel.announce(*source.entities)

    assert make_worker().drain() == 19
    assert len(sink) == 19


def test_an_id_whose_compare_and_set_is_lost_is_looked_at_again(channel, source, make_worker):
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


# The pause


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
def test_the_pause_is_what_the_source_asks_for_up_to_an_hour(
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


# `on_outcome`


def test_what_on_outcome_raises_is_logged_and_the_event_is_acknowledged(
    channel, source, make_worker, caplog
):
    channel.announce("p1")

    assert make_worker(on_outcome=lambda id, outcome: 1 / 0).drain() == 1

    assert "ZeroDivisionError" in caplog.text


def test_on_outcome_is_optional(channel, source, make_worker):
    channel.announce("p1")

    assert make_worker(on_outcome=None).drain() == 1
