"""
The consumer's steps, one at a time. Its clock is the test's, so the queue is a stub: a wire has a
time of its own.
"""

from __future__ import annotations

import json
import logging
import math
import random

import pytest
from hands import MALFORMED, Hands, message, messages

from change_events import ConfigurationError, FetchError, Found, MemorySink, Outcome
from change_events._consumer import log as log_module
from change_events._consumer.agenda import REST
from change_events._consumer.backoff import pause_after
from change_events._consumer.guard import Guard
from change_events._consumer.queue import Message
from change_events._consumer.stats import Tally
from change_events._meter import Meter
from change_events.testing import FakeSource


@pytest.fixture
def hands():
    hands = Hands()
    hands.intake.ask_delay()
    return hands


# Receiving


def test_the_shortest_delay_counts_as_older_messages_had_that_one():
    hands = Hands()
    delays = []
    for hands.queue.delay in (9.0, 4.0, 6.0):
        delays.append(hands.intake.ask_delay())

    assert delays == [9.0, 4.0, 4.0]
    assert hands.queue.asked == [20, 20, 20]


def test_a_queue_that_can_not_be_read_is_the_callers():
    hands = Hands()

    def unreadable(*, wait):
        raise ConfigurationError("no such queue")

    hands.queue.open = unreadable

    with pytest.raises(ConfigurationError):
        hands.intake.ask_delay()


def test_what_is_received_is_held(hands):
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
    assert hands.changes == [2]


def hot(numbers, **settings):
    """A consumer without a window that has just looked at p1, and then received more of it."""
    hands = Hands(settle=0.0, **settings)
    hands.intake.ask_delay()
    hands.receive(message(number=0))
    hands.look()
    hands.now += 1
    hands.receive(*(message(number=number) for number in numbers))
    return hands


def test_a_full_receive_says_that_there_is_more_so_what_was_just_looked_at_can_wait():
    hands = hot(range(1, 8))

    assert hands.next_at() == hands.now - 1 + REST
    assert len(hands.held()) == 7


def test_a_receive_that_is_not_full_says_that_there_is_no_more():
    assert hot(range(1, 7)).next_at() == 101.0
    hands = hot(range(1, 8))

    hands.receive()

    assert hands.next_at() == 101.0
    assert hands.changes[-1] == 1


def test_without_room_for_more_as_many_ids_as_there_are_threads_wait_no_longer():
    assert hot(range(1, 8), prefetch=13).next_at() == 101.0
    assert hot(range(1, 8), prefetch=14).next_at() == 100.0 + REST


def backlogged(**settings):
    """A consumer whose last receive came full."""
    hands = Hands(**settings)
    hands.intake.ask_delay()
    hands.receive(*(message(f"p{number}", number=number) for number in range(7)))
    return hands


@pytest.mark.parametrize(("prefetch", "room"), [(20, False), (21, True)])
def test_a_receive_under_way_takes_the_room_for_what_it_may_bring(prefetch, room):
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
def test_nobody_receives_what_there_is_no_room_for_beside_what_others_may_bring(prefetch, asked):
    """They may have begun since there was room."""
    hands = backlogged(prefetch=prefetch)
    hands.queue.asked.clear()
    hands.desk._receiving = 1

    assert hands.receive() == 0

    assert len(hands.queue.asked) == asked
    assert hands.desk._receiving == 1


def test_one_message_at_a_time_is_no_backlog():
    hands = Hands(batch_size=1)
    hands.intake.ask_delay()

    hands.receive(message())

    assert not hands.may_help_receive()


def test_a_receive_that_is_not_full_or_fails_needs_no_help():
    hands = backlogged()
    assert hands.may_help_receive()

    hands.receive(message("p8", number=8))
    assert not hands.may_help_receive()

    hands = backlogged()
    hands.queue.receive = None
    with pytest.raises(TypeError):
        hands.intake.receive(wait=1)
    assert not hands.may_help_receive()


def test_a_delivery_that_is_no_event_is_counted_and_not_held(hands):
    assert hands.receive(MALFORMED, message()) == 2

    assert list(hands.held()) == ["m1"]
    assert hands.counts() == {"received": 2, "malformed": 1, "held": 1}
    assert hands.changes == [1]
    assert hands.queue.hidden == []  # it is left to the redrive policy


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


@pytest.mark.parametrize("early_look", [True, False])
def test_an_early_look_is_the_workers_setting(early_look):
    hands = Hands(early_look=early_look)
    hands.intake.ask_delay()
    hands.receive(message())

    assert hands.inbox.next_at() == (100.0 if early_look else 105.5)


def test_a_malformed_message_is_logged_once_however_often_it_comes(hands, caplog):
    for _ in range(3):
        hands.receive(MALFORMED, Message("other", "h8", "[]", 1, {}))

    assert [(record.levelno, record.action, record.message_id) for record in caplog.records] == [
        (logging.ERROR, "decode", "bad"),
        (logging.ERROR, "decode", "other"),
    ]
    assert hands.counts()["malformed"] == 6


def test_of_the_malformed_messages_the_oldest_are_forgotten(hands, caplog, monkeypatch):
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


def test_a_malformed_message_is_logged_with_what_is_wrong(hands, caplog):
    hands.receive(Message("bad", "h9", "[]", 1, {}))

    (record,) = caplog.records
    assert not record.getMessage().endswith("None")


