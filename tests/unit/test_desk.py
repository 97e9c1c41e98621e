"""What a desk decides: what can be received, which ids are next, and what a result means."""

from __future__ import annotations

import math

import pytest
from desks import bring_down, fail, make_desk, receive, resume, succeed
from hands import held

from change_events._consumer.agenda import REST
from change_events._consumer.breaker import HUNG
from change_events._consumer.desk import ASIDE_PAUSE, MAX_YIELD, YIELD, Failure
from change_events._consumer.experiment import GRACE
from change_events._consumer.guard import Guard
from change_events._consumer.limit import LIVE, Answer, Limit
from change_events._consumer.receiving import MOMENT

BELIEVES = '{"believes": true, "gone": "", "at": []}'


@pytest.fixture
def desk():
    return make_desk()


# What can be received


def test_an_empty_desk_receives_a_whole_batch(desk):
    assert desk.receiving.may_begin()
    assert desk.receiving.begin(0.0) == 3


@pytest.mark.parametrize(("events", "full"), [(7, False), (8, True)])
def test_a_desk_is_full_without_room_for_a_whole_batch(desk, events, full):
    for number in range(events):
        receive(desk, f"p{number}")

    assert desk.receiving.full is full
    assert desk.receiving.may_begin() is not full


def test_each_receive_under_way_reserves_room_for_a_batch(desk):
    assert [desk.receiving.begin(0.0) for _ in range(4)] == [3, 3, 3, 0]
    assert desk.receiving.full
    assert not desk.receiving.may_begin()

    desk.end_receive([], 0.0, received=0)

    assert desk.receiving.may_begin()
    assert desk.receiving.begin(0.0) == 3


def test_a_backlog_lasts_until_all_that_it_made_due_has_been_looked_at(desk):
    receive(desk, "a", "b", "c")
    receive(desk, "d", "e", "f", now=1.0)
    receive(desk, now=2.0)
    receive(desk, "live", now=3.0)

    for _ in "abcdef":
        assert desk.receiving.live_at() == math.inf
        succeed(desk, 3.0)

    assert desk.receiving.live_at() < 0
    assert desk.next(3.0) == ["live"]


def test_one_full_receive_can_be_the_saves_of_a_moment(desk):
    receive(desk, "a", "b", "c")
    assert desk.receiving.live_at() == MOMENT

    receive(desk)
    assert desk.receiving.live_at() < 0


def test_a_full_receive_with_nothing_after_it_is_spread_over_a_moment_only():
    desk = make_desk(limit=Limit(64))
    receive(desk, "a", "b", "c")
    assert desk.next(0.0) == ["a"]
    desk.receiving.begin(0.1)  # and it waits

    assert desk.next(0.9) == []
    assert desk.receiving.live_at() == 0.1 + MOMENT
    assert [desk.next(0.1 + MOMENT), desk.next(0.1 + MOMENT)] == [["b"], ["c"]]


def test_of_a_full_batch_without_anything_new_no_look_is_due(desk):
    desk.receiving.begin(0.0)

    assert desk.receiving.end([], 0.0, received=3) == 0


def test_while_no_receive_can_begin_a_full_one_is_a_backlog():
    desk = make_desk(prefetch=3)
    receive(desk, "a", "b", "c")
    assert desk.receiving.begin(0.0) == 0
    assert desk.receiving.live_at() == math.inf

    succeed(desk, 5.0)
    succeed(desk, 5.0)
    succeed(desk, 5.0)
    desk.receiving.begin(5.0)
    assert desk.receiving.live_at() == 5.0 + MOMENT


def test_without_early_looks_a_backlog_lasts_until_its_events_are_due():
    desk = make_desk(early_look=False)
    receive(desk, "a", "b", "c", hold=5.0)
    receive(desk, "d", "e", "f", hold=5.0)
    receive(desk)

    for _ in "abcdef":
        assert desk.receiving.live_at() == math.inf
        succeed(desk, 5.5)
    assert desk.receiving.live_at() < 0


def test_a_backlog_lasts_until_looks_have_settled_it_and_early_looks_do_not(desk):
    receive(desk, "a", "b", "c", hold=5.0)
    receive(desk, "d", "e", "f", hold=5.0)
    receive(desk)
    for _ in "abcdef":
        succeed(desk, 0.0)

    receive(desk, "live", now=3.0)
    assert desk.receiving.live_at() < 0
    succeed(desk, 3.0)

    for _ in "abcdef":
        assert desk.receiving.live_at() == math.inf
        succeed(desk, 6.0)
    assert desk.receiving.live_at() < 0


def test_one_event_with_a_long_window_makes_no_backlog_of_what_comes_meanwhile():
    desk = make_desk(early_look=False)
    receive(desk, "a", "b", "c", hold=5.0)
    receive(desk, "d", "e", hold=5.0, received=3)
    slow = held("slow", "its message", 0.0, hold=800.0)
    assert desk.receiving.begin(0.0)
    desk.end_receive([slow], 0.0, received=3)
    receive(desk)
    for _ in "abcde":
        succeed(desk, 6.0)

    receive(desk, "live", now=300.0)

    assert desk.receiving.live_at() < 0


