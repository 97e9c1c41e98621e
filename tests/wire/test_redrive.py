"""Dead letters are redriven where they are: their ids are looked at, then they are deleted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import boto3
import pytest
from botocore.exceptions import ClientError

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    HTTPFetcher,
    MassDeletionError,
    MemorySink,
    RedriveReport,
    SQLiteSink,
    redrive,
)
from change_events._consumer.settings import Settings
from change_events._operations.dropping import drop
from conftest import failing, signalled, spied, spy, wait_until
from verification.harness.wire import Answer


@pytest.fixture
def dead(make_channel):
    """A dead-letter queue."""
    return make_channel()


@pytest.fixture
def run(dead, source, sink):
    """Redrive the dead letters of the test. By default they are old enough at once."""

    def run(queue_url=dead.queue_url, **settings):
        fetcher = HTTPFetcher(source.url + "/products/{id}")
        given = {"fetcher": fetcher, "sink": sink, "settle": 0.0} | settings
        return redrive(queue_url, **given)

    return run


def letters(dead, *ids):
    for id in ids:
        dead.send(json.dumps({"id": id}))


def queue_arn(sqs, url):
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]


# What it does


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_the_letters_of_a_queue_are_looked_at_and_deleted(
    make_channel, sqs, dead, source, sink, run, raw
):
    policy = {"deadLetterTargetArn": queue_arn(sqs, dead.queue_url), "maxReceiveCount": "1"}
    channel = make_channel(raw=raw, RedrivePolicy=json.dumps(policy))
    channel.announce("p1", "p2")
    source.entities["p1"] = {"id": "p1"}
    sqs.receive_message(QueueUrl=channel.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    sqs.receive_message(QueueUrl=channel.queue_url, MaxNumberOfMessages=10)
    assert dead.count() == {"visible": 2}

    report = run(topic_arn=None if raw else channel.topic_arn)

    assert sink.get("p1") == {"id": "p1"}
    assert sink.entry("p2").version  # its save had failed
    assert dead.count() == {}
    assert (report.letters, report.ids, report.looks) == (2, {"p1": 1, "p2": 1}, 2)
    assert (report.deleted, report.kept, report.stopped) == (2, 0, None)
    assert str(report) == ("2 letters of 2 ids, the oldest 0 s: 2 looks, 2 letters deleted, 0 kept")


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_the_letters_of_a_subscription_are_looked_at_and_deleted(
    make_channel, sqs, dead, source, sink, run, raw
):
    """SNS sends what it could not deliver, and says why in message attributes."""
    channel = make_channel(raw=raw)
    channel.announce("p1")
    (message,) = channel.messages()
    why = {"RequestID": "b6e9a1b0", "ErrorCode": "400", "ErrorMessage": "QueueDoesNotExist"}
    sqs.send_message(
        QueueUrl=dead.queue_url,
        MessageBody=message["Body"],
        MessageAttributes=message.get("MessageAttributes", {})
        | {name: {"DataType": "String", "StringValue": text} for name, text in why.items()},
    )
    source.entities["p1"] = {"id": "p1"}

    assert run().deleted == 1

    assert sink.get("p1") == {"id": "p1"}
    assert dead.count() == {}


def test_many_letters_of_one_id_are_one_look(dead, source, run):
    letters(dead, *["p1"] * 10, "p2")

    report = run()

    assert sorted(source.ids()) == ["p1", "p2"]
    assert (report.looks, report.deleted) == (2, 11)


def test_the_calls_to_sqs_are_as_few_as_can_be(dead, source, run):
    client, received = spy("ReceiveMessage")
    spied(client, "DeleteMessageBatch")
    _, deleted = spied(client, "DeleteMessageBatch")
    _, changed = spied(client, "ChangeMessageVisibilityBatch")
    letters(dead, *(f"p{n % 5}" for n in range(100)))

    report = run(client=client)

    assert (report.letters, report.looks, report.deleted) == (100, 5, 100)
    assert len(source.asked) == 5
    assert 10 <= len(received) <= 10 + 4 * 2  # at the end, each of four finds nothing
    assert (len(deleted), len(changed)) == (10, 0)


def test_a_letter_is_deleted_only_after_its_look_is_stored(dead, source, run):
    counts = []

    class Counting(MemorySink):
        def apply(self, id, change, /, *, if_version):
            counts.append(dead.count())
            return super().apply(id, change, if_version=if_version)

    letters(dead, *["p1"] * 10)

    assert run(sink=Counting()).deleted == 10

    assert counts == [{"held": 10}]
    assert dead.count() == {}


def test_a_young_letter_waits_until_its_save_is_over(dead, source, run):
    letters(dead, "p1")
    sent = time.monotonic()
    begun = []
    source.answer = lambda id: begun.append(time.monotonic())

    assert run(settle=1.5).deleted == 1

    assert begun[0] - sent >= 1.5


def test_a_letter_that_names_a_longer_window_waits_for_that(dead, sqs, source, run):
    sqs.send_message(
        QueueUrl=dead.queue_url,
        MessageBody='{"id": "p1"}',
        MessageAttributes={"settle": {"DataType": "String", "StringValue": "1.5"}},
    )
    sent = time.monotonic()
    begun = []
    source.answer = lambda id: begun.append(time.monotonic())

    assert run().deleted == 1

    assert begun[0] - sent >= 1.5


def test_the_looks_are_spread_as_asked_for(dead, source, run):
    letters(dead, "p1", "p2", "p3")
    begun = []
    source.answer = lambda id: begun.append(time.monotonic())

    assert run(max_gets_per_second=5.0).looks == 3

    assert begun[2] - begun[0] >= 0.3


def test_the_letters_of_a_fifo_queue_are_redriven(make_channel, source, sink, run):
    fifo = make_channel(fifo=True)
    fifo.announce(*["p1"] * 25, "p2")
    fifo.send("{}")
    source.entities["p1"] = {"id": "p1"}

    report = run(fifo.queue_url)

    assert (report.letters, report.deleted, report.malformed) == (27, 26, 1)
    assert set(source.ids()) == {"p1", "p2"}
    assert fifo.count() == {"visible": 1}


def test_progress_is_told_while_it_runs(dead, source, run):
    letters(dead, "p1", "p2")
    source.gate.clear()
    told = []

    def tell(progress):
        told.append(progress)
        source.gate.set()

    run(on_progress=tell)

    assert (told[0].letters, told[0].ids) == (2, 2)
    assert told[0].looks == told[0].deleted == told[0].malformed == told[0].failed == 0


# What stays


def test_a_failing_look_keeps_its_letters(dead, source, sink, run):
    source.entities["p1"] = {"id": "p1"}
    source.answer = lambda id: Answer(500, b"{}") if id == "p2" else None
    letters(dead, "p1", "p2", "p2")

    report = run()

    assert sink.get("p1") == {"id": "p1"}
    assert (report.looks, report.deleted, report.kept) == (1, 1, 2)
    assert report.failed.keys() == {"p2"}
    assert dead.count() == {"visible": 2}  # at once
    assert str(report).splitlines()[1:] == ["failed looks: 1", f"  p2: {report.failed['p2']}"]
    assert source.ids().count("p2") == 1


def test_many_ids_that_are_broken_are_no_outage(dead, source, run):
    source.answer = lambda id: Answer(500, b"{}")
    letters(dead, *(f"p{n}" for n in range(15)))

    report = run()

    assert len(report.failed) == len(source.asked) == 15
    assert report.stopped is None
    assert dead.count() == {"visible": 15}


def test_an_outage_of_the_source_stops_the_redrive_and_keeps_every_letter(dead, source, run):
    source.answer = lambda id: Answer(503, b"{}")
    letters(dead, *(f"p{n}" for n in range(30)))

    report = run(threads=2)

    assert isinstance(report.stopped, FetchError)
    assert len(source.asked) <= 6
    assert (report.deleted, report.kept) == (0, 30)
    assert dead.count() == {"visible": 30}
    assert "stopped early: GET" in str(report)


def test_an_outage_of_the_cache_stops_the_redrive_and_keeps_every_letter(dead, source, run):
    class Down(MemorySink):
        def entry(self, id, /):
            raise OSError("no database")

    letters(dead, *(f"p{n}" for n in range(10)))

    report = run(sink=Down(), threads=1)

    assert str(report.stopped) == "no database"
    assert len(report.failed) == 5
    assert dead.count() == {"visible": 10}


def test_a_row_that_the_cache_refuses_fails_alone(dead, source, sink, run):
    class Picky(MemorySink):
        def apply(self, id, change, /, *, if_version):
            if id != "p9":
                raise ValueError("a constraint")
            return super().apply(id, change, if_version=if_version)

    letters(dead, *(f"p{n}" for n in range(10)))

    report = run(sink=Picky(), threads=1)

    assert (report.stopped, report.deleted, len(report.failed)) == (None, 1, 9)


def test_a_refused_mass_deletion_stops_the_redrive(dead, source, sink, run):
    for n in range(60):
        sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    letters(dead, *(f"p{n}" for n in range(40)))

    report = run(threads=1)

    assert isinstance(report.stopped, MassDeletionError)
    assert (report.looks, report.deleted, len(sink)) == (19, 19, 41)
    assert dead.count() == {"visible": 21}

    again = run()
    assert isinstance(again.stopped, MassDeletionError)
    assert (again.deleted, len(sink)) == (0, 41)

    assert run(allow_mass_deletion=True).deleted == 21
    assert len(sink) == 20


def test_what_the_looks_found_is_counted_for_other_processes(dead, source, sink, run):
    for n in range(3):
        source.entities[f"p{n}"] = {"id": f"p{n}"}
        sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    letters(dead, *source.entities)

    run()

    assert json.loads(sink.state("guard"))["gone"] == "000"


def test_malformed_letters_are_told_and_kept(dead, source, run):
    for n in range(102):
        dead.send(f"no event {n}\x1b")
    letters(dead, "p1")

    report = run()

    assert (report.malformed, report.deleted, report.kept) == (102, 1, 102)
    assert len(report.reasons) == 100
    assert set(report.reasons.values()) == {"the body is not JSON"}
    lines = str(report).splitlines()
    assert lines[1] == "letters that are not change events: 102"
    assert (len(lines), lines[-1]) == (103, "  ...")
    assert dead.count() == {"visible": 102}


def test_malformed_letters_are_dropped_if_asked_to(dead, source, run):
    dead.send("{}")
    letters(dead, "p1")

    report = run(drop_malformed=True)

    assert (report.malformed, report.deleted, report.kept) == (1, 2, 0)
    assert dead.count() == {}


def test_a_letter_from_another_topic_is_malformed(dead, source, run):
    letters(dead, "p1")

    report = run(topic_arn="arn:aws:sns:eu-west-1:123456789012:products")

    assert report.malformed == 1
    assert source.asked == []


def test_a_letter_that_can_not_be_verified_yet_is_kept_in_any_case(
    make_channel, dead, source, run, look_up
):
    look_up["sns.eu-west-1.amazonaws.com"] = 1  # nothing listens there
    envelope = {
        "Type": "Notification",
        "MessageId": "1",
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:products",
        "Message": '{"id": "p1"}',
        "Timestamp": "2026-01-01T00:00:00.000Z",
        "SignatureVersion": "2",
        "Signature": "AAAA",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/"
        "SimpleNotificationService-0123456789abcdef.pem",
    }
    dead.send(json.dumps(envelope))

    report = run(topic_arn=envelope["TopicArn"], verify_signatures=True, drop_malformed=True)

    ((what, why),) = report.failed.items()
    assert what.startswith("message ")
    assert "the certificate" in why
    assert (report.malformed, report.kept) == (0, 1)
    assert dead.count() == {"visible": 1}


# Some, or none


def test_a_dry_run_looks_at_nothing_and_hands_all_back_at_once(dead, source, sink, run):
    letters(dead, *["p1"] * 12, "p2")
    dead.send("{}")

    report = run(dry_run=True, drop_malformed=True)

    assert (report.letters, report.ids, report.malformed) == (14, {"p1": 12, "p2": 1}, 1)
    assert (report.looks, report.deleted, report.kept) == (0, 0, 14)
    assert source.asked == []
    assert dead.count() == {"visible": 14}
    assert str(report).startswith(
        "14 letters of 2 ids, the oldest 0 s: a dry run, nothing was done\n"
    )


def test_no_more_letters_are_received_than_the_limit(dead, source, run):
    letters(dead, *(f"p{n}" for n in range(30)))

    report = run(limit=13)

    assert (report.letters, report.deleted) == (13, 13)
    assert dead.count() == {"visible": 17}


def test_an_empty_queue_is_reported_as_such(dead, run):
    assert run() == RedriveReport(
        letters=0,
        ids={},
        looks=0,
        deleted=0,
        kept=0,
        failed={},
        malformed=0,
        reasons={},
        oldest=0.0,
        dry_run=False,
        stopped=None,
    )


# Broken on purpose


def test_an_interrupt_hands_back_at_once_what_is_not_settled(dead, source, run):
    letters(dead, "p1", "p2", "p3")
    source.gate.clear()
    interrupted = threading.Event()

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    def end_the_look():
        assert interrupted.wait(30)  # a signal that was sent has not arrived yet
        source.gate.set()

    before = signal.signal(signal.SIGINT, interrupt)
    signaller = signalled(signal.SIGINT, when=source.arrived.acquire, then=end_the_look)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(threads=1)
    finally:
        signal.signal(signal.SIGINT, before)
    signaller.join()

    assert dead.count() == {"visible": 2}  # the look under way has settled one
    assert run().deleted == 2


KILLED = """
import os, signal, sys
import boto3
from change_events import HTTPFetcher, SQLiteSink, redrive

