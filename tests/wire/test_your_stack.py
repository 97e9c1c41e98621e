"""
Each snippet of docs/howto/your-stack.md, as it stands there, in a service of its stack.

The services know nothing of change-events beside the snippet. Their changes come over HTTP, through
a broker, or as a process, and the snippet's events through a topic and a queue. In the end a cache
equals what is in the database.
"""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import fastapi
import flask
import psycopg
import pytest
import urllib3
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.test.utils import override_settings
from django.urls import path
from flask_sqlalchemy import SQLAlchemy
from pytest_examples import find_examples
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from change_events import DynamoDBSink, HTTPFetcher, MemorySink, Worker
from change_events.integrations._model_changes import announced_models
from conftest import make_schema, make_table
from django_shop import IN_MEMORY, make_tables, postgres_database, use_database
from lambda_records import Context, EventSourceMapping
from source_apps import serving_asgi, serving_wsgi
from verification.harness.wire import Answer

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "your-stack.md"

ROW = re.compile(r"^\| \[.+?\]\(#(.+?)\) \| (\d) \|.*\| `(\w+)` \|$", re.MULTILINE)
"""A row of the page's table: an anchor, a number of lines, and the name of a test."""

SAVED = {"1": "Bolt", "3": "Nut"}
"""What `change_products` leaves: names by id."""