def test_an_id_that_is_stuck_makes_no_backlog_of_what_comes_meanwhile(desk):
    desk.experiment.learn(["good"], 0.0)
    receive(desk, "a", "b", "c")
    receive(desk, "d", "e", "f")
    receive(desk)
    fail(desk, 0.0, own=False)
    while len(desk.inbox) > 1:
        succeed(desk, 1.0)

    receive(desk, "live", now=500.0)

    assert desk.receiving.live_at() < 0


def test_what_a_failed_bulk_get_has_left_is_a_backlog():
    desk = make_desk(prefetch=100, batch_size=10, bulk_size=20)
    ids = [f"p{number:02}" for number in range(11)]
    receive(desk, *ids, received=9)
    desk.gets.bulk_size.size = 20
    reserved = desk.next(0.0)
    assert len(reserved) == 11

    desk.begin_get(reserved, 0.0)
    desk.look_again(reserved, 0.0, alone=True)

    for _ in ids:
        assert desk.receiving.live_at() == math.inf
        succeed(desk, 0.0)
    assert desk.receiving.live_at() < 0


def test_a_look_that_is_due_just_now_waits_for_the_limit():
    desk = make_desk(limit=Limit.fixed(1.0))
    receive(desk, "a", "b")

    assert desk.next(0.0) == ["a"]
    assert desk.limit.waits


def test_while_deletions_are_refused_no_look_waits_for_the_limit():
    desk = make_desk(guard=Guard(max_share=0.0, min_deleted=1), limit=Limit.fixed(1.0))
    receive(desk, "a", "b")
    desk.next(0.0)
    assert not desk.guard.allows_deletion()

    assert desk.next(0.0) == []
    assert not desk.limit.waits


def test_a_look_that_waits_behind_one_that_is_dropped_can_begin_at_once():
    desk = make_desk(limit=Limit(64))
    backlog = [receive(desk, "a", "b", "c"), receive(desk, "d", "e", "f")]
    receive(desk)
    desk.limit.answered(Answer(-1.0, 1.0), 0.0)
    (id,) = desk.next(0.0)
    desk.limit.over(id)
    succeed(desk, 0.0, id)
    receive(desk, "live", now=1.0)
    assert desk.next_at() > 1.0
    desk.newly_due()

    desk.drop(lambda event: event in [*backlog[0], *backlog[1]])

    assert desk.next_at() <= 1.0
    assert desk.newly_due()


def test_the_events_of_a_look_that_hangs_while_others_end_go_back_after_an_hour_each(desk):
    first = receive(desk, "a", "b")
    assert [*desk.next(0.0), *desk.next(1.0)] == ["a", "b"]
    second = receive(desk, "a", "c", now=2.0)
    succeed(desk, 3600.0)
    assert desk.drop_hung(9000.0) == []
    for now, dropped in ((3601.0, first[0]), (3603.0, second[0])):
        receive(desk, "d", now=now)
        succeed(desk, now)
        desk.newly_due()

        assert desk.drop_hung(now) == [(dropped, 2.0)] + [(first[1], 2.0)] * (now > 3601.0)

        assert desk.newly_due()
    assert succeed(desk, 3700.0, "a").events == []
    assert len(desk.inbox) == 0


def test_without_room_the_id_with_most_events_gives_up_its_own_if_no_look_ends():
    desk = make_desk(prefetch=7)
    receive(desk, "a", "b", "b")
    assert [*desk.next(0.0), *desk.next(0.0)] == ["a", "b"]
    receive(desk, "c", now=0.1)
    succeed(desk, 0.2)
    receive(desk, "b", "c", now=1.0)
    assert desk.receiving.blocked
    assert desk.drop_hung(60.2) == []

    assert [(event.id, pause) for event, pause in desk.drop_hung(60.3)] == [("b", 2.0)] * 2

    assert desk.drop_hung(61.1) == []  # there is room
    assert desk.receiving.may_begin()


def test_a_receive_under_way_has_room():
    desk = make_desk(prefetch=6)
    receive(desk, "a")
    assert desk.next(0.0) == ["a"]
    assert desk.receiving.begin(1.0)
    assert desk.receiving.full

    assert desk.drop_hung(9000.0) == []


def test_an_outage_spends_no_receive_on_looks_that_hang(desk):
    bring_down(desk)
    desk.next(1.0)
    for ids in ("fgh", "ijk", "l"):
        receive(desk, *ids, now=2.0)
    assert desk.receiving.full

    assert desk.drop_hung(9000.0) == []


def test_an_outage_in_which_looks_at_all_ids_in_hand_hang_receives_another_id(desk):
    receive(desk, "a", "b", "x")
    assert [*desk.next(0.0), *desk.next(0.0)] == ["a", "b"]  # they hang
    for now in (0.0, 9.0):
        fail(desk, now, own=False)
    assert desk.breaker.open
    (probe,) = desk.next(desk.next_at())
    desk.begin_get([probe], 20.0)  # it hangs, too

    assert desk.next(99.0) == []

    assert desk.receiving.may_begin()