client = boto3.client("sqs")
client.meta.events.register(
    "before-call.sqs.DeleteMessageBatch", lambda **_: os.kill(os.getpid(), signal.SIGKILL)
)
queue_url, source, path = sys.argv[1:]
fetcher = HTTPFetcher(source + "/products/{id}")
redrive(queue_url, fetcher=fetcher, sink=SQLiteSink(path), settle=0.0, client=client)
"""


def test_a_redrive_that_is_killed_between_look_and_delete_loses_no_letter(
    dead, source, run, aws, tmp_path
):
    source.entities["p1"] = {"id": "p1"}
    letters(dead, *["p1"] * 3)
    path = str(tmp_path / "cache.db")

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, dead.queue_url, source.url, path], check=False
    )

    assert killed.returncode == -signal.SIGKILL
    with SQLiteSink(path) as cache:
        assert cache.get("p1") == {"id": "p1"}
    assert dead.count() == {"held": 3}  # until their visibility timeout is over


def test_a_failed_delete_is_tried_again(dead, source, run):
    client, left = failing("DeleteMessageBatch", OSError("no route"))
    letters(dead, "p1")

    report = run(client=client)

    assert (report.deleted, report.stopped, left) == (1, None, [])
    assert dead.count() == {}


def test_what_sqs_refuses_of_a_batch_is_tried_again_or_counts_as_kept(dead, source, run):
    def refused(fault):
        failed = [{"Id": "0", "Code": "InternalError", "SenderFault": fault}]
        return {"Successful": [], "Failed": failed, "ResponseMetadata": {}}

    client, left = failing("DeleteMessageBatch", refused(False))
    letters(dead, "p1")
    assert run(client=client).deleted == 1
    assert dead.count() == {}

    client, left = failing("DeleteMessageBatch", *[refused(False)] * 3)
    letters(dead, "p1")
    report = run(client=client)
    assert (report.deleted, report.kept, left) == (0, 1, [])
    assert dead.count() == {"visible": 1}

    client, left = failing("DeleteMessageBatch", refused(True))
    report = run(client=client)
    assert (report.deleted, report.kept) == (0, 1)
    assert dead.count() == {"held": 1}  # its handle is worth nothing, so it comes back later


@pytest.mark.parametrize("operation", ["ReceiveMessage", "DeleteMessageBatch"])
def test_a_call_that_sqs_denies_stops_the_redrive(dead, source, run, operation):
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "denied"}}, operation)
    client, _ = failing(operation, *[denied] * 100)
    letters(dead, "p1")

    report = run(client=client)

    assert report.stopped is denied
    assert report.deleted == 0
    assert dead.count() == {"visible": 1}


def test_letters_that_can_not_be_handed_back_come_back_later(dead, source, run, caplog):
    client, _ = failing("ChangeMessageVisibilityBatch", *[OSError("no route")] * 9)
    letters(dead, "p1")

    assert run(client=client, dry_run=True).letters == 1

    assert dead.count() == {"held": 1}
    assert "changing visibility failed: no route" in caplog.text


def test_what_on_progress_raises_ends_the_redrive(dead, source, run):
    letters(dead, "p1")
    source.gate.clear()

    def tell(progress):
        source.gate.set()
        raise LookupError("the user's own")

    with pytest.raises(LookupError, match="the user's own"):
        run(on_progress=tell)


# Settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": 0}, "limit must be an integer, 1 or more"),
        ({"limit": "3"}, "limit must be an integer, 1 or more"),
        ({"sink": None}, "sink needs entry and apply"),
        ({"fetcher": None}, "fetcher needs fetch"),
        ({"client": object()}, "client needs"),
        ({"threads": 0}, "threads must be from 1 to 256"),
        ({"settle": -1}, "settle must be from"),
        ({"max_gets_per_second": 0}, "max_gets_per_second must be from"),
        ({"dry_run": 1}, "dry_run must be True or False"),
        ({"drop_malformed": "false"}, "drop_malformed must be True or False"),
        ({"on_progress": 1}, "on_progress must be a function"),
        ({"verify_signatures": True}, "needs topic_arn="),
        ({"topic_arn": "products"}, "is not a topic's ARN"),
        ({"queue_url": None}, "queue_url must be a queue's URL"),
        ({"queue_url": "products-dead"}, "is not a queue's URL"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_received(dead, run, wrong, message):
    letters(dead, "p1")

    with pytest.raises(ConfigurationError, match=message):
        run(**wrong)

    assert dead.count() == {"visible": 1}


def test_a_queue_that_does_not_exist_is_a_wrong_setting(dead, run):
    with pytest.raises(ConfigurationError, match="can't be read"):
        run(dead.queue_url + "-gone")


def test_a_client_that_is_less_patient_than_a_receive_is_refused(dead, run):
    from botocore.config import Config

    client = boto3.client("sqs", config=Config(read_timeout=1))

    with pytest.raises(ConfigurationError, match="read_timeout"):
        run(client=client)


def test_two_redrives_and_a_worker_share_the_letters(dead, source, sink, run, make_worker):
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(40)}
    letters(dead, *source.entities)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    make_worker(dead.queue_url).drain()
    for thread in threads:
        thread.join()

    wait_until(lambda: dead.count() == {})
    assert len(sink) == 40


def test_all_letters_of_an_id_are_dropped_from_a_fifo_queue(make_channel, source, sink):
    fifo = make_channel(fifo=True)
    fifo.announce(*["p1", "p2"] * 15)
    settings = Settings(
        fifo.queue_url, fetcher=HTTPFetcher(source.url + "/products/{id}"), sink=sink
    )

    assert drop(fifo.queue_url, settings=settings, ids={"p1"}).dropped == 15
