"""A cache in DynamoDB."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from change_events._aws import make_client
from change_events._event import Entry, Found, Gone, Unchanged
from change_events._text import printable
from change_events.exceptions import ConfigurationError
from change_events.sinks import (
    MAX_EVENT_AGE,
    check_process,
    check_purge_age,
    check_revision,
    first_version,
    state_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_BODY = 400 * 1024 - 8192
"""
Bytes. An item has at most 400 KB (Amazon DynamoDB Developer Guide, Quotas). An id takes at most 2
KB of it; the attributes' names, the numbers and an `ETag` take less than the rest.
"""

READ_AT_ONCE = 100
"""The most items of one `BatchGetItem` (Amazon DynamoDB API Reference)."""

WRITERS = 10
"""Writes of one `insert_many` at a time: as many connections as boto3 keeps by default."""


class DynamoDBSink:
    """
    Keeps JSON objects in a DynamoDB table. Threads can share one sink, and processes one table. A
    child of a fork makes a sink of its own: processes can't share connections.

    You create the table. Its key is `id` alone, a string (`AttributeName: id, AttributeType: S,
    KeyType: HASH`). An item has

        id          S      the entity's id
        version     N      grows with every look; begins at the time, in µs since the epoch
        present     BOOL   false if the entity is gone (a tombstone)
        body        S      the entity as JSON; missing if it is gone
        etag        S      missing if the source sent none
        digest      S      equal for equal entities
        revision    S      the `revision` that stored the entity; missing if it is empty
        applied_at  N      the time of the last look, in seconds since the epoch

    and any attributes that you add: the sink keeps them. A few items are a worker's own: they have
    only an `id` that no entity can have, and a `state_text`. Reads are consistent. The sink needs
    the permissions `dynamodb:GetItem` and `UpdateItem`; `get_many()` needs `BatchGetItem`, too,
    `items()`, `ids()` and `len()` need `Scan`, and `purge()` needs `Scan` and `DeleteItem`. Don't
    set a time to live: it would delete tombstones while their events are still in a queue.

    A fork can't use the sink of its parent: it gets a `ConfigurationError`. Make a sink in each
    process.

    Args:
        table: The table's name or ARN.
        client: A boto3 DynamoDB client (not a resource's). Default: one with boto3's own settings
            that gives up after three attempts of at most 2 s to connect and 5 s to answer each.
        revision: Names what your code makes of an entity before it is stored. An entity that was
            stored under another revision counts as changed at its next look, although the source
            has not changed it.
        clock: Returns the time in seconds since the epoch, for `applied_at` and new versions.

    Raises:
        ConfigurationError: The table can't be read or written: it does not exist, its key is
            another, a permission, a Region or credentials are missing, or DynamoDB can't be
            reached.
    """

    def __init__(
        self,
        table: str,
        *,
        client: Any = None,
        revision: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_revision(revision)
        self._revision = revision
        self._clock = clock
        try:
            if client is None:
                client = make_client(
                    "dynamodb", connect_timeout=2, read_timeout=5, attempts=3, connections=100
                )
            self._items = _Items(table, client)
            self._items.check()
        # boto3 has no common root for what can be wrong here, from the Region to DNS.
        except Exception as error:
            raise ConfigurationError(
                f"the table {table!r} can't be used: {printable(error)}. Check that it exists, "
                "that its key is 'id', a string, alone, and that the credentials and region that "
                "boto3 finds allow dynamodb:GetItem and UpdateItem on it"
            ) from error

    def entry(self, id: str, /) -> Entry:
        """Return what the sink knows of the id."""
        item = self._items.read(id, "version, present, etag, digest, revision")
        if "version" not in item:
            return Entry()
        text = {name: value["S"] for name, value in item.items() if "S" in value}
        known = text if text.get("revision", "") == self._revision else {}
        version, present = int(item["version"]["N"]), item["present"]["BOOL"]
        return Entry(version, present, known.get("etag"), known.get("digest"))

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry has changed since; nothing is written. Also False if DynamoDB's
            answer was lost and boto3 sent the write again, which then found its own first write:
            the look is repeated, and finds the cache as it should be.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: DynamoDB can't be reached, or refuses.
            TypeError, ValueError: JSON can't hold the entity, or an item's 400 KB can't.
        """
        now = self._clock()
        version = if_version + 1 if if_version else first_version(now)
        item = {"version": _number(version), "applied_at": _number(now)}
        item |= self._attributes(id, change)
        if if_version == 0 and not isinstance(change, Unchanged):
            return self._items.update(id, item, "attribute_not_exists(version)", {})
        return self._items.update(
            id, item, "version = :if_version", {":if_version": _number(if_version)}
        )

    def insert_many(self, found: Mapping[str, Found[Mapping[str, Any]]], /) -> set[str]:
        """
        Store those entities whose ids no `apply` has ever touched; return their ids, less those
        whose answer was lost, as in `apply`.

        This is a write for each entity, ten at a time: `BatchWriteItem` knows no condition, and
        `TransactWriteItems` stores nothing if one id was touched. So after an error some of the
        entities can be stored.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: DynamoDB can't be reached, or refuses.
            TypeError, ValueError: JSON can't hold one of the entities, or an item's 400 KB can't.
                Nothing is written.
        """
        now = self._clock()
        touched = {"version": _number(first_version(now)), "applied_at": _number(now)}
        items = {id: touched | self._attributes(id, each) for id, each in found.items()}

        def insert(id: str) -> bool:
            return self._items.update(id, items[id], "attribute_not_exists(version)", {})

        with ThreadPoolExecutor(WRITERS, "change-events insert") as pool:
            return {id for id, done in zip(items, pool.map(insert, items), strict=True) if done}

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        item = self._items.read(id, "body")
        return json.loads(item["body"]["S"]) if item else None

    def get_many(self, ids: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """
        Return those of these entities that are cached, by id, with a call for each hundred. The
        ids must be different.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: DynamoDB can't be reached, or refuses.
            RuntimeError: DynamoDB is too busy to read any of them.
        """
        return {
            item["id"]["S"]: json.loads(item["body"]["S"])
            for at in range(0, len(ids), READ_AT_ONCE)
            for item in self._items.read_many(ids[at : at + READ_AT_ONCE], "id, body")
            if "body" in item
        }

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over the cached entities, with their ids, page by page, in no order. This reads (and
        costs) the whole table.
        """
        for page in self._items.scan("attribute_exists(body)"):
            for item in page["Items"]:
                yield item["id"]["S"], json.loads(item["body"]["S"])

    def __len__(self) -> int:
        """Return how many entities are cached. This reads (and costs) the whole table."""
        return sum(
            page["Count"] for page in self._items.scan("attribute_exists(body)", Select="COUNT")
        )

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """
        Return up to `limit` ids of cached entities, in no order, beginning after `after`. A call
        reads (and costs) as much of the table as it needs for one id, at least a hundred items.
        """
        start = {} if after is None else {"ExclusiveStartKey": {"id": {"S": after}}}
        # With few items a page, a call could need one for each of many tombstones.
        settings = {"ProjectionExpression": "id", "Limit": max(limit, 100), **start}
        for page in self._items.scan("attribute_exists(body)", **settings):
            if page["Items"]:
                return [item["id"]["S"] for item in page["Items"]][:limit]
        return []

    def state(self, name: str, /) -> str | None:
        """Return the text that was last stored under the name, or None."""
        item = self._items.read(state_key(name), "state_text")
        return item["state_text"]["S"] if item else None

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        """
        Store the text under the name; or return False if another process has changed it since it
        was `if_state`, or if boto3 sent it twice, as in `apply`. It is in an item of the table that
        is not an entity.
        """
        key, item = state_key(name), {"state_text": _text(text)}
        if if_state is None:
            return self._items.update(key, item, "attribute_not_exists(state_text)", {})
        return self._items.update(
            key, item, "state_text = :if_state", {":if_state": _text(if_state)}
        )

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget tombstones whose last look is more than `older_than` seconds old; return how many.
        Less than 14 days is a `ConfigurationError`: an event can stay in a queue that long. This
        reads (and costs) the whole table.
        """
        check_purge_age(older_than)
        old = "attribute_not_exists(body) AND applied_at < :before"
        before = {":before": _number(self._clock() - older_than)}
        return sum(
            self._items.delete(item["id"]["S"], old, before)
            for page in self._items.scan(old, ExpressionAttributeValues=before)
            for item in page["Items"]
        )

    def _attributes(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone
    ) -> dict[str, Any]:
        """Return the attributes that the change sets; those that it removes are None."""
        if isinstance(change, Unchanged):
            return {} if change.etag is None else {"etag": _text(change.etag)}
        if isinstance(change, Gone):
            removed = ("body", "etag", "digest", "revision")
            return {"present": {"BOOL": False}, **dict.fromkeys(removed)}
        body = json.dumps(change.value, allow_nan=False)
        if len(body) > MAX_BODY:  # the text is ASCII, so its characters are bytes
            raise ValueError(
                f"{id!r} has {len(body)} bytes as JSON, and a DynamoDB item has room for "
                f"{MAX_BODY}: let the fetcher leave out what the cache does not need, or choose "
                "another sink"
            )
        return {
            "present": {"BOOL": True},
            "body": {"S": body},
            "etag": _text(change.etag),
            "digest": _text(change.digest),
            "revision": _text(self._revision or None),
        }


class _Items:
    """
    Reads and writes a table's items. Expressions can use their attributes' names: none is a
    reserved word of DynamoDB.

    Args:
        table: The table's name or ARN.
        client: A boto3 DynamoDB client, for this process.
    """

    def __init__(self, table: str, client: Any) -> None:
        self._table = table
        self._shared_client = client
        self._pid = os.getpid()

    def check(self) -> None:
        """Read, and try a write that changes nothing: errors come now, not at the first event."""
        self.read("change-events", "version")
        self.update(
            "change-events", {"body": None}, "attribute_exists(id) AND attribute_not_exists(id)", {}
        )

    def read(self, id: str, attributes: str) -> dict[str, Any]:
        """Return the attributes of an item, those that it has."""
        answer = self._client.get_item(
            TableName=self._table,
            Key={"id": {"S": id}},
            ConsistentRead=True,
            ProjectionExpression=attributes,
        )
        item: dict[str, Any] = answer.get("Item", {})
        return item

    def read_many(self, ids: Sequence[str], attributes: str) -> Iterator[dict[str, Any]]:
        """Read up to a hundred items; yield the attributes of those that exist."""
        keys = [{"id": {"S": id}} for id in ids]
        while keys:
            asked = {"Keys": keys, "ConsistentRead": True, "ProjectionExpression": attributes}
            answer = self._client.batch_get_item(RequestItems={self._table: asked})
            for items in answer["Responses"].values():
                yield from items
            # An answer has at most 16 MB, and less if the table is busy.
            left = [key for each in answer["UnprocessedKeys"].values() for key in each["Keys"]]
            if len(left) == len(keys):
                raise RuntimeError(f"the table {self._table!r} is too busy to read from it")
            keys = left

    def update(
        self, id: str, item: Mapping[str, Any], condition: str, values: dict[str, Any]
    ) -> bool:
        """Set the attributes, and remove those that are None; return False if `condition` fails."""
        given = {name: value for name, value in item.items() if value is not None}
        changes = {
            "SET": [f"{name} = :{name}" for name in given],
            "REMOVE": [name for name in item if name not in given],
        }
        values |= {f":{name}": value for name, value in given.items()}
        return self._write_if(
            self._client.update_item,
            id,
            condition,
            UpdateExpression=" ".join(
                f"{verb} {', '.join(each)}" for verb, each in changes.items() if each
            ),
            **({"ExpressionAttributeValues": values} if values else {}),
        )

    def delete(self, id: str, condition: str, values: dict[str, Any]) -> bool:
        """Delete the item; return False if `condition` fails."""
        return self._write_if(
            self._client.delete_item, id, condition, ExpressionAttributeValues=values
        )

    def scan(self, condition: str, **settings: Any) -> Iterator[Any]:
        """Read the whole table; yield pages of what meets the condition, empty ones, too."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._table, ConsistentRead=True, FilterExpression=condition, **settings
        )
        for page in pages:
            yield page
            check_process(self._pid, "DynamoDBSink")  # a fork can go on with a listing

    def _write_if(self, write: Callable[..., object], id: str, condition: str, **rest: Any) -> bool:
        try:
            write(
                TableName=self._table, Key={"id": {"S": id}}, ConditionExpression=condition, **rest
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    @property
    def _client(self) -> Any:
        check_process(self._pid, "DynamoDBSink")
        return self._shared_client


def _text(value: str | None) -> dict[str, str] | None:
    return None if value is None else {"S": value}


def _number(value: float) -> dict[str, str]:
    return {"N": str(value)}
