"""A worker's health: as its caller reads it, and as a container's probes do, over real HTTP."""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection

import boto3
import pytest

from change_events import ConfigurationError, Health
from change_events._consumer import intake, probe
from change_events._consumer.consumer import Consumer
from change_events._consumer.health import FULL, Pauses, is_ready
from change_events._consumer.visibility import Visibility
from change_events._meter import Meter
from conftest import failing, running, signalled, wait_until
from verification.harness.wire import Answer

NOT_RUNNING = Health(alive=False, ready=False, paused="not running")
STOPPED = Health(alive=False, ready=False, paused="stopped")


@pytest.fixture
def make_worker(make_worker, free_port):
    """Make a worker that answers probes."""
    return partial(make_worker, health_address=("127.0.0.1", free_port))


@pytest.fixture
def ask(free_port):
    """Ask the endpoint; return the status and what its body says."""

    def ask(path, method="GET"):
        connection = HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, json.loads(body) if response.headers[
            "Content-Type"
        ] == "application/json" and body else None

    return ask


def polled(worker):
    """Wait until SQS has answered the worker's first poll."""
    wait_until(lambda: worker.health().last_poll is not None)


# Health


def test_a_worker_that_does_not_run_is_not_alive(make_worker):
    worker = make_worker()
    assert worker.health() == NOT_RUNNING

    worker.drain()
    assert worker.health() == NOT_RUNNING


def test_an_idle_queue_is_healthy(make_worker, ask):
    worker = make_worker()
    with running(worker):
        polled(worker)
        health = worker.health()
        alive, ready = ask("/healthz"), ask("/readyz")

    assert (health.alive, health.ready, health.paused) == (True, True, None)
    assert (health.oldest_held, health.held, health.in_flight) == (None, 0, 0)
    assert 0.0 <= health.last_poll < 20.0
    assert health.get_limit == 0.5  # nothing was asked of the source yet
    assert (alive[0], ready[0]) == (200, 200)
    assert alive[1].keys() == {
        "alive",
        "ready",
        "paused",
        "last_poll",
        "oldest_held",
        "held",
        "prefetch",
        "in_flight",
        "get_limit",
        "synced",
        "since_loss",
        "audit_stale",
        "last_clean_audit",
    }
    assert worker.health() == STOPPED


def test_health_counts_held_events_and_running_looks(channel, source, make_worker, ask):
    source.gate.clear()
    channel.announce("p1", "p2")
    worker = make_worker(threads=1)
    with running(worker):
        assert source.arrived.acquire(timeout=10)
        wait_until(lambda: worker.health().held == 2)
        _, body = ask("/readyz")
        source.gate.set()

    assert (body["held"], body["in_flight"]) == (2, 1)
    assert body["oldest_held"] >= 0.0


def test_oldest_held_is_measured_from_the_receipt(channel, source, make_worker, outcomes):
    source.entities |= {"p1": {"id": "p1"}, "p2": {"id": "p2"}}
    channel.announce("p1")
    worker = make_worker(settle=30.0)
    with running(worker):
        outcomes.wait_for(("p1", "created"))
        before = worker.health().oldest_held
        channel.announce("p2")
        outcomes.wait_for(("p2", "created"))

        assert worker.health().oldest_held > before


def test_a_worker_is_alive_in_an_outage_of_the_source(channel, source, make_worker, ask):
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")
    source.answer = lambda id: Answer(503)
    worker = make_worker()
    with running(worker):
        wait_until(lambda: worker.stats().failed == 1)

        assert ask("/healthz")[0] == 200


def test_a_worker_is_alive_but_not_ready_in_an_outage_of_sqs(make_worker, ask, monkeypatch):
    monkeypatch.setattr(intake, "pause_after", lambda failures, most: 0.01)
    client = boto3.client("sqs")
    away = threading.Event()

    def answer(**_):
        if away.is_set():
            raise ConnectionError("reset")

    client.meta.events.register("before-call.sqs.ReceiveMessage", answer)
    away.set()
    worker = make_worker(client=client)
    with running(worker):
        wait_until(lambda: worker.health().paused == "receive failed")
        assert ask("/healthz")[0] == 200
        status, body = ask("/readyz")
        assert (status, body["ready"], body["paused"]) == (503, False, "receive failed")

        away.clear()
        wait_until(lambda: worker.health().ready)
        assert ask("/readyz")[0] == 200


