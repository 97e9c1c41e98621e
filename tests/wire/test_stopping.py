"""A worker stops in good order: by `stop`, by a signal, or when one of its threads dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from change_events import Found, HTTPFetcher, MemorySink
from change_events._consumer.health import DIED, GAVE_UP, NOT_RUNNING, STOPPED
from change_events._consumer.inbox import Inbox
from change_events._consumer.visibility import Visibility
from conftest import running, signalled, spied, spy, wait_until


@pytest.fixture
def working():
    """Return the threads of the test's workers."""
    before = set(threading.enumerate())
    return lambda: [
        thread.name
        for thread in threading.enumerate()
        if thread not in before and "change-events-" in thread.name
    ]


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


def test_looks_go_on_until_the_long_poll_ends_so_that_it_receives_nothing_twice(
    channel, source, make_worker
):
    client, polls = spy("ReceiveMessage")
    ended = []
    client.meta.events.register("after-call.sqs.ReceiveMessage", lambda **_: ended.append(True))
    channel.announce(*(f"p{number}" for number in range(10)))
    worker = make_worker(settle=2.0, wait_time=5, client=client)
    with running(worker) as thread:
        wait_until(lambda: worker.stats().received == 10 and len(polls) > len(ended))
        worker.stop()
        thread.join(20)

    stats = worker.stats()
    assert (stats.received, stats.acknowledged) == (10, 10)
    assert channel.count() == {}


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
    source.gate.set()

    assert "stopped halfway" in caplog.text
    assert worker.health() == GAVE_UP


def test_a_look_that_waits_for_others_asks_the_source_no_more_after_the_stop(
    working, channel, source, make_worker
):
    source.gate.clear()
    channel.announce(*(f"p{number}" for number in range(12)))
    worker = make_worker(threads=4, shutdown_timeout=1.0)
    with running(worker) as thread:
        wait_until(lambda: worker.health().in_flight == 5 and len(source.asked) == 4)
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()
    source.gate.set()
    wait_until(lambda: not working())

    assert len(source.asked) == 4
    wait_until(lambda: channel.count() == {"visible": 12})


def test_a_stop_that_gives_up_hands_back_each_message_for_the_rest_of_its_window(
    working, channel, source, make_worker, sink, caplog
):
    """The process goes on, and the look that hung ends after all. It does no harm then."""
    client, changed = spy("ChangeMessageVisibilityBatch")
    _, deleted = spied(client, "DeleteMessageBatch")
    source.entities["p1"] = {"id": "p1"}
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker(
        settle=20.0, visibility_timeout=3, wait_time=1, shutdown_timeout=0.5, client=client
    )
    with running(worker) as thread:
        assert source.arrived.acquire(timeout=10)
        wait_until(lambda: changed)  # the heartbeat holds the message of the look that hangs
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()

    (entry,) = changed[-1]["Entries"]
    assert 10 <= entry["VisibilityTimeout"] <= 20
    before = len(changed)
    source.gate.set()
    wait_until(lambda: sink.get("p1"))
    wait_until(lambda: not working())
    assert len(changed) == before  # there were three beats' time, or more, in good order
    assert deleted == []
    assert channel.count() == {"held": 1}
    assert "died" not in caplog.text


def test_a_stopped_worker_does_not_run_again(channel, make_worker):
    worker = make_worker()
    assert worker.health() == NOT_RUNNING
    worker.stop()
    channel.announce("p1")

    for work in (worker.run, worker.drain):
        with pytest.raises(RuntimeError, match="stopped worker does not run again; make a new one"):
            work()

    assert worker.health() == STOPPED
    assert channel.count() == {"visible": 1}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("can't start new thread"), "has not started: can't start new thread"),
        (KeyboardInterrupt(), "^$"),
    ],
)
def test_a_worker_starts_whole_or_not_at_all(
    working, channel, make_worker, monkeypatch, error, said
):
    channel.announce("p1")
    start, started = threading.Thread.start, []

    def start_few(thread):
        if thread.name.startswith("change-events-"):
            started.append(thread)
            if len(started) == 7:
                raise error
        start(thread)

    worker = make_worker()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_few)
        with pytest.raises(type(error), match=said):
            worker.run()

    assert len(started) == 7
    assert working() == []
    assert channel.count() == {"visible": 1}
    assert worker.health() == DIED
    assert worker.drain() == 1


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


def test_a_thread_that_dies_while_the_worker_stops_is_raised_too(make_worker, monkeypatch):
    def die(_):
        raise SystemError("out of luck")

    monkeypatch.setattr(Visibility, "hand_back_all", die)

    with pytest.raises(SystemError, match="out of luck"), running(make_worker()) as thread:
        assert thread.is_alive()


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

    assert "stopped halfway; what was held has gone back" in caplog.text
    assert channel.count() == {"visible": 1}
    source.gate.set()
    thread.join()


def test_a_second_ctrl_c_of_a_drain_hands_back_what_is_held(
    channel, source, make_worker, monkeypatch, ctrl_c
):
    """Ctrl-C raises in the wait itself. A program can go on after it, as an interpreter does."""
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker()
    thread = signalled(signal.SIGINT, when=lambda: source.arrived.acquire(timeout=10))
    again = signalled(signal.SIGINT, when=lambda: wait_until(lambda: paused(worker, "stopping")))

    with pytest.raises(KeyboardInterrupt):
        worker.drain()

    wait_until(lambda: channel.count() == {"visible": 1})
    source.gate.set()
    thread.join()
    again.join()


