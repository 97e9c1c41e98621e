"""A cancelled save can still be running, so it is broadcast for some time after its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from virtual_time import flaky, own, time

from change_events import BroadcastStats, NullPublisher, PublishError, broadcasts_before_save
from change_events._producer.renewals import Renewals
from change_events._producer.threads import CALLERS, SENDERS

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

W = 5.0


class Cancelled(BaseException):
    """What another library for asynchronous code raises."""


class ExceptionGroup(Exception):  # noqa: N818  # Python 3.10 has none
    """Stands for the errors of a group of tasks, which cancels the others when one has failed."""


ExceptionGroup.__name__ = "BaseExceptionGroup"


def ends_with(time, publisher, error, **settings):
    with (
        contextlib.suppress(BaseException),
        time.broadcasting(publisher, "p1", **settings),
    ):
        time.passes(3.0)
        raise error


@pytest.mark.parametrize("decorated", [False, True])
def test_a_cancelled_save_is_renewed_for_ten_seconds_and_then_broadcast_once_more(
    time, flaky, decorated
):
    async def save_for_ever(publisher):
        entered.set()
        await asyncio.Event().wait()

    async def block():
        async with time.broadcasting(flaky, "p1"):
            await save_for_ever(flaky)

    async def main():
        nonlocal entered
        entered = asyncio.Event()
        decorate = broadcasts_before_save(flaky, id=lambda publisher: "p1", renewals=time.renewals)
        task = asyncio.create_task(decorate(save_for_ever)(flaky) if decorated else block())
        await entered.wait()
        time.passes(3.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    entered = None
    asyncio.run(main())
    time.passes(100)

    assert flaky.started == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0]
    assert time.renewals._saves == {}


def test_a_commit_that_lands_in_a_thread_after_its_cancellation_was_announced(time, flaky):
    commit, committed = threading.Event(), threading.Event()

    def commit_late():
        assert commit.wait(20)
        committed.set()

    async def main():
        async def save():
            async with time.broadcasting(flaky, "p1"):
                began.set()
                await asyncio.to_thread(commit_late)

        began = asyncio.Event()
        task = asyncio.create_task(save())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        time.passes(9.0)
        commit.set()
        assert committed.wait(20)

    asyncio.run(main())

    assert time.now - flaky.accepted[-1] < W


def test_a_long_window_is_renewed_for_twice_the_window(time, flaky):
    ends_with(time, flaky, asyncio.CancelledError(), settle=20)
    time.passes(100)

    assert flaky.started == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]  # the first one after 3 + 40


@pytest.mark.parametrize(
    "error",
    [
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(),
        Cancelled(),
        TimeoutError(),
        ExceptionGroup(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_after_an_interruption_a_save_can_still_be_running(time, flaky, error):
    ends_with(time, flaky, error)
    time.passes(100)

    assert len(flaky.started) == 7


def test_an_error_because_of_an_interruption_counts_as_one(time, flaky):
    for cause in ("cause", "context"):
        error = ValueError()
        setattr(error, f"__{cause}__", TimeoutError())
        ends_with(time, flaky, error)
        time.passes(100)

    assert len(flaky.started) == 14


def test_any_other_error_ends_the_save(time, flaky):
    error = ValueError()
    error.__cause__ = error.__context__ = KeyError()
    error.__cause__.__cause__ = error  # errors can refer to each other
    ends_with(time, flaky, error)
    time.passes(100)

    assert flaky.started == [0.0, 2.5]


def test_a_late_cancelled_save_is_broadcast_at_once_and_then_renewed(time, flaky):
    async def main():
        async with time.broadcasting(flaky, "p1"):
            time.now += 6.0
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert flaky.started == [0.0, 6.0]

    time.passes(100)
    assert flaky.started[2:] == [6.0, 8.5, 11.0, 13.5, 16.0]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=5, late=1)


def test_a_cancelled_save_that_cannot_be_broadcast_any_more_is_unsettled(time, flaky, caplog):
    told = []
    ends_with(
        time, flaky, asyncio.CancelledError(), on_unsettled=lambda ids, error: told.append(ids)
    )
    flaky.fails = (12.0, math.inf)
    time.passes(14.9)
    assert told == []
    time.passes(100)

    assert told == [["p1"]]
    assert flaky.started[-1] == pytest.approx(18.0, abs=0.5)  # a window after the last one was due
    assert time.renewals._saves == {}
    assert time.renewals.tally.stats().unsettled == 1
    assert [record.action for record in own(caplog)][-1] == "unsettled"
    assert own(caplog)[-1].getMessage().endswith("the topic is away")


def test_a_cancelled_save_is_given_up_a_window_after_its_last_broadcast_was_due(time, flaky):
    ends_with(time, flaky, asyncio.CancelledError())
    flaky.fails = (3.5, math.inf)
    time.passes(100)

    assert flaky.started[-1] == 18.0


def test_cancelled_saves_live_as_long_whatever_the_monotonic_clock_has_missed_before(time, flaky):
    time.is_suspended(1000.0)
    ends_with(time, flaky, asyncio.CancelledError())
    ends_with(time, flaky, asyncio.CancelledError())
    time.passes(100)

    assert len(flaky.started) == 14


def test_a_cancelled_save_whose_last_broadcast_is_refused_once_is_broadcast_again(time, flaky):
    ends_with(time, flaky, asyncio.CancelledError())
    flaky.fails = (14.0, 15.2)
    time.passes(100)

    assert flaky.started[-2:] == [15.0, 15.5]
    assert time.renewals.tally.stats().unsettled == 0


def test_a_cancelled_save_is_not_confirmed(time, flaky, channel):
    ends_with(time, flaky, asyncio.CancelledError(), confirm=True)
    time.passes(100)

    phases = {
        message["MessageAttributes"]["phase"]["StringValue"] for message in channel.messages()
    }
    assert phases == {"saving"}


def test_cancelled_saves_are_forgotten_even_where_no_thread_renews_them(time):
    for _ in range(100):
        ends_with_nobody = time.broadcasting(NullPublisher(), "p1")
        with contextlib.suppress(asyncio.CancelledError), ends_with_nobody:
            raise asyncio.CancelledError
        time.now += 1.0

    assert len(time.renewals._saves) == 21  # ten seconds, and two windows


# The broadcast after a late save, in an event loop


class Gated:
    """A publisher that waits for a gate from its second broadcast on."""

    def __init__(self, publisher):
        self._publisher = publisher
        self.calls = 0
        self.reached, self.gate, self.done = (threading.Event() for _ in range(3))

    def publish(self, events, /):
        self.calls += 1
        if self.calls > 1:
            self.reached.set()
            assert self.gate.wait(20)
        self._publisher.publish(events)
        if self.calls > 1:
            self.done.set()


def test_the_broadcast_after_a_late_save_is_counted_and_survives_its_request(time, flaky, channel):
    publisher = Gated(flaky)

    async def save():
        async with time.broadcasting(publisher, "p1"):
            time.now += 6.0

    async def main():
        task = asyncio.create_task(save())
        await asyncio.to_thread(publisher.reached.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.renewals.tally.stats() == BroadcastStats(late=1)

    asyncio.run(main())
    publisher.gate.set()
    assert publisher.done.wait(20)

    assert channel.ids() == ["p1", "p1"]


@pytest.mark.parametrize("late", [True, False])
def test_a_save_that_is_cancelled_while_it_waits_for_a_thread_is_broadcast_if_it_was_late(
    time, flaky, late
):
    senders = time.renewals.senders
    pool, number = (senders.late, SENDERS) if late else (senders.callers, CALLERS)
    gate, free = threading.Event(), threading.Event()

    async def save():
        async with time.broadcasting(flaky, "p1"):
            time.now += 6.0
            fill()
            saved.set()

    def fill():
        for _ in range(number):
            pool.submit(lambda: gate.wait(20))

    saved = asyncio.Event()

    async def main():
        if not late:
            fill()
        task = asyncio.create_task(save())
        if late:
            await saved.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    pool.submit(free.set)
    gate.set()
    assert free.wait(20)

    assert flaky.started == [0.0, 6.0] * late


def test_the_broadcast_after_a_late_save_does_not_wait_for_the_loops_executor(time, flaky, channel):
    async def main():
        loop, busy = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        waiting = loop.run_in_executor(None, busy.wait, 20)
        async with time.broadcasting(flaky, "p1"):
            time.now += 6.0
        busy.set()
        await waiting

    asyncio.run(asyncio.wait_for(main(), 20))

    assert channel.ids() == ["p1", "p1"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_coroutine_that_is_closed_in_a_late_save_is_broadcast_without_waiting(
    time, flaky, wrapped
):
    publisher = Gated(flaky)

    async def slow():
        time.now += 6.0
        await asyncio.Event().wait()

    async def save():
        async with time.broadcasting(publisher, "p1"):
            await slow()

    @broadcasts_before_save(publisher, renewals=time.renewals)
    def save_wrapped(id):
        return slow()

    async def main():
        coroutine = save_wrapped("p1") if wrapped else save()
        if not wrapped:
            await asyncio.wait([coroutine.send(None)])  # for the broadcast before the save
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    publisher.gate.set()
    assert publisher.done.wait(20)
    assert flaky.started == [0.0, 6.0]


# Results that are futures


@pytest.mark.parametrize(
    "end",
    [Future.cancel, lambda future: future.set_exception(TimeoutError())],
    ids=["cancelled", "timed out"],
)
def test_a_future_that_is_cancelled_or_timed_out_can_still_be_running(time, flaky, end):
    future = Future()

    @broadcasts_before_save(flaky, renewals=time.renewals)
    def save(id):
        return future

    assert save("p1") is future
    end(future)
    time.passes(100)

    assert len(flaky.started) == 5  # ten seconds, and the last one


def test_a_future_that_hides_its_error_has_ended_its_save(time, flaky):
    class Other:
        def add_done_callback(self, callback):
            self.callback = callback

        def cancelled(self):
            return False

    @broadcasts_before_save(flaky, renewals=time.renewals)
    def save(id):
        return Other()

    future = save("p1")
    future.callback(future)
    time.passes(100)

    assert len(flaky.started) == 1


class JobTimeoutException(Exception):  # noqa: N818  # RQ's name
    """What a signal's handler raises when a job takes too long."""


