"""One look: the order of its steps, and what it does to the entry."""

from __future__ import annotations

import pytest

from change_events import Entry, FetchError, Found, Gone, MemorySink, Outcome, Unchanged
from change_events._consumer.look import MAX_CONFLICTS, look, outcome

ONE = Found({"n": 1}, '"one"')
TWO = Found({"n": 2}, '"two"')


class Steps:
    """
    A source and a cache that note the order in which they are called, and let another worker act
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


def test_a_look_reports_when_its_last_get_started():
    steps = Steps(ONE, TWO, meanwhile=lambda sink: sink.apply("p1", TWO, if_version=0))
    ticks = iter([3.0, 5.0])

    looked = look("p1", fetcher=steps, sink=steps, clock=lambda: next(ticks))

    assert looked.get_started == 5.0


def test_the_get_names_the_cached_etag():
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


def test_a_look_that_lost_reads_the_version_again():
    steps = Steps(ONE, TWO, meanwhile=lambda sink: sink.apply("p1", TWO, if_version=0))

    assert steps.look() is Outcome.UNCHANGED
    assert steps.steps[4:] == ["entry", "clock", 'GET "two"', "apply if 1"]
    assert steps.sink.get("p1") == {"n": 2}


def test_an_entity_that_is_gone_is_not_stored_again():
    def deleted(sink):
        # The other worker has never seen the entity, and raises the version anyway.
        sink.apply("p1", Gone(), if_version=0)

    steps = Steps(ONE, Gone(), meanwhile=deleted)

    assert steps.look() is Outcome.UNCHANGED
    assert steps.sink.get("p1") is None


def test_a_get_that_fails_leaves_the_entry_as_it_was():
    steps = Steps(ONE, FetchError("503"))
    steps.look()

    with pytest.raises(FetchError):
        steps.look()

    assert steps.sink.entry("p1") == Entry(1, True, '"one"')


def test_a_look_fails_after_fifty_refusals_of_the_sink():
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return False

    steps = Steps(*[ONE] * (MAX_CONFLICTS + 1))

    with pytest.raises(RuntimeError, match="Broken refused what 50 looks in a row found at 'p1'"):
        look("p1", fetcher=steps, sink=Broken())


def test_unchanged_is_an_error_if_nothing_is_cached():
    steps = Steps(Unchanged())

    with pytest.raises(RuntimeError, match="Steps found 'p1' unchanged, but nothing is cached"):
        steps.look()

    assert steps.sink.entry("p1") == Entry()


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
def test_the_outcome_says_what_a_look_does_to_the_entry(entry, change, expected):
    assert outcome(entry, change) is expected
    assert expected == expected.value
