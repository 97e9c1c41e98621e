"""
Compares ids with the source, for an audit.

An id whose two sides differ is only a suspect: the cache can be late. It is read again after
`min_age`, and counts as wrong only if neither side has changed meanwhile. All suspects wait at the
same time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from change_events._operations.progress import Count
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._operations.rounds import Rounds
    from change_events._operations.sides import Reading, Sides

MISSING, EXTRA, DIFFERENT = KINDS = ("missing", "extra", "different")

KEPT = 100
"""How many ids of each kind are kept in the sink's state."""

NO_DIGEST = "there is no digest to compare: give the sink read="


class Stale(NamedTuple):
    """
    An entry that is wrong.

    Attributes:
        kind: `missing`, `extra` or `different`.
        why: Why it can be wrong.
        age: For how many seconds it has been wrong at least.
    """

    kind: str
    why: str
    age: float


@dataclass
class Findings:
    """
    What was found so far.

    Attributes:
        phase: `listing`, `unlisted`, or `suspects` while it waits for the second readings.
        done: How many ids were read, those that are suspects included.
        total: How many there are, if that is known.
        stale: What is wrong, by id.
        cleared: How many suspects were right, or changed.
        undecided: The ids that could not be compared, and why.
    """

    phase: str = "listing"
    done: int = 0
    total: int | None = None
    stale: dict[str, Stale] = field(default_factory=dict)
    cleared: int = 0
    undecided: dict[str, str] = field(default_factory=dict)

    def count(self) -> Count:
        """Return how far it is."""
        return Count(self.phase, self.done, self.total)

    def ids(self, kind: str) -> list[str]:
        """Return the ids that are wrong in that way."""
        return [id for id, stale in self.stale.items() if stale.kind == kind]

    def judge(self, id: str, first: Reading, second: Reading) -> None:
        """Decide about a suspect."""
        if not first.confirmed_by(second):
            self.cleared += 1
            return
        kind = EXTRA if not second.source.has else DIFFERENT if second.cached.has else MISSING
        self.stale[id] = Stale(kind, why(second), second.cache_at - first.source_at)


class Comparing:
    """
    Compares ids.

    Args:
        sides: Reads the source and the cache.
        rounds: Works on many ids.
        min_age: Seconds between the two readings.
        found: Where to note what was found.
        clock: Tells the time, in seconds.

    Attributes:
        suspects: The first readings of what differed, in their order.
        again: What could not be read, and is to be read again.
    """

    def __init__(
        self,
        *,
        sides: Sides[Any],
        rounds: Rounds,
        min_age: float,
        found: Findings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sides = sides
        self._rounds = rounds
        self._min_age = min_age
        self._clock = clock
        self.found = found
        self.suspects: dict[str, Reading] = {}
        self.again: list[str] = []

    def read(self, ids: Sequence[str], *, tries: int = 1) -> Mapping[str, Reading]:
        """Read both sides for the first time; return what could be read."""
        size, results = self._sides.bulk_size, {}
        for id, reading in self._rounds.work(
            ids, self._sides.first, size=size, tries=tries
        ).items():
            if not isinstance(reading, Exception):
                results[id] = reading
                self._judge_first(id, reading)
            elif tries == 1:  # it must not keep the others waiting
                self.again.append(id)
            else:
                self.found.done += 1
                self._give_up(id, printable(reading, 300))
        return results

    def _judge_first(self, id: str, reading: Reading) -> None:
        self.found.done += 1
        if reading.differs is None:
            self._give_up(id, NO_DIGEST)
        elif reading.differs:
            self.suspects[id] = reading

    def _give_up(self, id: str, why: str) -> None:
        self.found.undecided[id] = why

    @property
    def seconds_left(self) -> float:
        """The seconds until the first suspect has waited for long enough; 0 if there is none."""
        first = next(iter(self.suspects.values()), None)
        return max(0.0, first.source_at + self._min_age - self._clock()) if first else 0.0

    def read_due(self) -> Mapping[str, Reading]:
        """Read those suspects again that have waited for long enough; return what was read."""
        now, due, results = self._clock(), [], {}
        for id, first in self.suspects.items():
            if first.source_at + self._min_age > now:
                break
            due.append(id)
        for id, second in self._rounds.work(
            due, self._sides.second, size=self._sides.bulk_size
        ).items():
            first = self.suspects.pop(id)
            if isinstance(second, Exception):
                self._give_up(id, printable(second, 300))
            else:
                results[id] = second
                self.found.judge(id, first, second)
        return results


def why(reading: Reading) -> str:
    """Return why an entry can be wrong, as far as both sides show it."""
    entry, cached = reading.entry, reading.cached
    if not cached.has:
        if entry.present:
            return "counted as cached, and not there: deleted by hand"
        return (
            "a tombstone: created again and never announced, or deleted by hand"
            if entry.version
            else "never looked at: never announced, or its row was deleted by hand"
        )
    if entry.digest is None:
        return "a row without a digest: inserted by hand, or stored under another revision"
    if not isinstance(cached.mark, str):
        return "not JSON as read: read= returns something else than upsert= got, or never announced"
    if cached.mark != entry.digest:
        return "not what a look has stored: changed by hand"
    return "changed at the source and never announced"
