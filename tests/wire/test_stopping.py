"""A worker stops in good order: by `stop`, by a signal, or when one of its threads dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

from change_events._consumer.inbox import Inbox
from conftest import running, signalled, spy, wait_until

# `stop`


def test_stopping_hands_back_what_is_held(channel, source, sink, make_worker, outcomes):
    client, changed = spy("ChangeMessageVisibilityBatch")
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    worker = make_worker(settle=30.0, client=client)
    with running(worker):
        outcomes.wait_for(("p1", "created"))

    (entry,) = [entry for call in changed for entry in call["Entries"]]
    assert 25 <= entry["VisibilityTimeout"] <= 30  # what remains of its window
    assert worker.stats().held == 0
    assert channel.count() == {"held": 1}


def test_stopping_lets_looks_under_way_end_and_acknowledges_their_events(
    channel, source, sink, make_worker
):
    source.entities["p1"] = {"id": "p1"}
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker()
    with running(worker) as thread:
        assert source.arrived.acquire(timeout=10)
        worker.stop()
        thread.join(0.2)
        assert thread.is_alive()
        source.gate.set()

    assert sink.get("p1") == {"id": "p1"}
    assert channel.count() == {}


def test_what_a_long_poll_brings_after_the_stop_goes_back_at_once(channel, source, make_worker):
    client, polls = spy("ReceiveMessage")
    worker = make_worker(wait_time=20, client=client)
    with running(worker) as thread:
        wait_until(lambda: polls)
        worker.stop()
        thread.join(0.2)
        assert thread.is_alive()
        channel.announce("p1")
        thread.join(10)
        assert not thread.is_alive()

    assert channel.count() == {"visible": 1}
    assert source.asked == []


def test_a_worker_that_is_full_can_be_stopped(channel, source, make_worker):
    worker = make_worker(settle=30.0, prefetch=10)
    channel.announce(*(f"p{number}" for number in range(11)))
    with running(worker) as thread:
        wait_until(lambda: worker.stats().held == 10)
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_stopping_takes_no_longer_than_its_timeout(channel, source, make_worker, caplog):
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker(shutdown_timeout=0.2)
    with running(worker) as thread:
        assert source.arrived.acquire(timeout=10)
        worker.stop()
        worker.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert channel.count() == {"held": 1}  # it comes back after its visibility timeout
    source.gate.set()

    assert "stopped halfway" in caplog.text


def test_a_stopped_worker_does_not_run_again(channel, make_worker):
    worker = make_worker()
    worker.stop()
    channel.announce("p1")

    worker.run()

    assert worker.drain() == 0
    assert channel.count() == {"visible": 1}


def test_a_worker_does_not_run_twice_at_the_same_time(channel, source, make_worker, outcomes):
    worker = make_worker()
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    with running(worker):
        outcomes.wait_for(("p1", "created"))
        with pytest.raises(RuntimeError, match="runs already"):
            worker.drain()


def test_a_thread_that_dies_stops_the_worker_with_its_error(
    channel, make_worker, monkeypatch, caplog
):
    monkeypatch.setattr(Inbox, "next", lambda self, now: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        make_worker().run()

    assert "the look thread died" in caplog.text


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_worker_in_good_order(
    channel, source, make_worker, outcomes, caplog, number
):
    caplog.set_level(logging.INFO, "change_events")
    before = signal.getsignal(number)
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    thread = signalled(number, when=lambda: outcomes.wait_for(("p1", "created")))

    make_worker(settle=30.0).run()

    thread.join()
    assert signal.getsignal(number) is before
    assert caplog.messages[-1] == "stopped"


def test_a_second_signal_returns_at_once(channel, source, make_worker, caplog):
    source.gate.clear()
    channel.announce("p1")
    thread = signalled(
        signal.SIGTERM, signal.SIGINT, when=lambda: source.arrived.acquire(timeout=10)
    )

    make_worker().run()

    assert "stopped halfway" in caplog.text
    assert channel.count() == {"held": 1}
    source.gate.set()
    thread.join()


@pytest.fixture
def ctrl_c():
    """Let SIGINT raise KeyboardInterrupt. A shell's background jobs ignore it otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_drain_in_good_order(channel, source, make_worker, outcomes, ctrl_c):
    client, changed = spy("ChangeMessageVisibilityBatch")
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    worker = make_worker(settle=30.0, client=client)
    thread = signalled(signal.SIGINT, when=lambda: outcomes.wait_for(("p1", "created")))

    with pytest.raises(KeyboardInterrupt):
        worker.drain()

    thread.join()
    assert len(changed) == 1
    assert worker.stats().held == 0


WORKER = """
import signal, sys
from change_events import HTTPFetcher, MemorySink, Worker

signal.signal(signal.SIGINT, signal.default_int_handler)
Worker(sys.argv[1], fetcher=HTTPFetcher("http://127.0.0.1:1/{id}"), sink=MemorySink()).run()
"""


def test_ctrl_c_ends_a_worker_whose_queue_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, f"{url}/1/q"],
            env=os.environ | {"AWS_ENDPOINT_URL": url},
            stderr=subprocess.DEVNULL,
        )
        connection, _ = silent.accept()  # the worker asks for the queue's delay, and gets no answer
        process.send_signal(signal.SIGINT)

        assert process.wait(10) != 0
        connection.close()


OUTLIVING = """
import sys, threading, time
from change_events import HTTPFetcher, MemorySink, Worker

fetcher = HTTPFetcher("http://127.0.0.1:1/{id}")
worker = Worker(sys.argv[1], fetcher=fetcher, sink=MemorySink(), wait_time=1)
threading.Thread(target=worker.run).start()
threading.Thread(target=lambda: threading.main_thread().join() or worker.stop()).start()
while "change-events-finish" not in {thread.name for thread in threading.enumerate()}:
    time.sleep(0.01)
"""


def test_a_worker_in_a_thread_stops_in_good_order_even_after_the_main_thread_has_ended(channel):
    process = subprocess.run(
        [sys.executable, "-c", OUTLIVING, channel.queue_url],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )

    assert (process.returncode, process.stderr) == (0, "")
