"""
What a child process of `change-events worker --processes` does beside its work.

Its stdin is a socket that the parent has opened. The child writes a byte when its worker has
started. The parent never writes, so what ends a read is the parent's death, of whatever kind.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from change_events._worker import Worker

LOOK_EVERY = 0.1
"""Seconds between two looks at whether the worker has started."""

STARTED = b"1"
"""What the child writes."""

STDIN = 0


@dataclass
class Following:
    """
    Follows the parent.

    Attributes:
        line: The socket that leads to the parent.
        worker: The worker, once it is known.
    """

    line: int
    worker: Worker[Any] | None = None

    def work(self) -> None:
        """Tell the parent when the worker has started; stop this process if the parent dies."""
        told = False
        while not self._parent_is_dead(None if told else LOOK_EVERY):
            if not told and self._has_started():
                told = True
                os.write(self.line, STARTED)
        os.kill(os.getpid(), signal.SIGTERM)

    def _parent_is_dead(self, seconds: float | None) -> bool:
        readable, _, _ = select.select([self.line], [], [], seconds)
        return bool(readable)

    def _has_started(self) -> bool:
        health = self.worker and self.worker.health()
        return bool(health and health.alive and health.paused != "starting")


def follow_parent() -> Following:
    """Begin to follow the parent, in a thread."""
    following = Following(STDIN)
    threading.Thread(target=following.work, name="change-events-parent", daemon=True).start()
    return following
