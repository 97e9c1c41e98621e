"""RedisSink in a real cluster, of one node that has all slots: it refuses what is in two slots."""

from __future__ import annotations

import uuid

import pytest
import redis
from redis.cluster import RedisCluster

from change_events import ConfigurationError, Found, Gone, RedisSink
from change_events.testing import SinkContract
from conftest import wait_until

STRATEGY = getattr(getattr(redis.cluster, "LoadBalancingStrategy", None), "ROUND_ROBIN", None)
"""What newer versions of redis-py have instead of `read_from_replicas`."""


@pytest.fixture(scope="module")
def node(make_redis):
    with make_redis(**{"cluster-enabled": "yes"}) as server:
        with server.client as client:
            client.cluster("ADDSLOTS", *range(16384))
            wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
        yield server


@pytest.fixture
def cluster(node):
    with RedisCluster(host="127.0.0.1", port=node.port, socket_timeout=20) as client:
        yield client


class TestRedisSinkInACluster(SinkContract):
    @pytest.fixture
    def sink(self, cluster):
        with RedisSink(cluster, name=uuid.uuid4().hex) as sink:
            yield sink


def test_keys_in_two_slots_are_an_error_here(node):
    with node.client as client, pytest.raises(redis.RedisError, match="same slot"):
        client.eval("return 1", 2, "one", "two")


def test_all_keys_of_a_cache_are_in_one_slot(cluster):
    name = uuid.uuid4().hex
    with RedisSink(cluster, name=name) as sink:
        for n in range(20):
            sink.apply(f"p{n}", Found({"n": n}), if_version=0)
            sink.apply(f"{{gone}}{n}", Gone(), if_version=0)
        sink.set_state("guard", "text", if_state=None)
        sink.epoch()

    keys = list(cluster.scan_iter(f"*{name}*"))
    assert len(keys) == 43
    assert {cluster.keyslot(key) for key in keys} == {cluster.keyslot(f"{{{name}}}")}


def test_a_cluster_finds_its_primary_by_itself(cluster):
    with RedisSink(cluster, name=uuid.uuid4().hex) as sink:
        sink._server._hang_up()

        assert sink.get("p1") is None


def test_a_loss_is_noticed_in_a_cluster_too(cluster, caplog):
    with RedisSink(cluster, name=uuid.uuid4().hex) as sink:
        read, before = sink.entry("p1"), sink.epoch()
        cluster.flushall()

        assert not sink.apply("p1", Found({"n": 1}), if_version=read.version)
        assert sink.epoch() != before
    assert [record.why for record in caplog.records] == ["empty"]


@pytest.mark.parametrize(
    "setting",
    [{"read_from_replicas": True}, {"load_balancing_strategy": STRATEGY}],
    ids=["read_from_replicas", "load_balancing_strategy"],
)
@pytest.mark.filterwarnings("ignore:.*read_from_replicas.*:DeprecationWarning")
def test_a_client_that_reads_from_replicas_is_refused(node, setting):
    if None in setting.values():
        pytest.skip("this redis-py has no strategies")
    with (
        RedisCluster(host="127.0.0.1", port=node.port, socket_timeout=20, **setting) as client,
        pytest.raises(ConfigurationError, match="the client reads from replicas, which lag"),
    ):
        RedisSink(client)


def test_a_clusters_client_that_can_wait_for_ever_is_refused(node):
    with (
        RedisCluster(host="127.0.0.1", port=node.port, socket_timeout=None) as client,
        pytest.raises(ConfigurationError, match="no socket_timeout"),
    ):
        RedisSink(client)


def test_a_node_that_does_not_have_the_slot_is_an_error_at_the_start(node, make_redis):
    with (
        make_redis(**{"cluster-enabled": "yes"}) as other,
        pytest.raises(ConfigurationError, match=r"a cluster needs a redis\.RedisCluster"),
    ):
        RedisSink(other.url)
