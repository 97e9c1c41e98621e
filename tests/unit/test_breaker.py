"""What counts as an outage, and when the source is asked again."""

from __future__ import annotations

import math

import pytest
from hands import doubling
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from change_events._consumer.breaker import HUNG, Breaker, Pace


@pytest.fixture
def breaker():
    return Breaker(doubling)


def fail(breaker, *ids, now=0.0, retry_after=0.0, own=True):
    """Let looks fail, one after the other, without good ids; return which show an outage."""
    return [
        (breaker.open or breaker.count(id, own=own)) and breaker.failed(id, now, retry_after)
        for id in ids
    ]


def test_a_new_breaker_tells_no_outage(breaker):
    assert not breaker.open
    assert breaker.look_at == -math.inf
    assert breaker.failures == 0


@pytest.mark.parametrize(
    ("ids", "down"),
    [
        ("abcde", True),
        ("aabbc", True),
        ("aaabc", True),
        ("abc", False),
        ("abca", False),
        ("aabbaabbaabb", False),
        ("a" * 99, False),
    ],
)
def test_five_failures_in_a_row_at_three_ids_are_an_outage(breaker, ids, down):
    told = fail(breaker, *ids)

    assert breaker.open == down
    assert told == [False] * (len(ids) - 1) + [down]
    assert breaker.look_at == (1.0 if down else -math.inf)
    assert breaker.failures == int(down)


def test_the_order_of_good_ids_and_ids_in_hand_changes_after_an_outage_that_a_good_id_has_ended(
    breaker,
):
    def first():
        fail(breaker, *"abcde")
        return breaker.wants_good

    assert first()
    breaker.succeeded(good=True)
    assert not first()
    breaker.succeeded()
    assert not first()
    breaker.begin("a", 0.0)
    fail(breaker, "a")
    assert breaker.wants_good
    breaker.succeeded(good=True)
    breaker.succeeded(good=True)  # there was no outage
    assert first()


def test_one_id_that_fails_twice_for_a_reason_not_its_own_is_an_outage(breaker):
    assert fail(breaker, "a", "b", own=False) == [False, False]
    assert fail(breaker, "a") == [False]
    assert fail(breaker, "a", own=False) == [True]


def test_one_id_that_fails_twice_with_a_success_in_between_is_not_an_outage(breaker):
    assert fail(breaker, "a", own=False) == [False]
    breaker.succeeded()
    assert fail(breaker, "a", own=False) == [False]


def test_a_success_starts_the_count_of_failures_again(breaker):
    fail(breaker, *"abcd")
    breaker.succeeded()
    fail(breaker, *"abcd")
    assert not breaker.open

    fail(breaker, "e")
    assert breaker.open


@given(st.lists(st.sampled_from(["a", "b", None])))
def test_two_broken_ids_never_look_like_an_outage(looks):
    breaker = Breaker(doubling)
    for id in looks:
        if id is None:
            breaker.succeeded()
        else:
            assert fail(breaker, id, retry_after=60.0) == [False]
        assert not breaker.open
        assert breaker.look_at == -math.inf


def test_the_pauses_grow_with_the_looks_that_fail(breaker):
    fail(breaker, *"abcde", now=100.0)
    pauses = []
    for now in (200.0, 300.0, 400.0):
        breaker.begin("f", now)
        assert breaker.look_at == now + HUNG
        assert fail(breaker, "f", now=now) == [True]
        pauses.append(breaker.look_at - now)

    assert pauses == [2.0, 4.0, 8.0]
    assert breaker.failures == 4


def test_a_look_that_began_before_the_outage_does_not_count(breaker):
    fail(breaker, *"abcde", now=100.0)
    assert fail(breaker, "f", now=100.5) == [False]
    assert breaker.look_at == 101.0

    breaker.begin("a", 101.0)
    assert fail(breaker, "g", now=101.0) == [False]
    assert breaker.look_at == 101.0 + HUNG
    assert breaker.failures == 1


