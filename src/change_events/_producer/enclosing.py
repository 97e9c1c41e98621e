"""The saves around a save: what they have just broadcast need not be broadcast again."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import weakref

    from change_events._event import ChangeEvent
    from change_events._producer.clocks import Moment
    from change_events._producer.renewals import Renewals, Save
    from change_events.typing import Publisher

_blocks: ContextVar[tuple[weakref.ref[Any], ...]] = ContextVar("change_events_blocks", default=())
"""
The blocks that were entered in this context, outermost first. Weak, because the context of each
block's save has this value, too: otherwise a thread would keep all blocks that it has ever entered.
"""


def enter(block: weakref.ref[Any]) -> None:
    """Note a block that begins, for the saves inside it."""
    around = _blocks.get()
    _blocks.set((*[each for each in around if _save(each)], block) if around else (block,))


def broadcast_just_now(
    publisher: Publisher, settle: float, renewals: Renewals
) -> dict[ChangeEvent, Moment]:
    """
    Return the events that this publisher has accepted for the saves around this one, each with the
    start of its broadcast, less than half of the settle window ago.

    An event that is to be confirmed is never equal to one of another save. A publisher that has
    `reads_context` can have sent the same event elsewhere, for another tenant, say.
    """
    known: dict[ChangeEvent, Moment] = {}
    if getattr(publisher, "reads_context", False) is True:  # not that of a mock
        return known
    for block in _blocks.get():
        save = _save(block)
        if (
            save is not None
            and save.broadcast.publisher is publisher
            and renewals.age(started := save.started) < settle / 2
        ):
            known.update(dict.fromkeys(save.broadcast.events, started))
    return known


def _save(block: weakref.ref[Any]) -> Save | None:
    return getattr(block(), "_save", None)  # not while it is not under way
