"""What the exit of a process waits for, and what the child of a fork starts with."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from change_events import BroadcastStats, broadcasting
from change_events._producer.renewals import Renewals
from conftest import wait_until

SCRIPT = """
import asyncio, os, sys, threading, time, traceback
from change_events import SNSPublisher, broadcast_stats, broadcasting
from change_events._producer.renewals import process_renewals as renewals

topic = SNSPublisher(sys.argv[1])
topic._own_client(sys.argv[1].split(":")[3])  # it needs some time
"""


def run_script(script, channel, *options):
    """Run a script; return what it has printed, and the time when it has ended."""
    process = subprocess.run(
        [sys.executable, *options, "-c", SCRIPT + script, channel.topic_arn],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ended = time.monotonic()
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout, ended


@pytest.fixture
def hanging(line):
    """A line to SNS on which confirmations get no answer until the test is over."""
    over = threading.Event()
    line.asked = 0

    def fault(asked):
        if b"StringValue=saved" in asked.body:
            line.asked += 1
            over.wait(60)

    line.fault = fault
    yield line
    over.set()


def test_the_exit_does_not_wait_for_confirmations_that_sns_does_not_answer(channel, hanging):
    printed, ended = run_script(
        """
for number in range(150):
    with broadcasting(topic, f"p{number}", confirm=True):
        pass
print(time.monotonic())
""",
        channel,
    )

    assert hanging.asked  # a confirmation was under way
    assert ended - float(printed) < 2.0
    assert len(channel.ids()) == 150


def test_confirmations_that_hang_do_not_delay_renewals():
    renewals, go_on, sent = Renewals(), threading.Event(), threading.Semaphore(0)

    class Hanging:
        def publish(self, events, /):
            if events[0].phase == "saved":
                assert go_on.wait(30)
            else:
                sent.release()

    for number in range(30):
        with broadcasting(Hanging(), f"p{number}", confirm=True, renewals=renewals):
            assert sent.acquire(timeout=20)
    with broadcasting(Hanging(), "slow", settle=0.2, renewals=renewals):
        assert all(sent.acquire(timeout=20) for _ in range(4))
    go_on.set()


def test_the_exit_waits_for_the_broadcast_after_a_late_save(channel, line):
    begun = threading.Event()

    def fault(asked):
        if begun.is_set():
            time.sleep(1.5)  # meanwhile the process has nothing else to do
        begun.set()

    line.fault = fault
    run_script(
        """
async def save():
    async with broadcasting(topic, "p1", settle=1.0):
        time.sleep(1.2)

async def main():
    task = asyncio.create_task(save())
    while not broadcast_stats().late:
        await asyncio.sleep(0.01)
    task.cancel()

asyncio.run(main())
""",
        channel,
    )

    assert channel.ids()[:2] == ["p1", "p1"]


def test_late_saves_that_the_exit_does_not_wait_for_are_unsettled(caplog):
    reached, go_on = threading.Event(), threading.Event()
    told = []
    now = [0.0]
    renewals = Renewals(clocks=lambda: (now[0],), in_thread=lambda _: None)

    class Hanging:
        calls = 0

        def publish(self, events, /):
            self.calls += 1
            if self.calls == 2:
                reached.set()
                assert go_on.wait(20)

    def save():
        with broadcasting(
            Hanging(), "p1", renewals=renewals, on_unsettled=lambda *given: told.append(given)
        ):
            now[0] = 6.0

    thread = threading.Thread(target=save)
    thread.start()
    assert reached.wait(20)
    renewals.finish(0.01)
    go_on.set()
    thread.join()

    ((ids, error),) = told
    assert ids == ["p1"]
    assert repr(error) == "TimeoutError('the process ends')"
    assert "the process ends" in caplog.text
    assert renewals.tally.stats() == BroadcastStats(late=1, unsettled=1)
    renewals.finish(0.01)
    assert len(told) == 1


def test_a_fork_while_other_threads_hold_every_lock_lets_the_child_save(channel):
    run_script(
        """
locks = [renewals._lock, renewals.tally._lock, renewals.senders._lock] + [
    pool._lock
    for pool in vars(renewals.senders).values()
    if hasattr(pool, "submit")
]
assert len(locks) == 7


def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    threading.Event().wait()


async def save():
    async with broadcasting(topic, "asynchronous", confirm=True):
        pass


async def late():
    async with broadcasting(topic, "late", settle=0.2):
        time.sleep(0.3)


held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    try:
        with broadcasting(topic, "synchronous", settle=0.2):
            while not broadcast_stats().renewals:
                time.sleep(0.01)
        asyncio.run(save())
        asyncio.run(late())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
deadline = time.monotonic() + 20
while os.waitpid(pid, os.WNOHANG)[0] == 0:
    if time.monotonic() > deadline:
        os.kill(pid, 9)
        sys.exit("the child hangs")
    time.sleep(0.01)
os._exit(0)
""",
        channel,
        "-W",
        "ignore::DeprecationWarning",  # a process with threads forks, on purpose
    )

    assert {"synchronous", "asynchronous", "late"} <= {*channel.ids()}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_a_job_has_ended_is_replaced():
    renewals = Renewals()
    pool = renewals.senders.late
    ended, done = [], threading.Event()

    def fail():
        ended.append(threading.current_thread())
        raise SystemExit

    pool.submit(fail)
    wait_until(lambda: ended and pool._threads == 0)
    ended[0].join(20)  # or pytest notes what it raised during the next test
    pool.submit(done.set)

    assert done.wait(20)


def test_a_pool_has_at_most_so_many_threads_and_uses_idle_ones_again():
    pool = Renewals().senders.late
    go_on, ran = threading.Event(), threading.Semaphore(0)

    def job():
        ran.release()
        assert go_on.wait(20)

    for _ in range(25):
        pool.submit(job)
    assert all(ran.acquire(timeout=20) for _ in range(10))
    assert pool._threads == 10
    go_on.set()
    assert all(ran.acquire(timeout=20) for _ in range(15))
    wait_until(lambda: pool._idle >= 10)
    for _ in range(5):
        pool.submit(ran.release)
    assert all(ran.acquire(timeout=20) for _ in range(5))
    assert pool._threads == 10


def test_an_idle_thread_stands_for_one_job_and_the_next_one_starts_a_thread():
    pool = Renewals().senders.late
    go_on, ran = threading.Event(), threading.Event()
    pool.submit(lambda: None)
    wait_until(lambda: pool._idle)

    pool.submit(lambda: go_on.wait(20))
    pool.submit(ran.set)

    assert ran.wait(10)
    go_on.set()
    assert pool._threads == 2
