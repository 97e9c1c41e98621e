"""A worker in a thread of a program: `with worker.running()`, and `async with`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from change_events import ConfigurationError, Found
from change_events._consumer.run import Run
from conftest import wait_until

HANDLER = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A shell starts a background job with SIGINT ignored, and children inherit that."""


async def until(condition):
    await asyncio.to_thread(wait_until, condition)


@pytest.fixture
def new_threads():
    """Return the roles of the threads that have started since the test began."""
    before = set(threading.enumerate())
    return lambda: {
        thread.name.removeprefix("change-events-")
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("change-events-")
    }


def test_a_block_runs_the_worker_and_stops_it(make_worker, channel, source, sink, new_threads):
    source.entities["p1"] = {"id": "p1"}
    with make_worker().running() as worker:
        assert worker.health().alive
        channel.announce("p1")
        wait_until(lambda: sink.get("p1") is not None)

    assert worker.health().paused == "not running"
    assert channel.count() == {}
    wait_until(lambda: not new_threads())


def test_a_worker_can_be_run_again_after_its_block(make_worker, channel, source, sink):
    worker = make_worker()
    for id in "p1", "p2":
        source.entities[id] = {"id": id}
        with worker.running():
            channel.announce(id)
            wait_until(lambda id=id: sink.get(id) is not None)

    assert worker.stats().created == 2


def test_a_worker_that_was_stopped_in_its_block_does_not_run_again(make_worker):
    with make_worker().running() as worker:
        worker.stop()
        wait_until(lambda: worker.health().paused == "stopped")

    with pytest.raises(RuntimeError, match="a stopped worker does not run again; make a new one"):
        worker.running().__enter__()


def test_a_worker_runs_once_at_a_time(make_worker):
    with make_worker().running() as worker:
        with pytest.raises(RuntimeError, match="this worker runs already"):
            worker.running().__enter__()

        assert worker.health().alive


def test_a_queue_that_cant_be_read_is_told_where_the_block_begins(make_worker):
    worker = make_worker("http://127.0.0.1:1/1/nowhere")

    with pytest.raises(ConfigurationError, match=r"the queue .* can't be read"), worker.running():
        pytest.fail("the block has begun")

    assert worker.health().paused == "died"


def test_a_block_begins_when_the_workers_threads_have_started(make_worker, new_threads):
    with make_worker(threads=4).running():
        assert {"look", "poll", "heartbeat", "acknowledge", "finish"} <= new_threads()


class Exiting:
    """A fetcher that ends the thread that calls it, as user code with `sys.exit()` does."""

    def fetch(self, id, *, etag=None):
        sys.exit(f"{id} is too much")


def test_what_a_worker_dies_of_is_raised_at_the_end_of_the_block(make_worker, channel):
    told = []
    worker = make_worker(fetcher=Exiting())

    def work():
        with worker.running(on_death=told.append):
            channel.announce("p1")
            wait_until(lambda: told)
            assert not worker.health().alive

    with pytest.raises(SystemExit, match="p1 is too much"):
        work()
    assert worker.health().paused == "died"
    assert [str(death) for death in told] == ["p1 is too much"]


def test_what_the_block_raises_itself_stays(make_worker, channel):
    told = []
    worker = make_worker(fetcher=Exiting())

    def work():
        with worker.running(on_death=told.append):
            channel.announce("p1")
            wait_until(lambda: told)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()


def test_a_worker_that_died_can_be_run_again(make_worker, channel, source, sink):
    worker = make_worker(fetcher=Exiting(), visibility_timeout=3)
    channel.announce("p1")
    with pytest.raises(SystemExit), worker.running():
        wait_until(lambda: worker.health().paused == "died")
    worker.fetcher.fetch = lambda id, *, etag=None: Found({"id": id})

    with worker.running():
        wait_until(lambda: sink.get("p1") is not None)


