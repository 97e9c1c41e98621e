"""An SQS queue in memory."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from change_events._producer.publishers import SNSPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._event import ChangeEvent

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/fake-queue"
TOPIC_ARN = "arn:aws:sns:eu-west-1:123456789012:fake-topic"

EMPTY_POLL = 0.005
"""Seconds of a long poll that only a new message can end. With 0, workers would poll nonstop."""

Attributes = Mapping[str, Mapping[str, str]]
"""Message attributes of SNS and SQS: `{"settle": {"DataType": "Number", "StringValue": "9"}}`."""

_send = SNSPublisher.publish
"""The real method, because `recording()` replaces it."""


class FakeQueue:
    """
    A standard SQS queue in memory, subscribed to a topic with raw delivery. Threads can share it.

    Give a worker `url` and `client`. The queue is a `Publisher`, too: it contains what it
    publishes, encoded as for SNS. It has visibility timeouts, receive counts, the queue's delay,
    message attributes and a redrive policy. It keeps messages in order, which SQS does not promise.

    It differs from SQS in one point on purpose: a long poll that can only time out does so after 5
    ms, not 20 s. So `Worker.drain()` takes milliseconds, and `stop()` need not wait for the poll. A
    poll does wait for a message that becomes visible within the poll's time.

    Args:
        delay_seconds: `DelaySeconds`: how long each message waits before it can be received.
        max_receive_count: The receives after which a message becomes a dead letter. None: no limit.
    """

    def __init__(self, *, delay_seconds: int = 0, max_receive_count: int | None = None) -> None:
        self.url = URL
        self._messages = _Messages(delay_seconds, max_receive_count or math.inf)
        self.client: Any = _Client(self._messages)
        self._publisher = SNSPublisher(TOPIC_ARN, client=_Topic(self._messages))

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """Put the events into the queue, each as a message of its own."""
        _send(self._publisher, events)

    def send(self, body: str, attributes: Mapping[str, str] | None = None) -> None:
        """Put any message into the queue, such as one that is not a change event."""
        texts = (attributes or {}).items()
        self._messages.add(
            body, {name: {"DataType": "String", "StringValue": text} for name, text in texts}
        )

    def duplicate(self) -> None:
        """
        Deliver each message that is in the queue now once more than needed. SQS sometimes does.

        A message that somebody holds becomes visible again at once. Another one comes twice, even
        if it is deleted in between: in SQS, a server that missed the delete still has a copy.
        """
        self._messages.duplicate()

    def advance(self, seconds: float) -> None:
        """
        Let time pass for the queue: for delays, visibility timeouts and the age of messages.

        It does not pass for workers. But like SQS, the queue tells them how old a message is.
        """
        self._messages.advance(seconds)

    @property
    def bodies(self) -> list[str]:
        """The bodies of all unacknowledged messages: visible, delayed or held by a worker."""
        return self._messages.bodies()

    @property
    def dead_letters(self) -> list[str]:
        """The bodies of messages that were received too often. The next receive moves them here."""
        return self._messages.dead_letters()


@dataclass(slots=True, eq=False)
class _Message:
    body: str
    attributes: Attributes
    visible_at: float
    sent: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receives: int = 0
    owed: int = 0  # deliveries that must come before a delete works


@dataclass(frozen=True, slots=True)
class _Delivery:
    message: _Message
    receipt_handle: str
    receives: int


class _Messages:
    def __init__(self, delay: int, max_receives: float) -> None:
        self.delay = delay
        self._max_receives = max_receives
        self._changed = threading.Condition()
        self.advanced = 0.0
        self._present: list[_Message] = []
        self._dead: list[_Message] = []
        self._delivered: dict[str, _Message] = {}  # by receipt handle, deleted ones included

    def add(self, body: str, attributes: Attributes) -> None:
        with self._changed:
            sent = time.time() + self.advanced
            self._present.append(_Message(body, attributes, self._now() + self.delay, sent))
            self._changed.notify_all()

    def duplicate(self) -> None:
        with self._changed:
            now = self._now()
            for message in self._present:
                held = message.receives and message.visible_at > now
                message.owed = 1 if held else 2
                message.visible_at = now if held else message.visible_at
            self._changed.notify_all()

    def advance(self, seconds: float) -> None:
        with self._changed:
            self.advanced += seconds
            self._changed.notify_all()

    def bodies(self) -> list[str]:
        with self._changed:
            return [message.body for message in self._present]

    def dead_letters(self) -> list[str]:
        with self._changed:
            return [message.body for message in self._dead]

    def counts(self) -> dict[str, int]:
        """Count the messages, with SQS's names."""
        with self._changed:
            hidden = [message for message in self._present if message.visible_at > self._now()]
            delayed = sum(not message.receives for message in hidden)
            return {
                "ApproximateNumberOfMessages": len(self._present) - len(hidden),
                "ApproximateNumberOfMessagesNotVisible": len(hidden) - delayed,
                "ApproximateNumberOfMessagesDelayed": delayed,
            }

    def receive(self, *, most: int, wait: float, visibility: float) -> list[_Delivery]:
        """Long-poll for messages, as `FakeQueue` describes it. Times are in seconds."""
        with self._changed:
            started = now = self._now()
            while not (visible := self._visible(now)[:most]):
                comes = min((message.visible_at for message in self._present), default=math.inf)
                patience = wait if comes <= started + wait else min(wait, EMPTY_POLL)
                if now >= started + patience:
                    break
                self._changed.wait(min(started + patience, comes) - now)
                now = self._now()
            return [self._deliver(message, visibility) for message in visible]

    def _visible(self, now: float) -> list[_Message]:
        """Move messages that were received too often; return the other visible ones."""
        visible = [message for message in self._present if message.visible_at <= now]
        spent = [message for message in visible if message.receives >= self._max_receives]
        self._dead += spent
        self._present = [message for message in self._present if message not in spent]
        return [message for message in visible if message not in spent]

    def _deliver(self, message: _Message, visibility: float) -> _Delivery:
        message.receives += 1
        message.owed = max(0, message.owed - 1)
        message.visible_at = self._now() + (0 if message.owed else visibility)
        receipt_handle = uuid.uuid4().hex
        self._delivered[receipt_handle] = message
        return _Delivery(message, receipt_handle, message.receives)

    def delete(self, receipt_handle: str) -> bool:
        """Delete a message, or do nothing if it is deleted. Return False for an unknown handle."""
        with self._changed:
            message = self._delivered.get(receipt_handle)
            if message in self._present and not message.owed:
                self._present.remove(message)
                self._changed.notify_all()
            return message is not None

    def hide(self, receipt_handle: str, seconds: float) -> bool:
        """Hide a message; return False if no message in the queue has the handle."""
        with self._changed:
            message = self._delivered.get(receipt_handle)
            if message is None or message not in self._present:
                return False
            message.visible_at = self._now() + seconds
            self._changed.notify_all()
            return True

    def _now(self) -> float:
        return time.monotonic() + self.advanced


