"""The service that owns the entities, from its consumers' view; and the cache, watched."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from change_events import Entry, FetchError, Found, Gone, Unchanged
from verification.proof.simulation._kernel import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from verification.proof.simulation._books import State
    from verification.proof.simulation._environment import Environment, HasEnvironment
    from verification.proof.simulation._kernel import Process
    from verification.proof.simulation._sinks import AnySink

STATUSES = (None, 200, 302, 401, 403, 429, 500, 500, 503)
"""How a GET fails: with no answer, with an unusable one, or with an error."""

LEAVES_OUT = 10
"""How many times as often as a GET fails, a GET of many leaves out one of its entities."""


class Listed(int):
    """A state on a page. `commit`: the commit that the page shows."""

    commit: int

    @classmethod
    def of(cls, state: int, commit: int) -> Listed:
        listed = cls(state)
        listed.commit = commit
        return listed


class Source:
    """
    Answers GETs. Each reads the latest commit at one moment between its start and its end.

    Args:
        environment: What the world's parts share.
        etags: `exact`: Send an `ETag`, and answer 304; `coarse`: different states can have the same
            one; `none`: send none.
        bulk: How many entities a GET can ask for.

    Attributes:
        bulk_size: How many entities a GET can ask for.
        is_down: Every GET fails.
        misled: Processes with a wrong URL: another service answers them, which knows no entity.
    """

    def __init__(self, environment: Environment, *, etags: str, bulk: int) -> None:
        self._environment = environment
        self._etags = etags
        self.bulk_size = bulk
        self.is_down = False
        self.misled: set[Process] = set()

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[int] | Unchanged | Gone:
        self._ask("gets", [id])
        state = self._read(id)
        self._answer()
        if state is None:
            return Gone()
        if self._etags == "none":
            return Found(state)
        tag = f'"{state if self._etags == "exact" else state % 2}"'
        return Unchanged() if tag == etag else Found(state, tag)

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[int]]:
        """Read each entity at its own moment; sometimes leave out one that exists."""
        environment = self._environment
        self._ask("gets of many", ids)
        found: dict[str, Found[int]] = {}
        for id in ids:
            state = self._read(id)
            left_out = LEAVES_OUT * environment.faults.get_fails
            if state is not None and environment.random() >= left_out:
                found[id] = Found(state)
            if environment.random() < 0.1:
                environment.kernel.pause(environment.durations.get())
        self._answer()
        return found

    def page(self, after: str | None, size: int) -> tuple[list[str], dict[str, tuple[int, State]]]:
        """Read a page of the ids that exist, and each entity's commit and state at a moment."""
        self._ask("pages", [])
        environment = self._environment
        history = environment.ghost.history
        exist = [id for id, states in history.items() if states[-1] is not None]
        ids = heapq.nlargest(size, (id for id in exist if after is None or id < after))
        states: dict[str, tuple[int, State]] = {}
        for id in ids:
            states[id] = (len(history[id]) - 1, history[id][-1])
            environment.ghost.tell(id, f"is listed with {states[id]}")
            if environment.random() < 0.02:
                environment.kernel.pause(environment.durations.get())
        self._answer()
        return ids, states

    @property
    def random(self) -> Callable[[], float]:
        """Draws a number from 0 to 1."""
        return self._environment.random

    def _ask(self, what: str, ids: Sequence[str]) -> None:
        environment = self._environment
        kernel, ghost, task = environment.kernel, environment.ghost, environment.kernel.current
        process = kernel.enter()
        task.get_started, task.get_step = kernel.now, kernel.step
        ghost.counts[what] += 1
        for id in ids:
            ghost.tell(id, f"{process.name} {what}")
        kernel.pause(environment.durations.get())
        if self.is_down or environment.random() < environment.faults.get_fails:
            status = STATUSES[int(environment.random() * len(STATUSES))]
            raise FetchError(str(status), status=status)

    def _read(self, id: str) -> State:
        ghost, task = self._environment.ghost, self._environment.kernel.current
        if task.process in self.misled:
            task.commits[id] = None
            ghost.tell(id, f"{task.process.name} is told a lie: None")
            return None
        task.commits[id] = commit = len(ghost.history[id]) - 1
        state = ghost.history[id][commit]
        ghost.tell(id, f"{task.process.name} is answered {commit}: {state}")
        return state

    def _answer(self) -> None:
        environment = self._environment
        if environment.random() < 0.5:
            environment.kernel.pause(environment.durations.get())
        if environment.random() < environment.faults.get_fails:
            raise FetchError("connection lost")


