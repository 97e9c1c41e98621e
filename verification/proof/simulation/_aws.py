"""
SNS and SQS with only what they guarantee.

They deliver what they accept: at least once, in any order, at any time.
"""

from __future__ import annotations

import json
import math
from contextvars import ContextVar
from email.utils import formatdate
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from verification.proof.simulation._books import Message, Save
from verification.proof.simulation._kernel import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.proof.simulation._environment import Environment
    from verification.proof.simulation._kernel import Process
    from verification.proof.simulation._queue import Queue

TOPIC_ARN = "arn:aws:sns:eu-west-1:123456789012:products"
QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/products"

SAVE: ContextVar[Save | None] = ContextVar("save", default=None)
"""
For the ghost: the save that a broadcast belongs to.

Renewals and confirmations keep their save's context, also if saves share a call.
"""

JSON = dict[str, Any]

EPOCH = 1_700_000_000
"""When a world begins, in seconds since the epoch."""


class Refused(Exception):  # noqa: N818
    """A call failed, or its answer was lost."""


def entity_of(body: str) -> str:
    """Return the id of a body that starts with it, without parsing the rest."""
    return body[8 : body.index('"', 8)]


def _milliseconds(seconds: float) -> str:
    return str(math.floor((EPOCH + seconds) * 1000))


class Cloud(Protocol):
    """What a world's clients of AWS know of it."""

    @property
    def environment(self) -> Environment: ...
    @property
    def topic(self) -> Topic: ...
    @property
    def queue(self) -> Queue: ...
    def delivered(self, process: Process, messages: int) -> None: ...


class SNSClient:
    """boto3's SNS client, in one process."""

    def __init__(self, cloud: Cloud) -> None:
        self._environment = cloud.environment
        self._topic = cloud.topic
        connections = 10 if cloud.environment.setup.shares_calls else 1
        self.meta = SimpleNamespace(config=SimpleNamespace(max_pool_connections=connections))

    def publish(
        self, *, TopicArn: str, Message: str, MessageAttributes: JSON | None = None
    ) -> JSON:
        self._send(TopicArn, [(Message, MessageAttributes or {})])
        return {}

    def publish_batch(self, *, TopicArn: str, PublishBatchRequestEntries: list[JSON]) -> JSON:
        environment = self._environment
        fails = environment.faults.batch_entry_fails
        failed = [
            entry["Id"]
            for entry in PublishBatchRequestEntries
            if fails and environment.random() < fails
        ]
        messages = [
            (each["Message"], each.get("MessageAttributes", {}))
            for each in PublishBatchRequestEntries
            if each["Id"] not in failed
        ]
        self._send(TopicArn, messages)
        return {
            "Failed": [
                {"Id": id, "Code": "InternalError", "Message": "", "SenderFault": False}
                for id in failed
            ]
        }

    def _send(self, topic: str, messages: list[tuple[str, JSON]]) -> None:
        environment = self._environment
        environment.kernel.enter()
        assert topic == TOPIC_ARN
        save = SAVE.get()
        started = environment.kernel.now
        environment.ghost.counts["publishes"] += 1
        accept = partial(self._topic.accept, save, started, messages)
        try:
            environment.kernel.pause(environment.durations.publish())
        except Killed:
            if environment.random() < 0.5:  # the process is dead, but its request is under way
                accept()
            raise
        faults = environment.faults
        if self._topic.is_down or environment.random() < faults.publish_fails:
            raise Refused("no answer from SNS")
        accept()
        if environment.random() < 0.2:
            environment.kernel.pause(environment.durations.publish())
        if environment.random() < faults.publish_hides:
            raise Refused("no answer from SNS, which has accepted it")


class Topic:
    """
    The topic and its subscription.

    Args:
        environment: What the world's parts share.
        queue: The queue that is subscribed.
        raw: Raw delivery: without an envelope.
        dead_letters: The subscription's dead-letter queue.

    Attributes:
        dead_letters: The subscription's dead-letter queue.
        is_down: SNS refuses everything.
    """

    def __init__(
        self, environment: Environment, queue: Queue, *, raw: bool, dead_letters: Queue
    ) -> None:
        self._environment = environment
        self._queue = queue
        self._raw = raw
        self.dead_letters = dead_letters
        self.is_down = False

    def accept(self, save: Save | None, started: float, messages: list[tuple[str, JSON]]) -> None:
        environment = self._environment
        kernel, faults = environment.kernel, environment.faults
        for body, attributes in messages:
            copies = 2 if environment.random() < faults.duplicated else 1
            for _ in range(copies):
                message = Message(body, attributes, entity_of(body))
                environment.ghost.accepted(save, started, message)
                if not self._raw:
                    message.body, message.attributes = _enveloped(body, attributes), {}
                arrival = kernel.now + environment.durations.deliver()
                queue = self._queue
                if environment.setup.operations and environment.random() < faults.undelivered:
                    queue = self.dead_letters
                    environment.ghost.counts["dead letters"] += 1
                kernel.at(arrival, partial(queue.arrive, message))


