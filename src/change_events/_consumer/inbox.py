"""
Which id is due for a look, and which events a look settles. Pure: no clock, no thread, no I/O.

An event may be acknowledged after a look whose GET started when the event was *due* or later. Until
then it is held, and the events of one id are held together:

- at most one look at an id at a time;
- an event that arrives before the GET starts joins the look; one that arrives later asks for
  another;
- looks that would fall due close together are one: an event can wait a tenth of its hold beyond its
  due time;
- while there is more in the queue, an id that was just looked at is left alone for a moment: a
  backlog of few ids is to cost few GETs; when there is no room for more, the ids with most events
  are looked at first;
- a save that is confirmed is looked at when it is over: its `saving` asks for no early look, and
  its `saved` is due at once and releases it;
- while looks are in vain, ids are parked: their events are held, and no look is awaited;
- ids that are due at the same time may be looked at together, but for one that such a look has left
  undecided.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from change_events._event import Phase

SLACK = 0.1
"""How much longer than its hold an event may wait for company, as a share of the hold."""

REST = 5.0
"""Seconds from one look at an id to the next while there is more in the queue, and room for it."""


@dataclass(slots=True, eq=False)
class Held:
    """
    One event in the worker's hands: received, not acknowledged.

    Attributes:
        id: The entity's id.
        message_id: SQS's name for the message, the same at each delivery.
        receipt_handle: The key to the *latest* delivery, with which to acknowledge or extend it.
        receive_count: How often SQS has delivered it (`ApproximateReceiveCount`).
        received: When it was first received, in monotonic seconds.
        hold: How many seconds later a GET that settles it may start at the earliest.
        expires: When the message becomes visible to other workers, unless extended.
        phase: What it says of its save; `"saved"` comes with a hold of 0.
        save: Which save that is.
        sent: When SQS accepted the message, in seconds since the epoch; None: not known. For
            measurements only.
        looked: Whether `first_looked` has returned it.
    """

    id: str
    message_id: str
    receipt_handle: str
    receive_count: int
    received: float
    hold: float
    expires: float
    phase: Phase | None = None
    save: str | None = None
    sent: float | None = None
    looked: bool = False

    @property
    def due(self) -> float:
        """When a GET that settles it may start at the earliest."""
        return self.received + self.hold

    @property
    def latest(self) -> float:
        """When that GET should start at the latest."""
        return self.received + self.hold * (1 + SLACK)


@dataclass(slots=True, eq=False)
class _Group:
    """The held events of one id."""

    events: dict[str, Held] = field(default_factory=dict)
    look_at: float = math.inf
    looking: bool = False
    frozen: list[Held] = field(default_factory=list)
    get_started: float = math.inf
    alone: bool = False

    @property
    def parked(self) -> bool:
        return not self.looking and self.look_at == math.inf


class Inbox:
    """
    The events that a worker holds. Times are passed in; the caller serializes the calls.

    Args:
        early_look: Look once as soon as an event arrives, too, not only when it is due.
    """

    def __init__(self, *, early_look: bool) -> None:
        self._early_look = early_look
        self._groups: dict[str, _Group] = {}
        self._agenda: list[
            tuple[float, str]
        ] = []  # a heap; entries that no longer match their group are skipped
        self._count = 0
        self._looked: dict[
            str, float
        ] = {}  # when the last GET began, the longest ago first; older than REST is forgotten
        self._resting: dict[str, float] = {}  # when the look should be that waits for more
        self._making_room: set[str] = (
            set()
        )  # whose look does not wait for more, as there was no room, and is not over yet

    def __len__(self) -> int:
        """Return how many events are held."""
        return self._count

    def __contains__(self, id: str) -> bool:
        """Return whether events of the id are held."""
        return id in self._groups

    @property
    def ids(self) -> int:
        """How many ids they are of."""
        return len(self._groups)

    def add(self, event: Held, now: float, *, more: bool = False) -> None:
        """
        Hold an event. One that is held already was delivered again: only its new receipt handle
        counts.

        Args:
            event: The event.
            now: The time.
            more: There seems to be more in the queue, of this id maybe.
        """
        group = self._groups.setdefault(event.id, _Group())
        known = group.events.get(event.message_id)
        if known is not None:
            known.receipt_handle = event.receipt_handle
            known.receive_count = event.receive_count
            known.expires = event.expires
            return
        wanted = bool(group.events) and group.parked  # a look that was in vain
        group.events[event.message_id] = event
        self._count += 1
        if event.save is not None:
            _release(event.save, group, now)
        early = self._early_look and event.phase != "saving"
        at = now if early or wanted else event.latest
        rested = self._looked.get(event.id, -math.inf) + REST
        if more and at < rested:
            self._resting[event.id] = min(at, self._resting.get(event.id, math.inf))
            at = rested
        self._schedule(event.id, group, at)

    def hurry(self) -> int:
        """Let no look wait for more: there is no more. Return how many have."""
        waited = len(self._resting)
        for id in list(self._resting):
            self._wait_no_longer(id)
        return waited

    def make_room(self, looks: int, now: float) -> int:
        """
        Let so many looks at a time wait for no more, as there is no room: those with most events.
        Return how many have.

        Then few GETs make much room. The others have time, as more of them may come meanwhile; and
        so have those that would settle nothing.
        """
        settling = [
            id for id in self._resting if next(iter(self._groups[id].events.values())).due <= now
        ]
        largest = heapq.nlargest(
            looks - len(self._making_room),
            settling,
            key=lambda each: len(self._groups[each].events),
        )
        for id in largest:
            self._making_room.add(id)
            self._wait_no_longer(id)
        return len(largest)

    def next(self, now: float) -> str | None:
        """
        Return the id that has been due for a look the longest, and reserve it; None if there is
        none.
        """
        at = self.next_at()
        if at is None or at > now:
            return None
        return self._reserve()

    def company(self, id: str, now: float, most: int) -> list[str]:
        """
        Return up to so many other ids to look at together with the reserved one, and reserve them.

        They are those that are due, the longest first, up to one that is to be looked at alone;
        none, if the first is.
        """
        company: list[str] = []
        while len(company) < most and not self._groups[id].alone:
            at = self.next_at()
            if at is None or at > now or self._groups[self._agenda[0][1]].alone:
                break
            company.append(self._reserve())
        return company

    def next_at(self) -> float | None:
        """Return when the next look is due, in monotonic seconds; None if no look is awaited."""
        while self._agenda:
            at, id = self._agenda[0]
            group = self._groups.get(id)
            if group is not None and not group.looking and group.look_at == at:
                return at
            heapq.heappop(self._agenda)
        return None

    def freeze(self, id: str, now: float) -> None:
        """
        The GET of the reserved look starts: the events of now are its own; later ones ask for
        another look.
        """
        group = self._groups[id]
        group.frozen = list(group.events.values())
        group.get_started = now
        group.look_at = math.inf
        self._resting.pop(id, None)
        self._remember(id, now)

    def settle(self, id: str) -> list[Held]:
        """
        The look is done and applied: let go of the events that it settles, and return them to be
        acknowledged.
        """
        group = self._groups[id]
        settled = [event for event in group.frozen if event.due <= group.get_started]
        waiting = [event.latest for event in group.frozen if event.due > group.get_started]
        for event in settled:
            del group.events[event.message_id]
        self._count -= len(settled)
        self._making_room.discard(id)
        group.looking = group.alone = False
        if group.events:
            self._schedule(id, group, min([group.look_at, *waiting]))
        else:
            del self._groups[id]
        return settled

    def first_looked(self, id: str) -> list[Held]:
        """Return those events of the reserved look that no such call has returned before."""
        first = [event for event in self._groups[id].frozen if not event.looked]
        for event in first:
            event.looked = True
        return first

    def looking(self) -> int:
        """Return how many looks are under way."""
        return sum(group.looking for group in self._groups.values())

    def oldest(self) -> float | None:
        """Return when the oldest event was received; None if none is held."""
        return min(
            (event.received for group in self._groups.values() for event in group.events.values()),
            default=None,
        )

    def give_up(self, id: str) -> list[Held]:
        """
        The reserved look decided nothing: let go of all events of the id, and return them to be
        handed back.
        """
        events = list(self._groups.pop(id).events.values())
        self._wait_for_nothing(id)
        self._count -= len(events)
        return events

    def look_alone(self, id: str, now: float) -> None:
        """
        A look with others has left the reserved id undecided: it is due, and alone until a look has
        succeeded.
        """
        group = self._groups[id]
        group.looking = False
        group.alone = True
        group.look_at = math.inf  # what else asked for a look, maybe before now, gets this one
        self._schedule(id, group, now)

    def park(self, id: str) -> None:
        """
        The reserved look decided nothing: hold the events of the id, but await no look until they
        are released.
        """
        self._groups[id] = group = self._groups.pop(
            id
        )  # to the end: whoever was parked first is retried first
        group.looking = False
        group.look_at = math.inf
        self._wait_for_nothing(id)

    def retry(self) -> str | None:
        """Return the id that has been parked the longest, and reserve it; None if there is none."""
        id = self.parked()
        if id is not None:
            self._groups[id].looking = True
        return id

    def parked(self) -> str | None:
        """Return the id that has been parked the longest; None if there is none."""
        return next((id for id, group in self._groups.items() if group.parked), None)

    def release(self, now: float) -> None:
        """Looks are no longer in vain: those at parked ids are due."""
        for id, group in self._groups.items():
            if group.parked:
                self._schedule(id, group, now)

    def drop(self, events: Iterable[Held]) -> list[Held]:
        """Let go of events, but not of those of an id that is being looked at; return which."""
        dropped = [
            event for event in events if self._holds(event) and not self._groups[event.id].looking
        ]
        for event in dropped:
            del self._groups[event.id].events[event.message_id]
            if not self._groups[event.id].events:
                self.give_up(event.id)
        self._count -= len(dropped)
        return dropped

    def expiring(self, before: float) -> list[Held]:
        """Return the held events that become visible to others before that time."""
        return [
            event
            for group in self._groups.values()
            for event in group.events.values()
            if event.expires < before
        ]

    def clear(self) -> list[Held]:
        """Let go of everything, and return it to be handed back."""
        return [event for id in list(self._groups) for event in self.give_up(id)]

    def _reserve(self) -> str:
        _, id = heapq.heappop(self._agenda)
        self._groups[id].looking = True
        return id

    def _wait_no_longer(self, id: str) -> None:
        self._schedule(id, self._groups[id], self._resting.pop(id))

    def _wait_for_nothing(self, id: str) -> None:
        self._resting.pop(id, None)
        self._making_room.discard(id)

    def _remember(self, id: str, now: float) -> None:
        self._looked.pop(id, None)
        self._looked[id] = now
        while self._looked[oldest := next(iter(self._looked))] < now - REST:
            del self._looked[oldest]

    def _holds(self, event: Held) -> bool:
        return event.id in self._groups and event.message_id in self._groups[event.id].events

    def _schedule(self, id: str, group: _Group, at: float) -> None:
        if at <= group.look_at:
            group.look_at = at
            if not group.looking:
                heapq.heappush(self._agenda, (at, id))


def _release(save: str, group: _Group, now: float) -> None:
    """Let nobody wait for the end of a save that is known to be over."""
    events = [event for event in group.events.values() if event.save == save]
    if any(event.phase == "saved" for event in events):
        released = [event for event in events if event.due > now]
        for event in released:
            event.hold = now - event.received
        # A GET that is under way may have begun at this very tick of the clock, and before the
        # commit all the same.
        group.frozen = [event for event in group.frozen if event not in released]
