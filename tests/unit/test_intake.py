"""Messages become held events: what is received, decoded, verified, held and counted."""

from __future__ import annotations

import json
import logging
import random

import pytest
from hands import MALFORMED, Hands, message, opened

from change_events import ConfigurationError, FetchError
from change_events._consumer import log as log_module
from change_events._consumer.agenda import REST
from change_events._consumer.intake import Polled
from change_events._consumer.queue import Message


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


# Receiving


def test_the_shortest_delay_that_the_queue_has_had_counts():
    hands = Hands()
    delays = []
    for hands.queue.delay in (9.0, 4.0, 6.0):
        delays.append(hands.intake.ask_delay())

    assert delays == [9.0, 4.0, 4.0]
    assert hands.queue.asked == [20, 20, 20]


def test_asking_for_the_delay_raises_if_the_queue_can_not_be_read():
    hands = Hands()

    def unreadable(*, wait):
        raise ConfigurationError("no such queue")

    hands.queue.open = unreadable

    with pytest.raises(ConfigurationError):
        hands.intake.ask_delay()


def test_received_events_are_held(hands):
    received = [message(count=3, phase="saving", save="s1"), message("p2", 2)]

    assert hands.receive(*received) == 2

    assert hands.queue.asked[1:] == [(7, 3, 60)]
    first, second = hands.held().values()
    assert (first.id, first.message_id, first.receipt_handle, first.receive_count) == (
        "p1",
        "m1",
        "h1",
        3,
    )
    assert (first.received, first.hold, first.expires, first.phase, first.save) == (
        100.0,
        5.0,
        160.0,
        "saving",
        "s1",
    )
    assert (second.id, second.phase, second.save) == ("p2", None, None)
    assert hands.counts() == {"received": 2, "held": 2}
    assert hands.changes == [1]


@pytest.mark.parametrize(("prefetch", "may"), [(8, True), (7, False)])
def test_a_receive_can_begin_only_with_room_for_a_whole_batch(prefetch, may):
    hands = opened(prefetch=prefetch)
    hands.receive(message())

    assert hands.may_receive() is may


def backlogged(**settings):
    """Make hands whose last receive returned a full batch."""
    hands = opened(**settings)
    hands.receive(*(message(f"p{number}", number=number) for number in range(7)))
    return hands


@pytest.mark.parametrize(("prefetch", "room"), [(20, False), (21, True)])
def test_a_receive_under_way_reserves_room_for_a_whole_batch(prefetch, room):
    hands = backlogged(prefetch=prefetch)
    seen = []

    def receive(**_):
        seen.append((hands.may_receive(), hands.may_help_receive()))
        raise ConnectionError

    assert hands.may_receive()
    hands.queue.receive = receive
    with pytest.raises(ConnectionError):
        hands.intake.receive(wait=1)

    assert seen == [(room, room)]
    assert hands.may_receive()


@pytest.mark.parametrize(("prefetch", "asked"), [(20, 0), (21, 1)])
def test_no_receive_begins_without_room_beside_the_receives_under_way(prefetch, asked):
    """They can have begun after this thread saw that there was room."""
    hands = backlogged(prefetch=prefetch)
    hands.queue.asked.clear()
    hands.desk.receiving._under_way = 1

    assert hands.receive() == (0 if asked else None)

    assert len(hands.queue.asked) == asked
    assert hands.desk.receiving._under_way == 1


def test_full_batches_of_one_message_are_not_a_backlog():
    hands = opened(batch_size=1)

    hands.receive(message())

    assert not hands.may_help_receive()


def test_a_receive_that_is_not_full_or_fails_ends_a_backlog():
    hands = backlogged()
    assert hands.may_help_receive()

    hands.receive(message("p8", number=8))
    assert not hands.may_help_receive()

    hands = backlogged()
    hands.queue.receive = None
    with pytest.raises(TypeError):
        hands.intake.receive(wait=1)
    assert not hands.may_help_receive()


def test_messages_that_the_last_receive_brings_after_the_stop_go_back_at_once(hands):
    hands.consumer.stop()
    hands.receive(message(), MALFORMED, message("p2", 2))

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 0.0)]]
    assert hands.held() == {}
    assert hands.changes == []


