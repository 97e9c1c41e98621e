"""Checked by mypy and pyright, never run: a decorated function keeps its signature."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from psycopg import Connection
from typing_extensions import assert_type

import change_events
from change_events import (
    BroadcastStats,
    BulkFetcher,
    ChangeEvent,
    DynamoDBSink,
    Fetcher,
    Found,
    Gone,
    HTTPFetcher,
    HTTPListing,
    MemorySink,
    NullPublisher,
    PostgresSink,
    Publisher,
    Sink,
    SNSPublisher,
    SQLiteSink,
    Stats,
    Unchanged,
    Worker,
    broadcast_stats,
    broadcasting,
    broadcasts_before_save,
    in_portions,
)
from change_events.testing import SinkContract, SourceContract

assert_type(change_events.__version__, str)
change_events.Wroker  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnusedExpression]  # noqa: B018  # misspelt


class OwnPublisher(SNSPublisher): ...


publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")
assert_type(publisher, SNSPublisher)
assert_type(OwnPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN"), OwnPublisher)
SNSPublisher(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

for portion in in_portions(range(10), 3):
    assert_type(portion, list[int])
    with broadcasting(publisher, *portion):
        pass


class Product:
    id: str


class Repository:
    bus: Publisher

    @broadcasts_before_save(publisher, id="product.id")
    def save(self, product: Product, *, reason: str = "") -> bool:
        return bool(reason)

    @broadcasts_before_save(publisher, ids=lambda products: [product.id for product in products])
    async def save_all(self, products: list[Product]) -> int:
        return len(products)

    @broadcasts_before_save(lambda self: self.bus)
    def delete(self, id: str) -> None: ...

    @classmethod
    @broadcasts_before_save(NullPublisher())
    def forget(cls, id: str) -> str:
        return id


@broadcasts_before_save(publisher)
def save(product: Product) -> Product:
    return product


@broadcasts_before_save(publisher)
async def save_async(product: Product) -> Product:
    return product


def alarm(ids: Sequence[str], error: Exception) -> None: ...


@broadcasts_before_save(publisher, settle=30, confirm=True, on_unsettled=alarm)
def save_slowly(product: Product) -> Product:
    return product


@broadcasts_before_save(
    publisher, settle=2.5, confirm=True, on_unsettled=lambda ids, error: (*ids, error)
)
async def save_slowly_async(product: Product) -> Product:
    return product


async def calls(repository: Repository, product: Product) -> None:
    assert_type(repository.save(product, reason="because"), bool)
    assert_type(await repository.save_all([product]), int)
    assert_type(Repository.forget("p1"), str)
    assert_type(save(product), Product)
    assert_type(await save_async(product), Product)
    plain: Callable[[Product], Product] = save
    asynchronous: Callable[[Product], Coroutine[Any, Any, Product]] = save_async
    plain(product)
    await asynchronous(product)

    repository.save()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # as undecorated
    repository.save("p1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # as undecorated
    with broadcasting(publisher, "p1", 2):
        pass
    async with broadcasting(publisher, "p1"):
        pass

    assert_type(save_slowly(product), Product)
    assert_type(await save_slowly_async(product), Product)
    with broadcasting(publisher, "p1", settle=30, confirm=True, on_unsettled=alarm) as entered:
        assert_type(entered, None)
    async with broadcasting(publisher, "p1", settle=0.5, on_unsettled=None) as entered_async:
        assert_type(entered_async, None)
    broadcasting(publisher, "p1", settle="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # seconds
    broadcasting(publisher, "p1", on_unsettled=print, confirm=False)
    broadcasts_before_save(publisher, on_unsettled=lambda: None)  # type: ignore[misc, arg-type]  # pyright: ignore[reportArgumentType]  # needs two parameters, ids and error


def broadcasts() -> None:
    assert_type(broadcast_stats(), BroadcastStats)
    assert_type(broadcast_stats().renewals, int)
    assert_type(broadcast_stats().late, int)
    assert_type(broadcast_stats().unsettled, int)
    event = ChangeEvent("p1", settle=2.5, phase="saved", save="s1")
    assert_type(event.settle, float | None)
    assert_type(event.phase, Literal["saving", "saved"] | None)
    assert_type(event.save, str | None)
    ChangeEvent("p1", phase="deleted")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such phase


def upsert(connection: Connection, id: str, value: Mapping[str, Any]) -> None:
    connection.execute("INSERT INTO products (id, name) VALUES (%s, %s)", (id, value["name"]))


class TestMySink(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[SQLiteSink]:
        with SQLiteSink(tmp_path / "cache.db") as sink:
            yield sink

    @pytest.fixture
    def open_again(self, tmp_path: Path) -> Callable[[], SQLiteSink]:
        return partial(SQLiteSink, tmp_path / "cache.db")

    def entity(self, n: int) -> dict[str, int]:
        return {"n": n}


class TestMySource(SourceContract):
    id_samples = ("7",)

    @pytest.fixture
    def url(self) -> str:
        return "https://products.example.com/products/{id}"

    @pytest.fixture
    def save(self) -> Callable[[str], None]:
        return lambda id: None

    @pytest.fixture
    def listing(self) -> HTTPListing:
        return HTTPListing("https://products.example.com/products")

    def new_id(self) -> str:
        return "8"

    def stored(self, sink: SQLiteSink, id: str) -> dict[str, int] | None:
        return sink.get(id)


class Catalogue:
    bulk_size = 20

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[int] | Gone:
        return Found(len(id), etag) if id else Gone()

    def fetch_many(self, ids: Sequence[str], /) -> dict[str, Found[int]]:
        return {id: Found(len(id)) for id in ids}


def many(fetcher: BulkFetcher[int]) -> None:
    assert_type(fetcher.fetch_many(["p1"]), Mapping[str, Found[int]])
    assert_type(fetcher.bulk_size, int)


many(Catalogue())
of_numbers = Worker(
    "https://sqs.eu-west-1.amazonaws.com/123456789012/q",
    fetcher=Catalogue(),
    sink=MemorySink[int](),
)
assert_type(of_numbers, Worker[int])


def seams(
    sqlite: SQLiteSink,
    dynamodb: DynamoDBSink,
    memory: MemorySink[dict[str, Any]],
    numbers: MemorySink[int],
) -> None:
    fetcher = HTTPFetcher("https://products.example.com/products/{id}")
    assert_type(fetcher.trust_etags, bool)
    HTTPFetcher("https://products.example.com/{id}", id_of="data.id", trust_etags=True)
    HTTPFetcher("https://products.example.com/{id}", id_of=lambda entity: entity["sku"])
    HTTPFetcher("https://products.example.com/{id}", id_of=None)
    HTTPFetcher("https://products.example.com/{id}", id_of=b"id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no path
    fetches: Fetcher[dict[str, Any]] = fetcher
    assert_type(fetcher.fetch_many(("p1", "p2")), dict[str, Found[dict[str, Any]]])
    of_objects: BulkFetcher[dict[str, Any]] = fetcher
    assert_type(of_objects.bulk_size, int)
    postgres = PostgresSink(
        "dbname=products",
        upsert=upsert,
        delete=lambda connection, id: connection.execute("", (id,)),
    )
    sinks: list[Sink[dict[str, Any]]] = [sqlite, postgres, dynamodb, memory]
    assert_type(postgres.get("p1"), dict[str, Any] | None)
    assert_type(fetcher.fetch("p1"), Found[dict[str, Any]] | Unchanged | Gone)
    assert_type(memory.get("p1"), dict[str, Any] | None)
    assert_type(numbers.get("p1"), int | None)

    for sink in sinks:
        worker = Worker(
            "https://sqs.eu-west-1.amazonaws.com/123456789012/q", fetcher=fetches, sink=sink
        )
        assert_type(worker, Worker[dict[str, Any]])
        assert_type(worker.drain(), int)
        assert_type(worker.stats(), Stats)
    Worker("https://...", fetcher=fetcher, sink=numbers)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # numbers are not objects
