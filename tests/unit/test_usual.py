"""Which GETs are late, and what a sample of them shows."""

import math

import pytest

from change_events._consumer.usual import FEW, KEPT, MANY, Share, Usual, Window


def usual_of(*seconds):
    usual = Usual()
    usual.add(*seconds)
    return usual


# What is usual


@pytest.mark.parametrize(
    ("known", "least", "most"),
    [
        ([0.3, 0.1, 0.2], 0.18, 0.22),
        ([0.1, 0.8, 0.2, 0.4], 0.27, 0.33),
        ([0.005], 0.003, 0.007),  # 2 ms say nothing
        ([0.0], -0.002, 0.002),
    ],
)
def test_a_get_is_late_or_early_if_it_is_a_tenth_from_the_median_and_two_milliseconds(
    known, least, most
):
    usual = usual_of(*known)

    assert usual.is_late(most + 1e-9)
    assert not usual.is_late(most - 1e-9)
    assert usual.is_early(least - 1e-9)
    assert not usual.is_early(least + 1e-9)


def test_the_bounds_are_usual():
    longest, shortest = 0.005 + 0.002, 0.005 - 0.002
    usual = usual_of(*[0.005] * 8, longest, shortest)

    assert not usual.is_late(longest)
    assert not usual.is_early(shortest)
    assert usual.late == usual.early == Share.of(0, 10)


def test_the_shares_of_late_and_early_gets_are_learned():
    usual = usual_of(*[0.1] * 7, 0.05, 0.2, 0.3)

    assert usual.late == Share.of(2, 10)
    assert usual.early == Share.of(1, 10)


def test_the_oldest_of_many_are_forgotten():
    usual = usual_of(0.5, *[0.1] * (KEPT // 2), *[0.9] * (KEPT // 2 - 1))
    assert len(usual) == KEPT

    usual.add(0.9)

    assert len(usual) == KEPT
    assert usual._in_order == sorted(usual._seconds) == [0.1] * 128 + [0.9] * 128
    usual.add(*[0.2] * KEPT)
    assert usual._in_order == [0.2] * KEPT


def test_what_is_learned_again_is_all_that_is_known():
    usual = usual_of(*[0.1] * 30)

    usual.learn([0.3, 0.4, 0.3])

    assert len(usual) == 3
    assert not usual.is_late(0.32)
    assert usual.is_early(0.1)
    assert usual.late == Share.of(1, 3)


@pytest.mark.parametrize(("number", "exact"), [(24, False), (25, True)])
def test_the_usual_share_is_exact_after_many_gets(number, exact):
    assert usual_of(*[0.1] * number).is_exact is exact


@pytest.mark.parametrize(("number", "exact"), [(KEPT - 1, False), (KEPT, True)])
def test_a_share_about_a_half_is_as_exact_as_it_will_be_when_no_more_are_kept(number, exact):
    assert usual_of(*[0.1] * (number - 127), *[0.2] * 127).is_exact is exact


# Whether the source has become faster


@pytest.mark.parametrize(("number", "slower"), [(FEW - 1, False), (FEW, True)])
def test_a_few_gets_that_are_early_show_that_the_usual_ones_were_slower(number, slower):
    assert usual_of(*[0.1] * 50).is_slower_than([0.05] * number) is slower


@pytest.mark.parametrize(("early", "slower"), [(3, False), (4, True)])
def test_some_of_many_can_be_early_by_chance(early, slower):
    seconds = [0.05] * early + [0.1] * (20 - early)

    assert usual_of(*[0.1] * 50).is_slower_than(seconds) is slower


@pytest.mark.parametrize(
    ("number", "late", "slower"),
    [(MANY, 0, True), (MANY - 1, 0, False), (MANY, 6, True), (MANY, 7, False)],
)
def test_many_gets_of_which_fewer_are_late_show_it_too(number, late, slower):
    usual = usual_of(*[0.1] * 52, *[0.2] * 48)

    assert usual.is_slower_than([0.2] * late + [0.1] * (number - late)) is slower


# Shares


@pytest.mark.parametrize(
    ("some", "number", "value", "variance"),
    [(0, 4, 0.1, 2 * 0.1 * 0.9 / 4), (1, 4, 0.3, 2 * 0.3 * 0.7 / 4), (1, 1, 0.75, 0.375)],
)
def test_a_share_is_estimated_with_its_variance(some, number, value, variance):
    assert Share.of(some, number) == pytest.approx((value, variance))


def test_another_sample_is_compared_with_a_share():
    share = Share(0.1, 0.045)

    assert share.excess(3, 6) == pytest.approx(0.4)
    assert share.excess(0, 6) == pytest.approx(-0.1)
    assert share.chance(9, 2.0) == pytest.approx(2 * math.sqrt(0.1 * 0.9 / 9 + 0.045))


# Windows


def test_a_window_counts_its_answers_by_size():
    few, many = usual_of(*[0.1] * 50), usual_of(*[0.4] * 20)
    window = Window()
    assert not window.live

    window.add(1, 0.2, few, 7.0, own=0.0)
    window.add(1, 0.1, few, 8.0, own=0.0)
    window.add(3, 0.5, many, 6.5, own=0.0)

    assert (window.began, window.number, window.late) == (6.5, 3, 2)
    assert window.seconds == {1: [0.2, 0.1], 3: [0.5]}


def test_what_the_process_delays_itself_is_not_late():
    window = Window(live=True)
    assert window.live

    window.add(1, 0.2, usual_of(*[0.1] * 50), 0.0, own=0.1)
    window.add(1, 0.2, usual_of(*[0.1] * 50), 0.0, own=0.08)

    assert (window.number, window.late) == (2, 1)


def test_a_window_shows_how_many_more_are_late_than_usual():
    usual = usual_of(*[0.1] * 10, 0.2, 0.2)
    value, variance = usual.late
    window = Window()

    for seconds in (0.1, 0.3, 0.3, 0.3):
        window.add(1, seconds, usual, 0.0, own=0.0)

    assert window.excess == pytest.approx(3 / 4 - value)
    chance = math.sqrt(4 * (value * (1 - value) + variance)) / 4
    assert window.beyond(0.01) == pytest.approx(window.excess - 0.01 - 2 * chance)
    assert window.beyond(0.2, 3.0) == pytest.approx(window.excess - 0.2 - 3 * chance)


@pytest.mark.parametrize(("wanted", "is_wanted"), [(1, False), (2, True), (3, True)])
def test_a_window_is_wanted_if_looks_waited_for_half_of_it(wanted, is_wanted):
    window = Window()
    for _ in range(4):
        window.add(1, 0.1, usual_of(0.1), 0.0, own=0.0)

    window.wanted += wanted

    assert window.is_wanted is is_wanted
