"""A sink that is tested, and what the tests of the contract do with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from change_events._event import Found, Gone, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Sink

DAY = 24 * 3600.0

AWKWARD_IDS = (
    *("a", "A", " a", "a ", "01", "1"),
    *("\u00e4", "a\u0308", "\u200b", "\U0001f40d"),
    *("'", '"', "a'; DROP TABLE entities; --", "\\", "%", "%s", "{}", "?", ":a", "$1", "_"),
    *("/", "a/b", "../a", "#"),
    *("x" * 512, "x" * 511 + "y", "\U0001f40d" * 512),
)
"""Ids, of 1 to 512 characters, that some storage confuses, reads as syntax, or finds too long."""


class Clock:
    """A wall clock, in seconds since the epoch, that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = time.time()
        self.asked = False

    def __call__(self) -> float:
        """Return the time."""
        self.asked = True
        return self.now


class SinkUnderTest:
    """The sink, and what the tests do with it. `SinkContract` says what to override."""

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock that the tests of `purge()` move. Give it to a sink that accepts a clock."""
        return Clock()

    @pytest.fixture
    def sink(self) -> Sink[Any]:
        """The sink to test, empty. Override it."""
        pytest.fail(
            f"{type(self).__name__} needs a fixture named 'sink' that makes the sink to test"
        )

    @pytest.fixture
    def open_again(self) -> Callable[[], Sink[Any]]:
        """
        Return a function that opens the storage of `sink` once more. It is called in this process
        and, pickled, in others. If what it opens has a `close()`, that is called. Override it for
        storage that can be shared.
        """
        pytest.skip("the sink's storage can't be shared, or the fixture 'open_again' is missing")

    def entity(self, n: int) -> Any:
        """Return an entity, a different one for each number; JSON objects unless overridden."""
        return {
            "id": "p1",
            "n": n,
            "name": f"Sm\u00f8rrebr\u00f8d {n}",
            "price": None,
            "tags": ["a", {"b": 1.5}, True],
        }

    def stored(self, sink: Any, id: str) -> Any:
        """Return the cached entity, or None. Override it if the sink has no `get(id)`."""
        return method_of(sink, "get", instead="stored")(id)

    def listed(self, sink: Any) -> dict[str, Any]:
        """Return all cached entities by id. Override it if the sink has no `items()`."""
        return dict(method_of(sink, "items", instead="listed")())

    def change(self, name: str, n: int) -> Found[Any] | Unchanged | Gone:
        """Return what a look can find: one of `CHANGES`, different for each number."""
        changes: dict[str, Found[Any] | Unchanged | Gone] = {
            "found": Found(self.entity(n), f'"{n}"', f"digest {n}"),
            "found without ETag": Found(self.entity(n)),
            "unchanged": Unchanged(),
            "unchanged, another ETag": Unchanged(etag=f'"{n}"'),
            "gone": Gone(),
        }
        return changes[name]

    def look(self, sink: Sink[Any], change: str, n: int, *, id: str = "p1") -> int:
        """Apply a change to the current version; return the new version."""
        assert sink.apply(id, self.change(change, n), if_version=sink.entry(id).version) is True
        return sink.entry(id).version

    def live_through(self, sink: Sink[Any], history: str) -> list[int]:
        """Apply the changes of a history to `p1`; return all versions, the first one included."""
        versions = [sink.entry("p1").version]
        return versions + [self.look(sink, change, n) for n, change in enumerate(history.split())]

    def keep_two_of_four(self, sink: Sink[Any]) -> None:
        """Store `p1` to `p4`; delete the last two."""
        histories = {1: ["found"], 2: ["found"], 3: ["found", "gone"], 4: ["gone"]}
        for n, history in histories.items():
            for change in history:
                self.look(sink, change, n, id=f"p{n}")

    def let_pass(self, clock: Clock, seconds: float) -> None:
        """Move the clock; or skip the test if the sink does not ask it for the time."""
        if not clock.asked:
            pytest.skip(
                "entries can't grow old: the sink does not ask the fixture 'clock' for the time"
            )
        clock.now += seconds


def method_of(sink: Any, name: str, *, instead: str) -> Any:
    """Return a method that sinks need not have; or skip the test that needs it."""
    if not hasattr(sink, name):
        pytest.skip(
            f"what is stored can't be read: the sink has no {name}(), "
            f"and {instead}() is not overridden"
        )
    return getattr(sink, name)


def require(sink: object, name: str, lack: str) -> None:
    """Skip the test if the sink lacks a method."""
    if not hasattr(sink, name):
        pytest.skip(f"{lack}: it has no {name}()")