@pytest.mark.parametrize("closed", [False, True])
def test_what_can_not_be_verified_yet_goes_back_for_a_while(caplog, no_jitter, closed):
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


def test_the_pause_of_what_can_not_be_verified_grows_with_its_receives(no_jitter):
    def verify(envelope):
        raise FetchError("no certificate")

    hands = Hands(topic_arn=TOPIC, verify=verify)
    hands.receive(enveloped())

    assert hands.queue.hidden == [[("h1", 4.0)]]


# Looking


def test_a_look_returns_what_it_settles_and_says_what_it_did(hands):
    hands.source["p1"] = {"id": "p1"}
    hands.receive(message())

    assert hands.look() == []
    hands.now = 105.5
    (settled,) = hands.look()

    assert settled.receipt_handle == "h1"
    assert hands.sink.get("p1") == {"id": "p1"}
    assert hands.outcomes == [("p1", Outcome.CREATED), ("p1", Outcome.UNCHANGED)]
    assert hands.counts() == {"received": 1, "gets": 2, "created": 1, "unchanged": 1, "held": 0}
    assert hands.changes == [1, 1]


def test_a_look_settles_by_the_time_at_which_its_get_began():
    class Slow(FakeSource):
        def fetch(self, id, /, *, etag=None):
            assert not hands.is_locked()
            hands.now += 100.0
            return super().fetch(id, etag=etag)

    hands = Hands(fetcher=Slow())
    hands.intake.ask_delay()
    hands.receive(message())

    assert hands.look() == []
    assert len(hands.look()) == 1


def test_a_lost_compare_and_set_is_a_conflict_and_another_get(hands):
    lost = iter([True, True, False])

    class Contended(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return not next(lost) and super().apply(id, change, if_version=if_version)

    hands = Hands(sink=Contended(), settle=0.0)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert hands.counts() == {"received": 1, "gets": 3, "conflicts": 2, "never_saved": 1, "held": 0}


def test_what_on_outcome_raises_is_logged_and_the_look_stands(caplog):
    hands = Hands(settle=0.0, on_outcome=lambda id, outcome: 1 / 0)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert "ZeroDivisionError" in caplog.text


def test_without_on_outcome_the_look_is_counted_all_the_same():
    hands = Hands(settle=0.0, on_outcome=None)
    hands.receive(message())

    assert len(hands.look()) == 1
    assert hands.counts()["never_saved"] == 1


# Looks that decide nothing


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


def failed(hands, error):
    """
    Let a look at an id fail whose twelve messages have been received once to thrice; return what
    goes back.
    """

    def fetch(id, /, *, etag=None):
        raise error

    hands.source.fetch = fetch
    hands.receive(*(message(number=number, count=1 + number % 3) for number in range(12)))
    assert hands.look() == []
    return hands.queue.hidden


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (FetchError("503", status=503), 8.0),
        (FetchError("503", status=503, retry_after=7.0), 8.0),
        (FetchError("429", status=429, retry_after=90.0), 90.0),
        (FetchError("429", status=429, retry_after=1e6), 3600.0),
        (OSError("database is locked"), 8.0),
    ],
)
def test_after_a_failed_look_all_events_of_the_id_go_back_for_a_while(
    hands, no_jitter, error, pause
):
    first, second = failed(hands, error)

    assert first == [(f"h{number}", pause) for number in range(10)]
    assert second == [("h10", pause), ("h11", pause)]
    assert hands.held() == {}
    assert hands.counts() == {"received": 12, "gets": 1, "failed": 1, "retries": 12, "held": 0}
    assert hands.changes == [12]
    assert hands.outcomes == []


@pytest.mark.parametrize(
    ("error", "traceback"), [(FetchError("503"), False), (OSError("database is locked"), True)]
)
def test_a_failed_look_is_logged_with_a_traceback_if_it_is_not_the_sources(
    hands, caplog, no_jitter, error, traceback
):
    failed(hands, error)

    (record,) = caplog.records
    assert (record.levelno, record.action, record.id, record.outcome) == (
        logging.WARNING,
        "look",
        "p1",
        "failed",
    )
    assert record.pause == 8.0
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) is traceback


def test_the_pause_grows_with_the_receives_to_five_minutes(hands, no_jitter):
    hands.source.fail()
    hands.receive(message(count=5), message("p2", 2, count=20))

    hands.look("p1")
    hands.look("p2")

    assert hands.queue.hidden == [[("h1", 32.0)], [("h2", 300.0)]]


def test_the_pause_has_an_end_and_jitter():
    pauses = [pause_after(2, 300.0) for _ in range(1000)]

    assert 2.0 <= min(pauses) < 2.1
    assert 3.9 < max(pauses) <= 4.0
    assert all(150.0 <= pause_after(failures, 300.0) <= 300.0 for failures in (9, 20, 100_000))


# Many at once


class Catalogue(FakeSource):
    """A source that answers many at once, and can be told to fail at it."""

    bulk_size = 4

    def __init__(self):
        super().__init__()
        self.asked_many = []
        self.error = None
        self.meanwhile = lambda: None

    def fetch_many(self, ids, /):
        self.asked_many.append(list(ids))
        self.meanwhile()
        if self.error:
            raise self.error
        return {id: Found(self[id]) for id in self if id in ids} | {"stranger": Found({})}


