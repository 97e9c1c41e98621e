"""How many looks can run at once: what a window of answers changes, answer by answer."""

from __future__ import annotations

import math

import pytest
from limits import answer

from change_events._consumer.limit import (
    CALM,
    KNOWN,
    LEAST,
    NAPS,
    OVERDUE,
    PACED,
    ROUNDS,
    SLOWER,
    WINDOW,
    Answer,
    Limit,
)
from change_events._consumer.usual import KEPT, Usual

USUAL, LATE = 0.1, 0.2


def knowing(at, *, known=KEPT, late=0):
    """Return a limit in its slow start that knows what is usual, and looks that wait for it."""
    limit = Limit(64)
    limit._usual[1] = usual = Usual()
    usual.add(*[LATE] * late, *[USUAL] * (known - late))
    limit.limit, limit.waits = at, True
    return limit


def shrunk(at, *, known=KEPT):
    """Return one that was twice as much, which was too much."""
    limit = knowing(2 * at, known=known)
    limit.answered(Answer(0.0, None, overload=True), 0.5)
    assert limit.limit == at
    return limit


def window(limit, *seconds, now=1.0):
    """Let a window of answers come that lasted so long. The last one changes the limit."""
    before = limit.limit
    for each in seconds:
        assert limit.limit == before
        limit.answered(Answer(now, each), now)
    assert limit.limit != before
    return limit.limit


def good(number):
    return [USUAL] * number


def late(number):
    return [LATE] * number


# How many answers a window has


@pytest.mark.parametrize(("at", "answers"), [(0.5, 2), (1.0, 4), (3.0, 4), (8.0, 8), (9.5, 10)])
def test_in_a_slow_start_a_round_of_good_answers_doubles_the_limit(at, answers):
    assert window(knowing(at), *good(answers)) == 2 * at


@pytest.mark.parametrize(("at", "answers"), [(2.0, 50), (8.0, 50), (32.0, 64)])
def test_after_it_a_good_window_adds_a_quarter(at, answers):
    assert window(shrunk(at), *good(answers)) == at + 0.25


def test_a_limit_below_one_grows_by_a_quarter_of_itself():
    assert window(shrunk(0.8), *good(WINDOW)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("at", "times"),
    [
        (8.0, [*[1.0] * 7, 2.1]),
        (8.0, [*[1.0] * 7, 2.0, 2.1]),
        (2.0, [*[1.0] * 6, 5.0, 5.0]),
        (8.25, [*[1.0] * 7, 5.0, 5.0]),
    ],
)
def test_after_more_than_a_second_a_round_of_answers_is_a_window_if_they_are_eight(at, times):
    limit = shrunk(at)
    for now in times:
        assert limit.limit == at
        limit.answered(Answer(now, USUAL), now)

    assert limit.limit == at + 0.25


@pytest.mark.parametrize(("at", "answers"), [(0.5, 2), (1.0, 2), (3.0, 3), (8.0, 8)])
def test_one_round_of_late_answers_quarters_the_limit(at, answers):
    assert window(shrunk(at), *late(answers)) == at / 4


