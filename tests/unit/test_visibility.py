"""Held messages stay invisible to other workers; the others are handed back."""

from __future__ import annotations

import logging
import math

import pytest
from hands import message, messages, opened

from change_events._consumer.experiment import Failed


@pytest.fixture
def hands():
    return opened()


# Extending


def test_messages_that_would_become_visible_are_extended_ten_at_a_time(hands):
    hands.receive(*messages(12))
    hands.now = 130.0
    hands.receive(message("p2", 12))

    hands.visibility.extend(170.0)

    first, second = hands.queue.hidden
    assert first == [(f"h{number}", 60) for number in range(10)]
    assert second == [("h10", 60), ("h11", 60)]
    assert {event.expires for event in hands.held().values()} == {190.0}


def test_a_message_is_extended_again_after_a_call_that_failed(hands):
    hands.receive(message())
    hands.queue.broken = True
    hands.now = 130.0

    hands.visibility.extend(170.0)
    assert hands.held()["m1"].expires == 160.0

    hands.queue.broken = False
    hands.visibility.extend(170.0)
    assert hands.queue.hidden == [[("h1", 60)]]


def test_a_message_that_can_not_be_extended_for_now_keeps_its_time(hands):
    hands.receive(*messages(3))
    hands.queue.failed = {"h1"}
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert [event.expires for event in hands.held().values()] == [190.0, 160.0, 190.0]


def test_a_message_that_can_never_be_extended_is_no_longer_held(hands):
    hands.receive(*messages(3))
    hands.queue.refused = {"h1"}
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert list(hands.held()) == ["m0", "m2"]
    assert hands.counts()["held"] == 2
    assert hands.changes == [1, 1]  # a look that waited behind m1's can be due sooner


def test_after_a_call_that_failed_no_further_message_is_extended(hands):
    hands.receive(*messages(25))
    hands.queue.broken = True
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert hands.queue.calls == 1


def test_it_is_known_for_how_many_messages_sqs_has_answered(hands):
    hands.receive(*messages(35))
    change = hands.queue.change_visibility

    def change_twice(deliveries):
        hands.queue.broken = hands.queue.calls == 2
        return change(deliveries)

    hands.queue.change_visibility = change_twice

    assert hands.visibility.extend(170.0) == 20


def test_a_message_is_handed_back_after_eleven_hours(hands):
    hands.receive(message())
    hands.now = 200.0
    hands.receive(message("p2", 2))
    hands.now = 100.0 + 11 * 3600
    hands.visibility.extend(0.0)
    assert len(hands.held()) == 2

    hands.now += 1.0
    hands.visibility.extend(0.0)

    assert hands.queue.hidden == [[("h1", 0.0)]]
    assert list(hands.held()) == ["m2"]
    assert hands.counts()["held"] == 1


def test_no_message_is_extended_beyond_twelve_hours(hands):
    hands = opened(visibility_timeout=7200)
    hands.receive(message())
    hands.now = 100.0 + 10.5 * 3600

    hands.visibility.extend(math.inf)

    assert hands.queue.hidden == [[("h1", 1.5 * 3600 - 60)]]
    assert hands.held()["m1"].expires == 100.0 + 12 * 3600 - 60


@pytest.mark.parametrize("end", ["settle", "too early", "again", "park"])
def test_a_message_is_handed_back_after_eleven_hours_though_a_look_at_it_hangs(hands, end):
    hands.receive(message())
    assert hands.next() == "p1"
    with hands.consumer as desk:
        desk.begin_get(["p1"], hands.now)
    hands.now += 11 * 3600 + 1.0

    hands.visibility.extend(math.inf)

    assert hands.queue.hidden == [[("h1", 0.0)]]
    assert hands.held() == {}
    with hands.consumer as desk:
        if end == "settle":
            assert desk.succeeded("p1", hands.now, started=100.0, found=True, cached=True) == (
                [],
                [],
                [],
            )
        elif end == "too early":
            desk.too_early("p1", hands.now, cached=True)
        elif end == "again":
            desk.look_again(["p1"], hands.now)
        else:
            desk.failed("p1", hands.now, Failed(OSError(), own=True))
        assert (desk.inbox.ids, desk.inbox.looking()) == (0, 0)


def test_messages_of_a_look_that_hangs_for_an_hour_are_handed_back(caplog):
    hands = opened(settle=0.0)
    hands.receive(message(), message(number=2))
    assert hands.next() == "p1"
    hands.now += 3601.0
    hands.receive(message("p2", 3))
    hands.look("p2")

    hands.visibility.beat()

    assert hands.held() == {}
    assert [("h1", 2.0), ("h2", 2.0)] in hands.queue.hidden
    (record,) = [record for record in caplog.records if record.action == "hang"]
    assert record.id == "p1"
    assert "'p1': 2 messages" in record.message


def test_calls_of_one_kind_that_fail_are_a_warning_at_most_once_in_thirty_seconds(hands, caplog):
    hands.queue.broken = True
    caplog.set_level(logging.DEBUG, "change_events")
    for hands.now in (100.0, 110.0, 129.9, 130.0):
        hands.acknowledgements.delete(["h1"])
    hands.receive(message())
    hands.visibility.hand_back_all()

    assert [record.levelname for record in caplog.records] == [
        "WARNING",
        "DEBUG",
        "DEBUG",
        "WARNING",
        "WARNING",
    ]
    assert [(record.action, record.getMessage()) for record in caplog.records[-2:]] == [
        ("acknowledge", "acknowledging failed: reset"),
        ("change_visibility", "changing visibility failed: reset"),
    ]


# Handing back


def test_a_message_that_is_handed_back_stays_invisible_until_its_window_is_over(hands):
    hands.receive(message())
    hands.now = 103.0
    hands.receive(message("p2", 2))
    hands.now = 106.0

    hands.visibility.hand_back_all()

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 2.0)]]
    assert hands.held() == {}
    assert hands.counts()["held"] == 0


def test_nothing_is_held_after_hand_back_all_though_sqs_does_not_answer(hands, caplog):
    hands.receive(message())
    hands.queue.broken = True

    hands.visibility.hand_back_all()

    assert hands.held() == {}
    assert "reset" in caplog.text


def test_each_beat_extends_what_would_be_visible_before_the_next_beat_but_one(hands):
    hands.receive(message())
    hands.now = 119.0
    hands.receive(message("p2", 2))
    assert hands.visibility.until_beat() == 1.0

    hands.now = 120.0
    hands.visibility.beat()
    assert hands.queue.hidden == []
    assert hands.visibility.until_beat() == 20.0

    hands.now = 140.0
    hands.visibility.beat()
    assert hands.queue.hidden == [[("h1", 60.0), ("h2", 60.0)]]
    assert hands.visibility.until_beat() == 20.0

    hands.now = 170.0
    assert hands.visibility.until_beat() == 0.0  # it is late
