"""One look: the order of its steps, and what it does to the entry."""

from __future__ import annotations

import pytest

from change_events import Entry, FetchError, Found, Gone, MemorySink, Outcome, Unchanged
from change_events._consumer.look import MAX_CONFLICTS, digest, look, outcome

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

    def look(self, *, early=False):
        return look("p1", fetcher=self, sink=self, clock=self.clock, early=early).outcome

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


@pytest.mark.parametrize(("early", "trusted"), [(True, False), (False, True)])
def test_an_early_look_names_the_cached_etag_and_any_look_if_etags_are_trusted(early, trusted):
    steps = Steps(ONE, Unchanged(), Gone(), Gone())
    steps.trust_etags = trusted

    assert [steps.look(early=early) for _ in range(4)] == [
        Outcome.CREATED,
        None if early else Outcome.UNCHANGED,
        Outcome.DELETED,
        None if early else Outcome.UNCHANGED,
    ]
    assert [step for step in steps.steps if "GET" in step] == [
        "GET None",
        'GET "one"',
        'GET "one"',
        "GET None",
    ]
    assert steps.sink.entry("p1").version == (2 if early else 4)


def test_a_look_that_settles_asks_for_the_whole_entity():
    steps = Steps(ONE, TWO)

    assert [steps.look(), steps.look()] == [Outcome.CREATED, Outcome.UPDATED]
    assert [step for step in steps.steps if "GET" in step] == ["GET None", "GET None"]


def test_an_entity_equal_to_the_cached_one_only_raises_the_version_and_renews_the_etag():
    class Twice(MemorySink):
        def apply(self, id, change, /, *, if_version):
            changes.append(change)
            return super().apply(id, change, if_version=if_version)

    changes = []
    steps = Steps(Found({"n": 1, "m": 2}, '"a"'), Found({"m": 2, "n": 1}, '"b"'))
    steps.sink = Twice()

    assert [steps.look(), steps.look()] == [Outcome.CREATED, Outcome.UNCHANGED]
    assert changes[1] == Unchanged('"b"')
    assert steps.sink.entry("p1").etag == '"b"'


def test_a_digest_that_the_fetcher_gives_decides():
    steps = Steps(Found({"n": 1}, digest="same"), Found({"n": 2}, digest="same"))

    assert [steps.look(), steps.look()] == [Outcome.CREATED, Outcome.UNCHANGED]


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 2, "1": 3}])
def test_a_value_that_json_cannot_hold_is_always_new(value):
    steps = Steps(Found(value), Found(value))

    assert [steps.look(), steps.look()] == [Outcome.CREATED, Outcome.UPDATED]


def test_an_early_look_that_finds_nothing_new_writes_nothing():
    steps = Steps(Gone())

    looked = look("p1", fetcher=steps, sink=steps, clock=steps.clock, early=True)

    assert (looked.outcome, looked.found, looked.cached) == (None, False, False)
    assert looked.get_started is not None
    assert steps.steps == ["entry", "clock", "GET None"]


def test_a_look_settles_unless_it_is_said_to_be_early():
    steps = Steps(Gone())

    assert look("p1", fetcher=steps, sink=steps).outcome is Outcome.NEVER_SAVED


def test_a_look_says_what_the_source_has_and_what_the_cache_had():
    steps = Steps(ONE, TWO, Gone(), Gone())
    looks = [look("p1", fetcher=steps, sink=steps) for _ in range(4)]

    assert [looked.found for looked in looks] == [True, True, False, False]
    assert [looked.cached for looked in looks] == [False, True, True, False]


def test_what_before_gone_raises_ends_the_look():
    steps = Steps(ONE, Gone())
    steps.look()

    def refuse(id, entry):
        raise ZeroDivisionError(id, entry.version)

    with pytest.raises(ZeroDivisionError, match=r"\('p1', 1\)"):
        look("p1", fetcher=steps, sink=steps, before_gone=refuse)

    assert steps.sink.get("p1") == ONE.value


def test_a_look_that_lost_reads_the_version_again():
    steps = Steps(ONE, TWO, meanwhile=lambda sink: sink.apply("p1", TWO, if_version=0))

    assert steps.look() is Outcome.UPDATED
    assert steps.steps[4:] == ["entry", "clock", "GET None", "apply if 1"]
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

    entry = steps.sink.entry("p1")
    assert (entry.version, entry.present, entry.etag) == (1, True, '"one"')


def test_a_look_fails_after_fifty_refusals_of_the_sink():
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return False

    steps = Steps(*[ONE] * (MAX_CONFLICTS + 1))

    with pytest.raises(RuntimeError, match="Broken refused what 50 looks in a row found at 'p1'"):
        look("p1", fetcher=steps, sink=Broken())


@pytest.mark.parametrize("nonsense", [Unchanged(), None, {"id": "p1"}, 404])
def test_what_no_fetcher_can_answer_is_an_error_that_names_it(nonsense):
    steps = Steps(nonsense)

    with pytest.raises(TypeError, match=r"Steps\.fetch\('p1', etag=None\) must return Found"):
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
        (Entry(1, True, '"one"'), Unchanged(), Outcome.UNCHANGED),
        (Entry(1, True), Gone(), Outcome.DELETED),
        (Entry(), Gone(), Outcome.NEVER_SAVED),
        (Entry(1, False), Gone(), Outcome.UNCHANGED),
    ],
)
def test_the_outcome_says_what_a_look_does_to_the_entry(entry, change, expected):
    assert outcome(entry, change) is expected
    assert expected == expected.value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"1": "a"}, {1: "a"}),
        ({"a": [1, 2]}, {"a": (1, 2)}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": None}, {"a": "null"}),
        ({"a": {}}, {"a": []}),
    ],
)
def test_values_that_differ_have_no_digest_in_common(one, other):
    assert len(digest(one)) == 32
    assert digest(one) != digest(other)


def test_the_order_of_keys_does_not_change_a_digest():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


class Nothing(MemorySink):
    """A sink whose author has forgotten a `return`."""

    def __init__(self, forgotten):
        super().__init__()
        setattr(self, forgotten, lambda *_, **__: None)


@pytest.mark.parametrize(
    ("forgotten", "says"),
    [("entry", "must return an Entry"), ("apply", "must return True, or False if the version")],
)
def test_a_sink_that_returns_nothing_is_named_in_the_error(forgotten, says):
    source = Steps(Found({"id": "p1"}))

    with pytest.raises(TypeError, match=rf"Nothing\.{forgotten}\('p1'.*{says}.*None"):
        look("p1", fetcher=source, sink=Nothing(forgotten))


# By force


def test_a_forced_look_stores_an_entity_although_its_digest_is_the_cached_one():
    steps = Steps(ONE, ONE, ONE)
    steps.trust_etags = True

    def forced(**force):
        return look("p1", fetcher=steps, sink=steps, **force).outcome

    assert [forced(), forced(), forced(force=True)] == ["created", "unchanged", "updated"]
    assert [step for step in steps.steps if "GET" in step] == [
        "GET None",
        'GET "one"',
        "GET None",
    ]
