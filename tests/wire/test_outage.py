"""The source, one of its entities, its data, our credentials or SQS fail, and come back."""

from __future__ import annotations

import json
import logging
import threading
import time
from functools import partial
from itertools import pairwise

import boto3
import pytest

from change_events import FetchError, Found, HTTPFetcher, MassDeletionError
from change_events import _worker as worker_module
from change_events._consumer import acknowledgements, backoff, intake, looks, visibility
from change_events._consumer.backoff import Backoff
from change_events._consumer.run import Run
from conftest import running, spy, wait_until
from verification.harness.wire import HANG_UP, Answer, sqs_error

PAUSE = 0.2
"""Seconds between looks in an outage. A real worker's pauses grow to a minute."""

HELD_FOR = 3
"""Seconds of the visibility timeout: the shortest that a worker accepts."""


@pytest.fixture
def dead(make_channel):
    return make_channel()


@pytest.fixture
def channel(make_channel, sqs, dead):
    """A queue whose messages go to the dead letters after two receives."""
    arn = sqs.get_queue_attributes(QueueUrl=dead.queue_url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    return make_channel(
        RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    )


@pytest.fixture
def make_worker(make_worker, monkeypatch):
    def make(pause=PAUSE, **settings):
        with_pause = partial(Run, backoff=Backoff(lambda failures, most: pause))
        monkeypatch.setattr(worker_module, "Run", with_pause)
        return make_worker(**({"visibility_timeout": HELD_FOR} | settings))

    return make


@pytest.fixture
def gets(source):
    """The times at which the source was asked."""
    times = []
    respond = source.respond

    def note_and_respond(asked):
        times.append(time.monotonic())
        return respond(asked)

    source.respond = note_and_respond
    return times


def products(number, **more):
    return {f"p{n}": {"id": f"p{n}", **more} for n in range(number)}


def logged(caplog, level):
    return [
        record
        for record in caplog.records
        if record.name == "change_events" and record.levelno >= level
    ]


# The source


def test_a_source_that_is_down_costs_no_dead_letter_and_few_gets(
    channel, dead, source, sink, make_worker, outcomes, gets, caplog
):
    source.entities |= products(40)
    source.answer = lambda id: Answer(503)
    channel.announce(*source.entities)
    worker = make_worker()
    with running(worker):
        wait_until(lambda: logged(caplog, logging.ERROR))
        # For longer than a visibility timeout.
        wait_until(lambda: worker.stats().failed - worker.threads > HELD_FOR / PAUSE)
        source.answer = lambda id: None
        outcomes.wait_for(*((id, "created") for id in source.entities))
        wait_until(lambda: not channel.count())

    assert dict(sink.items()) == source.entities
    assert dead.messages() == []
    stats = worker.stats()
    assert stats.received <= 40 + 4  # only those that failed before the outage come twice
    (began,) = logged(caplog, logging.ERROR)
    assert "the source or the cache is down" in began.getMessage()
    assert logged(caplog, logging.WARNING)[-1].getMessage() == "the source is back"
    in_outage = gets[5 + worker.threads : stats.failed]
    assert min(after - before for before, after in pairwise(in_outage)) > PAUSE / 2


def test_a_source_is_left_alone_for_as_long_as_it_asks(
    channel, source, make_worker, outcomes, gets
):
    source.entities |= products(10)
    source.answer = lambda id: Answer(429, headers={"Retry-After": "2"}) if len(gets) <= 5 else None
    channel.announce(*source.entities)
    with running(make_worker(threads=1)):
        outcomes.wait_for(*((f"p{n}", "created") for n in range(10)))

    assert gets[5] - gets[4] >= 2.0 - PAUSE


def test_broken_entities_do_not_keep_others_from_being_looked_at(
    channel, source, sink, make_worker, outcomes, caplog
):
    source.entities |= {"good": {"id": "good"}}
    source.answer = lambda id: Answer(500) if id.startswith("bad") else None
    channel.announce(*(f"bad{n}" for n in range(5)))
    with running(make_worker(pause=0.05)):
        wait_until(lambda: logged(caplog, logging.ERROR))
        channel.announce("good")
        outcomes.wait_for(("good", "created"))


def test_one_broken_entity_is_the_only_dead_letter(
    channel, dead, sqs, source, sink, make_worker, outcomes, monkeypatch
):
    monkeypatch.setattr(backoff, "MAX_PAUSE", 0.4)
    source.entities |= products(20)
    source.answer = lambda id: Answer(500) if id == "p7" else None
    channel.announce(*source.entities)
    started = time.monotonic()
    with running(make_worker()):
        outcomes.wait_for(*((f"p{n}", "created") for n in range(20) if n != 7))
        seconds = time.monotonic() - started
        (message,) = sqs.receive_message(QueueUrl=dead.queue_url, WaitTimeSeconds=20)["Messages"]

    assert message["Body"] == '{"id": "p7"}'
    assert dead.messages() == []
    assert channel.count() == {}
    assert len(sink) == 19
    assert seconds < 10


def test_a_source_that_refuses_our_credentials_deletes_nothing_and_the_log_says_so(
    channel, source, sink, make_worker, outcomes, caplog
):
    fill(sink, products(30))
    source.answer = lambda id: Answer(401)
    channel.announce(*products(30))
    with running(make_worker()):
        wait_until(lambda: logged(caplog, logging.ERROR))
        assert len(sink) == 30
        source.entities |= products(30, n=2)
        source.answer = lambda id: None
        outcomes.wait_for(*((f"p{n}", "updated") for n in range(30)))

    (began,) = logged(caplog, logging.ERROR)
    assert "refuses our credentials" in began.getMessage()


def test_a_drain_does_not_wait_for_a_source_that_is_down(channel, source, make_worker):
    source.answer = lambda id: Answer(503)
    channel.announce(*products(20))
    started = time.monotonic()

    with pytest.raises(FetchError, match="answered 503"):
        make_worker(pause=3600.0).drain()

    assert time.monotonic() - started < 20
    assert sum(channel.count().values()) == 20


def test_a_worker_can_be_stopped_in_an_outage(channel, source, make_worker, caplog):
    source.answer = lambda id: Answer(503)
    channel.announce(*products(10))
    worker = make_worker(pause=3600.0, visibility_timeout=60)
    with running(worker) as thread:
        wait_until(lambda: logged(caplog, logging.ERROR))
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()

    assert worker.stats().held == 0
    wait_until(lambda: channel.count().get("visible") == 10)


def test_a_source_is_asked_no_more_often_than_max_gets_per_second(
    channel, source, make_worker, gets
):
    channel.announce(*products(10))

    assert make_worker(max_gets_per_second=10).drain() == 10

    assert gets[-1] - gets[0] >= 0.8


# Bulk GETs

MANY = {
    "answers": lambda source, ids: None,
    "500": lambda source, ids: Answer(500),
    "404": lambda source, ids: Answer(404, b'{"detail": "no such route"}'),
    "a page": lambda source, ids: Answer(200, b"<h1>Sign in</h1>", {"Content-Type": "text/html"}),
    "half of them": lambda source, ids: Answer(200, json.dumps(source.found(ids[::2])).encode()),
    "half an answer": lambda source, ids: Answer(
        200, json.dumps(source.found(ids)).encode()[:30], length=10_000
    ),
    "nothing": lambda source, ids: Answer(200, b"[]"),
    "another host's": lambda source, ids: Answer(
        200, json.dumps([{"id": f"other{n}"} for n in range(9)]).encode()
    ),
    "a page of the list": lambda source, ids: Answer(
        200, json.dumps(source.found(list(source.entities)[:25])).encode()
    ),
    "hangs up": lambda source, ids: HANG_UP,
}


@pytest.mark.parametrize("answer", MANY)
def test_whatever_a_bulk_get_answers_no_event_is_lost_and_the_cache_is_right(
    channel, dead, source, sink, make_worker, monkeypatch, caplog, answer
):
    monkeypatch.setattr(looks, "BULK_PAUSE", 0.0)
    fill(sink, products(30))
    source.entities |= products(40, n=2) | dict.fromkeys([f"p{n}" for n in range(0, 36, 4)])
    source.answer_many = lambda ids: MANY[answer](source, ids)
    fetcher = HTTPFetcher(source.url + "/products/{id}", bulk_url=source.url + "/many")
    channel.announce(*source.entities)
    worker = make_worker(fetcher=fetcher, settle=0.5)
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 40)

    assert dict(sink.items()) == {id: entity for id, entity in source.entities.items() if entity}
    assert max(map(len, source.asked_many)) > 1
    assert worker.stats().failed == 0
    assert worker.stats().received == 40  # none was handed back
    assert channel.count() == {}
    assert dead.messages() == []
    assert not logged(caplog, logging.ERROR)


