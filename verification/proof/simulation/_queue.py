"""SQS with only what it guarantees: a queue, or a dead-letter queue."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from verification.proof.simulation._kernel import NEVER, Task

if TYPE_CHECKING:
    from verification.proof.simulation._books import Message
    from verification.proof.simulation._environment import Environment


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
        message.sent_at = min(message.sent_at, self._kernel.now)
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

    def redrive(self, to: Queue | None = None) -> None:
        """
        Move the dead letters back as `StartMessageMoveTask` does: with new ids, no receives.

        `to`: Another queue.
        """
        dead, self.dead = self.dead, []
        for message in dead:
            self._environment.ghost.tell(message.entity, f"{message.message_id} is redriven")
            del self._messages[message.message_id]
            (to or self).arrive(message, 0.0)

    @property
    def holds_any(self) -> bool:
        """True if there is a message that is not deleted."""
        return bool(self._messages)

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
