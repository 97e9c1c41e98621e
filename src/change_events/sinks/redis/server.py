"""The server of a cache: which clients can be used, how it is called, and what it must be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from change_events._extras import missing_extra
from change_events.exceptions import ConfigurationError
from change_events.sinks import check_process
from change_events.sinks.redis import scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from redis.cluster import RedisCluster

    from change_events.sinks.redis.scripts import Script

LEAST = (6, 2)
"""The oldest Redis that can be used. Valkey says in the same place which Redis it equals."""

NEEDED = {"evicted_keys", "master_replid", "master_replid2", "run_id"}
"""What INFO must show."""

UNSAVED = "it has no append-only file: a restart loses what came after the last snapshot"


class Server:
    """
    Calls commands and scripts.

    Texts are sent as UTF-8, and answers are bytes, whatever `encoding` and `decode_responses` the
    client has.

    Args:
        given: As in `RedisSink`.
        timeout: As in `RedisSink`.

    Raises:
        ConfigurationError: redis-py is not installed; a URL is not one; a client can wait for ever,
            reads from replicas, or is asynchronous.
    """

    def __init__(self, given: str | Redis | RedisCluster, timeout: float) -> None:
        self._redis = _require_redis()
        self._pid = os.getpid()
        self._own = isinstance(given, str)
        if isinstance(given, str):
            self._client: Any = _client_of(self._redis, given, timeout)
        else:
            self._client = given
        _check_client(self._redis, self._client)

    def command(self, command: str, *words: bytes) -> Any:
        """Call a command; return its answer, undecoded."""
        check_process(self._pid, "RedisSink")  # redis-py's locks can be held for ever in a child
        try:
            return self._client.execute_command(command, *words, NEVER_DECODE=True)
        except self._redis.exceptions.ResponseError as error:
            # Redis 6 has it inside the text of a script's error.
            if isinstance(error, self._redis.exceptions.ReadOnlyError) or "READONLY" in str(error):
                self._hang_up()
            raise

    def run(self, script: Script, keys: Sequence[bytes], *arguments: bytes) -> Any:
        """Run a script; return its answer, undecoded. A restarted server does not know it yet."""
        rest = (b"%d" % len(keys), *keys, *arguments)
        try:
            return self.command("EVALSHA", script.sha.encode(), *rest)
        except self._redis.exceptions.NoScriptError:
            return self.command("EVAL", script.text.encode(), *rest)

    def check(self, key: bytes) -> None:
        """
        Refuse a server that forgets by itself, is too old, or does not tell its past.

        Raises:
            ConfigurationError: It is one of these.
        """
        info = self._info(key)
        version = info.get("redis_version", "")
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
            raise ConfigurationError(f"it is Redis {version}, and must be 6.2 or later, or Valkey")
        if missing := NEEDED - info.keys():
            raise ConfigurationError(
                f"INFO does not show {', '.join(sorted(missing))}, so nobody could notice what it "
                "loses"
            )
        if info.get("maxmemory_policy") != "noeviction":
            raise ConfigurationError(_evicts(info))
        if info.get("role") != "master":
            raise ConfigurationError("it is a replica: use the address of its primary")

    def examine(self, key: bytes) -> tuple[str, list[tuple[str, str]]]:
        """Return what the server is; and what is wrong with it, each with what to do about it."""
        info, wrong = self._info(key), []
        if info.get("maxmemory_policy") != "noeviction":
            wrong.append((_evicts(info), "Set maxmemory-policy noeviction."))
        if info.get("aof_enabled") == "0":
            wrong.append((UNSAVED, "Set appendonly yes. A worker's backfill= fills it again, too."))
        product = "Valkey" if "valkey_version" in info else "Redis"
        return f"{product} {info.get('valkey_version', info['redis_version'])}", wrong

    def _info(self, key: bytes) -> dict[str, str]:
        """Return what the server that has the key says of itself."""
        lines = b"\n".join(self.run(scripts.INFO, [key])).decode(errors="replace").splitlines()
        pairs = (line.partition(":") for line in lines if not line.startswith("#"))
        return {name: value.strip() for name, _, value in pairs}

    def close(self) -> None:
        """Close the connections, unless the client is the user's, or the parent's of this fork."""
        if self._own and self._pid == os.getpid():
            self._client.close()

    def _hang_up(self) -> None:
        """
        Close the connections that nobody uses: they lead to a replica, which was the primary until
        now. New ones ask the DNS, or Sentinel, again.
        """
        client = self._client  # a cluster's has no pool of its own, and finds out by itself
        for pool in [client.connection_pool] if hasattr(client, "connection_pool") else []:
            pool.disconnect(inuse_connections=False)


def _evicts(info: dict[str, str]) -> str:
    return (
        f"its maxmemory-policy is {info.get('maxmemory_policy')!r}, and must be noeviction: it "
        "would delete entities and tombstones when its memory is full, and nothing would bring "
        "them back"
    )


def _require_redis() -> Any:
    try:
        import redis
        import redis.backoff
        import redis.cluster
        import redis.retry
    except ImportError as error:
        raise missing_extra("RedisSink needs redis-py", "redis", error) from error
    return redis


def _client_of(redis: Any, url: str, timeout: float) -> Redis | RedisCluster:
    """Return a client that waits no longer than `timeout`, unless the URL says otherwise."""
    lost = redis.exceptions.ConnectionError
    settings = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 0,
        # A connection that died with a server is found out by its next use. A script that was sent
        # twice finds what it has written, and writes nothing more.
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 1, supported_errors=(lost,)),
        "retry_on_error": [lost],
    }
    try:
        client: Redis = redis.Redis.from_url(url, **settings)
        _connection_of(client.connection_pool)
    except (ValueError, TypeError):
        # What is wrong can be a password, and the error's text quotes it.
        raise ConfigurationError(
            "the URL of Redis can't be read. It begins with redis://, rediss:// or unix://, like "
            "redis://cache.example.com:6379/0, and a password is percent-encoded"
        ) from None
    return client


def _check_client(redis: Any, client: Any) -> None:
    if isinstance(client, redis.cluster.RedisCluster):
        if getattr(client, "load_balancing_strategy", None) or client.read_from_replicas:
            raise ConfigurationError(
                "the client reads from replicas, which lag: make it without read_from_replicas= "
                "and load_balancing_strategy="
            )
        pool = client.get_redis_connection(client.get_default_node()).connection_pool
    elif isinstance(client, redis.Redis):
        pool = client.connection_pool
    else:
        raise ConfigurationError(
            "RedisSink needs a URL, a redis.Redis or a redis.RedisCluster, not "
            f"{type(client).__module__}.{type(client).__qualname__}"  # its text can have a password
        )
    connection = _connection_of(pool)
    if getattr(connection.retry, "_retries", 0) < 0:  # get_retries() came with redis-py 6
        raise ConfigurationError(
            "the client tries again for ever, so a look could wait for ever for a server that is "
            "gone: give its Retry a number of retries"
        )
    if connection.socket_timeout is None:
        raise ConfigurationError(
            "the client has no socket_timeout, so a look could wait for ever for a server that is "
            "gone: make it with socket_timeout=5"
        )
    if getattr(pool, "timeout", 0) is None:
        raise ConfigurationError(
            "the client's pool has timeout=None, so a look could wait for ever for a connection: "
            "give it the most seconds to wait"
        )


def _connection_of(pool: Any) -> Any:
    """Return a connection that is not opened: the pool does not know its class's own defaults."""
    return pool.connection_class(**pool.connection_kwargs)