def test_an_outage_with_no_other_id_to_look_at_makes_room_for_one():
    desk = make_desk(prefetch=6)
    receive(desk, "a", "a", "a")
    assert desk.next(0.0) == ["a"]  # it hangs
    receive(desk, "a", "b", now=0.1)
    for now in (0.1, 9.0):
        fail(desk, now, own=False)
    assert desk.breaker.open
    assert desk.drop_hung(9000.0) == []  # there is b
    desk.drop(lambda event: event.id == "b")
    assert desk.receiving.full

    assert len(desk.drop_hung(9000.0)) == 4


def test_a_bulk_get_can_end_after_its_events_were_handed_back():
    desk = make_desk(bulk_size=2)
    receive(desk, "a", "b")
    reserved = desk.next(0.0)
    desk.begin_get(reserved, 0.0)
    desk.drop(lambda _: True)

    desk.look_again(reserved, 0.0, alone=True)

    assert desk.receiving.live_at() < 0
    assert desk.next_at() is None
    assert desk.inbox.ids == 0


def test_what_waited_for_the_end_of_an_outage_is_a_backlog(desk):
    bring_down(desk)
    assert desk.receiving.live_at() < 0

    now = desk.next_at()
    succeed(desk, now)

    for _ in range(len(desk.inbox.expiring(math.inf))):
        assert desk.receiving.live_at() == math.inf
        succeed(desk, now)
    assert desk.receiving.live_at() < 0


def test_in_a_backlog_the_limit_holds_even_when_the_queue_is_empty():
    desk = make_desk(limit=Limit(64))
    receive(desk, "a", "b", "c")
    receive(desk, "d", "e", "f")
    receive(desk)
    receive(desk, "live", now=1.0)

    assert [len(desk.next(1.0)) for _ in "ab"] == [1, 0]


def test_the_look_that_ends_a_backlog_lets_others_begin_at_once():
    desk = make_desk(limit=Limit(64))
    receive(desk, "a", "b", "c")
    receive(desk, "d", "e", "f")
    receive(desk)
    receive(desk, "g", "h", now=1.0)

    now = 1.0
    for _ in "abcde":
        now = max(now, desk.next_at())
        (id,) = desk.next(now)
        desk.limit.over(id)
        succeed(desk, now, id)
    now = desk.next_at()

    assert [desk.next(now) for _ in "fgh"] == [["f"], ["g"], ["h"]]


def test_a_receive_that_began_without_room_reserves_none(desk):
    for _ in range(3):
        desk.receiving.begin(0.0)
    assert desk.receiving.begin(0.0) == 0

    for _ in range(3):
        desk.end_receive([], 0.0, received=0)

    assert [desk.receiving.begin(0.0) for _ in range(4)] == [3, 3, 3, 0]


def test_after_a_full_batch_one_receive_at_a_time_is_not_enough(desk):
    assert not desk.receiving.may_help()

    receive(desk, "a", "b", "c")
    assert desk.receiving.may_help()

    receive(desk, "d", "e")
    assert not desk.receiving.may_help()


def test_malformed_messages_count_for_a_full_batch(desk):
    receive(desk, "a", received=3)

    assert desk.receiving.may_help()


def test_a_full_batch_of_one_message_is_not_a_backlog():
    desk = make_desk(batch_size=1)
    receive(desk, "a")

    assert not desk.receiving.may_help()


def test_no_second_receive_begins_without_room_for_it():
    desk = make_desk(prefetch=5)
    receive(desk, "a", "b", "c")

    assert not desk.receiving.may_help()


def test_a_closed_desk_returns_what_a_receive_brings(desk):
    desk.receiving.begin(0.0)
    desk.receiving.close()
    events = [held("a"), held("b", "m2")]

    assert desk.end_receive(events, 0.0, received=2) == events

    assert len(desk.inbox) == 0
    assert desk.newly_due() == 0
    assert desk.receiving.begin(0.0) == 3  # the receive is over nevertheless


# What can be received in an outage


def test_in_an_outage_nothing_is_received_until_more_looks_failed_than_ids_are_held(desk):
    bring_down(desk)
    assert (desk.breaker.failures, desk.inbox.ids) == (1, 1)
    assert not desk.receiving.may_begin()

    (id,) = desk.next(1.0)
    assert not desk.receiving.may_begin()
    fail(desk, 1.0, id)
    assert desk.receiving.may_begin()


def test_in_an_outage_nothing_is_received_while_a_look_is_under_way(desk):
    bring_down(desk)
    fail(desk, 1.0)
    assert desk.receiving.may_begin()

    assert desk.next(3.0) == ["e"]

    assert not desk.receiving.may_begin()


def test_in_an_outage_no_second_receive_begins(desk):
    for now in (0.0, REST):
        receive(desk, "a", "b", "c", now=now)
        for (id,) in [desk.next(now) for _ in "abc"]:
            fail(desk, now, id)
    for now in (REST + 1.0, REST + 3.0):
        fail(desk, now)

    assert desk.receiving.may_begin()
    assert not desk.receiving.may_help()


