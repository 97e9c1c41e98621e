"""A fetcher, a sink, a listing and an `on_outcome` of coroutine functions, in a service's loop."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager

import pytest

from change_events import (
    Backfill,
    BulkFetcher,
    ConfigurationError,
    FetchError,
    Found,
    Gone,
    HTTPFetcher,
    MemorySink,
    Outcome,
    Page,
    StatefulSink,
    _from_async,
    from_async,
    refresh,
)
from change_events.testing import SinkContract
from conftest import wait_until


@contextmanager
def a_loop():
    """Run an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def loop():
    with a_loop() as loop:
        yield loop


class AsyncMemory:
    """A cache whose methods are coroutine functions."""

    def __init__(self, sink):
        self._sink = sink

    async def entry(self, id, /):
        await asyncio.sleep(0)
        return self._sink.entry(id)

    async def apply(self, id, change, /, *, if_version):
        await asyncio.sleep(0)
        return self._sink.apply(id, change, if_version=if_version)

    async def ids(self, *, after=None, limit=1000):
        return self._sink.ids(after=after, limit=limit)

    async def state(self, name, /):
        return self._sink.state(name)

    async def set_state(self, name, text, /, *, if_state):
        return self._sink.set_state(name, text, if_state=if_state)

    async def insert_many(self, found, /):
        return self._sink.insert_many(found)

    async def get_many(self, ids, /):
        return self._sink.get_many(ids)

    async def get(self, id, /):
        return self._sink.get(id)

    def purge(self, **settings):
        return self._sink.purge(**settings)


class TestAsyncSink(SinkContract):
    @pytest.fixture
    def sink(self, loop, clock):
        return from_async(AsyncMemory(MemorySink(clock=clock)), loop=loop)


class AsyncSource:
    """A source that notes in which loop it was asked."""

    bulk_size = 2
    trust_etags = True

    def __init__(self, entities):
        self._entities = entities
        self.asked_in = []

    async def fetch(self, id, /, *, etag=None):
        self.asked_in.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return Found(self._entities[id]) if id in self._entities else Gone()

    async def fetch_many(self, ids, /):
        return {id: Found(self._entities[id]) for id in ids if id in self._entities}

    async def page(self, cursor, /):
        return Page(list(self._entities), None, cursor=None)


def test_a_worker_in_a_service_uses_its_event_loop(make_worker, channel):
    cache, outcomes = MemorySink(), []
    source = AsyncSource({"p1": {"id": "p1"}})

    async def on_outcome(id, outcome):
        outcomes.append((id, outcome, asyncio.get_running_loop()))

    async def serve():
        worker = make_worker(
            fetcher=from_async(source),
            sink=from_async(AsyncMemory(cache)),
            on_outcome=from_async(on_outcome),
        )
        async with worker.running():
            channel.announce("p1")
            await asyncio.to_thread(wait_until, lambda: outcomes)
        return asyncio.get_running_loop()

    loop = asyncio.run(serve())

    assert outcomes == [("p1", Outcome.CREATED, loop)]
    assert set(source.asked_in) == {loop}
    assert cache.get("p1") == {"id": "p1"}


def test_a_backfill_reads_an_asynchronous_listing(loop):
    source, sink = AsyncSource({"p1": {"id": "p1"}, "p2": {"id": "p2"}}), MemorySink()
    listing, fetcher = (from_async(source, loop=loop) for _ in range(2))

    Backfill(listing, fetcher=fetcher, sink=sink).run()

    assert sink.ids() == ["p1", "p2"]


def test_what_an_object_can_do_in_addition_is_taken_over(loop):
    source, sink = AsyncSource({}), from_async(AsyncMemory(MemorySink()), loop=loop)
    fetcher = from_async(source, loop=loop)

    assert isinstance(fetcher, BulkFetcher)
    assert isinstance(sink, StatefulSink)
    assert (fetcher.bulk_size, fetcher.trust_etags) == (2, True)
    source.bulk_size = 5
    assert fetcher.bulk_size == 5
    assert sink.purge(older_than=14 * 86_400) == 0  # a method that is not a coroutine function
    assert repr(fetcher) == f"from_async({source!r})"


def test_what_a_coroutine_raises_is_raised(loop):
    class Down:
        async def fetch(self, id, /, *, etag=None):
            raise FetchError("down")

    with pytest.raises(FetchError, match="down"):
        refresh("p1", fetcher=from_async(Down(), loop=loop), sink=MemorySink())


def test_a_timeout_of_a_coroutine_is_its_own(loop):
    async def late():
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        from_async(late, loop=loop)()


def test_a_method_with_other_parameters_is_refused_as_any_other(make_worker, loop):
    class WithoutETags:
        async def fetch(self, id):
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match=re.escape("its parameters are (id)")):
        make_worker(fetcher=from_async(WithoutETags(), loop=loop))


def test_a_call_in_the_loops_own_thread_is_refused_because_it_would_wait_for_itself():
    async def serve():
        refresh("p1", fetcher=from_async(AsyncSource({})), sink=MemorySink())

    with pytest.raises(RuntimeError, match="would wait for ever: call it in a thread"):
        asyncio.run(serve())


def test_a_future_is_refused_there_too():
    async def serve():
        future = asyncio.get_running_loop().create_future()
        from_async(lambda: future)()

    with pytest.raises(RuntimeError, match="would wait for ever"):
        asyncio.run(serve())


def test_a_coroutine_can_take_longer_than_the_loop_is_checked_for(loop, monkeypatch):
    monkeypatch.setattr(_from_async, "LOOP_CHECK", 0.001)

    async def slow():
        await asyncio.sleep(0.1)
        return "done"

    assert from_async(slow, loop=loop)() == "done"


def test_a_loop_that_has_ended_is_told():
    with a_loop() as loop:
        fetch = from_async(AsyncSource({}), loop=loop).fetch

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        fetch("p1")


def test_a_loop_that_ends_amid_a_call_is_told():
    begun, raised = threading.Event(), []

    class Slow:
        async def fetch(self, id, /, *, etag=None):
            begun.set()
            await asyncio.sleep(3600)

    def call(fetch):
        try:
            fetch("p1")
        except RuntimeError as error:
            raised.append(str(error))

    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    calling = threading.Thread(target=call, args=(from_async(Slow(), loop=loop).fetch,))
    calling.start()
    assert begun.wait(30)
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    calling.join(30)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    assert raised == ["the event loop has ended, and did not run the coroutine"]


def test_an_event_loop_is_needed():
    with pytest.raises(ConfigurationError, match="call it where the loop runs"):
        from_async(AsyncSource({}))


def test_a_class_is_refused(loop):
    with pytest.raises(ConfigurationError, match=re.escape("not a class: AsyncSource(...)")):
        from_async(AsyncSource, loop=loop)


def test_what_is_not_asynchronous_works_too(loop, source):
    source.entities["p1"] = {"id": "p1"}
    fetcher = from_async(HTTPFetcher(source.url + "/products/{id}"), loop=loop)

    assert fetcher.fetch("p1").value == {"id": "p1"}