class _Topic:
    """The SNS client of the queue's topic, as far as `SNSPublisher` uses it."""

    def __init__(self, messages: _Messages) -> None:
        self._messages = messages

    def publish(
        self, *, TopicArn: str, Message: str, MessageAttributes: Attributes | None = None
    ) -> None:
        del TopicArn  # there is only one
        self._messages.add(Message, MessageAttributes or {})

    def publish_batch(
        self, *, TopicArn: str, PublishBatchRequestEntries: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        for entry in PublishBatchRequestEntries:
            message = {name: value for name, value in entry.items() if name != "Id"}
            self.publish(TopicArn=TopicArn, **message)
        return {"Failed": []}


class _Client:
    """The calls of an SQS client that `Worker` uses. Others raise `TypeError` or `KeyError`."""

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=60))

    def __init__(self, messages: _Messages) -> None:
        self._messages = messages

    def get_queue_attributes(
        self, *, QueueUrl: str, AttributeNames: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        _require(QueueUrl)
        attributes = {"DelaySeconds": self._messages.delay, **self._messages.counts()}
        return {"Attributes": {name: str(attributes[name]) for name in AttributeNames}}

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        WaitTimeSeconds: int = 0,
        VisibilityTimeout: int = 30,
        MessageAttributeNames: Sequence[str] = (),
        MessageSystemAttributeNames: Sequence[str] = (),
    ) -> dict[str, Any]:
        _require(QueueUrl)
        deliveries = self._messages.receive(
            most=MaxNumberOfMessages, wait=WaitTimeSeconds, visibility=VisibilityTimeout
        )
        messages = [
            _shown(delivery, MessageAttributeNames, MessageSystemAttributeNames)
            for delivery in deliveries
        ]
        # As boto3 shows it. A worker tells the age of a message by it.
        date = formatdate(time.time() + self._messages.advanced, usegmt=True)
        metadata = {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}
        return metadata | ({"Messages": messages} if messages else {})

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Any]) -> dict[str, Any]:
        _require(QueueUrl)
        return _batch_answer(Entries, lambda entry: self._messages.delete(entry["ReceiptHandle"]))

    def change_message_visibility_batch(
        self, *, QueueUrl: str, Entries: Sequence[Any]
    ) -> dict[str, Any]:
        _require(QueueUrl)
        hide = self._messages.hide
        return _batch_answer(
            Entries, lambda entry: hide(entry["ReceiptHandle"], entry["VisibilityTimeout"])
        )


def _require(url: str) -> None:
    if url != URL:
        raise ValueError(
            f"this client knows one queue, {URL}, and not {url!r}: use the FakeQueue's own url"
        )


def _shown(
    delivery: _Delivery, attribute_names: Sequence[str], system_attribute_names: Sequence[str]
) -> dict[str, Any]:
    sent = str(int(delivery.message.sent * 1000))
    system = {"ApproximateReceiveCount": str(delivery.receives), "SentTimestamp": sent}
    absent = {"AWSTraceHeader"}
    message = {
        "MessageId": delivery.message.id,
        "ReceiptHandle": delivery.receipt_handle,
        "Body": delivery.message.body,
        "Attributes": {name: system[name] for name in system_attribute_names if name not in absent},
        "MessageAttributes": {
            name: dict(value)
            for name, value in delivery.message.attributes.items()
            if name in attribute_names or "All" in attribute_names
        },
    }
    return {name: value for name, value in message.items() if value}  # SQS leaves out what is empty


def _batch_answer(entries: Sequence[Any], do: Callable[[Any], bool]) -> dict[str, Any]:
    done = {entry["Id"]: do(entry) for entry in entries}
    refusal = {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
    return {
        "Successful": [{"Id": id} for id in done if done[id]],
        "Failed": [{"Id": id, **refusal} for id in done if not done[id]],
    }