def test_in_an_outage_one_message_is_received_at_a_time(desk):
    bring_down(desk)
    for now in (1.0, 3.0):
        fail(desk, now)

    assert desk.receiving.begin(0.0) == 1
    desk.end_receive([held("new", now=3.0)], 3.0, received=1)
    assert desk.breaker.failures > desk.inbox.ids
    assert not desk.receiving.may_begin()  # `new` is due
    fail(desk, 7.0)
    assert desk.receiving.may_begin()


def test_in_an_outage_a_full_desk_receives_nothing():
    desk = make_desk(prefetch=3)
    bring_down(desk)
    fail(desk, 1.0)

    assert desk.breaker.failures > desk.inbox.ids
    assert not desk.receiving.may_begin()


# Which ids are next


def test_the_id_that_has_been_due_the_longest_is_next(desk):
    receive(desk, "late", now=2.0)
    receive(desk, "early", now=1.0)

    assert desk.next_at() == 1.0
    assert desk.next(0.9) == []
    assert desk.next(2.0) == ["early"]
    assert desk.next(2.0) == ["late"]
    assert desk.next(2.0) == []
    assert desk.next_at() is None


def test_without_an_early_look_an_id_is_next_when_its_hold_is_over():
    desk = make_desk(early_look=False)
    receive(desk, "a", hold=5.0)

    assert desk.next_at() == 5.5
    assert desk.next(5.4) == []
    assert desk.next(5.5) == ["a"]


def test_an_id_with_a_look_under_way_is_not_next(desk):
    receive(desk, "a")
    assert desk.next(0.0) == ["a"]
    receive(desk, "a", now=1.0)

    assert desk.next(1.0) == []


def test_ids_that_are_due_are_next_with_others_up_to_the_size_of_a_bulk_get():
    desk = make_desk(bulk_size=2)
    receive(desk, "a", "b", "c")

    assert desk.next(0.0) == ["a", "b"]
    assert desk.next(0.0) == ["c"]


def test_after_stop_bulk_each_id_is_next_alone_until_that_time():
    desk = make_desk(bulk_size=2)
    receive(desk, "a", "b", "c", now=1.0)
    desk.gets.stop_bulk(3.0, 2)

    assert desk.next(2.9) == ["a"]
    assert desk.next(3.0) == ["b", "c"]


def test_in_an_outage_each_id_is_next_alone():
    desk = make_desk(bulk_size=2)
    bring_down(desk)
    receive(desk, "f", "g", now=1.0)

    assert len(desk.next(1.0)) == 1


def test_ids_of_a_bulk_get_that_decided_nothing_are_next_one_by_one():
    desk = make_desk(bulk_size=3)
    receive(desk, "a", "b", "c")
    ids = desk.next(0.0)
    desk.begin_get(ids, 0.0)
    desk.newly_due()

    desk.look_again(ids, 1.0, alone=True)

    assert desk.newly_due() == 3
    assert desk.next_at() == 1.0
    assert [desk.next(1.0) for _ in range(4)] == [["a"], ["b"], ["c"], []]


def test_ids_to_look_at_alone_are_newly_due_beside_the_others():
    desk = make_desk(bulk_size=2)
    receive(desk, "a", "b")
    ids = desk.next(0.0)
    receive(desk, "c", now=1.0)

    desk.look_again(ids, 1.0, alone=True)

    assert desk.newly_due() == 5


def test_gets_are_spread_evenly():
    desk = make_desk(per_second=2, bulk_size=2)
    receive(desk, "a", "b", "c")

    assert desk.next(0.0) == ["a", "b"]
    assert desk.next(0.4) == []
    assert desk.next_at() == 0.5
    assert desk.next(0.5) == ["c"]


@pytest.mark.parametrize(("again", "at"), [(False, 0.5), (True, 1.0)])
def test_only_a_get_after_a_conflict_counts_for_the_pace_once_more(again, at):
    desk = make_desk(per_second=2)
    receive(desk, "a", "b")
    desk.next(0.0)

    desk.begin_get(["a"], 0.0, again=again)

    assert desk.next_at() == at


# Which ids are next in an outage


def test_in_an_outage_one_look_is_under_way_at_a_time_with_a_pause_before_each(desk):
    bring_down(desk)
    receive(desk, "f")

    assert desk.next_at() == 1.0
    assert desk.next(0.9) == []
    assert desk.next(1.0) == ["f"]
    assert desk.next(60.0) == []
    assert desk.next_at() == 1.0 + HUNG

    fail(desk, 2.0, "f")
    assert desk.next_at() == 4.0


def test_if_the_only_look_of_an_outage_hangs_an_event_is_received_and_looked_at(desk):
    bring_down(desk)
    assert desk.next(1.0) == ["e"]
    assert desk.next_at() == 1.0 + HUNG
    assert not desk.receiving.may_begin()
    desk.newly_due()

    assert desk.next(1.0 + HUNG) == []

    assert desk.newly_due() is not None
    assert desk.next_at() is None
    assert desk.breaker.failures == 2
    assert desk.receiving.may_begin()
    receive(desk, "b", now=70.0)
    assert desk.next(70.0) == ["b"]

    assert not fail(desk, 71.0, "e").outage  # that was the look that hung
    succeed(desk, 72.0, "b")
    assert not desk.breaker.open


