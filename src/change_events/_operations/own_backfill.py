"""A worker's own backfill, beside its looks."""

from __future__ import annotations

import contextlib
import math
import random
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.backoff import asked_pause, is_own, pause_after
from change_events._consumer.log import log
from change_events._operations.aside import keep_trying, throttle_beside
from change_events._operations.filled import forget_left, ids_left, is_filled
from change_events._operations.filling import fill
from change_events._operations.state import stateful
from change_events._operations.throttle import threads_for
from change_events._source.listing import listing_of
from change_events._text import printable
from change_events.exceptions import MassDeletionError
from change_events.typing import ForgetfulSink

if TYPE_CHECKING:
    import threading

    from change_events._consumer.looks import Looks
    from change_events._consumer.settings import Settings

T = TypeVar("T")

SHARE = 4
"""A backfill has as many threads as a fourth of the worker's."""

WATCH = 10.0
"""Seconds between two looks at whether the sink can have lost something."""

SELDOM = 600.0
"""The most seconds between two looks at ids that have failed."""


class OwnBackfill(Generic[T]):
    """
    Fills a worker's cache once, whichever of its processes does it; again if the sink can have lost
    something.

    Args:
        settings: The worker's.

    Attributes:
        listing: Names what the source has.
        known: True while this process knows that the backfill is complete. Nobody waits for the
            sink to learn it.

    Raises:
        ConfigurationError: The sink keeps no state, or the listing is not one.
    """

    def __init__(self, settings: Settings[T]) -> None:
        self._settings = settings
        self.listing = listing_of(settings.backfill)
        self._state = stateful(settings.sink)
        self.known = False

    @property
    def synced(self) -> bool:
        """True once the backfill is complete. What the sink raises counts as "not yet"."""
        if not self.known:
            self._learn()
        return self.known

    def work(self, looks: Looks[T], stopping: threading.Event) -> None:
        """
        Fill the cache, unless that was done. Try again until it is done, or `stopping`. Then look
        now and then at the ids at which looks have failed, until none is left. If the sink can lose
        something, watch it until `stopping`.
        """
        keep_trying("backfill", lambda: self._fill(looks, stopping), stopping)
        forgets, failures, look_at = isinstance(self._state, ForgetfulSink), 0, -math.inf
        while (forgets or look_at < math.inf) and not stopping.wait(WATCH):
            if forgets:
                self._learn()
                failures, look_at = (failures, look_at) if self.known else (0, -math.inf)
                keep_trying("backfill", lambda: self._fill(looks, stopping), stopping)
            if time.monotonic() >= look_at:
                failures += 1
                asked = self._look_again(looks, stopping)
                look_at = time.monotonic() + max(asked, pause_after(failures, SELDOM))

    def _look_again(self, looks: Looks[T], stopping: threading.Event) -> float:
        """
        Look at some of the ids that the backfill has left out, until it is time to watch the sink.

        Return the least seconds until the next time; infinite if no id is left.
        """
        throttle, until, done = throttle_beside(looks, stopping), time.monotonic() + WATCH, set()
        asked = 0.0
        try:
            left, epoch = ids_left(self._state)
            for id in random.sample(left, len(left)):
                try:
                    throttle.before_get()
                    looks.look_by_hand(id)
                    done.add(id)
                except MassDeletionError:
                    with looks.consumer as desk:
                        desk.changed()
                except Exception as error:
                    if not is_own(error):  # the source is down
                        asked = asked_pause(error)
                        break
                if time.monotonic() >= until:
                    break
            if done:
                forget_left(self._state, done, epoch)
        except Exception as error:
            log.debug("%s", printable(error), extra={"action": "aside"})  # the sink is down
            return asked
        return asked if len(done) < len(left) else math.inf

    def _learn(self) -> None:
        with contextlib.suppress(Exception):  # the sink is down
            self.known = is_filled(self._state, self.listing)

    def _fill(self, looks: Looks[T], stopping: threading.Event) -> None:
        while not stopping.is_set() and not self.synced:
            try:
                report = fill(
                    self.listing,
                    fetcher=self._settings.fetcher,
                    sink=self._settings.sink,
                    deletions=looks.deletions,
                    throttle=throttle_beside(looks, stopping),
                    threads=max(1, threads_for(self._settings.threads) // SHARE),
                )
            except MassDeletionError:  # logged; once it may go on, the next look finds out
                with looks.consumer as desk:
                    desk.changed()
                stopping.wait(1.0)
            else:
                line = "; ".join(map(str.strip, str(report).splitlines())).replace(":; ", ": ")
                log.info("the cache is filled: %s", printable(line), extra={"action": "filled"})
                if report.failed:
                    log.error(
                        "%d entities are not in the cache, because looks at them have failed. This "
                        "worker looks at up to a thousand of them again",
                        report.failed,
                        extra={"action": "filled", "failed": report.failed},
                    )
                if not report.listed:
                    log.warning(
                        "the listing names nothing. If the source has entities, the listing is "
                        "wrong: mend it, and run `change-events backfill APP --restart`",
                        extra={"action": "filled"},
                    )
