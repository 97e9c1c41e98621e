"""Broadcasts that another thread makes for a save: alone, or several in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events._event import ChangeEvent
from change_events.exceptions import PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Context

    from change_events.typing import Publisher


@dataclass(frozen=True, slots=True)
class EventInContext(ChangeEvent):
    """
    An event in a call that several saves share.

    Attributes:
        context: The context variables of its save.
    """

    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Broadcast:
    """
    Broadcasts a save's events within the context variables of the save's caller.

    Attributes:
        publisher: What broadcasts.
        events: The save's events, one for each id.
        context: The context variables.
    """

    publisher: Publisher
    events: Sequence[ChangeEvent]
    context: Context

    @property
    def ids(self) -> list[str]:
        """The ids of the events."""
        return [event.id for event in self.events]

    def __call__(self) -> None:
        """Broadcast the events by themselves."""
        self.context.run(self.publisher.publish, self.events)

    def shares_with(self, other: Broadcast) -> bool:
        """
        Return True if one call of the publisher can broadcast both.

        A publisher that has `shares_calls` reads what depends on context variables separately for
        each `EventInContext`. Other publishers are called once for each save.
        """
        return self.publisher is other.publisher and getattr(self.publisher, "shares_calls", False)


def failures(broadcasts: Sequence[Broadcast]) -> tuple[set[Broadcast], Exception | None]:
    """
    Broadcast in one call; return the broadcasts that are not known to be accepted, and why.

    Args:
        broadcasts: One; or several that share calls.
    """
    try:
        if len(broadcasts) == 1:
            broadcasts[0]()
        else:
            broadcasts[0].publisher.publish(
                [
                    EventInContext(event.id, event.settle, event.phase, event.save, each.context)
                    for each in broadcasts
                    for event in each.events
                ]
            )
    except Exception as error:  # of any kind; the saves go on
        lost = set(map(str, error.ids)) if isinstance(error, PublishError) else set()
        failed = {each for each in broadcasts if lost.intersection(each.ids)}
        return failed or set(broadcasts), error
    return set(), None
