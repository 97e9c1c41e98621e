"""The ghost's books: what the cache holds, what is on its way to it, and how stale it was."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verification.proof.simulation._kernel import Kernel
    from verification.proof.simulation._outside import Outside

State = int | None
"""The content of an entity; None: the entity is absent."""

PER_DECADE = 20
"""Buckets per decade in the histogram of staleness."""

LEAST = 1e-3
"""Seconds where the histogram of staleness begins."""


class Save:
    """
    One call of a function that saves.

    Attributes:
        name: Its name.
        states: By id, the state to save.
        ids: The ids to save.
        accepted: By id, the start of the latest accepted broadcast.
        late: By id, the time of a commit that was too late for `accepted`.
        commits: By id, the number of the commit.
        unsettled: The caller was told that the last broadcast failed, too.
    """

    __slots__ = ("accepted", "commits", "ids", "late", "name", "states", "unsettled")

    def __init__(self, name: str, states: dict[str, State]) -> None:
        self.name = name
        self.states = states
        self.ids = list(states)
        self.accepted: dict[str, float] = {}
        self.late: dict[str, float] = {}
        self.commits: dict[str, int] = {}
        self.unsettled = False

    def unannounced(self, settle: float) -> list[tuple[str, float]]:
        """Return the ids, and when they were committed, of which SNS has not heard since."""
        if self.unsettled:
            return []
        return [
            (id, at)
            for id, at in self.late.items()
            if self.accepted.get(id, -math.inf) <= at - settle
        ]


class Message:
    """A message on its way to or in the queue, and what the ghost knows of it."""

    __slots__ = (
        "attributes",
        "body",
        "deleted",
        "entity",
        "message_id",
        "phase",
        "receive_count",
        "save",
        "sent_at",
        "visible_at",
    )

    def __init__(self, body: str, attributes: dict[str, dict[str, str]], entity: str) -> None:
        self.body = body
        self.attributes = attributes
        self.entity = entity
        self.phase = attributes["phase"]["StringValue"] if "phase" in attributes else None
        self.save = attributes["save"]["StringValue"] if "save" in attributes else None
        self.message_id = ""
        self.receive_count = 0
        self.sent_at = math.inf
        self.visible_at = math.inf
        self.deleted = False


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
        by_name: The saves under way, by their names.
        saves: By id, how many of them there are.
        all_events: All such events.
        all_saves: All such saves; a save of many ids counts once.
    """

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.saves: Counter[str] = Counter()
        self.by_name: dict[str, Save] = {}
        self.all_events = 0
        self.all_saves = 0

    def begin(self, save: Save) -> None:
        """Count a save in."""
        self.all_saves += 1
        self.by_name[save.name] = save
        self.saves.update(save.ids)

    def end(self, save: Save) -> None:
        """Count a save out."""
        self.all_saves -= 1
        self.by_name.pop(save.name, None)
        self.saves.subtract(save.ids)

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
        forsaken: Ids that are stale, although nothing is on its way.
        outside: What no broadcast has told.
    """

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.states: dict[str, State] = {}
        self.commits: dict[str, int] = {}
        self.versions: Counter[str] = Counter()
        self.uncommitted: set[str] = set()
        self.forsaken: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """True if nothing is present: a worker knows no id that is good, and no outage from it."""
        return all(state is None for state in self.states.values())


class Mistakes:
    """
    What a source that is wrong has done to the cache.

    Attributes:
        ids: Ids about which the source was wrong, when it was last asked.
        deleted: How many of them were present before that.
        allowed: How many may be.
    """

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.deleted = 0
        self.allowed = 0

    def stored(self, id: str, *, present: bool, lied: bool) -> bool:
        """
        Note that what the source said is stored; return False if it has lied too often.

        `present`: The id was, before. `lied`: The source did.
        """
        if not lied:
            self.ids.discard(id)
            return True
        self.ids.add(id)
        self.deleted += present
        return self.deleted <= self.allowed


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
        """Return how many of these seconds, up to now, were in an outage."""
        outages = [*self._over, *((begin, until) for begin in self._since.values())]
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in outages)


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
