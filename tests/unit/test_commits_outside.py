"""A decorated function that leaves the commit of its session to its caller is warned about."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import event
from sqlalchemy.orm import scoped_session

from change_events import NullPublisher, broadcasts_before_save
from shop import Product, Shop, sqlite_url

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

decorated = broadcasts_before_save(NullPublisher(), id="product.id")


def make_repository(session):
    """Return an object of a new class, because a function is warned about once."""

    class Repository:
        def __init__(self):
            self.name = "products"
            self.session = session

        @decorated
        def add(self, product):
            self.session.add(product)

        @decorated
        def flush(self, product):
            with self.session.begin_nested():
                self.session.add(product)

        @decorated
        def commit(self, product):
            self.session.add(product)
            self.session.commit()

        @decorated
        def commit_and_read(self, product):
            self.session.add(product)
            self.session.commit()
            self.session.refresh(product)

        @decorated
        def read(self, product):
            self.session.get(Product, product.id)

        @decorated
        def fail(self, product):
            self.session.add(product)
            self.session.flush()
            raise ValueError

    return Repository()


@pytest.fixture
def warned(caplog):
    """Return the functions that were warned about."""
    return lambda: [
        record.function.rpartition(".")[2]
        for record in caplog.records
        if getattr(record, "action", "") == "commit"
    ]


@pytest.fixture
def shop(sqlite_url, channel):
    return Shop(sqlite_url, channel, asynchronous=False)


def products():
    return [Product(id=number, name=f"number {number}") for number in range(1, 4)]


@pytest.mark.parametrize("name", ["add", "flush"])
def test_a_function_that_returns_before_the_commit_is_warned_about_once(shop, warned, caplog, name):
    def work(session):
        repository = make_repository(session)
        for product in products():
            getattr(repository, name)(product)
            session.commit()

    shop.run(work)

    assert warned() == [name]
    assert "the commit must be inside" in caplog.text
    assert shop.saved(Product) == [1, 2, 3]


@pytest.mark.parametrize("name", ["commit", "commit_and_read", "read"])
def test_a_function_that_commits_or_only_reads_is_not_warned_about(shop, warned, name):
    def work(session):
        repository = make_repository(session)
        for product in products():
            getattr(repository, name)(product)

    shop.run(work)

    assert warned() == []


def test_a_function_that_raises_is_not_warned_about(shop, warned):
    def work(session):
        with pytest.raises(ValueError):
            make_repository(session).fail(products()[0])

    shop.run(work)

    assert warned() == []


def test_what_the_caller_had_added_before_is_not_the_function_s(shop, warned):
    def work(session):
        first, second, _ = products()
        session.autoflush = False
        session.add(first)
        make_repository(session).read(second)

    shop.run(work)

    assert warned() == []


def test_the_first_call_that_changes_something_decides(shop, warned):
    def work(session):
        @decorated
        def save(session, product, commit):
            session.add(product)
            if commit:
                session.commit()

        first, second, _ = products()
        save(session, first, commit=True)
        save(session, second, commit=False)

    shop.run(work)

    assert warned() == []


def test_a_scoped_session_is_found(shop, warned):
    sessions = scoped_session(shop.factory)
    sessions(bind=shop.engine)

    make_repository(sessions).add(products()[0])
    sessions.remove()

    assert warned() == ["add"]


def test_an_asynchronous_session_is_found(sqlite_url, channel, warned):
    shop = Shop(sqlite_url, channel, asynchronous=True)

    @decorated
    async def flush(session, product):
        session.add(product)
        await session.flush()

    asyncio.run(shop.run_async(lambda session: flush(session, products()[0])))

    assert warned() == ["flush"]


def test_a_function_that_calls_itself_is_warned_about_once(shop, warned):
    def work(session):
        @decorated
        def save(session, product, *others):
            if others:
                save(session, *others)
            session.add(product)
            session.flush()

        save(session, *products())

    shop.run(work)

    assert warned() == ["save"]


@pytest.mark.parametrize("name", ["after_flush", "after_commit"])
def test_a_listener_of_a_session_can_call_a_decorated_function(shop, warned, name):
    def work(session):
        @decorated
        def note(session, product):
            called.append(product.id)

        called = []
        first, second, _ = products()
        event.listen(session, name, lambda *_: note(session, second))
        session.add(first)
        session.commit()
        return called

    assert shop.run(work) == [2]
    assert warned() == []


class Proxy:
    def __getattribute__(self, name):
        raise RuntimeError("used outside of its context")


@pytest.mark.parametrize("make_other", [int, object, Proxy], ids=["value", "object", "proxy"])
def test_a_function_without_a_session_is_left_alone(warned, make_other):
    @decorated
    def save(product, other):
        return product.id

    assert save(products()[0], make_other()) == 1
    assert warned() == []


def test_a_session_that_can_not_be_asked_stops_no_save(warned):
    def out_of_context():
        raise RuntimeError("used outside of its context")

    @decorated
    def save(session, product):
        return product.id

    assert save(scoped_session(out_of_context), products()[0]) == 1
    assert warned() == []


def test_a_service_without_sqlalchemy_does_not_import_it():
    program = """
import sys
from change_events import NullPublisher, broadcasts_before_save
@broadcasts_before_save(NullPublisher())
def save(id):
    return "sqlalchemy" in sys.modules
print(save("p1"))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    assert done.stdout == b"False\n"