class GoneAwayError(RuntimeError):
    """The database has gone away."""


class NoAnswerError(ConnectionError):
    """The database is down."""


class Outage:
    """Whether something is down."""

    is_down = False


class WatchedSink:
    """
    Passes each call on to the production sink after a while, and tells the ghost.

    `outage` is the database's.
    """

    def __init__(self, world: HasEnvironment, sink: AnySink, outage: Outage) -> None:
        self._environment = world.environment
        self._sink = sink
        self._outage = outage

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        self._pause()
        self._require_database()
        return self._sink.ids(after=after, limit=limit)

    def state(self, name: str, /) -> str | None:
        self._pause()
        self._require_database()
        return self._sink.state(name)

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        self._pause()
        self._require_database()
        stored = self._sink.set_state(name, text, if_state=if_state)
        self._pause()
        self._may_fail()
        return stored

    def entry(self, id: str, /) -> Entry:
        kernel = self._environment.kernel
        kernel.current.process.began[id] = kernel.now
        self._pause()
        self._require_database()
        entry = self._sink.entry(id)
        self._pause()
        return entry

    def apply(self, id: str, change: Found[int] | Unchanged | Gone, /, *, if_version: int) -> bool:
        try:
            self._pause()
        except Killed:
            # The process is dead, but its statement can be under way.
            if self._environment.random() < 0.5:
                self._apply(id, change, if_version)
            raise
        self._require_database()
        self._may_fail()
        applied = self._apply(id, change, if_version)
        self._pause()
        self._may_fail()
        return applied

    def insert_many(self, found: Mapping[str, Found[int]], /) -> set[str]:
        try:
            self._pause()
        except Killed:
            if self._environment.random() < 0.5:
                self._insert(found)
            raise
        self._require_database()
        self._may_fail()
        stored = self._insert(found)
        self._pause()
        self._may_fail()
        return stored

    def get(self, id: str, /) -> Any:
        self._pause()
        self._require_database()
        return self._sink.get(id)

    def _insert(self, found: Mapping[str, Found[int]]) -> set[str]:
        before = {id: self._sink.entry(id) for id in found}
        stored = self._sink.insert_many(found)
        ghost = self._environment.ghost
        for id, each in found.items():
            after = self._sink.entry(id)
            if id not in stored:
                ghost.refused(id, before=before[id], after=after)
                continue
            self._note_listed(id, each)
            ghost.looked(id, before=before[id], after=after, value=self._sink.get(id))
        return stored

    def _apply(self, id: str, change: Found[int] | Unchanged | Gone, if_version: int) -> bool:
        self._note_listed(id, change)
        before = self._sink.entry(id)
        applied = self._sink.apply(id, change, if_version=if_version)
        after = self._sink.entry(id)
        ghost = self._environment.ghost
        if applied:
            ghost.looked(id, before=before, after=after, value=self._sink.get(id))
        else:
            ghost.refused(id, before=before, after=after)
        return applied

    def _note_listed(self, id: str, change: Found[int] | Unchanged | Gone) -> None:
        """What this task stores can be from a page, and not from its own GET."""
        if isinstance(change, Found) and isinstance(change.value, Listed):
            self._environment.kernel.current.commits[id] = change.value.commit

    def _may_fail(self) -> None:
        environment = self._environment
        if environment.random() < environment.faults.sink_fails:
            raise GoneAwayError

    def _require_database(self) -> None:
        if self._outage.is_down:
            raise NoAnswerError

    def _pause(self) -> None:
        environment = self._environment
        if environment.random() < 0.3:
            environment.kernel.pause(environment.durations.sink())
        else:
            environment.kernel.enter()


class PlainTable:
    """A cache that is written without checking what is there, like the peers' caches."""

    def __init__(self, world: HasEnvironment) -> None:
        self._environment = world.environment

    def write(self, id: str, state: State, commit: Callable[[], int | None]) -> None:
        """
        Write a state.

        `commit` is called at the moment of the write. It returns the number of the commit, or None
        if the state is not committed.
        """
        environment = self._environment
        environment.kernel.enter()
        if environment.random() < 0.5:
            environment.kernel.pause(environment.durations.sink())
        environment.ghost.wrote(id, state, commit())