def test_in_an_outage_the_id_that_was_parked_first_is_next_if_none_is_due(desk):
    bring_down(desk)
    receive(desk, "f")
    assert fail(desk, 1.0).at_fault == ()

    assert [desk.inbox.parked(), desk.next(3.0)] == ["e", ["e"]]


def test_the_end_of_an_outage_makes_parked_ids_due(desk):
    bring_down(desk)
    receive(desk, "f")
    desk.newly_due()

    succeed(desk, 1.0)  # f's

    assert not desk.breaker.open
    assert desk.newly_due() == 1
    assert desk.next(1.0) == ["e"]


# What a success means


def test_an_early_look_is_the_first_to_read_an_event_and_settles_none(desk):
    events = receive(desk, "a", hold=5.0)
    desk.newly_due()

    settled = succeed(desk, 0.0)

    assert (settled.events, settled.first) == ([], events)
    assert len(desk.inbox) == 1
    assert desk.newly_due() == 1


def test_a_look_after_the_hold_settles_an_event(desk):
    events = receive(desk, "a", hold=5.0)
    succeed(desk, 0.0)
    desk.newly_due()

    settled = succeed(desk, 5.5)

    assert (settled.events, settled.first) == (events, [])
    assert len(desk.inbox) == 0
    assert desk.newly_due() == 0


def test_an_event_that_came_during_the_get_is_not_settled(desk):
    (first,) = receive(desk, "a")
    desk.next(0.0)
    desk.begin_get(["a"], 0.0)
    receive(desk, "a", now=1.0)

    settled = desk.succeeded("a", 2.0, started=0.0, found=True, cached=True)
    assert settled.events == [first]
    assert desk.next(2.0) == ["a"]


# What a failure means


def test_the_events_of_a_look_that_fails_by_itself_are_handed_back_if_no_id_is_good(desk):
    events = receive(desk, "a", "a")

    failure = fail(desk, 0.0)

    (verdict,) = failure.at_fault
    assert (verdict.id, verdict.events, verdict.pause) == ("a", events, 2.0)
    assert not failure.outage
    assert len(desk.inbox) == 0


@pytest.fixture
def knowing(desk):
    """A desk that knows good ids."""
    desk.experiment.learn(["good0", "good1", "good2", "good3"], 0.0)
    return desk


def test_the_events_of_a_failed_look_are_held_until_a_control_look_succeeds(knowing):
    events = receive(knowing, "a", "a")

    assert fail(knowing, 0.0) == Failure()
    assert len(knowing.inbox) == 2
    assert knowing.next_at() == GRACE
    (control,) = knowing.next(GRACE)
    assert control == knowing.experiment.control

    (verdict,) = succeed(knowing, GRACE, control).at_fault
    assert verdict.events == events
    assert len(knowing.inbox) == 0


def test_an_id_that_fails_for_a_reason_not_its_own_is_held_and_looked_at_again(knowing):
    receive(knowing, "a")
    fail(knowing, 0.0, own=False)
    knowing.newly_due()

    (verdict,) = succeed(knowing, GRACE).at_fault

    assert (verdict.id, verdict.events, verdict.pause) == ("a", [], 2.0)
    assert str(verdict.error) == "a"
    assert knowing.next_at() == GRACE + 2.0
    assert knowing.newly_due() == 1  # a thread that waits must know
    assert knowing.next(GRACE + 2.0) == ["a"]


def test_a_failure_that_can_be_the_first_of_an_outage_costs_no_receive_even_without_room():
    desk = make_desk(prefetch=3)
    receive(desk, "a")
    assert desk.receiving.full

    (verdict,) = fail(desk, 0.0, own=False).at_fault

    assert (verdict.events, verdict.pause) == ([], 2.0)
    assert fail(desk, 2.0, own=False).outage


def test_an_id_that_is_stuck_is_handed_back_if_there_is_no_room():
    desk = make_desk(prefetch=6)
    desk.experiment.learn(["good"], 0.0)
    event, *_ = receive(desk, "a", "b", "c")
    receive(desk, "d")
    fail(desk, 0.0, own=False, retry_after=9.0)
    assert desk.receiving.full

    (verdict,) = succeed(desk, GRACE).at_fault

    assert verdict.events == [event]
    assert verdict.pause == 9.0


def test_an_id_that_was_stuck_and_handed_back_begins_again():
    desk = make_desk(prefetch=6)
    desk.experiment.learn(["good"], 0.0)
    receive(desk, "a", "b", "c")
    receive(desk, "d")
    fail(desk, 0.0, own=False)
    for now in (GRACE, 1.0, 1.0, 1.0):  # the control, and the others
        succeed(desk, now)

    receive(desk, "a", now=10.0)
    fail(desk, 10.0, own=False)
    (verdict,) = succeed(desk, 20.0).at_fault

    assert (verdict.events, verdict.pause) == ([], 2.0)  # held, with the first pause


def test_control_looks_that_fail_begin_an_outage_that_spends_no_receive(knowing):
    receive(knowing, "a")
    failures = [fail(knowing, now) for now in (0.0, 0.1, 0.1, 0.1)]

    assert [failure.at_fault for failure in failures] == [()] * 4
    assert [failure.begins for failure in failures] == [False, False, False, True]
    assert failures[3].pause == 1.0
    assert len(knowing.inbox) == 1


