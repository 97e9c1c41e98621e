"""Saves when no thread can start, in the child of a fork, and while the interpreter shuts down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest
from virtual_time import VirtualTime, flaky, time

from change_events import SNSPublisher, broadcasting, broadcasts_before_save
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Pool, Senders, in_thread, start_daemon

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


def test_if_no_watcher_can_be_started_the_save_is_announced_late_and_the_next_save_tries_again(
    channel, caplog
):
    caplog.set_level(logging.DEBUG, "change_events")
    time = VirtualTime()
    started = []

    def in_thread(watch):
        if not started:
            started.append(None)
            raise RuntimeError("can't start new thread")
        started.append(watch)

    renewals = Renewals(clocks=lambda: (time.now,), sleep=time._sleep, in_thread=in_thread)
    publisher = SNSPublisher(channel.topic_arn)

    with broadcasting(publisher, "p1", renewals=renewals):
        time.now += 6.0
    with broadcasting(publisher, "p2", renewals=renewals):
        pass

    assert channel.ids() == ["p1", "p1", "p2"]
    assert len(started) == 2
    assert "can't start new thread" in caplog.text


def test_a_renewal_for_which_no_thread_can_start_is_tried_again_soon():
    class Publisher:
        def publish(self, events, /):
            published.append(events)
            if len(published) == 3:
                done.set()

    def start(target, name):
        if "broadcast" in name and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start_daemon(target, name)

    refused, published, done = [], [], threading.Event()
    renewals = Renewals(senders=Senders(start=start))
    with broadcasting(Publisher(), "p1", settle=0.2, renewals=renewals):
        done.wait()

    assert len(refused) == 1


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_renewal_that_raises_what_is_no_exception_is_tried_again_soon(kind):
    class Publisher:
        def publish(self, events, /):
            published.append(events)
            if len(published) == 2:
                raise kind("greenlet")
            if len(published) == 4:
                done.set()

    published, done = [], threading.Event()
    with broadcasting(Publisher(), "p1", settle=0.2, renewals=Renewals()):
        done.wait()

    assert len(published) == 4


def test_a_renewal_that_ends_its_thread_is_due_after_a_tenth_of_the_window(time, flaky):
    def end():
        raise SystemExit

    with time.broadcasting(flaky, "p1"):
        flaky.meanwhile = end
        time.is_suspended(1.0)
        with pytest.raises(SystemExit):
            time.passes(3.0)
        time.passes(0.7)

    assert flaky.started == [0.0, 3.5, 4.0]


def no_thread(target, name):
    raise RuntimeError("can't start new thread")


@pytest.fixture
def threadless(time):
    time.renewals.senders = Senders(start=no_thread)
    return time


def test_an_asynchronous_save_broadcasts_in_the_event_loop_if_no_thread_can_start(
    channel, threadless, flaky
):
    async def main():
        async with threadless.broadcasting(flaky, "p1"):
            threadless.now += 6.0

    asyncio.run(main())

    assert flaky.started == [0.0, 6.0]
    assert channel.ids() == ["p1", "p1"]


def test_cancelled_saves_that_no_thread_broadcasts_are_unsettled(threadless, flaky):
    told = []

    def cancelled(id):
        with (
            contextlib.suppress(KeyboardInterrupt),
            threadless.broadcasting(flaky, id, on_unsettled=lambda *why: told.append(why)),
        ):
            raise KeyboardInterrupt

    cancelled("p1")
    threadless.now += 20.1  # two windows after its last broadcast was due
    cancelled("p2")

    ((ids, error),) = told
    assert (ids, str(error)) == (["p1"], "no thread was free to broadcast it")


def test_a_late_future_is_broadcast_where_it_ends_if_no_thread_can_start(threadless, flaky):
    future = Future()

    @broadcasts_before_save(flaky, renewals=threadless.renewals)
    def save(id):
        return future

    save("p1")
    threadless.now += 6.0
    future.set_result(None)

    assert flaky.started == [0.0, 6.0]


def test_without_an_event_loop_of_asyncio_the_broadcast_blocks(time, flaky):
    with pytest.raises(StopIteration):  # without waiting for anything
        time.broadcasting(flaky, "p1").__aenter__().send(None)

    assert flaky.started == [0.0]


class Later:
    """A pool whose jobs the test runs."""

    def __init__(self):
        self.jobs = []

    def submit(self, job):
        self.jobs.append(job)


def test_the_broadcast_of_a_caller_that_is_gone_is_not_sent():
    async def main():
        task = asyncio.create_task(in_thread(pool, lambda: pytest.fail("sent")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (job,) = pool.jobs
        await asyncio.to_thread(job)

    pool = Later()
    asyncio.run(main())


def test_a_caller_that_is_cancelled_when_its_job_has_just_ended_is_cancelled():
    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: errors.append(told))
        task = asyncio.create_task(in_thread(pool, lambda: None))
        await asyncio.sleep(0)
        (job,) = pool.jobs
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()  # the event loop does not know it yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    pool, errors = Later(), []
    asyncio.run(main())

    assert errors == []


def test_a_broadcast_waits_for_a_thread_that_is_there_if_no_other_one_can_start():
    def start(target, name):
        if names:
            raise RuntimeError("can't start new thread")
        names.append(name)
        threading.Thread(target=target, daemon=True).start()

    names = []
    pool = Pool("some", 2, start=start)
    go_on, ran = threading.Event(), threading.Event()

    pool.submit(lambda: go_on.wait(20))
    pool.submit(ran.set)
    assert not ran.is_set()
    go_on.set()

    assert ran.wait(20)
    assert names == ["some-1"]


def test_each_job_needs_one_of_the_idle_threads():
    def start(target, name):
        names.append(name)
        start_daemon(target, name)

    names = []
    pool = Pool("some", 3, start=start)
    together, go_on = threading.Barrier(2), threading.Event()
    for _ in "ab":
        pool.submit(together.wait)
    while pool._idle < 2:
        go_on.wait(0.001)

    for _ in "cd":
        pool.submit(go_on.wait)
    go_on.set()

    assert names == ["some-1", "some-2"]


def test_a_save_that_began_before_a_fork_ends_in_the_child(time, flaky):
    with time.broadcasting(flaky, "p1"):
        time.renewals.start_over()  # as the child of a fork does

    assert flaky.started == [0.0]


SCRIPT = """
import asyncio, atexit, os, sys, threading, traceback
from change_events import BroadcastStats, ChangeEvent, SNSPublisher
from change_events import broadcast_stats, broadcasting, broadcasts_before_save

