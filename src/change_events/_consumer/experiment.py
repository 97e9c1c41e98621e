"""
Finds out why a look failed. Pure: no clock, no thread, no I/O.

A look can fail because of its entity, or because the source or the cache is down. To tell the two
apart, the worker looks at another id, which was good a short while ago: the *control*. If a look
that began after the failure succeeds, the source and the cache are up, and the failing id is at
fault. If looks at up to three controls fail, there is an outage.

Until one of the two is known, the failing id is a *suspect*: its events are held, and no receive is
spent on a guess. A look at any other id that succeeds meanwhile serves as well. So a control look
begins only if none has succeeded for a tenth of a second, and at most once a second.

An id that fails for a reason that is not its own, while others succeed, is *stuck*: it is looked at
again and again from memory, for up to an hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events._consumer.backoff import MAX_PAUSE
from change_events._consumer.breaker import HUNG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GRACE = 0.1
"""Seconds from a failure to its control look, in which another look can succeed."""

PERIOD = 1.0
"""Seconds from one question's first control look to the next one's."""

TRIED = 3
"""Controls that must fail before there is an outage. One can have been deleted, or be broken."""

KNOWN = 20
"""How many good ids are remembered."""

ASK_AGAIN = 60.0
"""Seconds until the sink is asked for good ids again, after it had none."""

PATIENCE = 3600.0
"""Seconds after which an id that is stuck counts as broken. Otherwise nobody would ever know."""


@dataclass(frozen=True, slots=True)
class Failed:
    """
    Why a look failed.

    Attributes:
        error: What was raised.
        own: The entity itself can be the reason.
        retry_after: For how many seconds the source asked to be left alone.
        limited: The source is up, and asks for fewer GETs (429). No other look can tell more.
    """

    error: Exception
    own: bool
    retry_after: float = 0.0
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Suspect:
    """An id whose look failed, why, and when, in monotonic seconds."""

    id: str
    failed: Failed
    at: float


@dataclass(slots=True)
class _Stuck:
    """An id that fails for reasons that are not its own: since when, and how often."""

    since: float
    failures: int = 0


class Experiment:
    """
    Tells broken ids from an outage. Times are passed in, in monotonic seconds.

    Args:
        pause: Returns the seconds to wait after `n` failures, up to the given most.
        patience: Seconds for which to hold the events of an id that is stuck.
    """

    def __init__(self, pause: Callable[[int, float], float], *, patience: float = PATIENCE) -> None:
        self._pause = pause
        self._patience = patience
        self._good: dict[str, None] = {}  # the one that was good last is the last
        self._suspects: dict[str, Suspect] = {}
        self._stuck: dict[str, _Stuck] = {}
        self._tried: set[str] = set()
        self._control: str | None = None
        self._asked_at = -math.inf  # when the first control look of the last question began
        self._control_at = math.inf  # when the next control look can begin
        self._hung_at = math.inf  # when the look at the control, or those at all others, hang
        self._ask_at = -math.inf  # when the sink can be asked for good ids
        self._answer_by = -math.inf  # until when its answer is awaited

    # Good ids

    def learn(self, ids: Iterable[str], now: float) -> None:
        """Remember ids that the sink has; without any, don't ask it again for a while."""
        self._good = {**dict.fromkeys(ids), **self._good}
        self._answer_by = -math.inf
        self._ask_at = -math.inf if self._untried() else now + ASK_AGAIN

    def wants_ids(self, id: str, now: float) -> int:
        """
        Return how many ids to ask the sink for, now that a look at `id` has failed.

        Nobody else asks before `learn`, because the sink can hang. For a minute, no verdict is
        reached without its answer.
        """
        if now < self._ask_at or self._untried(id):
            return 0
        self._ask_at, self._answer_by = math.inf, now + HUNG
        return TRIED + 1 + len(self._suspects)

    def knows_ids(self, is_free: Callable[[str], bool]) -> bool:
        """Return True if `rotate` would return an id."""
        return any(map(is_free, self._good))

    def rotate(self, is_free: Callable[[str], bool]) -> str | None:
        """
        Return the good id that was chosen the longest ago; None without one.

        `is_free` returns False for an id with a look under way.
        """
        id = next(filter(is_free, self._good), None)
        if id is not None:
            self._good[id] = self._good.pop(id)
        return id

    def _untried(self, failing: str | None = None) -> list[str]:
        not_good = {failing, *self._tried, *self._suspects}
        return [id for id in self._good if id not in not_good]

    # Control looks

    @property
    def control(self) -> str | None:
        """The control with a look under way."""
        return self._control

    def next_at(self) -> float:
        """Return when the next control look can begin; infinity: it is not needed."""
        return self._control_at if self._control is None else self._hung_at

    def next(self, now: float, is_free: Callable[[str], bool]) -> str | None:
        """
        Choose the control to look at now; None if none is needed.

        `is_free` returns False for an id with a look under way.
        """
        at = self.next_at()
        if at == math.inf or now < at:
            return None
        if self._control is not None:  # it hangs
            self._tried.add(self._control)
            self._control = None
            if not self._untried():
                self._tried.clear()
        untried = [id for id in self._untried() if is_free(id)]
        if not untried:  # the looks under way will tell, unless they hang
            self._hung_at = min(self._hung_at, now + HUNG)
            if now >= self._hung_at:
                self._tried.update(self._good)
            self._control_at = now + GRACE
            return None
        if not self._tried:
            self._asked_at = now
        # The newest, the oldest, one between: ids that changed together can be broken together.
        id = untried[(-1, 0, len(untried) // 2)[len(self._tried) % TRIED]]
        self._control, self._control_at, self._hung_at = id, math.inf, now + HUNG
        return id

    # Results

    def failed(self, id: str, failed: Failed, now: float, *, held: bool) -> bool:
        """
        Note that a look failed; return True if there is an outage.

        `held`: Events of the id are held. A control can have none.
        """
        if held:  # as of its first failure, or an id with many events would never be judged
            first = self._suspects.get(id)
            self._suspects[id] = Suspect(id, failed, now if first is None else first.at)
        if id == self._control:
            self._tried.add(id)
            self._control, self._control_at = None, now
            return len(self._tried) >= TRIED or not self._untried()
        if self._suspects and self._control is None and self._control_at == math.inf:
            self._control_at = max(now + GRACE, self._asked_at + PERIOD)
        # Good ids have failed for events of their own: that tells as much as control looks.
        return held and not self.can_tell(now) and bool(self._good.keys() - {id})

    def can_tell(self, now: float) -> bool:
        """Return False if no good id is known that a control look could have, nor asked for."""
        return self._control is not None or now < self._answer_by or bool(self._untried())

    def cannot_end(self, now: float) -> bool:
        """Return True if there are suspects that nothing under way will judge."""
        return bool(self._suspects) and not self.can_tell(now)

    def call_off(self) -> None:
        """Ask no more: all suspects are held for another reason, and looked at again after it."""
        self._suspects.clear()
        self._end_question()

    def passed(self, id: str, started: float, *, present: bool) -> list[Suspect]:
        """
        Note that a look has succeeded that began at `started`.

        Return the suspects that had failed before that, and so are at fault; with them those that
        no control can judge any more.
        """
        self._good.pop(id, None)
        self._stuck.pop(id, None)
        self._suspects.pop(id, None)
        if present:
            self._good[id] = None
            if len(self._good) > KNOWN:  # old ones are good controls, too: see `next`
                good = list(self._good)
                self._good = dict.fromkeys(good[: KNOWN // 2] + good[-KNOWN // 2 :])
        self._tried.clear()
        if id == self._control:
            self._control = None
        at_fault = [each for each in self._suspects.values() if each.at <= started]
        self._are_at_fault(at_fault)
        if self._suspects and not self.can_tell(started):
            at_fault += self.give_up()
        if self._suspects and self._control is None:
            self._control_at = max(started + GRACE, self._asked_at + PERIOD)
        return at_fault

    def give_up(self) -> list[Suspect]:
        """Return all suspects: no control can judge them."""
        suspects = list(self._suspects.values())
        self._are_at_fault(suspects)
        return suspects

    def _are_at_fault(self, suspects: Iterable[Suspect]) -> None:
        for suspect in suspects:
            del self._suspects[suspect.id]
            self._good.pop(suspect.id, None)
        if not self._suspects:
            self._end_question()

    def _end_question(self) -> None:
        self._tried.clear()
        self._control, self._control_at, self._hung_at = None, math.inf, math.inf

    # Verdicts

    def hold(self, suspect: Suspect, now: float) -> float | None:
        """
        Return the seconds until the next look at an id that is at fault, its events held.

        None: they are to be handed back.
        """
        if suspect.failed.own:
            return None
        stuck = self._stuck.setdefault(suspect.id, _Stuck(now))
        if now - stuck.since >= self._patience:
            del self._stuck[suspect.id]
            return None
        stuck.failures += 1
        return max(self._pause(stuck.failures, MAX_PAUSE), suspect.failed.retry_after)

    def forget(self, id: str) -> None:
        """Forget that looks at the id have failed: it is fine, or its events are handed back."""
        self._stuck.pop(id, None)
        if self._suspects.pop(id, None) is not None and not self._suspects:
            self._end_question()
