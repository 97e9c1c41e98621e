"""How fast a whole worker looks, in virtual time."""

from __future__ import annotations

import itertools
from statistics import median

import pytest
from worlds import World

from change_events._consumer import acknowledgements
from change_events.exceptions import FetchError

REFUSED = FetchError("too many requests", status=429)


def behind(world, number):
    """Let the queue have so many events of an hour ago."""
    for _ in range(number):
        world.send(age=3600.0)
    return world


def limits_of(world, until):
    """Return the limit at each change, with its time."""
    seen = [(0.0, world.limit.limit)]

    def note():
        if world.limit.limit != seen[-1][1]:
            seen.append((world.kernel.now, world.limit.limit))

    world.every(0.005, note)
    world.run(until)
    return seen


def test_a_backlog_lets_the_limit_grow_with_every_window_of_answers():
    world = behind(World(0.02), 8000)

    def shrink():
        world.limit._shrink_to(12.0, world.kernel.now)
        world.limit._fast_below = 6.0

    world.kernel.at(2.0, shrink)
    seen = [at for at, limit in limits_of(world, 3.5) if 12.0 < limit <= 13.0]

    # Fifty answers, and those that are under way meanwhile.
    assert len(seen) == 4
    assert max(late - early for early, late in itertools.pairwise(seen)) < 0.15


@pytest.mark.parametrize(("rate", "seconds"), [(15, 0.05), (5, 0.1)])
def test_a_limit_that_has_shrunk_grows_up_to_a_rate_that_is_set(rate, seconds):
    answers = iter([FetchError("overloaded", status=503)] * 3)
    refuse = lambda now: next(answers, None) if now > 5.0 else None  # noqa: E731
    world = behind(World(seconds, refuse=refuse, max_gets_per_second=rate), 5000)

    world.run(200.0)

    assert sum(at > 150.0 for at in world.began.values()) > 0.95 * rate * 50


@pytest.mark.parametrize(("rate", "seconds"), [(20, 0.5), (9, 1.0)])
def test_live_changes_that_need_more_than_ten_gets_at_once_have_them(rate, seconds):
    world, sent = World(seconds), {}
    world.every(1 / rate, lambda: sent.setdefault(world.send(), world.kernel.now))

    world.run(60.0)

    late = [world.began[id] - at for id, at in sent.items() if id in world.began and at > 30.0]
    assert len(late) > 0.9 * 30 * rate
    assert median(late) < 0.1
    assert world.most > 10


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_a_source_that_allows_few_gets_a_second_spends_them_on_events(rate, known):
    """A token bucket of one, which is full again at the moment when an experiment begins."""
    tokens, filled_at, answered = 1.0, 0.0, 0

    def refuse(now):
        nonlocal tokens, filled_at, answered
        tokens, filled_at = min(1.0, tokens + (now - filled_at) * rate), now
        if tokens < 1.0:
            return REFUSED
        tokens -= 1.0
        answered += 1
        return None

    ids = [f"p{number}" for number in range(500)] if known else []
    world = behind(World(0.02, refuse=refuse, cached=ids), 500)

    world.run(60.0)

    assert answered > 0.3 * rate * 60
    assert world.sqs.deleted > 0.9 * answered - 10


def test_what_is_settled_and_not_deleted_yet_has_a_bound():
    world = behind(World(0.02), 5000)
    delete, waiting = world.sqs.delete_message_batch, []

    def slow(**call):
        world.kernel.pause(2.0)
        return delete(**call)

    world.sqs.delete_message_batch = slow
    world.every(0.1, lambda: waiting.append(len(world.run_.acknowledgements._events)))

    world.run(6.0)

    assert max(waiting) == acknowledgements.MOST
    assert world.sqs.in_flight < 2500
