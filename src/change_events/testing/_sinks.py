"""The contract that every sink must pass, as tests to inherit."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from change_events._event import Entry, Found, Gone, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Barrier

    from change_events.typing import Sink

DAY = 24 * 3600.0

THREADS = 6
PROCESSES = 3
ROUNDS = 15
"""How many looks each thread or process gets through."""

MOST_LOST = 10_000
"""So many looks in a row are lost to no number of others, but to a sink that refuses everything."""

AWKWARD_IDS = (
    *("a", "A", " a", "a ", "01", "1"),
    *("\u00e4", "a\u0308", "\u200b", "\U0001f40d"),
    *(
        "'",
        '"',
        "a'; DROP TABLE entities; --",
        "\\",
        "%",
        "%s",
        "{}",
        "?",
        ":a",
        "$1",
        "_",
        "/",
        "a/b",
        "../a",
        "#",
    ),
    *("x" * 512, "x" * 511 + "y", "\U0001f40d" * 512),
)
"""
Ids, from 1 to 512 characters, that some storage somewhere takes for each other, for syntax, or for
too long.
"""

HISTORIES = (
    "",
    "found",
    "found gone",
    "gone",
    "found unchanged",
    "found gone found",
    "gone found found gone gone",
)
"""What may have been applied to an id before."""

CHANGES = ("found", "found without ETag", "unchanged", "gone")

TURNS = [
    (history, change)
    for history in HISTORIES
    for change in CHANGES
    if change != "unchanged"
    or history.endswith(("found", "unchanged"))  # a look finds nothing unchanged but what is cached
]
"""What may be found, after what."""


class Clock:
    """
    A wall clock that stands still until a test moves it.

    Attributes:
        now: Seconds since the epoch.
        asked: True once somebody wanted to know.
    """

    def __init__(self) -> None:
        self.now = time.time()
        self.asked = False

    def __call__(self) -> float:
        """Tell the time."""
        self.asked = True
        return self.now


class SinkContract:
    """
    The tests that any sink must pass for the promise to hold. Inherit from it, and say how your
    sink is made:

        class TestMySink(SinkContract):
            @pytest.fixture
            def sink(self, tmp_path, clock):
                with MySink(tmp_path / "cache.db", clock=clock) as sink:
                    yield sink

            @pytest.fixture
            def open_again(self, tmp_path):
                return functools.partial(MySink, tmp_path / "cache.db")

    A new, empty sink is wanted for each test. What your sink does not have is skipped, and says so:
    other processes without `open_again`, entities without `get()` and `items()` (or `stored` and
    `listed`), old tombstones without `purge(older_than=seconds)`.
    """

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock that the tests of `purge()` move. Give it to the sink, if that takes one."""
        return Clock()

    @pytest.fixture
    def sink(self) -> Sink[Any]:
        """The sink to test, empty. To be overridden."""
        pytest.fail(
            f"{type(self).__name__} needs a fixture named 'sink' that makes the sink to test"
        )

    @pytest.fixture
    def open_again(self) -> Callable[[], Sink[Any]]:
        """
        Return what opens the storage of `sink` once more: called in this process and, pickled, in
        others. To be overridden for storage that can be shared. What it opens is closed, if it has
        a `close()`.
        """
        pytest.skip(
            "the sink's storage can't be shared, or the fixture 'open_again' is missing, which opens it once more"
        )

    def entity(self, n: int) -> Any:
        """
        Return an entity, another for each number. To be overridden if the sink takes no JSON
        objects.
        """
        return {
            "id": "p1",
            "n": n,
            "name": f"Sm\u00f8rrebr\u00f8d {n}",
            "price": None,
            "tags": ["a", {"b": 1.5}, True],
        }

    def stored(self, sink: Any, id: str) -> Any:
        """
        Return the cached entity, or None. To be overridden if the sink has no `get(id)`, by asking
        its tables, say.
        """
        get = getattr(sink, "get", None)
        if get is None:
            pytest.skip(
                "nothing tells which entity is stored: the sink has no get(), and stored() is not overridden"
            )
        return get(id)

    def listed(self, sink: Any) -> dict[str, Any]:
        """
        Return all cached entities by their ids. To be overridden like `stored`, if the sink has no
        `items()`.
        """
        items = getattr(sink, "items", None)
        if items is None:
            pytest.skip(
                "nothing tells which entities are stored: the sink has no items(), and listed() is not overridden"
            )
        return dict(items())

    # Versions

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
        self._look(sink, "found", 7, id="p2")

        for version in {
            *versions,
            before.version + 1,
            before.version - 1,
            sink.entry("p2").version,
        } - {before.version}:
            assert sink.apply("p1", self._change(change, 99), if_version=version) is False
            assert sink.entry("p1") == before

    # What is kept

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
        for n, (id, *history) in enumerate(
            [("p1", "found"), ("p2", "found"), ("p3", "found", "gone"), ("p4", "gone")]
        ):
            for change in history:
                self._look(sink, change, n, id=id)

        assert self.listed(sink) == {"p1": self.entity(0), "p2": self.entity(1)}

    def test_only_what_is_present_is_counted(self, sink: Any) -> None:
        if not hasattr(sink, "__len__"):
            pytest.skip("the sink can't be counted: it has no len()")
        for id, *history in [
            ("p1", "found"),
            ("p2", "found"),
            ("p3", "found", "gone"),
            ("p4", "gone"),
        ]:
            for change in history:
                self._look(sink, change, 1, id=id)

        assert len(sink) == 2

    # Many at once

    def test_of_many_threads_with_one_version_one_wins(self, sink: Sink[Any]) -> None:
        with _threads_that_switch_often(), ThreadPoolExecutor(THREADS) as pool:
            won = list(
                pool.map(lambda number: _contend(sink, self._changes_of(number)), range(THREADS))
            )

        self._check_wins(sink, won)

    def test_of_many_processes_with_one_version_one_wins(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        spawn = multiprocessing.get_context(
            "spawn"
        )  # what a process inherits by fork hides what can't be pickled
        start = spawn.Barrier(PROCESSES)
        with ProcessPoolExecutor(
            PROCESSES, mp_context=spawn, initializer=_wait_at, initargs=(start,)
        ) as pool:
            changes = [self._changes_of(number) for number in range(PROCESSES)]
            won = list(pool.map(_contend_in_a_process, [open_again] * PROCESSES, changes))

        self._check_wins(sink, won)

    def test_the_storage_is_one_however_often_it_is_opened(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        before = self._look(sink, "found", 1)
        with _opened(open_again) as other:
            assert other.entry("p1") == sink.entry("p1")
            assert other.apply("p1", Gone(), if_version=before) is True

            assert sink.apply("p1", self._change("found", 2), if_version=before) is False
            assert sink.entry("p1") == other.entry("p1")

    # Purging

    @pytest.mark.parametrize("days", [0.0, 13.9, -1.0])
    def test_purge_refuses_the_young(self, sink: Any, days: float) -> None:
        self._require_purge(sink)
        self._live_through(sink, "found gone")
        before = sink.entry("p1")

        with pytest.raises(ValueError):  # noqa: PT011  # a ConfigurationError is one, and its words are the sink's own
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
            assert all(
                sink.apply("p1", Gone(), if_version=version) is False for version in versions
            )

    # How it is done

    def _change(self, name: str, n: int) -> Found[Any] | Unchanged | Gone:
        if name.startswith("found"):
            return Found(self.entity(n), f'"{n}"' if name == "found" else None)
        return Gone() if name == "gone" else Unchanged()

    def _look(self, sink: Sink[Any], change: str, n: int, *, id: str = "p1") -> int:
        """Apply on top of what is there, and return the version that makes."""
        assert sink.apply(id, self._change(change, n), if_version=sink.entry(id).version) is True
        return sink.entry(id).version

    def _live_through(self, sink: Sink[Any], history: str) -> list[int]:
        """Apply one after the other, and return all versions there were."""
        versions = [sink.entry("p1").version]
        return versions + [self._look(sink, change, n) for n, change in enumerate(history.split())]

    def _changes_of(self, number: int) -> list[Found[Any]]:
        return [
            Found(self.entity(n), f'"{n}"') for n in range(number * ROUNDS, (number + 1) * ROUNDS)
        ]

    def _check_wins(self, sink: Sink[Any], won: list[list[tuple[int, Found[Any]]]]) -> None:
        wins = [win for each in won for win in each]
        versions = [version for version, _ in wins]
        assert len(versions) == len(set(versions)), (
            "two looks with the same version have both been applied"
        )
        _, last = max(wins, key=lambda win: win[0])
        assert sink.entry("p1").etag == last.etag
        with contextlib.suppress(
            pytest.skip.Exception
        ):  # what can't be read is no reason to call the rest skipped
            assert self.stored(sink, "p1") == last.value

    def _require_purge(self, sink: object) -> None:
        if not hasattr(sink, "purge"):
            pytest.skip("the sink keeps its tombstones for ever: it has no purge()")

    def _let_pass(self, clock: Clock, seconds: float) -> None:
        if not clock.asked:
            pytest.skip(
                "the sink can't be made to grow old: it does not ask the fixture 'clock' for the time"
            )
        clock.now += seconds


def _contend(sink: Sink[Any], changes: list[Found[Any]]) -> list[tuple[int, Found[Any]]]:
    """
    Apply each change as soon as no other look gets in between; return the versions they were
    applied to.
    """
    won: list[tuple[int, Found[Any]]] = []
    for change in changes:
        for _ in range(MOST_LOST):
            version = sink.entry("p1").version
            if sink.apply("p1", change, if_version=version):
                won.append((version, change))
                break
        else:
            pytest.fail(f"{type(sink).__name__} has refused {MOST_LOST} looks in a row")
    return won


def _contend_in_a_process(
    open_again: Callable[[], Sink[Any]], changes: list[Found[Any]]
) -> list[tuple[int, Found[Any]]]:  # pragma: no cover  # coverage does not see into other processes
    with _opened(open_again) as sink:
        return _contend(sink, changes)


@contextlib.contextmanager
def _opened(open_again: Callable[[], Sink[Any]]) -> Iterator[Sink[Any]]:
    sink: Any = open_again()
    try:
        yield sink
    finally:
        if hasattr(sink, "close"):
            sink.close()


def _wait_at(start: Barrier) -> None:  # pragma: no cover  # as above
    start.wait(60)


@contextlib.contextmanager
def _threads_that_switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(
        1e-6
    )  # the default, 5 ms, seldom ends between a check and the write that follows it
    try:
        yield
    finally:
        sys.setswitchinterval(before)