def test_where_many_are_late_usually_it_takes_more_to_show_that_most_are():
    limit = knowing(12.0, late=KEPT * 3 // 10)
    limit.answered(Answer(0.0, None, overload=True), 0.5)
    assert limit.limit == 6.0

    assert window(limit, *good(1), *late(6)) < 6.0


def test_where_half_are_late_usually_it_takes_ten_to_show_that_all_are():
    assert window(knowing(2.0, late=KEPT // 2 - 1), *late(10)) == 1.0


# By how much it grows and shrinks


def test_steps_double_after_six_good_windows_in_a_row():
    limit = shrunk(8.0)

    grown = [window(limit, *good(WINDOW)) for _ in range(9)]

    assert grown == [8.25, 8.5, 8.75, 9.0, 9.25, 9.5, 10.0, 11.0, 13.0]


def test_more_late_answers_than_usual_shrink_the_limit_by_half_of_their_share():
    beyond = 0.2 - 0.012 - 2 * 0.0443 / math.sqrt(WINDOW)  # by two standard deviations

    left = window(shrunk(8.0), *good(40), *late(10))

    assert left == pytest.approx(8.0 * (1 - beyond / 2), abs=0.001)


def test_until_a_window_was_good_the_limit_that_was_too_much_stays_the_same():
    limit = shrunk(8.0)
    left = window(limit, *good(40), *late(10))

    assert window(limit, *good(8)) == 2 * left  # a slow start up to 8


def test_after_a_good_window_half_of_what_is_too_much_is_the_end_of_the_slow_start():
    limit = shrunk(8.0)
    window(limit, *good(WINDOW))
    left = window(limit, *good(40), *late(10))
    assert window(limit, *late(8)) == left / 4

    assert window(limit, *good(4)) == left / 2
    assert window(limit, *good(4)) == left  # that was still less than 8.25 / 2
    assert window(limit, *good(WINDOW)) == left + 0.25


def test_at_the_least_five_late_answers_are_believed():
    assert window(shrunk(LEAST), *late(SLOWER)) == 0.5


@pytest.mark.parametrize("number", [3, 4])
def test_at_the_least_more_late_answers_than_others_cause_are_believed_after_two_hundred(number):
    limit = shrunk(LEAST)
    for each in [*late(number), *good(200 - number)]:
        assert limit.limit == LEAST
        limit.answered(Answer(1.0, each), 1.0)

    assert limit.limit == (LEAST if number == 3 else 0.5)

    if number == 3:  # and they are forgotten
        assert window(limit, *good(WINDOW)) > LEAST


# What is learned


def known(limit):
    return len(limit._usual[1])


def test_answers_that_are_late_beyond_doubt_are_not_learned():
    limit = knowing(4.0, known=20)

    window(limit, *late(4))

    assert known(limit) == 20


def test_answers_that_are_perhaps_late_are_learned_although_the_limit_shrinks():
    limit = shrunk(3.0, known=20)

    assert window(limit, *good(46), *late(4)) < 3.0

    assert known(limit) == 70


def test_in_a_backlog_no_more_is_learned_than_it_takes():
    limit = shrunk(3.0, known=KNOWN)
    window(limit, *good(WINDOW))

    assert known(limit) == KNOWN


def test_above_four_gets_at_once_a_backlog_teaches_nothing():
    limit = shrunk(8.0, known=20)

    assert window(limit, *good(WINDOW)) == 8.25

    assert known(limit) == 20


def test_the_limit_is_more_than_four_only_if_enough_is_known():
    assert window(shrunk(PACED, known=KNOWN), *good(WINDOW)) == 4.25


def test_a_source_that_has_become_faster_is_believed_and_tried_anew():
    limit = shrunk(8.0)

    assert window(limit, *[0.02] * WINDOW) == 16.0

    assert window(limit, *[0.04] * 16) == 4.0


def test_gets_for_many_ids_are_not_compared_with_those_for_one():
    limit = knowing(64.0)

    for _ in range(500):
        limit.answered(Answer(1.0, 0.5, 50), 1.0)
        assert limit.limit == 64


def test_a_fixed_limit_learns_nothing():
    limit = Limit.fixed(1)
    answer(limit, 30.0, now=-40.0)

    limit.begin("hangs", 0.0)

    assert limit.next_at() == OVERDUE


def test_fifty_live_answers_show_what_the_source_bears():
    limit = knowing(0.5)
    for each in range(11):
        limit.begin(str(each), 0.0)

    for _ in range(49):
        limit.answered(Answer(1.0, USUAL), 0.9)
        assert limit.limit == 0.5
    limit.answered(Answer(1.0, USUAL), 0.9)

    assert limit.limit == 10


def test_a_look_that_just_counts_as_overdue_is_not_a_live_one():
    limit = knowing(0.5)
    limit.begin("hangs", 0.0)

    assert window(limit, *good(2), now=max(OVERDUE, ROUNDS * USUAL)) == 1.0


def test_a_shrink_is_forgotten_after_more_than_a_minute_of_calm():
    limit = shrunk(0.25)
    limit.waits = False
    for _ in range(WINDOW):
        limit.answered(Answer(1.0, USUAL), 0.5 + CALM)
    assert limit.limit == 0.25

    assert window(limit, *good(WINDOW), now=0.6 + CALM) == 0.5


# When the next look can begin


@pytest.mark.parametrize("most", [64, 1, 0.5])
def test_from_four_on_or_the_most_gets_are_not_spread_over_time(most):
    limit = Limit(most)
    answer(limit, 0.1, now=0.0)
    limit.limit = min(PACED, most)

    assert limit.next_at() == -math.inf


def test_gets_are_spread_by_how_long_they_last_on_average():
    limit = Limit(64)
    for seconds in (0.1, 0.3):
        limit.begin("p1", 0.0)
        limit.over("p1")
        limit.answered(Answer(0.0, seconds, failed=True), seconds)

    assert limit.next_at() == pytest.approx(0.2 / 0.5)


def test_naps_of_long_ago_excuse_nothing():
    limit = Limit(64)
    for seconds in [0.5] * NAPS + [0.0] * NAPS:
        limit.napped(seconds)

    assert limit._own.seconds == 0.0