def _enveloped(body: str, attributes: JSON) -> str:
    values = {
        name: {"Type": "String", "Value": value["StringValue"]}
        for name, value in attributes.items()
    }
    return json.dumps(
        {
            "Type": "Notification",
            "TopicArn": TOPIC_ARN,
            "Message": body,
            "MessageAttributes": values,
        }
    )


class SQSClient:
    """
    boto3's SQS client, in one process.

    Args:
        cloud: The world's AWS.
        strict: The ghost checks what this process acknowledges, because it is one of ours.
        beat: For how many seconds its heartbeat keeps messages invisible.
        aged: It tells when a message was sent, and what time it is, by the clocks of SQS's hosts.
    """

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=30))

    def __init__(
        self, cloud: Cloud, *, strict: bool, beat: float = 0.0, aged: bool = False
    ) -> None:
        self._environment = cloud.environment
        self._queue = cloud.queue
        self._delivered = cloud.delivered
        self._strict = strict
        self._beat = beat
        self._aged = aged

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> JSON:  # noqa: ARG002
        return {"Attributes": {"DelaySeconds": str(int(self._queue.delay))}}

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: ARG002
        MaxNumberOfMessages: int,
        WaitTimeSeconds: float,
        VisibilityTimeout: float,
        MessageAttributeNames: Sequence[str] = (),  # noqa: ARG002
        MessageSystemAttributeNames: Sequence[str] = (),  # noqa: ARG002
    ) -> JSON:
        environment = self._environment
        kernel = environment.kernel
        process = kernel.enter()
        kernel.pause(environment.durations.queue())
        messages = self._queue.poll(MaxNumberOfMessages, WaitTimeSeconds, VisibilityTimeout)
        kernel.pause(environment.durations.queue())
        if environment.random() < environment.faults.call_fails:
            raise Refused("no answer from SQS")
        environment.ghost.received(process, messages)
        self._delivered(process, len(messages))
        return {
            "Messages": [
                {
                    "MessageId": message.message_id,
                    "ReceiptHandle": f"{message.message_id}/{message.receive_count}",
                    "Body": message.body,
                    "Attributes": {
                        "ApproximateReceiveCount": str(message.receive_count),
                        **({"SentTimestamp": _milliseconds(message.sent_at)} if self._aged else {}),
                    },
                    "MessageAttributes": message.attributes,
                }
                for message in messages
            ],
            **({"ResponseMetadata": {"HTTPHeaders": {"date": self._date()}}} if self._aged else {}),
        }

    def _date(self) -> str:
        """Return the time by the clock of one of SQS's hosts: they differ by less than a second."""
        environment = self._environment
        ahead = 0.99 * environment.random()
        return formatdate(EPOCH + math.floor(environment.kernel.now + ahead), usegmt=True)

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[JSON]) -> JSON:  # noqa: ARG002
        queue, ghost = self._queue, self._environment.ghost
        process = self._environment.kernel.enter()
        if self._strict:
            for entry in Entries:
                message = queue.of(entry["ReceiptHandle"])
                if message is not None:
                    ghost.acknowledging(process, message, aged=self._aged)

        def delete(entry: JSON) -> bool:
            queue.delete(entry["ReceiptHandle"])
            return True

        return self._call(Entries, delete)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[JSON]) -> JSON:  # noqa: ARG002
        process = self._environment.kernel.enter()
        for entry in Entries if not process.stopping else ():
            message = self._queue.of(entry["ReceiptHandle"])
            if message is not None and entry["VisibilityTimeout"] != self._beat:
                self._environment.ghost.handed_back(process, message)
        return self._call(
            Entries,
            lambda entry: self._queue.hide(entry["ReceiptHandle"], entry["VisibilityTimeout"]),
        )

    def _call(self, entries: list[JSON], act: Callable[[JSON], bool]) -> JSON:
        environment = self._environment
        try:
            environment.kernel.pause(environment.durations.queue())
        except Killed:
            if environment.random() < 0.5:
                for entry in entries:
                    act(entry)
            raise
        faults = environment.faults
        if environment.random() < faults.call_fails:
            raise Refused("no answer from SQS")
        failed = []
        for entry in entries:
            if environment.random() < faults.batch_entry_fails:
                failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
            elif not act(entry):
                failed.append(
                    {"Id": entry["Id"], "Code": "MessageNotInflight", "SenderFault": True}
                )
        if environment.random() < 0.1:
            environment.kernel.pause(environment.durations.queue())
        if environment.random() < faults.call_fails:
            raise Refused("no answer from SQS, which has done it")
        return {"Failed": failed}
