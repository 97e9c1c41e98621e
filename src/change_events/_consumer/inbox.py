"""
Which id is due for a look, and which events a look settles. Pure: no clock, no thread, no I/O.

An event can be acknowledged after a look whose GET started when the event was *due* or later. Until
then it is held. The events of one id are held together:

- There is at most one look at an id at a time.
- An event that arrives before the GET starts joins the look. One that arrives later asks for
  another look.
- Looks that would fall due close together become one: an event can wait a tenth of its hold beyond
  its due time.
- While the queue has more, an id that was just looked at rests for a moment, so that a backlog of
  few ids costs few GETs. When there is no room for more, the ids with most events go first.
- A save that is confirmed is looked at when it is over: its `saving` asks for no early look; its
  `saved` is due at once, and makes its `saving` due, too.
- An early look that finds nothing new came before the commit. The next follows soon, after pauses
  that triple, until one finds something or the events are due.
- In an outage, and until it is known why a look failed, ids are parked: their events are held, and
  no look is due.
- Ids that are due at the same time can be looked at together, except one that such a look has left
  undecided.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from change_events._consumer.agenda import Agenda, Rest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from change_events._event import Phase
    from change_events._trace_context import Origin

GROWTH = 3.0
"""
How much longer each pause between early looks is than the one before. So from commit to cache it
lasts at most twice as long as the save, and the first pause.
"""

SLACK = 0.1
"""How much longer than its hold an event can wait to share a look, as a share of the hold."""


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
        hold: Seconds from then until a GET that settles it can start.
        expires: When the message becomes visible to other workers, unless extended.
        phase: The phase of its save; a `"saved"` has a hold of 0.
        save: The id of its save.
        sent: When SQS accepted the message, in seconds since the epoch; None: not known. For
            measurements only.
        origin: The span that sent it. For traces only.
        looked: True once `first_looked` has returned it.
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
    origin: Origin | None = None
    looked: bool = False

    @property
    def due(self) -> float:
        """The earliest start of a GET that settles it."""
        return self.received + self.hold

    @property
    def latest(self) -> float:
        """The latest time at which that GET should start."""
        return self.received + self.hold * (1 + SLACK)


@dataclass(slots=True, eq=False)
class _Group:
    """The held events of one id."""

    events: dict[str, Held] = field(default_factory=dict)
    frozen: list[Held] = field(default_factory=list)
    get_started: float = math.inf
    alone: bool = False
    too_early: int = 0  # early looks in a row that found nothing new


class Inbox:
    """
    The events that a worker holds. Times are passed in, in monotonic seconds.

    Args:
        early_look: Look once as soon as an event arrives, too, not only when it is due.
    """

    def __init__(self, *, early_look: bool) -> None:
        self._early_look = early_look
        self._groups: dict[str, _Group] = {}
        self._agenda = Agenda()
        self._rest = Rest()
        self._count = 0

    def __len__(self) -> int:
        """Return how many events are held."""
        return self._count

    def __contains__(self, id: str) -> bool:
        """Return True if events of the id are held."""
        return id in self._groups

    @property
    def ids(self) -> int:
        """The number of ids that have events."""
        return len(self._groups)

    def add(self, event: Held, now: float, *, more: bool = False) -> bool:
        """
        Hold an event. If it is held already, it was delivered again, with a new receipt handle.

        `more` says that the queue seems to have more, perhaps of this id. Return True if the id's
        look is due sooner than before.
        """
        group = self._groups.setdefault(event.id, _Group())
        known = group.events.get(event.message_id)
        if known is not None:
            known.receipt_handle = event.receipt_handle
            known.receive_count = event.receive_count
            known.expires = event.expires
            return False
        retry = bool(group.events) and self._agenda.is_idle(event.id)
        group.events[event.message_id] = event
        group.too_early = 0
        self._count += 1
        if event.save is not None:
            _release(event.save, group, now)
        early = self._early_look and event.phase != "saving"
        at = now if early or retry else event.latest
        return self._agenda.add(event.id, self._rest.until(event.id, at) if more else at)

    def stop_resting(self) -> int:
        """Make resting ids due now, because the queue has no more; return how many."""
        resting = self._rest.ids
        for id in resting:
            self._agenda.add(id, self._rest.stop(id))
        return len(resting)

    def make_room(self, looks: int, now: float) -> int:
        """
        Make resting ids due now, because there is no room: at most `looks` at a time.

        Ids with most events go first: so few GETs make much room. Ids whose look would settle
        nothing rest on. Return how many are due.
        """
        events_of = {id: self._groups[id].events for id in self._rest.ids}
        settling = [id for id in events_of if next(iter(events_of[id].values())).due <= now]
        largest = heapq.nlargest(
            looks - self._rest.making_room, settling, key=lambda each: len(events_of[each])
        )
        for id in largest:
            self._agenda.add(id, self._rest.stop(id, to_make_room=True))
        return len(largest)

    def next(self, now: float) -> str | None:
        """Reserve the id that has been due for a look the longest; None if no id is due."""
        due = self._agenda.next()
        if due is None or due[0] > now:
            return None
        _, id = due
        self._agenda.begin(id, now)
        return id

    def due_with(self, id: str, now: float, most: int) -> list[str]:
        """
        Reserve up to `most` other ids to look at together with the reserved `id`.

        The longest due come first, up to an id that needs a look alone; none if `id` needs one.
        """
        others: list[str] = []
        while len(others) < most and not self._groups[id].alone:
            due = self._agenda.next()
            if due is None or due[0] > now or self._groups[due[1]].alone:
                break
            self._agenda.begin(due[1], now)
            others.append(due[1])
        return others

    def next_at(self, *, received_by: float = math.inf) -> float | None:
        """
        Return when the next look is due; None if none is.

        `received_by`: None, too, if all events of that id were received later, or if it waits
        because looks have failed.
        """
        due = self._agenda.next()
        if due is None or received_by == math.inf:
            return None if due is None else due[0]
        at, id = due
        first = next(iter(self._groups[id].events.values()))
        if first.received > received_by or at > max(first.latest, received_by):
            return None
        return at

    def reserve(self, id: str, now: float) -> None:
        """Reserve the id for a look, with events or without."""
        self._groups.setdefault(id, _Group())
        self._agenda.begin(id, now)

    def freeze(self, id: str, now: float) -> bool:
        """
        Note that the GET of the reserved look starts: the look reads for the events held by now.
        Later ones ask for another look.

        Return True for an early look: it will settle none of these events.
        """
        group = self._groups[id]
        group.frozen = list(group.events.values())
        group.get_started = now
        self._agenda.cancel(id)
        self._rest.get_started(id, now)
        return bool(group.frozen) and all(event.due > now for event in group.frozen)

    def too_early(self, id: str, now: float, pause: float) -> None:
        """
        End the reserved early look, which found nothing new.

        The next look follows after `pause`, tripled for each look before, if no event is due
        earlier.
        """
        group = self._groups[id]
        self._agenda.add(id, now + pause * GROWTH**group.too_early)
        group.too_early += 1
        self.settle(id)

    def settle(self, id: str) -> list[Held]:
        """Stop holding the events that the applied look settles; return them to be acknowledged."""
        group = self._groups[id]
        settled = [event for event in group.frozen if event.due <= group.get_started]
        waiting = [event.latest for event in group.frozen if event.due > group.get_started]
        for event in settled:
            del group.events[event.message_id]
        self._count -= len(settled)
        self._rest.look_over(id)
        group.alone = False
        if waiting:
            self._agenda.add(id, min(waiting))
        if not group.events:
            self.give_up(id)
        self._agenda.end(id)
        return settled

    def first_looked(self, id: str) -> list[Held]:
        """Return the events of the reserved look that no earlier call has returned."""
        first = [event for event in self._groups[id].frozen if not event.looked]
        for event in first:
            event.looked = True
        return first

    def waiting(self, now: float) -> int:
        """Return how many ids wait for a look that is due, or are parked."""
        agenda = self._agenda
        return sum(agenda.waits(id, now) or agenda.is_idle(id) for id in self._groups)

    def looking(self, id: str | None = None) -> int:
        """Return how many looks are under way, at any id or at this one."""
        return self._agenda.under_way() if id is None else self._agenda.is_under_way(id)

    def give_up(self, id: str) -> list[Held]:
        """Stop holding all events of the id, reserved or not; return them to be handed back."""
        events = list(self._groups.pop(id).events.values())
        self._agenda.cancel(id)
        self._agenda.end(id)
        self._rest.forget(id)
        self._count -= len(events)
        return events

    def look_again(self, id: str, at: float, *, alone: bool = False) -> None:
        """Make the id, reserved or parked, due at that time. `alone`: until a look succeeds."""
        if not self._groups[id].events:
            self.give_up(id)
            return
        if alone:
            self._groups[id].alone = True
            self._agenda.cancel(id)  # this look serves whatever else asked for one
        self._agenda.add(id, at)
        self._agenda.end(id)

    def park(self, id: str) -> bool:
        """Hold the events of the reserved id, with no look due; return False if it has none."""
        if not self._groups[id].events:
            self.give_up(id)
            return False
        # To the end: the id that was parked first is retried first.
        self._groups[id] = self._groups.pop(id)
        self._agenda.cancel(id)
        self._agenda.end(id)
        self._rest.forget(id)
        return True

    def parked(self) -> str | None:
        """Return the id that has been parked the longest; None if no id is parked."""
        return next(filter(self._agenda.is_idle, self._groups), None)

    def release(self, now: float) -> None:
        """Make parked ids due now."""
        for id in filter(self._agenda.is_idle, self._groups):
            self._agenda.add(id, now)

    def drop(self, events: Iterable[Held]) -> list[Held]:
        """Stop holding these events; return those that were held. A look under way settles none."""
        dropped: list[Held] = []
        for event in events:
            group = self._groups.get(event.id)
            if group is not None and group.events.pop(event.message_id, None) is not None:
                self._count -= 1
                dropped.append(event)
        for id in {event.id for event in dropped}:
            group = self._groups[id]
            group.frozen = [each for each in group.frozen if each.message_id in group.events]
            if not group.events:
                self._agenda.cancel(id)
                self._rest.forget(id)
                if not self._agenda.is_under_way(id):
                    del self._groups[id]
        return dropped

    def drop_hung(self, before: float, most: int | None = None) -> list[Held]:
        """Drop events from before then of looks that began before then, the largest ids first."""
        groups = (self._groups[id].events.values() for id in self._agenda.begun(before))
        hung = [[each for each in events if each.received < before] for events in groups]
        hung.sort(key=len, reverse=True)
        return self.drop([event for events in hung[:most] for event in events])

    def expiring(self, before: float, id: str | None = None) -> list[Held]:
        """Return the events, of all ids or this one, that others can see before that time."""
        groups = self._groups.values() if id is None else [self._groups[id]]
        return [each for group in groups for each in group.events.values() if each.expires < before]


def _release(save: str, group: _Group, now: float) -> None:
    """Make the events of a save due now, once one of them says that it is over."""
    events = [event for event in group.events.values() if event.save == save]
    if any(event.phase == "saved" for event in events):
        released = [event for event in events if event.due > now]
        for event in released:
            event.hold = now - event.received
        # A GET under way can have started at this very tick of the clock, and before the commit.
        group.frozen = [event for event in group.frozen if event not in released]
