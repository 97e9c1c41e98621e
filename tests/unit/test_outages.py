"""
An outage of the source or the cache: what is held, looked at, received and logged until it is over.
"""

from __future__ import annotations

import logging

import pytest
from hands import message, opened, outage_log

from change_events import FetchError, Found, MemorySink, Outcome
from change_events._consumer.breaker import HUNG
from change_events._consumer.look import digest


@pytest.fixture
def hands():
    return opened()


@pytest.fixture
def down(hands):
    """
    Hands in an outage. The ids p0 to p7 have one event each; GETs of all of them but p7 were under
    way when it began.
    """
    return bring_down(hands)


def bring_down(hands, status=500, retry_after=None, ids=7):
    hands.source.fail(status=status, retry_after=retry_after)
    for number in range(8):
        hands.receive(message(f"p{number}", number))
    begun = [hands.next() for _ in range(ids)]
    for id in begun:
        with hands.under_way(id):
            assert hands.look_at(id) == []
    return hands


# What is an outage


@pytest.mark.parametrize("status", [200, 302, 400, 404, 409, 500, 501])
def test_one_broken_id_is_not_an_outage(hands, status):
    hands.source.fail("p1", status=status)
    for number in range(20):
        hands.receive(message(number=number))
        hands.look()

    assert len(hands.queue.hidden) == 20
    assert hands.may_receive()
    assert hands.halted is None


@pytest.mark.parametrize("status", [None, 401, 403, 429, 502, 503, 504])
def test_one_id_that_fails_twice_for_a_reason_not_its_own_is_an_outage(hands, status):
    hands.source.fail(status=status)
    hands.receive(message())
    hands.look()
    assert hands.halted is None
    hands.now = hands.next_at()
    hands.look()

    assert hands.queue.hidden == []  # it is held, and no receive is spent
    assert list(hands.held()) == ["m1"]
    assert not hands.may_receive()
    assert hands.halted is not None


def test_one_id_that_keeps_failing_while_others_succeed_is_not_an_outage(hands):
    hands.source.fail("p1", status=503)
    hands.source["p2"] = {"id": "p2"}
    for number in range(20):
        hands.receive(message(number=2 * number), message("p2", 2 * number + 1))
        while id := hands.next():
            hands.look_at(id)
        hands.now += 10.0

    assert hands.queue.hidden == []
    assert len([event for event in hands.held().values() if event.id == "p1"]) == 20
    assert hands.halted is None


def test_an_id_that_is_stuck_for_an_hour_is_handed_back(hands):
    hands.source.fail("p1", status=503)
    hands.receive(message())
    while not hands.queue.hidden:
        if id := hands.next():
            hands.look_at(id)
            hands.receive(message("p2", 2))
            hands.look_at(hands.next())
        else:
            hands.now = hands.next_at()

    assert 3600.0 <= hands.now - 100.0 <= 3900.0


def test_a_sink_whose_entries_cannot_be_read_says_nothing_of_the_entity():
    class Down(MemorySink):
        def entry(self, id, /):
            raise OSError("database is locked")

        def ids(self, *, after=None, limit=1000):
            raise OSError("database is locked")

    hands = opened(sink=Down())
    hands.receive(message())
    hands.look()
    hands.now = hands.next_at()
    hands.look()

    assert hands.queue.hidden == []
    assert hands.halted is not None


def cached(hands, *ids):
    for id in ids:
        hands.source[id] = {"id": id}
        change = Found({"id": id}, digest=digest({"id": id}))
        assert hands.sink.apply(id, change, if_version=0)


def test_good_ids_that_the_sink_has_show_whose_fault_a_failure_is(hands):
    cached(hands, "good")
    hands.source.fail("p1", status=500)
    hands.receive(message())
    hands.look()
    assert hands.queue.hidden == []

    hands.now = hands.next_at()
    assert hands.next() == "good"
    hands.look_at("good")

    assert hands.queue.hidden == [[("h1", 2.0)]]
    assert hands.halted is None
    assert hands.outcomes == [("good", Outcome.UNCHANGED)]


def test_an_id_that_fails_is_not_asked_about_itself_though_it_was_good(hands):
    cached(hands, "p1", "q1")
    hands.receive(message())
    hands.source["p1"] = {"id": "p1"}
    hands.look()
    hands.source.fail("p1", status=500)
    hands.receive(message(number=2))
    hands.look()

    hands.now = hands.next_at()
    assert hands.next() == "q1"


def controls(hands, id):
    """Let every look fail, at this id first; return at which others it takes to see an outage."""
    hands.source.fail(status=500)
    hands.receive(message(id))
    hands.look(id)
    tried = []
    while hands.halted is None:
        hands.now = hands.next_at()
        tried.append(hands.next())
        hands.look_at(tried[-1])
    return tried


def test_all_good_ids_are_taken_of_a_sink_that_has_few(hands):
    cached(hands, "a", "b", "c")

    assert sorted(controls(hands, "z")) == ["a", "b", "c"]


def test_good_ids_are_taken_from_all_over_the_sink(hands):
    cached(hands, *(f"p{number:04}" for number in range(2000)))

    assert controls(hands, "p0000") == ["p0750", "p0250", "p0500"]


