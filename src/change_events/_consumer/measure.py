"""What is measured about looks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events._consumer import limit
from change_events._consumer.backoff import OVERLOADED
from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator, Sequence

    from change_events._consumer.inbox import Held
    from change_events._meter import Meter


@dataclass(slots=True)
class Answer:
    """What came of a GET: a name for it, and of how many entities."""

    name: str = "error"
    number: int = 1


@contextlib.contextmanager
def measured_get(meter: Meter, clock: Callable[[], float]) -> Iterator[Answer]:
    """Measure a GET: how long it lasts, and what comes of it."""
    answer, started = Answer(), clock()
    try:
        yield answer
    except FetchError as error:
        answer.name = answer_of(error)
        raise
    finally:
        meter.observe("get_seconds", clock() - started)
        if answer.number:
            meter.count("answers", answer.number, answer=answer.name)


@contextlib.contextmanager
def timed_get(
    answers: deque[limit.Answer], clock: Callable[[], float], size: int = 1
) -> Iterator[None]:
    """Add how long a GET for so many ids lasts, for the limit."""
    began, seconds, overload, failed = clock(), None, False, False
    try:
        yield
        seconds = clock() - began
    except FetchError as error:
        overload, failed = error.status in OVERLOADED, True
        seconds = None if overload else clock() - began
        raise
    finally:
        answers.append(limit.Answer(began, seconds, size, overload, failed))


def measure_staleness(meter: Meter, which: str, events: Sequence[Held], now: float) -> None:
    """Measure the age of events at their first or last look, by the local wall clock."""
    for event in events:
        if event.sent is not None:
            meter.observe("staleness_seconds", max(0.0, now - event.sent), look=which)


def answer_of(error: FetchError) -> str:
    """Return a failed GET's status; `none` without a response, `unusable` for a bad 200."""
    if error.status is None:
        return "none"
    if error.status == 200:
        return "unusable"
    # Not each number: a metric's label must not have a thousand values.
    return str(error.status) if 100 <= error.status <= 599 else "other"
