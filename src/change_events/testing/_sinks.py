"""The contract that every sink must pass, as tests to inherit."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.testing._contention import contend_in_processes, contend_in_threads, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.testing._contention import Win
    from change_events.typing import Sink

DAY = 24 * 3600.0

THREADS = 6
PROCESSES = 3
ROUNDS = 15
"""How many changes each thread or process applies."""

AWKWARD_IDS = (
    *("a", "A", " a", "a ", "01", "1"),
    *("\u00e4", "a\u0308", "\u200b", "\U0001f40d"),
    *("'", '"', "a'; DROP TABLE entities; --", "\\", "%", "%s", "{}", "?", ":a", "$1", "_"),
    *("/", "a/b", "../a", "#"),
    *("x" * 512, "x" * 511 + "y", "\U0001f40d" * 512),
)
"""Ids, of 1 to 512 characters, that some storage confuses, reads as syntax, or finds too long."""

HISTORIES = (
    "",
    "found",
    "found gone",
    "gone",
    "found unchanged",
    "found gone found",
    "gone found found gone gone",
)
"""The changes that were applied to an id before."""

CHANGES = ("found", "found without ETag", "unchanged", "gone")

TURNS = [
    (history, change)
    for history in HISTORIES
    for change in CHANGES
    if change != "unchanged" or history.endswith(("found", "unchanged"))  # only if it is cached
]
"""Every change that a look can find after each history."""


class Clock:
    """A wall clock, in seconds since the epoch, that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = time.time()
        self.asked = False

    def __call__(self) -> float:
        """Return the time."""
        self.asked = True
        return self.now


class _SinkUnderTest:
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
        return _method(sink, "get", instead="stored")(id)

    def listed(self, sink: Any) -> dict[str, Any]:
        """Return all cached entities by id. Override it if the sink has no `items()`."""
        return dict(_method(sink, "items", instead="listed")())

    def _change(self, name: str, n: int) -> Found[Any] | Unchanged | Gone:
        if name.startswith("found"):
            return Found(self.entity(n), f'"{n}"' if name == "found" else None)
        return Gone() if name == "gone" else Unchanged()

    def _look(self, sink: Sink[Any], change: str, n: int, *, id: str = "p1") -> int:
        """Apply a change to the current version; return the new version."""
        assert sink.apply(id, self._change(change, n), if_version=sink.entry(id).version) is True
        return sink.entry(id).version

    def _live_through(self, sink: Sink[Any], history: str) -> list[int]:
        """Apply the changes of a history to `p1`; return all versions, the first one included."""
        versions = [sink.entry("p1").version]
        return versions + [self._look(sink, change, n) for n, change in enumerate(history.split())]


def _method(sink: Any, name: str, *, instead: str) -> Any:
    """Return a method that sinks need not have; or skip the test that needs it."""
    if not hasattr(sink, name):
        pytest.skip(
            f"what is stored can't be read: the sink has no {name}(), "
            f"and {instead}() is not overridden"
        )
    return getattr(sink, name)


