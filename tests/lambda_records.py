"""Records of an SQS event for Lambda, for tests."""

from __future__ import annotations

import json

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
