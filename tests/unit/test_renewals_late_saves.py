"""A save that could not be renewed in time is broadcast after its end, or reported as unsettled."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VirtualTime, attributes, attributes_of, flaky, own, saver, time

from change_events import BroadcastStats, PublishError, broadcast_stats, measure_broadcasts
from change_events._meter import Meter
from change_events._producer.renewals import process_renewals

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

W = 5.0


def test_a_failed_renewal_is_tried_again_after_a_tenth_of_the_window(channel, time, flaky, caplog):
    flaky.fails = (2.0, 3.2)

    with time.broadcasting(flaky, "p1"):
        time.passes(4.0)

    assert flaky.started == [0.0, 2.5, 3.0, 3.5]
    assert len(channel.bodies()) == 2
    assert time.renewals.tally.stats() == BroadcastStats(renewals=1)
    assert [record.action for record in own(caplog)] == ["renew", "renew"]
    assert "the topic is away" in caplog.text


def test_a_save_that_ends_within_the_window_needs_no_renewal(channel, time, flaky):
    flaky.fails = (2.0, math.inf)

    with time.broadcasting(flaky, "p1"):
        time.passes(4.9)

    assert len(channel.bodies()) == 1
    assert time.renewals.tally.stats() == BroadcastStats()


def test_a_save_that_could_not_be_renewed_is_broadcast_after_its_end(channel, time, flaky, saver):
    flaky.fails = (2.0, 7.0)

    def body():
        time.passes(5.0)
        flaky.fails = (2.0, 5.0)
        return channel.bodies()

    assert len(saver.save(flaky, body, "p1")) == 1
    assert flaky.accepted == [0.0, 5.0]
    assert channel.bodies() == ['{"id": "p1"}']
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


def test_the_broadcast_after_the_save_is_tried_again_with_growing_pauses(
    channel, time, flaky, saver
):
    def body():
        flaky.fails = (2.0, time.now + 0.5)
        time.now += 8.0  # without a thread that could renew it
        flaky.fails = (8.0, 8.6)

    saver.save(flaky, body, "p1")

    first, second = time.slept
    assert 0.2 <= first <= 0.4 <= second <= 0.8
    assert len(flaky.started) == 4
    assert channel.bodies() == ['{"id": "p1"}'] * 2
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


def test_a_fork_during_the_broadcast_after_a_save_leaves_nothing_to_wait_for(time, flaky):
    with time.broadcasting(flaky, "p1"):
        time.now += 6.0
        flaky.meanwhile = time.renewals.start_over

    time.renewals.finish(0.0)

    assert flaky.accepted == [0.0, 6.0]


def too_slow(time, flaky):
    flaky.fails = (time.now + 0.1, math.inf)
    time.passes(6.0)
    return "saved"


def test_an_unsettled_save_is_logged_counted_and_passed_to_on_unsettled_but_not_raised(
    time, flaky, saver, caplog
):
    told = []

    result = saver.save(
        flaky,
        lambda: too_slow(time, flaky),
        "p1",
        "p2",
        on_unsettled=lambda ids, error: told.append((list(ids), error)),
    )

    assert result == "saved"
    ((ids, error),) = told
    assert ids == ["p1", "p2"]
    assert isinstance(error, PublishError)
    (record,) = [record for record in own(caplog) if record.levelno == logging.ERROR]
    assert (record.action, list(record.ids)) == ("unsettled", ["p1", "p2"])
    assert "'p1', 'p2'" in record.getMessage()
    assert time.renewals.tally.stats() == BroadcastStats(late=1, unsettled=1)


def test_a_late_save_is_broadcast_three_times_at_most(time, flaky, saver):
    def body():
        too_slow(time, flaky)
        flaky.started.clear()

    saver.save(flaky, body, "p1")

    assert len(flaky.started) == 3
    assert len(time.slept) == 2


class CountingMetrics:
    """Metrics that note what they count."""

    def __init__(self):
        self.counted = []

    def count(self, name, value=1, /, **labels):
        self.counted.append((name, value, labels))


def test_renewals_late_saves_and_unsettled_saves_are_measured(time, flaky):
    metrics = CountingMetrics()
    time.renewals.tally.meter = Meter(metrics)

    with time.broadcasting(flaky, "p1"):
        time.passes(2.6)
    with time.broadcasting(flaky, "p1"):
        too_slow(time, flaky)

    assert time.renewals.tally.stats() == BroadcastStats(renewals=1, late=1, unsettled=1)
    assert metrics.counted == [
        ("renewals", 1, {}),
        ("late_broadcasts", 1, {}),
        ("unsettled_saves", 1, {}),
    ]


def test_measure_broadcasts_measures_this_process_until_it_is_called_with_none():
    metrics = CountingMetrics()
    before = broadcast_stats().renewals

    measure_broadcasts(metrics)
    process_renewals.tally.add("renewals")
    measure_broadcasts(None)
    process_renewals.tally.add("renewals")

    assert metrics.counted == [("renewals", 1, {})]
    assert broadcast_stats().renewals == before + 2


def test_an_unsettled_save_without_on_unsettled_is_logged_and_counted(time, flaky, saver, caplog):
    assert saver.save(flaky, lambda: too_slow(time, flaky), "p1") == "saved"

    assert "caches can stay stale" in caplog.text
    assert time.renewals.tally.stats().unsettled == 1


def test_an_exception_of_on_unsettled_is_logged(time, flaky, saver, caplog):
    assert (
        saver.save(
            flaky, lambda: too_slow(time, flaky), "p1", on_unsettled=lambda ids, error: 1 / 0
        )
        == "saved"
    )

    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("where", "why"),
    [("publish", "its broadcast was interrupted"), ("pause", "the topic is away")],
)
def test_a_late_save_whose_broadcast_a_signal_ends_is_unsettled(time, flaky, where, why):
    told = []

    def interrupt(*_):
        raise KeyboardInterrupt

    def body():
        too_slow(time, flaky)
        if where == "publish":
            flaky.meanwhile = interrupt
        else:
            time.renewals._sleep = interrupt

    with (
        pytest.raises(KeyboardInterrupt),
        time.broadcasting(flaky, "p1", on_unsettled=lambda *error: told.append(error)),
    ):
        body()

    ((ids, error),) = told
    assert (ids, str(error)) == (["p1"], why)
    assert time.renewals.tally.stats() == BroadcastStats(late=1, unsettled=1)
    assert time.renewals._late == {}


def test_the_exception_of_an_unsettled_save_reaches_its_caller(time, flaky, saver):
    def body():
        too_slow(time, flaky)
        raise LookupError("the save's own")

    with pytest.raises(LookupError, match="the save's own"):
        saver.save(flaky, body, "p1", on_unsettled=lambda ids, error: 1 / 0)

    assert time.renewals.tally.stats().unsettled == 1


def test_a_late_save_that_raised_is_broadcast_after_its_end_and_not_confirmed(
    channel, time, flaky, saver
):
    def body():
        time.now += 6.0
        raise LookupError("this does not prove that nothing was committed")

    with pytest.raises(LookupError):
        saver.save(flaky, body, "p1", confirm=True)

    saving, late = channel.messages()
    assert attributes_of([saving], "phase") == [("saving",)]
    assert attributes(late) == {}


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.4, 2.6, 4.9, 5.0, 7.0]), st.booleans()),
        max_size=30,
    ),
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 2.6, 4.9, 5.0, 11.0]), min_size=1, max_size=5),
)
def test_a_save_never_ends_unannounced_whatever_its_broadcasts_do(broadcasts, steps):
    time = VirtualTime()
    plan = iter(broadcasts)
    accepted = []  # (start, end)
    unsettled = []

    class Unreliable:
        def publish(self, events, /):
            takes, works = next(plan, (0.0, True))
            started = time.now
            time.now += takes
            if not works:
                raise PublishError("no", ids=[])
            accepted.append((started, time.now))

    moments = []
    try:
        with time.broadcasting(
            Unreliable(), "p1", on_unsettled=lambda ids, error: unsettled.append(ids)
        ):
            moments.append(time.now)
            for step in steps:
                time.passes(step)
                moments.append(time.now)
    except PublishError:
        assert moments == [], "saved, though the broadcast failed"
        return

    assert unsettled or max(start for start, _ in accepted) > moments[-1] - W
    assert time.renewals._saves == {}
    if all(works and takes < W / 2 for takes, works in broadcasts):
        for moment in moments:  # even a process that crashes right after a commit has announced it
            assert max(start for start, end in accepted if end <= moment) > moment - W
