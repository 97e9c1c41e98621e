"""Transactions of Django that are slow or fail, in virtual time."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from virtual_time import flaky, time

from change_events import BroadcastStats, PublishError
from django_shop import OrderLine, Product, Tag, postgres_database, shop, sqlite_database

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names
# ruff: noqa: PT012  # a transaction ends at the end of its block

RENEWED_FOR_12_SECONDS = [0, 2.5, 5, 7.5, 10]


def announce(shop, flaky, time, *models, **settings):
    shop.announce(*(models or [Product]), publisher=flaky, renewals=time.renewals, **settings)


@pytest.fixture
def commits(monkeypatch):
    """Return a function: it says what is done before each commit, and then instead of it."""

    def before(job, instead=connection.commit):
        monkeypatch.setattr(connection, "commit", lambda: (job(), instead()))

    return before


def test_a_slow_commit_is_renewed_until_it_is_over(shop, flaky, time, commits):
    announce(shop, flaky, time)
    commits(lambda: time.passes(12))

    Product.objects.create(name="Anvil")
    time.passes(60)

    assert flaky.accepted == RENEWED_FOR_12_SECONDS
    assert shop.channel.ids() == ["1"] * 5
    assert shop.saved(Product) == [1]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=4)


def test_a_slow_transaction_is_broadcast_at_its_end(shop, flaky, time):
    announce(shop, flaky, time)

    with transaction.atomic():
        Product.objects.create(name="Anvil")
        time.passes(12)

    assert flaky.accepted == [12]


def test_a_slow_commit_that_could_not_be_renewed_is_broadcast_after_it(shop, flaky, time, commits):
    announce(shop, flaky, time)
    flaky.fails = (2, 13)

    def last_for_12_seconds():
        time.passes(12)
        flaky.fails = (2, 12)

    commits(last_for_12_seconds)
    Product.objects.create(name="Anvil")

    assert flaky.accepted == [0, 12]
    assert time.renewals.tally.stats() == BroadcastStats(late=1)


@pytest.mark.parametrize("ends", ["with an error", "by set_rollback()"])
def test_a_transaction_that_is_rolled_back_is_neither_broadcast_nor_renewed(
    shop, flaky, time, ends
):
    announce(shop, flaky, time)

    def work():
        with transaction.atomic():
            Product.objects.create(name="Anvil")
            transaction.set_rollback(True)
            if ends == "with an error":
                raise ZeroDivisionError

    if ends == "with an error":
        with pytest.raises(ZeroDivisionError):
            work()
    else:
        work()
    time.passes(60)

    assert flaky.started == []
    assert time.renewals._saves == {}


def test_a_transaction_that_another_publisher_refuses_is_renewed_no_longer(shop, flaky, time):
    class Refuses:
        def publish(self, events, /):
            raise PublishError("no")

    announce(shop, flaky, time)
    shop.announce(Tag, publisher=Refuses())

    with pytest.raises(PublishError), transaction.atomic():
        Product.objects.create(name="Anvil")
        Tag.objects.create(name="heavy")
    time.passes(60)

    assert flaky.accepted == [0]
    assert time.renewals._saves == {}
    assert shop.saved(Product) == []


def test_a_transaction_that_the_database_refuses_at_its_commit_is_renewed_no_longer(
    shop, flaky, time
):
    """Django's foreign keys are deferred, so PostgreSQL and SQLite check them at the commit."""
    announce(shop, flaky, time, OrderLine, confirm=True)

    with pytest.raises(IntegrityError):
        OrderLine.objects.create(order_id=99)
    time.passes(60)

    assert flaky.accepted == [0]
    assert time.renewals._saves == {}
    assert shop.saved(OrderLine) == []


@pytest.mark.parametrize("error", [DatabaseError("lost"), KeyboardInterrupt()])
def test_a_commit_that_does_not_return_is_renewed_like_a_cancelled_save(
    shop, flaky, time, commits, error
):
    """The database can have committed: the answer could have been lost."""

    def fail():
        raise error

    announce(shop, flaky, time, confirm=True)
    commits(connection.commit, fail)

    with pytest.raises(type(error)):
        Product.objects.create(name="Anvil")
    time.passes(60)

    assert flaky.accepted == RENEWED_FOR_12_SECONDS
    assert shop.saved(Product) == [1]


def test_a_broadcast_that_is_interrupted_saves_nothing(shop, flaky, time):
    def interrupt():
        raise KeyboardInterrupt

    announce(shop, flaky, time)
    flaky.meanwhile = interrupt

    with pytest.raises(KeyboardInterrupt):
        Product.objects.create(name="Anvil")
    Product.objects.create(id=7, name="Bolt")

    assert shop.saved(Product) == [7]