def test_a_full_worker_is_ready(channel, source, make_worker):
    source.gate.clear()
    worker = make_worker(prefetch=10, threads=1)
    with running(worker):
        polled(worker)
        channel.announce("p1", "p2")
        wait_until(lambda: worker.health().paused == "full")
        assert worker.health().ready

        source.gate.set()
        wait_until(lambda: worker.health().paused is None)
        assert worker.health().ready


def test_a_starting_worker_is_alive_and_not_ready(channel, make_worker):
    asked, go_on = threading.Event(), threading.Event()
    client = boto3.client("sqs")

    def wait(**_):
        asked.set()
        assert go_on.wait(30)

    client.meta.events.register("before-call.sqs.GetQueueAttributes", wait)
    worker = make_worker(client=client)
    with running(worker):
        assert asked.wait(30)
        assert worker.health() == Health(
            alive=True, ready=False, paused="starting", prefetch=100, get_limit=0.5
        )
        go_on.set()
        polled(worker)


def test_a_stopping_worker_is_alive_and_not_ready(channel, source, make_worker, ask):
    source.gate.clear()
    channel.announce("p1")
    worker = make_worker()
    with running(worker):
        assert source.arrived.acquire(timeout=10)
        worker.stop()
        wait_until(lambda: worker.health().paused == "stopping")
        alive, ready = ask("/healthz"), ask("/readyz")
        source.gate.set()

    assert (alive[0], ready[0]) == (200, 503)
    with pytest.raises(ConnectionRefusedError):
        ask("/healthz")


@pytest.mark.parametrize("broken", ["poll", "heartbeat"])
def test_a_worker_that_has_lost_a_thread_is_not_alive(
    channel, source, make_worker, ask, monkeypatch, broken
):
    source.gate.clear()  # stopping waits for a look, so that the endpoint still answers
    channel.announce("p1")
    dying = threading.Event()

    def die(*_, **__):
        assert dying.wait(30)
        raise SystemError("out of luck")

    if broken == "poll":
        monkeypatch.setattr(Consumer, "wait_for_room", _after(1, die, Consumer.wait_for_room))
    else:
        monkeypatch.setattr(Visibility, "extend", die)
    worker = make_worker(visibility_timeout=3, prefetch=100)
    with pytest.raises(SystemError, match="out of luck"), running(worker):  # noqa: PT012  # `running` raises it at the end
        assert source.arrived.acquire(timeout=10)
        assert ask("/healthz")[0] == 200
        dying.set()
        wait_until(lambda: not worker.health().alive)
        status, body = ask("/healthz")
        assert (status, body["alive"], body["ready"]) == (503, False, False)
        assert ask("/readyz")[0] == 503
        source.gate.set()


def _after(calls, then, first):
    """Return a method that calls `first` so many times, and `then` after that."""
    left = [calls]

    def method(*arguments):
        left[0] -= 1
        return first(*arguments) if left[0] >= 0 else then()

    return method


# The endpoint


