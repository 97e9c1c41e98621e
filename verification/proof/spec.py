"""When a worker may acknowledge, by the design."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from verification.proof.effects import SETTLE, Violation

if TYPE_CHECKING:
    from change_events import ChangeEvent
    from verification.proof.process import Process


class Spec:
    """
    When a worker may acknowledge a message, by the design and not by the inbox.

    It must have applied a look. When that look's GET began, the worker held the message, and the
    window was over or the worker knew that the save was over. The time that the message was in the
    queue is a part of the window.
    """

    def __init__(self, window: int) -> None:
        self._window = max(0, window)
        self._due: dict[str, int] = {}
        self._events: dict[str, ChangeEvent] = {}
        self._in_get: frozenset[str] = frozenset()
        self._settled: set[str] = set()

    def received(self, message_id: str, event: ChangeEvent, now: int, *, age: int) -> None:
        self._events[message_id] = event
        self._due.setdefault(message_id, now + max(0, min(self._window, SETTLE - age)))
        over = {each.save for each in self._events.values() if each.phase == "saved"}
        for known, each in self._events.items():
            if each.save is not None and each.save in over:
                self._due[known] = min(self._due[known], now)

    def get(self, now: int) -> None:
        self._in_get = frozenset(message_id for message_id, due in self._due.items() if due <= now)

    def applied(self) -> None:
        self._settled |= self._in_get

    def acknowledged(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            if message_id not in self._settled:
                raise Violation(f"{message_id} was acknowledged without a look that settles it")

    def keep(self, held: AbstractSet[str]) -> None:
        """Forget all messages that the worker does not hold: a later one can have the same name."""
        for message_id in self._events.keys() - held:
            del self._events[message_id], self._due[message_id]
        self._settled &= held
        self._in_get &= held

    def look_over(self) -> None:
        self._in_get = frozenset()

    def known_of(self, message_id: str, process: Process) -> Hashable:
        due, event = self._due.get(message_id), self._events.get(message_id)
        return (
            due if due is None else process.ticks_to(due),
            event and (event.phase, event.save),
            message_id in self._in_get,
            message_id in self._settled,
        )