topic = SNSPublisher(sys.argv[1])
topic.publish([ChangeEvent("first")])  # boto3 can't be imported while the interpreter shuts down


class Counting:
    def __init__(self):
        self.sent = threading.Semaphore(0)

    def publish(self, events, /):
        topic.publish(events)
        self.sent.release()


def wait_for(publisher, broadcasts):
    assert all(publisher.sent.acquire(timeout=20) for _ in range(broadcasts))


"""


def run_script(script, channel, *options):
    process = subprocess.run(
        [sys.executable, *options, "-c", SCRIPT + script, channel.topic_arn],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return channel.ids()


def test_the_child_of_a_fork_forgets_the_saves_and_threads_of_its_parent(channel):
    ids = run_script(
        """
parent = Counting()
with broadcasting(parent, "parent", settle=0.4):
    wait_for(parent, 3)
    assert broadcast_stats().renewals
    pid = os.fork()
    if pid == 0:
        try:
            assert broadcast_stats() == BroadcastStats()
            child = Counting()
            with broadcasting(child, "child", settle=0.4, confirm=True):
                wait_for(child, 3)
            assert broadcast_stats().renewals
            wait_for(child, 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    wait_for(parent, 2)
""",
        channel,
        "-W",
        "ignore::DeprecationWarning",  # a process with threads forks, on purpose
    )

    assert ids.count("child") >= 3
    assert ids.count("parent") >= 4


SHUTDOWN = {
    "in an exit handler": """
@atexit.register
def save():
    for id, settings in (("p1", {}), ("p2", {"confirm": True})):
        with broadcasting(topic, id, **settings):
            pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)
""",
    "in an exit handler, after others": """
with broadcasting(topic, "p1", confirm=True):
    pass

@atexit.register
def save():
    with broadcasting(topic, "p2", confirm=True):
        pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)
""",
    "in a thread, after the main thread has ended": """
def save():
    threading.main_thread().join()
    for id, settings in (("p1", {}), ("p2", {"confirm": True})):
        with broadcasting(topic, id, **settings):
            pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)

threading.Thread(target=save).start()
""",
    "in an event loop, after the main thread has ended": """
@broadcasts_before_save(topic, confirm=True)
async def save(id):
    pass

async def main():
    await save("p1")
    threading.main_thread().join()
    await save("p2")
    async with broadcasting(topic, "late", settle=0.5):
        await asyncio.sleep(0.6)

def run():
    loop = asyncio.new_event_loop()  # asyncio.run starts a thread at its end: forbidden from 3.12
    loop.run_until_complete(main())
    loop.close()

threading.Thread(target=run).start()
""",
}


@pytest.mark.parametrize("script", SHUTDOWN.values(), ids=SHUTDOWN)
def test_saves_during_the_shutdown_of_the_interpreter_neither_hang_nor_fail(channel, script):
    ids = run_script(script, channel, "-W", "error")

    assert {"p1", "p2"} <= set(ids)
    assert ids.count("late") >= 2  # renewed, or broadcast after its end