class _LookRules(_SinkUnderTest):
    """What a look changes, and what it leaves as it was."""

    def test_an_id_never_touched_has_version_0(self, sink: Sink[Any]) -> None:
        assert sink.entry("p1") == Entry(version=0, present=False, etag=None)

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_every_look_raises_the_version(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        self._live_through(sink, history)
        before = sink.entry("p1").version

        assert self._look(sink, change, 99) > before

    def test_finding_the_same_again_raises_the_version_too(self, sink: Sink[Any]) -> None:
        before = self._look(sink, "found", 1)

        assert self._look(sink, "found", 1) > before

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_a_look_with_another_version_is_refused(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        versions = self._live_through(sink, history)
        before = sink.entry("p1")
        current = before.version
        other = self._look(sink, "found", 7, id="p2")

        for version in {*versions, current + 1, current - 1, other} - {current}:
            assert sink.apply("p1", self._change(change, 99), if_version=version) is False
            assert sink.entry("p1") == before

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_the_entry_says_what_was_found(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        self._live_through(sink, history)
        etag = {"found": '"99"', "unchanged": sink.entry("p1").etag}.get(change)

        self._look(sink, change, 99)

        entry = sink.entry("p1")
        assert (entry.present, entry.etag) == (change != "gone", etag)

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_the_entity_is_what_was_found(self, sink: Sink[Any], history: str, change: str) -> None:
        self._live_through(sink, history)
        entity = {"gone": None, "unchanged": self.stored(sink, "p1")}.get(change, self.entity(99))

        self._look(sink, change, 99)

        assert self.stored(sink, "p1") == entity

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_a_look_that_is_refused_leaves_the_entity(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        versions = self._live_through(sink, history)
        entity = self.stored(sink, "p1")

        for version in {*versions[:-1], versions[-1] + 1}:
            sink.apply("p1", self._change(change, 99), if_version=version)

        assert self.stored(sink, "p1") == entity

    def test_ids_are_kept_apart(self, sink: Sink[Any]) -> None:
        for n, id in enumerate(AWKWARD_IDS):
            assert sink.apply(id, self._change("found", n), if_version=0) is True

        assert {id: sink.entry(id).etag for id in AWKWARD_IDS} == {
            id: f'"{n}"' for n, id in enumerate(AWKWARD_IDS)
        }

    def test_entities_of_all_ids_can_be_read(self, sink: Sink[Any]) -> None:
        for n, id in enumerate(AWKWARD_IDS):
            sink.apply(id, self._change("found", n), if_version=0)

        assert {id: self.stored(sink, id) for id in AWKWARD_IDS} == {
            id: self.entity(n) for n, id in enumerate(AWKWARD_IDS)
        }

    def test_only_what_is_present_is_listed(self, sink: Sink[Any]) -> None:
        self._keep_two_of_four(sink)

        assert self.listed(sink) == {"p1": self.entity(1), "p2": self.entity(2)}

    def test_only_what_is_present_is_counted(self, sink: Any) -> None:
        if not hasattr(sink, "__len__"):
            pytest.skip("the sink can't be counted: it has no len()")
        self._keep_two_of_four(sink)

        assert len(sink) == 2

    def _keep_two_of_four(self, sink: Sink[Any]) -> None:
        histories = {1: ["found"], 2: ["found"], 3: ["found", "gone"], 4: ["gone"]}
        for n, history in histories.items():
            for change in history:
                self._look(sink, change, n, id=f"p{n}")


class _SharingRules(_SinkUnderTest):
    """What many threads and processes see of one storage."""

    def test_of_many_threads_with_one_version_one_wins(self, sink: Sink[Any]) -> None:
        self._check_wins(sink, contend_in_threads(sink, self._changes_of(THREADS)))

    def test_of_many_processes_with_one_version_one_wins(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        self._check_wins(sink, contend_in_processes(open_again, self._changes_of(PROCESSES)))

    def test_the_storage_is_one_however_often_it_is_opened(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        before = self._look(sink, "found", 1)
        with opened(open_again) as other:
            assert other.entry("p1") == sink.entry("p1")
            assert other.apply("p1", Gone(), if_version=before) is True

            assert sink.apply("p1", self._change("found", 2), if_version=before) is False
            assert sink.entry("p1") == other.entry("p1")

    def _changes_of(self, contenders: int) -> list[list[Found[Any]]]:
        changes = [Found(self.entity(n), f'"{n}"') for n in range(contenders * ROUNDS)]
        return [changes[number::contenders] for number in range(contenders)]

    def _check_wins(self, sink: Sink[Any], wins: list[Win]) -> None:
        versions = [version for version, _ in wins]
        assert len(versions) == len(set(versions)), "two looks with the same version were applied"
        _, last = max(wins, key=lambda win: win[0])
        assert sink.entry("p1").etag == last.etag
        with contextlib.suppress(pytest.skip.Exception):  # the rest of the test has been done
            assert self.stored(sink, "p1") == last.value


class _PurgeRules(_SinkUnderTest):
    """What `purge()` forgets."""

    @pytest.mark.parametrize("days", [0.0, 13.9, -1.0])
    def test_purge_refuses_the_young(self, sink: Any, days: float) -> None:
        self._require_purge(sink)
        self._live_through(sink, "found gone")
        before = sink.entry("p1")

        with pytest.raises(ValueError):  # noqa: PT011  # also a ConfigurationError, with a text that the sink chooses
            sink.purge(older_than=days * DAY)
        assert sink.entry("p1") == before

    def test_purge_forgets_tombstones_older_than_any_event(self, sink: Any, clock: Clock) -> None:
        self._require_purge(sink)
        for id, change in [("old", "gone"), ("live", "found"), ("still gone", "gone")]:
            self._look(sink, change, 1, id=id)
        self._let_pass(clock, 20 * DAY)
        for id in ("still gone", "young"):
            self._look(sink, "gone", 1, id=id)
        kept = {id: sink.entry(id) for id in ("live", "still gone", "young")}

        sink.purge(older_than=30 * DAY)
        assert sink.entry("old") != Entry()
        sink.purge()
        assert sink.entry("old") == Entry()
        assert {id: sink.entry(id) for id in kept} == kept

    def test_no_version_comes_again_after_a_purge(self, sink: Any, clock: Clock) -> None:
        self._require_purge(sink)
        versions = self._live_through(sink, "found gone gone")
        self._let_pass(clock, 15 * DAY)
        sink.purge()

        for change in ("found", "gone", "found", "gone"):
            assert self._look(sink, change, 99) not in versions
            for version in versions:
                assert sink.apply("p1", Gone(), if_version=version) is False

    def _require_purge(self, sink: object) -> None:
        if not hasattr(sink, "purge"):
            pytest.skip("the sink keeps its tombstones for ever: it has no purge()")

    def _let_pass(self, clock: Clock, seconds: float) -> None:
        if not clock.asked:
            pytest.skip(
                "entries can't grow old: the sink does not ask the fixture 'clock' for the time"
            )
        clock.now += seconds


class SinkContract(_LookRules, _SharingRules, _PurgeRules):
    """
    The tests that a sink must pass for the promise to hold. Inherit from it, and say how to make
    your sink:

        class TestMySink(SinkContract):
            @pytest.fixture
            def sink(self, tmp_path, clock):
                with MySink(tmp_path / "cache.db", clock=clock) as sink:
                    yield sink

            @pytest.fixture
            def open_again(self, tmp_path):
                return functools.partial(MySink, tmp_path / "cache.db")

    Make a new, empty sink for each test. If your sink lacks something, the tests that need it are
    skipped and say so: other processes need `open_again`, entities need `get()` and `items()` (or
    `stored` and `listed`), old tombstones need `purge(older_than=seconds)`. Override `entity` if
    the sink does not store JSON objects.
    """