def with_catalogue(*ids, deleted=(), **settings):
    """Hands with an event of each id; of these products all are there but the deleted."""
    hands = Hands(**({"fetcher": Catalogue()} | settings))
    hands.source = hands.settings.fetcher
    hands.intake.ask_delay()
    hands.receive(*(message(id, number, sent=hands.wall - 2.0) for number, id in enumerate(ids)))
    for id in set(ids).difference(deleted):
        hands.source[id] = {"id": id}
    return hands


def reserved(hands):
    with hands.consumer as desk:
        return desk.next(hands.now)


def look_together(hands):
    return [
        event.message_id
        for settled in hands.looks.look_together(reserved(hands))
        for event in settled
    ]


def test_what_is_due_is_looked_at_together_each_by_itself():
    hands = with_catalogue("p1", "p2", "p3", settle=0.0)

    assert look_together(hands) == ["m0", "m1", "m2"]

    assert hands.source.asked_many == [["p1", "p2", "p3"]]
    assert hands.source.fetched == []
    assert hands.outcomes == [(id, Outcome.CREATED) for id in ("p1", "p2", "p3")]
    assert dict(hands.sink.items()) == dict(hands.source)
    assert hands.counts() == {"received": 3, "gets": 1, "created": 3, "held": 0}


def test_no_more_are_looked_at_together_than_the_fetcher_takes():
    hands = with_catalogue(*"abcdef")

    assert reserved(hands) == ["a", "b", "c", "d"]
    assert reserved(hands) == ["e", "f"]
    assert reserved(hands) == []


def test_a_fetcher_without_bulk_is_given_one_at_a_time():
    hands = with_catalogue(*"abc", fetcher=FakeSource())

    assert [reserved(hands) for _ in "abcd"] == [["a"], ["b"], ["c"], []]


@pytest.mark.parametrize("lacks", ["bulk_size", "fetch_many"])
def test_half_of_a_bulk_fetcher_is_a_fetcher_like_any_other(lacks):
    class Half(FakeSource):
        def __getattr__(self, name):
            if name == lacks:
                raise AttributeError(name)
            return 4

    hands = with_catalogue(*"ab", fetcher=Half())

    assert reserved(hands) == ["a"]


def test_a_get_of_many_settles_what_was_held_when_it_began():
    hands = with_catalogue("p1", "p2", settle=0.0)

    def meanwhile():
        assert not hands.is_locked()
        hands.now += 1.0
        hands.receive(message("p2", 9))

    hands.source.meanwhile = meanwhile

    assert look_together(hands) == ["m0", "m1"]
    assert list(hands.held()) == ["m9"]
    assert hands.next() == "p2"


def test_a_get_of_many_before_the_window_is_over_settles_nothing():
    hands = with_catalogue("p1", "p2")
    hands.source.meanwhile = lambda: setattr(hands, "now", 200.0)

    assert look_together(hands) == []
    assert look_together(hands) == ["m0", "m1"]


def test_what_a_get_of_many_does_not_bring_is_looked_at_alone():
    hands = with_catalogue("p1", "gone", "p2", deleted=["gone"], settle=0.0)
    hands.sink.apply("gone", Found({"id": "gone"}), if_version=0)
    hands.changes.clear()

    assert look_together(hands) == ["m0", "m2"]

    assert hands.changes[0] == 1  # somebody may look at it before the others are stored
    assert hands.sink.get("gone") == {"id": "gone"}
    hands.receive(message("p3", 5))
    assert reserved(hands) == ["gone"]
    assert [event.message_id for event in hands.look_at("gone")] == ["m1"]
    assert hands.outcomes[-1] == ("gone", Outcome.DELETED)
    assert hands.counts() == {"received": 4, "gets": 2, "created": 2, "deleted": 1, "held": 1}


def test_of_many_each_is_handed_on_to_be_acknowledged_as_it_is_stored():
    hands = with_catalogue("p1", "p2", settle=0.0)

    looks = hands.looks.look_together(reserved(hands))

    assert [event.message_id for event in next(looks)] == ["m0"]
    assert list(hands.held()) == ["m1"]
    assert hands.sink.get("p2") is None
    assert [event.message_id for event in next(looks)] == ["m1"]


def test_a_get_of_many_that_brings_nothing_has_not_failed(caplog):
    hands = with_catalogue("p1", "p2", deleted=["p1", "p2"])

    assert look_together(hands) == []

    assert caplog.records == []
    assert [reserved(hands) for _ in "12"] == [["p1"], ["p2"]]
    hands.receive(message("p3", 5), message("p4", 6))
    assert reserved(hands) == ["p3", "p4"]


@pytest.mark.parametrize(
    "error", [FetchError("404", status=404), FetchError("503", retry_after=99.0), KeyError("bug")]
)
def test_a_get_of_many_that_fails_is_no_failed_look(error, caplog):
    hands = with_catalogue("p1", "p2", "p3", settle=0.0)
    hands.source.error = error

    assert look_together(hands) == []

    assert hands.counts() == {"received": 3, "gets": 1, "held": 3}
    assert hands.queue.hidden == []
    assert not hands.desk.breaker.open
    assert hands.changes[-1] == 3
    for id in ("p1", "p2", "p3"):
        assert reserved(hands) == [id]
        assert len(hands.look_at(id)) == 1
    (record,) = caplog.records
    assert (record.levelno, record.action) == (logging.WARNING, "look_together")
    assert record.getMessage().endswith(f"each is looked at alone: {error}")


