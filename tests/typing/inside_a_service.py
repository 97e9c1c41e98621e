"""What a type checker knows of a worker inside a service. Nothing here runs."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from change_events import (
    Entry,
    Fetcher,
    Found,
    Gone,
    HTTPFetcher,
    Listing,
    MemorySink,
    Outcome,
    Page,
    Sink,
    Unchanged,
    Worker,
    from_async,
)


class Products:
    async def fetch(self, id: str, /, *, etag: str | None = None) -> Found[bytes] | Gone:
        return Gone()


class Cache:
    async def entry(self, id: str, /) -> Entry:
        return Entry()

    async def apply(
        self, id: str, change: Found[bytes] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        return True


class Pages:
    async def page(self, cursor: str | None, /) -> Page[bytes]:
        return Page([], None, cursor=None)


async def told(id: str, outcome: Outcome) -> None: ...


def a_block(worker: Worker[dict[str, Any]]) -> None:
    with worker.running(on_death=print) as same:
        assert_type(same, Worker[dict[str, Any]])


async def an_asynchronous_block(worker: Worker[dict[str, Any]]) -> None:
    async with worker.running() as same:
        assert_type(same, Worker[dict[str, Any]])


def coroutines() -> None:
    fetcher, sink = from_async(Products()), from_async(Cache())
    assert_type(fetcher, Fetcher[bytes])
    assert_type(sink, Sink[bytes])
    assert_type(from_async(Pages()), Listing[bytes])
    Worker("url", fetcher=fetcher, sink=sink, on_outcome=from_async(told))
    from_async(HTTPFetcher("http://x/{id}"))  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # it is not asynchronous
    from_async(MemorySink[bytes]())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # nor is this
