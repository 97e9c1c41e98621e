"""Checked by mypy and pyright, never run: the doubles fit the seams."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from change_events import (
    ChangeEvent,
    Fetcher,
    Found,
    Gone,
    MemorySink,
    Publisher,
    Unchanged,
    Worker,
    broadcasts_before_save,
)
from change_events.testing import Broadcasts, FakeQueue, FakeSource, recording


def broadcasts() -> None:
    with recording() as broadcasts:
        assert_type(broadcasts, Broadcasts)
        publisher: Publisher = broadcasts
        broadcasts.subscribe(publisher)
    assert_type(broadcasts.events, list[ChangeEvent])
    assert_type(broadcasts.ids, list[str])
    assert_type(broadcasts.wait_for(2, timeout=1.0), list[ChangeEvent])


def source() -> None:
    source = FakeSource({"p1": {"id": "p1"}})
    fetcher: Fetcher[dict[str, Any]] = source
    source["p2"] = {"id": "p2"}
    source.update(p3={})
    source["p4"] = 4  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]  # entities are objects
    source.fail("p1", times=1, status=429, retry_after=1.0)
    assert_type(source["p1"], dict[str, Any])
    assert_type(fetcher.fetch("p1"), Found[dict[str, Any]] | Unchanged | Gone)
    assert_type(source.fetched, list[str])
    FakeSource(id_of="data.id")
    FakeSource(id_of=lambda entity: entity["sku"])
    FakeSource(id_of=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no path


def queue(sink: MemorySink[dict[str, Any]]) -> None:
    queue = FakeQueue(delay_seconds=5, max_receive_count=3)
    publisher: Publisher = queue
    worker = Worker(queue.url, client=queue.client, fetcher=FakeSource(), sink=sink)
    Worker(
        queue.url,
        fetcher=FakeSource(),
        sink=sink,
        topic_arn="arn:aws:sns:eu-west-1:1:p",
        verify_signatures=True,
    )
    Worker(queue.url, fetcher=FakeSource(), sink=sink, verify_signatures="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a bool
    queue.send("{}", {"settle": "9"})
    assert_type(worker, Worker[dict[str, Any]])
    assert_type(queue.bodies, list[str])
    assert_type(queue.dead_letters, list[str])

    @broadcasts_before_save(queue)
    def save(id: str) -> int:
        return len(id)

    assert_type(save("p1"), int)
    publisher.publish([])
