"""A source of entities in memory."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from change_events._event import Found, Gone, Unchanged
from change_events._source.entities import EntityReader, IdOf
from change_events.exceptions import FetchError

Entity = dict[str, Any]


@dataclass(slots=True)
class _Failure:
    left: float
    status: int | None
    retry_after: float | None


class FakeSource(MutableMapping[str, Entity]):
    """
    A source in memory: a mapping of ids to entities, and a `Fetcher` of them. Threads can share it.

    Entities are JSON objects. A GET answers with a copy, as over HTTP, and with an `ETag` made from
    the content. A missing entity is `Gone`.

    Args:
        entities: The entities at the start.
        id_of: Where an entity has its id, as for `HTTPFetcher`.
    """

    def __init__(self, entities: Mapping[str, Entity] | None = None, *, id_of: IdOf = "id") -> None:
        self._lock = threading.RLock()
        self._entities: dict[str, Entity] = {}
        self._fetched: list[str] = []
        self._failures: dict[str | None, _Failure] = {}
        self._reader = EntityReader(id_of)
        self.update(entities or {})

    def __getitem__(self, id: str) -> Entity:
        return self._entities[id]

    def __setitem__(self, id: str, entity: Entity) -> None:
        """
        Save the entity.

        Raises:
            TypeError: A value in it can't be JSON.
        """
        json.dumps(entity)  # otherwise a worker's thread would fail, far from the test's line
        with self._lock:
            self._entities[id] = entity

    def __delitem__(self, id: str) -> None:
        with self._lock:
            del self._entities[id]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entities))

    def __len__(self) -> int:
        return len(self._entities)

    @property
    def fetched(self) -> list[str]:
        """The ids of the GETs so far, in order, failed ones included."""
        with self._lock:
            return self._fetched.copy()

    def fail(
        self,
        id: str | None = None,
        *,
        times: int | None = None,
        status: int | None = 503,
        retry_after: float | None = None,
    ) -> None:
        """
        Answer GETs with a `FetchError`, so that they decide nothing.

        Args:
            id: The entity whose GETs fail; None: all entities.
            times: How many GETs fail, from now on; None: all until `recover()`.
            status: The HTTP status of the answer; None: no answer at all.
            retry_after: The seconds that the answer asks to wait.
        """
        with self._lock:
            self._failures[id] = _Failure(math.inf if times is None else times, status, retry_after)

    def recover(self) -> None:
        """Answer all GETs again."""
        with self._lock:
            self._failures.clear()

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[Entity] | Unchanged | Gone:
        """
        GET the entity.

        Raises:
            FetchError: After `fail()`; or an `HTTPFetcher` would not accept the entity, because it
                has another id, or none, say.
        """
        with self._lock:
            self._fetched.append(id)
            self._fail_if_told(id)
            if id not in self._entities:
                return Gone()
            body = json.dumps(self._entities[id]).encode()
        if etag == (current := f'"{hashlib.sha256(body).hexdigest()}"'):
            return Unchanged()
        headers = {"Content-Type": "application/json"}
        entity = self._reader.entity(headers, body, id, f"GET {id!r}")
        return Found(entity, current)

    def _fail_if_told(self, id: str) -> None:
        for failure in (self._failures.get(id), self._failures.get(None)):
            if failure is not None and failure.left > 0:
                failure.left -= 1
                what = "got no answer" if failure.status is None else f"answered {failure.status}"
                raise FetchError(
                    f"GET {id!r} {what}: this test said fail()",
                    status=failure.status,
                    retry_after=failure.retry_after,
                )
