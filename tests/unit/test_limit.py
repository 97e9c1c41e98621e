"""How many looks can run at once: rule by rule."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from limits import answer, grown, live, look_in_groups, work_off

from change_events._consumer.limit import (
    BUSIER,
    CALM,
    KNOWN,
    LEAST,
    LONGEST,
    NAPS,
    OVERDUE,
    WAKES,
    Answer,
    Limit,
)


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_groups_of_live_changes_shrink_no_limit_although_their_gets_delay_each_other(servers):
    limit = Limit(64)
    look_in_groups(limit, servers)

    assert limit.limit == 0.5


def look_in_bursts(limit, number, *, late, size=12, seconds=0.05):
    """Let bursts of live changes come, each with a quiet time after it; ten GETs run at once."""
    now = 0.0
    for _ in range(number):
        for each in range(size):
            if each >= 10:
                limit.over(f"p{each - 10}")
                limit.answered(Answer(now - seconds, seconds + late), now)
            limit.begin(f"p{each}", now)
            limit.waits = 10 <= each + 1 < size
        now += seconds
        for each in range(size - 10, size):
            limit.over(f"p{each}")
            limit.answered(Answer(now - seconds, seconds + late), now)
        now = answer(limit, *[seconds] * 70, now=now, wanted=False)
    return now


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_bursts_of_live_changes_say_nothing_of_more_than_they_have_used(late):
    limit = Limit(64)

    look_in_bursts(limit, 10, late=late)

    assert limit.limit == 0.5


def saturate(limit, seconds, *, number=200, now=0.0):
    """Let ten live looks run all the time, and others wait for them."""
    for each in range(10):
        limit.begin(str(each), now)
    limit.waits = True
    for each in range(10, number):
        now += seconds / 10
        limit.over(str(each - 10))
        limit.answered(Answer(now - seconds, seconds), now)
        limit.begin(str(each), now)
    return now


def test_ten_live_gets_at_once_that_are_not_enough_and_not_late_show_what_the_source_bears():
    limit = Limit(64)
    now = answer(limit, *[0.5] * 40, now=-60.0, wanted=False)
    assert limit.limit == 0.5

    saturate(limit, 0.5, now=now)

    assert limit.limit >= 10


def test_a_backlog_that_follows_a_burst_of_live_changes_is_worked_off_at_once():
    limit = Limit(64)
    answer(limit, *[0.5] * 40, now=-60.0, wanted=False)
    saturate(limit, 0.5, number=20, now=-2.0)
    for each in range(10, 20):
        limit.over(str(each))

    work_off(limit, lambda _: 0.5, 10.0)

    assert limit.limit == 64


def test_ten_live_gets_at_once_that_are_late_show_nothing():
    limit = Limit(64)
    now = answer(limit, *[0.1] * 40, now=-60.0, wanted=False)

    saturate(limit, 0.5, now=now)

    assert limit.limit == 0.5


def test_gets_that_began_before_the_limit_shrank_are_not_taken_for_live_ones():
    limit, now = grown()
    for each in range(64):
        limit.begin(str(each), now)
    limit.waits = True
    limit.answered(Answer(now, None, overload=True), now)
    for _ in range(4):
        limit.answered(Answer(now + 0.01, None, overload=True), now + 0.01)
        now += 0.01
    assert limit.limit == 2

    for each in range(62):
        limit.over(str(each))
        limit.answered(Answer(now - 0.01, 0.02), now + 0.01)

    assert limit.limit == 2


@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_an_overload_is_forgotten_when_nothing_waits_for_a_while(seconds):
    limit = Limit(64)
    now = answer(limit, *[seconds] * 40, now=-CALM - 200.0, wanted=False)
    for _ in range(3):
        limit.answered(Answer(now, None, overload=True), now)
        now = answer(limit, seconds, now=now, wanted=False)
    assert limit.limit == LEAST

    now = answer(limit, *[seconds] * 40, now=now, wanted=False)
    assert limit.limit == LEAST
    answer(limit, *[seconds] * 40, now=now + CALM, wanted=False)
    assert limit.limit == 0.5

    work_off(limit, lambda _: seconds, 20 * seconds)
    assert limit.limit == 64


def test_a_look_that_hangs_does_not_keep_the_limit_from_learning():
    limit = Limit(1)
    limit.begin("hangs", -OVERDUE)
    limit.answered(Answer(0.0, None, overload=True), 0.0)
    assert limit.limit == 0.25

    answer(limit, *[0.02] * 400, now=0.1)

    assert limit.limit == 1


def test_a_fixed_limit_never_changes():
    limit = Limit.fixed(3)
    now = answer(limit, *[0.02] * 100, *[2.0] * 100, now=0.0)
    answer(limit, None, now=now, overload=True)

    assert limit.limit == 3


def test_without_a_limit_any_number_can_begin():
    limit = Limit.fixed()
    for number in range(1000):
        limit.begin(str(number), 0.0)

    assert limit.next_at() == -math.inf


def test_the_limit_does_not_grow_while_nothing_waits():
    limit = Limit(64)
    answer(limit, *[0.02] * 400, now=0.0, wanted=False)

    assert limit.limit == 0.5


@pytest.mark.parametrize("most", [1, 2])
def test_the_limit_is_at_most_what_is_set(most):
    limit = Limit(most)
    answer(limit, *[0.02] * 400, now=0.0)

    assert limit.limit == most


def test_an_overloaded_source_halves_the_limit_once_for_the_gets_that_were_under_way():
    limit, now = grown()

    for _ in range(9):
        limit.answered(Answer(now - 0.02, None, overload=True), now)
    assert limit.limit == 32

    limit.answered(Answer(now, None, overload=True), now + 0.02)
    assert limit.limit == 16


def test_a_failure_that_says_nothing_changes_nothing():
    limit, now = grown()

    for _ in range(500):
        limit.answered(Answer(now, None), now)

    assert limit.limit == 64


def test_gets_that_an_error_answers_say_how_far_apart_they_are_spread_and_nothing_else():
    """One GET lasted long, and then a thousand ids answer 500: they must not wait for it each."""
    limit = Limit(64)
    now = answer(limit, 1.0, now=0.0)

    limit.begin("broken", now)
    limit.over("broken")
    limit.answered(Answer(now, 0.01, failed=True), now + 0.01)

    assert limit.limit == 0.5
    assert limit.next_at() == pytest.approx(now + 0.04)

    for _ in range(500):
        limit.answered(Answer(now, 0.5, failed=True), now)

    assert limit.limit == 0.5


def test_gets_for_many_ids_have_a_usual_length_of_their_own():
    limit, now = grown()

    answer(limit, *[0.5] * 200, now=now, size=50)

    assert limit.limit == 64


@pytest.mark.parametrize(("late", "left"), [(8, 2.0), (5, 4.0), (0, 16.0)])
def test_in_a_slow_start_late_gets_quarter_or_halve_the_limit(late, left):
    limit = Limit(64)
    for _ in range(KNOWN):
        limit.answered(Answer(0.0, 0.1), 0.0)
    limit.limit, limit.waits = 8.0, True

    for each in range(8):
        assert limit.limit == 8.0
        limit.answered(Answer(1.0, 0.2 if each < late else 0.1), 1.0)

    assert limit.limit == left


def test_nine_of_ten_naps_tell_how_late_threads_wake():
    limit = Limit(64)

    for milliseconds in reversed(range(NAPS)):
        limit.napped(milliseconds / 1000)

    assert limit._own.seconds == pytest.approx(WAKES * 0.028)


def test_late_gets_shrink_the_limit_to_the_least_and_then_are_believed():
    limit, now = grown()
    seen = []

    for _ in range(600):
        now = answer(limit, 0.03, now=now)
        seen.append(limit.limit)

    least = seen.index(LEAST)
    assert sorted(seen[:least], reverse=True) == seen[:least]
    assert limit.limit == 64


def test_at_the_least_a_few_late_gets_are_neither_believed_nor_kept_in_mind():
    limit, now = grown()
    while limit.limit > LEAST:
        now = answer(limit, 0.03, now=now)

    now = answer(limit, *[0.03, *[0.02] * 24] * (BUSIER // 25), now=now)
    assert limit.limit == LEAST

    answer(limit, *[0.02] * 400, now=now)
    assert limit.limit > 1


def test_gets_that_this_process_delays_do_not_count():
    limit, now = grown()
    for _ in range(32):
        limit.napped(0.005)

    answer(limit, *[0.03] * 500, now=now)

    assert limit.limit == 64


def test_naps_that_end_in_time_excuse_nothing():
    limit, now = grown()
    for _ in range(32):
        limit.napped(0.0001)

    answer(limit, *[0.03] * 64, now=now)

    assert limit.limit < 64


def test_below_four_gets_are_spread_over_time():
    limit = Limit(64)
    limit.begin("a", 0.0)
    limit.over("a")
    limit.answered(Answer(0.0, 0.1), 0.1)

    assert limit.limit == 0.5
    assert limit.next_at() == pytest.approx(0.2)


def test_however_long_a_get_lasts_the_next_one_follows_within_half_a_minute():
    limit = Limit(64)
    now = answer(limit, 3600.0, now=0.0)
    limit.answered(Answer(now, None, overload=True), now)
    limit.answered(Answer(now, None, overload=True), now + 1.0)
    assert limit.limit == LEAST

    assert limit.next_at() <= LONGEST / LEAST

    answer(limit, 0.02, now=now)
    assert limit.next_at() == pytest.approx(now + 0.04 / LEAST)


def test_a_look_that_hangs_after_a_get_of_an_hour_does_not_keep_others_away_for_hours():
    limit = Limit(2)
    now = answer(limit, 3600.0, now=0.0)
    limit.begin("hangs", now)

    assert limit.next_at() <= now + 8 * LONGEST


@pytest.mark.parametrize(("most", "at_once"), [(64, 10), (3, 3)])
def test_without_a_backlog_ten_looks_can_run_at_once_however_small_the_limit(most, at_once):
    limit = Limit(most)
    for number in range(at_once):
        assert limit.next_at(live) <= 0.0
        limit.begin(f"p{number}", 0.0)

    assert limit.next_at(live) > 0.0
    assert limit.limit == 0.5


def test_a_look_that_hangs_does_not_keep_others_from_the_source_for_ever():
    limit = Limit(64)
    limit.begin("hangs", 5.0)

    assert limit.next_at() == 5.0 + OVERDUE
    assert limit.busy
    limit.over("hangs")
    assert limit.next_at() <= 5.0
    assert not limit.busy


def test_a_worker_that_works_off_a_backlog_for_an_hour_keeps_its_limit():
    limit, now = Limit(1), 0.0
    answer(limit, None, now=now, overload=True)

    answer(limit, *[0.02] * 60_000, now=now)

    assert limit.limit == 1


def test_a_second_look_at_an_id_counts_although_the_thread_of_the_first_comes_back_later():
    limit = Limit.fixed(1)
    limit.begin("p1", 0.0)  # it is stored, and p1 has another event
    limit.begin("p1", 0.1)

    limit.over("p1")

    assert limit.busy
    assert limit.next_at() == 0.1 + OVERDUE


class Machine(RuleBasedStateMachine):
    """Whatever comes, the limit keeps its range, and a look can begin after a while."""

    def __init__(self):
        super().__init__()
        self.limit = Limit(20)
        self.now = 0.0
        self.running = {}
        self.numbers = itertools.count()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.5, 30.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.limit.next_at() <= self.now)
    @rule()
    def begin(self):
        id = str(next(self.numbers))
        self.running[id] = self.now
        self.limit.begin(id, self.now)
        young = sum(self.now < began + OVERDUE for began in self.running.values())
        assert young <= math.ceil(self.limit.limit) or self.shrunk

    shrunk = False

    @rule(waits=st.booleans())
    def wait(self, waits):
        self.limit.waits = waits

    @rule(late=st.sampled_from([0.0, 0.001, 0.05]))
    def nap(self, late):
        self.limit.napped(late)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        end=st.sampled_from(["answer"] * 6 + ["error", "overload", "failure"]),
        size=st.sampled_from([1, 1, 50]),
    )
    def end(self, data, end, size):
        id = data.draw(st.sampled_from(sorted(self.running)))
        began, before = self.running.pop(id), self.limit.limit
        self.limit.over(id)
        seconds = self.now - began if end in {"answer", "error"} else None
        ended = Answer(began, seconds, size, end == "overload", end == "error")
        self.limit.answered(ended, self.now)
        self.shrunk = self.limit.limit < before or (self.shrunk and bool(self.running))
        if end != "answer":
            assert self.limit.limit <= before

    @invariant()
    def it_keeps_its_range(self):
        assert LEAST <= self.limit.limit <= 20

    @invariant()
    def a_look_can_begin_after_a_while(self):
        longest = max(self.now, OVERDUE)  # the longest that a GET can have lasted
        assert self.limit.next_at() <= self.now + 8 * longest + OVERDUE


TestMachine = Machine.TestCase
