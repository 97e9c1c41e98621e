"""One pass of an audit."""

from __future__ import annotations

import heapq
import time
from array import array
from itertools import groupby
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._operations.comparing import Comparing, Findings
from change_events._operations.listed import hash_of, is_in
from change_events._operations.patience import patiently
from change_events._operations.rounds import TRIES
from change_events._operations.sides import side_of
from change_events._operations.throttle import SINK
from change_events.exceptions import ListingError
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from change_events._event import Found, Page
    from change_events._operations.rounds import Rounds
    from change_events._operations.sides import Reading, Sides
    from change_events._operations.throttle import Throttle
    from change_events.typing import Sink

T = TypeVar("T")

SUSPECTS = "the second reading"
"""What the time is spent on while suspects wait."""

CHUNK = 1000
"""Ids that are read from the sink, or compared, at once."""

REFUSED = 20
"""
Listed ids that the source must not know, or have otherwise than they are listed, and more than
half, until the listing is refused. If there are fewer, three, and all.
"""


class Auditing(Generic[T]):
    """
    One pass.

    Args:
        pages: The pages of the listing.
        sides: Reads the source and the cache.
        sink: The cache.
        rounds: Works on many ids.
        throttle: When to wait, and to stop.
        min_age: Seconds between the two readings.
        found: Where to note what was found.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        pages: Iterable[Page[T]],
        *,
        sides: Sides[T],
        sink: Sink[T],
        rounds: Rounds,
        throttle: Throttle,
        min_age: float,
        found: Findings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pages = pages
        self._sides = sides
        self._ids = sink if isinstance(sink, EnumerableSink) else None
        self._rounds = rounds
        self._throttle = throttle
        self._doubts = _Doubts(pages)
        self._comparing = Comparing(
            sides=sides, rounds=rounds, min_age=min_age, found=found, clock=clock
        )
        self.found = found

    def steps(self, sample: Sample | None = None) -> Iterator[float]:
        """
        Do the pass in small steps. Before the next one, wait for the seconds that were yielded.

        Args:
            sample: Chooses the ids to compare; None: all.

        Raises:
            ListingError: The listing is not one, or names ids that the source does not know.
            Stopped: Somebody asked to stop.
        """
        for _ in self._walked() if sample is None else self._sampled(sample):
            self._comparing.read_due()
            yield 0.0
        self._comparing.read(self._comparing.again, tries=TRIES)
        self.found.phase, self.found.total = "suspects", self.found.done
        while self._comparing.suspects:
            yield self._comparing.seconds_left
            self._comparing.read_due()

    # First readings

    def _walked(self) -> Iterator[None]:
        listed = array("Q")
        for page in self._pages:
            ids = list(dict.fromkeys(page.ids))
            listed.extend(map(hash_of, ids))
            self.found.total = page.total
            self._compare(ids, page.found or {})
            yield
        self._doubts.check(last=True)
        ordered = array("Q", (each for each, _ in groupby(sorted(listed))))
        self.found.done -= len(listed) - len(ordered)  # what was listed twice
        self.found.phase, self.found.total = "unlisted", None
        for ids in self._cached_ids():
            self._comparing.read([id for id in ids if not is_in(ordered, id)])
            yield

    def _sampled(self, sample: Sample) -> Iterator[None]:
        for page in self._pages:
            sample.add(page.ids, listed=True)
            yield
        for ids in self._cached_ids():
            sample.add(ids, listed=False)
            yield
        listed, rest = sample.chosen()
        self.found.total = len(listed) + len(rest)
        for at in range(0, len(listed), CHUNK):
            self._compare(listed[at : at + CHUNK], {})
            yield
        self._doubts.check(last=True)
        self._comparing.read(rest)
        yield

    def _cached_ids(self) -> Iterator[list[str]]:
        sink, after = self._ids, None
        while sink is not None:
            ids = patiently(
                lambda after=after: sink.ids(after=after, limit=CHUNK),  # type: ignore[misc]  # mypy infers no lambda with a default
                throttle=self._throttle,
                what=SINK,
            )
            if not ids:
                return
            yield ids
            after = ids[-1]

    def _compare(self, ids: Sequence[str], found: Mapping[str, Found[T]]) -> None:
        """Compare listed ids: with the entities that were listed, and with a GET if they differ."""
        whole = [id for id in ids if id in found]
        compared = self._rounds.work(
            whole,
            lambda some: self._sides.compare(found, some),
            size=self._sides.compare_size(len(whole), self._rounds.threads),
            tries=1,
        )
        right = {id for id, differs in compared.items() if differs is False}
        self.found.done += len(right)
        self._doubts.listed += len(ids)
        for id, reading in self._comparing.read([id for id in ids if id not in right]).items():
            self._doubts.add(reading, found.get(id))
        self._doubts.check()


class Sample:
    """
    Chooses ids of all that are added, each with the same chance, however often it is added: those
    whose hash is the least.

    Args:
        number: How many to choose.
        salt: Another one makes another choice.
    """

    def __init__(self, number: int, salt: bytes) -> None:
        self._number = number
        self._salt = salt
        self._heap: list[tuple[int, str]] = []
        self._chosen: dict[str, bool] = {}

    def add(self, ids: Iterable[str], *, listed: bool) -> None:
        """Add ids."""
        for id in ids:
            if id not in self._chosen:
                item = (-hash_of(id, self._salt), id)
                if len(self._heap) < self._number:
                    heapq.heappush(self._heap, item)
                else:
                    dropped = heapq.heappushpop(self._heap, item)[1]
                    if dropped == id:
                        continue
                    del self._chosen[dropped]
                self._chosen[id] = listed

    def chosen(self) -> tuple[list[str], list[str]]:
        """Return the chosen ids that were listed, and the others."""
        return (
            [id for id, listed in self._chosen.items() if listed],
            [id for id, listed in self._chosen.items() if not listed],
        )


class _Doubts:
    """Whether a listing lists what the fetcher reads."""

    def __init__(self, listing: object) -> None:
        self._listing = listing
        self.listed = 0
        self._unknown = 0
        self._other = 0

    def add(self, reading: Reading, listed: Found[object] | None) -> None:
        """Add what a GET of a listed id found, and what was listed."""
        if not reading.source.has:
            self._unknown += 1
        elif listed is not None and side_of(listed) != reading.source:
            self._other += 1

    def check(self, *, last: bool = False) -> None:
        """
        Check what was added.

        Raises:
            ListingError: The listing is not one of what the fetcher reads.
        """
        if self._are_most(self._unknown, last=last):
            raise ListingError(
                f"{self._listing!r} has named {self.listed:,} ids, and the source does not know "
                f"{self._unknown:,} of them. Does it list entities of another type?"
            )
        if self._are_most(self._other, last=last):
            raise ListingError(
                f"{self._listing!r} has named {self.listed:,} entities, and a GET returned "
                f"{self._other:,} of them not as they were listed. If it does not list whole "
                "entities, use entities=False"
            )

    def _are_most(self, number: int, *, last: bool) -> bool:
        return (number >= REFUSED and number > self.listed / 2) or (
            last and number >= 3 and number == self.listed
        )
