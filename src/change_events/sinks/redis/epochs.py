"""
Which past a cache has.

Redis can lose what it has acknowledged. An *epoch* is a time in which it has lost nothing, as far
as that can be noticed. Its random name is kept with the entities. Each write says which epoch it
believes in, and the script that writes compares that with the epoch that is kept, and with the
server's own identity. So nothing is written over a loss that nobody has noticed, and nothing that
was read before it.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from change_events._text import printable
from change_events.sinks.redis import scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.sinks.redis.server import Server

log = logging.getLogger("change_events")

REASONS = {
    "empty": "all of it is gone: FLUSHALL, FLUSHDB, or a restart without a snapshot",
    "restarted": "Redis was restarted, or a replica has taken over, and what was acknowledged last "
    "can be lost",
    "evicted": "Redis has evicted keys, because its memory was full: set maxmemory-policy "
    "noeviction",
}
"""What can have happened, by the reason that is kept."""


class Version(int):
    """A version, and the epoch in which it was read. Without one it is of the current epoch."""

    epoch: str | None = None

    @classmethod
    def read(cls, number: int, epoch: str) -> Version:
        """Return a version that was read in that epoch."""
        version = cls(number)
        version.epoch = epoch
        return version


class Epochs:
    """
    The epoch that this process believes in. Any thread can use it.

    Args:
        server: Keeps it.
        key: Where it is kept.
        name: The cache's name, for the log.
        clock: As in `RedisSink`.

    Attributes:
        known: The epoch. What is read after it was looked up here is of this epoch or a later one.
        lost_at: The monotonic time at which this process noticed a loss; None: it has noticed none.

    Raises:
        redis.RedisError: The server can't be reached, or refuses.
    """

    def __init__(
        self, server: Server, key: bytes, *, name: str, clock: Callable[[], float]
    ) -> None:
        self._server = server
        self._key = key
        self._name = name
        self._clock = clock
        self.known = ""
        self.lost_at: float | None = None
        self._seen: dict[str, object] = {}
        epoch, why = self._ask()
        self._seen[epoch] = self
        self.known = epoch
        if why[1] and why[0] != "empty":  # another process can have been there before
            self._tell(why[0])

    def check(self) -> str:
        """Return the epoch now. Begin one if something can have been lost, and log that."""
        epoch, (why, _) = self._ask()
        self.known = epoch
        mark = object()
        if self._seen.setdefault(epoch, mark) is mark:  # one thread
            self._tell(why)
        return epoch

    def _ask(self) -> tuple[str, tuple[str, bool]]:
        """Return the epoch, why it began, and whether it began now."""
        new = uuid.uuid4().hex
        now = repr(self._clock()).encode()
        epoch, why = self._server.run(scripts.EPOCH, [self._key], new.encode(), now)
        return epoch.decode(), (why.decode(), epoch.decode() == new)

    def _tell(self, why: str) -> None:
        self.lost_at = time.monotonic()
        log.error(
            "the cache %s can have lost entities: %s. A worker with backfill= fills it again; "
            "otherwise run `change-events backfill`",
            printable(self._name),
            REASONS[why],
            extra={"action": "lost", "why": why},
        )
