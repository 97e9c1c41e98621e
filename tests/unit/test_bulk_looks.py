"""Looks at many ids with one GET: each entity is stored, settled and reported by itself."""

from __future__ import annotations

import contextlib
import logging

import pytest
from hands import (
    Hands,
    look_together,
    message,
    reserved,
    with_catalogue,
)

from change_events import FetchError, Found, Gone, MemorySink, Outcome, Unchanged
from change_events._consumer.bulk import ANSWERS
from change_events._consumer.guard import Guard
from change_events._consumer.look import digest
from change_events._consumer.looks import BULK_PAUSE
from change_events._text import printable
from change_events.testing import FakeSource

# Which ids share a GET


def test_ids_that_are_due_share_one_get_and_each_is_stored_by_itself():
    hands = with_catalogue("p1", "p2", "p3", settle=0.0)

    assert look_together(hands) == ["m0", "m1", "m2"]

    assert hands.source.asked_many == [["p1", "p2", "p3"]]
    assert hands.source.fetched == []
    assert hands.outcomes == [(id, Outcome.CREATED) for id in ("p1", "p2", "p3")]
    assert dict(hands.sink.items()) == dict(hands.source)
    assert hands.counts() == {"received": 3, "gets": 1, "created": 3, "held": 0}


def test_a_bulk_get_has_at_most_bulk_size_ids():
    hands = with_catalogue(*"abcdef")

    assert reserved(hands) == ["a", "b", "c", "d"]
    assert reserved(hands) == ["e", "f"]
    assert reserved(hands) == []


def test_a_fetcher_that_is_not_a_bulk_fetcher_gets_one_id_at_a_time():
    hands = with_catalogue(*"abc", fetcher=FakeSource())

    assert [reserved(hands) for _ in "abcd"] == [["a"], ["b"], ["c"], []]


@pytest.mark.parametrize("lacks", ["bulk_size", "fetch_many"])
def test_a_fetcher_with_half_of_a_bulk_fetchers_names_gets_one_id_at_a_time(lacks):
    class Half(FakeSource):
        def __getattr__(self, name):
            if name == lacks:
                raise AttributeError(name)
            return 4

    hands = with_catalogue(*"ab", fetcher=Half())

    assert reserved(hands) == ["a"]


def test_a_bulk_get_counts_as_one_get_for_the_pace():
    hands = with_catalogue("p1", "p2", "p3", settle=0.0, max_gets_per_second=10)

    look_together(hands)
    hands.receive(message("p4", 4))

    assert hands.next_at() == pytest.approx(100.1)


# The order of its steps


ONE = Found({"n": 1}, '"one"')


TWO = Found({"n": 2}, '"two"')


class Many:
    """A cache and a source of many ids that note the order in which they are called."""

    bulk_size = 50

    def __init__(self, answer):
        self.answer = answer
        self.steps = []
        self.sink = MemorySink(clock=lambda: 0.0)
        self.sink.apply("p2", TWO, if_version=0)

    def entry(self, id, /):
        self.steps.append(id)
        return self.sink.entry(id)

    def apply(self, id, change, /, *, if_version):
        return self.sink.apply(id, change, if_version=if_version)

    def fetch(self, id, /, *, etag=None):
        raise AssertionError(id)

    def fetch_many(self, ids, /):
        self.steps.append(tuple(ids))
        return self.answer

    def look(self):
        hands = Hands(fetcher=self, sink=self, settle=0.0)
        freeze = hands.inbox.freeze
        hands.inbox.freeze = lambda id, now: (self.steps.append("freeze"), freeze(id, now))
        hands.looks.slot = self._slot()
        hands.receive(message("p1", 1), message("p2", 2))
        ids = hands.desk.next(hands.now)
        return [event.id for events in hands.looks.look(ids) for event in events]

    @contextlib.contextmanager
    def _slot(self):
        self.steps.append("slot")
        yield
        self.steps.append("free")


def test_a_bulk_get_comes_after_all_versions_were_read_and_all_events_frozen():
    many = Many({"p2": ONE, "p1": ONE})

    assert many.look() == ["p1", "p2"]
    assert many.steps == ["p1", "p2", "slot", "freeze", "freeze", ("p1", "p2"), "free"]
    assert [many.sink.get(id) for id in ("p1", "p2")] == [{"n": 1}, {"n": 1}]


