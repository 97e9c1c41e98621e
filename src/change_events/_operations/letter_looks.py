"""Looks at the ids of dead letters, and whose fault it is if one fails."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from change_events._consumer.backoff import is_own
from change_events._consumer.breaker import FAILURES, Pace
from change_events._consumer.by_hand import guarded_look, own_deletions
from change_events._consumer.crew import Threads
from change_events._consumer.look import entry_of
from change_events._operations.letters import Look
from change_events._text import printable
from change_events.exceptions import FetchError, MassDeletionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._consumer.settings import Settings
    from change_events._operations.letters import Hand, Letter


def due_of(letters: Sequence[Letter]) -> float:
    """Return when a look that settles all of these letters can begin."""
    return max(letter.due for letter in letters)


class LetterLooks:
    """
    Looks at the ids of letters, at each once if that settles all its letters.

    Attributes:
        stored: How many looks were stored.
        failed: The ids whose look failed, and why.
    """

    def __init__(
        self, settings: Settings[Any], hand: Hand, *, threads: Threads | None = None
    ) -> None:
        self.stored = 0
        self.failed: dict[str, str] = {}
        self._settings = settings
        self._hand = hand
        threads = threads or Threads()
        self._clock = threads.clock
        self._deletions = own_deletions(
            settings.sink,
            settings.fetcher,
            allow=settings.allow_mass_deletion,
            threads=threads,
        )
        self._lock = threading.Lock()
        self._pace = Pace(settings.max_gets_per_second)
        self._last: dict[str, Look] = {}
        self._in_a_row = 0

    def look(self, letters: Sequence[Letter], stop: threading.Event) -> Look | None:
        """
        Look at the id of these letters, if its last look does not settle them all.

        Return its last look; None if it has failed, or `stop` was set before.

        Raises:
            MassDeletionError: The guard refuses to believe that the entity is gone.
            Exception: The source or the cache is down.
        """
        id = letters[0].id
        last = self._last.get(id)
        if last is not None and all(each.settled_by(last) for each in letters):
            return last
        if id in self.failed or not (
            self._wait_until(due_of(letters), stop) and self._wait_until(self._next_get(), stop)
        ):
            return None
        # Both before the GET.
        look = Look(started=self._clock(), since=self._hand.since)
        try:
            guarded_look(
                id,
                fetcher=self._settings.fetcher,
                sink=self._settings.sink,
                deletions=self._deletions,
            )
        except MassDeletionError:
            raise
        except Exception as error:  # of the source, of the user's fetcher or sink
            self._add_failed(id, error)
            return None
        with self._lock:
            self.stored += 1
            self._in_a_row = 0
            self._last[id] = look
        return look

    def end(self) -> None:
        """Let other processes count with the looks that found their entity."""
        with contextlib.suppress(Exception):
            self._deletions.keep(at_least=1)

    def _next_get(self) -> float:
        with self._lock:
            now = self._clock()
            at = max(now, self._pace.look_at)
            self._pace.begin(now)
            return at

    def _wait_until(self, at: float, stop: threading.Event) -> bool:
        """Return False if `stop` is set before."""
        while (left := at - self._clock()) > 0 and not stop.wait(left):
            pass
        return not stop.is_set()

    def _add_failed(self, id: str, error: Exception) -> None:
        own = self._can_be_its_own(id, error)
        with self._lock:
            self.failed[id] = printable(error)
            self._in_a_row = 0 if own else self._in_a_row + 1
            many = self._in_a_row >= FAILURES
        if many:
            raise error

    def _can_be_its_own(self, id: str, error: Exception) -> bool:
        """Return False if the entity has no part in it that its look failed."""
        if isinstance(error, FetchError):
            return is_own(error)
        try:
            entry_of(self._settings.sink, id)
        except Exception:  # even the entry can't be read
            return False
        return True
