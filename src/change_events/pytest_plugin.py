"""
Fixtures for the tests of services that use change-events.

pytest loads them wherever the library is installed. So their names begin with the library's name:
they cannot clash with another plugin's, or silently replace a fixture that a test misspells. And
nothing is imported here before a test uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from change_events.testing import Broadcasts, FakeQueue, FakeSource


@pytest.fixture
def change_events_broadcasts() -> Iterator[Broadcasts]:
    """
    The broadcasts of this process, which are recorded and not sent: `events`, `ids`, `clear()`,
    `fail()`, `recover()`.

    See `change_events.testing.recording`.
    """
    from change_events.testing import recording

    with recording() as broadcasts:
        yield broadcasts


@pytest.fixture
def change_events_queue(change_events_broadcasts: Broadcasts) -> FakeQueue:
    """
    An SQS queue in memory that gets every broadcast of this process: `Worker(queue.url,
    client=queue.client, ...)`.

    See `change_events.testing.FakeQueue`.
    """
    from change_events.testing import FakeQueue

    queue = FakeQueue()
    change_events_broadcasts.subscribe(queue)
    return queue


@pytest.fixture
def change_events_source() -> FakeSource:
    """
    A source in memory, empty: a mapping of ids to entities that is a worker's `fetcher`.

    See `change_events.testing.FakeSource`.
    """
    from change_events.testing import FakeSource

    return FakeSource()
