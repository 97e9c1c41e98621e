from __future__ import annotations

import pytest
from hands import Hands, message

from change_events import Entry, FetchError, Found, Gone, MemorySink, Outcome, Unchanged
from change_events._consumer.look import MAX_CONFLICTS, look, outcome

ONE = Found({"n": 1}, '"one"')
TWO = Found({"n": 2}, '"two"')


class Steps:
    """
    A source and a cache that note the order of what is asked of them, and let another worker step
    in between.
    """

    def __init__(self, *answers, meanwhile=None):
        self.sink = MemorySink(clock=lambda: 0.0)  # versions from 1, which are easy to read
        self.steps = []
        self._answers = iter(answers)
        self._meanwhile = meanwhile

    def entry(self, id, /):
        self.steps.append("entry")
        return self.sink.entry(id)

    def fetch(self, id, /, *, etag=None):
        assert id == "p1"
        self.steps.append(f"GET {etag}")
        answer = next(self._answers)
        if self._meanwhile:
            self._meanwhile, step = None, self._meanwhile
            step(self.sink)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def apply(self, id, change, /, *, if_version):
        self.steps.append(f"apply if {if_version}")
        return self.sink.apply(id, change, if_version=if_version)

    def look(self):
        return look("p1", fetcher=self, sink=self, clock=self.clock).outcome

    def clock(self):
        self.steps.append("clock")
        return 0.0


def test_the_version_is_read_before_the_get():
    steps = Steps(ONE)

    assert steps.look() is Outcome.CREATED
    assert steps.steps == ["entry", "clock", "GET None", "apply if 0"]


def test_a_look_says_when_its_last_get_started():
    steps = Steps(ONE, TWO, meanwhile=lambda sink: sink.apply("p1", TWO, if_version=0))
    ticks = iter([3.0, 5.0])

    looked = look("p1", fetcher=steps, sink=steps, clock=lambda: next(ticks))

    assert looked.get_started == 5.0


def test_the_get_asks_for_changes_to_what_the_cache_holds():
    steps = Steps(ONE, Unchanged(), Gone(), Gone())

    assert [steps.look() for _ in range(4)] == [
        Outcome.CREATED,
        Outcome.UNCHANGED,
        Outcome.DELETED,
        Outcome.UNCHANGED,
    ]
    assert [step for step in steps.steps if "GET" in step] == [
        "GET None",
        'GET "one"',
        'GET "one"',
        "GET None",
    ]
    assert steps.sink.entry("p1").version == 4


def test_a_look_that_lost_begins_again_at_the_version():
    steps = Steps(ONE, TWO, meanwhile=lambda sink: sink.apply("p1", TWO, if_version=0))

    assert steps.look() is Outcome.UNCHANGED
    assert steps.steps[4:] == ["entry", "clock", 'GET "two"', "apply if 1"]
    assert steps.sink.get("p1") == {"n": 2}


def test_a_ghost_does_not_come_back():
    def deleted(sink):
        sink.apply(
            "p1", Gone(), if_version=0
        )  # "never seen" to the other worker, and a new version all the same

    steps = Steps(ONE, Gone(), meanwhile=deleted)

    assert steps.look() is Outcome.UNCHANGED
    assert steps.sink.get("p1") is None


def test_a_get_that_decides_nothing_changes_nothing():
    steps = Steps(ONE, FetchError("503"))
    steps.look()

    with pytest.raises(FetchError):
        steps.look()

    assert steps.sink.entry("p1") == Entry(1, True, '"one"')


def test_a_sink_that_refuses_for_ever_does_not_spin_for_ever():
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return False

    steps = Steps(*[ONE] * (MAX_CONFLICTS + 1))

    with pytest.raises(RuntimeError, match="Broken refused what 50 looks in a row found at 'p1'"):
        look("p1", fetcher=steps, sink=Broken())


def test_a_fetcher_that_finds_nothing_unchanged_is_not_believed():
    steps = Steps(Unchanged())

    with pytest.raises(RuntimeError, match="Steps found 'p1' unchanged, but nothing is cached"):
        steps.look()

    assert steps.sink.entry("p1") == Entry()


class Many:
    """A cache and a source of many that note the order of what is asked of them."""

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
        hands.receive(message("p1", 1), message("p2", 2))
        ids = hands.desk.next(hands.now)
        return [event.id for events in hands.looks.look(ids) for event in events]


def test_a_bulk_get_comes_after_all_versions_were_read_and_all_events_frozen():
    many = Many({"p2": ONE, "p1": ONE})

    assert many.look() == ["p1", "p2"]
    assert many.steps == ["p1", "p2", "freeze", "freeze", ("p1", "p2")]
    assert [many.sink.get(id) for id in ("p1", "p2")] == [{"n": 1}, {"n": 1}]


@pytest.mark.parametrize(
    "answer", [{}, {"p3": ONE}, {"p1": Gone(), "p2": Unchanged(), "p3": ONE}, {"p1": None}]
)
def test_a_bulk_get_decides_nothing_about_what_it_does_not_find(answer):
    many = Many(answer)

    assert many.look() == []
    assert many.sink.get("p2") == {"n": 2}


def test_what_a_bulk_get_found_is_not_stored_if_another_worker_was_there():
    many = Many({"p1": ONE, "p2": ONE})
    fetch_many = many.fetch_many
    many.fetch_many = lambda ids: (many.sink.apply("p1", TWO, if_version=0), fetch_many(ids))[1]

    assert many.look() == ["p2"]
    assert [many.sink.get(id) for id in ("p1", "p2")] == [{"n": 2}, {"n": 1}]


@pytest.mark.parametrize(
    ("entry", "change", "expected"),
    [
        (Entry(), ONE, Outcome.CREATED),
        (Entry(3, False), ONE, Outcome.CREATED),
        (Entry(1, True, '"one"'), TWO, Outcome.UPDATED),
        (Entry(1, True, None), Found({}), Outcome.UPDATED),
        (Entry(1, True, '"one"'), Found({}), Outcome.UPDATED),
        (Entry(1, True, '"one"'), ONE, Outcome.UNCHANGED),
        (Entry(1, True, '"one"'), Unchanged(), Outcome.UNCHANGED),
        (Entry(1, True), Gone(), Outcome.DELETED),
        (Entry(), Gone(), Outcome.NEVER_SAVED),
        (Entry(1, False), Gone(), Outcome.UNCHANGED),
    ],
)
def test_the_outcome_says_what_the_look_did(entry, change, expected):
    assert outcome(entry, change) is expected
    assert expected == expected.value
