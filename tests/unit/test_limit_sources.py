"""How many looks can run at once: at sources in virtual time."""

from __future__ import annotations

import math
import random

import pytest
from limits import answer, look_in_groups, work_off

from change_events._consumer.limit import Limit
from verification.scale.source import WORK, Source


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


@pytest.mark.parametrize("servers", [1, 2, 4, 8])
def test_after_groups_of_live_changes_a_backlog_is_worked_off_as_at_first(servers):
    first = asked(servers, lambda _: 0.1).run(60.0)
    source = asked(servers, lambda _: 0.1)
    look_in_groups(source.limits[0], servers)
    source.run(60.0)

    assert source.rate(1.0, 5.0) > 0.8 * first.rate(1.0, 5.0)
    assert source.limits[0].limit < 1.4 * first.limits[0].limit


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
