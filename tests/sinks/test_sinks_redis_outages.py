"""RedisSink while a real server can't be reached, hangs, is full, loads, or is a replica."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
import time

import pytest
import redis
from redis.connection import BlockingConnectionPool

from change_events import ConfigurationError, Entry, Found, Gone, RedisSink, Unchanged
from conftest import wait_until

FOUND = Found({"n": 1}, '"one"', "d1")
NEWER = Found({"n": 2}, '"two"', "d2")
CHANGES = {"found": NEWER, "unchanged": Unchanged(), "gone": Gone()}


@pytest.fixture
def server(make_redis):
    """A Redis of the test's own, which can be stopped."""
    with make_redis() as server:
        yield server


@pytest.fixture
def sink(server):
    with RedisSink(server.url, timeout=0.5) as sink:
        yield sink


def look(sink, change):
    return sink.apply("p1", change, if_version=sink.entry("p1").version)


def test_a_server_that_hangs_makes_looks_fail_in_time_and_what_they_wrote_is_found(sink, server):
    look(sink, FOUND)
    version = sink.entry("p1").version
    server.pause()
    try:
        for call in (
            lambda: sink.apply("p1", NEWER, if_version=version),
            lambda: sink.entry("p1"),
            lambda: sink.state("guard"),
            sink.epoch,
        ):
            with pytest.raises(redis.TimeoutError):
                call()
    finally:
        server.resume()

    wait_until(lambda: sink.entry("p1").version != version)  # the script was in its socket
    assert not sink.apply("p1", NEWER, if_version=version)
    assert look(sink, NEWER)


def test_a_call_to_a_server_that_hangs_is_not_made_again(server):
    with RedisSink(server.url, timeout=2.0) as sink:
        server.pause()
        started = time.monotonic()
        try:
            with pytest.raises(redis.TimeoutError):
                sink.entry("p1")
            assert time.monotonic() - started < 3.9
        finally:
            server.resume()


def test_a_server_that_hangs_is_an_error_at_the_start(server):
    server.pause()
    try:
        with pytest.raises(ConfigurationError, match="can't be used: Timeout"):
            RedisSink(server.url, timeout=0.5)
    finally:
        server.resume()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_full_memory_makes_a_look_fail_and_changes_nothing(sink, server, change):
    look(sink, FOUND)
    before = sink.entry("p1")
    with server.client as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            sink.apply("p1", change, if_version=before.version)
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            sink.insert_many({"p2": FOUND, "p3": FOUND})
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            sink.set_state("guard", "text", if_state=None)
        assert (sink.entry("p1"), sink.get("p1"), sink.ids()) == (before, {"n": 1}, ["p1"])
        assert client.ttl("{entities}:entity:p1") == -1

        client.config_set("maxmemory", 0)
    assert sink.apply("p1", change, if_version=before.version)
    assert sink.insert_many({"p2": FOUND}) == {"p2"}


def connection_of(sink):
    return sink._server.command("CLIENT", b"ID")


def test_after_a_failover_a_client_looks_for_the_new_primary(sink, server, make_redis):
    look(sink, FOUND)
    before, connection = sink.entry("p1"), connection_of(sink)
    with make_redis() as other, server.client as client:
        client.replicaof("127.0.0.1", str(other.port))
        with pytest.raises(redis.ResponseError, match=r"READONLY|read only replica"):
            sink.apply("p1", NEWER, if_version=before.version)
        assert connection_of(sink) != connection  # so a name is looked up again
        with pytest.raises(ConfigurationError, match="it is a replica: use the address of its"):
            RedisSink(server.url)

        client.replicaof("NO", "ONE")
        assert not sink.apply("p1", NEWER, if_version=before.version)  # it can have lost something
        assert look(sink, NEWER)


