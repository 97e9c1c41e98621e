"""RedisSink on a real server."""

from __future__ import annotations

import json
import math
import re
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool
from redis.retry import Retry

from change_events import (
    ConfigurationError,
    Entry,
    ForgetfulSink,
    Found,
    Gone,
    RedisSink,
    Unchanged,
)
from change_events.sinks.redis import scripts
from change_events.testing import SinkContract
from conftest import wait_until

DAY = 24 * 3600.0
FOUND = Found({"id": "p1", "name": "Anvil"}, '"one"', "d1")


@pytest.fixture
def name():
    """The name of a cache that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def client(redis_server):
    with redis_server.client as client:
        yield client


@pytest.fixture
def make(redis_server, name):
    """Open the test's cache, as often as the test likes."""
    opened = []

    def make(server=redis_server.url, **settings):
        opened.append(RedisSink(server, **{"name": name} | settings))
        return opened[-1]

    yield make
    for sink in opened:
        sink.close()


class TestRedisSink(SinkContract):
    @pytest.fixture
    def sink(self, open_again, clock):
        with open_again(clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, redis_server, name):
        return partial(RedisSink, redis_server.url, name=name)


CLIENTS = {
    "text in another encoding": {"decode_responses": True, "encoding": "latin-1", "protocol": 2},
    "text": {"decode_responses": True, "protocol": 3},
}


@pytest.mark.parametrize("settings", CLIENTS.values(), ids=CLIENTS)
class TestRedisSinkWithAClientOfTheUser(SinkContract):
    @pytest.fixture
    def sink(self, redis_server, name, settings):
        client = redis.Redis(port=redis_server.port, socket_timeout=20, **settings)
        with client, RedisSink(client, name=name) as sink:
            yield sink


def test_the_keys_are_as_documented(make, client, name):
    sink = make(revision="r1", clock=lambda: 7.5)
    sink.apply("p1", Found({"name": "Ü", "n": [1, None, True]}, '"one"', "d1"), if_version=0)
    sink.apply("p2", Gone(), if_version=0)
    sink.set_state("guard", "text", if_state=None)

    entity = client.hgetall(f"{{{name}}}:entity:p1")
    assert entity == {
        b"version": str(sink.entry("p1").version).encode(),
        b"present": b"1",
        b"body": json.dumps({"name": "Ü", "n": [1, None, True]}).encode(),
        b"etag": b'"one"',
        b"digest": b"d1",
        b"revision": b"r1",
        b"applied_at": b"7.5",
    }
    assert client.hgetall(f"{{{name}}}:entity:p2") == {
        b"version": str(sink.entry("p2").version).encode(),
        b"present": b"0",
        b"applied_at": b"7.5",
    }
    assert client.zrange(f"{{{name}}}:ids", 0, -1, withscores=True) == [(b"p1", 0.0)]
    assert client.hgetall(f"{{{name}}}:state") == {b"guard": b"text"}
    epoch = client.hgetall(f"{{{name}}}:epoch")
    assert epoch[b"epoch"].decode() == sink.epoch()
    keys = {key.decode().partition(":")[2] for key in client.keys(f"*{name}*")}
    assert keys == {"entity:p1", "entity:p2", "ids", "state", "epoch"}

    documented = RedisSink.__doc__
    fields = re.findall(
        r"^ +(?:\{entities\}:entity:ID  hash: )?(\w+) {2,}\S", documented, re.MULTILINE
    )
    assert fields == ["version", "present", "body", "etag", "digest", "revision", "applied_at"]
    assert set(fields) == {field.decode() for field in entity}
    (names,) = re.findall(r"\{entities\}:epoch +hash: (.*)", documented)
    assert names.split(", ") == [field.decode() for field in epoch]


@pytest.mark.parametrize("change", [Unchanged(), Unchanged(etag='"two"')])
def test_an_id_that_was_never_touched_can_not_be_unchanged(make, client, name, change):
    sink = make()

    assert not sink.apply("p1", change, if_version=0)
    assert sink.entry("p1") == Entry()
    assert not client.exists(f"{{{name}}}:entity:p1")


# Tombstones


def test_only_a_tombstone_expires_and_no_sooner_than_14_days_after_its_last_look(
    make, client, name
):
    sink, key = make(), f"{{{name}}}:entity:p1"

    def look(change):
        assert sink.apply("p1", change, if_version=sink.entry("p1").version)
        return client.pttl(key)

    assert look(FOUND) == -1
    fortnight = 14 * DAY * 1000
    assert fortnight - 60_000 < look(Gone()) <= fortnight
    client.pexpire(key, 50_000)
    assert look(Gone()) > fortnight - 60_000
    assert look(FOUND) == look(Unchanged()) == -1
    look(Gone())
    assert look(Found({})) == -1
    assert sink.entry("p1") == Entry(sink.entry("p1").version, True)


