"""The example's product service on PostgreSQL, over the wire."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import urllib3
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from change_events import HTTPFetcher, HTTPListing, MemorySink, Worker
from change_events.testing import SourceContract
from conftest import make_schema, wait_until
from demo_parts.processes import Children
from product_service.app import create_app
from product_service.repository import ConflictError
from product_service.sql_repository import Row, SQLProducts
from source_apps import serving_asgi

NEW = {"name": "lamp", "imageURL": "https://images.example.com/lamp.png"}
RENAMED = [{"op": "replace", "path": "/name", "value": "candle"}]


@pytest.fixture(scope="module")
def database(postgres):
    return make_url(make_schema(postgres)).set(drivername="postgresql+psycopg")


@pytest.fixture(scope="module")
def products(database, make_channel):
    products = SQLProducts(database)
    products.create_table()
    yield products
    products.engine.dispose()


@pytest.fixture(scope="module")
def service(products):
    with serving_asgi(create_app(products)) as url:
        yield url + "/products"


@pytest.fixture(autouse=True)
def topic(channel, monkeypatch):
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", channel.topic_arn)


@pytest.fixture
def ask():
    with urllib3.PoolManager(retries=False, timeout=30) as pool:

        def ask(method, url, body=None):
            kind = "application/json-patch+json" if method == "PATCH" else "application/json"
            sent = None if body is None else json.dumps(body)
            return pool.request(method, url, body=sent, headers={"Content-Type": kind})

        yield ask


@pytest.fixture
def lamp(service, ask, channel):
    """The URL of a saved product, after its broadcast."""
    url = ask("POST", service, NEW).headers["Location"]
    channel.messages()
    return url


def listed(service):
    """Return the products that the service lists, by their ids."""
    found, cursor = {}, None
    while True:
        page = HTTPListing(service, entities=True).page(cursor)
        found |= {id: each.value for id, each in page.found.items()}
        cursor = page.cursor
        if cursor is None:
            return found


def test_an_id_that_the_database_makes_is_broadcast(service, ask, channel):
    response = ask("POST", service, NEW)

    product = response.json()
    assert response.status == 201
    assert product["id"].isdecimal()
    assert channel.ids() == [product["id"]]
    assert ask("GET", response.headers["Location"]).json() == product


def test_a_change_and_a_deletion_are_broadcast(lamp, ask, channel):
    before = ask("GET", lamp).json()

    changed = ask("PATCH", lamp, RENAMED)
    assert changed.status == 200
    assert changed.json() == ask("GET", lamp).json()
    assert changed.json()["lastModified"] > before["lastModified"]
    assert channel.ids() == [before["id"]]

    assert ask("DELETE", lamp).status == 200
    assert channel.ids() == [before["id"]]
    assert ask("GET", lamp).status == 404


def test_a_refused_request_broadcasts_nothing(lamp, service, ask, channel):
    refused = [{"op": "test", "path": "/name", "value": "sofa"}, *RENAMED]

    assert ask("PATCH", lamp, refused).status == 409
    assert ask("POST", service, {"name": "lamp"}).status == 422
    assert channel.ids() == []


@pytest.mark.parametrize(
    ("method", "body"), [("POST", NEW), ("PATCH", RENAMED), ("DELETE", None)], ids=lambda each: each
)
def test_a_failed_broadcast_is_answered_by_503_and_nothing_is_saved(
    lamp, service, ask, monkeypatch, method, body
):
    before = ask("GET", lamp).json()
    there = listed(service)
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:gone")

    response = ask(method, service if method == "POST" else lamp, body)

    assert response.status == 503
    assert "not saved" in response.json()["detail"]
    assert ask("GET", lamp).json() == before
    assert listed(service) == there


@pytest.mark.parametrize("save", ["update", "delete"])
def test_of_two_saves_of_one_state_the_later_is_refused(products, lamp, ask, channel, save):
    id = lamp.rpartition("/")[2]
    with products.open() as repository:
        product = repository.get(id)
        ask("PATCH", lamp, RENAMED)
        with pytest.raises(ConflictError):
            getattr(repository, save)(product.model_copy(update={"name": "sofa"}))

    assert ask("GET", lamp).json()["name"] == "candle"
    assert channel.ids() == [id]


@pytest.mark.parametrize("id", ["nobody", "0", "01", "+1", "9" * 19, "a%2Fb"])
def test_an_id_that_the_database_never_makes_is_unknown(service, ask, id):
    assert ask("GET", f"{service}/{id}").status == 404
    assert ask("GET", f"{service}?id={id}").json() == []


def test_a_worker_follows_and_fills_its_cache_first(service, ask, channel):
    urls = [ask("POST", service, NEW).headers["Location"] for _ in range(30)]
    channel.messages()  # only the backfill knows these
    cache = MemorySink()
    worker = Worker(
        channel.queue_url,
        fetcher=HTTPFetcher(service + "/{id}", bulk_url=service),
        sink=cache,
        backfill=HTTPListing(service, entities=True),
        wait_time=1,
    )

    with worker.running():
        ask("PATCH", urls[0], RENAMED)
        ask("DELETE", urls[1])
        ask("POST", service, NEW)
        wait_until(
            lambda: worker.synced and {id: cache.get(id) for id in cache.ids()} == listed(service)
        )


class TestSQLProductsAsASource(SourceContract):
    id_samples = ("7",)

    @pytest.fixture
    def fetcher(self, service):
        return HTTPFetcher(
            service + "/{id}",
            bulk_url=service,
            bulk_size=10,
            is_gone=lambda headers, body: b"no such product" in body,
        )

    @pytest.fixture
    def listing(self, service):
        return HTTPListing(service, entities=True)

    @pytest.fixture
    def save(self, products):
        def save(id):
            with Session(products.engine) as session:
                row = session.get(Row, int(id)) or Row(id=int(id), image_url=NEW["imageURL"])
                row.name = uuid.uuid4().hex
                session.add(row)
                session.commit()

        return save

    @pytest.fixture
    def delete(self, products):
        def delete(id):
            with products.open() as repository:
                repository.delete(repository.get(id))

        return delete

    @pytest.fixture
    def failing(self, products):
        pytest.skip("the database of these tests is not stopped")


def test_a_downstream_follows_the_service_as_a_process(database, channel, ask, tmp_path):
    examples = Path(__file__).parents[2] / "examples"
    children = Children(tmp_path, path=examples)
    try:
        url = database.render_as_string(hide_password=False)
        options = ["--database", url, "--create-table", "--port", "0"]
        source = children.start("products", "product_service", *options).url()
        options = ["--queue-url", channel.queue_url, "--source", source, "--port", "0"]
        options += ["--cache", str(tmp_path / "cache.db")]
        downstream = children.start("downstream", "product_service.downstream", *options).url()
        image = f"https://{uuid.uuid4().hex}.example/lamp.png"
        ask("POST", f"{source}/products", NEW | {"imageURL": image})

        wait_until(
            lambda: (
                image.split("/")[2]
                in [row["host"] for row in ask("GET", f"{downstream}/summary").json()]
            )
        )
    finally:
        children.stop()
