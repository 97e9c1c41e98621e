"""
The ghost: sees everything, is seen by nobody, and knows the promise but not the code.

It keeps its own books from what goes over the wire (the fakes of SNS, SQS, the source and the sink
tell it) and from what it was told of the set-up. No figure in them was computed by the production
code.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

from verification.proof.simulation._kernel import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events import Entry
    from verification.proof.simulation._kernel import Kernel, Process

CHECKS = {
    "announced": "nothing is committed without an accepted broadcast of its save; and later than the settle window after it "
    "only if another one follows",
    "forward": "an applied state is never older than the one before it",
    "committed": "no state is cached that was never committed",
    "version": "the version grows by one with each successful apply, and only then",
    "evidence": "nothing but a 404 or a 410 deletes",
    "look": "no acknowledgement without a look of the worker's own whose GET started late enough, with the message in its "
    "hands",
    "pending": "a stale id has an unacknowledged event, or a save under way",
    "quiet": "the queues run empty",
    "equal": "once all is quiet, the cache equals the source",
}
EPSILON = 1e-6
"""Seconds: processes have clocks of their own, whose sums round otherwise."""

PER_DECADE = 20
LEAST = 1e-3
"""The histogram of staleness has so many buckets in each decade from a millisecond on."""

State = int | None
"""What an entity contains; None: there is none."""


class Save:
    """
    One call of a function that saves.

    Attributes:
        ids: What it saves.
        states: What it makes of each.
        accepted: By id, when the latest broadcast that was accepted had started.
        late: By id, when it was committed although `accepted` was too old by then.
        commits: By id, which commit that was.
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
        self.visible_at = math.inf
        self.deleted = False


