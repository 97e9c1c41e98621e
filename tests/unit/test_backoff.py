"""How long the worker waits after failures."""

from __future__ import annotations

from change_events._consumer.backoff import pause_after


def test_a_pause_has_a_maximum_and_jitter():
    pauses = [pause_after(2, 300.0) for _ in range(1000)]

    assert 2.0 <= min(pauses) < 2.1
    assert 3.9 < max(pauses) <= 4.0
    assert all(150.0 <= pause_after(failures, 300.0) <= 300.0 for failures in (9, 20, 100_000))
