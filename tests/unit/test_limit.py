"""How many looks can run at once: at sources in virtual time, and rule by rule."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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
from verification.scale.source import WORK, Source


def live():
    """Return since when there has been no backlog: ever since."""
    return -math.inf


def asked(servers, seconds, *, foreground=0.0, caches=1):
    """Return a source with caches that always have something to look at."""
    limits = [Limit(64) for _ in range(caches)]
    return Source(servers, seconds, foreground=foreground, limits=limits)


@pytest.mark.parametrize("seconds", [0.005, 0.02, 0.1])
def test_a_source_without_a_limit_is_asked_as_often_as_the_most_allows(seconds):
    source = asked(1000, lambda _: seconds).run(20 * seconds)
    assert source.limits[0].limit == 64

    source.run(6.0)
    assert source.limits[0].limit == 64
    assert source.rate(3.0, 6.0) > 0.95 * 64 / (seconds * 1.01 + WORK)


def test_a_source_is_used_up_to_its_capacity_and_hardly_more_is_asked_of_it():
    source = asked(8, lambda _: 0.02).run(20.0)

    assert source.rate(2.0, 20.0) > 0.9 * 400
    assert 6 < source.limits[0].limit < 12


@pytest.mark.parametrize(("foreground", "use"), [(0.3, 0.4), (0.7, 0.2)])
def test_other_clients_hardly_notice(foreground, use):
    alone = asked(8, lambda _: 0.02, foreground=foreground, caches=0).run(40.0)
    source = asked(8, lambda _: 0.02, foreground=foreground).run(40.0)

    assert source.p99() < 1.6 * alone.p99()
    assert source.rate(5.0, 40.0) > use * 400 * (1 - foreground)


def test_twelve_caches_share_what_is_free_and_none_starves():
    source = asked(8, lambda _: 0.02, foreground=0.3, caches=12).run(40.0)

    free = 400 * 0.7
    assert 0.8 * free < source.rate(5.0, 40.0) <= 1.02 * free
    assert min(map(len, source.answered)) > 0.1 * sum(map(len, source.answered)) / 12


@pytest.mark.parametrize(("foreground", "slower", "use"), [(0.3, 2.0, 0.5), (0.7, 3.0, 0.5)])
def test_twelve_caches_that_know_the_source_leave_room_for_its_other_clients(
    foreground, slower, use
):
    alone = asked(8, lambda _: 0.02, foreground=foreground, caches=0).run(40.0)
    source = asked(8, lambda _: 0.02, foreground=foreground, caches=12)

    source.show(alone.others[-100:]).run(40.0)

    assert source.p99() < slower * alone.p99()
    assert source.rate(5.0, 40.0) > use * 400 * (1 - foreground)
    assert min(map(len, source.answered)) > 0.3 * sum(map(len, source.answered)) / 12


@pytest.mark.parametrize("foreground", [0.3, 0.7])
def test_no_even_rate_uses_four_fifths_and_delays_other_clients_by_less_than_half(foreground):
    alone = asked(8, lambda _: 0.02, foreground=foreground, caches=0).run(40.0)
    source = asked(8, lambda _: 0.02, foreground=foreground, caches=0)
    source.evenly(0.8 * 400 * (1 - foreground))

    assert source.run(40.0).p99() > 1.5 * alone.p99()


def test_a_source_whose_other_clients_want_more_for_good_is_asked_for_what_is_left():
    source = asked(8, lambda _: 0.02, foreground=0.3).run(10.0)
    source.foreground(0.7)

    assert source.run(120.0).rate(80.0, 120.0) > 0.2 * 400 * 0.3


def test_a_source_that_becomes_slower_is_believed_and_one_that_recovers_is_used_at_once():
    source = asked(8, lambda now: 0.2 if 10 < now < 40 else 0.02).run(50.0)

    assert source.rate(30.0, 40.0) > 0.9 * 40
    assert source.rate(42.0, 50.0) > 0.9 * 400


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7])
def test_a_source_whose_answers_differ_much_is_asked_with_care_and_not_starved(sigma):
    chance = random.Random(1)
    source = asked(1000, lambda _: 0.02 * math.exp(chance.gauss(0, sigma))).run(20.0)

    assert source.limits[0].limit > 4


def answer(limit, *seconds, now, size=1, wanted=True, overload=False):
    """Let GETs end that last so long; at most one is under way at a time."""
    for each in seconds:
        limit.waits = wanted
        limit.begin("p1", now)
        limit.over("p1")
        now += each or 0.0
        limit.answered(Answer(now - (each or 0.0), each, size, overload), now)
    return now


def grown(*, size=1, seconds=0.02):
    """Return a limit after many good answers, and the time."""
    limit = Limit(64)
    now = answer(limit, *[seconds] * 400, now=0.0, size=size)
    assert limit.limit == 64
    return limit, now


def look_in_groups(limit, servers, *, number=100, size=9, seconds=0.1):
    """Let groups of live changes come, before 0, to a source that serves so many at once."""
    for now in range(-2 * number, 0, 2):
        ends = [now + seconds * (1 + each // servers) for each in range(size)]
        for each in range(size):
            assert limit.next_at(live) <= now
            limit.begin(f"p{each}", now)
        for each, end in enumerate(ends):
            limit.over(f"p{each}")
            limit.answered(Answer(now, end - now), end)


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_groups_of_live_changes_shrink_no_limit_although_their_gets_delay_each_other(servers):
    limit = Limit(64)
    look_in_groups(limit, servers)

    assert limit.limit == 0.5


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_after_groups_of_live_changes_a_backlog_is_worked_off_as_at_first(servers):
    first = asked(servers, lambda _: 0.1).run(60.0)
    source = asked(servers, lambda _: 0.1)
    look_in_groups(source.limits[0], servers)
    source.run(60.0)

    assert source.rate(1.0, 5.0) > 0.8 * first.rate(1.0, 5.0)
    assert source.limits[0].limit < 1.4 * first.limits[0].limit


def work_off(limit, seconds, until):
    """Let a backlog be worked off until then, from 0 on, at a source without a limit."""
    Source(1000, seconds, limits=[limit]).run(until)


@pytest.mark.parametrize("share", [0.2, 0.35, 0.48])
def test_where_many_gets_are_late_usually_a_backlog_of_slow_ones_is_worked_off(share):
    """Early looks find nothing new and are quick, say; those of a backlog find something."""
    limit, chance = Limit(8), random.Random(1)
    usual = [0.02 if chance.random() < share else 0.005 for _ in range(300)]
    answer(limit, *usual, now=-60.0, wanted=False)

    work_off(limit, lambda _: 0.02, 30.0)

    assert limit.limit > 4


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7])
def test_most_limits_grow_at_a_source_whose_answers_differ_much(sigma):
    """It takes more GETs to know which share is late if that is large."""
    limits = [Limit(16) for _ in range(8)]
    for seed, limit in enumerate(limits):
        chance = random.Random(seed)
        work_off(limit, lambda _: 0.02 * math.exp(chance.gauss(0, sigma)), 10.0)  # noqa: B023

    assert sum(limit.limit > 8 for limit in limits) >= 5


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
