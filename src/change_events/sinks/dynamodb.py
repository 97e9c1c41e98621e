"""A cache in DynamoDB."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from change_events._event import Entry, Found, Gone, Unchanged
from change_events.exceptions import ConfigurationError
from change_events.sinks import MAX_EVENT_AGE, check_purge_age, first_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_BODY = 400 * 1024 - 8192
"""
Bytes: an item has 400 KB at the most (Amazon DynamoDB Developer Guide, Quotas). An id takes 2 KB of
that at the most, the names of the attributes, the numbers and an `ETag` take less than the rest.
"""


class DynamoDBSink:
    """
    Keeps JSON objects in a DynamoDB table. Many threads may share one sink, and many processes one
    table.

    The table is yours to make. Its key is `id`, a string, alone (`AttributeName: id, AttributeType:
    S, KeyType: HASH`); an item has

        id          S      the entity's id
        version     N      grows with every look; begins at the time, in microseconds since the epoch
        present     BOOL   false where the entity is gone (a tombstone)
        body        S      the entity as JSON; missing where it is gone
        etag        S      missing if the source sent none
        applied_at  N      when it was last looked at, in seconds since the epoch

    and what other attributes you give it: they stay. Reads are consistent. It takes the permissions
    `dynamodb:GetItem` and `UpdateItem`; for `items()` and `len()` `Scan`, and for `purge()`
    `DeleteItem`, too. No time to live: it would delete tombstones while events of theirs are still
    in a queue.

    Args:
        table: The table's name or ARN.
        client: A boto3 DynamoDB client (not a resource's). Default: one that boto3 makes from its
            own settings, and that gives up after three attempts of at most 2 s to connect and 5 s
            to answer each.
        clock: Tells the time in seconds since the epoch: when an entry was last looked at, and its
            first version.

    Raises:
        ConfigurationError: The table can't be read or written: there is none, its key is another, a
            permission, a region or credentials are missing, or DynamoDB can't be reached.
    """

    def __init__(
        self, table: str, *, client: Any = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._clock = clock
        try:
            self._client = client or _make_client()
            self._check()
        except (
            Exception
        ) as error:  # boto3 has no common root for what can be wrong here, from region to DNS
            raise ConfigurationError(
                f"the table {table!r} can't be used: {error}. Check that it is there, that its key is 'id', a string, alone, "
                "and that the credentials and region that boto3 finds allow dynamodb:GetItem and UpdateItem on it"
            ) from error

    def _check(self) -> None:
        """
        Read, and write what can't be written: says now, not at the first event, what is wrong.
        """
        self._read("change-events", "version")
        self._update(
            "change-events", {"body": None}, "attribute_exists(id) AND attribute_not_exists(id)", {}
        )

    def entry(self, id: str, /) -> Entry:
        """Return the entry's version and what is known of the entity."""
        item = self._read(id, "version, present, etag")
        if not item:
            return Entry()
        return Entry(
            int(item["version"]["N"]),
            item["present"]["BOOL"],
            item["etag"]["S"] if "etag" in item else None,
        )

    def apply(
        self, id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone, /, *, if_version: int
    ) -> bool:
        """
        Store what a look found, unless another worker got there first.

        Returns:
            False if the entry's version is another by now; nothing is written. Also if DynamoDB's
            answer was lost, and boto3 asked again and was told of its own write: the look begins
            again, and finds the cache as it should be.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: DynamoDB can't be reached, or refuses.
            TypeError, ValueError: The entity is not made of what JSON knows, or takes more than an
                item's 400 KB.
        """
        now = self._clock()
        version = if_version + 1 if if_version else first_version(now)
        item = {"version": _number(version), "applied_at": _number(now), **_described(id, change)}
        if if_version == 0 and not isinstance(change, Unchanged):
            return self._update(id, item, "attribute_not_exists(version)", {})
        return self._update(id, item, "version = :if_version", {":if_version": _number(if_version)})

    def get(self, id: str, /) -> dict[str, Any] | None:
        """Return the cached entity, or None."""
        item = self._read(id, "body")
        return json.loads(item["body"]["S"]) if item else None

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Iterate over the cached entities and their ids, in no order, page by page. It reads, and
        costs, the whole table.
        """
        for page in self._scan("attribute_exists(body)"):
            for item in page["Items"]:
                yield item["id"]["S"], json.loads(item["body"]["S"])

    def __len__(self) -> int:
        """Return how many entities are cached. It reads, and costs, the whole table."""
        return sum(page["Count"] for page in self._scan("attribute_exists(body)", Select="COUNT"))

    def purge(self, *, older_than: float = MAX_EVENT_AGE) -> int:
        """
        Forget the tombstones that were last looked at longer ago than that. It reads, and costs,
        the whole table.

        Args:
            older_than: Seconds, at least 14 days, the longest an event can live in a queue.

        Returns:
            How many were forgotten.

        Raises:
            ConfigurationError: `older_than` is less than 14 days.
        """
        check_purge_age(older_than)
        old = "attribute_not_exists(body) AND applied_at < :before"
        values = {":before": _number(self._clock() - older_than)}
        return sum(
            self._delete(item["id"]["S"], old, values)
            for page in self._scan(old, ExpressionAttributeValues=values)
            for item in page["Items"]
        )

    def _read(self, id: str, attributes: str) -> dict[str, Any]:
        # None of the attributes is among DynamoDB's reserved words, so that they can stand in
        # expressions as they are.
        answer = self._client.get_item(
            TableName=self._table,
            Key={"id": {"S": id}},
            ConsistentRead=True,
            ProjectionExpression=attributes,
        )
        item: dict[str, Any] = answer.get("Item", {})
        return item

    def _update(
        self, id: str, item: Mapping[str, Any], condition: str, values: dict[str, Any]
    ) -> bool:
        """
        Set the attributes, remove those that are None; unless the condition fails, which makes it
        False.
        """
        given = {name: value for name, value in item.items() if value is not None}
        changes = {
            "SET": [f"{name} = :{name}" for name in given],
            "REMOVE": [name for name in item if name not in given],
        }
        values |= {f":{name}": value for name, value in given.items()}
        return self._unless_refused(
            self._client.update_item,
            id,
            condition,
            UpdateExpression=" ".join(
                f"{verb} {', '.join(each)}" for verb, each in changes.items() if each
            ),
            **({"ExpressionAttributeValues": values} if values else {}),
        )

    def _delete(self, id: str, condition: str, values: dict[str, Any]) -> bool:
        return self._unless_refused(
            self._client.delete_item, id, condition, ExpressionAttributeValues=values
        )

    def _unless_refused(
        self, write: Callable[..., object], id: str, condition: str, **settings: Any
    ) -> bool:
        try:
            write(
                TableName=self._table,
                Key={"id": {"S": id}},
                ConditionExpression=condition,
                **settings,
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _scan(self, condition: str, **settings: Any) -> Iterator[Any]:
        paginator = self._client.get_paginator("scan")
        pages: Iterator[Any] = paginator.paginate(
            TableName=self._table, ConsistentRead=True, FilterExpression=condition, **settings
        )
        return pages


def _described(id: str, change: Found[Mapping[str, Any]] | Unchanged | Gone) -> dict[str, Any]:
    """Return the attributes that the change sets, or removes."""
    if isinstance(change, Unchanged):
        return {}
    if isinstance(change, Gone):
        return {"present": {"BOOL": False}, "body": None, "etag": None}
    body = json.dumps(change.value, allow_nan=False)
    if len(body) > MAX_BODY:  # ASCII, so that characters are bytes
        raise ValueError(
            f"{id!r} has {len(body)} bytes as JSON, and DynamoDB takes {MAX_BODY} with what belongs to it: let the fetcher "
            "leave out what the cache does not need, or choose another sink"
        )
    return {
        "present": {"BOOL": True},
        "body": {"S": body},
        "etag": None if change.etag is None else {"S": change.etag},
    }


def _number(value: float) -> dict[str, str]:
    return {"N": str(value)}


def _make_client() -> Any:
    import boto3  # not above: a service that has another sink does not pay for it
    from botocore.config import Config

    config = Config(
        connect_timeout=2,
        read_timeout=5,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=100,
    )
    return boto3.client("dynamodb", config=config)
