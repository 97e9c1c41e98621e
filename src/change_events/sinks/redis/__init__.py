"""A cache in Redis."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events._text import printable
from change_events.exceptions import ConfigurationError
from change_events.sinks import MAX_EVENT_AGE, check_revision, first_version
from change_events.sinks.redis import scripts
from change_events.sinks.redis.epochs import Epochs, Version
from change_events.sinks.redis.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from redis import Redis
    from redis.cluster import RedisCluster
    from typing_extensions import Self

AT_ONCE = 100
"""Entities that one script reads or writes: the server does nothing else meanwhile."""

LONGEST = 100 * 365 * 24 * 3600.0
"""Seconds. Redis refuses times that are too far away."""

RANDOM_BITS = 20
"""
The lower bits of a version. They keep two looks apart that continue the same version, if the first
is lost.
"""

UNREACHABLE = (
    ". Check its address and password, that it is a primary, and that its user may EVAL scripts "
    "that use INFO; a cluster needs a redis.RedisCluster"
)


class RedisSink:
    """
    Keeps JSON objects in Redis 6.2 or later, or in Valkey. Threads can share one sink, and
    processes one cache. Needs `pip install 'change-events[redis]'`.

    You can read it with any client. With the default `name`:

        {entities}:entity:ID  hash: version     grows with every look; begins with the time
                                    present     1; 0 if the entity is gone (a tombstone)
                                    body        the entity as JSON; missing if it is gone
                                    etag        missing if the source sent none
                                    digest      equal for equal entities
                                    revision    the `revision` that stored the entity
                                    applied_at  when the last look was, in seconds since the epoch
        {entities}:ids        sorted set of the ids of cached entities, in order
        {entities}:state      hash: a worker's own texts
        {entities}:epoch      hash: epoch, server, run, evicted, why, began

    So `HGET {entities}:entity:p1 body` is the entity `p1`. In a cluster all keys of a cache are in
    one slot, because of the braces, and so on one node; caches of other names are on others. A
    tombstone expires by itself.

    A fork can't use the sink of its parent: it gets a `ConfigurationError`. Make a sink in each
    process.

    Redis can lose what it has acknowledged: when it evicts keys, is flushed, is restarted from a
    snapshot, or when a replica takes over that was behind. So the sink refuses a server that
    evicts; it notices the others, and looks that began before then store nothing. It logs the loss
    (action `lost`), and a worker's `backfill` starts from the beginning.

    Args:
        server: A URL (`"redis://host:6379/0"`, `"rediss://..."`, `"unix://..."`), or your own
            `redis.Redis` or `redis.RedisCluster`, which you close yourself. It needs a
            `socket_timeout`, and must not read from replicas. Any `decode_responses` and `encoding`
            will do.
        name: The cache's name. One database can hold several kinds of entities.
        keep_tombstones: For how many seconds Redis keeps the tombstone of an entity that is gone,
            after the last look at it, at least 14 days: an event can stay in a queue that long.
        revision: Names what your code makes of an entity before it is stored. An entity that was
            stored under another revision counts as changed at its next look, although the source
            has not changed it.
        timeout: The most seconds to wait for a connection, and for an answer. Not used with a
            client of your own.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: redis-py is not installed; a value is out of its range; the server can't
            be reached, is too old, evicts keys or is a replica.
    """

    def __init__(
        self,
        server: str | Redis | RedisCluster,
        *,
        name: str = "entities",
        keep_tombstones: float = MAX_EVENT_AGE,
        revision: str = "",
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_revision(revision)
        _check_name(name)
        if not 0 < timeout < math.inf:
            raise ConfigurationError(f"timeout must be more than 0 seconds, not {timeout!r}")
        self._tombstone_ms = b"%d" % _milliseconds(keep_tombstones)
        self._revision = revision
        self._clock = clock
        prefix = f"{{{name}}}:".encode()
        self._entity, self._ids = prefix + b"entity:", prefix + b"ids"
        self._states, self._epoch_key = prefix + b"state", prefix + b"epoch"
        self._server = Server(server, timeout)
        try:
            self._server.check(self._epoch_key)
            self._epochs = Epochs(self._server, self._epoch_key, name=name, clock=clock)
            self._write(self._epochs.known, {})
        # redis-py has no common root for what can be wrong here, from a name to the server's word.
        except Exception as error:
            self._server.close()
            why = printable(error).rstrip(".")
            advice = "" if isinstance(error, ConfigurationError) else UNREACHABLE
            raise ConfigurationError(
                f"the Redis of the cache {name!r} can't be used: {why}{advice}"
            ) from error

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        epoch = self._epochs.known  # before the entry is read
        fields = (b"version", b"present", b"etag", b"digest", b"revision")
        version, present, etag, digest, revision = self._server.command(
            "HMGET", self._key(id), *fields
        )
        if version is None:
            return Entry(Version.read(0, epoch))
        if (revision or b"").decode() != self._revision:
            etag, digest = None, None
        return Entry(Version.read(int(version), epoch), present == b"1", _text(etag), _text(digest))

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written. Also False if Redis can have
            lost something since `entry` was called; and if its answer was lost and the client sent
            the script again, which then found its own first write. In each case the look is
            repeated, and finds the cache as it should be.

        Raises:
            redis.RedisError: Redis can't be reached, or refuses: its memory is full, it loads its
                snapshot, or it is a replica.
            TypeError, ValueError: JSON can't hold the entity.
        """
        epoch = getattr(if_version, "epoch", None) or self._epochs.known
        return bool(self._write(epoch, {id: self._arguments(id, change, if_version)}))

    def insert_many(
        self, found: Mapping[str, Found[Mapping[str, Any]]], /, *, epoch: str | None = None
    ) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids. A hundred are
        stored by one script, all or none.

        Args:
            found: The entities, by id.
            epoch: The one in which they were read: nothing is stored in another. None: unknown.

        Raises:
            redis.RedisError: As in `apply`. Some of the entities can be stored.
            TypeError, ValueError: JSON can't hold one of the entities. Nothing is written.
        """
        epoch = epoch or self._epochs.known
        arguments = [(id, self._arguments(id, each, 0)) for id, each in found.items()]
        stored: set[str] = set()
        for at in range(0, len(arguments), AT_ONCE):
            stored |= self._write(epoch, dict(arguments[at : at + AT_ONCE]))
        return stored

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        body = self._server.command("HGET", self._key(id), b"body")
        return None if body is None else json.loads(body)

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """Return those of these entities that are cached, by id; a hundred by one script."""
        found: dict[str, dict[str, Any]] = {}
        for at in range(0, len(ids), AT_ONCE):
            some = ids[at : at + AT_ONCE]
            bodies = self._server.run(scripts.BODIES, [self._key(id) for id in some])
            found |= {
                id: json.loads(body)
                for id, body in zip(some, bodies, strict=True)
                if body is not None
            }
        return found

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over the cached entities, with their ids, in order of the ids, a hundred at a time.
        What changes meanwhile is seen or not.
        """
        after: str | None = None
        while ids := self.ids(after=after, limit=AT_ONCE):
            yield from self.get_many(ids).items()
            after = ids[-1]

    def __len__(self) -> int:
        """Return how many entities are cached."""
        return int(self._server.command("ZCARD", self._ids))

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return up to `limit` ids of cached entities, in order, beginning after `after`."""
        least = b"-" if after is None else b"(" + after.encode()
        page = (b"LIMIT", b"0", b"%d" % limit)
        ids = self._server.command("ZRANGEBYLEX", self._ids, least, b"+", *page)
        return [id.decode() for id in ids]

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        return _text(self._server.command("HGET", self._states, name.encode()))

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name; or return False if another process has changed it since it
        was `if_state`, or if the client sent it twice, as in `apply`.
        """
        texts = [name, text] if if_state is None else [name, text, if_state]
        arguments = [each.encode() for each in texts]
        return bool(self._server.run(scripts.SET_STATE, [self._states], *arguments))

    def epoch(self) -> str:
        """Return the name of the time in which Redis has lost nothing. See `ForgetfulSink`."""
        return self._epochs.check()

    @property
    def since_loss(self) -> float | None:
        """Seconds since this process noticed that Redis can have lost something; None: never."""
        at = self._epochs.lost_at
        return None if at is None else time.monotonic() - at

    def examine(self) -> tuple[str, list[tuple[str, str]]]:
        """Return what the server is; and what is wrong with it, each with what to do about it."""
        return self._server.examine(self._epoch_key)

    def close(self) -> None:
        """Close the connections, unless the client is yours. A `with` block does so at its end."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, epoch: str, entries: Mapping[str, list[bytes]]) -> set[str]:
        """Write entries that are as they were read, in this epoch; return their ids."""
        keys = [self._epoch_key, self._ids, *map(self._key, entries)]
        arguments = chain.from_iterable(entries.values())
        done = self._server.run(scripts.APPLY, keys, epoch.encode(), self._tombstone_ms, *arguments)
        if done is None:
            self._epochs.check()
            return set()
        return {id for id, written in zip(entries, done, strict=True) if written}

    def _arguments(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, if_version: int
    ) -> list[bytes]:
        """Return what the script needs to write an entry."""
        now = self._clock()
        version = _version_after(if_version, now)
        fields: dict[str, str | None] = {"version": str(version), "applied_at": str(now)}
        if isinstance(change, Found):
            body = json.dumps(change.value, allow_nan=False)
            fields |= {"present": "1", "body": body, "etag": change.etag, "digest": change.digest}
            fields["revision"] = self._revision or None
        elif isinstance(change, Gone):
            fields |= {"present": "0", **dict.fromkeys(("body", "etag", "digest", "revision"))}
        elif change.etag is not None:
            fields["etag"] = change.etag
        given = [(name, value) for name, value in fields.items() if value is not None]
        removed = [name for name, value in fields.items() if value is None]
        words = [id, str(int(if_version)), type(change).__name__.lower()]
        words += [str(2 * len(given)), *chain.from_iterable(given), str(len(removed)), *removed]
        return [word.encode() for word in words]

    def _key(self, id: str) -> bytes:
        return self._entity + id.encode()


def _version_after(version: int, now: float) -> int:
    """Return a version that is greater, and that no look has ever had, lost ones included."""
    return max(version, first_version(now) << RANDOM_BITS) + 1 + secrets.randbelow(1 << RANDOM_BITS)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _check_name(name: object) -> None:
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.:-]+", name)):
        raise ConfigurationError(
            f"{name!r} can't be a cache's name; use letters, digits and the signs _ . : -"
        )


def _milliseconds(keep_tombstones: float) -> int:
    if not MAX_EVENT_AGE <= keep_tombstones <= LONGEST:
        raise ConfigurationError(
            f"keep_tombstones must be 14 days ({MAX_EVENT_AGE:.0f} s) to a hundred years, not "
            f"{keep_tombstones!r}: an event can be in a queue for 14 days, and its look could "
            "bring a deleted entity back"
        )
    return math.ceil(keep_tombstones * 1000)