def test_in_an_outage_good_ids_and_ids_in_hand_are_tried_in_turn(knowing):
    receive(knowing, "a", "b")
    for now in (0.0, 0.0, 0.1, 0.1, 0.1):
        fail(knowing, now)
    assert knowing.breaker.open

    tried = []
    for _ in range(6):
        now = knowing.next_at()
        tried.extend(knowing.next(now))
        fail(knowing, now, tried[-1])

    assert tried == ["good0", "a", "good1", "b", "good2", "a"]


def test_a_source_that_asks_for_fewer_gets_is_no_question_for_a_good_id(knowing):
    receive(knowing, "a", "b")

    (verdict,) = fail(knowing, 0.0, own=False, limited=True, retry_after=9.0).at_fault

    assert (verdict.id, verdict.events, verdict.pause) == ("a", [], 9.0)
    assert knowing.experiment.next_at() == math.inf
    assert knowing.next(0.0) == ["b"]
    assert knowing.next(8.9) == []
    assert knowing.next(9.0) == ["a"]


def test_a_source_that_only_asks_for_fewer_gets_has_an_outage(knowing):
    receive(knowing, "a", "b", "c")
    failures = [fail(knowing, now, own=False, limited=True) for now in (0.0, 0.0, 0.0, 10.0)]

    assert [failure.begins for failure in failures] == [False, False, False, True]


def test_a_good_id_that_ends_an_outage_does_not_end_the_next_one(knowing):
    receive(knowing, "a", "b")
    now, ended_by = 0.0, []
    for _ in range(2):
        while not knowing.breaker.open:
            fail(knowing, now)
            now = max(now, knowing.next_at())
        ended_by += knowing.next(now)
        succeed(knowing, now, ended_by[-1])

    assert ended_by == ["good0", "a"]


def test_in_an_outage_a_thread_waits_while_looks_at_all_good_ids_are_under_way(desk):
    desk.experiment.learn(["good"], 0.0)
    receive(desk, "good")
    assert desk.next(0.0) == ["good"]
    desk.experiment.learn(["x", "y", "z"], 0.0)
    receive(desk, "a")
    for now in (0.0, 0.1, 0.1, 0.1):
        fail(desk, now)
    assert desk.breaker.open
    desk.drop(lambda event: event.id == "a")
    for id in "xyz":
        desk.experiment.passed(id, -1.0, present=False)

    assert desk.breaker.look_at < 2.0
    assert desk.next(2.0) == []
    assert desk.next_at() is None


def test_ids_that_failed_while_the_sink_hangs_are_looked_at_again_after_a_minute(desk):
    """The sink was asked for good ids, and nothing else tells what is wrong."""
    assert desk.experiment.wants_ids("a", 0.0)
    receive(desk, "b")
    assert fail(desk, 0.0) == Failure()
    assert desk.next(HUNG - 1.0) == []

    assert desk.next(HUNG) == ["b"]


def test_a_look_that_tests_the_source_is_not_early(knowing):
    receive(knowing, "good3", hold=5.0)
    ids = knowing.next(0.0)
    assert knowing.begin_get(ids, 0.0) == {"good3"}
    knowing.too_early("good3", 0.0, cached=True)
    receive(knowing, "a")
    fail(knowing, 0.0)

    (control,) = knowing.next(0.1)

    assert control == knowing.experiment.control == "good3"
    assert knowing.begin_get([control], 0.1) == set()


def test_a_look_that_is_put_off_after_its_events_were_handed_back_is_over(knowing):
    receive(knowing, "a")
    fail(knowing, 0.0)
    (control,) = knowing.next(GRACE)
    knowing.begin_get([control], GRACE)
    receive(knowing, "a", now=GRACE)
    assert knowing.next(GRACE) == ["a"]
    knowing.drop(lambda _: True)

    knowing.look_again(["a"], GRACE)

    assert knowing.inbox.ids == 1
    assert succeed(knowing, GRACE, control).at_fault == []


def test_an_id_that_waits_for_a_control_is_looked_at_again_each_minute_if_all_others_hang(desk):
    receive(desk, "good")
    succeed(desk, 0.0)
    receive(desk, "good", now=1.0)
    assert desk.next(1.0) == ["good"]  # and it hangs
    receive(desk, "a", now=1.0)
    assert desk.next(1.0) == ["a"]

    now = 1.0
    for _ in range(2):
        fail(desk, now, "a")
        asked = desk.next_at()
        assert desk.next(asked) == []
        assert desk.next(asked + HUNG - 1.0) == []
        now = asked + HUNG
        assert desk.next(now) == ["a"]


def test_a_look_in_an_outage_is_not_early(desk):
    bring_down(desk)
    receive(desk, "f", hold=5.0)

    assert desk.begin_get(desk.next(1.0), 1.0) == set()