def test_an_outage_that_control_looks_show_spends_no_receive(hands, caplog):
    cached(hands, "good")
    hands.source.fail(status=500)
    hands.receive(message())
    hands.look()
    hands.now = hands.next_at()
    hands.look_at(hands.next())

    assert [record.over for record in outage_log(caplog)] == [False]
    assert hands.queue.hidden == []
    assert hands.counts()["failed"] == 2


# Holding and looking


def test_the_events_of_looks_that_fail_in_an_outage_are_held(down):
    assert [len(batch) for batch in down.queue.hidden] == [1] * 4  # these looks did not show it yet
    assert sorted(down.held()) == ["m4", "m5", "m6", "m7"]
    assert down.counts() == {"received": 8, "gets": 7, "failed": 7, "retries": 4, "held": 4}


def test_in_an_outage_one_id_is_looked_at_after_each_pause(down):
    looked_at = []
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0):
        assert down.next_at() == down.now + pause
        down.now += pause - 0.1
        assert down.next() is None
        down.now += 0.1
        looked_at.append(down.next())
        # Until this look is over, or hangs.
        assert (down.next(), down.next_at()) == (None, down.now + HUNG)
        down.look_at(looked_at[-1])

    # First the id that no look has failed at, then the one that has waited the longest.
    assert looked_at == ["p7", "p4", "p5", "p6", "p7"]
    assert down.counts()["held"] == 4


def test_retry_after_is_honoured_in_an_outage_up_to_an_hour(hands):
    bring_down(hands, status=429, retry_after=1e6)

    assert hands.next_at() == 100.0 + 3600.0


@pytest.mark.parametrize("error", [FetchError("503"), OSError("database is locked")])
def test_without_retry_after_the_worker_chooses_the_pause_even_below_a_second(error):
    def fetch(id, /, *, etag=None):
        raise error

    hands = opened(pause=lambda failures, most: 0.5)
    hands.source.fetch = fetch
    bring_down(hands)

    assert hands.next_at() == 100.5


# Receiving


def test_nothing_is_received_in_an_outage_until_a_look_at_every_id_has_failed(down):
    may = []
    for _ in range(6):
        may.append(down.may_receive())
        down.now = max(down.now, down.next_at())
        id = down.next()
        assert not down.may_receive()  # until this look is over
        down.look_at(id)
    assert may == [False, False, False, False, True, True]

    down.receive(message("p8", 8))
    assert down.queue.asked[-1] == (1, 3, 60)  # one message
    assert not down.may_receive()
    down.now = down.next_at()
    assert down.next() == "p8"


def test_one_message_is_received_in_an_outage_if_no_event_is_held(down):
    down.visibility.hand_back_all()

    assert down.next_at() is None
    assert down.may_receive()
    assert not down.may_help_receive()
    down.receive(message("p8", 8))
    assert down.next_at() == 101.0


def test_no_other_thread_helps_to_receive_in_an_outage(hands):
    hands.source.fail(status=503)
    hands.receive(*(message(f"p{number}", number=number) for number in range(5)))
    for number in range(5):
        hands.look(f"p{number}")
    hands.visibility.hand_back_all()

    assert hands.may_receive()
    assert not hands.may_help_receive()


# The end


def test_an_outage_is_over_when_a_look_succeeds(hands, caplog):
    down = bring_down(hands)
    down.source.recover()
    down.now = 101.0
    assert down.look_at(down.next()) == []

    assert down.changes[-1] == 1
    assert down.may_receive()
    assert [record.over for record in outage_log(caplog)] == [False, True]
    assert [down.next(), down.next(), down.next(), down.next()] == ["p4", "p5", "p6", None]
    assert down.next_at() == 105.5
    down.receive(message("p9", 9))
    assert down.queue.asked[-1] == (7, 3, 60)


def test_the_worker_is_paused_by_source_down_until_a_look_succeeds(down):
    assert down.pauses.why == "source down"

    down.source.recover()
    down.now = 101.0
    down.look_at(down.next())
    assert down.pauses.why is None


# The log


def test_an_outage_is_logged_as_an_error_once_and_each_later_look_as_a_warning(hands, caplog):
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
def test_an_outage_is_logged_with_a_traceback_unless_the_source_failed(
    hands, caplog, error, traceback
):
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
def test_the_log_says_if_the_source_refuses_our_credentials(hands, caplog, status, credentials):
    bring_down(hands, status=status)

    (record,) = outage_log(caplog)
    assert ("refuses our credentials" in record.getMessage()) == credentials


def test_a_success_without_an_outage_is_not_logged(hands, caplog):
    hands.receive(message())
    hands.look()

    assert outage_log(caplog) == []
    assert hands.changes == [1, 1]


def test_what_halts_a_drain_is_not_forgotten_when_a_look_succeeds(hands):
    down = bring_down(hands)
    error = down.halted
    assert error is not None
    down.source.recover()
    down.now = 101.0

    down.look_at(down.next())

    assert down.may_receive()
    assert down.halted is error
