"""A plain function that returns an awaitable: its save lasts until the awaitable is done."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import inspect
import math
import warnings

import pytest
from virtual_time import attributes_of, flaky, own, time

from change_events import BroadcastStats, NullPublisher, PublishError, broadcasts_before_save

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


def logged(function):
    """Wrap a function, as decorators of coroutine functions often do."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def as_task(function):
    """Wrap a coroutine function to start a task."""

    def call(id):
        return asyncio.get_running_loop().create_task(function(id))

    return call


class Awaitable:
    """An awaitable that is neither a coroutine nor a future."""

    def __init__(self, coroutine):
        self._coroutine = coroutine

    def __await__(self):
        return self._coroutine.__await__()


def as_object(function):
    def call(id):
        return Awaitable(function(id))

    return call


@pytest.fixture(params=[logged, as_task, as_object])
def wrapper(request):
    return request.param


def phases(channel):
    return attributes_of(channel.messages(), "phase")


def run(main):
    return asyncio.run(asyncio.wait_for(main(), 20))


def test_the_save_is_confirmed_when_the_awaitable_is_done(channel, time, flaky, wrapper):
    async def main():
        @broadcasts_before_save(flaky, confirm=True, renewals=time.renewals)
        @wrapper
        async def save(id):
            await go_on.wait()
            return "saved"

        go_on = asyncio.Event()
        saving = save("p1")
        task = asyncio.ensure_future(saving)
        await asyncio.sleep(0)
        assert phases(channel) == [("saving",)]
        time.passes(3.0)
        assert phases(channel) == [("saving",)]  # renewed
        go_on.set()
        assert await task == "saved"

    run(main)

    assert phases(channel) == [("saved",)]
    assert time.renewals._saves == {}


def test_the_caller_gets_a_coroutine_for_a_coroutine_and_the_same_future_for_a_future(time):
    future = concurrent.futures.Future()

    @broadcasts_before_save(NullPublisher(), renewals=time.renewals)
    def submit(id):
        return future

    @broadcasts_before_save(NullPublisher(), renewals=time.renewals)
    @logged
    async def save(id):
        return id

    async def main():
        saving = save("p1")
        assert inspect.iscoroutine(saving)
        assert await saving == "p1"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await saving

        @broadcasts_before_save(NullPublisher(), renewals=time.renewals)
        def start(id):
            return task

        task = asyncio.ensure_future(save("p2"))
        assert start("p2") is task
        assert await task == await task == "p2"

    run(main)

    assert submit("p1") is future
    assert len(time.renewals._saves) == 1
    future.set_result(None)
    assert time.renewals._saves == {}


def test_an_error_reaches_the_caller_and_the_save_is_not_confirmed(channel, time, flaky, wrapper):
    @broadcasts_before_save(flaky, confirm=True, renewals=time.renewals)
    @wrapper
    async def save(id):
        raise LookupError(id)

    async def main():
        with pytest.raises(LookupError, match="p1"):
            await save("p1")

    run(main)

    assert phases(channel) == [("saving",)]
    assert time.renewals._saves == {}


def test_asyncio_still_says_that_nobody_has_seen_the_error_of_a_task(time, caplog):
    @broadcasts_before_save(NullPublisher(), renewals=time.renewals)
    @as_task
    async def save(id):
        raise LookupError("nobody sees it")

    async def main():
        save("p1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(main)
    gc.collect()

    assert "exception was never retrieved" in caplog.text


def test_an_awaitable_that_is_awaited_when_its_window_is_over_is_broadcast_again(time, flaky):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    @logged
    async def save(id):
        return len(flaky.started)

    async def main():
        saving = save("p1")
        time.now = 5.0
        assert await saving == 2

    run(main)


def test_a_late_awaitable_is_broadcast_after_its_end(channel, time, flaky, wrapper):
    announced = []

    @broadcasts_before_save(flaky, renewals=time.renewals)
    @wrapper
    async def save(id):
        time.now += 6.0

    async def main():
        await save("p1")
        await asyncio.to_thread(time.renewals.finish)
        announced.extend(channel.ids())

    run(main)

    assert announced == ["p1", "p1"]
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


def test_an_awaitable_that_is_cancelled_can_still_be_running(time, flaky, wrapper):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    @wrapper
    async def save(id):
        began.set()
        await asyncio.Event().wait()

    async def main():
        nonlocal began
        began = asyncio.Event()
        task = asyncio.ensure_future(save("p1"))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = None
    run(main)
    time.passes(100)

    assert flaky.started == [0.0, 2.5, 5.0, 7.5, 10.0]


def test_an_awaitable_that_is_late_to_begin_is_broadcast_again_before_it(time, flaky):
    begun = []

    @broadcasts_before_save(flaky, renewals=time.renewals)
    @logged
    async def save(id):
        begun.append(time.now)

    async def main():
        saving = save("p1")
        time.now += 6.0
        await saving

    run(main)

    assert flaky.started == [0.0, 6.0]
    assert begun == [6.0]
    assert time.renewals.tally.stats() == BroadcastStats()


@pytest.mark.parametrize("wrapper", [logged, as_object])
def test_an_awaitable_that_cannot_be_broadcast_again_does_not_begin(time, flaky, wrapper):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    @wrapper
    async def save(id):
        pytest.fail("saved")

    async def main():
        saving = save("p1")
        time.now += 6.0
        flaky.fails = (6.0, math.inf)
        with pytest.raises(PublishError):
            await saving

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if wrapper is as_object else "error", RuntimeWarning)
        run(main)
        gc.collect()

    assert time.renewals._saves == {}


def test_an_awaitable_that_nobody_awaits_is_no_longer_broadcast(time, flaky, caplog):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    @logged
    async def save(id):
        pytest.fail("saved")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "never awaited"
        save("p1")
        gc.collect()
    time.passes(100)

    assert flaky.started == [0.0]
    assert [(record.action, record.ids) for record in own(caplog)] == [("abandon", ["p1"])]


def test_a_result_that_is_no_awaitable_ends_the_save(time, flaky):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    def save(id):
        return [id]

    assert save("p1") == ["p1"]
    assert time.renewals._saves == {}


def test_an_error_before_the_awaitable_is_there_ends_the_save(time, flaky):
    @broadcasts_before_save(flaky, renewals=time.renewals)
    def save(id):
        raise LookupError(id)

    with pytest.raises(LookupError):
        save("p1")
    assert time.renewals._saves == {}


def test_a_coroutine_whose_save_may_not_begin_is_closed(time, flaky):
    begun = []

    @broadcasts_before_save(flaky, renewals=time.renewals)
    def save(id):
        begun.append(slow())
        return begun[0]

    async def slow():
        raise AssertionError

    async def main():
        saving = save("p1")
        time.now, flaky.fails = 6.0, (6.0, math.inf)
        with pytest.raises(PublishError):
            await saving

    run(main)

    assert inspect.getcoroutinestate(begun[0]) == inspect.CORO_CLOSED
