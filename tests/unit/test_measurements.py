"""What the worker's parts tell a `Metrics`."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hands import (
    MALFORMED,
    Hands,
    fail_look,
    look_together,
    message,
    with_catalogue,
)

from change_events import FetchError, MemorySink
from change_events._consumer.limit import Answer
from change_events._consumer.measure import answer_of, timed_get
from change_events._consumer.stats import Tally
from change_events._meter import Meter
from change_events.testing import FakeSource


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


class Noted:
    """A `Metrics` that notes what it is told, and demands the queue's name each time."""

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


def test_each_count_is_measured_and_looks_have_their_outcome(measured, noted):
    measured.intake.ask_delay()
    measured.source["p1"] = {"id": "p1"}
    measured.receive(message(), MALFORMED)
    measured.look()
    measured.acknowledgements.delete(["h1", "h2", "h3"])
    assert noted.of("received", "held") == []  # no thread that works calls the user's code for them
    measured.tally.report()
    measured.tally.add("received")
    measured.tally.report()

    assert noted.of("received", "malformed", "gets", "looks", "acknowledged", "ack_failures") == [
        ("received", 2),
        ("malformed", 1),
        ("gets", 1),
        ("looks", 1, "created"),
        ("acknowledged", 2),
        ("ack_failures", 1),
        ("received", 1),
    ]
    assert noted.of("held") == [("held", 1), ("held", 1)]


def test_several_looks_are_one_measurement_with_their_number(noted):
    tally = Tally(Meter(noted, queue="q"))
    tally.add("created", 2)
    tally.report()

    assert noted.told == [("held", 0), ("looks", 2, "created")]