@pytest.mark.parametrize(("asked", "pause"), [(None, 30.0), (7.0, 30.0), (120.0, 120.0)])
def test_after_a_get_of_many_that_failed_there_is_none_for_a_while(asked, pause, caplog):
    hands = with_catalogue("p1", "p2")
    hands.source.error = FetchError("429", status=429, retry_after=asked)
    look_together(hands)
    for id in ("p1", "p2"):
        assert reserved(hands) == [id]
        hands.look_at(id)

    hands.now = 99.9 + pause
    assert [reserved(hands) for _ in "12"] == [["p1"], ["p2"]]
    hands.look_at("p1")
    hands.look_at("p2")
    hands.receive(message("p3", 5), message("p4", 6))
    hands.now = 100.0 + pause
    assert reserved(hands) == ["p3", "p4"]


def test_gets_of_many_that_fail_at_once_are_one_line_in_the_log(caplog):
    hands = with_catalogue(*"abcdefgh")
    hands.source.error = FetchError("404")
    first, second = reserved(hands), reserved(hands)

    for ids in (first, second):
        list(hands.looks.look_together(ids))

    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_cache_that_can_not_be_read_for_many_is_asked_about_each_alone():
    class Broken(MemorySink):
        broken = True

        def entry(self, id, /):
            if self.broken and id == "p2":
                raise OSError("disk")
            return super().entry(id)

    hands = with_catalogue("p1", "p2", sink=Broken(), settle=0.0)

    assert look_together(hands) == []
    assert hands.source.asked_many == []
    assert hands.counts() == {"received": 2, "held": 2}
    assert reserved(hands) == ["p1"]
    assert len(hands.look_at("p1")) == 1
    assert reserved(hands) == ["p2"]
    assert hands.look_at("p2") == []
    assert hands.counts()["failed"] == 1


def test_of_many_one_that_another_worker_changed_is_looked_at_alone():
    hands = with_catalogue("p1", "p2", settle=0.0)
    hands.source.meanwhile = lambda: hands.sink.apply(
        "p1", Found({"id": "p1", "n": 2}), if_version=0
    )

    assert look_together(hands) == ["m1"]

    assert hands.sink.get("p1") == {"id": "p1", "n": 2}
    assert hands.counts() == {"received": 2, "gets": 1, "conflicts": 1, "created": 1, "held": 1}
    assert reserved(hands) == ["p1"]
    assert len(hands.look_at("p1")) == 1
    assert hands.outcomes[-1] == ("p1", Outcome.UPDATED)


def test_of_many_one_that_can_not_be_stored_is_looked_at_alone(caplog):
    class Broken(MemorySink):
        def apply(self, id, change, /, *, if_version):
            if id == "p1":
                raise OSError("disk")
            return super().apply(id, change, if_version=if_version)

    hands = with_catalogue("p1", "p2", sink=Broken(), settle=0.0)

    assert look_together(hands) == ["m1"]
    assert hands.counts() == {"received": 2, "gets": 1, "created": 1, "held": 1}
    assert "looked at alone: disk" in caplog.text
    assert reserved(hands) == ["p1"]
    assert hands.look_at("p1") == []
    assert hands.counts()["failed"] == 1


def test_in_an_outage_one_is_looked_at_alone():
    hands = with_catalogue(*"abcdefg")
    hands.source.fail()
    hands.source.error = FetchError("503")
    assert look_together(hands) == []
    for _ in range(5):
        (id,) = reserved(hands)
        hands.look_at(id)
    assert hands.desk.breaker.open

    hands.now = 500.0  # and the pause after a GET of many is long over
    hands.receive(message("new", 20), message("newer", 21))
    assert len(reserved(hands)) == 1


def test_a_get_of_many_that_brings_something_ends_an_outage_that_began_meanwhile():
    hands = with_catalogue(*"abcdefghi")
    together = reserved(hands)
    hands.source.fail(status=503)
    for id in "efghi":
        hands.look(id)
    assert hands.desk.breaker.open

    list(hands.looks.look_together(together))

    assert not hands.desk.breaker.open
    assert "source down" not in str(hands.pauses.why)


def test_a_get_of_many_counts_once_for_the_pace():
    hands = with_catalogue("p1", "p2", "p3", settle=0.0, max_gets_per_second=10)

    look_together(hands)
    hands.receive(message("p4", 4))

    assert hands.next_at() == pytest.approx(100.1)


# Outages


@pytest.fixture
def down(hands):
    """
    Hands in an outage: of p0 to p7, each with one event, all but p7 were being looked at when it
    began.
    """
    return bring_down(hands)


def bring_down(hands, status=503, retry_after=None, ids=7):
    hands.source.fail(status=status, retry_after=retry_after)
    for number in range(8):
        hands.receive(message(f"p{number}", number))
    begun = [hands.next() for _ in range(ids)]
    for id in begun:
        assert hands.look_at(id) == []
    return hands


def outage_log(caplog):
    return [record for record in caplog.records if record.action == "outage"]