def test_ctrl_c_while_the_worker_starts_leaves_none_running(make_worker, monkeypatch):
    go_on = threading.Event()
    start = Run.start

    def slowly(self):
        os.kill(os.getpid(), signal.SIGINT)  # the main thread gets it
        assert go_on.wait(30)
        start(self)

    monkeypatch.setattr(Run, "start", slowly)
    worker = make_worker()

    with pytest.raises(KeyboardInterrupt), worker.running():
        pytest.fail("the block has begun")
    go_on.set()

    wait_until(lambda: worker.health().paused == "not running")


# In an event loop


def test_an_event_loop_goes_on_while_the_worker_starts_and_stops(
    make_worker, channel, source, sink
):
    source.entities["p1"] = {"id": "p1"}
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before - 0.01)

    async def serve():
        watching = asyncio.create_task(watch())
        async with make_worker(wait_time=2).running() as worker:
            channel.announce("p1")
            await until(lambda: sink.get("p1") is not None)
        watching.cancel()
        return worker

    worker = asyncio.run(serve())

    assert worker.health().paused == "not running"
    assert longest < 1.5  # a poll lasts 2 s


def test_a_block_that_would_stop_an_event_loop_is_refused(make_worker):
    worker = make_worker()

    async def serve():
        with worker.running():
            pytest.fail("the block has begun")

    with pytest.raises(RuntimeError, match=r"write 'async with worker.running\(\)'"):
        asyncio.run(serve())
    assert worker.health().paused == "not running"


def test_what_a_worker_dies_of_is_raised_at_the_end_of_an_asynchronous_block(make_worker, channel):
    async def serve():
        worker = make_worker(fetcher=Exiting())
        async with worker.running():
            channel.announce("p1")
            await until(lambda: not worker.health().alive)

    with pytest.raises(SystemExit, match="p1 is too much"):
        asyncio.run(serve())


def test_a_queue_that_cant_be_read_is_told_where_an_asynchronous_block_begins(make_worker):
    async def serve():
        async with make_worker("http://127.0.0.1:1/1/nowhere").running():
            pytest.fail("the block has begun")

    with pytest.raises(ConfigurationError, match="can't be read"):
        asyncio.run(serve())


def test_a_service_that_is_cancelled_while_the_worker_starts_leaves_none_running(
    make_worker, monkeypatch
):
    starting, go_on = threading.Event(), threading.Event()
    start = Run.start

    def slowly(self):
        starting.set()
        assert go_on.wait(30)
        start(self)

    monkeypatch.setattr(Run, "start", slowly)
    worker = make_worker()

    async def serve():
        async with worker.running():
            pytest.fail("the block has begun")

    async def cancel():
        serving = asyncio.create_task(serve())
        await asyncio.to_thread(starting.wait)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        go_on.set()

    asyncio.run(cancel())

    wait_until(lambda: worker.health().paused == "not running")


# The end of a program

PROGRAM = """
import atexit, sys
from contextlib import ExitStack
from change_events import HTTPFetcher, MemorySink, Worker

worker = Worker(
    sys.argv[1], fetcher=HTTPFetcher("http://127.0.0.1:1/{id}"), sink=MemorySink(), wait_time=1
)
stack = ExitStack()
stack.enter_context(worker.running())
atexit.register(stack.close)
atexit.register(lambda: print(worker.health().alive))
"""


def test_a_program_without_a_block_leaves_it_at_its_exit(channel):
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM + "print('works')", channel.queue_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert program.stdout.split() == ["works", "True"]
    assert program.stderr == ""


def test_ctrl_c_ends_a_program_whose_block_has_begun(channel):
    # Short sleeps: a signal that comes just before a sleep begins is heeded after it.
    work = "import time\nprint('works', flush=True)\nwith stack:\n    while True: time.sleep(0.05)"
    program = subprocess.Popen(
        [sys.executable, "-c", f"{HANDLER}{PROGRAM}{work}", channel.queue_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout.readline() == "works\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=30)
    finally:
        program.kill()
        program.wait()

    assert errors.rstrip().endswith("KeyboardInterrupt")