def test_a_failed_look_is_measured_with_the_sources_status(measured, noted, no_jitter):
    fail_look(measured, FetchError("500", status=500))
    measured.tally.report()

    assert noted.of("looks", "retries", "answers") == [
        ("answers", 1, "500"),
        ("looks", 1, "failed"),
        ("retries", 12),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_looks_and_gets_are_timed_even_if_they_fail(noted, no_jitter, fails):
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


def test_staleness_is_measured_at_an_events_first_and_last_look(measured, noted):
    measured.intake.ask_delay()
    measured.receive(message(sent=measured.wall - 3.0))
    measured.look()
    assert noted.of("staleness_seconds") == []  # it came too early, so nothing was applied

    measured.source["p1"] = {"id": "p1"}
    measured.now += 1.0
    measured.wall += 1.0
    measured.receive(message(sent=measured.wall - 2.0))
    measured.look()
    assert noted.of("staleness_seconds") == [("staleness_seconds", 4.0, "first")]

    measured.source["p1"] = {"id": "p1", "n": 2}
    measured.now += 2.0
    measured.wall += 2.0
    measured.receive(message("p1", 2, sent=measured.wall - 1.0))
    measured.look()
    assert noted.of("staleness_seconds")[1:] == [("staleness_seconds", 1.0, "first")]

    measured.now += 3.5
    measured.wall += 3.5
    measured.look()
    assert noted.of("staleness_seconds")[2:] == [("staleness_seconds", 9.5, "last")]


def test_a_look_that_is_an_events_first_and_last_counts_as_both(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.receive(message(sent=hands.wall - 2.0))
    hands.look()

    assert noted.of("staleness_seconds") == [
        ("staleness_seconds", 2.0, "first"),
        ("staleness_seconds", 2.0, "last"),
    ]


def test_staleness_is_not_negative_though_clocks_differ(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.receive(message(sent=hands.wall + 60.0), message("p1", 2))
    hands.look()

    assert [seconds for _, seconds, _ in noted.of("staleness_seconds")] == [0.0, 0.0]


def test_pauses_are_measured_by_the_given_clock(measured, noted):
    with measured.consumer:
        measured.pauses.begin("full")
        measured.now += 4.0
        measured.pauses.end("full")
    measured.pauses.report()

    assert noted.of("paused_seconds") == [("paused_seconds", 4.0, "full")]


def test_a_pause_that_goes_on_is_counted_up_to_now(measured, noted):
    with measured.consumer:
        measured.pauses.begin("full")
    for seconds in (4.0, 2.0):
        measured.now += seconds
        measured.pauses.report()

    assert noted.of("paused_seconds") == [
        ("paused_seconds", 4.0, "full"),
        ("paused_seconds", 2.0, "full"),
    ]


# Bulk GETs


def test_a_bulk_get_is_timed_once_and_each_look_and_answer_is_counted(noted):
    hands = with_catalogue("p1", "p2", "gone", deleted=["gone"], settle=0.0, metrics=noted)
    hands.source.meanwhile = lambda: setattr(hands, "now", 103.0)

    look_together(hands)
    hands.tally.report()

    assert noted.of("gets", "get_seconds", "answers") == [
        ("get_seconds", 3.0),
        ("answers", 2, "found"),
        ("gets", 1),
    ]
    assert noted.of("look_seconds") == [("look_seconds", 3.0)] * 2
    assert noted.of("looks") == [("looks", 2, "created")]
    assert (
        noted.of("staleness_seconds")
        == [("staleness_seconds", 2.0, "first"), ("staleness_seconds", 2.0, "last")] * 2
    )


@pytest.mark.parametrize(
    ("error", "answer"), [(FetchError("", status=404), "404"), (KeyError("bug"), "error")]
)
def test_a_bulk_get_that_fails_is_measured_once(noted, error, answer):
    hands = with_catalogue("p1", "p2", metrics=noted)
    hands.source.error = error

    look_together(hands)

    assert noted.of("get_seconds", "answers") == [("get_seconds", 0.0), ("answers", 1, answer)]


@pytest.mark.parametrize(
    ("error", "seconds", "overload"),
    [
        (FetchError("", status=500), 3.0, False),
        (FetchError("no entity", status=200), 3.0, False),
        (FetchError("", status=503), None, True),
        (FetchError("no answer"), None, True),
    ],
)
def test_a_failed_get_has_lasted_as_long_as_the_source_took_to_answer(error, seconds, overload):
    answers, times = deque(), iter([100.0, 103.0])

    with pytest.raises(FetchError), timed_get(answers, lambda: next(times)):
        raise error

    assert list(answers) == [Answer(100.0, seconds, overload=overload, failed=True)]


def test_a_bulk_get_that_finds_nothing_is_timed(noted):
    look_together(with_catalogue("p1", "p2", deleted=["p1", "p2"], metrics=noted))

    assert noted.of("get_seconds", "answers") == [("get_seconds", 0.0)]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (None, "none"),
        (200, "unusable"),
        (503, "503"),
        (100, "100"),
        (599, "599"),
        (99, "other"),
        (600, "other"),
    ],
)
def test_a_get_that_failed_is_named_by_its_status(status, answer):
    assert answer_of(FetchError("", status=status)) == answer


def test_a_failed_look_ends_before_its_events_are_handed_back(noted):
    hands = Hands(metrics=noted)
    hands.source.fail(status=500)
    hands.receive(message())
    hands.queue.change_visibility = lambda deliveries: setattr(hands, "now", 200.0)

    hands.look()

    assert noted.of("look_seconds") == [("look_seconds", 0.0)]


def test_a_look_that_is_put_off_is_not_measured(noted):
    hands = Hands(metrics=noted)
    hands.receive(message())
    assert hands.next() == "p1"
    hands.consumer.stop()

    assert list(hands.looks.look(["p1"])) == []

    assert noted.of("look_seconds", "looks") == []


def test_each_answer_is_counted_by_its_name(noted):
    hands = Hands(metrics=noted, settle=0.0)
    hands.source.trust_etags = True
    hands.source["p1"] = {"id": "p1"}
    for number, id in enumerate(["p1", "p1", "p2"]):
        hands.receive(message(id, number))
        hands.look(id)

    assert noted.of("answers") == [
        ("answers", 1, "found"),
        ("answers", 1, "unchanged"),
        ("answers", 1, "gone"),
    ]


def test_without_metrics_nothing_is_measured():
    meter = Meter()

    meter.count("gets")
    meter.observe("look_seconds", 1.0)
    meter.gauge("held", 1)

    assert not meter.on