def test_there_are_no_bulk_gets_in_an_outage_and_all_ids_follow_after_it(
    channel, dead, source, sink, make_worker, outcomes, gets, caplog
):
    source.entities |= products(40)
    source.answer = source.answer_many = lambda asked: Answer(503)
    channel.announce(*source.entities)
    fetcher = HTTPFetcher(source.url + "/products/{id}", bulk_url=source.url + "/many")
    worker = make_worker(fetcher=fetcher)
    with running(worker):
        wait_until(lambda: logged(caplog, logging.ERROR))
        asked = len(source.asked_many)
        wait_until(lambda: worker.stats().failed - worker.threads > HELD_FOR / PAUSE)
        assert len(source.asked_many) <= asked + worker.threads
        source.answer = source.answer_many = lambda asked: None
        outcomes.wait_for(*((id, "created") for id in source.entities))
        wait_until(lambda: not channel.count())

    assert dict(sink.items()) == source.entities
    assert dead.messages() == []


# Mass deletion


def fill(sink, entities):
    for id, entity in entities.items():
        assert sink.apply(id, Found(entity), if_version=0)


def test_a_source_that_forgets_everything_costs_nineteen_entities(
    channel, source, sink, make_worker, caplog
):
    client, polls = spy("ReceiveMessage")
    beats = []
    client.meta.events.register(
        "before-call.sqs.ChangeMessageVisibilityBatch", lambda **_: beats.append(len(polls))
    )
    fill(sink, products(60))
    channel.announce(*products(60))
    worker = make_worker(client=client)
    with running(worker):
        wait_until(lambda: logged(caplog, logging.CRITICAL))
        before = len(beats)
        wait_until(lambda: len(beats) > before + 5)  # what is held stays invisible
        assert worker.stats().deleted == 19
        assert len(sink) == 41
        assert beats[-1] == beats[before + 2]  # nothing is received meanwhile

        source.entities |= {"p59": {"id": "p59", "n": 2}}
        worker.resume()
        wait_until(lambda: worker.stats().acknowledged == 60)

    assert dict(sink.items()) == source.entities
    (record,) = logged(caplog, logging.CRITICAL)
    assert record.action == "mass_deletion"


