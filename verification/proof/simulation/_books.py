"""The ghost's books: what the cache holds, what is on its way to it, and how stale it was."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verification.proof.simulation._kernel import Kernel

State = int | None
"""The content of an entity; None: the entity is absent."""

PER_DECADE = 20
"""Buckets per decade in the histogram of staleness."""

LEAST = 1e-3
"""Seconds where the histogram of staleness begins."""


class Story:
    """
    What happened to one id.

    Args:
        kernel: The clock.
        id: The id; None: keep no story.
    """

    def __init__(self, kernel: Kernel, id: str | None) -> None:
        self._kernel = kernel
        self._id = id
        self.lines: deque[str] = deque(maxlen=400)

    def tell(self, id: str, text: str) -> None:
        """Add a line if the story is about this id."""
        if id == self._id:
            self.lines.append(f"{self._kernel.now:12.3f} {self._kernel.step:9d}  {text}")


class Pending:
    """
    What is on its way to the cache.

    Attributes:
        events: By id, the events that are not deleted from the queue.
        saves: By id, the saves under way.
        all_events: All such events.
        all_saves: All such saves; a save of many ids counts once.
    """

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.saves: Counter[str] = Counter()
        self.all_events = 0
        self.all_saves = 0

    def sent(self, id: str) -> None:
        """Count an event in."""
        self.events[id] += 1
        self.all_events += 1

    def deleted(self, id: str) -> None:
        """Count an event out."""
        self.events[id] -= 1
        self.all_events -= 1

    def has(self, id: str) -> bool:
        """Return whether an event or a save of this id is on its way."""
        return bool(self.events[id] or self.saves[id])


class CacheBook:
    """
    What the cache holds, known from what was written to it.

    Attributes:
        states: By id, the state.
        commits: By id, the commit that was applied last.
        versions: By id, how many looks were applied.
        uncommitted: Ids whose state is not a commit: not yet, or never.
    """

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.commits: dict[str, int] = {}
        self.versions: Counter[str] = Counter()
        self.uncommitted: set[str] = set()


class Downtime:
    """When no look can succeed: the source is down, or the database of the cache."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._since: dict[object, float] = {}
        self._over: list[tuple[float, float]] = []  # from, to

    def begin(self, what: object) -> None:
        """Note that an outage begins."""
        self._since[what] = self._kernel.now

    def end(self, what: object) -> None:
        """Note that an outage is over."""
        self._over.append((self._since.pop(what), self._kernel.now))

    def lasts_since(self, time: float) -> bool:
        """Return True if there is an outage that began at that time or before."""
        return any(since <= time for since in self._since.values())

    def between(self, since: float, until: float) -> float:
        """Return how many of these seconds were in an outage that is over."""
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self._over)


class Staleness:
    """
    The seconds from each commit until the cache shows it or a later one.

    Attributes:
        buckets: The histogram: commits by bucket; -1: never shown. Bucket n ends at
            `LEAST * 10 ** (n / PER_DECADE)` seconds.
    """

    def __init__(self, kernel: Kernel, counts: Counter[str], downtime: Downtime) -> None:
        self._kernel = kernel
        self._counts = counts
        self._waiting: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._downtime = downtime
        self.buckets: Counter[int] = Counter()

    def begin(self, id: str, commit: int) -> None:
        """The cache does not show this commit yet."""
        self._waiting[id].append((commit, self._kernel.now))

    def begin_if_none(self, id: str, commit: int) -> None:
        """The cache has lost this commit, unless older ones are still waiting."""
        if not self._waiting[id]:
            self.begin(id, commit)

    def end(self, id: str, commit: int) -> None:
        """The cache shows this commit, and so all earlier ones."""
        waiting = self._waiting[id]
        now = self._kernel.now
        for _, time in [each for each in waiting if each[0] <= commit]:
            self._count(time, now)
        waiting[:] = [each for each in waiting if each[0] > commit]

    def close(self) -> None:
        """Count the commits that the cache never showed."""
        for commits in self._waiting.values():
            for _, time in commits:
                self._count(time, math.inf)

    def _count(self, since: float, until: float) -> None:
        seconds = until - since
        if seconds == math.inf:
            self.buckets[-1] += 1
        else:
            bucket = math.ceil(math.log10(max(seconds, LEAST) / LEAST) * PER_DECADE)
            self.buckets[max(0, bucket)] += 1
        self._counts["stale 60"] += seconds > 60
        self._counts["stale 300"] += seconds > 300
        if seconds > 60:
            down = self._downtime.between(since, until)
            self._counts["stale 60, source up"] += seconds - down > 60