def test_tombstones_can_be_kept_for_longer(make, client, name):
    sink = make(keep_tombstones=30 * DAY)
    sink.apply("p1", Gone(), if_version=0)

    assert 29 * DAY < client.ttl(f"{{{name}}}:entity:p1") <= 30 * DAY


@pytest.mark.parametrize("seconds", [14 * DAY - 1, 0, -1, math.nan, math.inf, 101 * 365 * DAY])
def test_tombstones_can_not_be_kept_for_less_than_14_days_nor_for_ever(make, seconds):
    with pytest.raises(ConfigurationError) as caught:
        make(keep_tombstones=seconds)

    assert str(caught.value) == (
        f"keep_tombstones must be 14 days (1209600 s) to a hundred years, not {seconds!r}: an "
        "event can be in a queue for 14 days, and its look could bring a deleted entity back"
    )


def test_tombstones_can_be_kept_for_a_hundred_years(make):
    sink = make(keep_tombstones=100 * 365 * DAY)

    assert sink.apply("p1", Gone(), if_version=0)
    assert sink.entry("p1").version


def test_no_version_comes_again_after_a_tombstone_has_expired(make, client, name):
    sink = make()
    versions = set()
    for _ in range(3):
        for change in (FOUND, Gone(), FOUND, Gone()):
            assert sink.apply("p1", change, if_version=sink.entry("p1").version)
            versions.add(sink.entry("p1").version)
        client.delete(f"{{{name}}}:entity:p1")  # as its expiry does
        assert sink.entry("p1") == Entry()

    assert len(versions) == 12


# Settings and clients


@pytest.mark.parametrize("bad", ["", "a b", "{a}", "a{b", "ü", "a\n", 7, None])
def test_a_name_that_could_change_the_slot_is_refused(make, bad):
    with pytest.raises(ConfigurationError, match="can't be a cache's name; use letters, digits"):
        make(name=bad)


def test_caches_of_different_names_are_apart(make, name):
    one, other = make(), make(name=f"{name}:2")
    one.apply("p1", FOUND, if_version=0)
    one.set_state("guard", "text", if_state=None)

    assert other.entry("p1") == Entry()
    assert (len(other), other.ids(), other.state("guard")) == (0, [], None)


def test_a_client_that_can_wait_for_ever_is_refused(make, redis_server):
    with (
        redis.Redis(port=redis_server.port, socket_timeout=None) as client,
        pytest.raises(ConfigurationError, match="no socket_timeout, so a look could wait for ever"),
    ):
        make(client)


def test_a_pool_that_can_wait_for_ever_is_refused(make, redis_server):
    pool = BlockingConnectionPool(port=redis_server.port, socket_timeout=5, timeout=None)

    with pytest.raises(ConfigurationError, match="pool has timeout=None"):
        make(redis.Redis(connection_pool=pool))


def test_a_client_that_tries_again_for_ever_is_refused(make, redis_server):
    retry = Retry(NoBackoff(), -1)

    with (
        redis.Redis(port=redis_server.port, socket_timeout=5, retry=retry) as client,
        pytest.raises(ConfigurationError, match="the client tries again for ever"),
    ):
        make(client)


@pytest.mark.parametrize("given", [None, 7, b"redis://", redis.asyncio.Redis()])
def test_what_is_no_client_is_refused(make, given):
    with pytest.raises(ConfigurationError, match=r"needs a URL, a redis\.Redis or a"):
        make(given)


@pytest.mark.parametrize(
    "url", ["", "http://cache", "redis://host:port", "redis://h?db=x", "redis://h?pool=3"]
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigurationError) as caught:
        RedisSink(url)

    assert str(caught.value) == (
        "the URL of Redis can't be read. It begins with redis://, rediss:// or unix://, like "
        "redis://cache.example.com:6379/0, and a password is percent-encoded"
    )


@pytest.mark.parametrize("url", ["redis://someone:sec/ret@cache:6379", b"redis://:secret@cache"])
def test_the_error_for_a_url_does_not_show_a_password(url):
    with pytest.raises(ConfigurationError) as caught:
        RedisSink(url)

    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "sec" not in str(caught.value)


def test_connections_are_closed_only_if_nobody_uses_them(make, redis_server):
    once, key = Retry(NoBackoff(), 0), uuid.uuid4().hex
    with (
        redis.Redis(port=redis_server.port, socket_timeout=20, retry=once) as client,
        ThreadPoolExecutor() as pool,
    ):
        sink = make(client)
        waiting = pool.submit(client.blpop, key, 10)
        wait_until(lambda: client.info("clients")["blocked_clients"])

        sink._server._hang_up()

        client.rpush(key, "pushed")
        assert waiting.result() == (key.encode(), b"pushed")


