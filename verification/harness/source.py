"""A service that owns entities and answers GETs, and savers that change the entities."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from change_events import PublishError, broadcasting
from verification.harness.wire import Answer, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from change_events.typing import Publisher
    from verification.harness.wire import Asked

Entity = dict[str, Any]


class Source:
    """
    Entities, and every state that they ever had.

    Attributes:
        states: The states of each id, oldest first; None: deleted. Each state has its own `n`.
        asked: The time of each GET in monotonic seconds, and the id.
        listed: After which id each page began that was read.
        server: Answers GETs.
    """

    def __init__(self) -> None:
        self.states: dict[str, list[Entity | None]] = {}
        self.asked: list[tuple[float, str]] = []
        self.listed: list[str] = []
        self.server = Server(self._respond)
        self._number = 0
        self._lock = threading.Lock()

    def commit(self, id: str, *, delete: bool = False) -> None:
        """Change an entity."""
        with self._lock:
            self._number += 1
            self.states.setdefault(id, []).append(None if delete else {"id": id, "n": self._number})

    def live(self) -> dict[str, Entity]:
        """Return the entities that exist now."""
        with self._lock:
            return {id: states[-1] for id, states in self.states.items() if states[-1] is not None}

    def _respond(self, asked: Asked) -> Answer:
        if "?" in asked.path:
            return self._page(**dict(parse_qsl(urlsplit(asked.path).query)))
        id = id_in(asked)
        self.asked.append((time.monotonic(), id))
        latest = {id: self.states[id][-1]} if id in self.states else {}
        return answer_of(latest, id, asked.headers.get("If-None-Match"))

    def _page(self, limit: str, after: str = "") -> Answer:
        """Return a page of whole entities, in the order of their ids."""
        self.listed.append(after)
        live = self.live()
        ids = sorted(id for id in live if id > after)[: int(limit)]
        return Answer(200, json.dumps([live[id] for id in ids]).encode())


def id_in(asked: Asked) -> str:
    """Return the id that a GET asks for."""
    return unquote(asked.path.rpartition("/")[2])


def answer_of(
    entities: Mapping[str, Entity | None], id: str, if_none_match: str | None = None
) -> Answer:
    """Return the answer of a service that owns these entities; None: deleted."""
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
    Saves one entity after another until it is told to end.

    Saves are fast or slow, confirmed or not; some delete, some fail.

    Args:
        source: Where to commit.
        publisher: Where to broadcast.
        ids: The ids to choose from.
        settle: The settle window in seconds.
        per_second: How many saves to begin per second.
        seed: The seed of all choices.

    Attributes:
        saves: How many saves were committed.
        prevented: How many saves did not begin because their broadcast failed.
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
        self._random = random.Random(seed)  # a seed repeats the choices
        self._end_now = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work until `end()`."""
        try:
            while not self._end_now.wait(self._random.uniform(0.5, 1.5) * self._pause):
                self._save(self._random.choice(self._ids))
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        """Finish the current save, and raise the error that ended `run`, if any."""
        self._end_now.set()
        self.join()
        if self._error is not None:
            raise self._error

    def _save(self, id: str) -> None:
        try:
            with broadcasting(
                self._publisher, id, settle=self._settle, confirm=self._random.random() < 0.3
            ):
                if self._random.random() < 0.1:
                    return  # a save that commits nothing
                if self._random.random() < 0.2:  # slow; some are slower than the settle window
                    time.sleep(self._settle * self._random.choice([0.1, 0.5, 1.3]))
                self._source.commit(id, delete=self._random.random() < 0.2)
            self.saves += 1
        except PublishError:
            self.prevented += 1
