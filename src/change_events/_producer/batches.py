"""Many events: ten in a call, and several calls at once."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

from change_events._producer.checks import require_sent

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH_SIZE = 10
"""Most entries in one `PublishBatch` call (Amazon SNS API Reference, PublishBatch)."""

Message: TypeAlias = dict[str, Any]
"""The parameters of a `Publish`. With an `Id` they are an entry of a `PublishBatch`."""

Why: TypeAlias = BaseException | str | None
"""Why a message is not known to be accepted: an error, or SNS's reason. None: it is accepted."""


def send_in_one_call(client: Any, topic_arn: str, messages: Sequence[Message]) -> list[Why]:
    """Send one to ten messages in one call; return for each why it is not known to be accepted."""
    try:
        if len(messages) == 1:
            answer = client.publish(TopicArn=topic_arn, **messages[0])
            require_sent(answer, client)
            return [None]
        entries = [{"Id": str(position), **message} for position, message in enumerate(messages)]
        answer = client.publish_batch(TopicArn=topic_arn, PublishBatchRequestEntries=entries)
        require_sent(answer, client)
        refused = {
            int(entry["Id"]): f"{entry.get('Code')}: {entry.get('Message')}"
            for entry in answer.get("Failed", [])
        }
    except Exception as error:  # of any kind: SNS is not known to have accepted them
        return [error] * len(messages)
    return [refused.get(position) for position in range(len(messages))]


class Batches:
    """
    Messages to send by several calls. After a failure no other call begins.

    Args:
        client: A boto3 SNS client.
        topic_arn: The topic.
        messages: The messages.
    """

    def __init__(self, client: Any, topic_arn: str, messages: Sequence[Message]) -> None:
        self._client = client
        self._topic_arn = topic_arn
        self._messages = messages
        self._left = deque(range(0, len(messages), BATCH_SIZE))  # threads can share a deque
        self._whys: list[Why] = ["an earlier call has failed"] * len(messages)
        self._helpers: list[threading.Thread] = []

    def send(self, *, at_once: int) -> list[Why]:
        """
        Send the messages. When this returns or raises, no call is under way.

        The caller's thread sends, too, so it goes on alone where no other thread can be started.
        The other threads end with this call, and do not keep a process from exiting.

        Args:
            at_once: The most calls under way at the same time.

        Returns:
            For each message why it is not known to be accepted, or None.
        """
        try:
            # Too many threads, or the interpreter is shutting down: go on with fewer.
            with suppress(RuntimeError):
                for _ in range(min(at_once, len(self._left)) - 1):
                    self._start_helper()
            self._work()
        finally:
            self._left.clear()
            for helper in self._helpers:
                helper.join()
        return self._whys

    def _start_helper(self) -> None:
        # In a copy of the save's context, because hooks of the client can read it.
        helper = threading.Thread(
            target=copy_context().run,
            args=(self._work,),
            name="change-events-publish",
            daemon=True,
        )
        helper.start()
        self._helpers.append(helper)

    def _work(self) -> None:
        while (start := self._next()) is not None:
            part = slice(start, start + BATCH_SIZE)
            whys = send_in_one_call(self._client, self._topic_arn, self._messages[part])
            self._whys[part] = whys
            if any(why is not None for why in whys):
                self._left.clear()

    def _next(self) -> int | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None
