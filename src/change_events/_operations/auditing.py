"""
One pass of an audit.

An id whose two sides differ is only a suspect: the cache can be late. It is read again after
`min_age`, and counts as wrong only if neither side has changed meanwhile. All suspects wait at the
same time.
"""

from __future__ import annotations

import heapq
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._operations.listed import hash_of, is_in
from change_events._operations.patience import patiently
from change_events._operations.progress import Count
from change_events._operations.rounds import TRIES
from change_events._operations.sides import side_of
from change_events._operations.throttle import SINK
from change_events._text import printable
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

MISSING, EXTRA, DIFFERENT = KINDS = ("missing", "extra", "different")


@dataclass
class Findings:
    """
    What a pass has found so far.

    Attributes:
        phase: `listing`, `unlisted`, or `suspects` while it waits for the second readings.
        done: How many ids were read, those that are suspects included.
        total: How many are listed, if the listing says so.
        stale: The ids that are wrong, by kind.
        ages: For how many seconds each of them has been wrong at least.
        reasons: How many of them are wrong because of what.
        cleared: How many suspects were right, or changed.
        undecided: The ids that could not be compared, and why.
    """

    phase: str = "listing"
    done: int = 0
    total: int | None = None
    stale: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    ages: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    cleared: int = 0
    undecided: dict[str, str] = field(default_factory=dict)

    def count(self) -> Count:
        """Return how far it is."""
        return Count(self.phase, self.done, self.total)

    def judge(self, id: str, first: Reading, second: Reading) -> None:
        """Decide about a suspect."""
        if not first.confirmed_by(second):
            self.cleared += 1
            return
        kind = EXTRA if not second.source.has else DIFFERENT if second.cached.has else MISSING
        self.stale[kind].append(id)
        self.ages.append(second.cache_at - first.source_at)
        self.reasons[why(second)] += 1


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
        self._min_age = min_age
        self._clock = clock
        self._suspects: dict[str, Reading] = {}
        self._again: list[str] = []
        self._doubts = _Doubts(pages)
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
            self._read_due()
            yield 0.0
        self._read(self._again, tries=TRIES)
        self.found.phase, self.found.total = "suspects", self.found.done
        while self._suspects:
            first = next(iter(self._suspects.values()))
            yield max(0.0, first.source_at + self._min_age - self._clock())
            self._read_due()

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
            self._read([id for id in ids if not is_in(ordered, id)])
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
        self._read(rest)
        yield

    def _cached_ids(self) -> Iterator[list[str]]:
        sink, after = self._ids, None
        while sink is not None:
            ids = patiently(
                lambda after=after: sink.ids(after=after, limit=CHUNK),  # type: ignore[misc]
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
        for id, reading in self._read([id for id in ids if id not in right]).items():
            self._doubts.add(reading, found.get(id))
        self._doubts.check()

    def _read(self, ids: Sequence[str], *, tries: int = 1) -> Mapping[str, Reading]:
        """Read both sides for the first time; return what could be read."""
        size, results = self._sides.bulk_size, {}
        for id, reading in self._rounds.work(
            ids, self._sides.first, size=size, tries=tries
        ).items():
            if not isinstance(reading, Exception):
                results[id] = reading
                self._judge_first(id, reading)
            elif tries == 1:  # it must not keep the others waiting
                self._again.append(id)
            else:
                self._give_up(id, printable(reading, 300))
        return results

    def _judge_first(self, id: str, reading: Reading) -> None:
        self.found.done += 1
        if reading.differs is None:
            self._give_up(id, NO_DIGEST)
        elif reading.differs:
            self._suspects[id] = reading

    def _give_up(self, id: str, why: str) -> None:
        self.found.undecided[id] = why

    # Second readings

    def _read_due(self) -> None:
        """Read those suspects again that have waited for long enough."""
        now, due = self._clock(), []
        for id, first in self._suspects.items():
            if first.source_at + self._min_age > now:
                break
            due.append(id)
        for id, second in self._rounds.work(
            due, self._sides.second, size=self._sides.bulk_size
        ).items():
            first = self._suspects.pop(id)
            if isinstance(second, Exception):
                self._give_up(id, printable(second, 300))
            else:
                self.found.judge(id, first, second)


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


NO_DIGEST = "there is no digest to compare: give the audit read="


def why(reading: Reading) -> str:
    """Return why an entry can be wrong, as far as both sides show it."""
    entry, cached = reading.entry, reading.cached
    if not cached.has:
        if entry.present:
            return "counted as cached, and not there: deleted by hand"
        if entry.version:
            return "a tombstone: created again and never announced, or deleted by hand"
        return "never looked at: never announced, or its row was deleted by hand"
    if entry.digest is None:
        return "a row without a digest: inserted by hand, or stored under another revision"
    if isinstance(cached.mark, str) and cached.mark != entry.digest:
        return "not what a look has stored: changed by hand"
    return "changed at the source and never announced"