def test_a_worker_that_starts_with_the_right_source_goes_on_whatever_was_deleted_before(
    channel, source, sink, make_worker, caplog
):
    state = {"believes": False, "gone": "0" * 49 + "1" * 51, "at": [1] * 100}
    assert sink.set_state("guard", json.dumps(state), if_state=None)
    fill(sink, products(60))
    source.entities |= products(60)
    worker = make_worker()
    with running(worker):
        channel.announce(*products(60))
        wait_until(lambda: worker.stats().acknowledged == 60)
        del source.entities["p1"]
        channel.announce("p1")
        wait_until(lambda: worker.stats().deleted == 1)

    assert not logged(caplog, logging.CRITICAL)


def test_a_sink_that_cannot_say_what_was_deleted_before_stops_no_worker(
    channel, source, sink, make_worker, caplog
):
    class Mute(type(sink)):
        def state(self, name, /):
            raise PermissionError("no state")

    mute = Mute.__new__(Mute)
    mute.__dict__ = sink.__dict__
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    worker = make_worker(sink=mute)
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 1)

    (record,) = logged(caplog, logging.WARNING)
    assert record.getMessage() == "the sink has not said what was deleted before: no state"


def test_a_drain_raises_if_a_mass_deletion_was_refused(channel, source, sink, make_worker):
    fill(sink, products(60))
    channel.announce(*products(30))
    worker = make_worker(threads=1)  # with more, looks that are under way count, too

    with pytest.raises(
        MassDeletionError, match="20 of the last 20 looks at cached entities saw them gone"
    ):
        worker.drain()
    with pytest.raises(MassDeletionError, match="deletions are refused until"):
        worker.drain()
    assert len(sink) == 41

    worker.resume()
    wait_until(lambda: worker.drain() == 0 and not channel.count())
    assert len(sink) == 30