@pytest.mark.parametrize(
    ("versions", "product"),
    [
        ({"redis_version": "7.2.4"}, "Redis 7.2.4"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.3"}, "Valkey 8.1.3"),
    ],
)
def test_redis_and_valkey_are_told_apart(make, monkeypatch, versions, product):
    """The server is one of the two: this is what the INFO of each says."""
    sink = make()
    info = {**versions, "maxmemory_policy": "noeviction"}
    monkeypatch.setattr(sink._server, "_info", lambda key: info)

    assert sink.examine() == (product, [])


def test_a_hundred_entities_are_stored_by_one_script_and_a_thousand_ids_are_listed(
    make, monkeypatch
):
    sink, sizes = make(), []
    write = sink._write
    monkeypatch.setattr(
        sink, "_write", lambda epoch, some: sizes.append(len(some)) or write(epoch, some)
    )

    sink.insert_many({f"p{n:04}": FOUND for n in range(1001)})

    assert sizes == [100] * 10 + [1]
    assert sink.ids() == [f"p{n:04}" for n in range(1000)]


def test_a_server_that_does_not_answer_is_an_error_at_the_start(free_port):
    with pytest.raises(ConfigurationError, match=r"'shop' can't be used: .*refused.*Check its add"):
        RedisSink(f"redis://127.0.0.1:{free_port}", name="shop")


def test_a_wrong_password_is_an_error_that_does_not_show_it(redis_server):
    with pytest.raises(ConfigurationError) as caught:
        RedisSink(f"redis://someone:secret@127.0.0.1:{redis_server.port}")

    assert "invalid username-password pair" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_timeout_is_of_connecting_and_of_each_answer(make):
    pool = make(timeout=1.5)._server._client.connection_pool

    assert pool.connection_kwargs["socket_timeout"] == 1.5
    assert pool.connection_kwargs["socket_connect_timeout"] == 1.5
    assert make()._server._client.connection_pool.connection_kwargs["socket_timeout"] == 5.0


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan])
def test_a_timeout_that_waits_for_ever_or_not_at_all_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout must be more than 0 seconds, not"):
        RedisSink("redis://127.0.0.1", timeout=timeout)


def test_without_redis_py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'change-events\[redis\]'"):
        RedisSink("redis://127.0.0.1")


def test_a_client_of_the_user_stays_open(make, client):
    with make(client):
        pass

    assert client.connection_pool._available_connections[0]._sock is not None


def test_a_script_that_the_server_has_forgotten_is_sent_again(make, client):
    sink = make()
    client.script_flush()

    assert sink.apply("p1", FOUND, if_version=0)
    client.script_flush()
    assert sink.set_state("guard", "text", if_state=None)
    client.script_flush()
    assert sink.get_many(["p1"]) == {"p1": FOUND.value}
    assert client.script_exists(scripts.BODIES.sha) == [True]


def test_a_user_that_may_use_only_what_is_documented_can_use_the_cache(make, client, redis_server):
    allowed = (
        "+@connection +eval +evalsha +info +hget +hmget +hset +hdel +zadd +zrem +zcard "
        "+zrangebylex +persist +pexpire"
    )
    client.execute_command("ACL SETUSER", "worker", "on", ">pw", "~*", *allowed.split())
    sink = make(f"redis://worker:pw@127.0.0.1:{redis_server.port}")

    for change in (FOUND, Gone(), FOUND, Unchanged()):
        assert sink.apply("p1", change, if_version=sink.entry("p1").version)
    assert sink.set_state("guard", "text", if_state=None)
    assert sink.insert_many({"p2": FOUND}) == {"p2"}
    assert (sink.state("guard"), len(sink)) == ("text", 2)
    assert dict(sink.items()) == {"p1": FOUND.value, "p2": FOUND.value}


# Pages


def test_a_page_with_an_entity_that_json_can_not_hold_stores_nothing(make):
    sink = make()
    page = {f"p{n}": Found({"n": n}) for n in range(200)}
    for value in (object(), math.nan):
        with pytest.raises((TypeError, ValueError), match="JSON"):
            sink.insert_many({**page, "bad": Found({"value": value})})

    assert len(sink) == 0


def test_many_entities_are_listed_in_order_and_those_that_go_meanwhile_are_left_out(make):
    sink = make()
    sink.insert_many({f"p{n:03}": Found({"n": n}) for n in range(250)})
    items = sink.items()
    assert next(items) == ("p000", {"n": 0})
    sink.apply("p150", Gone(), if_version=sink.entry("p150").version)

    assert [id for id, _ in items] == [f"p{n:03}" for n in range(1, 250) if n != 150]


def test_the_sink_is_forgetful(make):
    assert isinstance(make(), ForgetfulSink)
