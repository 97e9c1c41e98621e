"""A message that is not a change event of the topic is logged once, and never acknowledged."""

from __future__ import annotations

import json
import logging

from change_events._consumer import log as log_module
from conftest import running, wait_until


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


def test_every_malformed_message_is_counted_though_few_are_remembered(
    channel, make_worker, monkeypatch, caplog
):
    monkeypatch.setattr(log_module, "REMEMBERED", 2)
    for _ in range(5):
        channel.send("{}")

    worker = make_worker()
    assert worker.drain() == 0

    assert worker.stats().malformed == 5
    assert channel.count() == {"held": 5}