class SoftTimeLimitExceeded(Exception):  # noqa: N818  # Celery's name
    """The same."""


@pytest.mark.parametrize("kind", [JobTimeoutException, SoftTimeLimitExceeded])
def test_a_save_whose_job_takes_too_long_can_go_on(time, flaky, kind):
    ends_with(time, flaky, kind("time limit"))
    time.passes(100)

    assert flaky.started[-1] >= 13.0


def test_cancelled_saves_that_no_sender_was_free_for_are_unsettled(time, flaky):
    told = []
    ends_with(time, flaky, KeyboardInterrupt(), on_unsettled=lambda ids, error: told.append(ids))
    time.now = 6.0
    time.renewals.collect_due()
    time.now = 23.1  # two windows after its last broadcast was due

    with contextlib.suppress(KeyboardInterrupt), time.broadcasting(NullPublisher(), "p2"):
        raise KeyboardInterrupt

    assert told == [["p1"]]
    assert time.renewals.tally.stats().unsettled == 1
    assert len(time.renewals._saves) == 1


def test_a_cancelled_save_is_not_forgotten_while_it_is_broadcast(time, flaky):
    told = []
    ends_with(time, flaky, KeyboardInterrupt(), on_unsettled=lambda ids, error: told.append(ids))

    def much_later():
        time.now = 40.0
        ends_with(time, NullPublisher(), KeyboardInterrupt())

    flaky.meanwhile = much_later
    time.passes(2.0)

    assert (flaky.accepted, told) == ([0.0, 2.5, 5.0], [])
