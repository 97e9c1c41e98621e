"""A save that nobody will end is not renewed for ever."""

from __future__ import annotations

import gc

import pytest
from virtual_time import flaky, own, time

from change_events import BroadcastStats, NullPublisher

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


def abandoned(caplog):
    return [(record.levelname, record.ids) for record in own(caplog) if record.action == "abandon"]


def test_a_save_whose_block_is_garbage_is_no_longer_broadcast(time, flaky, caplog):
    time.broadcasting(flaky, "p1", "p2").__enter__()
    gc.collect()

    time.passes(100)

    assert flaky.started == [0.0]
    assert time.renewals._saves == {}
    assert abandoned(caplog) == [("WARNING", ["p1", "p2"])]


def test_a_save_that_is_open_for_more_than_an_hour_is_no_longer_broadcast(time, flaky, caplog):
    block = time.broadcasting(flaky, "p1", settle=3600)
    block.__enter__()

    time.passes(3600.0)
    assert abandoned(caplog) == []
    time.passes(10_000.0)

    assert flaky.started == [0.0, 1800.0, 3600.0]
    assert abandoned(caplog) == [("WARNING", ["p1"])]
    block.__exit__(None, None, None)
    assert len(flaky.started) == 4
    assert time.renewals.tally.stats() == BroadcastStats(renewals=2, late=1)


def test_an_abandoned_save_does_not_stop_others_from_being_renewed(time, flaky):
    time.broadcasting(flaky, "p1").__enter__()
    gc.collect()
    with time.broadcasting(flaky, "p2"):
        time.passes(3.0)

    assert flaky.started == [0.0, 0.0, 2.5]
