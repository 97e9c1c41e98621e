"""The consumer's steps, one at a time. Its clock is the test's, so the queue is a stub: a wire has a time of its own."""

from __future__ import annotations

import logging

import pytest

from change_events import ConfigurationError, FetchError, MemorySink, Outcome
from change_events import _consumer as consumer_module
from change_events._consumer import Consumer, Settings, Tally, pause_after
from change_events._meter import Meter
from change_events._sqs import Message
from change_events.testing import FakeSource


class NotingQueue:
    """Hands out the test's messages, and notes what it is told."""

    def __init__(self):
        self.delay = 0.0
        self.asked = []
        self.messages = []
        self.deleted = []
        self.hidden = []  # one list for each call
        self.broken = False

    def open(self, *, wait):
        self.asked.append(wait)
        return self.delay

    def receive(self, *, most, wait, visibility):
        self.asked.append((most, wait, visibility))
        messages, self.messages = self.messages, []
        return messages

    def delete(self, receipt_handles):
        self._may_break()
        self.deleted.append(list(receipt_handles))
        return len(receipt_handles) - 1, [receipt_handles[-1]]

    def change_visibility(self, deliveries):
        self._may_break()
        self.hidden.append(list(deliveries))

    def _may_break(self):
        if self.broken:
            raise ConnectionError("reset")


class Hands:
    """A consumer, and all around it that a test looks at."""

    def __init__(self, *, metrics=None, **settings):
        self.now = 100.0
        self.wall = 1_700_000_000.0
        self.queue = NotingQueue()
        self.source = FakeSource()
        self.sink = MemorySink()
        self.outcomes = []
        self.changes = []
        self.tally = Tally(Meter(metrics, queue="q"))
        given = {
            "queue": self.queue,
            "fetcher": self.source,
            "sink": self.sink,
            "settle": 5.0,
            "early_look": True,
            "prefetch": 1000,
            "threads": 1,
            "batch_size": 7,
            "wait_time": 20,
            "visibility_timeout": 60,
            "shutdown_timeout": 25.0,
            "on_outcome": lambda id, outcome: self.outcomes.append((id, outcome)),
        }
        self.consumer = Consumer(
            Settings(**(given | settings)),
            self.tally,
            changed=self._changed,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )
        self.inbox = self.consumer.inbox

    def _changed(self, number):
        assert self.consumer.lock.locked()
        self.changes.append(number)

    def receive(self, *messages):
        self.queue.messages = list(messages)
        return self.consumer.receive(wait=3)

    def look(self, id="p1"):
        with self.consumer.lock:
            assert self.inbox.next(self.now) == id
        return self.consumer.look(id)

    def counts(self):
        return dict(self.tally.read())

    def held(self):
        return {event.message_id: event for event in self.inbox.expiring(float("inf"))}


@pytest.fixture
def hands():
    hands = Hands()
    hands.consumer.ask_delay()
    return hands


def message(id="p1", number=1, *, count=1, sent=None, **attributes):
    return Message(f"m{number}", f"h{number}", f'{{"id": "{id}"}}', count, attributes, sent)


def messages(number):
    return [message(number=number) for number in range(number)]


MALFORMED = Message("bad", "h9", "{}", 1, {})


# Receiving


def test_the_shortest_delay_counts_as_older_messages_had_that_one():
    hands = Hands()
    delays = []
    for hands.queue.delay in (9.0, 4.0, 6.0):
        delays.append(hands.consumer.ask_delay())

    assert delays == [9.0, 4.0, 4.0]
    assert hands.queue.asked == [20, 20, 20]


def test_a_queue_that_can_not_be_read_is_the_callers():
    hands = Hands()

    def unreadable(*, wait):
        raise ConfigurationError("no such queue")

    hands.queue.open = unreadable

    with pytest.raises(ConfigurationError):
        hands.consumer.ask_delay()


