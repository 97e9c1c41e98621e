"""
Who owns the entities: a service that answers GETs, and savers that change them through broadcasts.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from change_events import PublishError, broadcasting
from verification.chaos.wire import Answer, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from change_events.typing import Publisher
    from verification.chaos.wire import Asked

Entity = dict[str, Any]


class Source:
    """
    Entities, and all that they ever were.

    Attributes:
        states: Of each id, what it was, oldest first; None: deleted. Each state has a number `n`
            that no other has.
        asked: When the source was asked for which id, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.states: dict[str, list[Entity | None]] = {}
        self.asked: list[tuple[float, str]] = []
        self.server = Server(self._respond)
        self._number = 0
        self._lock = threading.Lock()

    def commit(self, id: str, *, delete: bool = False) -> None:
        """Change an entity."""
        with self._lock:
            self._number += 1
            self.states.setdefault(id, []).append(None if delete else {"id": id, "n": self._number})

    def live(self) -> dict[str, Entity]:
        """Return what there is now."""
        with self._lock:
            return {id: states[-1] for id, states in self.states.items() if states[-1] is not None}

    def _respond(self, asked: Asked) -> Answer:
        id = id_in(asked)
        self.asked.append((time.monotonic(), id))
        latest = {id: self.states[id][-1]} if id in self.states else {}
        return answer_of(latest, id, asked.headers.get("If-None-Match"))


def id_in(asked: Asked) -> str:
    """Return which entity was asked for."""
    return unquote(asked.path.rpartition("/")[2])


def answer_of(
    entities: Mapping[str, Entity | None], id: str, if_none_match: str | None = None
) -> Answer:
    """Answer as a service does that owns these entities; None: deleted."""
    if id not in entities:
        return Answer(404, b'{"detail": "no such product"}')
    entity = entities[id]
    if entity is None:
        return Answer(410, b'{"detail": "deleted"}')
    body = json.dumps(entity).encode()
    tag = f'"{uuid.uuid5(uuid.NAMESPACE_OID, body.decode())}"'
    if tag == if_none_match:
        return Answer(304)
    return Answer(200, body, {"Content-Type": "application/json; charset=utf-8", "ETag": tag})


class Saver(threading.Thread):
    """
    Saves one entity after another until it is told to stop: quick and slow, confirmed or not; some
    it deletes, some saves fail.

    Args:
        source: What it changes.
        publisher: Where it broadcasts.
        ids: What to choose from.
        settle: The settle window in seconds.
        per_second: How many saves it begins.
        seed: What it chooses by.

    Attributes:
        saves: How many saves it has committed.
        prevented: How many it has not begun, as their broadcast failed.
    """

    def __init__(
        self,
        source: Source,
        publisher: Publisher,
        ids: Sequence[str],
        *,
        settle: float,
        per_second: float,
        seed: int,
    ) -> None:
        super().__init__(name="saver", daemon=True)
        self.saves = 0
        self.prevented = 0
        self._source = source
        self._publisher = publisher
        self._ids = ids
        self._settle = settle
        self._pause = 1 / per_second
        self._random = random.Random(seed)
        self._stop_now = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work until `end()`."""
        try:
            while not self._stop_now.wait(self._random.uniform(0.5, 1.5) * self._pause):
                self._save(self._random.choice(self._ids))
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        """Finish the save in progress, and raise what went wrong."""
        self._stop_now.set()
        self.join()
        if self._error is not None:
            raise self._error

    def _save(self, id: str) -> None:
        try:
            with broadcasting(
                self._publisher, id, settle=self._settle, confirm=self._random.random() < 0.3
            ):
                if self._random.random() < 0.1:
                    return  # as if the save had failed
                if self._random.random() < 0.2:  # slow, some of them slower than the window
                    time.sleep(self._settle * self._random.choice([0.1, 0.5, 1.3]))
                self._source.commit(id, delete=self._random.random() < 0.2)
            self.saves += 1
        except PublishError:
            self.prevented += 1