@pytest.mark.parametrize(
    "answer", [{}, {"p3": ONE}, {"p1": Gone(), "p2": Unchanged(), "p3": ONE}, {"p1": None}]
)
def test_a_bulk_get_decides_nothing_about_ids_that_it_does_not_find(answer):
    many = Many(answer)

    assert many.look() == []
    assert many.sink.get("p2") == {"n": 2}


def test_an_entity_of_a_bulk_get_is_not_stored_if_another_worker_changed_its_entry():
    many = Many({"p1": ONE, "p2": ONE})
    fetch_many = many.fetch_many
    many.fetch_many = lambda ids: (many.sink.apply("p1", TWO, if_version=0), fetch_many(ids))[1]

    assert many.look() == ["p2"]
    assert [many.sink.get(id) for id in ("p1", "p2")] == [{"n": 2}, {"n": 1}]


# What it settles


def test_a_bulk_get_settles_the_events_that_were_held_when_it_started():
    hands = with_catalogue("p1", "p2", settle=0.0)

    def meanwhile():
        assert not hands.is_locked()
        hands.now += 1.0
        hands.receive(message("p2", 9))

    hands.source.meanwhile = meanwhile

    assert look_together(hands) == ["m0", "m1"]
    assert list(hands.held()) == ["m9"]
    assert hands.next() == "p2"


def test_a_bulk_get_before_the_window_is_over_settles_nothing():
    hands = with_catalogue("p1", "p2")
    hands.source.meanwhile = lambda: setattr(hands, "now", 200.0)

    assert look_together(hands) == []
    assert look_together(hands) == ["m0", "m1"]


def test_the_events_of_each_entity_are_handed_on_before_the_next_entity_is_stored():
    hands = with_catalogue("p1", "p2", settle=0.0)

    looks = hands.looks.look_together(reserved(hands))

    assert [event.message_id for event in next(looks)] == ["m0"]
    assert list(hands.held()) == ["m1"]
    assert hands.sink.get("p2") is None
    assert [event.message_id for event in next(looks)] == ["m1"]


# What it leaves undecided


def test_an_id_that_a_bulk_get_does_not_find_is_looked_at_alone():
    hands = with_catalogue("p1", "gone", "p2", deleted=["gone"], settle=0.0)
    hands.sink.apply("gone", Found({"id": "gone"}), if_version=0)
    hands.changes.clear()

    assert look_together(hands) == ["m0", "m2"]

    assert hands.changes[0] == 1  # another thread can look at it before the others are stored
    assert hands.sink.get("gone") == {"id": "gone"}
    hands.receive(message("p3", 5))
    assert reserved(hands) == ["gone"]
    assert [event.message_id for event in hands.look_at("gone")] == ["m1"]
    assert hands.outcomes[-1] == ("gone", Outcome.DELETED)
    assert hands.counts() == {"received": 4, "gets": 2, "created": 2, "deleted": 1, "held": 1}


def test_a_bulk_get_that_finds_nothing_has_not_failed(caplog):
    hands = with_catalogue("p1", "p2", deleted=["p1", "p2"])

    assert look_together(hands) == []

    assert caplog.records == []
    assert [reserved(hands) for _ in "12"] == [["p1"], ["p2"]]
    hands.receive(message("p3", 5), message("p4", 6))
    assert reserved(hands) == ["p3", "p4"]


def test_an_id_that_another_worker_changed_during_a_bulk_get_is_looked_at_alone():
    hands = with_catalogue("p1", "p2", settle=0.0)
    hands.source.meanwhile = lambda: hands.sink.apply(
        "p1", Found({"id": "p1", "n": 2}), if_version=0
    )

    assert look_together(hands) == ["m1"]

    assert hands.sink.get("p1") == {"id": "p1", "n": 2}
    assert hands.counts() == {"received": 2, "gets": 1, "conflicts": 1, "created": 1, "held": 1}
    assert reserved(hands) == ["p1"]
    assert len(hands.look_at("p1")) == 1
    assert hands.outcomes[-1] == ("p1", Outcome.UPDATED)