def test_messages_that_a_receive_brings_after_the_stop_are_held_while_another_is_under_way(hands):
    """The other receive would get them once more, if they went back at once."""
    with hands.consumer as desk:
        desk.receiving.begin(0.0)
    hands.consumer.stop_receiving()
    hands.receive(message())

    assert hands.queue.hidden == []
    assert list(hands.held()) == ["m1"]
    assert hands.next() == "p1"  # it is looked at meanwhile


def test_no_receive_begins_without_room_though_none_is_under_way():
    """Another thread can have received after this thread saw that there was room."""
    hands = opened(prefetch=7)
    assert hands.may_receive()
    hands.receive(message())
    hands.queue.asked.clear()

    assert hands.receive(message("p2", 2)) is None

    assert hands.queue.asked == []


# Polling


def unreachable(**_):
    raise ConnectionError("reset")


def test_a_poll_receives_and_notes_when_sqs_answered(hands):
    assert hands.intake.last_poll is None
    hands.queue.messages = [message()]

    assert hands.intake.poll() == Polled()

    assert hands.queue.asked[1:] == [(7, 20, 60)]
    assert hands.intake.last_poll == 100.0
    assert list(hands.held()) == ["m1"]


def test_a_poll_asks_for_the_delay_once_a_minute(hands):
    for hands.now in (159.9, 160.0, 219.9, 220.0):
        hands.intake.poll()

    polled = (7, 20, 60)
    assert hands.queue.asked == [20, polled, 20, polled, polled, 20, polled]


def test_a_drain_is_over_once_nothing_is_held_delayed_or_received(hands):
    assert hands.intake.poll() == Polled()  # not in a run

    hands.intake.until_empty = True
    assert hands.intake.poll() == Polled(drained=True)
    assert hands.queue.asked[2:] == [(7, 1, 60)]


def test_a_drain_goes_on_while_something_is_held_delayed_or_received(hands):
    hands.queue.has_delayed = True
    hands.intake.until_empty = True
    assert hands.intake.poll() == Polled()

    hands.queue.has_delayed = False
    hands.queue.messages = [message()]
    assert hands.intake.poll() == Polled()
    assert hands.intake.poll() == Polled()

    hands.visibility.hand_back_all()
    assert hands.intake.poll() == Polled(drained=True)