def test_head_answers_like_get_without_the_body(make_worker, free_port):
    worker = make_worker()
    with running(worker):
        polled(worker)
        connection = HTTPConnection("127.0.0.1", free_port, timeout=10)
        connection.request("HEAD", "/readyz?verbose")
        response = connection.getresponse()

        assert (response.status, response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0
        assert response.headers["Content-Type"] == "application/json"
        connection.close()


def test_other_paths_and_methods_are_refused(make_worker, ask):
    worker = make_worker()
    with running(worker):
        polled(worker)

        for path in ("/", "/healthz/", "/metrics", "/readyz/../healthz"):
            assert ask(path) == (404, None), path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask("/healthz", method) == (405, None), method
        assert ask("/healthz", "BREW")[0] == 501  # an unknown method (RFC 9110, 15.6.2)


def test_a_client_that_is_slow_or_hangs_up_does_not_disturb_a_probe(
    make_worker, ask, free_port, capfd, caplog
):
    caplog.set_level(logging.DEBUG, "change_events")
    worker = make_worker()
    with running(worker):
        polled(worker)
        with (
            socket.create_connection(("127.0.0.1", free_port)) as slow,
            socket.create_connection(("127.0.0.1", free_port)) as other,
        ):
            slow.sendall(b"GET /healthz HTTP/1.1\r\n")
            # Close with a reset.
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            other.sendall(b"GET /")
            other.close()

            assert ask("/healthz")[0] == 200
            wait_until(
                lambda: any("no answer for a probe" in message for message in caplog.messages)
            )

    assert capfd.readouterr().err == ""


def probe_threads():
    return [
        each
        for each in threading.enumerate()
        if "process_request_thread" in each.name
        and isinstance(getattr(getattr(each, "_target", None), "__self__", None), probe._Server)
    ]  # and not those of the tests' own servers


def test_any_number_of_slow_clients_needs_few_threads_and_does_not_disturb_a_probe(
    make_worker, ask, free_port
):
    worker = make_worker()
    with running(worker), ExitStack() as clients:
        polled(worker)
        most = 0
        for _ in range(3 * probe.MAX_CONNECTIONS):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", free_port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\n")
            most = max(most, len(probe_threads()))

        assert ask("/healthz")[0] == 200
        # A thread that has just ended can still be listed.
        assert 1 <= max(most, len(probe_threads())) < 2 * probe.MAX_CONNECTIONS


def test_a_further_connection_replaces_the_oldest(make_worker, free_port):
    worker = make_worker()
    with running(worker), ExitStack() as clients:
        polled(worker)
        oldest, *others = [
            clients.enter_context(socket.create_connection(("127.0.0.1", free_port), timeout=30))
            for _ in range(probe.MAX_CONNECTIONS + 1)
        ]

        assert oldest.recv(1) == b""  # the server closed it
        for other in others:
            other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.0 200")


def test_a_connection_ends_at_its_deadline_however_busy_its_client_is(
    make_worker, free_port, monkeypatch
):
    monkeypatch.setattr(probe, "DEADLINE", 0.5)
    worker = make_worker()
    with running(worker):
        polled(worker)
        with socket.create_connection(("127.0.0.1", free_port), timeout=0.05) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n")
            begun = time.monotonic()
            answered = None
            while answered is None and time.monotonic() < begun + 30:
                try:
                    client.sendall(b"X")
                    answered = client.recv(1)
                except TimeoutError:  # the server still waits for the rest
                    pass
                except ConnectionError:  # the server closed it, with an X unread
                    answered = b""

        assert answered == b""
        assert time.monotonic() - begun >= 0.4


def test_a_probe_whose_threads_all_hang_is_refused_and_the_next_one_is_answered(
    make_worker, free_port
):
    hanging, go_on = threading.Semaphore(0), threading.Event()

    def health():
        hanging.release()
        assert go_on.wait(30)
        return NOT_RUNNING

    def ask():
        with socket.create_connection(("127.0.0.1", free_port), timeout=30) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            return client.recv(100)

    with probe.serving(("127.0.0.1", free_port), health), ExitStack() as clients:
        for _ in range(probe.MAX_CONNECTIONS):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", free_port)))
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert hanging.acquire(timeout=30)

        assert refused(ask)
        go_on.set()
        wait_until(lambda: not probe_threads())
        assert ask().startswith(b"HTTP/1.0 503")


def refused(ask):
    try:
        return ask() == b""
    except ConnectionResetError:
        return True