def test_in_an_outage_what_fails_is_held_and_not_handed_back(down):
    assert [len(batch) for batch in down.queue.hidden] == [1] * 4  # who could know?
    assert sorted(down.held()) == ["m4", "m5", "m6", "m7"]
    assert down.counts() == {"received": 8, "gets": 7, "failed": 7, "retries": 4, "held": 4}


def test_an_outage_is_logged_once_and_then_with_each_look_that_it_allows(hands, caplog):
    bring_down(hands)
    hands.now = 101.0
    assert hands.next() == "p7"
    hands.look_at("p7")

    assert [(record.levelno, record.over, record.pause) for record in outage_log(caplog)] == [
        (logging.ERROR, False, 1.0),
        (logging.WARNING, False, 2.0),
    ]
    assert "the source or the cache is down" in caplog.text


@pytest.mark.parametrize(
    ("error", "traceback"), [(FetchError("503"), False), (OSError("database is locked"), True)]
)
def test_an_outage_has_a_traceback_if_it_is_not_the_sources(hands, caplog, error, traceback):
    def fetch(id, /, *, etag=None):
        raise error

    hands.source.fetch = fetch
    bring_down(hands)

    (record,) = outage_log(caplog)
    assert bool(record.exc_info) is traceback
    assert hands.halted is error


@pytest.mark.parametrize(
    ("status", "credentials"), [(401, True), (403, True), (404, False), (503, False)]
)
def test_an_outage_of_the_credentials_is_called_so(hands, caplog, status, credentials):
    bring_down(hands, status=status)

    (record,) = outage_log(caplog)
    assert ("refuses our credentials" in record.getMessage()) == credentials


def test_in_an_outage_one_id_is_looked_at_after_each_pause(down):
    looked_at = []
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0):
        assert down.next_at() == down.now + pause
        down.now += pause - 0.1
        assert down.next() is None
        down.now += 0.1
        looked_at.append(down.next())
        assert (down.next(), down.next_at()) == (None, None)  # until it is over
        down.look_at(looked_at[-1])

    assert looked_at == [
        "p7",
        "p4",
        "p5",
        "p6",
        "p7",
    ]  # one that was not tried, then who has waited the longest
    assert down.counts()["held"] == 4


def test_what_the_source_asks_for_is_honoured_in_an_outage(hands):
    bring_down(hands, status=429, retry_after=1e6)

    assert hands.next_at() == 100.0 + 3600.0


@pytest.mark.parametrize("error", [FetchError("503"), OSError("database is locked")])
def test_who_asks_for_no_pause_in_an_outage_gets_the_workers_own_even_below_a_second(error):
    def fetch(id, /, *, etag=None):
        raise error

    hands = Hands(probe_pause=lambda failures: 0.5)
    hands.intake.ask_delay()
    hands.source.fetch = fetch
    bring_down(hands)

    assert hands.next_at() == 100.5


def test_nothing_is_received_in_an_outage_until_every_id_was_tried_in_vain(down):
    may = []
    for _ in range(6):
        may.append(down.may_receive())
        down.now = max(down.now, down.next_at())
        id = down.next()
        assert not down.may_receive()  # while it is being looked at
        down.look_at(id)
    assert may == [False, False, False, False, True, True]

    down.receive(message("p8", 8))
    assert down.queue.asked[-1] == (1, 3, 60)  # one message
    assert not down.may_receive()
    down.now = down.next_at()
    assert down.next() == "p8"


def test_with_nothing_in_hand_a_message_is_received_to_ask_about(down):
    down.visibility.hand_back_all()

    assert down.next_at() is None
    assert down.may_receive()
    assert not down.may_help_receive()
    down.receive(message("p8", 8))
    assert down.next_at() == 101.0


def test_a_backlog_is_left_alone_in_an_outage(hands):
    hands.source.fail(status=503)
    hands.receive(*(message(f"p{number}", number=number) for number in range(7)))
    for number in range(7):
        hands.look(f"p{number}")
    hands.visibility.hand_back_all()

    assert hands.may_receive()
    assert not hands.may_help_receive()


def test_an_outage_is_over_when_a_look_succeeds(hands, caplog):
    down = bring_down(hands)
    down.source.recover()
    down.now = 101.0
    assert down.look_at(down.next()) == []

    assert down.changes[-1] == 4 + 1  # those that were parked, and p3's next look
    assert down.may_receive()
    assert [record.over for record in outage_log(caplog)] == [False, True]
    assert [down.next(), down.next(), down.next(), down.next()] == ["p4", "p5", "p6", None]
    assert down.next_at() == 105.5
    down.receive(message("p9", 9))
    assert down.queue.asked[-1] == (7, 3, 60)


def test_an_outage_is_why_nothing_is_received_until_a_look_succeeds(down):
    assert down.pauses.why == "source down"

    down.source.recover()
    down.now = 101.0
    down.look_at(down.next())
    assert down.pauses.why is None


def test_a_success_without_an_outage_is_not_news(hands, caplog):
    hands.receive(message())
    hands.look()

    assert outage_log(caplog) == []
    assert hands.changes == [1, 1]


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 409, 500, 501])
def test_one_broken_id_is_no_outage(hands, status):
    hands.source.fail("p1", status=status)
    for number in range(20):
        hands.receive(message(number=number))
        hands.look()

    assert len(hands.queue.hidden) == 20
    assert hands.may_receive()
    assert hands.halted is None