def test_a_server_that_loads_its_snapshot_makes_looks_fail_until_it_is_done(server):
    sink = RedisSink(server.url)
    large = "x" * 1_000_000  # it answers after every few MB that it has read
    sink.insert_many({f"p{n}": Found({"text": large}) for n in range(40)})
    with server.client as client:
        client.config_set("rdbcompression", "no")
        client.save()
    server.kill()
    server.settings |= {"key-load-delay": "150000"}  # microseconds for each
    server.start(loaded=False)
    with pytest.raises(redis.exceptions.BusyLoadingError):
        sink.entry("p1")

    wait_until(lambda: is_loaded(server))
    assert not sink.apply("p1", NEWER, if_version=0)  # it can have lost something
    assert look(sink, NEWER)
    assert len(sink) == 40
    sink.close()


def is_loaded(server):
    with server.client as client:
        return client.info("persistence")["loading"] == 0


def test_a_pool_without_a_free_connection_makes_a_look_fail_in_time(server):
    pool = BlockingConnectionPool(
        port=server.port, socket_timeout=20, max_connections=1, timeout=0.05
    )
    with redis.Redis(connection_pool=pool) as client, RedisSink(client) as sink:
        with client.client(), pytest.raises(redis.ConnectionError, match="No connection avail"):
            sink.entry("p1")

        assert look(sink, FOUND)


def test_a_connection_that_died_with_its_server_makes_no_look_fail(sink, server):
    look(sink, FOUND)
    with server.client as client:
        client.client_kill_filter(_type="normal", skipme=True)

    assert look(sink, NEWER)


class _Relay(socketserver.BaseRequestHandler):
    """
    Forwards a connection. While `lose` is set, it loses the answer to a script, and ends. In
    answers it replaces `was` by `instead`, which has the same length.
    """

    def handle(self):
        with socket.create_connection(self.server.upstream) as upstream:
            while request := self.request.recv(65536):
                upstream.sendall(request)
                answer = upstream.recv(65536)
                if b"EVALSHA" in request and self.server.lose.is_set():
                    self.server.lose.clear()
                    return
                self.request.sendall(re.sub(self.server.was, self.server.instead, answer))


@pytest.fixture
def relay(server):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Relay) as relay:
        relay.daemon_threads = True
        relay.upstream, relay.lose = ("127.0.0.1", server.port), threading.Event()
        relay.was, relay.instead = rb"(?!)", b""  # nothing
        thread = threading.Thread(target=relay.serve_forever, args=(0.01,))
        thread.start()
        yield relay
        relay.shutdown()
        thread.join()


def test_a_write_whose_answer_is_lost_counts_as_a_lost_compare_and_set(relay):
    with RedisSink(f"redis://127.0.0.1:{relay.server_address[1]}") as sink:
        relay.lose.set()

        assert sink.apply("p1", FOUND, if_version=0) is False
        assert sink.get("p1") == {"n": 1}
        assert look(sink, NEWER)
        relay.lose.set()
        assert sink.insert_many({"p2": FOUND, "p3": FOUND}) == set()
        assert sink.ids() == ["p1", "p2", "p3"]
        assert sink.set_state("guard", "", if_state=None)  # the server has the script now
        relay.lose.set()
        assert sink.set_state("guard", "text", if_state="") is False
        assert sink.state("guard") == "text"


@pytest.mark.parametrize(
    ("was", "instead", "error"),
    [
        (
            rb"redis_version:\d\.\d",
            b"redis_version:6.1",
            r"it is Redis 6\.1\.\d+, and must be 6\.2 or",
        ),
        (
            rb"run_id:",
            b"xun_id:",
            "INFO does not show run_id, so nobody could notice what it loses",
        ),
    ],
    ids=["too old", "silent"],
)
def test_a_server_that_can_not_keep_the_promise_is_refused(relay, was, instead, error):
    relay.was, relay.instead = was, instead

    with pytest.raises(ConfigurationError, match=error) as caught:
        RedisSink(f"redis://127.0.0.1:{relay.server_address[1]}")
    assert "Check its address" not in str(caught.value)


def test_a_server_that_is_gone_makes_looks_fail_at_once(sink, server):
    server.kill()

    with pytest.raises(redis.ConnectionError):
        sink.entry("p1")
    server.start()
    assert sink.entry("p1") == Entry()
