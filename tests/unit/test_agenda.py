"""An agenda knows which look is due first; a rest knows which ids wait for more of their events."""

from __future__ import annotations

import math

import pytest

from change_events._consumer.agenda import REST, Agenda, Rest


@pytest.fixture
def agenda():
    return Agenda()


def test_an_empty_agenda_has_no_next_look(agenda):
    assert agenda.next() is None
    assert agenda.under_way() == 0
    assert agenda.at("a") == math.inf
    assert not agenda.is_under_way("a")


def test_the_look_that_is_due_first_is_next(agenda):
    agenda.add("late", 3.0)
    agenda.add("early", 1.0)

    assert agenda.next() == (1.0, "early")
    assert agenda.at("late") == 3.0


def test_next_returns_the_same_look_until_it_begins(agenda):
    agenda.add("a", 1.0)

    assert [agenda.next(), agenda.next()] == [(1.0, "a"), (1.0, "a")]


@pytest.mark.parametrize("times", [(1.0, 3.0), (3.0, 1.0)])
def test_an_id_has_one_look_at_the_earliest_of_its_times(agenda, times):
    for at in times:
        agenda.add("a", at)

    assert agenda.next() == (1.0, "a")
    agenda.begin("a", 0.0)
    agenda.cancel("a")
    agenda.end("a")
    assert agenda.next() is None


def test_only_a_time_before_the_earliest_makes_a_look_due_sooner(agenda):
    assert [agenda.add("a", at) for at in (2.0, 2.0, 3.0, 1.0)] == [True, False, False, True]


def test_an_id_is_idle_without_a_look_and_waits_once_its_look_is_due(agenda):
    agenda.add("due", 1.0)
    agenda.add("later", 3.0)
    agenda.add("under way", 1.0)
    agenda.begin("under way", 0.0)

    ids = ["due", "later", "under way", "none"]
    assert [id for id in ids if agenda.waits(id, 1.0)] == ["due"]
    assert [id for id in ids if agenda.is_idle(id)] == ["none"]


def test_a_look_under_way_is_not_next(agenda):
    agenda.add("a", 1.0)
    agenda.add("b", 2.0)
    agenda.begin("a", 0.0)

    assert agenda.is_under_way("a")
    assert agenda.under_way() == 1
    assert agenda.next() == (2.0, "b")


def test_a_look_that_ended_is_no_longer_under_way(agenda):
    agenda.begin("a", 0.0)
    agenda.begin("b", 0.0)
    agenda.end("a")

    assert not agenda.is_under_way("a")
    assert agenda.under_way() == 1


def test_begun_names_the_looks_under_way_that_began_before_a_time(agenda):
    for id, now in (("a", 0.0), ("b", 1.0), ("over", 0.0), ("c", 2.0)):
        agenda.begin(id, now)
    agenda.end("over")

    assert agenda.begun(2.0) == ["a", "b"]


def test_a_cancelled_look_is_not_next(agenda):
    agenda.add("a", 1.0)
    agenda.add("b", 2.0)
    agenda.cancel("a")
    agenda.cancel("unknown")

    assert agenda.at("a") == math.inf
    assert agenda.next() == (2.0, "b")


def test_a_look_that_was_cancelled_can_be_added_at_a_later_time(agenda):
    agenda.add("a", 1.0)
    agenda.cancel("a")
    agenda.add("a", 5.0)

    assert agenda.next() == (5.0, "a")


def test_a_look_added_while_another_is_under_way_is_next_when_it_is_added_again(agenda):
    agenda.begin("a", 0.0)
    agenda.add("a", 1.0)
    assert agenda.next() is None
    assert agenda.at("a") == 1.0

    agenda.end("a")
    agenda.add("a", 1.0)

    assert agenda.next() == (1.0, "a")


def test_a_look_added_while_another_is_under_way_is_next_when_that_ends(agenda):
    agenda.begin("a", 0.0)
    agenda.add("a", 1.0)

    agenda.end("a")

    assert agenda.next() == (1.0, "a")


# Rest


@pytest.fixture
def rest():
    return Rest()


def test_an_id_that_was_never_looked_at_does_not_rest(rest):
    assert rest.until("a", 1.0) == 1.0
    assert rest.ids == []


def test_an_id_rests_until_five_seconds_after_the_start_of_its_last_get(rest):
    rest.get_started("a", 1.0)
    rest.get_started("a", 2.0)

    assert rest.until("a", 3.0) == 2.0 + REST
    assert rest.ids == ["a"]


def test_an_id_whose_look_is_due_later_anyway_does_not_rest(rest):
    rest.get_started("a", 0.0)

    assert rest.until("a", REST) == REST
    assert rest.ids == []


def test_an_id_that_stops_resting_is_due_at_the_earliest_of_its_times(rest):
    rest.get_started("a", 0.0)
    rest.until("a", 2.0)
    rest.until("a", 1.0)
    rest.until("a", 3.0)

    assert rest.stop("a") == 1.0
    assert rest.ids == []


def test_an_id_whose_get_starts_no_longer_rests(rest):
    rest.get_started("a", 0.0)
    rest.until("a", 1.0)
    rest.get_started("a", 2.0)

    assert rest.ids == []


@pytest.mark.parametrize("end", [Rest.look_over, Rest.forget])
def test_an_id_that_stopped_resting_makes_room_until_its_look_is_over(rest, end):
    for id in ("a", "b"):
        rest.get_started(id, 0.0)
        rest.until(id, 1.0)
    assert rest.making_room == 0

    rest.stop("a", to_make_room=True)
    rest.stop("b")
    assert rest.making_room == 1

    end(rest, "a")
    assert rest.making_room == 0


def test_a_forgotten_id_does_not_rest(rest):
    rest.get_started("a", 0.0)
    rest.until("a", 1.0)
    rest.forget("a")
    rest.forget("unknown")

    assert rest.ids == []


def test_a_get_is_remembered_for_five_seconds(rest):
    rest.get_started("a", 0.0)
    rest.get_started("b", REST)
    assert rest.until("a", 0.0) == REST

    rest.get_started("b", REST + 0.1)

    assert rest.until("a", 0.0) == 0.0


def test_a_get_is_forgotten_though_another_id_had_a_get_before_and_after_it(rest):
    for id, now in (("a", 0.0), ("b", 1.0), ("a", 4.0), ("c", 1.1 + REST)):
        rest.get_started(id, now)

    assert rest.until("b", 0.0) == 0.0
    assert rest.until("a", 0.0) == 4.0 + REST