@pytest.mark.parametrize("status", [None, 401, 429, 502, 503, 504])
def test_one_id_that_is_not_answered_for_itself_is_an_outage_the_second_time(hands, status):
    hands.source.fail(status=status)
    hands.receive(message())
    hands.look()
    assert [handle for ((handle, _),) in hands.queue.hidden] == [
        "h1"
    ]  # the first time it goes back, as an entity's failure

    hands.receive(message(number=1, count=2))
    hands.look()

    assert len(hands.queue.hidden) == 1  # from now on it is held, and costs no receive
    assert list(hands.held()) == ["m1"]
    assert not hands.may_receive()
    assert hands.halted is not None


def test_one_id_that_is_not_answered_while_others_are_is_no_outage(hands):
    hands.source.fail("p1", status=503)
    for number in range(20):
        hands.receive(message(number=2 * number), message("p2", 2 * number + 1))
        for id in ("p1", "p2"):
            hands.look(id)
        hands.now += 10.0
        if hands.inbox.ids:
            hands.look("p2")

    assert sum(len(call) for call in hands.queue.hidden) == 20
    assert hands.halted is None


@pytest.mark.parametrize(("prefetch", "may"), [(8, True), (7, False)])
def test_what_is_held_leaves_room_for_a_batch(prefetch, may):
    hands = Hands(prefetch=prefetch)
    hands.intake.ask_delay()
    hands.receive(message())

    assert hands.may_receive() is may


def test_gets_keep_their_pace():
    hands = Hands(max_gets_per_second=4.0, settle=0.0)
    for number in range(3):
        hands.receive(message(f"p{number}", number))

    assert hands.next() == "p0"
    assert hands.next() is None
    assert hands.next_at() == 100.25
    hands.now = 100.25
    assert hands.next() == "p1"


def test_a_look_that_begins_again_counts_for_the_pace():
    lost = iter([True, False])

    class Contended(MemorySink):
        def apply(self, id, change, /, *, if_version):
            return not next(lost) and super().apply(id, change, if_version=if_version)

    hands = Hands(max_gets_per_second=4.0, sink=Contended())
    hands.receive(message(), message("p2", 2))
    assert hands.next() == "p1"
    hands.look_at("p1")

    assert hands.next_at() == 100.5


# Mass deletions


@pytest.fixture
def wiped():
    """
    Hands with a cache of thirty entities, which the source no longer knows, after as many looks.
    """
    hands = Hands(settle=0.0)
    hands.settled = wipe(hands)
    return hands


def wipe(hands):
    hands.intake.ask_delay()
    for n in range(30):
        assert hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
        hands.receive(message(f"p{n}", n))
    begun = [hands.next() for _ in range(30)]
    return [len(hands.look_at(id)) for id in begun]


def test_a_mass_deletion_is_refused_before_it_is_one(wiped):
    assert wiped.settled == [1] * 19 + [0] * 11
    assert len(wiped.sink) == 11
    assert len(wiped.held()) == 11
    assert wiped.queue.hidden == []
    counts = wiped.counts()
    assert (counts["deleted"], counts["held"], counts.get("failed")) == (19, 11, None)


def test_a_mass_deletion_is_critical_and_said_once(wiped, caplog):
    (record,) = [
        record for record in caplog.get_records("setup") if record.levelno == logging.CRITICAL
    ]
    assert record.action == "mass_deletion"
    assert record.getMessage() == (
        "20 of the last 20 looks at cached entities saw them gone. Nothing more is deleted or "
        "received. If the source is wrong, mend it, or HTTPFetcher(url), and start the worker "
        "again; if it is right, call Worker.resume() or start with allow_mass_deletion=True"
    )
    assert str(wiped.halted) == record.getMessage()


def test_after_a_mass_deletion_nothing_is_received_or_looked_at_until_somebody_says_so(wiped):
    wiped.receive(message("new", 99))
    assert not wiped.may_receive()
    assert (wiped.next(), wiped.next_at()) == (None, None)

    wiped.resume()

    assert wiped.changes[-1] == 12
    assert wiped.may_receive()
    looked = [id for _ in range(12) if wiped.look_at(id := wiped.next())]
    assert len(looked) == 12
    assert len(wiped.sink) == 0


def test_a_mass_deletion_is_why_nothing_is_received_until_somebody_says_so(wiped):
    assert wiped.pauses.why == "mass deletion"

    wiped.resume()
    assert wiped.pauses.why is None


def test_looks_at_what_is_not_cached_are_no_deletions(hands):
    for n in range(50):
        hands.receive(message(f"p{n}", n))
        hands.look(f"p{n}")

    assert hands.counts()["never_saved"] == 50


def test_what_is_found_counts_against_a_mass_deletion(hands):
    for n in range(60):
        hands.sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
        if n % 2 == 0:
            hands.source[f"p{n}"] = {"id": f"p{n}"}
        hands.receive(message(f"p{n}", n))
    for _ in range(60):
        hands.look_at(hands.next())

    assert hands.counts()["deleted"] == 30


