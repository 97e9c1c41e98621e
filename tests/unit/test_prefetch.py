"""How many events a worker holds, if nobody says how many."""

from __future__ import annotations

import pytest
from desks import bring_down, make_desk
from hands import held as held_event
from hands import message, opened
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from change_events._consumer.guard import Guard
from change_events._consumer.prefetch import GAP, MEASURABLE, Prefetch
from change_events._consumer.settings import PREFETCH


def grown(*, least=1000, most=9000, to=9000):
    """Make one that has grown up to that size."""
    prefetch = Prefetch(least=least, most=most)
    while prefetch.size < to:
        prefetch.adapt(0.0, held=prefetch.size, waiting=0, full=True)
    return prefetch


# Growing


def test_it_doubles_up_to_the_most_each_time_that_all_room_is_used():
    prefetch, sizes = Prefetch(least=1000, most=9000), []

    for _ in range(5):
        prefetch.adapt(0.0, held=prefetch.size, waiting=0, full=True)
        sizes.append(prefetch.size)

    assert sizes == [2000, 4000, 8000, 9000, 9000]


def test_it_does_not_grow_while_there_is_room():
    prefetch = Prefetch(least=1000, most=9000)

    prefetch.adapt(0.0, held=900, waiting=0, full=False)

    assert prefetch.size == 1000


@pytest.mark.parametrize(
    ("held", "waiting", "size"),
    [(1000, 500, 2000), (1000, 501, 1000), (4000, 1000, 8000), (4000, 1001, 4000)],
)
def test_it_grows_only_if_most_of_what_is_held_is_no_work_that_waits(held, waiting, size):
    prefetch = grown(to=held)

    prefetch.adapt(1.0, held=held, waiting=waiting, full=True)

    assert prefetch.size == size


@pytest.mark.parametrize("full", [True, False])
def test_a_check_that_changes_nothing_is_made_again_after_a_while(full):
    prefetch = Prefetch(least=1000, most=9000)
    assert prefetch.is_due(5.0, full=full)

    prefetch.adapt(5.0, held=1000, waiting=1000, full=full)

    assert not prefetch.is_due(5.0 + GAP / 2, full=full)
    assert prefetch.is_due(5.0 + GAP, full=full)


def test_it_can_grow_at_once_when_all_room_is_used():
    prefetch = Prefetch(least=1000, most=9000)

    prefetch.adapt(5.0, held=900, waiting=0, full=False)
    assert prefetch.is_due(5.0, full=True)

    prefetch.adapt(5.0, held=1000, waiting=0, full=True)
    assert prefetch.is_due(5.0, full=True)


def test_a_fixed_number_stays():
    prefetch = Prefetch(least=70, most=70)

    assert not prefetch.is_due(0.0, full=True)
    prefetch.drained(3)
    prefetch.beat(1000, 19.0, 20.0)
    assert prefetch.size == 70


# Shrinking


@pytest.mark.parametrize(("waiting", "size"), [(2000, 9001), (2001, 4500)])
def test_it_is_halved_while_too_much_work_waits(waiting, size):
    prefetch = grown(most=9001, to=9001)

    prefetch.adapt(1.0, held=5000, waiting=waiting, full=False)

    assert prefetch.size == size


def test_it_is_never_less_than_at_first():
    prefetch = grown(to=2000)

    for _ in range(3):
        prefetch.adapt(1.0, held=3000, waiting=3000, full=True)

    assert prefetch.size == 1000


@pytest.mark.parametrize(("held", "size"), [(8000, 9000), (4000, 5000), (4003, 5003), (400, 1000)])
def test_when_the_queue_has_no_more_it_falls_to_little_more_than_what_is_held(held, size):
    prefetch = grown()

    prefetch.drained(held)

    assert prefetch.size == size


# The heartbeat


@pytest.mark.parametrize(
    ("extended", "took", "size"),
    [
        (9000, 9.0, 9000),
        (9000, 20.0, 4500),
        (4500, 9.0, 5000),
        (500, 10.0, 1000),
        (0, 15.0, 1000),  # SQS has not answered
        (MEASURABLE, 0.5, 2000),
        (MEASURABLE - 1, 0.5, 9000),  # they can have been slow by chance
        (MEASURABLE - 1, 10.0, 9000),
        (0, 0.0, 9000),
        (MEASURABLE, 0.0, 9000),
    ],
)
def test_no_more_are_held_than_a_beat_extends_in_half_of_its_period(extended, took, size):
    prefetch = grown()

    prefetch.beat(extended, took, 20.0)

    assert prefetch.size == size


def test_it_does_not_grow_beyond_what_the_heartbeat_can_extend_until_a_beat_is_faster():
    prefetch = Prefetch(least=1000, most=9000)

    prefetch.beat(1000, 5.0, 20.0)
    prefetch.adapt(0.0, held=1000, waiting=0, full=True)
    assert prefetch.size == 2000
    prefetch.adapt(0.0, held=2000, waiting=0, full=True)
    assert prefetch.size == 2000

    prefetch.beat(1000, 1.0, 20.0)
    prefetch.adapt(0.0, held=2000, waiting=0, full=True)
    assert prefetch.size == 4000


class PrefetchMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order."""

    def __init__(self):
        super().__init__()
        self.prefetch = Prefetch(least=100, most=1500)
        self.now = 0.0

    @rule(held=st.integers(0, 2000), share=st.floats(0, 1), full=st.booleans())
    def receive_full(self, held, share, full):
        before, waiting = self.prefetch.size, int(held * share)
        self.now += GAP
        self.prefetch.adapt(self.now, held=held, waiting=waiting, full=full)
        if self.prefetch.size > before:
            assert full
            assert waiting <= held / 2
            assert waiting <= 100
            assert self.prefetch.size <= 2 * before

    @rule(held=st.integers(0, 2000))
    def receive_short(self, held):
        before = self.prefetch.size
        self.prefetch.drained(held)
        assert self.prefetch.size <= before
        assert self.prefetch.size >= min(before, held)

    @rule(extended=st.integers(0, 2000), took=st.floats(0, 60))
    def beat(self, extended, took):
        before = self.prefetch.size
        self.prefetch.beat(extended, took, 20.0)
        assert self.prefetch.size <= before
        if extended >= MEASURABLE and self.prefetch.size > 100:
            assert self.prefetch.size * took <= extended * 10.0

    @invariant()
    def it_is_in_its_range(self):
        assert 100 <= self.prefetch.size <= 1500


TestPrefetchMachine = PrefetchMachine.TestCase


# A worker's


def receive(desk, number, *, ids, now=0.0, first=0):
    """Receive so many events of so many ids, in full batches."""
    for at in range(first, first + number, 10):
        if not desk.receiving.begin(0.0):
            return at - first
        events = [held_event(f"p{each % ids}", f"m{each}", now, 0.0) for each in range(at, at + 10)]
        desk.end_receive(events, now, received=10)
    return number


def automatic(**settings):
    return make_desk(prefetch=None, batch_size=10, **settings)


def test_a_worker_holds_more_while_few_ids_have_a_backlog():
    desk = automatic()

    assert receive(desk, 20_000, ids=200) == 9000

    assert desk.receiving.full


def test_a_worker_holds_no_more_of_a_backlog_of_different_ids():
    desk = automatic()

    assert receive(desk, 20_000, ids=20_000) == PREFETCH


def test_a_worker_holds_more_events_that_wait_for_their_window():
    desk = automatic(early_look=False)

    for at in range(0, 2000, 10):
        assert desk.receiving.begin(0.0)
        events = [held_event(f"p{each}", f"m{each}", 0.0, 5.0) for each in range(at, at + 10)]
        desk.end_receive(events, 0.0, received=10)

    assert desk.receiving.prefetch.size == 4000


def test_a_receive_that_is_not_full_ends_what_a_backlog_allowed():
    desk = automatic()
    receive(desk, 3000, ids=200)
    assert desk.receiving.prefetch.size == 4000

    desk.receiving.begin(0.0)
    desk.end_receive([], 0.0, received=0)

    assert desk.receiving.prefetch.size == 3750


def test_a_worker_holds_no_more_in_an_outage():
    desk = automatic()
    bring_down(desk)
    for at in range(100):
        desk.receiving._under_way += 1  # they began before the outage
        events = [held_event("p1", f"m{at * 10 + each}", 0.0, 0.0) for each in range(10)]
        desk.end_receive(events, 0.0, received=10)

    assert desk.receiving.full
    assert desk.receiving.prefetch.size == PREFETCH


def test_a_worker_holds_no_more_while_deletions_are_refused():
    guard = Guard(min_deleted=1, max_share=0.0)
    desk = automatic(guard=guard)
    guard.allows_deletion()
    assert guard.tripped

    receive(desk, 2000, ids=20)

    assert desk.receiving.prefetch.size == PREFETCH


def test_ids_that_are_parked_are_work_that_waits():
    desk = automatic()
    receive(desk, 20, ids=20)
    for id in [*desk.next(0.0), *desk.next(0.0)]:
        desk.begin_get([id], 0.0)
        desk.inbox.park(id)
    desk.next(0.0)  # a look that is under way does not wait

    assert desk.inbox.waiting(0.0) == 19


def test_ids_whose_look_is_due_later_do_not_wait():
    desk = automatic(early_look=False)
    desk.receiving.begin(0.0)
    desk.end_receive(
        [held_event("p1", "m1", 0.0, 5.0), held_event("p2", "m2", 0.0, 9.0)], 0.0, received=2
    )

    assert [desk.inbox.waiting(now) for now in (5.4, 5.5, 9.9)] == [0, 1, 2]


def test_a_beat_that_takes_long_lets_fewer_events_be_held():
    hands = opened(prefetch=None)
    hands.desk.receiving.prefetch.size = 4000
    for batch in range(20):
        hands.receive(*(message(f"p{at}", batch * 7 + at) for at in range(7)))
    change = hands.queue.change_visibility

    def slow(deliveries):
        hands.now += 1.0
        return change(deliveries)

    hands.queue.change_visibility = slow

    hands.visibility.beat()
    assert hands.desk.receiving.prefetch.size == 4000  # nothing had to be extended yet
    hands.now = 140.0
    hands.visibility.beat()

    assert len(hands.queue.hidden) == 14
    assert hands.desk.receiving.prefetch.size == PREFETCH


def test_health_tells_how_many_events_can_be_held():
    hands = opened(prefetch=None)
    assert hands.run.health().prefetch == PREFETCH

    hands.desk.receiving.prefetch.size = 4000

    assert hands.run.health().prefetch == 4000
