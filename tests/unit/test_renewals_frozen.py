"""A process that stands still, or its machine, cannot make a save rely on an old broadcast."""

from __future__ import annotations

import asyncio
import math
import time as real_time

import pytest
from virtual_time import flaky, saver, time

from change_events import BroadcastStats, PublishError
from change_events._producer import clocks
from change_events._producer.clocks import elapsed, read_clocks

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

W = 5.0


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        ((10.0, 10.0, 500.0), (12.0, 12.0, 502.0), 2.0),
        ((10.0, 10.0, 500.0), (10.5, 3610.0, 500.5), 3600.0),  # suspended
        ((10.0, 10.0, 500.0), (10.5, 10.5, 4100.0), 3600.0),  # a paused virtual machine
        ((10.0, 10.0, 500.0), (12.0, 12.0, 100.0), 2.0),  # a wall clock that is set back
    ],
)
def test_the_elapsed_time_is_the_most_that_a_clock_has_noticed(before, after, seconds):
    assert elapsed(before, after) == seconds


def test_the_monotonic_clock_comes_first_and_the_others_follow():
    before = (real_time.monotonic(), real_time.time())
    monotonic, since_boot, wall = read_clocks()

    assert before[0] <= monotonic <= real_time.monotonic()
    assert before[1] <= wall <= real_time.time()
    assert since_boot > 0


def test_where_there_is_no_boot_time_the_monotonic_clock_is_read_twice(monkeypatch):
    monkeypatch.delattr(real_time, "CLOCK_BOOTTIME", raising=False)

    assert clocks._boot_time() is real_time.monotonic


def test_the_boot_time_is_read_from_its_own_clock(monkeypatch):
    monkeypatch.setattr(real_time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(real_time, "clock_gettime", {7: 4711.0}.get, raising=False)

    assert clocks._boot_time()() == 4711.0


@pytest.mark.skipif(not hasattr(real_time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_the_boot_time_is_linuxs():
    before = real_time.clock_gettime(real_time.CLOCK_BOOTTIME)

    assert before <= read_clocks()[1] <= real_time.clock_gettime(real_time.CLOCK_BOOTTIME)


def test_a_suspend_during_the_broadcast_makes_it_repeated_before_the_save(time, flaky, saver):
    def body():
        return len(flaky.accepted)

    flaky.meanwhile = lambda: time.is_suspended(3600.0)

    assert saver.save(flaky, body, "p1") == 2
    assert time.renewals.tally.stats() == BroadcastStats()


def test_a_suspend_during_the_save_makes_it_late(time, flaky, saver):
    saver.save(flaky, lambda: time.is_suspended(3600.0), "p1")

    assert flaky.started == [0.0, 3600.0]
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


def test_a_suspend_shorter_than_the_window_costs_nothing(time, flaky, saver):
    saver.save(flaky, lambda: time.is_suspended(4.9), "p1")

    assert flaky.started == [0.0]


class SlowLoop:
    """A publisher in an event loop that is blocked once a broadcast is accepted."""

    def __init__(self, publisher, time, *seconds):
        self._publisher = publisher
        self._time = time
        self._seconds = list(seconds)

    def publish(self, events, /):
        self._publisher.publish(events)
        if self._seconds:
            self._loop.call_soon_threadsafe(self._block, self._seconds.pop(0))

    def _block(self, seconds):
        self._time.now += seconds

    async def save(self, body):
        self._loop = asyncio.get_running_loop()
        async with self._time.broadcasting(self, "p1"):
            body()


def test_a_block_does_not_begin_on_a_broadcast_that_grew_old_on_its_way_to_the_loop(time, flaky):
    began = []

    asyncio.run(SlowLoop(flaky, time, 6.0).save(lambda: began.append(list(flaky.accepted))))

    assert began == [[0.0, 6.0]]


def test_nothing_is_saved_if_two_broadcasts_grew_old_on_their_way_to_the_loop(time, flaky):
    with pytest.raises(PublishError, match=r"took 5.0 s, longer than settle=5.0; nothing saved"):
        asyncio.run(SlowLoop(flaky, time, 6.0, 5.0).save(lambda: pytest.fail("saved")))

    assert flaky.accepted == [0.0, 6.0]
    assert time.renewals._saves == {}