def paused(worker, why):
    return worker.health().paused == why


@pytest.fixture
def mine():
    """A handler of the program's own for SIGUSR1."""
    called = []
    before = signal.signal(signal.SIGUSR1, lambda *_: called.append(True))
    yield called
    signal.signal(signal.SIGUSR1, before)


def wiped(sink, channel, make_worker):
    """Make a worker that refuses the deletion of p1."""
    sink.apply("p1", Found({"id": "p1"}), if_version=0)
    channel.announce("p1")
    return make_worker(max_deleted_share=0.0, min_deleted=1)


def test_sigusr1_goes_on_after_a_refused_mass_deletion(channel, source, sink, make_worker, caplog):
    worker = wiped(sink, channel, make_worker)
    before = signal.getsignal(signal.SIGUSR1)
    thread = signalled(signal.SIGUSR1, when=lambda: refused(worker))
    last = signalled(signal.SIGTERM, when=lambda: wait_until(lambda: sink.get("p1") is None))

    worker.run()

    thread.join()
    last.join()
    actions = [record.action for record in caplog.records if record.name == "change_events"]
    assert actions == ["mass_deletion", "resume"]
    assert signal.getsignal(signal.SIGUSR1) is before
    assert channel.count() == {}


def refused(worker):
    wait_until(lambda: paused(worker, "mass deletion"))
    return True


def test_sigusr1_is_left_to_a_program_that_handles_it(channel, source, sink, make_worker, mine):
    worker = wiped(sink, channel, make_worker)
    thread = signalled(signal.SIGUSR1, when=lambda: refused(worker))
    last = signalled(signal.SIGTERM, when=lambda: wait_until(lambda: mine))

    worker.run()

    thread.join()
    last.join()
    assert mine == [True]
    assert sink.get("p1") == {"id": "p1"}


def test_a_worker_stops_by_a_signal_on_a_platform_without_sigusr1(
    channel, make_worker, outcomes, monkeypatch
):
    monkeypatch.delattr(signal, "SIGUSR1")
    channel.announce("p1")
    thread = signalled(signal.SIGTERM, when=lambda: outcomes.wait_for(("p1", "never_saved")))

    make_worker().run()

    thread.join()


# Calls of the user's code that hang


class Hanging:
    """What a worker calls of the user's. The call of `where` hangs at its first id, or at all."""

    def __init__(self, where, source):
        self.released = threading.Event()
        self.fetcher, self.sink, self.metrics = SimpleNamespace(), SimpleNamespace(), None
        fetcher, sink = HTTPFetcher(source.url + "/products/{id}"), MemorySink()
        self.fetcher.fetch = self._at("fetch", where, fetcher.fetch)
        self.sink.entry = self._at("entry", where, sink.entry)
        self.sink.apply = self._at("apply", where, sink.apply)
        self.on_outcome = self._at("on_outcome", where, lambda id, outcome: None)
        if where == "metrics":
            self.metrics = SimpleNamespace(
                gauge=lambda *_, **__: self.released.wait(60),
                count=lambda *_, **__: None,
                observe=lambda *_, **__: None,
            )

    def _at(self, name, where, method):
        def call(id, /, *arguments, **named):
            if name == where and id == "hangs":
                assert self.released.wait(60)
            return method(id, *arguments, **named)

        return call

    def settings(self):
        return {name: getattr(self, name) for name in ("fetcher", "sink", "metrics", "on_outcome")}


@pytest.mark.parametrize("where", ["fetch", "entry", "apply", "on_outcome", "metrics"])
def test_one_call_of_the_users_code_that_hangs_stops_nothing_else(
    working, channel, source, make_worker, caplog, where
):
    caplog.set_level(logging.INFO, "change_events")
    client, changed = spy("ChangeMessageVisibilityBatch")
    hangs = where != "metrics"
    hanging = Hanging(where, source)
    worker = make_worker(
        **hanging.settings(),
        client=client,
        visibility_timeout=3,
        shutdown_timeout=2.0 if hangs else 20.0,
    )
    with running(worker) as thread:
        channel.announce(*["hangs"] * hangs)
        wait_until(lambda: worker.health().in_flight == hangs)
        channel.announce("p1", "p2", "p3")
        wait_until(lambda: worker.stats().acknowledged == 3)
        wait_until(lambda: len(changed) >= 2 * hangs)  # the heartbeat goes on
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert channel.count() == ({"visible": 1} if hangs else {})
        last = [record for record in caplog.records if record.name == "change_events"][-1]
        assert last.getMessage() == (
            "stopped halfway; what was held has gone back to the queue" if hangs else "stopped"
        )
        hanging.released.set()
        wait_until(lambda: not working())

    assert worker.stats().acknowledged == 3
    assert "died" not in caplog.text


def test_metrics_can_call_the_worker_back(channel, source, make_worker):
    class Curious:
        def count(self, *_, **__):
            asked.append((worker.health(), worker.stats()))

        observe = gauge = count

    asked = []
    worker = make_worker(metrics=Curious())
    channel.announce("p1", "p2")

    assert worker.drain() == 2
    assert asked[-1][1].held == 0


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