def test_an_id_that_can_not_be_stored_after_a_bulk_get_is_looked_at_alone(caplog):
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            if id == "p1":
                raise OSError("disk")
            return super().apply(id, change, if_version=if_version)

    hands = with_catalogue("p1", "p2", sink=Broken(), settle=0.0)

    assert look_together(hands) == ["m1"]
    assert hands.counts() == {"received": 2, "gets": 1, "created": 1, "held": 1}
    assert "looked at alone: disk" in caplog.text
    assert reserved(hands) == ["p1"]
    assert hands.look_at("p1") == []
    assert hands.counts()["failed"] == 1


def test_ids_are_looked_at_alone_if_the_cache_can_not_be_read_for_all_of_them():
    class Broken(MemorySink):
        broken = True

        def entry(self, id, /):
            if self.broken and id == "p2":
                raise OSError("disk")
            return super().entry(id)

    hands = with_catalogue("p1", "p2", sink=Broken(), settle=0.0)

    assert look_together(hands) == []
    assert hands.source.asked_many == []
    assert hands.counts() == {"received": 2, "held": 2}
    assert reserved(hands) == ["p1"]
    assert len(hands.look_at("p1")) == 1
    assert reserved(hands) == ["p2"]
    assert hands.look_at("p2") == []
    assert hands.counts()["failed"] == 1


# What the guard learns


@pytest.mark.parametrize("settle", [0.0, 5.0], ids=["settling", "early"])
def test_the_guard_counts_what_a_bulk_get_finds(settle):
    guard = Guard(max_share=0.5, min_deleted=1)  # refuses if more than half of the looks see "gone"
    hands = with_catalogue("p1", "gone", "p2", deleted=["gone"], settle=settle, guard=guard)
    for id in ("p1", "gone", "p2"):
        entity = {"id": id}
        hands.sink.apply(id, Found(entity, digest=digest(entity)), if_version=0)
    look_together(hands)

    assert reserved(hands) == ["gone"]
    hands.look_at("gone")

    assert not guard.tripped
    assert hands.outcomes[-1] == ("gone", Outcome.DELETED)


# When it fails


@pytest.mark.parametrize(
    "error", [FetchError("404", status=404), FetchError("503", retry_after=99.0), KeyError("bug")]
)
def test_a_bulk_get_that_fails_is_not_a_failed_look(error, caplog):
    hands = with_catalogue("p1", "p2", "p3", settle=0.0)
    hands.source.error = error

    assert look_together(hands) == []

    assert hands.counts() == {"received": 3, "gets": 1, "held": 3}
    assert hands.queue.hidden == []
    assert not hands.desk.breaker.open
    assert hands.changes[-1] == 1
    for id in ("p1", "p2", "p3"):
        assert reserved(hands) == [id]
        assert len(hands.look_at(id)) == 1
    (record,) = caplog.records
    assert (record.levelno, record.action) == (logging.WARNING, "look_together")
    assert record.getMessage().endswith(f"each is looked at alone: {printable(error)}")


@pytest.mark.parametrize(("asked", "pause"), [(None, 30.0), (7.0, 30.0), (120.0, 120.0)])
def test_after_a_bulk_get_that_failed_there_is_none_for_a_while(asked, pause, caplog):
    hands = with_catalogue("p1", "p2")
    hands.source.error = FetchError("429", status=429, retry_after=asked)
    look_together(hands)
    for id in ("p1", "p2"):
        assert reserved(hands) == [id]
        hands.look_at(id)

    hands.now = 99.9 + pause
    assert [reserved(hands) for _ in "12"] == [["p1"], ["p2"]]
    hands.look_at("p1")
    hands.look_at("p2")
    hands.receive(message("p3", 5), message("p4", 6))
    hands.now = 100.0 + pause
    assert reserved(hands) == ["p3", "p4"]


def test_bulk_gets_that_fail_at_the_same_time_are_one_warning(caplog):
    hands = with_catalogue(*"abcdefgh")
    hands.source.error = FetchError("404")
    first, second = reserved(hands), reserved(hands)

    for ids in (first, second):
        list(hands.looks.look_together(ids))

    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_in_an_outage_there_is_no_bulk_get():
    hands = with_catalogue(*"abcdefg")
    hands.source.fail()
    hands.source.error = FetchError("503")
    assert look_together(hands) == []
    for _ in range(5):
        (id,) = reserved(hands)
        hands.look_at(id)
    assert hands.desk.breaker.open

    hands.now = 500.0  # the pause after a bulk GET that failed is long over, too
    hands.receive(message("new", 20), message("newer", 21))
    assert len(reserved(hands)) == 1