def test_a_connection_for_which_no_thread_can_be_started_is_closed(free_port, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    def ask():
        with socket.create_connection(("127.0.0.1", free_port), timeout=30) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            return client.recv(100)

    with probe.serving(("127.0.0.1", free_port), lambda: NOT_RUNNING):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(probe.MAX_CONNECTIONS + 1):
                assert refused(ask)

        assert ask().startswith(b"HTTP/1.0 503")


def test_an_endless_request_is_refused(make_worker, free_port):
    worker = make_worker()
    with running(worker):
        polled(worker)
        with socket.create_connection(("127.0.0.1", free_port), timeout=10) as client:
            client.sendall(b"GET /" + b"x" * 65_537)

            assert b" 414 " in client.recv(100)


def test_without_an_address_no_endpoint_is_served(make_worker):
    before = {thread.name for thread in threading.enumerate()}
    worker = make_worker(health_address=None)
    with running(worker):
        polled(worker)

        assert (
            "change-events-health" not in {thread.name for thread in threading.enumerate()} - before
        )


def test_drain_serves_no_endpoint(make_worker, channel, free_port):
    with socket.create_server(("127.0.0.1", free_port)):  # so an endpoint would be an error
        assert make_worker().drain() == 0


def test_an_address_in_use_is_an_error_at_the_start(make_worker, free_port):
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(ConfigurationError, match=f"{free_port}.*in use"),
    ):
        make_worker().run()


def test_the_endpoint_can_be_served_on_ipv6(make_worker, free_port):
    worker = make_worker(health_address=("::1", free_port))
    with running(worker):
        polled(worker)
        connection = HTTPConnection("::1", free_port, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    "address", [8080, "0.0.0.0:8080", ("0.0.0.0",), ("0.0.0.0", "8080"), ("", -1), ("", 65_536)]
)
def test_an_address_must_be_a_host_and_a_port(make_worker, address):
    with pytest.raises(ConfigurationError, match="health_address must be a host and a port"):
        make_worker(health_address=address)


def test_the_port_is_free_after_ctrl_c(make_worker, outcomes, channel, free_port):
    channel.announce("p1")
    thread = signalled(signal.SIGINT, when=lambda: outcomes.wait_for(("p1", "never_saved")))

    make_worker().run()

    thread.join()
    socket.create_server(("127.0.0.1", free_port)).close()
    assert "change-events-health" not in {thread.name for thread in threading.enumerate()}


# Pauses, with a clock of the test


class Seconds:
    """Metrics that add up the seconds of each reason."""

    def __init__(self):
        self.by_reason = {}

    def count(self, name, value, /, *, reason):
        assert name == "paused_seconds"
        self.by_reason[reason] = self.by_reason.get(reason, 0) + value


def test_reasons_begin_and_end_independently():
    now = 10.0
    metrics = Seconds()
    pauses = Pauses(Meter(metrics), clock=lambda: now)
    assert pauses.why is None

    pauses.begin("source down")
    now = 12.0
    pauses.begin("full")
    pauses.begin("source down")
    assert pauses.why == "source down, full"

    now = 15.0
    pauses.end("full")
    pauses.end("never begun")
    assert pauses.why == "source down"
    assert metrics.by_reason == {}  # only a report calls the user's code

    pauses.report()
    assert metrics.by_reason == {"full": 3.0, "source down": 5.0}
    now = 16.0
    pauses.end("source down")
    pauses.report()
    pauses.report()
    assert metrics.by_reason == {"full": 3.0, "source down": 6.0}
    assert pauses.why is None


def test_a_worker_is_ready_after_a_poll_if_it_is_not_paused_or_only_full():
    assert is_ready(None, 1.0)
    assert is_ready(FULL, 1.0)
    assert not is_ready(None, None)
    assert not is_ready("source down", 1.0)
    assert not is_ready("source down, full", 1.0)


def test_a_worker_is_ready_again_after_a_failed_receive(make_worker, monkeypatch):
    monkeypatch.setattr(intake, "pause_after", lambda failures, most: 0.01)
    client, left = failing("ReceiveMessage", ConnectionError("reset"))
    worker = make_worker(client=client)
    with running(worker):
        wait_until(lambda: worker.health().ready)

    assert left == []