class Ghost:
    """
    Args:
        kernel: Tells the time.
        settle: The publishers' settle window in seconds.
        hold: The worker's, that is the longer of the two, less the queue's delay.
        checks: Which properties to hold, of `CHECKS`; what breaks one of the others is only
            counted.
        traced: The id whose story is to be kept.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        settle: float,
        hold: float,
        checks: frozenset[str],
        traced: str | None,
    ) -> None:
        self._kernel = kernel
        self._settle = settle
        self._hold = hold
        self._checks = checks
        self._traced = traced
        self.story: deque[str] = deque(maxlen=400)
        self.history: defaultdict[str, list[State]] = defaultdict(lambda: [None])
        self.cached: dict[str, State] = {}
        self.applied: dict[str, int] = {}
        self.versions: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.unacknowledged = 0
        self.saves = 0
        self._open: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._forsaken: set[str] = set()
        self._ahead: set[str] = set()  # holds what is no commit, yet or for ever
        self.staleness: Counter[int] = Counter()

    # The producers

    def begin(self, save: Save) -> None:
        self.saves += 1
        for id in save.ids:
            self.under_way[id] += 1
            self.tell(id, f"save {save.name} begins")

    def end(self, save: Save, how: str) -> None:
        """The save has returned, raised, or died with its process."""
        self.saves -= 1
        if save.late and how != "crashed":
            self._check_announced(save)
        for id in save.ids:
            self.under_way[id] -= 1
            self.tell(id, f"save {save.name} {how}")
            self.check_pending(id)

    def _check_announced(self, save: Save) -> None:
        for id, committed in save.late.items():
            if not save.unsettled and save.accepted.get(id, -math.inf) <= committed - self._settle:
                self.fail(
                    "announced",
                    id,
                    f"{save.name} committed late, at {committed:.3f}, and nothing was broadcast after it",
                )

    def accepted(self, save: Save | None, started: float, message: Message) -> None:
        id = message.entity
        if save is not None:
            save.accepted[id] = max(save.accepted.get(id, started), started)
        self.events[id] += 1
        self.unacknowledged += 1
        self.tell(id, f"broadcast accepted, {message.phase or 'plain'}, begun at {started:.3f}")

    def commit(self, save: Save, id: str) -> None:
        now, state = self._kernel.now, save.states[id]
        accepted = save.accepted.get(id)
        if accepted is None:
            self.fail("announced", id, f"{save.name} commits without an accepted broadcast")
        elif now - accepted > self._settle + EPSILON:
            save.late[id] = now
            self.counts["late"] += 1
        history = self.history[id]
        history.append(state)
        save.commits[id] = len(history) - 1
        self.counts["commits"] += 1
        self.tell(id, f"COMMIT {len(history) - 1}: {state} by {save.name}")
        if id in self._forsaken:  # it would have stayed stale
            self._forsaken.discard(id)
            self.counts["forsaken"] += 1
        if self.cached.get(id) == state:  # by chance, or as the cache was told before
            if id in self._ahead:
                self.applied[id] = len(history) - 1
            self._refreshed(id, len(history) - 1)
        else:
            self._open[id].append((len(history) - 1, now))
        self.check_pending(id)

    # The consumers

    def received(self, process: Process, messages: Sequence[Message]) -> None:
        here = (self._kernel.now, self._kernel.step)
        for message in messages:
            process.receipts.setdefault(message.message_id, here)
            if message.phase == "saved" and message.save is not None:
                process.saved.setdefault(message.save, here[1])
            self.tell(
                message.entity,
                f"{process.name} received {message.message_id}, {message.phase or 'plain'}",
            )

    def acknowledging(self, process: Process, message: Message) -> None:
        """A worker of ours deletes a message: hold it against what that worker has done."""
        look = process.looks.get(message.entity)
        receipt = process.receipts.get(message.message_id)
        self.tell(message.entity, f"{process.name} acknowledges {message.message_id}")
        if receipt is None:
            return self.fail(
                "look",
                message.entity,
                f"{message.message_id} was acknowledged by who never received it",
            )
        if look is None or look[1] <= receipt[1]:
            return self.fail(
                "look",
                message.entity,
                f"{message.message_id} was not in {process.name}'s hands at its last GET",
            )
        if message.phase == "saved" or look[0] + EPSILON >= receipt[0] + self._hold:
            return None
        if message.phase == "saving" and process.saved.get(message.save or "", math.inf) < look[1]:
            return None
        return self.fail(
            "look",
            message.entity,
            f"{message.message_id}: its GET started {look[0] - receipt[0]:.3f} s after its receipt",
        )

    def deleted(self, message: Message) -> None:
        self.unacknowledged -= 1
        self.events[message.entity] -= 1
        self.tell(message.entity, f"{message.message_id} is deleted")
        self.check_pending(message.entity)

    def looked(self, id: str, *, before: Entry, after: Entry, value: State) -> None:
        """A look of ours was applied, by the task whose turn it is."""
        task = self._kernel.current
        task.process.looks[id] = (task.get_started, task.get_step)
        self.versions[id] += 1
        if after.version != before.version + 1 or after.version != self.versions[id]:
            self.fail(
                "version",
                id,
                f"version {before.version} became {after.version}, at apply {self.versions[id]}",
            )
        commit = task.commits[id]
        read = self.history[id][commit]
        if before.present and not after.present and read is not None:
            self.fail("evidence", id, "deleted, and no GET had said so")
        if after.present != (value is not None) or value != read:
            self.fail("committed", id, f"{value} is cached; the GET had read {read}")
        self.wrote(id, value, commit)

    def refused(self, id: str, *, before: Entry, after: Entry) -> None:
        """A compare-and-set of ours was refused."""
        self.counts["conflicts"] += 1
        if before != after or after.version != self.versions[id]:
            self.fail(
                "version",
                id,
                f"version {before.version} became {after.version}, and no apply succeeded",
            )

    def wrote(self, id: str, value: State, commit: int | None) -> None:
        """
        The cache was written.

        Args:
            id: Whose entry.
            value: What it holds now.
            commit: Which commit that is; None: none, yet or for ever.
        """
        self.counts["applies"] += 1
        was, self.cached[id] = self.cached.get(id), value
        last = self.applied.get(id, 0)
        self.tell(
            id, f"APPLIED {commit}: {value}, over {last}, by {self._kernel.current.process.name}"
        )
        if commit is None:
            self.counts["phantoms"] += 1
            self._ahead.add(id)
        else:
            self._ahead.discard(id)
            if commit < last:
                self.counts["backward"] += was != value
                self.fail("forward", id, f"commit {commit} was applied over {last}")
            self.applied[id] = commit
        if self.is_stale(id):
            if commit is not None:
                self._settled(id, commit)
            self._open[id] = self._open[id] or [(len(self.history[id]) - 1, self._kernel.now)]
        else:
            self._refreshed(id, len(self.history[id]) - 1)
        self.check_pending(id)

    # The promise

    def is_stale(self, id: str) -> bool:
        return self.cached.get(id) != self.history[id][-1]

    def check_pending(self, id: str) -> None:
        if self.events[id] or self.under_way[id] or not self.is_stale(id) or id in self._forsaken:
            return
        self._forsaken.add(id)
        self.tell(id, "is stale, and nothing is on its way")
        self.fail(
            "pending",
            id,
            f"{self.cached.get(id)} is cached, {self.history[id][-1]} is true, and nothing is on its way",
        )

    def check_equal(self) -> None:
        for id in list(self.history):
            if self.is_stale(id):
                self.fail(
                    "equal",
                    id,
                    f"{self.cached.get(id)} is cached, {self.history[id][-1]} is true, and all is quiet",
                )

    def close(self) -> None:
        """Count what is stale for ever."""
        self.counts["forsaken"] += len(self._forsaken)
        for commits in self._open.values():
            for _ in commits:
                self._count_staleness(math.inf)

    def fail(self, check: str, id: str, text: str) -> None:
        self.counts[f"broken: {check}"] += 1
        if check in self._checks:
            self.tell(id, f"VIOLATION of {check!r}: {text}")
            self._kernel.fail(Violation(f"{id}: {text} ({CHECKS[check]})", check=check, id=id))

    def tell(self, id: str, text: str) -> None:
        if id == self._traced:
            self.story.append(f"{self._kernel.now:12.3f} {self._kernel.step:9d}  {text}")

    # Staleness: the seconds from a commit until the cache shows it or a later one

    def _refreshed(self, id: str, commit: int) -> None:
        self._forsaken.discard(id)
        self._settled(id, commit)

    def _settled(self, id: str, commit: int) -> None:
        waiting = self._open[id]
        now = self._kernel.now
        for _, time in [each for each in waiting if each[0] <= commit]:
            self._count_staleness(now - time)
        waiting[:] = [each for each in waiting if each[0] > commit]

    def _count_staleness(self, seconds: float) -> None:
        if seconds == math.inf:
            self.staleness[-1] += 1
        else:
            self.staleness[
                max(0, math.ceil(math.log10(max(seconds, LEAST) / LEAST) * PER_DECADE))
            ] += 1
        self.counts["stale 60"] += seconds > 60
        self.counts["stale 300"] += seconds > 300