def test_a_look_that_hangs_does_not_keep_the_next_one_from_beginning(breaker):
    fail(breaker, *"abcde", now=100.0)
    breaker.begin("a", 101.0)
    assert breaker.look_at == 101.0 + HUNG

    breaker.begin("b", 101.0 + HUNG)
    assert fail(breaker, "a", now=170.0) == [False]
    assert fail(breaker, "b", now=171.0) == [True]
    assert breaker.look_at == 173.0


def test_any_look_that_succeeds_ends_the_outage(breaker):
    fail(breaker, *"abcde", now=100.0, retry_after=60.0)
    breaker.begin("a", 101.0)
    breaker.succeeded()

    assert not breaker.open
    assert breaker.look_at == -math.inf
    assert breaker.failures == 0
    # The outage is over, so its look counts like any other.
    assert fail(breaker, "a", now=101.0) == [False]
    fail(breaker, *"bcde", now=102.0)
    assert breaker.look_at == 103.0


def test_the_source_is_left_alone_for_as_long_as_it_asked_for(breaker):
    fail(breaker, *"abcde", now=100.0, retry_after=50.0)
    assert breaker.look_at == 150.0

    fail(breaker, "f", now=100.0, retry_after=70.0)
    assert breaker.look_at == 170.0

    breaker.begin("a", 170.0)
    fail(breaker, "a", now=171.0)
    assert breaker.look_at == 173.0


class Machine(RuleBasedStateMachine):
    """Looks of several threads, which begin when the breaker lets them and end in any order."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(lambda failures, most: float(failures))
        self.looking = set()
        self.probe, self.began = None, -math.inf  # the look that tests if an outage is over
        self.failed_since = []  # the last success
        self.convicted = False  # since then: an id failed again, for a reason not its own

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(id=st.sampled_from("abcdefg"))
    def begin(self, id):
        if id not in self.looking and self.now >= self.breaker.look_at:
            assert not (self.breaker.open and self.now < self.began + HUNG), (
                "two looks at once in an outage"
            )
            if self.breaker.open:
                self.probe, self.began = id, self.now
            self.looking.add(id)
            self.breaker.begin(id, self.now)

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), retry_after=st.sampled_from([0.0, 0.0, 5.0]), own=st.booleans())
    def fail(self, data, retry_after, own):
        id = data.draw(st.sampled_from(sorted(self.looking)))
        self.looking.remove(id)
        was_open = self.breaker.open
        self.convicted |= not own and id in self.failed_since
        self.failed_since.append(id)
        (told,) = fail(self.breaker, id, now=self.now, retry_after=retry_after, own=own)
        assert told == (self.breaker.open and (not was_open or id == self.probe))
        if told:
            self.probe, self.began = None, -math.inf
            assert self.breaker.look_at >= self.now + max(retry_after, self.breaker.failures - 1)

    @precondition(lambda self: self.looking)
    @rule(data=st.data())
    def succeed(self, data):
        self.looking.remove(data.draw(st.sampled_from(sorted(self.looking))))
        self.failed_since.clear()
        self.convicted = False
        self.breaker.succeeded()
        self.probe, self.began = None, -math.inf

    @invariant()
    def there_is_an_outage_exactly_when_enough_looks_have_failed(self):
        assert self.breaker.open == (
            self.convicted or (len(self.failed_since) >= 5 and len(set(self.failed_since)) >= 3)
        )

    @invariant()
    def an_outage_has_a_next_look(self):
        if self.breaker.open:
            assert -math.inf < self.breaker.look_at < math.inf
            assert self.breaker.probing == (self.probe is not None)


TestMachine = Machine.TestCase


def test_without_a_limit_a_get_can_begin_at_any_time():
    pace = Pace(None)
    for now in (1.0, 1.0, 2.0):
        assert pace.look_at <= now
        pace.begin(now)


def test_a_pace_spreads_gets_evenly():
    pace = Pace(4)
    begun = []
    for now in (10.0, 10.0, 10.1, 20.0, 20.0):
        begun.append(max(now, pace.look_at))
        pace.begin(begun[-1])

    assert begun == [10.0, 10.25, 10.5, 20.0, 20.25]


def test_a_get_that_begins_before_its_time_counts_for_the_pace():
    pace = Pace(4)
    pace.begin(10.0)
    pace.begin(10.0)  # the GET after a conflict does not wait

    assert pace.look_at == 10.5
