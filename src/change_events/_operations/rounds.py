"""Work on many ids, in threads: again and again while the source or the sink is down."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from change_events._consumer.backoff import is_own
from change_events._consumer.log import log
from change_events._operations.pool import Pool, results_of
from change_events._operations.throttle import SOURCE, TICK, Stopped
from change_events._text import printable
from change_events.exceptions import ConfigurationError, MassDeletionError
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from change_events._operations.throttle import Throttle

R = TypeVar("R")

TRIES = 3
"""Failures after which an id's own error is believed, if the source and the sink are up."""

OTHER_TRIES = 5
"""The same if no answer came, or one that tells of the source."""


CONTROLS = 3
"""Cached ids that are tried before the source or the sink counts as down."""


class Rounds:
    """
    Works on many ids.

    Args:
        throttle: When to pause, and to stop.
        threads: How many calls run at once.
        sink: If it can name its ids, some of them show whether the source and the sink are up,
            beside the last id that was fine.
        on_tick: Called every half a second or more often.
    """

    def __init__(
        self, throttle: Throttle, *, threads: int, sink: object, on_tick: Callable[[], object]
    ) -> None:
        self.threads = threads
        self.tick = on_tick
        self._throttle = throttle
        self._sink = sink
        self._pool = Pool(threads, "ids", using=throttle.threads)
        self._good: str | None = None

    def close(self) -> None:
        """End the threads, once the calls under way are over. It does not wait for them."""
        self._pool.close()

    def work(
        self,
        ids: Sequence[str],
        work: Callable[[Sequence[str]], Mapping[str, R | Exception]],
        *,
        size: int = 1,
        tries: int = TRIES,
    ) -> dict[str, R | Exception]:
        """
        Work on each of the ids. While another id that should be fine fails, too, it tries again.

        Args:
            ids: The ids, all different.
            work: Works on some ids; returns a result, or an error, for each.
            size: How many ids `work` gets at once. After a failure it gets each id alone.
            tries: Failures after which an error that can be the id's own is its result, if the
                source and the sink are up. 1: any error is, so that no id keeps the others waiting.

        Returns:
            By id, the result, or the error.

        Raises:
            ConfigurationError, MassDeletionError: `work` raised it.
            Stopped: Somebody asked to stop.
        """
        done: dict[str, R | Exception] = {}
        left, failures = list(ids), 0
        while left:
            results = self._round(left, work, size if failures == 0 else 1)
            failed = {id: each for id, each in results.items() if isinstance(each, Exception)}
            succeeded = {id: results[id] for id in left if id not in failed}
            done |= succeeded
            self._good = next(iter(succeeded), self._good)
            failures += 1
            enough = {
                id: error
                for id, error in failed.items()
                if failures >= (tries if tries == 1 or is_own(error) else OTHER_TRIES)
            }
            if enough and self._is_up(work, failed):
                # They can have failed just before an outage ended, unless they fail again.
                done |= enough if tries == 1 else self._round(list(enough), work, 1)
            left = [id for id in left if id not in done]
            if left and (failures > 1 or size == 1):  # not before each was tried alone
                self._pause(failures, [failed[id] for id in left])
        self._throttle.waits_for(SOURCE, None)
        return done

    def _is_up(
        self,
        work: Callable[[Sequence[str]], Mapping[str, R | Exception]],
        failed: Mapping[str, Exception],
    ) -> bool:
        """Work on ids that should be fine, until one is. They can be broken themselves."""
        return any(
            not isinstance(self._round([id], work, 1)[id], Exception)
            for id in self._controls(failed)
        )

    def _controls(self, failed: Mapping[str, Exception]) -> Iterator[str]:
        if self._good is not None and self._good not in failed:
            yield self._good
        cached: list[str] = []
        if isinstance(self._sink, EnumerableSink):
            with suppress(Exception):  # then the sink is down
                cached = self._sink.ids(limit=CONTROLS + len(failed))
        yield from [id for id in cached if id not in failed][:CONTROLS]

    def _pause(self, failures: int, errors: Sequence[Exception]) -> None:
        pause = max(self._throttle.pause_after(failures, error) for error in errors)
        if self._throttle.waits_for(SOURCE, errors[0]):
            log.warning(
                "%d ids failed, and will be tried again: %s",
                len(errors),
                printable(errors[0]),
                extra={"action": "sweep", "failed": len(errors)},
            )
        self.wait(pause, SOURCE)

    def _round(
        self,
        ids: Sequence[str],
        work: Callable[[Sequence[str]], Mapping[str, R | Exception]],
        size: int,
    ) -> dict[str, R | Exception]:
        chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
        calls = [self._pool.submit(_worked, work, chunk) for chunk in chunks]
        results: dict[str, R | Exception] = {}
        try:
            for some in results_of(calls, self.tick, using=self._throttle.threads):
                results |= some
        finally:
            for each in calls:
                each.cancel()
        return results

    def wait(self, seconds: float, what: str) -> None:
        """
        Wait.

        Raises:
            Stopped: Somebody asked to stop.
        """
        clock = self._throttle.threads.clock
        until = clock() + seconds
        while (left := until - clock()) > 0:
            self._throttle.wait(min(left, TICK), what)
            self.tick()

    def awaited(self, future: Future[R]) -> R:
        """Return what the future brings."""
        while not future.done():
            self._throttle.threads.wait([future], TICK)
            self.tick()
        return future.result()


def _worked(
    work: Callable[[Sequence[str]], Mapping[str, R | Exception]], ids: Sequence[str]
) -> Mapping[str, R | Exception]:
    try:
        return work(ids)
    except (ConfigurationError, MassDeletionError, Stopped):
        raise
    except Exception as error:
        return dict.fromkeys(ids, error)
