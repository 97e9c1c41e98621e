"""A worker's own backfill, beside its looks."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.backoff import MAX_PAUSE, pause_after
from change_events._consumer.log import log
from change_events._operations.filling import fill, is_filled
from change_events._operations.state import stateful
from change_events._operations.throttle import Stopped, Throttle
from change_events._source.listing import listing_of
from change_events._text import printable
from change_events.exceptions import AlreadyRunningError, MassDeletionError

if TYPE_CHECKING:
    import threading

    from change_events._consumer.looks import Looks
    from change_events._consumer.settings import Settings

T = TypeVar("T")

SHARE = 4
"""A backfill has as many threads as a fourth of the worker's."""


class Beside(Generic[T]):
    """
    Fills a worker's cache once, whichever of its processes does it.

    Args:
        settings: The worker's.

    Attributes:
        known: True once this process knows that the backfill is complete. Nobody waits for the sink
            to learn it.

    Raises:
        ConfigurationError: The sink keeps no state, or the listing is not one.
    """

    def __init__(self, settings: Settings[T]) -> None:
        self._settings = settings
        self._listing = listing_of(settings.backfill)
        self._state = stateful(settings.sink)
        self.known = False

    @property
    def synced(self) -> bool:
        """True once the backfill is complete. What the sink raises counts as "not yet"."""
        if not self.known:
            with contextlib.suppress(Exception):  # the sink is down
                self.known = is_filled(self._state, self._listing)
        return self.known

    def work(self, looks: Looks[T], stopping: threading.Event) -> None:
        """Fill the cache, unless that was done. Try again until it is done, or `stopping`."""

        def may_begin(waited: float) -> float:
            with looks.consumer as desk:
                return desk.begin_aside(time.monotonic(), waited)

        failures = 0
        while not stopping.is_set() and not self.synced:
            throttle = Throttle(may_begin=may_begin, stopping=stopping)
            try:
                report = fill(
                    self._listing,
                    fetcher=self._settings.fetcher,
                    sink=self._settings.sink,
                    deletions=looks.deletions,
                    throttle=throttle,
                    threads=max(1, self._settings.threads // SHARE),
                )
            except Stopped:
                return
            except AlreadyRunningError as error:
                log.debug("%s", printable(error), extra={"action": "backfill"})
                stopping.wait(MAX_PAUSE / 10)
            except MassDeletionError:  # logged; once it may go on, the next look finds out
                with looks.consumer as desk:
                    desk.changed()
                stopping.wait(1.0)
            except Exception as error:  # a wrong listing must not end the worker
                failures += 1
                pause = pause_after(failures, MAX_PAUSE)
                log.error(  # the error says what to do
                    "the backfill failed, and will be tried again in %.0f s: %s",
                    pause,
                    printable(error),
                    extra={"action": "backfill"},
                )
                stopping.wait(pause)
            else:
                log.info("the cache is filled: %s", printable(report), extra={"action": "filled"})
