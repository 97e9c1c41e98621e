"""The contract that every sink must pass, as tests to inherit."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.testing._contention import contend_in_processes, contend_in_threads, opened
from change_events.testing._sink_extras import (
    BulkRules,
    NamingRules,
    ReadingRules,
    StateRules,
)
from change_events.testing._sink_under_test import AWKWARD_IDS, DAY, Clock, SinkUnderTest, require

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events.testing._contention import Change, Win
    from change_events.typing import Sink

THREADS = 6
PROCESSES = 3
ROUNDS = 15
"""How many changes each thread or process applies."""

NO_PURGE = "the sink keeps its tombstones for ever"

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

CHANGES = ("found", "found without ETag", "unchanged", "unchanged, another ETag", "gone")

TURNS = [
    (history, change)
    for history in HISTORIES
    for change in CHANGES
    if not change.startswith("unchanged")
    or history.endswith(("found", "unchanged"))  # only if it is cached
]
"""Every change that a look can find after each history."""


class _LookRules(SinkUnderTest):
    """What a look changes, and what it leaves as it was."""

    def test_an_id_never_touched_has_version_0(self, sink: Sink[Any]) -> None:
        assert sink.entry("p1") == Entry(version=0, present=False, etag=None, digest=None)

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_every_look_raises_the_version(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        self.live_through(sink, history)
        before = sink.entry("p1").version

        assert self.look(sink, change, 99) > before

    def test_finding_the_same_again_raises_the_version_too(self, sink: Sink[Any]) -> None:
        before = self.look(sink, "found", 1)

        assert self.look(sink, "found", 1) > before

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_a_look_with_another_version_is_refused(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        versions = self.live_through(sink, history)
        before = sink.entry("p1")
        current = before.version
        other = self.look(sink, "found", 7, id="p2")

        for version in {*versions, current + 1, current - 1, other} - {current}:
            assert sink.apply("p1", self.change(change, 99), if_version=version) is False
            assert sink.entry("p1") == before

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_the_entry_says_what_was_found(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        self.live_through(sink, history)
        before = sink.entry("p1")
        etags = {"found": '"99"', "unchanged": before.etag, "unchanged, another ETag": '"99"'}
        digest = before.digest if change.startswith("unchanged") else None

        after = self.look(sink, change, 99)

        assert sink.entry("p1") == Entry(
            version=after,
            present=change != "gone",
            etag=etags.get(change),
            digest="digest 99" if change == "found" else digest,
        )

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_the_entity_is_what_was_found(self, sink: Sink[Any], history: str, change: str) -> None:
        self.live_through(sink, history)
        if change == "gone":
            entity = None
        else:
            entity = self.entity(99) if change.startswith("found") else self.stored(sink, "p1")

        self.look(sink, change, 99)

        assert self.stored(sink, "p1") == entity

    @pytest.mark.parametrize(("history", "change"), TURNS)
    def test_a_look_that_is_refused_leaves_the_entity(
        self, sink: Sink[Any], history: str, change: str
    ) -> None:
        versions = self.live_through(sink, history)
        entity = self.stored(sink, "p1")

        for version in {*versions[:-1], versions[-1] + 1}:
            sink.apply("p1", self.change(change, 99), if_version=version)

        assert self.stored(sink, "p1") == entity

    def test_ids_are_kept_apart(self, sink: Sink[Any]) -> None:
        for n, id in enumerate(AWKWARD_IDS):
            assert sink.apply(id, self.change("found", n), if_version=0) is True

        assert {id: sink.entry(id).etag for id in AWKWARD_IDS} == {
            id: f'"{n}"' for n, id in enumerate(AWKWARD_IDS)
        }

    def test_entities_of_all_ids_can_be_read(self, sink: Sink[Any]) -> None:
        for n, id in enumerate(AWKWARD_IDS):
            sink.apply(id, self.change("found", n), if_version=0)

        assert {id: self.stored(sink, id) for id in AWKWARD_IDS} == {
            id: self.entity(n) for n, id in enumerate(AWKWARD_IDS)
        }

    def test_only_what_is_present_is_listed(self, sink: Sink[Any]) -> None:
        self.keep_two_of_four(sink)

        assert self.listed(sink) == {"p1": self.entity(1), "p2": self.entity(2)}

    def test_only_what_is_present_is_counted(self, sink: Any) -> None:
        if not hasattr(sink, "__len__"):
            pytest.skip("the sink can't be counted: it has no len()")
        self.keep_two_of_four(sink)

        assert len(sink) == 2


class _SharingRules(SinkUnderTest):
    """What many threads and processes see of one storage."""

    def test_of_many_threads_with_one_version_one_wins(self, sink: Sink[Any]) -> None:
        self._check_wins(sink, contend_in_threads(sink, self._changes_of(THREADS)))

    @pytest.mark.parametrize("other", [Gone(), Unchanged()], ids=["gone", "unchanged"])
    def test_whatever_looks_with_one_version_find_one_wins(
        self, sink: Sink[Any], other: Gone | Unchanged
    ) -> None:
        self.look(sink, "found", 0)
        changes: list[Sequence[Change]] = [[other] * ROUNDS, *self._changes_of(THREADS - 1)]

        self._check_versions(contend_in_threads(sink, changes))

    def test_of_many_processes_with_one_version_one_wins(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        self._check_wins(sink, contend_in_processes(open_again, self._changes_of(PROCESSES)))

    def test_the_storage_is_one_however_often_it_is_opened(
        self, sink: Sink[Any], open_again: Callable[[], Sink[Any]]
    ) -> None:
        before = self.look(sink, "found", 1)
        with opened(open_again) as other:
            assert other.entry("p1") == sink.entry("p1")
            assert other.apply("p1", Gone(), if_version=before) is True

            assert sink.apply("p1", self.change("found", 2), if_version=before) is False
            assert sink.entry("p1") == other.entry("p1")

    def _changes_of(self, contenders: int) -> list[list[Found[Any]]]:
        changes = [Found(self.entity(n), f'"{n}"') for n in range(contenders * ROUNDS)]
        return [changes[number::contenders] for number in range(contenders)]

    def _check_versions(self, wins: list[Win]) -> None:
        versions = [version for version, _ in wins]
        assert len(versions) == len(set(versions)), "two looks with the same version were applied"

    def _check_wins(self, sink: Sink[Any], wins: list[Win]) -> None:
        self._check_versions(wins)
        _, last = max(wins, key=lambda win: win[0])
        assert isinstance(last, Found)
        assert sink.entry("p1").etag == last.etag
        with contextlib.suppress(pytest.skip.Exception):  # the rest of the test has been done
            assert self.stored(sink, "p1") == last.value


class _PurgeRules(SinkUnderTest):
    """What `purge()` forgets."""

    @pytest.mark.parametrize("days", [0.0, 13.9, -1.0])
    def test_purge_refuses_the_young(self, sink: Any, days: float) -> None:
        require(sink, "purge", NO_PURGE)
        self.live_through(sink, "found gone")
        before = sink.entry("p1")

        with pytest.raises(ValueError):  # noqa: PT011  # also a ConfigurationError, with a text that the sink chooses
            sink.purge(older_than=days * DAY)
        assert sink.entry("p1") == before

    def test_purge_forgets_tombstones_older_than_any_event(self, sink: Any, clock: Clock) -> None:
        require(sink, "purge", NO_PURGE)
        for id, change in [("old", "gone"), ("live", "found"), ("still gone", "gone")]:
            self.look(sink, change, 1, id=id)
        self.let_pass(clock, 20 * DAY)
        for id in ("still gone", "young"):
            self.look(sink, "gone", 1, id=id)
        kept = {id: sink.entry(id) for id in ("live", "still gone", "young")}

        sink.purge(older_than=30 * DAY)
        assert sink.entry("old") != Entry()
        sink.purge()
        assert sink.entry("old") == Entry()
        assert {id: sink.entry(id) for id in kept} == kept

    def test_purge_keeps_what_was_found_again(self, sink: Any, clock: Clock) -> None:
        require(sink, "purge", NO_PURGE)
        self.live_through(sink, "found gone found")
        before = sink.entry("p1")
        self.let_pass(clock, 20 * DAY)

        sink.purge()
        assert sink.entry("p1") == before

    def test_no_version_comes_again_after_a_purge(self, sink: Any, clock: Clock) -> None:
        require(sink, "purge", NO_PURGE)
        versions = self.live_through(sink, "found gone gone")
        self.let_pass(clock, 15 * DAY)
        sink.purge()

        for change in ("found", "gone", "found", "gone"):
            assert self.look(sink, change, 99) not in versions
            for version in versions:
                assert sink.apply("p1", Gone(), if_version=version) is False


class SinkContract(
    _LookRules, _SharingRules, _PurgeRules, NamingRules, StateRules, BulkRules, ReadingRules
):
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
    `stored` and `listed`), old tombstones need `purge(older_than=seconds)`, and `ids()`, `state()`
    and `set_state()`, `insert_many()`, and `get_many()` are tested if the sink has them. Override
    `entity` if the sink does not store JSON objects.
    """