def test_what_is_received_is_held(hands):
    received = [message(count=3, phase="saving", save="s1"), message("p2", 2)]

    assert hands.receive(*received) == received

    assert hands.queue.asked[1:] == [(7, 3, 60)]
    first, second = hands.held().values()
    assert (first.id, first.message_id, first.receipt_handle, first.receive_count) == ("p1", "m1", "h1", 3)
    assert (first.received, first.hold, first.expires, first.phase, first.save) == (100.0, 5.0, 160.0, "saving", "s1")
    assert (second.id, second.phase, second.save) == ("p2", None, None)
    assert hands.counts() == {"received": 2, "held": 2}
    assert hands.changes == [2]


def test_a_delivery_that_is_no_event_is_counted_and_not_held(hands):
    assert hands.receive(MALFORMED, message()) == [MALFORMED, message()]

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
    hands.consumer.ask_delay()
    hands.receive(message(**attributes))

    assert hands.held()["m1"].hold == hold


@pytest.mark.parametrize("early_look", [True, False])
def test_an_early_look_is_the_workers_setting(early_look):
    hands = Hands(early_look=early_look)
    hands.consumer.ask_delay()
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
    monkeypatch.setattr(consumer_module, "MALFORMED_REMEMBERED", 2)
    for id in ("a", "b", "c", "c", "b", "a"):
        hands.receive(Message(id, "h", "{}", 1, {}))

    assert [record.message_id for record in caplog.records] == ["a", "b", "c", "a"]


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
    assert hands.changes == [1, 0, 0]


def test_a_look_settles_by_the_time_at_which_its_get_began():
    class Slow(FakeSource):
        def fetch(self, id, /, *, etag=None):
            assert not hands.consumer.lock.locked()
            hands.now += 100.0
            return super().fetch(id, etag=etag)

    hands = Hands(fetcher=Slow())
    hands.consumer.ask_delay()
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
    monkeypatch.setattr(consumer_module.random, "uniform", lambda least, most: most)


def failed(hands, error):
    """Let a look at an id fail whose twelve messages have been received once to thrice; return what goes back."""

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
def test_after_a_failed_look_all_events_of_the_id_go_back_for_a_while(hands, no_jitter, error, pause):
    first, second = failed(hands, error)

    assert first == [(f"h{number}", pause) for number in range(10)]
    assert second == [("h10", pause), ("h11", pause)]
    assert hands.held() == {}
    assert hands.counts() == {"received": 12, "gets": 1, "failed": 1, "retries": 12, "held": 0}
    assert hands.changes == [12, 0]
    assert hands.outcomes == []


@pytest.mark.parametrize(("error", "traceback"), [(FetchError("503"), False), (OSError("database is locked"), True)])
def test_a_failed_look_is_logged_with_a_traceback_if_it_is_not_the_sources(hands, caplog, no_jitter, error, traceback):
    failed(hands, error)

    (record,) = caplog.records
    assert (record.levelno, record.action, record.id, record.outcome) == (logging.WARNING, "look", "p1", "failed")
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


# Acknowledging, holding and handing back


def test_acknowledging_counts_what_was_deleted_and_returns_what_was_not(hands):
    assert hands.consumer.acknowledge(["h1", "h2", "h3"]) == ["h3"]

    assert hands.queue.deleted == [["h1", "h2", "h3"]]
    assert hands.counts() == {"acknowledged": 2, "ack_failures": 1}


@pytest.mark.parametrize(("deleted", "counts"), [(3, {"acknowledged": 3}), (1, {"acknowledged": 1, "ack_failures": 2})])
def test_each_acknowledgement_that_failed_is_counted(hands, deleted, counts):
    """Also one that SQS has refused for good, and is not tried again."""
    hands.queue.delete = lambda handles: (deleted, [])

    assert hands.consumer.acknowledge(["h1", "h2", "h3"]) == []
    assert hands.counts() == counts


