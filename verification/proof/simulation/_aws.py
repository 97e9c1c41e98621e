"""
SNS and SQS with only what they guarantee.

They deliver what they accept: at least once, in any order, at any time.
"""

from __future__ import annotations

import heapq
import json
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from verification.proof.simulation._books import Message, Save
from verification.proof.simulation._kernel import NEVER, Killed, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.proof.simulation._environment import Environment
    from verification.proof.simulation._kernel import Process

TOPIC_ARN = "arn:aws:sns:eu-west-1:123456789012:products"
QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/products"

SAVE: ContextVar[Save | None] = ContextVar("save", default=None)
"""
For the ghost: the save that a broadcast belongs to.

Renewals and confirmations keep their save's context, also if saves share a call.
"""

JSON = dict[str, Any]


class Refused(Exception):  # noqa: N818
    """A call failed, or its answer was lost."""


def entity_of(body: str) -> str:
    """Return the id of a body that starts with it, without parsing the rest."""
    return body[8 : body.index('"', 8)]


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

    Attributes:
        is_down: SNS refuses everything.
    """

    def __init__(self, environment: Environment, queue: Queue, *, raw: bool) -> None:
        self._environment = environment
        self._queue = queue
        self._raw = raw
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
                kernel.at(arrival, partial(self._queue.arrive, message))


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


class Queue:
    """
    The queue and its dead-letter queue.

    Args:
        environment: What the world's parts share.
        delay: The queue's delay in seconds.
        most_receives: The queue's `maxReceiveCount`.

    Attributes:
        delay: The queue's delay in seconds.
        dead: The dead letters.
    """

    def __init__(self, environment: Environment, *, delay: float, most_receives: int) -> None:
        self._environment = environment
        self._kernel = environment.kernel
        self.delay = delay
        self._most_receives = most_receives
        self._messages: dict[str, Message] = {}
        # A heap. Entries whose time is not their message's are skipped.
        self._hidden: list[tuple[float, int, Message]] = []
        self._visible: list[Message] = []
        self._number = 0
        self._polls: dict[Task, float] = {}
        self.dead: list[Message] = []

    def arrive(self, message: Message, delay: float | None = None) -> None:
        self._number += 1
        message.message_id = f"m{self._number}"
        message.receive_count = 0
        self._messages[message.message_id] = message
        self.show(message, self._kernel.now + (self.delay if delay is None else delay))

    def show(self, message: Message, time: float) -> None:
        """Make a message visible at this time."""
        self._number += 1
        message.visible_at = time
        heapq.heappush(self._hidden, (time, self._number, message))
        for task, wakes in self._polls.items():
            if time < wakes:
                self._polls[task] = time
                self._kernel.wake(task, max(time, self._kernel.now))
                break

    def redrive(self) -> None:
        """Move the dead letters back as `StartMessageMoveTask` does: with new ids, no receives."""
        dead, self.dead = self.dead, []
        for message in dead:
            self._environment.ghost.tell(message.entity, f"{message.message_id} is redriven")
            del self._messages[message.message_id]
            self.arrive(message, 0.0)

    def poll(self, most: int, wait: float, visibility: float) -> list[Message]:
        kernel, task = self._kernel, self._kernel.current
        deadline = kernel.now + wait
        while not (taken := self._take(most, visibility)) and kernel.now < deadline:
            wakes = self._polls[task] = min(deadline, self._hidden[0][0] if self._hidden else NEVER)
            try:
                kernel.pause(max(wakes - kernel.now, 0.0))
            finally:
                del self._polls[task]
        return taken

    def _take(self, most: int, visibility: float) -> list[Message]:
        environment, now = self._environment, self._kernel.now
        hidden, visible = self._hidden, self._visible
        while hidden and hidden[0][0] <= now:
            time, _, message = heapq.heappop(hidden)
            if message.visible_at == time and not message.deleted:
                visible.append(message)
        taken: list[Message] = []
        while visible and len(taken) < most:
            # Any message: a standard queue has no order.
            position = int(environment.random() * len(visible))
            message, visible[position] = visible[position], visible[-1]
            visible.pop()
            if message.deleted or message.visible_at > now:
                continue
            message.receive_count += 1
            if message.receive_count > self._most_receives:
                message.visible_at = NEVER
                self.dead.append(message)
                environment.ghost.counts["dead letters"] += 1
                environment.ghost.tell(
                    message.entity, f"{message.message_id} goes to the dead-letter queue"
                )
                continue
            again = environment.random() < environment.faults.redelivered
            self.show(message, now + (environment.random() * visibility if again else visibility))
            taken.append(message)
        return taken

    def delete(self, handle: str) -> None:
        """
        Delete a message, or pretend to.

        SQS may ignore an old handle, and it may bring back what it has deleted.
        """
        message_id, _, count = handle.partition("/")
        message = self._messages.get(message_id)
        random = self._environment.random
        if message is None or (int(count) != message.receive_count and random() < 0.5):
            return
        if random() < self._environment.faults.redelivered:
            self.show(message, self._kernel.now + 10 * random())
            return
        if message.visible_at == NEVER:
            self.dead.remove(message)
        del self._messages[message_id]
        message.deleted = True
        self._environment.ghost.deleted(message)

    def hide(self, handle: str, seconds: float) -> bool:
        """Change a message's visibility; return False if the message is not in flight."""
        message_id, _, count = handle.partition("/")
        message = self._messages.get(message_id)
        now = self._kernel.now
        if message is None or message.visible_at <= now or message.visible_at == NEVER:
            return False
        if int(count) != message.receive_count and self._environment.random() < 0.5:
            return False
        self.show(message, now + seconds)
        return True

    def of(self, handle: str) -> Message | None:
        """Return a handle's message."""
        return self._messages.get(handle.partition("/")[0])


class SQSClient:
    """
    boto3's SQS client, in one process.

    Args:
        cloud: The world's AWS.
        strict: The ghost checks what this process acknowledges, because it is one of ours.
        beat: For how many seconds its heartbeat keeps messages invisible.
    """

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=30))

    def __init__(self, cloud: Cloud, *, strict: bool, beat: float = 0.0) -> None:
        self._environment = cloud.environment
        self._queue = cloud.queue
        self._delivered = cloud.delivered
        self._strict = strict
        self._beat = beat

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
                    "Attributes": {"ApproximateReceiveCount": str(message.receive_count)},
                    "MessageAttributes": message.attributes,
                }
                for message in messages
            ]
        }

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[JSON]) -> JSON:  # noqa: ARG002
        queue, ghost = self._queue, self._environment.ghost
        process = self._environment.kernel.enter()
        if self._strict:
            for entry in Entries:
                message = queue.of(entry["ReceiptHandle"])
                if message is not None:
                    ghost.acknowledging(process, message)

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
