"""How long the worker waits after failures."""

from __future__ import annotations

import random

import pytest

from change_events import FetchError
from change_events._consumer.backoff import (
    MAX_ASKED_PAUSE,
    MAX_PAUSE,
    MAX_PROBE_PAUSE,
    Backoff,
    asked_pause,
    is_own,
    pause_after,
    retry_pause,
)


@pytest.fixture
def no_jitter(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda least, most: most)


def test_a_pause_has_a_maximum_and_jitter():
    pauses = [pause_after(2, 300.0) for _ in range(1000)]

    assert 2.0 <= min(pauses) < 2.1
    assert 3.9 < max(pauses) <= 4.0
    assert all(150.0 <= pause_after(failures, 300.0) <= 300.0 for failures in (9, 20, 100_000))


def test_jitter_shortens_a_pause_by_up_to_half():
    pauses = [pause_after(failures, 300.0) for failures in range(40)]

    assert all(min(2**n, 300) / 2 <= pause <= min(2**n, 300) for n, pause in enumerate(pauses))


def test_a_pause_doubles_with_each_failure_up_to_its_maximum(no_jitter):
    assert [pause_after(failures, 10.0) for failures in range(6)] == [1, 2, 4, 8, 10, 10]


def test_the_pause_in_an_outage_grows_up_to_half_a_minute(no_jitter):
    pauses = [Backoff().pause(failures, MAX_PROBE_PAUSE) for failures in (0, 5, 6, 99)]

    assert pauses == [1, 30, 30, 30]


def test_the_pause_after_a_failed_look_grows_with_the_receives_up_to_five_minutes(no_jitter):
    error = FetchError("503")

    assert [retry_pause(error, count) for count in (1, 8, 9, 99)] == [2, 256, 300, MAX_PAUSE]


@pytest.mark.parametrize(("asked", "pause"), [(1.0, 2.0), (77.0, 77.0), (1e6, MAX_ASKED_PAUSE)])
def test_the_pause_after_a_failed_look_is_at_least_what_the_source_asks_for(
    no_jitter, asked, pause
):
    assert retry_pause(FetchError("429", retry_after=asked), 1) == pause


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (FetchError("503"), 0.0),
        (FetchError("503", retry_after=7.0), 7.0),
        (FetchError("503", retry_after=1e6), 3600.0),
        (OSError("database is locked"), 0.0),
    ],
)
def test_the_pause_that_the_source_asks_for_is_at_most_an_hour(error, pause):
    assert asked_pause(error) == pause


@pytest.mark.parametrize("status", [None, 401, 403, 429, 502, 503, 504])
def test_no_answer_and_one_of_a_proxy_or_about_credentials_is_not_the_entitys_own(status):
    assert not is_own(FetchError("", status=status))


@pytest.mark.parametrize(
    "error", [FetchError("", status=500), FetchError("", status=404), OSError()]
)
def test_any_other_failure_can_be_the_entitys_own(error):
    assert is_own(error)