def test_an_early_look_that_is_fine_ends_a_suspicion(knowing):
    receive(knowing, "a", hold=5.0)
    fail(knowing, 0.0)
    receive(knowing, "a", now=0.05, hold=5.0)
    (id,) = knowing.next(0.05)
    knowing.begin_get([id], 0.05)

    knowing.too_early(id, 0.05, cached=False)

    assert knowing.experiment.next_at() == math.inf
    assert len(knowing.inbox) == 2


def test_a_suspect_with_a_look_under_way_is_not_judged(knowing):
    receive(knowing, "a")
    fail(knowing, 0.0)
    receive(knowing, "a", now=0.05)
    (id,) = knowing.next(0.05)
    assert id == "a"

    assert succeed(knowing, 0.1).at_fault == []
    assert len(knowing.inbox) == 2


def test_the_failure_that_shows_an_outage_hands_nothing_back_and_begins_a_pause(desk):
    failure = bring_down(desk)

    assert (failure.at_fault, failure.outage, failure.begins) == ((), True, True)
    assert failure.pause == 1.0
    assert len(desk.inbox) == 1


def test_a_later_failure_of_an_outage_lengthens_the_pause(desk):
    bring_down(desk)

    failure = fail(desk, 1.0)

    assert (failure.at_fault, failure.outage, failure.begins) == ((), True, False)
    assert failure.pause == 2.0


def test_a_failure_of_a_look_that_began_before_the_outage_shows_nothing_and_is_held(desk):
    receive(desk, "before")
    desk.next(0.0)
    bring_down(desk)

    failure = fail(desk, 0.5, "before")

    assert (failure.at_fault, failure.outage, failure.begins) == ((), False, False)
    assert desk.next_at() == 1.0
    assert len(desk.inbox) == 2


def test_without_good_ids_an_ids_second_failure_for_a_reason_not_its_own_begins_an_outage(desk):
    receive(desk, "a")
    (verdict,) = fail(desk, 0.0, own=False).at_fault
    assert verdict.events == []

    assert fail(desk, 2.0, own=False).begins


def test_an_outage_begins_with_the_pause_that_the_source_asks_for(desk):
    receive(desk, "a", "a")
    fail(desk, 0.0, own=False)

    assert fail(desk, 2.0, own=False, retry_after=60.0).pause == 60.0
    assert desk.next_at() == 62.0


# What a refused deletion means


@pytest.fixture
def strict():
    return make_desk(guard=Guard(max_share=0.0, min_deleted=1))


def refuse(desk, now=0.0):
    (id,) = desk.next(now)
    desk.begin_get([id], now)
    assert not desk.guard.allows_deletion()
    desk.refused(id, now)


def test_after_a_refused_deletion_nothing_is_received_or_looked_at(strict):
    receive(strict, "a", "b")
    refuse(strict)

    assert not strict.receiving.may_begin()
    assert (strict.next(9.0), strict.next_at()) == ([], None)
    assert strict.inbox.looking() == 0
    assert len(strict.inbox) == 2


def test_tests_of_the_source_go_on_when_a_look_by_hand_is_refused(strict):
    bring_down(strict)
    (probe,) = strict.next(1.0)
    assert not strict.guard.allows_deletion()

    assert strict.begin_get([probe], 1.0) == set()


def test_what_waited_for_a_resume_is_a_backlog_whatever_was_refused(strict):
    receive(strict, "a", "b")
    assert not strict.guard.allows_deletion()  # of a look by hand

    resume(strict, 60.0)

    for _ in "ab":
        assert strict.receiving.live_at() == math.inf
        succeed(strict, 60.0)
    assert strict.receiving.live_at() < 0


def test_resume_makes_the_refused_ids_due(strict):
    receive(strict, "a", "b")
    refuse(strict)
    strict.newly_due()

    resume(strict, 3.0)

    assert strict.newly_due() == 2
    assert strict.receiving.may_begin()
    assert [strict.next(3.0), strict.next(3.0)] == [["b"], ["a"]]


def test_a_refused_deletion_ends_an_outage(strict):
    bring_down(strict)
    refuse(strict, 1.0)

    assert not strict.breaker.open


def test_the_order_of_the_next_outage_does_not_change_with_a_refused_deletion(strict):
    held_first = strict.breaker._held_first
    bring_down(strict)

    refuse(strict, 1.0)

    assert strict.breaker._held_first == held_first


def test_ids_that_are_put_off_can_share_a_look_again():
    desk = make_desk(bulk_size=2, guard=Guard(max_share=0.0, min_deleted=1))
    receive(desk, "a", "b")
    assert desk.next(0.0) == ["a", "b"]
    assert not desk.guard.allows_deletion()
    assert desk.begin_get(["a", "b"], 0.0) is None

    resume(desk, 0.0)

    assert desk.next(0.0) == ["a", "b"]


@pytest.mark.parametrize(("number", "is_backlog"), [(LIVE, False), (LIVE + 1, True)])
def test_many_ids_that_are_due_again_are_a_backlog(number, is_backlog):
    ids = [f"p{each:02}" for each in range(number)]
    desk = make_desk(prefetch=100, batch_size=10, bulk_size=20)
    receive(desk, *ids[:6])
    receive(desk, *ids[6:])
    assert desk.next(0.0) + desk.next(0.0) == ids

    desk.look_again(ids, 0.0)

    assert (desk.receiving.live_at() == math.inf) == is_backlog