def snippet(anchor):
    """Return the code block of the section that an anchor of the page leads to."""
    text = PAGE.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): line
        for line, heading in re.findall(r"^(## (.+))$", text, re.MULTILINE)
    }
    section = text.partition(f"\n{headings[anchor]}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return block


def run(anchor, **names):
    """Run a block, with what is the user's own; return the names that it knows then."""
    exec(compile(snippet(anchor), f"{PAGE.name}#{anchor}", "exec"), names)
    return names


def lines_of_glue(source):
    """
    Count the lines that name something of change-events: what is imported from it, and what is made
    of that.
    """
    known, lines = set(), set()
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    for statement in sorted(statements, key=lambda each: each.lineno):
        if isinstance(statement, ast.ImportFrom) and statement.module.startswith("change_events"):
            known |= {each.asname or each.name for each in statement.names}
            lines |= {*range(statement.lineno, statement.end_lineno + 1)}
        named = [name for name in names_of(statement) if name.id in known]
        if named and isinstance(statement, ast.Assign):
            known |= {target.id for target in statement.targets}
            lines |= {*range(statement.lineno, statement.end_lineno + 1)}
        lines |= {name.lineno for name in named}
    return len(lines)


def names_of(node):
    """Yield the names that a statement reads, apart from the statements inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            yield child
        if not isinstance(child, ast.stmt):
            yield from names_of(child)


def test_the_lines_of_a_snippet_are_counted():
    source = """
        import change_events_of_ours
        from change_events import (
            A,
            b,
        )
        c = d(
            A
        )
        e = change_events_of_ours
        @c
        def f(g):
            h()
            b(g)
        with i(), c.j():
            k = f(1)
        """

    assert lines_of_glue(textwrap.dedent(source)) == 4 + 3 + 1 + 1 + 1


@pytest.mark.parametrize(("anchor", "lines"), [row[:2] for row in ROW.findall(PAGE.read_text())])
def test_the_page_says_how_many_lines_a_stack_needs(anchor, lines):
    assert lines_of_glue(snippet(anchor)) == int(lines) <= 5


def test_each_row_of_the_page_has_its_snippet_and_its_test():
    rows = ROW.findall(PAGE.read_text())

    assert len(rows) == len(re.findall(r"^\| \[", PAGE.read_text(), re.MULTILINE))
    assert len(rows) == len([*find_examples(PAGE)])
    for anchor, _, test in rows:
        assert test == "test_" + anchor.replace("-", "_")
        assert callable(globals()[test])


# What all have in common


@pytest.fixture(autouse=True)
def topic(channel, monkeypatch):
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", channel.topic_arn)


@pytest.fixture
def database(postgres, monkeypatch):
    """A PostgreSQL database with a table of products, whose ids it makes; for psycopg."""
    url = make_schema(postgres)
    monkeypatch.setenv("DATABASE_URL", url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TABLE products (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "
            "name text NOT NULL)"
        )
    return url


def saved_in(database):
    """Return the names of the products that are committed, by id."""
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT id, name FROM products").fetchall()
    return {str(id): name for id, name in rows}


@pytest.fixture
def source_of(source):
    """Return the URL of a service that answers with what a function finds by id."""

    def serve(read):
        def answer(id):
            name = read().get(id)
            found = {"id": id, "name": name}
            return Answer(410) if name is None else Answer(200, json.dumps(found).encode())

        source.answer = answer
        return f"{source.url}/products"

    return serve


@pytest.fixture
def require_equal_cache(channel):
    """Let a worker empty the queue; compare its cache with what was saved."""

    def follow(url, saved):
        cache = MemorySink()
        fetcher = HTTPFetcher(url + "/{id}")
        worker = Worker(channel.queue_url, fetcher=fetcher, sink=cache, settle=0.0, wait_time=1)
        worker.drain()
        assert saved
        assert {id: cache.get(id) for id in cache.ids()} == {
            id: {"id": id, "name": name} for id, name in saved.items()
        }

    return follow


def change_products(url):
    """Make three products in a service, rename one and delete one."""
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        for method, place in (
            *(("POST", f"?name={name}") for name in ("Anvil", "Screw", "Nut")),
            ("PUT", "/1?name=Bolt"),
            ("DELETE", "/2"),
        ):
            assert pool.request(method, url + place).status == 200


# FastAPI


def declare():
    """Return a class that SQLAlchemy maps to the table: a new one, which nobody has announced."""

    class Base(DeclarativeBase):
        pass

    class Product(Base):
        __tablename__ = "products"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    return Product


def shown(product):
    if product is None:
        raise fastapi.HTTPException(404, "no such product")
    return {"id": str(product.id), "name": product.name}


def test_fastapi_and_sqlalchemy(database, require_equal_cache):
    engine = create_engine(make_url(database).set(drivername="postgresql+psycopg"))
    Session, Product = sessionmaker(engine), declare()  # noqa: N806  # classes
    app = fastapi.FastAPI()

    def session():
        with Session.begin() as session:
            yield session

    Opened = Annotated[Any, fastapi.Depends(session, scope="function")]  # noqa: N806  # a type

    @app.post("/products")
    def create(name: str, session: Opened):
        product = Product(name=name)
        session.add(product)
        session.flush()
        return shown(product)

    @app.put("/products/{id}")
    def rename(id: int, name: str, session: Opened):
        session.get(Product, id).name = name

    @app.delete("/products/{id}")
    def delete(id: int, session: Opened):
        session.delete(session.get(Product, id))

    @app.get("/products/{id}")
    def product(id: int, session: Opened):
        return shown(session.get(Product, id))

    run("fastapi-and-sqlalchemy", Session=Session, Product=Product)
    with serving_asgi(app) as url:
        change_products(f"{url}/products")
        require_equal_cache(f"{url}/products", saved_in(database))
    engine.dispose()
    assert saved_in(database) == SAVED


def test_fastapi_and_asynchronous_sqlalchemy(database, require_equal_cache):
    url = make_url(database).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url, poolclass=NullPool)
    AsyncSession, Product = async_sessionmaker(engine), declare()  # noqa: N806  # classes
    app = fastapi.FastAPI()

    async def session():
        async with AsyncSession.begin() as session:
            yield session

    Opened = Annotated[Any, fastapi.Depends(session, scope="function")]  # noqa: N806  # a type

    @app.post("/products")
    async def create(name: str, session: Opened):
        product = Product(name=name)
        session.add(product)
        await session.flush()
        return shown(product)

    @app.put("/products/{id}")
    async def rename(id: int, name: str, session: Opened):
        (await session.get(Product, id)).name = name

    @app.delete("/products/{id}")
    async def delete(id: int, session: Opened):
        await session.delete(await session.get(Product, id))

    @app.get("/products/{id}")
    async def product(id: int, session: Opened):
        return shown(await session.get(Product, id))

    run("fastapi-and-asynchronous-sqlalchemy", AsyncSession=AsyncSession, Product=Product)
    with serving_asgi(app) as url:
        change_products(f"{url}/products")
        require_equal_cache(f"{url}/products", saved_in(database))
    assert saved_in(database) == SAVED


# Flask


def flask_app(create, rename, delete, find):
    """Return an application that saves by three functions, and finds a name by a fourth one."""
    app = flask.Flask("products")

    @app.post("/products")
    def post():
        create(flask.request.args["name"])
        return {}

    @app.put("/products/<id>")
    def put(id):
        rename(id, flask.request.args["name"])
        return {}

    @app.delete("/products/<id>")
    def remove(id):
        delete(id)
        return {}

    @app.get("/products/<id>")
    def get(id):
        name = find(id)
        return ({"id": id, "name": name}, 200) if name else ({"detail": "no such product"}, 404)

    return app


def test_flask_and_flask_sqlalchemy(database, require_equal_cache):
    db = SQLAlchemy()

    class Product(db.Model):
        __tablename__ = "products"
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String)

    def create(name):
        db.session.add(Product(name=name))
        db.session.commit()

    def rename(id, name):
        db.session.get(Product, id).name = name
        db.session.commit()

    def delete(id):
        db.session.delete(db.session.get(Product, id))
        db.session.commit()

    def find(id):
        product = db.session.get(Product, id)
        return product and product.name

    app = flask_app(create, rename, delete, find)
    app.config["SQLALCHEMY_DATABASE_URI"] = make_url(database).set(drivername="postgresql+psycopg")
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"poolclass": NullPool}
    db.init_app(app)
    run("flask-and-flask-sqlalchemy", db=db, Product=Product)
    with serving_wsgi(app) as url:
        change_products(f"{url}/products")
        require_equal_cache(f"{url}/products", saved_in(database))
    assert saved_in(database) == SAVED


def test_flask_and_a_driver(database, require_equal_cache):
    names = run("flask-and-a-driver", connection=lambda: psycopg.connect(database))
    announced = names["broadcasts_before_save"](names["products"])

    @announced
    def insert(id, name):
        with psycopg.connect(database) as connection:
            connection.execute("INSERT INTO products VALUES (%s, %s)", (id, name))

    @announced
    def delete(id):
        with psycopg.connect(database) as connection:
            connection.execute("DELETE FROM products WHERE id = %s", (id,))

    ids = iter("123")
    app = flask_app(
        lambda name: insert(next(ids), name),
        names["rename"],
        delete,
        lambda id: saved_in(database).get(id),
    )
    with serving_wsgi(app) as url:
        change_products(f"{url}/products")
        require_equal_cache(f"{url}/products", saved_in(database))
    assert saved_in(database) == SAVED


# Django


@pytest.fixture
def django_database(postgres_database):
    use_database("default", **postgres_database, ATOMIC_REQUESTS=True)
    yield
    announced_models.clear()
    use_database("default", **IN_MEMORY, ATOMIC_REQUESTS=False)


def test_django(django_database, require_equal_cache):
    Product = run("django", __name__="shop.models")["Product"]  # noqa: N806  # a class
    make_tables("default", [Product])

    def products(request):
        Product.objects.create(name=request.GET["name"])
        return JsonResponse({})

    def product(request, id):
        found = Product.objects.filter(pk=id).first()
        if found is None:
            return JsonResponse({"detail": "no such product"}, status=404)
        if request.method == "PUT":
            found.name = request.GET["name"]
            found.save()
        elif request.method == "DELETE":
            found.delete()
        return JsonResponse({"id": str(id), "name": found.name})

    urls = ModuleType("urls")
    urls.urlpatterns = [path("products", products), path("products/<int:id>", product)]
    with override_settings(ROOT_URLCONF=urls), serving_wsgi(WSGIHandler()) as url:
        change_products(f"{url}/products")
        saved = {str(each.pk): each.name for each in Product.objects.all()}
        require_equal_cache(f"{url}/products", saved)
    assert saved == SAVED


# Celery

TASKS = """
import os

from celery import Celery
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

app = Celery("tasks", broker="filesystem://", backend="file://{directory}")
app.conf.broker_transport_options = {{
    "data_folder_in": "{directory}",
    "data_folder_out": "{directory}",
    "control_folder": "{directory}/control",
}}
engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))
Session = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


