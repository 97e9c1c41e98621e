"""What the emulator does in another way than moto."""

from __future__ import annotations

import boto3
from moto.sqs.models import sqs_backends


def test_a_queue_forgets_a_message_after_its_retention_period(channel):
    sqs = boto3.client("sqs")
    sqs.set_queue_attributes(
        QueueUrl=channel.queue_url, Attributes={"MessageRetentionPeriod": "60"}
    )
    for body in "old", "new":
        sqs.send_message(QueueUrl=channel.queue_url, MessageBody=body)
    account, name = channel.queue_url.split("/")[-2:]
    queue = sqs_backends[account][sqs.meta.region_name].get_queue(name)
    (old,) = (message for message in queue._messages if message.body == "old")
    old.sent_timestamp -= 61_000

    answer = sqs.receive_message(
        QueueUrl=channel.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=5
    )

    assert [message["Body"] for message in answer["Messages"]] == ["new"]
