"""Many events: ten in a call, and several calls at once."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH_SIZE = 10
"""Most entries in one `PublishBatch` call (Amazon SNS API Reference, PublishBatch)."""


class Batches:
    """
    Messages to send by `PublishBatch`. After a failure no other call begins.

    Args:
        client: A boto3 SNS client.
        topic_arn: The topic.
        messages: For each message the parameters of `Publish`.

    Attributes:
        failures: Why calls failed: errors, and SNS's reasons.
    """

    def __init__(self, client: Any, topic_arn: str, messages: Sequence[dict[str, Any]]) -> None:
        self.failures: list[BaseException | str] = []
        self._client = client
        self._topic_arn = topic_arn
        self._messages = messages
        self._left = deque(range(0, len(messages), BATCH_SIZE))  # threads can share a deque
        self._refused: dict[int, set[int]] = {}  # by the first position of each answered batch
        self._helpers: list[threading.Thread] = []

    def send(self, *, at_once: int) -> list[int]:
        """
        Send the messages. When this returns or raises, no call is under way.

        The caller's thread sends, too, so it goes on alone where no other thread can be started.
        The other threads end with this call, and do not keep a process from exiting.

        Args:
            at_once: The most calls under way at the same time.

        Returns:
            The positions of the messages that are not known to be accepted.
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
        return [at for at in range(len(self._messages)) if not self._is_accepted(at)]

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
            try:
                self._send(start)
            except BaseException as error:  # of any kind: SNS is not known to have accepted it
                self._fail(error)
                if not isinstance(error, Exception):  # Ctrl-C in the caller's thread
                    raise

    def _next(self) -> int | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _send(self, start: int) -> None:
        batch = self._messages[start : start + BATCH_SIZE]
        entries = [{"Id": str(position), **message} for position, message in enumerate(batch)]
        answer = self._client.publish_batch(
            TopicArn=self._topic_arn, PublishBatchRequestEntries=entries
        )
        failed = answer.get("Failed", [])
        self._refused[start] = {start + int(entry["Id"]) for entry in failed}
        if failed:
            reasons = {f"{entry.get('Code')}: {entry.get('Message')}" for entry in failed}
            self._fail("; ".join(sorted(reasons)))

    def _fail(self, why: BaseException | str) -> None:
        self.failures.append(why)
        self._left.clear()

    def _is_accepted(self, position: int) -> bool:
        start = position - position % BATCH_SIZE
        return start in self._refused and position not in self._refused[start]