def test_a_mass_deletion_can_be_allowed_from_the_start(channel, sink, make_worker):
    fill(sink, products(30))
    channel.announce(*products(30))

    assert make_worker(allow_mass_deletion=True).drain() == 30
    assert len(sink) == 0


def test_the_limits_of_a_mass_deletion_can_be_set(channel, sink, make_worker):
    fill(sink, products(10))
    channel.announce(*products(10))

    with pytest.raises(MassDeletionError):
        make_worker(max_deleted_share=0.1, min_deleted=3).drain()
    assert len(sink) == 8


# SQS


def error(status, code):
    return lambda asked: sqs_error(status, code)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that the worker made, at a tenth of their length."""
    made = []
    pause_after = backoff.pause_after

    def pause(failures, most):
        made.append(pause_after(failures, most) / 10)
        return made[-1]

    for module in (intake, acknowledgements):
        monkeypatch.setattr(module, "pause_after", pause)
    return made


FAULTS = {
    "throttled": error(400, "ThrottlingException"),
    "failing": error(500, "InternalError"),
    "half an answer": lambda asked: Answer(200, b'{"Messages": [', length=1000),
    "no queue": error(400, "QueueDoesNotExist"),
    "no permission": error(403, "AccessDenied"),
}


@pytest.mark.parametrize("fault", [*FAULTS, "refused"])
def test_a_worker_goes_on_soon_after_sqs_has_come_back(
    line, channel, source, make_worker, outcomes, pauses, caplog, fault
):
    channel.announce("held")
    worker = make_worker(settle=1.0)
    with running(worker):
        outcomes.wait_for(("held", "never_saved"))
        if fault == "refused":
            line.go_away()
        else:
            line.fault = FAULTS[fault]
        wait_until(lambda: len(pauses) >= 5)
        lines = len(logged(caplog, logging.WARNING))

        source.entities["p1"] = {"id": "p1"}
        channel.announce("p1")
        if fault == "refused":
            line.come_back()
        line.fault = lambda asked: None
        tried = len(pauses)
        outcomes.wait_for(("p1", "created"))
        later = pauses[tried:]
        wait_until(lambda: not channel.count())

    # One line for the acknowledgements and one for the heartbeat, because these fail, too.
    assert lines <= len(pauses) + 2
    assert len(later) <= 2  # a receive and an acknowledgement were under way


def test_an_outage_longer_than_a_message_can_be_held_costs_receives(
    channel, dead, source, make_worker, monkeypatch
):
    """It is one receive in eleven hours, which are one second here."""
    monkeypatch.setattr(visibility, "LONGEST_HOLD", 1.0)
    source.answer = lambda id: Answer(503, b"{}")
    channel.announce("p1")

    with running(make_worker()):
        wait_until(lambda: dead.count() == {"visible": 1})

    assert channel.count() == {}


def test_a_worker_finds_new_credentials_after_the_old_ones_have_expired(
    line, channel, source, make_worker, outcomes, pauses, monkeypatch
):
    expired = error(403, "ExpiredToken")
    refused = threading.Event()

    def accept_the_new(asked):
        if "Credential=fresh/" in asked.headers["Authorization"]:
            return None
        if asked.headers["X-Amz-Target"] == "AmazonSQS.ReceiveMessage":
            refused.set()
        return expired(asked)

    with running(make_worker()):
        channel.announce("p1")
        outcomes.wait_for(("p1", "never_saved"))
        line.fault = accept_the_new
        # Not before a receive was refused: the poll that is under way could bring p2.
        assert refused.wait(20)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fresh")
        channel.announce("p2")
        outcomes.wait_for(("p2", "never_saved"))


def test_a_client_that_the_user_gave_is_never_replaced(line, channel, source, make_worker, pauses):
    client = boto3.client("sqs")
    worker = make_worker(client=client)
    channel.announce("p1")
    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 1)
        line.fault = error(403, "ExpiredToken")
        wait_until(lambda: len(pauses) >= 2)
        line.fault = lambda asked: None

    assert worker._queue._client is client