def test_a_bulk_get_that_finds_an_entity_ends_an_outage_that_began_meanwhile():
    hands = with_catalogue(*"abcdefghi", threads=2)
    together = reserved(hands)
    hands.source.fail(status=503)

    def begin_an_outage():
        for id in "efghi":
            hands.look(id)
        assert hands.desk.breaker.open

    hands.source.meanwhile = begin_an_outage
    list(hands.looks.look_together(together))

    assert not hands.desk.breaker.open
    assert "source down" not in str(hands.pauses.why)


@pytest.mark.parametrize("answer", [None, ["p1"], 5])
def test_after_a_bulk_answer_that_is_not_a_mapping_each_id_is_looked_at_alone(answer):
    hands = with_catalogue("p1", "p2", settle=0.0)
    hands.source.fetch_many = lambda ids: answer

    assert look_together(hands) == []

    assert [reserved(hands) for _ in range(2)] == [["p1"], ["p2"]]


def test_a_fetcher_can_ask_for_fewer_ids_at_any_time():
    hands = with_catalogue(*"abcdef")
    assert len(reserved(hands)) == 4

    hands.source.bulk_size = 1

    assert reserved(hands) == ["e"]


def test_bulk_gets_ask_for_more_ids_while_they_are_answered_well_and_for_fewer_after_a_failure():
    hands = with_catalogue(*(f"p{number}" for number in range(200)), settle=0.0)
    hands.source.bulk_size = 30
    ids, numbers = reserved(hands), []
    for _ in range(2 * ANSWERS):
        numbers.append(len(ids))
        assert len(list(hands.looks.look_together(ids))) == len(ids)
        ids = hands.consumer.take(ids)
    assert [*numbers, len(ids)] == [10] * ANSWERS + [20] * ANSWERS + [30]

    hands.source.fetch_many = None  # it can't be called
    hands.now += 1.0  # the ids of the failed GET are due after the others

    assert list(hands.looks.look_together(ids)) == []
    hands.now += BULK_PAUSE
    assert len(reserved(hands)) == 15


def test_a_bulk_get_that_an_error_answers_is_no_good_answer():
    hands = with_catalogue(*(f"p{number}" for number in range(200)), settle=0.0)
    hands.source.bulk_size = 30
    ids = reserved(hands)
    hands.source.error = FetchError("broken", status=500)
    for _ in range(2):  # half as many are no better, so ten were not too many
        assert list(hands.looks.look_together(ids)) == []
        hands.now += BULK_PAUSE
        while len(ids := hands.consumer.take(ids)) == 1:
            hands.source.error = None
            hands.looks.look_at(*ids)
        hands.source.error = FetchError("broken", status=500)
    assert len(ids) == 2

    hands.source.error = None
    for _ in range(2 * ANSWERS):
        list(hands.looks.look_together(ids))
        ids = hands.consumer.take(ids)

    assert len(ids) == 8


def test_an_early_bulk_look_that_finds_nothing_new_writes_nothing():
    hands = with_catalogue("p1", "p2")
    for id in ("p1", "p2"):
        entity = {"id": id} if id == "p1" else {"id": id, "n": 0}
        hands.sink.apply(id, Found(entity, digest=digest(entity)), if_version=0)
    version = hands.sink.entry("p1").version

    look_together(hands)

    assert hands.sink.entry("p1").version == version
    assert hands.outcomes == [("p2", Outcome.UPDATED)]
    assert hands.counts()["too_early"] == 1
    assert hands.next_at() == pytest.approx(100.03)


def test_a_bulk_look_that_succeeds_shows_whose_fault_an_earlier_failure_was():
    hands = with_catalogue("p1", "p2", "good", settle=0.0)
    hands.sink.apply("known", Found({"id": "known"}), if_version=0)
    hands.receive(message("broken", 9))
    hands.source.fail("broken", status=500)
    together = reserved(hands)
    broken = together.pop(together.index("broken"))
    hands.look_at(broken)
    assert hands.queue.hidden == []

    list(hands.looks.look_together(together))
    hands.receive(*(message(id, number) for number, id in enumerate(together, 20)))
    look_together(hands)

    assert hands.queue.hidden == [[("h9", 2.0)]]