def test_an_acknowledgement_that_fails_may_be_tried_again(hands, caplog):
    hands.queue.broken = True

    assert hands.consumer.acknowledge(["h1", "h2"]) == ["h1", "h2"]
    assert hands.counts() == {"ack_failures": 2}
    assert "reset" in caplog.text


def test_the_heartbeat_extends_what_would_become_visible(hands):
    hands.receive(*messages(12))
    hands.now = 130.0
    hands.receive(message("p2", 12))

    hands.consumer.extend(170.0)

    first, second = hands.queue.hidden
    assert first == [(f"h{number}", 60) for number in range(10)]
    assert second == [("h10", 60), ("h11", 60)]
    assert {event.expires for event in hands.held().values()} == {190.0}


def test_an_extension_that_fails_is_due_again(hands):
    hands.receive(message())
    hands.queue.broken = True
    hands.now = 130.0

    hands.consumer.extend(170.0)
    assert hands.held()["m1"].expires == 160.0

    hands.queue.broken = False
    hands.consumer.extend(170.0)
    assert hands.queue.hidden == [[("h1", 60)]]


def test_what_comes_in_once_it_is_closed_goes_back_at_once(hands):
    hands.consumer.close()
    hands.receive(message(), MALFORMED, message("p2", 2))

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 0.0)]]
    assert hands.held() == {}
    assert hands.changes == []


def test_handing_back_leaves_each_message_what_remains_of_its_window(hands):
    hands.receive(message())
    hands.now = 103.0
    hands.receive(message("p2", 2))
    hands.now = 106.0

    hands.consumer.hand_back_all()

    assert hands.queue.hidden == [[("h1", 0.0), ("h2", 2.0)]]
    assert hands.held() == {}
    assert hands.counts()["held"] == 0
    assert hands.changes[-1] == 0


def test_handing_back_does_not_mind_if_that_fails(hands, caplog):
    hands.receive(message())
    hands.queue.broken = True

    hands.consumer.hand_back_all()

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
    measured.consumer.ask_delay()
    measured.source["p1"] = {"id": "p1"}
    measured.receive(message(), MALFORMED)
    measured.look()
    measured.consumer.acknowledge(["h1", "h2", "h3"])

    assert noted.of("received", "malformed", "gets", "looks", "acknowledged", "ack_failures") == [
        ("received", 2),
        ("malformed", 1),
        ("gets", 1),
        ("looks", 1, "created"),
        ("acknowledged", 2),
        ("ack_failures", 1),
    ]
    assert noted.of("held") == [("held", 1), ("held", 1)]


def test_looks_are_measured_with_their_number(noted):
    Tally(Meter(noted, queue="q")).add("created", 2)

    assert noted.told == [("looks", 2, "created")]


def test_a_failed_look_is_measured_with_what_the_source_said(measured, noted, no_jitter):
    failed(measured, FetchError("503", status=503))

    assert noted.of("looks", "retries", "answers") == [("answers", 1, "503"), ("looks", 1, "failed"), ("retries", 12)]


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
    measured.consumer.ask_delay()
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

    assert noted.of("staleness_seconds") == [("staleness_seconds", 2.0, "first"), ("staleness_seconds", 2.0, "last")]


def test_clocks_that_differ_give_no_staleness_below_zero(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.receive(message(sent=hands.wall + 60.0), message("p1", 2))
    hands.look()

    assert [seconds for _, seconds, _ in noted.of("staleness_seconds")] == [0.0, 0.0]


def test_pauses_are_measured_by_the_consumers_clock(measured, noted):
    measured.consumer.pauses.begin("full")
    measured.now += 4.0
    measured.consumer.pauses.end("full")

    assert noted.of("paused_seconds") == [("paused_seconds", 4.0, "full")]


def test_without_metrics_nothing_is_in_between():
    hands = Hands(settle=0.0)
    hands.receive(message(sent=1.0))
    (settled,) = hands.look()

    assert hands.consumer._fetcher is hands.source
    assert not settled.looked
