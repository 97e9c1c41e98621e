"""A limit, and the GETs and looks that it learns from."""

from __future__ import annotations

import math

from change_events._consumer.limit import Answer, Limit
from verification.scale.source import Source


def live():
    """Return since when there has been no backlog: ever since."""
    return -math.inf


def answer(limit, *seconds, now, size=1, wanted=True, overload=False):
    """Let GETs end that last so long; at most one is under way at a time."""
    for each in seconds:
        limit.waits = wanted
        limit.begin("p1", now)
        limit.over("p1")
        now += each or 0.0
        limit.answered(Answer(now - (each or 0.0), each, size, overload), now)
    return now


def grown(*, size=1, seconds=0.02):
    """Return a limit after many good answers, and the time."""
    limit = Limit(64)
    now = answer(limit, *[seconds] * 400, now=0.0, size=size)
    assert limit.limit == 64
    return limit, now


def look_in_groups(limit, servers, *, number=100, size=9, seconds=0.1):
    """Let groups of live changes come, before 0, to a source that serves so many at once."""
    for now in range(-2 * number, 0, 2):
        ends = [now + seconds * (1 + each // servers) for each in range(size)]
        for each in range(size):
            assert limit.next_at(live) <= now
            limit.begin(f"p{each}", now)
        for each, end in enumerate(ends):
            limit.over(f"p{each}")
            limit.answered(Answer(now, end - now), end)


def work_off(limit, seconds, until):
    """Let a backlog be worked off until then, from 0 on, at a source without a limit."""
    Source(1000, seconds, limits=[limit]).run(until)
