"""
Asks the guard before it is believed that an entity is gone: for a worker's looks, and for Lambda's.

What the guard knows is kept in the sink, if it keeps state. So a restart does not forget it, and
all processes that share a cache count together.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from change_events._consumer.guard import WINDOW
from change_events._consumer.log import log
from change_events._text import printable
from change_events.exceptions import MassDeletionError
from change_events.typing import EnumerableSink, StatefulSink

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from change_events._consumer.guard import Guard
    from change_events._event import Entry

STATE = "guard"
"""The name of the guard's state in the sink."""


class Deletions:
    """
    Asks a guard.

    Args:
        guard: The guard.
        sink: The cache.
        fetcher: Named in what is logged, because its URL can be wrong.
        lock: Held while the guard is used.
        one_at_a_time: Held from reading the state in the sink to writing it.
    """

    def __init__(
        self,
        guard: Guard,
        sink: object,
        fetcher: object,
        *,
        lock: AbstractContextManager[object],
        one_at_a_time: AbstractContextManager[object] | None = None,
    ) -> None:
        self._guard = guard
        self._state = sink if isinstance(sink, StatefulSink) else None
        self._ids = sink if isinstance(sink, EnumerableSink) else None
        self._fetcher = fetcher
        self._lock = lock
        self._one_at_a_time = one_at_a_time or threading.Lock()
        self._allowed: deque[str] = deque(maxlen=WINDOW)  # some are still to be stored

    def recall(self) -> None:
        """Let the guard know what it and others knew before."""
        kept = self._kept()
        with self._lock:
            self._guard.load(kept)

    def keep(self) -> None:
        """Store what the guard knows."""
        with self._lock:
            kept = self._guard.dump()
        if self._state is not None:
            self._state.set_state(STATE, kept)

    def refused(self, id: str, entry: Entry) -> MassDeletionError | None:
        """Ask the guard about an id that is gone at the source; return an error if it refuses."""
        guard = self._guard
        if entry.present:
            with self._one_at_a_time:
                kept, left = self._kept(), self._number_left(id, guard.few)
                with self._lock:
                    was_tripped = guard.tripped
                    guard.load(kept)
                    allows = guard.allows_deletion(left)
                if allows:
                    self._allowed.append(id)
                self.keep()  # before the deletion: a crash must not make it forgotten
        elif entry.version:  # a tombstone, which stays one
            return None
        else:
            is_warm = guard.is_new and self._ids is not None and bool(self._ids.ids(limit=1))
            with self._lock:
                was_tripped = guard.tripped
                allows = guard.allows_unknown(id, is_warm=is_warm)
                warns = guard.warns()
            if warns:
                self._warn()
        return None if allows else self._refusal(log_it=not was_tripped)

    def _kept(self) -> str:
        return (self._state.state(STATE) if self._state else None) or ""

    def _number_left(self, id: str, most: int) -> int | None:
        """
        Return how many entities are cached, without those whose deletion is allowed, but with `id`.

        None: `most` or more, or the sink can't tell.
        """
        if self._ids is None:
            return None
        allowed = {*self._allowed} - {id}
        number, after = 0, None
        while number < most and (ids := self._ids.ids(after=after, limit=most)):
            number += sum(each not in allowed for each in ids)
            after = ids[-1]
        return number if number < most else None

    def _warn(self) -> None:
        log.warning(
            "%r knows none of the first %d ids that it was asked for, and the cache is empty. "
            "Is the URL right?",
            self._fetcher,
            self._guard.unknown,
            extra={"action": "unknown", "ids": self._guard.unknown},
        )

    def _refusal(self, *, log_it: bool) -> MassDeletionError:
        error = MassDeletionError(
            f"{self._guard}. Nothing more is deleted or received. If the source is wrong, mend it, "
            f"or the URL of {self._fetcher!r}, and start the worker again; if it is right, call "
            "Worker.resume(), send the worker SIGUSR1, or start with allow_mass_deletion=True"
        )
        if log_it:
            log.critical("%s", printable(error), extra={"action": "mass_deletion"})
        return error