def test_a_refused_deletion_is_an_answer_and_ends_an_outage(wiped, caplog):
    wiped.resume()
    wiped.source.fail()
    for _ in range(5):
        wiped.look_at(wiped.next())
    wiped.source.recover()
    wiped.guard.__init__(min_deleted=1)
    wiped.now = wiped.next_at()
    wiped.look_at(wiped.next())

    assert wiped.next_at() is None  # refused
    assert [record.over for record in outage_log(caplog)] == [False, True]
    wiped.resume()
    assert wiped.next_at() == wiped.now
    assert wiped.may_receive()


# Acknowledging, holding and handing back


def test_acknowledging_counts_what_was_deleted_and_returns_what_was_not(hands):
    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == ["h3"]

    assert hands.queue.deleted == [["h1", "h2", "h3"]]
    assert hands.counts() == {"acknowledged": 2, "ack_failures": 1}


@pytest.mark.parametrize(
    ("deleted", "counts"), [(3, {"acknowledged": 3}), (1, {"acknowledged": 1, "ack_failures": 2})]
)
def test_each_acknowledgement_that_failed_is_counted(hands, deleted, counts):
    """Also one that SQS has refused for good, and is not tried again."""
    hands.queue.delete = lambda handles: (deleted, [])

    assert hands.acknowledgements.delete(["h1", "h2", "h3"]) == []
    assert hands.counts() == counts


def test_an_acknowledgement_that_fails_may_be_tried_again(hands, caplog):
    hands.queue.broken = True

    assert hands.acknowledgements.delete(["h1", "h2"]) == ["h1", "h2"]
    assert hands.counts() == {"ack_failures": 2}
    assert "reset" in caplog.text


def test_the_heartbeat_extends_what_would_become_visible(hands):
    hands.receive(*messages(12))
    hands.now = 130.0
    hands.receive(message("p2", 12))

    hands.visibility.extend(170.0)

    first, second = hands.queue.hidden
    assert first == [(f"h{number}", 60) for number in range(10)]
    assert second == [("h10", 60), ("h11", 60)]
    assert {event.expires for event in hands.held().values()} == {190.0}


def test_an_extension_that_fails_is_due_again(hands):
    hands.receive(message())
    hands.queue.broken = True
    hands.now = 130.0

    hands.visibility.extend(170.0)
    assert hands.held()["m1"].expires == 160.0

    hands.queue.broken = False
    hands.visibility.extend(170.0)
    assert hands.queue.hidden == [[("h1", 60)]]


def test_what_can_not_be_extended_for_now_is_due_again(hands):
    hands.receive(*messages(3))
    hands.queue.failed = {"h1"}
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert [event.expires for event in hands.held().values()] == [190.0, 160.0, 190.0]


def test_what_can_never_be_extended_is_no_longer_held(hands):
    hands.receive(*messages(3))
    hands.queue.refused = {"h1"}
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert list(hands.held()) == ["m0", "m2"]
    assert hands.counts()["held"] == 2
    assert hands.changes == [3]


def test_a_heartbeat_that_is_not_answered_tries_no_further(hands):
    hands.receive(*messages(25))
    hands.queue.broken = True
    hands.now = 130.0

    hands.visibility.extend(170.0)

    assert hands.queue.calls == 1


def test_a_message_is_handed_back_before_sqs_lets_nobody_hold_it_any_longer(hands):
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
    hands = Hands(visibility_timeout=7200)
    hands.intake.ask_delay()
    hands.receive(message())
    hands.now = 100.0 + 10.5 * 3600

    hands.visibility.extend(math.inf)

    assert hands.queue.hidden == [[("h1", 1.5 * 3600 - 60)]]
    assert hands.held()["m1"].expires == 100.0 + 12 * 3600 - 60

    assert hands.next() == "p1"  # while it is looked at, it is kept
    hands.now = 100.0 + 12 * 3600
    hands.visibility.extend(math.inf)
    assert hands.queue.hidden[1:] == [[("h1", 0.0)]]


def test_sqs_in_an_outage_is_complained_about_now_and_then(hands, caplog):
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
        "DEBUG",
    ]
    assert [(record.action, record.getMessage()) for record in caplog.records[-2:]] == [
        ("acknowledge", "acknowledging failed: reset"),
        ("change_visibility", "changing visibility failed: reset"),
    ]


def test_what_comes_in_once_it_is_closed_goes_back_at_once(hands):
    hands.consumer.stop()
    hands.receive(message(), MALFORMED, message("p2", 2))

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 0.0)]]
    assert hands.held() == {}
    assert hands.changes == []


def test_handing_back_leaves_each_message_what_remains_of_its_window(hands):
    hands.receive(message())
    hands.now = 103.0
    hands.receive(message("p2", 2))
    hands.now = 106.0

    hands.visibility.hand_back_all()

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 2.0)]]
    assert hands.held() == {}
    assert hands.counts()["held"] == 0


def test_handing_back_does_not_mind_if_that_fails(hands, caplog):
    hands.receive(message())
    hands.queue.broken = True

    hands.visibility.hand_back_all()

    assert hands.held() == {}
    assert "reset" in caplog.text


# Measuring


class Noted:
    """Metrics that note what they are told, and all of it with the queue's name."""

    def __init__(self):
        self.told = []

    def count(self, name, value=1, /, *, queue, **labels):
        assert queue == "q"
        self.told.append((name, value, *labels.values()))

    observe = gauge = count

    def of(self, *names):
        return [told for told in self.told if told[0] in names]


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def measured(noted):
    return Hands(metrics=noted)


