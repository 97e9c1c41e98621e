"""
The ghost: sees everything, is seen by nothing, and knows the promise but not the code.

It keeps its own books. The stand-ins of SNS, SQS, the source and the sink tell it what goes over
the wire, and it knows the set-up. The production code computes none of its numbers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from verification.proof.simulation._books import (
    CacheBook,
    Downtime,
    Message,
    Mistakes,
    Pending,
    Save,
    Staleness,
    State,
    Story,
)
from verification.proof.simulation._kernel import Violation
from verification.proof.simulation._outside import Outside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events import Entry
    from verification.proof.simulation._kernel import Kernel, Process

CHECKS = {
    "announced": (
        "nothing is committed without an accepted broadcast of its save; "
        "a commit later than the settle window is followed by another broadcast"
    ),
    "forward": "an applied state is never older than the one before it",
    "committed": "no state is cached that was never committed",
    "version": "the version grows by one with each successful apply, and only then",
    "evidence": "nothing but a 404 or a 410 deletes",
    "guarded": (
        "a wrong URL has no more entities deleted than half of the hundred looks that count: if "
        "nobody has the right one, however often workers start; otherwise, each time one starts"
    ),
    "look": (
        "a worker acknowledges a message only after a look of its own whose GET started late "
        "enough, while the worker held the message"
    ),
    "patient": "an outage costs no receive: what a look could not settle meanwhile stays held",
    "pending": "a stale id has an unacknowledged event, or a save under way",
    "quiet": "the queues run empty, and the operations end",
    "filled": "after a backfill the cache has what the source had before the queue existed",
    "audited": (
        "an audit reports an entry only if it was wrong for the time between its two readings, and "
        "no look had written it; it finds each row that was changed by hand; its repair mends these"
    ),
    "equal": "once all is quiet, the cache equals the source",
}

SAVE_NAME = "save-name"
"""The message attribute that tells the ghost which save an event belongs to."""

EPSILON = 1e-6
"""Seconds: each process has its own clock, whose sums are rounded differently."""


class Ghost:
    """
    Checks every step against the promise.

    Args:
        kernel: The clock.
        settle: The publishers' settle window in seconds.
        hold: How long a worker must hold an event, in seconds: the longer of the publishers' and
            the workers' settle window, less the queue's delay.
        outside: Keep what the checks of operations need.
        checks: The properties of `CHECKS` that end the run. Violations of the others are counted.
        traced: The id whose story is kept.

    Attributes:
        story: The story of the traced id.
        history: By id, the committed states; the first one is None.
        pending: What is on its way to the cache.
        counts: What happened how many times.
        downtime: When no look could succeed.
        mistakes: What a source that is wrong has done.
        cache: What the cache holds, and why.
        staleness: How stale the cache was.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        settle: float,
        hold: float,
        outside: bool = False,
        checks: frozenset[str],
        traced: str | None,
    ) -> None:
        self._kernel = kernel
        self._settle = settle
        self._hold = hold
        self._checks = checks
        self.story = Story(kernel, traced)
        self.history: defaultdict[str, list[State]] = defaultdict(lambda: [None])
        self.pending = Pending()
        self.counts: Counter[str] = Counter()
        self.downtime = Downtime(kernel)
        self.staleness = Staleness(kernel, self.counts, self.downtime)
        self.mistakes = Mistakes()
        self.cache = CacheBook(Outside(kernel, on=outside))

    def tell(self, id: str, text: str) -> None:
        """Add a line to the story of an id."""
        self.story.tell(id, text)

    # Services

    def begin(self, save: Save) -> None:
        """A save begins."""
        self.pending.begin(save)
        for id in save.ids:
            self.tell(id, f"save {save.name} begins")

    def end(self, save: Save, how: str) -> None:
        """A save has returned, raised, or died with its process."""
        self.pending.end(save)
        for id, at in save.unannounced(self._settle) if how != "crashed" else []:
            text = f"{save.name} committed late, at {at:.3f}, and broadcast nothing after"
            self.fail("announced", id, text)
        for id in save.ids:
            self.tell(id, f"save {save.name} {how}")
            self._check_pending(id)

    def accepted(self, save: Save | None, started: float, message: Message) -> None:
        """SNS has accepted a broadcast, begun at `started`. `save`: unless the message names it."""
        id = message.entity
        if SAVE_NAME in message.attributes:
            save = self.pending.by_name.get(message.attributes[SAVE_NAME]["StringValue"], save)
        if save is not None:
            save.accepted[id] = max(save.accepted.get(id, started), started)
        self.pending.sent(id)
        self.tell(id, f"broadcast accepted, {message.phase or 'plain'}, begun at {started:.3f}")

    def commit(self, save: Save, id: str) -> None:
        """A save commits an entity."""
        now, state = self._kernel.now, save.states[id]
        accepted = save.accepted.get(id)
        if accepted is None:
            self.fail("announced", id, f"{save.name} commits without an accepted broadcast")
        elif now - accepted > self._settle + EPSILON:
            save.late[id] = now
            self.counts["late"] += 1
        history = self.history[id]
        history.append(state)
        number = save.commits[id] = len(history) - 1
        self.counts["commits"] += 1
        self.cache.outside.unannounced.discard(id)
        self.tell(id, f"COMMIT {number}: {state} by {save.name}")
        if id in self.cache.forsaken:  # without this commit it would have stayed stale
            self.cache.forsaken.discard(id)
            self.counts["forsaken"] += 1
        if self.cache.states.get(id) == state:  # by chance, or it was cached before the commit
            if id in self.cache.uncommitted - self.mistakes.ids:
                self.cache.commits[id] = number
            self._shown(id, number)
        else:
            self.staleness.begin(id, number)
        self.cache.outside.note(id, written=False, wrong=self._is_stale(id))
        self._check_pending(id)

    # Workers

    def received(self, process: Process, messages: Sequence[Message]) -> None:
        """A process has received messages."""
        here = (self._kernel.now, self._kernel.step)
        for message in messages:
            process.receipts.setdefault(message.message_id, here)
            if message.phase == "saved" and message.save is not None:
                process.saved.setdefault(message.save, here[1])
            self.tell(
                message.entity,
                f"{process.name} received {message.message_id}, {message.phase or 'plain'}",
            )

    def acknowledging(self, process: Process, message: Message, *, aged: bool = False) -> None:
        """Check that looks allow this deletion. `aged`: SQS's clock tells the message's age."""
        id, message_id = message.entity, message.message_id
        self.tell(id, f"{process.name} acknowledges {message_id}")
        look = process.looks.get(id)
        if aged and look is not None and look[0] >= message.sent_at + self._settle:
            return
        if text := _unsettled(process, message, self._hold):
            self.fail("look", id, text)

    def handed_back(self, process: Process, message: Message) -> None:
        """A worker that is not about to stop gives back a message: check that no outage is why."""
        if not self.cache.is_empty and self.downtime.lasts_since(
            process.began.get(message.entity, -math.inf)
        ):
            self.fail("patient", message.entity, f"{process.name}: {message.message_id}")

    def deleted(self, message: Message) -> None:
        """SQS has deleted a message."""
        self.pending.deleted(message.entity)
        self.tell(message.entity, f"{message.message_id} is deleted")
        self._check_pending(message.entity)

    # The cache

    def looked(self, id: str, *, before: Entry, after: Entry, value: State) -> None:
        """The current task has applied a look of ours."""
        task = self._kernel.current
        task.process.looks[id] = (task.get_started, task.get_step)
        self.cache.versions[id] += 1
        applies = self.cache.versions[id]
        if after.version != before.version + 1 or after.version != applies:
            text = f"version {before.version} became {after.version}, at apply {applies}"
            self.fail("version", id, text)
        if id not in task.commits:
            self.fail("evidence", id, "written, and nothing was asked for")
        commit = task.commits.get(id)
        if not self.mistakes.stored(id, present=before.present, lied=commit is None):
            self.fail("guarded", id, f"{self.mistakes.deleted} were deleted by mistake")
        read = None if commit is None else self.history[id][commit]
        if before.present and not after.present and read is not None:
            self.fail("evidence", id, "deleted, and no GET had said so")
        by_hand = after.present and self.cache.outside.is_by_hand(id, value)
        if not by_hand and (after.present != (value is not None) or value != read):
            self.fail("committed", id, f"{value} is cached; the GET had read {read}")
        self.wrote(id, value, commit)

    def refused(self, id: str, *, before: Entry, after: Entry) -> None:
        """A compare-and-set of ours was refused."""
        self.counts["conflicts"] += 1
        if before != after or after.version != self.cache.versions[id]:
            text = f"version {before.version} became {after.version}, and no apply succeeded"
            self.fail("version", id, text)

    def wrote(self, id: str, value: State, commit: int | None) -> None:
        """
        The cache was written.

        Args:
            id: The entry's id.
            value: Its new state.
            commit: The number of the commit; None: the state is not committed, yet or ever.
        """
        cache = self.cache
        self.counts["applies"] += 1
        was, cache.states[id] = cache.states.get(id), value
        last = cache.commits.get(id, 0)
        process = self._kernel.current.process
        self.tell(id, f"APPLIED {commit}: {value}, over {last}, by {process.name}")
        if commit is None:
            self.counts["phantoms"] += 1
            cache.uncommitted.add(id)
        else:
            cache.uncommitted.discard(id)
            if commit < last:
                self.counts["backward"] += was != value
                self.fail("forward", id, f"commit {commit} was applied over {last}")
            cache.commits[id] = commit
        self.cache.outside.unannounced.discard(id)
        if not self.cache.outside.is_by_hand(id, value):
            self.cache.outside.by_hand.pop(id, None)
        self.cache.outside.note(id, written=True, wrong=self._is_stale(id))
        latest = len(self.history[id]) - 1
        if self._is_stale(id):
            if commit is not None:
                self.staleness.end(id, commit)
            self.staleness.begin_if_none(id, latest)
        else:
            self._shown(id, latest)
        self._check_pending(id)

    def _shown(self, id: str, commit: int) -> None:
        self.cache.forsaken.discard(id)
        self.staleness.end(id, commit)

    # The promise

    def _is_stale(self, id: str) -> bool:
        return self.cache.states.get(id) != self.history[id][-1]

    def _check_pending(self, id: str) -> None:
        known = id in self.cache.forsaken or id in self.mistakes.ids or id in self.cache.outside
        if self.pending.has(id) or not self._is_stale(id) or known:
            return
        self.cache.forsaken.add(id)
        self.tell(id, "is stale, and nothing is on its way")
        self.fail("pending", id, f"{self._difference(id)}, and nothing is on its way")

    def check_equal(self, *, repaired: bool = False) -> None:
        """Check that the cache equals the source; `repaired`: even what was deleted by mistake."""
        for id in list(self.history):
            if self._is_stale(id) and (repaired or id not in self.mistakes.ids):
                self.fail("equal", id, f"{self._difference(id)}, and all is quiet")

    def _difference(self, id: str) -> str:
        return f"{self.cache.states.get(id)} is cached, {self.history[id][-1]} is true"

    def close(self) -> None:
        """Count what stays stale for ever, and what was deleted by mistake."""
        self.counts["deleted by mistake"] = self.mistakes.deleted
        self.counts["forsaken"] += len(self.cache.forsaken)
        self.staleness.close()

    def fail(self, check: str, id: str, text: str) -> None:
        """Count a violation; end the run if this property is checked."""
        self.counts[f"broken: {check}"] += 1
        if check in self._checks:
            self.tell(id, f"VIOLATION of {check!r}: {text}")
            self._kernel.fail(Violation(f"{id}: {text} ({CHECKS[check]})", check=check, id=id))


def _unsettled(process: Process, message: Message, hold: float) -> str | None:
    """Return why the process's looks do not settle the message; None if they do."""
    message_id = message.message_id
    look = process.looks.get(message.entity)
    receipt = process.receipts.get(message_id)
    if receipt is None:
        return f"{message_id} was acknowledged by a process that never received it"
    if look is None or look[1] <= receipt[1]:
        return f"{process.name} did not hold {message_id} at its last GET"
    if (
        message.phase == "saved"
        or look[0] + EPSILON >= receipt[0] + hold
        or (message.phase == "saving" and process.saved.get(message.save or "", math.inf) < look[1])
    ):
        return None
    return f"{message_id}: its GET started {look[0] - receipt[0]:.3f} s after its receipt"
