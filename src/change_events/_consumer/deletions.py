"""
Asks the guard before it is believed that an entity is gone: for a worker's looks, and for Lambda's.

What the guard knows is kept in the sink, if it keeps state. So a restart does not forget it, and
processes that share a cache count together, and go on together.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from change_events._consumer.guard import WINDOW
from change_events._consumer.log import log
from change_events._text import printable
from change_events.exceptions import FetchError, MassDeletionError
from change_events.typing import EnumerableSink, StatefulSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from threading import Lock

    from change_events._consumer.guard import Guard
    from change_events._event import Entry

T = TypeVar("T")

STATE = "guard"
"""The name of the guard's state in the sink."""

KEEP_EVERY = 60.0
"""Seconds between two times that a worker shares what it has found with others."""

PATIENCE = 30.0
"""Seconds that a look waits while another thread asks the sink for the state."""

ATTEMPTS = 1000
"""How often to try to store the state. Each one that fails was one of another process."""


class Deletions:
    """
    Asks a guard.

    Args:
        guard: The guard.
        sink: The cache.
        fetcher: Named in what is logged, because its URL can be wrong.
        lock: Held while the guard is used.
        one_at_a_time: A lock, held from reading the state in the sink to writing it.
    """

    def __init__(
        self,
        guard: Guard,
        sink: object,
        fetcher: object,
        *,
        lock: AbstractContextManager[object],
        one_at_a_time: Lock | threading.Semaphore | None = None,
    ) -> None:
        self._guard = guard
        self._state = sink if isinstance(sink, StatefulSink) else None
        self._ids = sink if isinstance(sink, EnumerableSink) else None
        self._fetcher = fetcher
        self._lock = lock
        self._turn = one_at_a_time or threading.Lock()
        self._loaded = False
        self._allowed: deque[str] = deque(maxlen=WINDOW)  # some are still to be stored
        self._told = False

    def share(self, pause: Callable[[float], bool]) -> None:
        """
        Learn what other processes have counted, and tell them what this one has, now and then.

        So what a `resume` allows ends, and every worker learns of it. It never raises. `pause`
        waits for so many seconds, and returns True if there is nothing more to share.
        """
        if self._state is None or not self._guard.on:
            return
        over = False
        while not over:
            self.learn()
            self._keep_what_is_new()
            over = pause(KEEP_EVERY)
        self._keep_what_is_new()

    def _keep_what_is_new(self) -> None:
        with suppress(Exception):  # then the next time, or the next deletion, stores it
            self.keep(at_least=1)

    def learn(self) -> None:
        """
        Learn what others have counted, if that has not been done or one of them can have resumed.

        It never raises.
        """
        known = self._loaded and not self._guard.tripped
        if self._state is None or not self._guard.on or known:
            return
        try:
            kept = self._state.state(STATE)  # this can hang, so nobody must wait for it
            with self._exclusively(), self._lock:
                if not self._loaded or self._guard.tripped:
                    self._guard.load(kept)
                    self._loaded = True
        except Exception as error:
            log.warning(
                "the sink has not said what was deleted before: %s",
                printable(error),
                extra={"action": "guard"},
            )

    def keep(self, *, at_least: int = 0) -> None:
        """Store what the guard knows, if it has counted so many looks since it was stored last."""
        if self._state is not None and self._guard.on and self._guard.unkept >= at_least:
            with self._exclusively():
                self._with_state(lambda: None)

    def refused(self, id: str, entry: Entry) -> MassDeletionError | None:
        """Ask the guard about an id that is gone at the source; return an error if it refuses."""
        guard = self._guard
        if not guard.on or (entry.version and not entry.present):  # a tombstone stays one
            return None
        if entry.present:
            allows, was_tripped = self._allows_deletion(id, entry.version)
        else:
            is_warm = guard.is_new and self._knows_ids()
            with self._lock:
                was_tripped = guard.tripped
                allows = guard.allows_unknown(id, is_warm=is_warm)
                warns = guard.warns()
            if warns:
                self._warn()
        return None if allows else self._refusal(log_it=not was_tripped)

    def require(self, id: str, entry: Entry) -> None:
        """
        Ask the guard about an id that is gone at the source.

        Raises:
            MassDeletionError: The guard refuses to believe it.
        """
        if refusal := self.refused(id, entry):
            raise refusal

    def found(self, *, cached: bool) -> None:
        """Count a look that found an entity. `cached`: It was cached before."""
        with self._lock:
            self._guard.found(cached=cached)

    def _allows_deletion(self, id: str, version: int) -> tuple[bool, bool]:
        """Return whether the guard allows it, and whether it had refused one before."""

        def ask() -> bool:
            with self._lock:
                few = self._guard.few
            left = self._number_left(id, few)
            with self._lock:
                return self._guard.allows_deletion(left, entry=(id, version))

        # What is counted is stored before the deletion: a crash must not make it forgotten.
        with self._exclusively():
            was_tripped = self._guard.tripped
            allows = self._with_state(ask)
            if allows:
                self._allowed.append(id)
        return allows, was_tripped

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=PATIENCE):
            # Not the entity's own fault, like a GET without an answer.
            raise FetchError(f"the sink keeps a thread waiting for the state {STATE!r}")
        try:
            yield
        finally:
            self._turn.release()

    def _with_state(self, ask: Callable[[], T]) -> T:
        """
        Ask the guard, once it knows what other processes have counted, and store what it knows.

        If another process has stored something meanwhile, ask again.
        """
        guard, state = self._guard, self._state
        if state is None:
            return ask()
        for _ in range(ATTEMPTS):
            kept = state.state(STATE)
            with self._lock:
                guard.load(kept)
                self._loaded = True
            answer = ask()
            with self._lock:
                text = guard.dump()
            stored = state.set_state(STATE, text, if_state=kept)
            if not isinstance(stored, bool):
                raise TypeError(
                    f"{type(state).__name__}.set_state() must return True or False, not {stored!r}"
                )
            if stored:
                with self._lock:
                    guard.dumped()
                return answer
        raise RuntimeError(f"{state!r} has refused to store the guard's state {ATTEMPTS} times")

    def _number_left(self, id: str, most: int) -> int | None:
        """
        Return how many entities are cached, without those whose deletion is allowed, but with `id`.

        None: `most` or more, or the sink can't tell.
        """
        allowed = {*self._allowed} - {id}
        number, after = 0, None
        while number < most:
            ids = self._some_ids(after, most)
            if ids is None:
                return None
            if not ids:
                return number
            number += sum(each not in allowed for each in ids)
            after = ids[-1]
        return None

    def _knows_ids(self) -> bool:
        return bool(self._some_ids(None, 1))

    def _some_ids(self, after: str | None, limit: int) -> list[str] | None:
        """Return a page of the sink's ids; None if it can't name them. A look must not fail so."""
        if self._ids is None:
            return None
        try:
            return self._ids.ids(after=after, limit=limit)
        except Exception as error:  # a permission can be missing
            if not self._told:
                self._told = True
                log.warning(
                    "the sink can't name its ids, so a small cache is not protected from a wrong "
                    "URL; this is logged once: %s",
                    printable(error),
                    extra={"action": "ids"},
                )
            return None

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
            f"{self._guard}. Nothing more is deleted or received. If the source is wrong, correct "
            f"it, or the URL of {self._fetcher!r}, and start the worker again. If the entities are "
            "meant to be gone, call Worker.resume(), send the worker SIGUSR1, or start it with "
            "allow_mass_deletion=True"
        )
        if log_it:
            log.critical("%s", printable(error), extra={"action": "mass_deletion"})
        return error