def test_a_poll_that_fails_is_logged_and_pauses_longer_each_time(hands, caplog, no_jitter):
    hands.queue.receive = unreachable

    assert [hands.intake.poll() for _ in range(6)] == [
        Polled(pause) for pause in (2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
    ]

    assert hands.pauses.why == "receive failed"
    assert hands.intake.last_poll is None
    assert [str(error) for error in hands.queue.renewed] == ["reset"] * 6
    assert [(record.levelno, record.action, record.pause) for record in caplog.records][:2] == [
        (logging.WARNING, "receive", 2.0),
        (logging.WARNING, "receive", 4.0),
    ]
    assert caplog.records[0].getMessage() == "receive failed, next in 2.0 s: reset"


def test_after_a_poll_that_succeeds_the_pauses_start_again(hands, caplog, no_jitter):
    caplog.set_level(logging.INFO, "change_events")
    receive, hands.queue.receive = hands.queue.receive, unreachable
    hands.intake.poll()
    hands.queue.receive = receive

    assert hands.intake.poll() == hands.intake.poll() == Polled()

    assert caplog.messages[1:] == ["receiving again"]
    assert hands.pauses.why is None
    hands.queue.receive = unreachable
    assert hands.intake.poll() == Polled(2.0)


def test_a_poll_fails_if_the_delay_can_not_be_read(hands, no_jitter):
    hands.queue.open = unreachable
    hands.now += 60.0

    assert hands.intake.poll() == Polled(2.0)
    assert hands.intake.poll() == Polled()  # it asks again in a minute


def test_a_drain_gives_up_with_the_error_of_the_fourth_poll_that_fails(hands, no_jitter):
    hands.queue.receive = unreachable
    hands.intake.until_empty = True
    polled = [hands.intake.poll() for _ in range(4)]

    assert [each.error for each in polled[:3]] == [None] * 3
    assert isinstance(polled[3].error, ConnectionError)
    assert not polled[3].drained


def test_a_poll_in_a_run_never_gives_up(hands):
    hands.queue.receive = unreachable

    assert all(hands.intake.poll().error is None for _ in range(10))


def test_a_poll_without_room_says_nothing_about_sqs():
    hands = opened(prefetch=7)
    hands.queue.receive = unreachable
    hands.intake.poll()
    with hands.consumer as desk:
        desk.receiving.begin(0.0)  # of another thread, for which the room is reserved

    hands.intake.poll()

    assert hands.intake.last_poll is None
    assert hands.pauses.why == "receive failed"


def test_help_receives_for_a_second_and_leaves_errors_to_the_poll(hands, caplog):
    help_wanted = iter([True, False, True, False])
    hands.consumer.wait_for_backlog = lambda: next(help_wanted)
    hands.queue.messages = [message()]
    hands.intake.help()
    assert hands.queue.asked[1:] == [(7, 1, 60)]
    assert list(hands.held()) == ["m1"]

    hands.queue.receive = unreachable
    hands.intake.help()

    assert caplog.records == []
    assert hands.pauses.why is None


# Resting


def just_looked_at(numbers, **settings):
    """Make hands without a window that have looked at p1 a second ago and received more of it."""
    hands = opened(settle=0.0, **settings)
    hands.receive(message(number=0))
    hands.look()
    hands.now += 1
    hands.receive(*(message(number=number) for number in numbers))
    return hands


def test_after_a_full_receive_an_id_that_was_just_looked_at_rests():
    hands = just_looked_at(range(1, 8))

    assert hands.next_at() == hands.now - 1 + REST
    assert len(hands.held()) == 7


def test_after_a_receive_that_is_not_full_no_id_rests():
    assert just_looked_at(range(1, 7)).next_at() == 101.0
    hands = just_looked_at(range(1, 8))

    hands.receive()

    assert hands.next_at() == 101.0
    assert hands.changes[-1] == 1


def test_without_room_as_many_ids_as_there_are_threads_stop_resting():
    assert just_looked_at(range(1, 8), prefetch=13).next_at() == 101.0
    assert just_looked_at(range(1, 8), prefetch=14).next_at() == 100.0 + REST


# Events


@pytest.mark.parametrize(
    ("own", "delay", "attributes", "hold"),
    [
        (5.0, 0.0, {}, 5.0),
        (5.0, 2.0, {}, 3.0),
        (5.0, 9.0, {}, 0.0),
        (5.0, 2.0, {"settle": "4"}, 3.0),
        (5.0, 2.0, {"settle": "8"}, 6.0),
        (0.0, 0.0, {}, 0.0),
        (0.0, 0.0, {"settle": "0.5"}, 0.5),
        (5.0, 0.0, {"phase": "saving", "save": "s1"}, 5.0),
        (5.0, 0.0, {"phase": "saved", "save": "s1"}, 0.0),
        (5.0, 0.0, {"phase": "saved"}, 0.0),
    ],
)
def test_an_event_is_held_for_the_larger_window_less_the_queues_delay(own, delay, attributes, hold):
    hands = Hands(settle=own)
    hands.queue.delay = delay
    hands.intake.ask_delay()
    hands.receive(message(**attributes))

    assert hands.held()["m1"].hold == hold


@pytest.mark.parametrize(
    ("sent", "answered", "delay", "hold"),
    [
        (1000.0, 1000.0, 0.0, 5.0),
        (1000.0, 1002.0, 0.0, 5.0),  # two seconds can be an error
        (1000.0, 1004.5, 0.0, 2.5),
        (1000.0, 1004.0, 4.0, 1.0),  # the delay is a part of the age
        (1000.0, 1006.0, 1.0, 1.0),
        (1000.0, 1007.0, 0.0, 0.0),
        (1000.0, 5000.0, 0.0, 0.0),
        (1000.0, 900.0, 0.0, 5.0),
        (None, 5000.0, 0.0, 5.0),
        (1000.0, None, 0.0, 5.0),
    ],
)
def test_an_event_is_held_for_what_its_age_leaves_of_its_window(sent, answered, delay, hold):
    hands = Hands(settle=5.0)
    hands.queue.delay = delay
    hands.intake.ask_delay()
    hands.receive(message(sent=sent, answered=answered))

    assert hands.held()["m1"].hold == hold


def test_no_clock_of_this_computer_tells_an_events_age():
    for now, wall in ((1e6, 2e9), (100.0, 0.0)):
        hands = opened(settle=5.0)
        hands.now, hands.wall = now, wall
        hands.receive(message(sent=1000.0, answered=1001.0))

        assert hands.held()["m1"].hold == 5.0


def test_an_event_that_asks_for_more_than_max_settle_is_malformed(caplog):
    """To acknowledge it sooner than its publisher says would be too early."""
    hands = opened(settle=5.0, max_settle=60.0)
    hands.receive(
        message("p1", 1, settle="60"),
        message("p2", 2, settle="60.1"),
        message("p3", 3, settle="3600", phase="saved"),
    )

    assert {name: event.hold for name, event in hands.held().items()} == {"m1": 60.0, "m3": 0.0}
    assert hands.counts()["malformed"] == 1
    assert hands.queue.hidden == []
    (record,) = caplog.records
    assert (record.action, record.message_id) == ("decode", "m2")
    assert "held for 60.1 s, and the worker has max_settle=60.0" in record.getMessage()


@pytest.mark.parametrize("early_look", [True, False])
def test_an_event_has_an_early_look_only_if_the_setting_says_so(early_look):
    hands = opened(early_look=early_look)
    hands.receive(message())

    assert hands.inbox.next_at() == (100.0 if early_look else 105.5)


# Malformed messages


def test_a_malformed_message_is_counted_and_not_held(hands):
    assert hands.receive(MALFORMED, message()) == 2

    assert list(hands.held()) == ["m1"]
    assert hands.counts() == {"received": 2, "malformed": 1, "held": 1}
    assert hands.changes == [1]
    assert hands.queue.hidden == []  # it is left to the redrive policy


def test_a_malformed_message_is_logged_with_what_is_wrong(hands, caplog):
    hands.receive(Message("bad", "h9", "[]", 1, {}))

    (record,) = caplog.records
    assert not record.getMessage().endswith("None")


def test_a_malformed_message_is_logged_once_however_often_it_is_delivered(hands, caplog):
    for _ in range(3):
        hands.receive(MALFORMED, Message("other", "h8", "[]", 1, {}))

    assert [(record.levelno, record.action, record.message_id) for record in caplog.records] == [
        (logging.ERROR, "decode", "bad"),
        (logging.ERROR, "decode", "other"),
    ]
    assert hands.counts()["malformed"] == 6


def test_only_the_latest_malformed_messages_are_remembered(hands, caplog, monkeypatch):
    monkeypatch.setattr(log_module, "REMEMBERED", 2)
    for id in ("a", "b", "c", "c", "b", "a"):
        hands.receive(Message(id, "h", "{}", 1, {}))

    assert [record.message_id for record in caplog.records] == ["a", "b", "c", "a"]


# Signatures


TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


def enveloped(id="p1", number=1, topic=TOPIC):
    body = {"Type": "Notification", "TopicArn": topic, "Message": json.dumps({"id": id})}
    return Message(f"m{number}", f"h{number}", json.dumps(body), 2, {})


def test_an_event_of_the_topic_is_held_once_it_is_verified():
    verified = []
    hands = Hands(topic_arn=TOPIC, verify=verified.append)
    hands.receive(enveloped(), enveloped("p2", 2, "arn:aws:sns:eu-west-1:123456789012:others"))

    assert list(hands.held()) == ["m1"]
    assert [envelope["Message"] for envelope in verified] == ['{"id": "p1"}']
    assert hands.counts() == {"received": 2, "malformed": 1, "held": 1}


@pytest.mark.parametrize("closed", [False, True])
def test_a_message_that_can_not_be_verified_yet_goes_back_for_a_while(caplog, no_jitter, closed):
    def verify(envelope):
        if "p1" in envelope["Message"]:
            raise FetchError("no certificate", retry_after=77.0)

    hands = Hands(topic_arn=TOPIC, verify=verify)
    if closed:
        hands.consumer.stop()
    hands.receive(enveloped(), enveloped("p2", 2))

    assert hands.queue.hidden == [[("h1", 77.0)] + [("h2", 0.0)] * closed]
    assert list(hands.held()) == ([] if closed else ["m2"])
    assert hands.counts()["unverified"] == 1
    (record,) = caplog.records
    assert (record.action, record.message_id, record.pause) == ("verify", "m1", 77.0)
    assert record.getMessage() == "message m1 can't be verified yet, again in 77 s: no certificate"


def test_the_pause_before_the_next_verification_grows_with_the_receives(no_jitter):
    def verify(envelope):
        raise FetchError("no certificate")

    hands = Hands(topic_arn=TOPIC, verify=verify)
    hands.receive(enveloped())

    assert hands.queue.hidden == [[("h1", 4.0)]]
