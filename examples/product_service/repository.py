"""
Products in DynamoDB.

Every method that saves is decorated: it broadcasts the product's id before it runs.
"""

from __future__ import annotations

import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from change_events import SNSPublisher, broadcasts_before_save
from product_service.models import NewProduct, Product

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE = 25
MOST_AT_ONCE = 100
"""Most items that DynamoDB reads in one call."""

ATTEMPTS = 5
"""How often to ask DynamoDB for items, if it is busy and leaves some unread."""

THREADS = 40
"""In how many threads FastAPI runs endpoints; each needs its own connection."""

publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")


class UnknownProductError(LookupError):
    """No product ever had that id."""


class DeletedProductError(LookupError):
    """The product has been deleted."""


class ConflictError(Exception):
    """Somebody else has changed the product since it was read."""


class BusyError(Exception):
    """The table has too much to do."""


class ProductRepository:
    """
    The products' table. Threads can share it.

    Args:
        table: The table's name. Its key is `id`, a string.
        before_commit: Called between the broadcast and the write. Demonstrations put faults there.
    """

    def __init__(self, table: str, *, before_commit: Callable[[], None] = lambda: None) -> None:
        resource: Any = boto3.resource("dynamodb", config=Config(max_pool_connections=THREADS))
        # This client has Python values; and threads can share it, unlike the resource.
        self._client = resource.meta.client
        self._table = table
        self._before_commit = before_commit

    def create_table(self) -> None:
        """Make the table unless it exists."""
        try:
            self._client.create_table(
                TableName=self._table,
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except self._client.exceptions.ResourceInUseException:
            return
        self._client.get_waiter("table_exists").wait(TableName=self._table)

    def open(self) -> AbstractContextManager[ProductRepository]:
        """Return itself for a request. Each method commits by itself."""
        return nullcontext(self)

    def get(self, id: str) -> Product:
        """
        Read the latest commit. (`ConsistentRead`: other reads can return an earlier state.)

        Raises:
            UnknownProductError: The product never existed.
            DeletedProductError: It has been deleted.
        """
        item = self._client.get_item(
            TableName=self._table, Key={"id": id}, ConsistentRead=True
        ).get("Item")
        if item is None:
            raise UnknownProductError(id)
        if item["deleted"]:
            raise DeletedProductError(id)
        return _product(item)

    def get_many(self, ids: list[str]) -> list[Product]:
        """
        Read the latest commits of up to 100 products, in any order, without those that don't exist.

        Raises:
            BusyError: Some could not be read. If they were left out, they would seem not to exist.
        """
        found: list[dict[str, Any]] = []
        asked: dict[str, Any] = {
            self._table: {"Keys": [{"id": id} for id in dict.fromkeys(ids)], "ConsistentRead": True}
        }
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.05 * 2**attempt)
            answer = self._client.batch_get_item(RequestItems=asked)
            found += answer["Responses"].get(self._table, [])
            asked = answer.get("UnprocessedKeys") or {}
            if not asked:
                return [_product(item) for item in found if not item["deleted"]]
        raise BusyError(f"{len(asked[self._table]['Keys'])} products could not be read")

    def page(self, after: str | None = None) -> tuple[list[Product], str | None]:
        """
        Read up to 25 products.

        Args:
            after: The cursor that came with the page before; None: start with the first page.

        Returns:
            The products, and the cursor of the next page, or None if this is the last.
        """
        products: list[Product] = []
        while len(products) < PAGE_SIZE:
            start = {"ExclusiveStartKey": {"id": after}} if after else {}
            scan = self._client.scan(
                TableName=self._table, Limit=PAGE_SIZE - len(products), ConsistentRead=True, **start
            )
            products += [_product(item) for item in scan["Items"] if not item["deleted"]]
            if "LastEvaluatedKey" not in scan:
                return products, None
            after = scan["LastEvaluatedKey"]["id"]
        return products, after

    def add(self, new: NewProduct) -> Product:
        """Save a new product. The service makes its id, because DynamoDB makes none."""
        return self.create(str(uuid.uuid4()), new)

    @broadcasts_before_save(publisher)
    def create(self, id: str, new: NewProduct) -> Product:
        """
        Save a new product.

        Raises:
            PublishError: The broadcast was not accepted; nothing is saved. (`update` and `delete`
                likewise.)
        """
        self._before_commit()
        product = Product(id=id, name=new.name, imageURL=new.imageURL, lastModified=now())
        self._put(product, ConditionExpression="attribute_not_exists(id)")
        return product

    @broadcasts_before_save(publisher, id="product.id")
    def update(self, product: Product) -> Product:
        """
        Save a change of the product.

        Args:
            product: The new state, with the `lastModified` of the state before.

        Returns:
            The saved product, with a new `lastModified`.

        Raises:
            ConflictError: Somebody else has saved the product since; nothing is saved.
        """
        return self._replace(product)

    @broadcasts_before_save(publisher, id="product.id")
    def delete(self, product: Product) -> Product:
        """
        Mark the product as deleted. Its row stays, so that its GET can answer 410, not just 404.

        Raises:
            ConflictError: Somebody else has saved the product since; nothing is saved.
        """
        return self._replace(product, deleted=True)

    def _replace(self, product: Product, *, deleted: bool = False) -> Product:
        self._before_commit()
        saved = product.model_copy(update={"lastModified": now(later_than=product.lastModified)})
        self._put(
            saved,
            deleted=deleted,
            ConditionExpression="lastModified = :seen",
            ExpressionAttributeValues={":seen": product.lastModified},
        )
        return saved

    def _put(self, product: Product, *, deleted: bool = False, **condition: Any) -> None:
        item = {**product.model_dump(mode="json"), "deleted": deleted}
        try:
            self._client.put_item(TableName=self._table, Item=item, **condition)
        except self._client.exceptions.ConditionalCheckFailedException:
            raise ConflictError(product.id) from None


def _product(item: dict[str, Any]) -> Product:
    return Product.model_validate({name: item[name] for name in Product.model_fields})


def now(later_than: str | None = None) -> str:
    """Return the time; or a microsecond after `later_than`, if the clock is not yet there."""
    now = datetime.now(timezone.utc)
    if later_than is not None:
        now = max(now, datetime.fromisoformat(later_than) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds")
