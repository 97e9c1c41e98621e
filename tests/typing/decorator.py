"""Checked by mypy and pyright, never run: decorating keeps a function's signature, whatever kind it is of."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from typing_extensions import assert_type

from change_events import (
    Fetcher,
    Found,
    Gone,
    HTTPFetcher,
    MemorySink,
    NullPublisher,
    Publisher,
    Sink,
    SNSPublisher,
    SQLiteSink,
    Stats,
    Unchanged,
    Worker,
    broadcasting,
    broadcasts_before_save,
)

publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")
assert_type(publisher, SNSPublisher)


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


def seams(sqlite: SQLiteSink, memory: MemorySink[dict[str, Any]], numbers: MemorySink[int]) -> None:
    fetcher = HTTPFetcher("https://products.example.com/products/{id}")
    fetches: Fetcher[dict[str, Any]] = fetcher
    sinks: list[Sink[dict[str, Any]]] = [sqlite, memory]
    assert_type(fetcher.fetch("p1"), Found[dict[str, Any]] | Unchanged | Gone)
    assert_type(memory.get("p1"), dict[str, Any] | None)
    assert_type(numbers.get("p1"), int | None)

    for sink in sinks:
        worker = Worker("https://sqs.eu-west-1.amazonaws.com/123456789012/q", fetcher=fetches, sink=sink)
        assert_type(worker, Worker[dict[str, Any]])
        assert_type(worker.drain(), int)
        assert_type(worker.stats(), Stats)
    Worker("https://...", fetcher=fetcher, sink=numbers)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # numbers are no objects
