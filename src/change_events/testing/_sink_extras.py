"""The contract of what sinks need not have: names of ids, state, many inserts or reads at once."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from change_events._event import Entry, Found
from change_events.exceptions import ConfigurationError
from change_events.testing._contention import aborting, opened, threads_that_switch_often
from change_events.testing._sink_under_test import AWKWARD_IDS, DAY, Clock, SinkUnderTest, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Sink

NO_IDS = "the sink can't name what it holds"
NO_STATE = "the sink keeps no state"
NO_BULK = "the sink stores one entity at a time"
NO_MANY = "the sink reads one entity at a time"

TOUCHED = {
    "found": "found",
    "deleted": "found gone",
    "never saved": "gone",
    "unchanged": "found unchanged",
    "found again": "found gone found",
}
"""Ids, and the looks that they have had."""


class NamingRules(SinkUnderTest):
    """What `ids()` names: an `EnumerableSink`."""

    def test_ids_names_only_what_is_present(self, sink: Any) -> None:
        require(sink, "ids", NO_IDS)
        assert sink.ids() == []
        self.keep_two_of_four(sink)

        assert set(sink.ids()) == {"p1", "p2"}

    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_pages_of_ids_name_each_id_once(self, sink: Any, limit: int) -> None:
        require(sink, "ids", NO_IDS)
        for n, id in enumerate(AWKWARD_IDS):
            self.look(sink, "gone" if n % 3 else "found", n, id=id)
        cached = AWKWARD_IDS[::3]

        named: list[str] = []
        page = sink.ids(limit=limit)
        while page:
            assert len(page) <= limit
            named += page
            assert len(named) <= len(cached), "more ids were named than are cached"
            page = sink.ids(after=named[-1], limit=limit)

        assert sorted(named) == sorted(cached)

    def test_pages_of_one_id_keep_ids_apart(self, sink: Any) -> None:
        require(sink, "ids", NO_IDS)
        for n, id in enumerate(AWKWARD_IDS):
            self.look(sink, "found", n, id=id)

        named: list[str] = []
        while page := sink.ids(after=named[-1] if named else None, limit=1):
            named += page
            assert len(named) <= len(AWKWARD_IDS), "more ids were named than are cached"

        assert sorted(named) == sorted(AWKWARD_IDS)

    def test_pages_go_on_after_an_id_that_is_gone_meanwhile(self, sink: Any) -> None:
        require(sink, "ids", NO_IDS)
        self.keep_two_of_four(sink)
        (first,) = sink.ids(limit=1)
        self.look(sink, "gone", 9, id=first)

        assert {first, *sink.ids(after=first)} == {"p1", "p2"}


class StateRules(SinkUnderTest):
    """What `state()` keeps: a `StatefulSink`."""

    def test_state_is_what_was_last_set_under_the_name(self, sink: Any) -> None:
        require(sink, "set_state", NO_STATE)
        texts = ["", "{}", "Sm\u00f8rrebr\u00f8d \U0001f40d", "x" * 10_000]
        for n, text in enumerate(texts):
            assert sink.state(f"name {n}") is None
            assert sink.set_state(f"name {n}", "before", if_state=None)
            assert sink.set_state(f"name {n}", text, if_state="before")

        assert [sink.state(f"name {n}") for n in range(len(texts))] == texts

    def test_state_is_not_set_over_what_another_process_has_set(self, sink: Any) -> None:
        require(sink, "set_state", NO_STATE)
        assert not sink.set_state("name", "one", if_state="none")
        assert sink.state("name") is None
        assert sink.set_state("name", "one", if_state=None)
        for read in (None, "", "On", "one "):
            assert not sink.set_state("name", "two", if_state=read)
        assert sink.state("name") == "one"

    def test_threads_that_set_state_at_once_lose_none(self, sink: Any) -> None:
        require(sink, "set_state", NO_STATE)

        def add(_: int) -> None:
            for _ in range(5):
                for _ in range(1000):
                    read = sink.state("count")
                    if sink.set_state("count", str(int(read or 0) + 1), if_state=read):
                        break

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(4)))

        assert sink.state("count") == "20"

    def test_state_is_one_however_often_the_storage_is_opened(
        self, sink: Any, open_again: Callable[[], Sink[Any]]
    ) -> None:
        require(sink, "set_state", NO_STATE)
        other: Any
        with opened(open_again) as other:
            assert sink.set_state("name", "one", if_state=None)
            assert other.state("name") == "one"
            assert other.set_state("name", "two", if_state="one")
            assert not sink.set_state("name", "three", if_state="one")
        assert sink.state("name") == "two"

    def test_state_is_not_an_entity(self, sink: Any) -> None:
        require(sink, "set_state", NO_STATE)
        sink.set_state("name", "text", if_state=None)
        sink.set_state("p1", "text", if_state=None)

        assert sink.entry("name").version == sink.entry("p1").version == 0
        self.keep_two_of_four(sink)
        assert sink.state("p1") == "text"
        both = {"p1", "p2"}
        assert set(self.listed(sink)) == both
        assert set(getattr(sink, "ids", lambda: both)()) == both
        assert getattr(sink, "__len__", lambda: 2)() == 2

    def test_state_is_kept_by_a_purge(self, sink: Any, clock: Clock) -> None:
        require(sink, "set_state", NO_STATE)
        require(sink, "purge", "the sink keeps its tombstones for ever")
        sink.set_state("name", "text", if_state=None)
        self.look(sink, "gone", 1)
        self.let_pass(clock, 15 * DAY)
        sink.purge()

        assert sink.entry("p1").version == 0
        assert sink.state("name") == "text"


class BulkRules(SinkUnderTest):
    """What `insert_many()` stores: a `BulkSink`."""

    def test_insert_many_stores_each_id_that_was_never_touched(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        page = self.page(*AWKWARD_IDS)
        page["without ETag"] = Found(self.entity(99))

        assert sink.insert_many(page) == set(page)

        for id, found in page.items():
            entry = sink.entry(id)
            assert entry == Entry(entry.version, True, found.etag, found.digest)  # noqa: FBT003  # as short as the entry
            assert entry.version > 0
        assert self.listed(sink) == {id: found.value for id, found in page.items()}

    def test_insert_many_leaves_each_id_that_was_touched(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        for id, history in TOUCHED.items():
            for n, change in enumerate(history.split()):
                self.look(sink, change, n, id=id)
        page = self.page("new", *TOUCHED, "new too")
        before = {id: sink.entry(id) for id in TOUCHED}
        cached = self.listed(sink)

        assert sink.insert_many(page) == {"new", "new too"}
        assert sink.insert_many(page) == set()

        assert {id: sink.entry(id) for id in TOUCHED} == before
        new = {id: page[id].value for id in ("new", "new too")}
        assert self.listed(sink) == cached | new

    def test_insert_many_of_nothing_stores_nothing(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        assert sink.insert_many({}) == set()

    def test_insert_many_stores_hundreds_of_entities_at_once(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        self.look(sink, "found", 0, id="p50")
        page = self.page(*(f"p{n}" for n in range(300)))

        assert sink.insert_many(page) == page.keys() - {"p50"}
        assert len(self.listed(sink)) == 300

    def test_a_look_can_follow_insert_many(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        sink.insert_many(self.page("p1"))
        before = sink.entry("p1")

        assert sink.apply("p1", self.change("found", 7), if_version=0) is False
        assert self.look(sink, "unchanged", 8) > before.version
        assert sink.entry("p1").digest == before.digest
        assert self.look(sink, "gone", 9) > before.version
        assert sink.insert_many(self.page("p1")) == set()

    def test_no_version_comes_again_if_a_purge_is_followed_by_insert_many(
        self, sink: Any, clock: Clock
    ) -> None:
        require(sink, "insert_many", NO_BULK)
        require(sink, "purge", "the sink keeps its tombstones for ever")
        sink.insert_many(self.page("p1"))
        versions = [sink.entry("p1").version, self.look(sink, "gone", 1)]
        self.let_pass(clock, 15 * DAY)
        sink.purge()

        assert sink.insert_many(self.page("p1")) == {"p1"}
        assert sink.entry("p1").version > max(versions)

    def test_insert_many_that_raised_can_be_repeated(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        page = self.page("p1", "p2")
        with contextlib.suppress(Exception):  # some sinks store anything
            sink.insert_many({**page, "p3": Found(object())})

        stored = sink.insert_many(page)

        assert stored <= set(page)
        assert {id: self.stored(sink, id) for id in page} == {
            id: found.value for id, found in page.items()
        }

    def test_of_insert_many_and_looks_at_once_one_wins(self, sink: Any) -> None:
        require(sink, "insert_many", NO_BULK)
        self._contend([sink, sink, sink])

    def test_of_insert_many_and_looks_at_once_one_wins_however_often_the_storage_is_opened(
        self, sink: Any, open_again: Callable[[], Sink[Any]]
    ) -> None:
        require(sink, "insert_many", NO_BULK)
        with opened(open_again) as other, opened(open_again) as third:
            self._contend([sink, other, third])

    def page(self, *ids: str) -> dict[str, Found[Any]]:
        """Return a different entity for each id."""
        return {
            id: Found(self.entity(n), f'"{n}"', f"digest {n}")
            for n, id in enumerate(ids, start=100)
        }

    def _contend(self, sinks: list[Any]) -> None:
        """Store the same ids by looks and by pages in opposite orders: each id has one winner."""
        barrier = threading.Barrier(3)

        def contend(number: int) -> list[tuple[str, str | None]]:
            won: list[tuple[str, str | None]] = []
            with aborting(barrier):
                for turn in range(10):
                    ids = [f"{turn}-{n}" for n in range(10)]
                    found = {id: Found(self.entity(number), f'"{number}"') for id in ids}
                    barrier.wait()
                    won += [(id, found[id].etag) for id in _store(sinks[number], found, number)]
            return won

        with threads_that_switch_often(), ThreadPoolExecutor(3) as pool:
            wins = [win for wins in pool.map(contend, range(3)) for win in wins]

        winners = dict(wins)
        assert len(wins) == len(winners) == 100, "an id was stored twice, or never"
        assert {id: sinks[0].entry(id).etag for id in winners} == winners


class ReadingRules(SinkUnderTest):
    """What `get_many()` returns: a `ReadableSink`."""

    @pytest.fixture
    def readable(self, sink: Any) -> Any:
        """The sink, if it can read what it stores."""
        require(sink, "get_many", NO_MANY)
        try:
            sink.get_many(["p1"])
        except ConfigurationError as error:
            pytest.skip(f"the sink can't read what it has stored: {error}")
        return sink

    def test_get_many_returns_only_what_is_present(self, readable: Any) -> None:
        self.keep_two_of_four(readable)
        both = {id: self.stored(readable, id) for id in ("p1", "p2")}

        assert dict(readable.get_many(["p4", "p2", "never seen", "p1", "p3"])) == both
        assert dict(readable.get_many(["p3", "p4"])) == {}

    def test_get_many_of_nothing_returns_nothing(self, readable: Any) -> None:
        self.look(readable, "found", 1)

        assert dict(readable.get_many([])) == {}

    def test_get_many_keeps_ids_apart(self, readable: Any) -> None:
        for n, id in enumerate(AWKWARD_IDS):
            self.look(readable, "found", n, id=id)

        assert dict(readable.get_many(AWKWARD_IDS)) == {
            id: self.entity(n) for n, id in enumerate(AWKWARD_IDS)
        }

    def test_get_many_returns_hundreds_at_once(self, readable: Any) -> None:
        kept = range(0, 1500, 40)  # some in each hundred
        for n in kept:
            self.look(readable, "found", n, id=f"p{n}")

        found = readable.get_many([f"p{n}" for n in range(1500)])

        assert dict(found) == {f"p{n}": self.entity(n) for n in kept}

    def test_get_many_returns_what_the_last_look_stored(self, readable: Any) -> None:
        for n, change in enumerate(("found", "found", "unchanged", "gone", "found")):
            self.look(readable, change, n)
            stored = self.stored(readable, "p1")
            assert readable.get_many(["p1"]).get("p1") == stored


def _store(sink: Any, found: dict[str, Found[Any]], number: int) -> set[str]:
    """Store a page by looks, by `insert_many`, or by that in the opposite order."""
    if number == 0:
        return {id for id, each in found.items() if sink.apply(id, each, if_version=0)}
    page = found if number == 1 else dict(reversed(found.items()))
    stored: set[str] = sink.insert_many(page)
    return stored
