"""The service that owns the entities, seen from its consumers; and the cache, watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events import Entry, FetchError, Found, Gone, MemorySink, Unchanged
from verification.proof.simulation._kernel import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.proof.simulation._ghost import State
    from verification.proof.simulation._world import World


LEAVES_OUT = 10
"""So much more often than a GET fails is one of many entities missing in an answer."""


class Source:
    """
    Answers GETs: each reads the latest commit at one moment between its start and its end.

    Args:
        world: Where it is.
        etags: It sends an `ETag`, and answers 304.
        bulk: For how many entities it answers at once.

    Attributes:
        bulk_size: The same.
        is_down: It answers nobody.
    """

    def __init__(self, world: World, *, etags: bool, bulk: int) -> None:
        self._world = world
        self._etags = etags
        self.bulk_size = bulk
        self.is_down = False

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[int] | Unchanged | Gone:
        self._ask("gets", [id])
        state = self._read(id)
        self._answer()
        if state is None:
            return Gone()
        if not self._etags:
            return Found(state)
        tag = f'"{state}"'
        return Unchanged() if tag == etag else Found(state, tag)

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[int]]:
        """Read each entity at a moment of its own; now and then leave out one that is there."""
        world = self._world
        self._ask("gets of many", ids)
        found: dict[str, Found[int]] = {}
        for id in ids:
            state = self._read(id)
            if state is not None and world.random() >= LEAVES_OUT * world.faults.get_fails:
                found[id] = Found(state)
            if world.random() < 0.1:
                world.kernel.pause(world.get_takes())
        self._answer()
        return found

    def _ask(self, what: str, ids: Sequence[str]) -> None:
        world = self._world
        kernel, ghost, task = world.kernel, world.ghost, world.kernel.current
        process = kernel.enter()
        task.get_started, task.get_step = kernel.now, kernel.step
        ghost.counts[what] += 1
        for id in ids:
            ghost.tell(id, f"{process.name} {what}")
        kernel.pause(world.get_takes())
        if self.is_down or world.random() < world.faults.get_fails:
            raise FetchError("503", status=503)

    def _read(self, id: str) -> State:
        ghost, task = self._world.ghost, self._world.kernel.current
        task.commits[id] = commit = len(ghost.history[id]) - 1
        state = ghost.history[id][commit]
        ghost.tell(id, f"{task.process.name} is answered {commit}: {state}")
        return state

    def _answer(self) -> None:
        world = self._world
        if world.random() < 0.5:
            world.kernel.pause(world.get_takes())
        if world.random() < world.faults.get_fails:
            raise FetchError("connection lost")


class WatchedSink:
    """Hands each call on to the production sink, some time after it began, and tells the ghost."""

    def __init__(self, world: World, sink: MemorySink[int]) -> None:
        self._world = world
        self._sink = sink

    def entry(self, id: str, /) -> Entry:
        self._pause()
        entry = self._sink.entry(id)
        self._pause()
        return entry

    def apply(self, id: str, change: Found[int] | Unchanged | Gone, /, *, if_version: int) -> bool:
        world = self._world
        try:
            self._pause()
        except Killed:
            if world.random() < 0.5:  # the process is dead, its statement is under way
                self._apply(id, change, if_version)
            raise
        fails = world.faults.sink_fails
        if world.random() < fails:
            raise RuntimeError("the database is locked")
        applied = self._apply(id, change, if_version)
        self._pause()
        if world.random() < fails:
            raise RuntimeError("the database has gone away")
        return applied

    def _apply(self, id: str, change: Found[int] | Unchanged | Gone, if_version: int) -> bool:
        before = self._sink.entry(id)
        applied = self._sink.apply(id, change, if_version=if_version)
        after = self._sink.entry(id)
        if applied:
            self._world.ghost.looked(id, before=before, after=after, value=self._sink.get(id))
        else:
            self._world.ghost.refused(id, before=before, after=after)
        return applied

    def _pause(self) -> None:
        world = self._world
        if world.random() < 0.3:
            world.kernel.pause(world.sink_takes())
        else:
            world.kernel.enter()


class PlainTable:
    """A cache that is written without a look at what is there, as the peers do."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, id: str, state: State, commit: Callable[[], int | None]) -> None:
        """
        Write; `commit` tells the ghost, at that moment, which commit the state is, if it is one.
        """
        world = self._world
        world.kernel.enter()
        if world.random() < 0.5:
            world.kernel.pause(world.sink_takes())
        world.ghost.wrote(id, state, commit())
