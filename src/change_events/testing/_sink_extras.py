"""The contract of what sinks need not have: ids that can be named, and state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from change_events.testing._contention import opened
from change_events.testing._sink_under_test import AWKWARD_IDS, DAY, Clock, SinkUnderTest, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Sink

NO_IDS = "the sink can't name what it holds"
NO_STATE = "the sink keeps no state"


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