def test_each_count_is_measured_and_looks_by_their_outcome(measured, noted):
    measured.intake.ask_delay()
    measured.source["p1"] = {"id": "p1"}
    measured.receive(message(), MALFORMED)
    measured.look()
    measured.acknowledgements.delete(["h1", "h2", "h3"])

    assert noted.of("received", "malformed", "gets", "looks", "acknowledged", "ack_failures") == [
        ("received", 2),
        ("malformed", 1),
        ("gets", 1),
        ("looks", 1, "created"),
        ("acknowledged", 2),
        ("ack_failures", 1),
    ]
    assert noted.of("held") == [("held", 1)]


def test_looks_are_measured_with_their_number(noted):
    Tally(Meter(noted, queue="q")).add("created", 2)

    assert noted.told == [("looks", 2, "created")]


def test_a_failed_look_is_measured_with_what_the_source_said(measured, noted, no_jitter):
    failed(measured, FetchError("503", status=503))

    assert noted.of("looks", "retries", "answers") == [
        ("answers", 1, "503"),
        ("looks", 1, "failed"),
        ("retries", 12),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_looks_and_gets_are_timed_also_when_they_fail(noted, no_jitter, fails):
    class Slow(FakeSource):
        def fetch(self, id, /, *, etag=None):
            hands.now += 3.0
            if fails:
                raise FetchError("503")
            return super().fetch(id, etag=etag)

    class SlowSink(MemorySink):
        def entry(self, id, /):
            hands.now += 0.5
            return super().entry(id)

    hands = Hands(metrics=noted, fetcher=Slow(), sink=SlowSink())
    hands.receive(message())
    hands.look()

    assert noted.of("get_seconds", "look_seconds") == [("get_seconds", 3.0), ("look_seconds", 3.5)]


def test_staleness_is_measured_at_the_first_and_at_the_last_look(measured, noted):
    measured.intake.ask_delay()
    measured.receive(message(sent=measured.wall - 2.0))
    measured.look()
    assert noted.of("staleness_seconds") == [("staleness_seconds", 2.0, "first")]

    measured.now += 2.0
    measured.wall += 2.0
    measured.receive(message("p1", 2, sent=measured.wall - 1.0))
    measured.look()
    assert noted.of("staleness_seconds")[1:] == [("staleness_seconds", 1.0, "first")]

    measured.now += 3.5
    measured.wall += 3.5
    measured.look()
    assert noted.of("staleness_seconds")[2:] == [("staleness_seconds", 7.5, "last")]


def test_a_look_that_is_the_first_and_the_last_counts_as_both(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.receive(message(sent=hands.wall - 2.0))
    hands.look()

    assert noted.of("staleness_seconds") == [
        ("staleness_seconds", 2.0, "first"),
        ("staleness_seconds", 2.0, "last"),
    ]


def test_clocks_that_differ_give_no_staleness_below_zero(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.receive(message(sent=hands.wall + 60.0), message("p1", 2))
    hands.look()

    assert [seconds for _, seconds, _ in noted.of("staleness_seconds")] == [0.0, 0.0]


def test_a_get_of_many_is_timed_once_and_each_look_and_answer_counted(noted):
    hands = with_catalogue("p1", "p2", "gone", deleted=["gone"], settle=0.0, metrics=noted)
    hands.source.meanwhile = lambda: setattr(hands, "now", 103.0)

    look_together(hands)

    assert noted.of("gets", "get_seconds", "answers") == [
        ("gets", 1),
        ("get_seconds", 3.0),
        ("answers", 2, "found"),
    ]
    assert noted.of("look_seconds") == [("look_seconds", 3.0)] * 2
    assert noted.of("looks") == [("looks", 1, "created")] * 2
    assert (
        noted.of("staleness_seconds")
        == [("staleness_seconds", 2.0, "first"), ("staleness_seconds", 2.0, "last")] * 2
    )


@pytest.mark.parametrize(
    ("error", "answer"), [(FetchError("", status=404), "404"), (KeyError("bug"), "error")]
)
def test_a_get_of_many_that_fails_is_measured_once(noted, error, answer):
    hands = with_catalogue("p1", "p2", metrics=noted)
    hands.source.error = error

    look_together(hands)

    assert noted.of("get_seconds", "answers") == [("get_seconds", 0.0), ("answers", 1, answer)]


def test_a_get_of_many_that_brings_nothing_is_timed(noted):
    look_together(with_catalogue("p1", "p2", deleted=["p1", "p2"], metrics=noted))

    assert noted.of("get_seconds", "answers") == [("get_seconds", 0.0)]


def test_pauses_are_measured_by_the_consumers_clock(measured, noted):
    with measured.consumer:
        measured.pauses.begin("full")
        measured.now += 4.0
        measured.pauses.end("full")

    assert noted.of("paused_seconds") == [("paused_seconds", 4.0, "full")]


def test_a_run_that_begins_after_a_refused_mass_deletion_is_paused_from_its_start():
    guard = Guard(max_share=0.0, min_deleted=1)
    assert not guard.allows(gone=True)

    hands = Hands(guard=guard)
    assert hands.pauses.why == "mass deletion"

    hands.resume()
    assert hands.pauses.why is None
