"""
SNS and SQS, as far as they may be relied on: they deliver what they accept, at least once, in any
order, at any time.
"""

from __future__ import annotations

import heapq
import json
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from verification.proof.simulation._ghost import Message, Save
from verification.proof.simulation._kernel import NEVER, Killed, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.proof.simulation._world import World

TOPIC_ARN = "arn:aws:sns:eu-west-1:123456789012:products"
QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/products"

SAVE: ContextVar[Save | None] = ContextVar("save", default=None)
"""
Ghost: on behalf of which save something is broadcast. Renewals and confirmations keep their save's
context.
"""

JSON = dict[str, Any]


class Refused(Exception):  # noqa: N818
    """A call was not answered, or not with what was asked for."""


def entity_of(body: str) -> str:
    """Read the id of a body that starts with it, without parsing the rest."""
    return body[8 : body.index('"', 8)]


class SNSClient:
    """boto3's SNS client, in one process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def publish(
        self, *, TopicArn: str, Message: str, MessageAttributes: JSON | None = None
    ) -> JSON:
        self._send(TopicArn, [(Message, MessageAttributes or {})])
        return {}

    def publish_batch(self, *, TopicArn: str, PublishBatchRequestEntries: list[JSON]) -> JSON:
        world = self._world
        fails = world.faults.batch_entry_fails
        failed = [
            entry["Id"] for entry in PublishBatchRequestEntries if fails and world.random() < fails
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
        world = self._world
        world.kernel.enter()
        assert topic == TOPIC_ARN
        save = SAVE.get()
        started = world.kernel.now
        world.ghost.counts["publishes"] += 1
        accept = partial(world.topic.accept, save, started, messages)
        try:
            world.kernel.pause(world.publish_takes())
        except Killed:
            if world.random() < 0.5:  # the process is dead, its request is under way
                accept()
            raise
        faults = world.faults
        if world.topic.is_down or world.random() < faults.publish_fails:
            raise Refused("no answer from SNS")
        accept()
        if world.random() < 0.2:
            world.kernel.pause(world.publish_takes())
        if world.random() < faults.publish_hides:
            raise Refused("no answer from SNS, which has accepted it")


class Topic:
    """The topic and its subscription."""

    def __init__(self, world: World, *, raw: bool) -> None:
        self._world = world
        self._raw = raw
        self.is_down = False

    def accept(self, save: Save | None, started: float, messages: list[tuple[str, JSON]]) -> None:
        world = self._world
        faults = world.faults
        for body, attributes in messages:
            copies = 2 if world.random() < faults.duplicated else 1
            for _ in range(copies):
                message = Message(body, attributes, entity_of(body))
                world.ghost.accepted(save, started, message)
                if not self._raw:
                    message.body, message.attributes = _enveloped(body, attributes), {}
                world.kernel.at(
                    world.kernel.now + world.delivery_takes(), partial(world.queue.arrive, message)
                )


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
    """The queue and its dead-letter queue."""

    def __init__(self, world: World, *, delay: float, most_receives: int) -> None:
        self._world = world
        self._kernel = world.kernel
        self.delay = delay
        self._most_receives = most_receives
        self._messages: dict[str, Message] = {}
        self._hidden: list[
            tuple[float, int, Message]
        ] = []  # a heap; entries that do not match their message are skipped
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
        """Make it visible then."""
        self._number += 1
        message.visible_at = time
        heapq.heappush(self._hidden, (time, self._number, message))
        for task, wakes in self._polls.items():
            if time < wakes:
                self._polls[task] = time
                self._kernel.wake(task, max(time, self._kernel.now))
                break

    def redrive(self) -> None:
        """
        Move the dead letters back, as `StartMessageMoveTask` does: under new ids, with no receives.
        """
        dead, self.dead = self.dead, []
        for message in dead:
            self._world.ghost.tell(message.entity, f"{message.message_id} is redriven")
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
        world, now, hidden, visible = self._world, self._kernel.now, self._hidden, self._visible
        while hidden and hidden[0][0] <= now:
            time, _, message = heapq.heappop(hidden)
            if message.visible_at == time and not message.deleted:
                visible.append(message)
        taken: list[Message] = []
        while visible and len(taken) < most:
            # Any of them: a standard queue has no order.
            position = int(world.random() * len(visible))
            message, visible[position] = visible[position], visible[-1]
            visible.pop()
            if message.deleted or message.visible_at > now:
                continue
            message.receive_count += 1
            if message.receive_count > self._most_receives:
                message.visible_at = NEVER
                self.dead.append(message)
                world.ghost.counts["dead letters"] += 1
                world.ghost.tell(
                    message.entity, f"{message.message_id} goes to the dead-letter queue"
                )
                continue
            again = world.random() < world.faults.redelivered
            self.show(message, now + (world.random() * visibility if again else visibility))
            taken.append(message)
        return taken

    def delete(self, handle: str) -> None:
        """
        Delete, or seem to: SQS may keep what it was asked to delete by an old handle, and bring
        back what it had deleted.
        """
        message_id, _, count = handle.partition("/")
        message = self._messages.get(message_id)
        if message is None or (int(count) != message.receive_count and self._world.random() < 0.5):
            return
        if self._world.random() < self._world.faults.redelivered:
            self.show(message, self._kernel.now + 10 * self._world.random())
            return
        if message.visible_at == NEVER:
            self.dead.remove(message)
        del self._messages[message_id]
        message.deleted = True
        self._world.ghost.deleted(message)

    def hide(self, handle: str, seconds: float) -> bool:
        """Change the visibility; False if the message is not in flight."""
        message_id, _, count = handle.partition("/")
        message = self._messages.get(message_id)
        now = self._kernel.now
        if message is None or message.visible_at <= now or message.visible_at == NEVER:
            return False
        if int(count) != message.receive_count and self._world.random() < 0.5:
            return False
        self.show(message, now + seconds)
        return True

    def of(self, handle: str) -> Message | None:
        return self._messages.get(handle.partition("/")[0])


class SQSClient:
    """
    boto3's SQS client, in one process.

    Args:
        world: Where it is.
        strict: The process is one of ours: the ghost watches what it acknowledges.
    """

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=30))

    def __init__(self, world: World, *, strict: bool) -> None:
        self._world = world
        self._strict = strict

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> JSON:  # noqa: ARG002
        return {"Attributes": {"DelaySeconds": str(int(self._world.queue.delay))}}

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
        world = self._world
        process = world.kernel.enter()
        world.kernel.pause(world.queue_takes())
        messages = world.queue.poll(MaxNumberOfMessages, WaitTimeSeconds, VisibilityTimeout)
        world.kernel.pause(world.queue_takes())
        if world.random() < world.faults.call_fails:
            raise Refused("no answer from SQS")
        world.ghost.received(process, messages)
        world.delivered(process, len(messages))
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
        queue, ghost = self._world.queue, self._world.ghost
        process = self._world.kernel.enter()
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
        queue = self._world.queue
        self._world.kernel.enter()
        return self._call(
            Entries, lambda entry: queue.hide(entry["ReceiptHandle"], entry["VisibilityTimeout"])
        )

    def _call(self, entries: list[JSON], act: Callable[[JSON], bool]) -> JSON:
        world = self._world
        try:
            world.kernel.pause(world.queue_takes())
        except Killed:
            if world.random() < 0.5:
                for entry in entries:
                    act(entry)
            raise
        faults = world.faults
        if world.random() < faults.call_fails:
            raise Refused("no answer from SQS")
        failed = []
        for entry in entries:
            if world.random() < faults.batch_entry_fails:
                failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
            elif not act(entry):
                failed.append(
                    {"Id": entry["Id"], "Code": "MessageNotInflight", "SenderFault": True}
                )
        if world.random() < 0.1:
            world.kernel.pause(world.queue_takes())
        if world.random() < faults.call_fails:
            raise Refused("no answer from SQS, which has done it")
        return {"Failed": failed}
