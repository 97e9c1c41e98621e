"""The example's product service, over the wire."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from fastapi import FastAPI

from change_events import HTTPFetcher, MemorySink, Worker
from product_service import demo_faults, repository
from product_service.app import create_app
from product_service.models import Product
from product_service.repository import ProductRepository
from source_apps import serving_asgi

NEW = {"name": "lamp", "imageURL": "https://images.example.com/lamp.png"}
RENAMED = [{"op": "replace", "path": "/name", "value": "candle"}]


@dataclass(frozen=True)
class Shop:
    """A client of the product service, and the service's application."""

    url: str
    app: FastAPI
    http: urllib3.PoolManager

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        sent = (
            None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
        )
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request(
            method, path if path.startswith("http") else self.url + path, body=sent, headers=names
        )

    def get(self, id: str, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask("GET", f"/products/{id}", **headers)

    def post(self, body: object = NEW, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask(
            "POST", "/products", body, **{"Content_Type": "application/json", **headers}
        )

    def patch(self, id: str, patch: object = RENAMED, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask(
            "PATCH",
            f"/products/{id}",
            patch,
            **{"Content_Type": "application/json-patch+json", **headers},
        )

    def delete(self, id: str, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask("DELETE", f"/products/{id}", **headers)

    def ids(self) -> list[str]:  # of the first page
        return [product["id"] for product in self.ask("GET", "/products").json()]


@pytest.fixture(scope="module")
def shop_channel(make_channel: Callable[..., Any]) -> Any:
    return make_channel()


@pytest.fixture(scope="module")
def shop(shop_channel: Any) -> Iterator[Shop]:
    products = ProductRepository("example", before_commit=demo_faults.before_commit)
    products.create_table()
    app = create_app(products)
    app.add_middleware(demo_faults.DemoFaults)
    with (
        serving_asgi(app) as url,
        urllib3.PoolManager(retries=False, timeout=10) as http,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PRODUCT_EVENTS_TOPIC_ARN", shop_channel.topic_arn)
        yield Shop(url, app, http)


@pytest.fixture
def stock(shop: Shop) -> Iterator[Callable[..., ProductRepository]]:
    """Give the service an empty table while the test runs."""
    usual = shop.app.state.products

    def make(**settings: Any) -> ProductRepository:
        products = ProductRepository(uuid.uuid4().hex, **settings)
        products.create_table()
        shop.app.state.products = products
        return products

    yield make
    shop.app.state.products = usual


@pytest.fixture
def lamp(shop: Shop) -> dict[str, Any]:
    """A saved product."""
    product: dict[str, Any] = shop.post().json()
    return product


@pytest.fixture
def news(shop_channel: Any, lamp: Any) -> Any:
    """The channel, without what was broadcast so far."""
    shop_channel.messages()
    return shop_channel


# What is broadcast


def test_a_new_product_is_broadcast(shop, news):
    response = shop.post()

    id = response.json()["id"]
    assert response.status == 201
    assert news.bodies() == [json.dumps({"id": id})]
    assert shop.ask("GET", response.headers["Location"]).json() == response.json()


def test_the_service_makes_the_id_a_uuid(shop):
    assert uuid.UUID(shop.post().json()["id"])


def test_a_change_is_broadcast(shop, news, lamp):
    response = shop.patch(lamp["id"])

    assert response.status == 200
    assert news.bodies() == [json.dumps({"id": lamp["id"]})]
    assert shop.get(lamp["id"]).json() == response.json()
    assert response.json() == {
        **lamp,
        "name": "candle",
        "lastModified": response.json()["lastModified"],
    }
    assert response.json()["lastModified"] > lamp["lastModified"]


def test_a_deletion_is_broadcast(shop, news, lamp):
    response = shop.delete(lamp["id"])

    assert response.status == 200
    assert news.bodies() == [json.dumps({"id": lamp["id"]})]
    assert shop.get(lamp["id"]).status == 410


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"name": "lamp"},
        {"imageURL": "https://images.example.com/lamp.png"},
        {**NEW, "name": ""},
        {**NEW, "name": "n" * 201},
        {**NEW, "name": 7},
        {**NEW, "name": "\ud800"},
        {**NEW, "imageURL": "lamp.png"},
        {**NEW, "imageURL": "ftp://images.example.com/lamp.png"},
        {**NEW, "id": "mine"},
        {**NEW, "colour": "red"},
        "{",
        b"\xff",
        "",
    ],
    ids=lambda body: repr(body)[:60],
)
def test_an_invalid_product_broadcasts_nothing(shop, news, body):
    before = shop.ids()

    response = shop.post(body)

    assert response.status in {400, 422}
    assert response.json()["detail"]
    assert news.bodies() == []
    assert shop.ids() == before


@pytest.mark.parametrize(
    "patch",
    [
        {},
        "{",
        [7],
        [{}],
        [{"op": "explode", "path": "/name"}],
        [{"op": "replace", "path": "/name"}],
        [{"op": "replace", "path": 7, "value": "x"}],
        [{"op": "replace", "path": "name", "value": "x"}],
        [{"op": "replace", "path": "/name/~2", "value": "x"}],
        [{"op": "replace", "path": "/price", "value": 1}],
        [{"op": "add", "path": "/price", "value": 1}],
        [{"op": "add", "path": "/name/first", "value": "x"}],
        [{"op": "move", "path": "/name", "from": "/price"}],
        [{"op": "copy", "path": "/name"}],
        [{"op": "remove", "path": "/name"}],
        [{"op": "remove", "path": ""}],
        [{"op": "replace", "path": "", "value": [1]}],
        [{"op": "replace", "path": "/name", "value": ""}],
        [{"op": "replace", "path": "/imageURL", "value": "lamp.png"}],
        [{"op": "replace", "path": "/id", "value": "another"}],
        [{"op": "replace", "path": "/lastModified", "value": "tomorrow"}],
    ],
    ids=repr,
)
def test_a_patch_that_cannot_be_applied_broadcasts_nothing(shop, news, lamp, patch):
    response = shop.patch(lamp["id"], patch)

    assert response.status == 422
    assert response.json()["detail"]
    assert news.bodies() == []
    assert shop.get(lamp["id"]).json() == lamp


def test_a_patch_of_another_media_type_broadcasts_nothing(shop, news, lamp):
    response = shop.patch(lamp["id"], Content_Type="application/json")

    assert response.status == 415
    assert response.headers["Accept-Patch"] == "application/json-patch+json"
    assert news.bodies() == []


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_id_broadcasts_nothing(shop, news, method):
    response = shop.patch("nobody") if method == "PATCH" else shop.ask(method, "/products/nobody")

    assert response.status == 404
    assert response.json() == {"detail": "there is no such product"}
    assert news.bodies() == []


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_deleted_product_is_gone_and_broadcasts_nothing_more(shop, news, lamp, method):
    shop.delete(lamp["id"])
    news.messages()

    response = (
        shop.patch(lamp["id"]) if method == "PATCH" else shop.ask(method, f"/products/{lamp['id']}")
    )

    assert response.status == 410
    assert response.json() == {"detail": "the product has been deleted"}
    assert news.bodies() == []


@pytest.fixture
def topic_that_is_gone(
    lamp: dict[str, Any], shop_channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", f"{shop_channel.topic_arn}-gone")


@pytest.mark.parametrize(
    "save",
    [lambda shop, id: shop.post(), Shop.patch, Shop.delete],
    ids=["create", "update", "delete"],
)
def test_a_failed_broadcast_prevents_the_save(shop, lamp, topic_that_is_gone, save):
    before = shop.ids()

    response = save(shop, lamp["id"])

    assert response.status == 503
    assert "not saved" in response.json()["detail"]
    assert shop.get(lamp["id"]).json() == lamp
    assert shop.ids() == before


def test_without_a_topic_nothing_is_broadcast_and_the_save_runs(shop, news, monkeypatch):
    monkeypatch.delenv("PRODUCT_EVENTS_TOPIC_ARN")

    assert shop.post().status == 201
    assert news.bodies() == []


# Reading


def test_a_client_that_has_the_latest_state_gets_304(shop, lamp):
    etag = shop.get(lamp["id"]).headers["ETag"]

    for tags in etag, f"W/{etag}", f'"other", {etag}':
        response = shop.get(lamp["id"], If_None_Match=tags)
        assert (response.status, response.data, response.headers["ETag"]) == (304, b"", etag)


def test_a_client_that_has_an_older_state_gets_the_new_one(shop, lamp):
    etag = shop.get(lamp["id"]).headers["ETag"]
    shop.patch(lamp["id"])

    response = shop.get(lamp["id"], If_None_Match=etag)

    assert response.status == 200
    assert response.json()["name"] == "candle"
    assert response.headers["ETag"] != etag


def test_every_read_is_consistent(shop, stock):
    # Every read of the emulator is consistent, so the test checks what the requests ask for.
    asked = []
    events = stock()._client.meta.events
    for operation in "GetItem", "Scan":
        events.register(
            f"provide-client-params.dynamodb.{operation}",
            lambda params, **_: asked.append(params["ConsistentRead"]),
        )
    events.register(
        "provide-client-params.dynamodb.BatchGetItem",
        lambda params, **_: asked.extend(
            table["ConsistentRead"] for table in params["RequestItems"].values()
        ),
    )

    shop.get("p1")
    shop.ask("GET", "/products")
    shop.ask("GET", "/products?id=p1&id=p2")

    assert asked == [True, True, True]


def test_many_products_read_at_once_equal_their_single_reads_without_the_deleted_ones(shop, lamp):
    ids = [shop.post().json()["id"] for _ in range(3)]
    shop.delete(ids[1])

    response = shop.ask(
        "GET", f"/products?id={ids[0]}&id={ids[1]}&id=nobody&id={ids[2]}&id={ids[0]}"
    )

    assert response.status == 200
    assert "Link" not in response.headers
    assert sorted(response.json(), key=lambda each: ids.index(each["id"])) == [
        shop.get(id).json() for id in (ids[0], ids[2])
    ]


@pytest.mark.parametrize("ids", [["p"] * 101, [""], ["x" * 513]], ids=["101", "empty", "too long"])
def test_ids_that_cannot_be_read_at_once_are_refused(shop, ids):
    assert shop.ask("GET", "/products?" + "&".join(f"id={id}" for id in ids)).status == 422


def test_a_hundred_products_can_be_read_at_once(shop, lamp):
    ids = [f"nobody-{n}" for n in range(99)]

    response = shop.ask("GET", "/products?" + "&".join(f"id={id}" for id in [*ids, lamp["id"]]))

    assert response.json() == [lamp]


@pytest.mark.parametrize(("busy", "status"), [(2, 200), (5, 503)])
def test_items_that_dynamodb_leaves_unread_are_asked_for_again(
    shop, stock, monkeypatch, busy, status
):
    pauses: list[float] = []
    monkeypatch.setattr(repository, "time", SimpleNamespace(sleep=pauses.append))
    products = stock()
    id = shop.post().json()["id"]
    read = products._client.batch_get_item
    left = [busy]

    def batch_get_item(RequestItems):  # noqa: N803  # boto3's
        if left[0]:
            left[0] -= 1
            return {"Responses": {}, "UnprocessedKeys": RequestItems}
        return read(RequestItems=RequestItems)

    monkeypatch.setattr(products._client, "batch_get_item", batch_get_item)

    response = shop.ask("GET", f"/products?id={id}")

    assert response.status == status
    assert (
        [each["id"] for each in response.json()] == [id]
        if status == 200
        else "try again" in response.json()["detail"]
    )
    assert pauses == [0.1, 0.2, 0.4, 0.8][:busy]


def test_a_worker_reads_many_products_at_once(shop, shop_channel, lamp, monkeypatch):
    ids = [lamp["id"], *(shop.post().json()["id"] for _ in range(4))]
    shop.delete(ids[2])
    fetcher = HTTPFetcher(f"{shop.url}/products/{{id}}", bulk_url=f"{shop.url}/products")
    cache: MemorySink[dict[str, Any]] = MemorySink()

    worker = Worker(shop_channel.queue_url, fetcher=fetcher, sink=cache, settle=0.0, wait_time=1)
    worker.drain()

    assert {id: cache.get(id) for id in ids} == {id: shop.get(id).json() for id in ids} | {
        ids[2]: None
    }
    assert worker.stats().gets < worker.stats().received


def test_products_are_listed_page_by_page_without_the_deleted_ones(shop, stock, monkeypatch):
    stock()
    monkeypatch.delenv("PRODUCT_EVENTS_TOPIC_ARN")  # faster, and this test reads no broadcast
    ids = [shop.post().json()["id"] for _ in range(28)]
    for id in ids[:2]:
        shop.delete(id)

    first = shop.ask("GET", "/products")
    link = first.headers["Link"]
    last = shop.ask("GET", link.removeprefix("<").removesuffix('>; rel="next"'))

    assert (len(first.json()), len(last.json())) == (25, 1)
    assert sorted(product["id"] for product in first.json() + last.json()) == sorted(ids[2:])
    assert "Link" not in last.headers


# Conflicts


def test_a_patch_whose_test_fails_is_a_conflict_and_broadcasts_nothing(shop, news, lamp):
    response = shop.patch(lamp["id"], [{"op": "test", "path": "/name", "value": "sofa"}, *RENAMED])

    assert response.status == 409
    assert news.bodies() == []
    assert shop.get(lamp["id"]).json() == lamp


@pytest.mark.parametrize("save", [Shop.patch, Shop.delete], ids=["update", "delete"])
def test_of_two_saves_of_one_state_the_later_is_refused(shop, stock, save):
    rivals: list[Callable[[], object]] = []
    products = stock(before_commit=lambda: rivals.pop()() if rivals else None)
    id = shop.post().json()["id"]
    rivals.append(lambda: products.update(products.get(id).model_copy(update={"name": "sofa"})))

    response = save(shop, id)

    assert response.status == 409
    assert "try again" in response.json()["detail"]
    assert shop.get(id).json()["name"] == "sofa"


def test_an_id_is_not_used_twice(stock):
    products = stock()
    lamp = products.create("p1", repository.NewProduct.model_validate(NEW))

    with pytest.raises(repository.ConflictError):
        products.create("p1", repository.NewProduct.model_validate(NEW))

    assert products.get("p1") == lamp


def test_last_modified_grows_even_if_the_clock_is_behind(stock):
    products = stock()
    ahead = Product.model_validate(
        {**NEW, "id": "p1", "lastModified": "2999-12-31T23:59:59.999999+00:00"}
    )
    products._put(ahead)

    saved = products.update(ahead)

    assert saved.lastModified == "3000-01-01T00:00:00.000000+00:00"
    assert products.get("p1") == saved


# Faults for the demo


def test_a_save_that_fails_on_request_has_been_broadcast(shop, news, lamp):
    response = shop.patch(lamp["id"], X_Demo_Fault="fail")

    assert response.status == 500
    assert response.json() == {"detail": "the save failed, as the request asked for"}
    assert news.ids() == [lamp["id"]]
    assert shop.get(lamp["id"]).json() == lamp


def test_a_save_is_slow_on_request_after_its_broadcast(shop, news, lamp):
    response = shop.patch(lamp["id"], X_Demo_Fault="slow=0.01")

    assert response.status == 200
    assert news.ids() == [lamp["id"]]


def test_a_service_without_the_option_ignores_requests_for_faults(shop, stock):
    stock()  # without before_commit

    assert shop.post(X_Demo_Fault="fail").status == 201