{snippet}


@app.task
def create(name):
    with Session.begin() as session:
        session.add(Product(name=name))


@app.task
def delete(id):
    with Session.begin() as session:
        session.delete(session.get(Product, id))
"""


@pytest.fixture
def tasks(database, line, tmp_path, monkeypatch):
    """The module of tasks, and a worker of Celery that runs them in processes, its default."""
    directory = tmp_path / "broker"
    directory.mkdir()
    module = tmp_path / "tasks.py"
    module.write_text(TASKS.format(directory=directory, snippet=snippet("celery")))
    command = [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--concurrency", "2"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        monkeypatch.syspath_prepend(tmp_path)
        yield importlib.import_module("tasks")
        worker.terminate()
        assert worker.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        worker.kill()
        worker.wait()
        sys.modules.pop("tasks", None)


def test_celery(tasks, database, line, source_of, require_equal_cache):
    for name in ("Anvil", "Screw", "Nut"):
        tasks.create.delay(name).get(timeout=60)
    faults = [Answer(503)]  # SNS refuses the first broadcast, and the task runs again
    line.fault = lambda asked: faults.pop() if faults else None
    tasks.rename.delay(1, "Bolt").get(timeout=60)
    assert faults == []
    tasks.delete.delay(2).get(timeout=60)

    require_equal_cache(source_of(lambda: saved_in(database)), saved_in(database))
    assert saved_in(database) == SAVED


# Scripts and AWS Lambda


def test_a_script(database, source_of, require_equal_cache, tmp_path):
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO products VALUES (7, 'Screw')")
    script = tmp_path / "script.py"
    script.write_text(snippet("a-script"))

    subprocess.run([sys.executable, script], check=True, timeout=60)

    assert saved_in(database) == {"7": "Anvil"}
    require_equal_cache(source_of(lambda: saved_in(database)), saved_in(database))


def test_aws_lambda_saving(source_of, require_equal_cache, monkeypatch):
    monkeypatch.setenv("PRODUCTS_TABLE", make_table())
    names = run("aws-lambda-saving")

    for id, name in (("1", "Anvil"), ("3", "Nut"), ("1", "Bolt")):
        event = {"body": json.dumps({"id": id, "name": name})}
        assert names["handler"](event, Context()) == {"statusCode": 204}

    def saved():
        return {item["id"]: item["name"] for item in names["table"].scan()["Items"]}

    assert saved() == SAVED
    require_equal_cache(source_of(saved), saved())


def test_aws_lambda_keeping_a_copy(channel, source, source_of, monkeypatch):
    monkeypatch.setenv("PRODUCTS_TABLE", make_table())
    url = source_of(lambda: SAVED)
    code = snippet("aws-lambda-keeping-a-copy")
    names = {}
    exec(code.replace("https://products.example.com/products", url), names)
    channel.announce("1", "2", "3")

    mapping = EventSourceMapping(channel.queue_url, names["handler"])
    mapping.poll_until(lambda: channel.count() == {}, seconds=60)

    cache = DynamoDBSink(os.environ["PRODUCTS_TABLE"])
    assert {id: cache.get(id) for id in ("1", "2", "3")} == {
        "1": {"id": "1", "name": "Bolt"},
        "2": None,
        "3": {"id": "3", "name": "Nut"},
    }
