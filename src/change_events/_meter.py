"""
Where the library measures: to a `Metrics` if there is one, else to nobody, which costs next to
nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from change_events.exceptions import FetchError
from change_events.typing import BulkFetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._event import Found, Gone, Unchanged
    from change_events.typing import Fetcher, Metrics

T = TypeVar("T")

log = logging.getLogger("change_events")


class Meter:
    """
    Passes measurements on. What a `Metrics` raises is logged once, and changes nothing else.

    Args:
        metrics: Where to; None: nowhere.
        labels: What every measurement has in common.

    Attributes:
        on: Whether anybody listens; for what would cost something to find out.
    """

    def __init__(self, metrics: Metrics | None = None, **labels: str) -> None:
        self.on = metrics is not None
        self._metrics = metrics
        self._labels = labels
        self._failed = False

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.count, name, value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.observe, name, value, labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.gauge, name, value, labels)

    def _tell(
        self, method: Callable[..., object], name: str, value: float, labels: dict[str, str]
    ) -> None:
        try:
            method(name, value, **self._labels, **labels)
        except Exception:  # the user's; what was measured has happened
            if not self._failed:
                self._failed = True
                log.exception(
                    "metrics failed; this is logged once",
                    extra={"action": "measure", "metric": name},
                )


def measured(fetcher: Fetcher[T], meter: Meter, clock: Callable[[], float]) -> Fetcher[T]:
    """
    Return a fetcher that counts its answers and times its GETs, too; the fetcher itself, if nobody
    listens.
    """
    if not meter.on:
        return fetcher
    # An error that names the fetcher's class is to name the user's.
    kind = type(
        type(fetcher).__name__,
        (_MeasuredBulk if isinstance(fetcher, BulkFetcher) else _Measured,),
        {},
    )
    return cast("Fetcher[T]", kind(fetcher, meter, clock))


class _Measured(Generic[T]):
    def __init__(self, fetcher: Fetcher[T], meter: Meter, clock: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._meter = meter
        self._clock = clock

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[T] | Unchanged | Gone:
        started, answer = self._clock(), "error"
        try:
            change = self._fetcher.fetch(id, etag=etag)
            answer = type(change).__name__.lower()
        except FetchError as error:
            answer = answer_of(error)
            raise
        else:
            return change
        finally:
            self._meter.observe("get_seconds", self._clock() - started)
            self._meter.count("answers", answer=answer)


class _MeasuredBulk(_Measured[T]):
    _fetcher: BulkFetcher[T]

    @property
    def bulk_size(self) -> int:
        return self._fetcher.bulk_size

    def fetch_many(self, ids: Sequence[str], /) -> Mapping[str, Found[T]]:
        started, answer, answers = self._clock(), "error", 1
        try:
            found = self._fetcher.fetch_many(ids)
            answer, answers = "found", sum(id in found for id in ids)
        except FetchError as error:
            answer = answer_of(error)
            raise
        else:
            return found
        finally:
            self._meter.observe("get_seconds", self._clock() - started)
            if answers:
                self._meter.count("answers", answers, answer=answer)


def answer_of(error: FetchError) -> str:
    """
    Return its status as text; `none` without a response, `unusable` for a 200 with a body that is
    no entity.
    """
    if error.status is None:
        return "none"
    if error.status == 200:
        return "unusable"
    return (
        str(error.status) if 100 <= error.status <= 599 else "other"
    )  # a label must not have a thousand values