def test_a_refused_deletion_ends_all_questions_until_resume(strict):
    strict.experiment.learn(["good"], 0.0)
    receive(strict, "a")
    fail(strict, 0.0)
    refuse(strict, GRACE)  # the control

    resume(strict, 3.0)

    assert strict.experiment.control is None
    assert strict.next(3.0) == ["a"]


def test_what_was_refused_is_looked_at_again_if_another_process_was_told_to_go_on(strict):
    receive(strict, "a")
    refuse(strict)
    strict.guard.load(BELIEVES)
    strict.newly_due()

    resume(strict, 3.0)

    assert strict.newly_due() == 1
    assert strict.next(3.0) == ["a"]


def test_a_look_that_was_refused_just_before_a_resume_is_made_again(strict):
    receive(strict, "a")
    (id,) = strict.next(0.0)
    strict.begin_get([id], 0.0)
    assert not strict.guard.allows_deletion()
    resume(strict, 1.0)
    strict.newly_due()

    strict.refused(id, 1.0)

    assert strict.newly_due() == 1
    assert strict.next(1.0) == ["a"]


def test_a_resume_wakes_all_even_if_nothing_was_refused_here(strict):
    strict.guard.allows_deletion()
    receive(strict, "a")
    strict.guard.load(BELIEVES)
    strict.newly_due()

    resume(strict, 3.0)

    assert strict.newly_due() == 1


def test_resume_without_a_refused_deletion_leaves_an_outage_as_it_is(desk):
    bring_down(desk)

    resume(desk, 0.5)

    assert desk.breaker.open
    assert desk.next(0.5) == []


# Waking


def test_newly_due_counts_what_has_come_since_the_last_call(desk):
    receive(desk, "a", "b")
    receive(desk, "c")

    assert [desk.newly_due(), desk.newly_due()] == [3, None]


def test_ids_that_stop_resting_are_newly_due():
    desk = make_desk(prefetch=20)
    receive(desk, "a", "b", "c")
    for _ in "abc":
        succeed(desk, 0.0)
    receive(desk, "a", "b", "c", now=1.0)
    assert desk.next_at() == REST
    desk.newly_due()

    receive(desk, now=2.0)

    assert desk.newly_due() == 3
    assert desk.next_at() == 1.0


def test_without_room_as_many_ids_as_there_are_threads_stop_resting_and_are_newly_due():
    desk = make_desk(prefetch=5)
    receive(desk, "a", "b", "c")
    for _ in "abc":
        succeed(desk, 0.0)
    desk.newly_due()

    receive(desk, "a", "b", "c", now=1.0)

    assert desk.receiving.full
    assert desk.newly_due() == 3 + 2
    assert [len(desk.next(1.0)) for _ in "abc"] == [1, 1, 0]
    assert desk.next_at() == REST


def test_full_batches_of_two_are_a_backlog():
    desk = make_desk(batch_size=2)
    receive(desk, "a", "b")

    assert desk.receiving.may_help()


def test_a_get_counts_for_the_pace_again_only_after_a_conflict():
    desk = make_desk(per_second=2)
    receive(desk, "a", "b")
    ids = desk.next(0.0)

    desk.begin_get(ids, 0.0)
    assert desk.next_at() == 0.5

    desk.begin_get(ids, 0.2, again=True)
    assert desk.next_at() == 1.0


def test_help_is_wanted_once_after_each_receive_that_leaves_a_backlog():
    desk = make_desk(prefetch=20)
    assert not desk.receiving.wants_help()

    receive(desk, "a", "b", "c")
    assert [desk.receiving.wants_help(), desk.receiving.wants_help()] == [True, False]

    receive(desk, "d", "e", "f")
    assert [desk.receiving.wants_help(), desk.receiving.wants_help()] == [True, False]


# GETs that no event asked for


def test_a_get_aside_lets_looks_that_are_due_go_first_for_a_while(desk):
    assert desk.begin_aside(0.0, 0.0) == 0.0
    receive(desk, "p1")

    assert desk.begin_aside(0.0, 0.24) == YIELD
    assert desk.begin_aside(0.0, MAX_YIELD) == 0.0
    succeed(desk, 0.0)
    assert desk.begin_aside(0.0, 0.0) == 0.0


def test_a_get_aside_counts_for_the_pace():
    desk = make_desk(per_second=10)
    assert desk.begin_aside(0.0, 0.0) == 0.0
    receive(desk, "p1")

    assert desk.next(0.0) == []
    assert desk.begin_aside(0.06, 0.0) == pytest.approx(0.04)
    assert desk.next(0.1) == ["p1"]


def test_no_get_aside_begins_in_an_outage_or_after_a_refused_deletion():
    desk = make_desk()
    bring_down(desk)
    assert desk.begin_aside(0.0, 9.0) == ASIDE_PAUSE

    guard = Guard(min_deleted=1, max_share=0.0)
    guard.allows_deletion()
    assert guard.tripped
    assert make_desk(guard=guard).begin_aside(0.0, 9.0) == ASIDE_PAUSE
