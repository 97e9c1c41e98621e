"""Records of an SQS event for Lambda, and what receives and invokes as Lambda does, for tests."""

from __future__ import annotations

import json
import time

import boto3

EPOCH = 1_800_000_000
"""The time, in tests that ask no real queue."""


def record(
    id="p1",
    *,
    body=None,
    age=0.0,
    waited=0.0,
    now=EPOCH,
    receives=1,
    arn=None,
    group=None,
    name=None,
    **attributes,
):
    """
    Return a record like the one in AWS's documentation, with the given body and times.

    The message was sent `age` seconds before `now`, and first received `waited` seconds after it
    was sent.
    """
    sent = round((now - age) * 1000)
    return {
        "messageId": name or f"message of {id}",
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": json.dumps({"id": id}) if body is None else body,
        "attributes": {
            "ApproximateReceiveCount": str(receives),
            "SentTimestamp": str(sent),
            "SenderId": "AIDAENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": str(sent + round(waited * 1000)),
            **({"MessageGroupId": group} if group else {}),
        },
        "messageAttributes": {
            name: {
                "stringValue": value,
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            }
            for name, value in attributes.items()
        },
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": arn or "arn:aws:sqs:eu-west-1:123456789012:my-queue",
        "awsRegion": "eu-west-1",
    }


class Context:
    """Lambda's context: how much time is left."""

    def __init__(self, seconds=10.0):
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self):
        return int((self._ends - time.monotonic()) * 1000)


def arn_of(queue_url):
    return f"arn:aws:sqs:eu-west-1:123456789012:{queue_url.rpartition('/')[2]}"


def to_record(message, arn):
    """
    A received message as Lambda passes it on (AWS Lambda Developer Guide, "Using Lambda with Amazon
    SQS").
    """
    own = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {
                "stringValue": value["StringValue"],
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in own.items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "eu-west-1",
    }


class EventSourceMapping:
    """Lambda's poller: receives, invokes, and deletes what the answer does not name."""

    def __init__(self, queue_url, handler=None):
        self.queue_url = queue_url
        self.arn = arn_of(queue_url)
        self.handler = handler
        self.sqs = boto3.client("sqs")

    def receive(self, *, visibility=30):
        response = self.sqs.receive_message(
            QueueUrl=self.queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=1,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return {
            "Records": [to_record(message, self.arn) for message in response.get("Messages", [])]
        }

    def invoke(self, event):
        """Invoke the handler; return the bodies of the records that come back."""
        answer = self.handler(event, Context())
        assert json.loads(json.dumps(answer)) == answer
        assert list(answer) == ["batchItemFailures"]
        failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
        received = {each["messageId"]: each for each in event["Records"]}
        assert set(failed) <= set(received)  # or Lambda would treat the whole batch as failed
        for message_id in set(received) - set(failed):
            self.sqs.delete_message(
                QueueUrl=self.queue_url, ReceiptHandle=received[message_id]["receiptHandle"]
            )
        return [received[message_id]["body"] for message_id in failed]

    def poll(self):
        event = self.receive()
        return self.invoke(event) if event["Records"] else []

    def poll_until(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            self.poll()
