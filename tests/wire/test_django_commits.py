"""When Django's transactions broadcast, what that stops, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
import unittest

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test import Client, TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext

from change_events import (
    ConfigurationError,
    IdResolutionError,
    PublishError,
    SNSPublisher,
    broadcasts_before_save,
)
from change_events._event import DEFAULT_SETTLE
from change_events.integrations.django import announce_ids, unannounced
from change_events.testing import recording
from conftest import wait_until
from django_shop import (
    Comment,
    Employee,
    Manager,
    Order,
    OrderLine,
    Product,
    Tag,
    Witness,
    postgres_database,
    shop,
    sqlite_database,
)

MISSING = "arn:aws:sns:us-east-1:123456789012:missing"

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names
# ruff: noqa: PT012  # a transaction ends at the end of its block


# Transactions


def test_a_transaction_is_broadcast_once_before_its_commit(shop):
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)

    with transaction.atomic():
        anvil = Product.objects.create(name="Anvil")
        with transaction.atomic():
            Product.objects.create(name="Bolt")
        with transaction.atomic(savepoint=False):
            anvil.price = 2
            anvil.save()
        assert witness.seen == []

    assert witness.seen == [(["1", "2"], [])]
    assert shop.saved(Product) == [1, 2]


def test_a_change_outside_of_a_transaction_is_broadcast_before_it_is_committed(shop):
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)

    product = Product.objects.create(name="Anvil")
    Product.objects.bulk_create([Product(name="Bolt")])
    product.delete()

    assert witness.seen == [(["1"], []), (["2"], [1]), (["1"], [1, 2])]


@transaction.atomic
def save(*names):
    for name in names:
        Product.objects.create(name=name)


def test_an_atomic_function_is_broadcast_before_its_commit(shop):
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)

    save("Anvil", "Bolt")
    transaction.atomic(durable=True)(save)("Crate")

    assert witness.seen == [(["1", "2"], []), (["3"], [1, 2])]


def test_ids_of_a_released_savepoint_are_broadcast_whatever_happens_to_later_ones(shop):
    shop.announce(Product)
    shop.announce(OrderLine, id="order")

    with transaction.atomic():
        with transaction.atomic():
            Product.objects.create(id=1, name="Anvil")
            order = Order.objects.create(id=7)
            OrderLine.objects.create(order=order)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Product.objects.create(id=2, name="Bolt")
            OrderLine.objects.update(order=Order.objects.create(id=8))
            raise ZeroDivisionError

    assert {"1", "7"} <= set(shop.channel.ids())
    assert shop.saved(Product) == [1]
    assert list(OrderLine.objects.values_list("order", flat=True)) == [7]


def test_a_transaction_that_is_rolled_back_is_not_broadcast_by_the_next_one(shop):
    shop.announce(Product)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Product.objects.create(name="Anvil")
        raise ZeroDivisionError
    with transaction.atomic():
        Product.objects.create(name="Bolt")
        transaction.set_rollback(True)
    Product.objects.create(id=7, name="Crate")

    assert shop.channel.ids() == ["7"]
    assert shop.saved(Product) == [7]


def test_each_database_has_transactions_of_its_own(shop):
    shop.announce(Product)

    with transaction.atomic():
        Product.objects.create(id=1, name="Anvil")
        with transaction.atomic(using="other"):
            Product.objects.using("other").create(id=2, name="Bolt")
            Product.objects.using("other").filter(price=1).update(price=2)
        assert shop.channel.ids() == ["2"]
    assert shop.channel.ids() == ["1"]


def test_functions_of_on_commit_run_after_the_broadcast_and_can_save(shop):
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)

    with transaction.atomic():
        Product.objects.create(name="Anvil")
        transaction.on_commit(lambda: save("Bolt"))
        transaction.on_commit(lambda: Product.objects.create(name="Crate"))

    assert witness.seen == [(["1"], []), (["2"], [1]), (["3"], [1, 2])]


def test_the_transaction_of_a_request_is_broadcast_before_its_commit(shop):
    Product.objects.create(name="Anvil")
    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)
    client = Client(raise_request_exception=False)
    try:
        assert client.get("/raise").status_code == 200
        assert client.get("/raise?fail=yes").status_code == 500
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False

    assert witness.seen == [(["1"], [1])]
    assert Product.objects.get().price == 2


# Broadcasts that fail


@pytest.mark.parametrize(
    "change",
    [
        lambda: Product.objects.create(name="Bolt"),
        lambda: Product.objects.bulk_create([Product(name="Bolt")]),
        lambda: Product.objects.filter(price=1).update(id=2),
        lambda: Product.objects.all().delete(),
        lambda: Product.objects.get().delete(),
        lambda: save("Bolt"),
        lambda: Product.objects.get().tags.add(Tag.objects.create(id=1, name="heavy")),
    ],
)
def test_without_a_broadcast_nothing_is_committed_now_or_by_the_next_transaction(shop, change):
    Product.objects.create(name="Anvil")
    shop.announce(Product, publisher=SNSPublisher(MISSING))

    with pytest.raises(PublishError):
        change()
    Tag.objects.create(id=7, name="light")

    assert shop.saved(Product) == [1]
    assert shop.saved(Product.tags.through) == []
    assert 7 in shop.saved(Tag)


def test_a_transaction_of_several_publishers_needs_all_of_them(shop):
    shop.announce(Product)
    shop.announce(Tag, publisher=SNSPublisher(MISSING))

    with pytest.raises(PublishError), transaction.atomic():
        Product.objects.create(name="Anvil")
        Tag.objects.create(name="heavy")

    assert shop.saved(Product) == shop.saved(Tag) == []


def test_a_connection_that_is_lost_before_the_commit_broadcasts_nothing(shop):
    shop.announce(Product)

    with transaction.atomic():
        Product.objects.create(name="Anvil")
        connection.close()

    assert shop.channel.ids() == []
    assert shop.saved(Product) == []


# Other transactions


def elsewhere(shop, statement):
    """Execute a statement on a connection of its own, and commit it."""
    with connections["witness"].cursor() as cursor:
        if connections["witness"].vendor == "postgresql":
            cursor.execute("SET lock_timeout = '100ms'")
        cursor.execute(statement)


class Between:
    """Runs something, once, before the first statement that begins with a word."""

    def __init__(self, word, job):
        self.word = word
        self.job = job

    def __call__(self, execute, sql, params, many, context):
        if self.job and sql.startswith(self.word):
            job, self.job = self.job, None
            job()
        return execute(sql, params, many, context)


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
def test_a_row_that_begins_to_match_meanwhile_is_not_changed_unannounced(shop):
    for name, price in [("Anvil", 1), ("Bolt", 2)]:
        Product.objects.create(name=name, price=price)
    shop.announce(Product)
    between = Between(
        "UPDATE", lambda: elsewhere(shop, "UPDATE warehouse_product SET price = 1 WHERE id = 2")
    )

    with connection.execute_wrapper(between):
        assert Product.objects.filter(price=1).update(price=5) == 1

    assert shop.channel.ids() == ["1"]
    assert list(Product.objects.order_by("pk").values_list("price", flat=True)) == [5, 1]


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
def test_a_row_whose_old_entity_was_read_can_not_be_moved_by_others(shop):
    Order.objects.bulk_create([Order(id=7), Order(id=8), Order(id=9)])
    line = OrderLine.objects.create(order_id=7)
    shop.announce(OrderLine, id="order")
    move = "UPDATE warehouse_orderline SET order_id = 9"
    refused = []

    def move_elsewhere():
        try:
            elsewhere(shop, move)
        except OperationalError as error:
            refused.append(error)

    with connection.execute_wrapper(Between("UPDATE", move_elsewhere)):
        line.order_id = 8
        line.save()

    assert len(refused) == 1
    assert sorted(shop.channel.ids()) == ["7", "8"]


def test_an_id_that_is_named_costs_no_query(shop):
    product = Product.objects.create(name="Anvil")
    shop.announce(Product)

    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        product.save()
        Product.objects.filter(pk__in=[1, 2]).update(price=2)
        Product.objects.create(name="Bolt")
        Product.objects.bulk_update([product], ["price"])

    assert [query["sql"].split()[0] for query in queries] == [
        "UPDATE",
        "UPDATE",
        "INSERT",
        "UPDATE",
    ]


def test_an_entity_that_a_statement_names_is_not_read(shop):
    """But the one that a row leaves is, before a statement that sets it."""
    orders = Order.objects.create(id=7), Order.objects.create(id=8)
    line = OrderLine.objects.create(order=orders[0])
    shop.announce(OrderLine, id="order")

    def statements(work):
        with CaptureQueriesContext(connection) as queries, transaction.atomic():
            work()
        words = [query["sql"].split()[0] for query in queries]
        return [each for each in words if each in {"SELECT", "INSERT", "UPDATE", "DELETE"}]

    assert statements(lambda: OrderLine.objects.create(order_id=7)) == ["INSERT"]
    assert shop.channel.ids() == ["7"]
    line.order_id = 8
    assert statements(line.save) == ["SELECT", "UPDATE"]
    assert sorted(shop.channel.ids()) == ["7", "8"]
    rows = OrderLine.objects.filter(pk=line.pk)
    assert statements(lambda: rows.update(order=orders[0])) == ["SELECT", "UPDATE"]
    assert sorted(shop.channel.ids()) == ["7", "8"]
    assert statements(lambda: rows.update(quantity=2)) == ["UPDATE", "SELECT"]
    assert shop.channel.ids() == ["7"]


def test_a_new_entity_of_a_statement_that_changes_no_row_is_not_broadcast(shop):
    Order.objects.create(id=7)
    shop.announce(OrderLine, id="order")

    OrderLine.objects.filter(pk=1).update(order=7)

    assert shop.channel.ids() == []


def test_rows_without_an_entity_are_not_broadcast_until_a_statement_gives_them_one(shop):
    Order.objects.create(id=7)
    comment = Comment(text="fine")
    shop.announce(Comment, id="order")

    comment.save()
    assert shop.channel.ids() == []
    comment.order_id = 7
    comment.save()
    assert shop.channel.ids() == ["7"]


# Transactions by hand


def test_a_transaction_by_hand_is_refused(shop):
    shop.announce(Product)

    transaction.set_autocommit(False)
    try:
        with pytest.raises(ConfigurationError, match="autocommit"):
            Product.objects.create(name="Anvil")
        with pytest.raises(ConfigurationError, match="autocommit"), transaction.atomic():
            Product.objects.create(name="Anvil")
        with pytest.raises(ConfigurationError, match="autocommit"):
            announce_ids(Product, [1])
        transaction.commit()
    finally:
        transaction.set_autocommit(True)

    assert shop.saved(Product) == []


TOO_LATE = """
import django
from django.conf import settings
from django.db import connection, models, transaction

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
)
django.setup()

from change_events import ConfigurationError, NullPublisher
from change_events.integrations.django import announced

class Product(models.Model):
    class Meta:
        app_label = "shop"

with connection.schema_editor() as editor:
    editor.create_model(Product)
try:
    with transaction.atomic():
        announced(NullPublisher())(Product)
        Product.objects.create()
except ConfigurationError as error:
    print(error)
Product.objects.create()
print(Product.objects.count())
"""


def test_a_transaction_that_began_before_the_first_model_was_announced_is_refused():
    run = subprocess.run(
        [sys.executable, "-c", TOO_LATE], check=False, capture_output=True, text=True
    )

    assert run.stderr == ""
    refusal, count = run.stdout.splitlines()
    assert "before the first model" in refusal
    assert count == "1"


def test_nothing_is_changed_in_a_transaction_whose_end_does_not_broadcast(shop):
    shop.announce(Product)

    with pytest.raises(ConfigurationError, match="before the first model"), transaction.atomic():
        del connection._change_events_work  # as if it had begun earlier
        Product.objects.create(name="Anvil")

    assert shop.saved(Product) == []


# Changes that the ORM does not see


def test_ids_can_be_announced_for_changes_that_the_orm_can_not_see(shop):
    Product.objects.create(name="Anvil")
    witness = Witness(shop)
    shop.announce(Product, publisher=witness)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE warehouse_product SET id = 2 RETURNING id")
        announce_ids(Product, [1, *[id for (id,) in cursor]])
    with transaction.atomic(using="other"):
        announce_ids(Product, ["3"], using="other")

    assert [ids for ids, _ in witness.seen] == [["1", "2"], ["3"]]
    assert witness.seen[0][1] == [1]


def test_ids_of_a_child_are_broadcast_by_its_parent_s_publisher(shop):
    shop.announce(Employee)

    with transaction.atomic():
        announce_ids(Manager, [1])

    assert shop.channel.ids() == ["1"]


def test_ids_that_can_not_be_broadcast_are_refused(shop):
    shop.announce(Product)

    with pytest.raises(ConfigurationError, match="atomic"):
        announce_ids(Product, [1])
    with transaction.atomic():
        with pytest.raises(ConfigurationError, match="not announced"):
            announce_ids(Tag, [1])
        with pytest.raises(IdResolutionError):
            announce_ids(Product, [None])
        with pytest.raises(IdResolutionError, match="'78'"):
            announce_ids(Product, "78")

    assert shop.channel.ids() == []


def test_a_block_can_be_unannounced(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    with unannounced():
        Product.objects.update(price=2)
        save("Bolt")
    with transaction.atomic():
        with unannounced():
            Product.objects.bulk_create(
                [Product(name="Anvil", price=3)],
                update_conflicts=True,
                update_fields=["price"],
                unique_fields=["name"],
            )
        announce_ids(Product, [1])
    Product.objects.filter(name="Bolt").delete()

    assert shop.channel.ids() == ["1", "2"]
    assert Product.objects.get().price == 3


# Saves around a transaction


def test_a_decorator_and_the_transaction_broadcast_a_save_once(shop):
    product = Product.objects.create(name="Anvil")
    shop.announce(Product)

    @broadcasts_before_save(shop.publisher, id="product.pk", settle=60.0)
    def save_announced(product):
        product.save()

    save_announced(product)

    assert shop.channel.ids() == ["1"]


def test_a_confirmed_save_is_broadcast_again_after_the_commit(shop):
    shop.announce(Product, confirm=True)

    save("Anvil")
    wait_until(lambda: shop.channel.count() == {"visible": 2})

    assert shop.channel.ids() == ["1", "1"]


# Django's own test cases


def outcome_of(case):
    """Run a test case of Django; raise what it raises."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun
    assert [text for _, text in [*result.failures, *result.errors]] == []


def test_a_test_case_sees_what_would_be_broadcast(shop):
    shop.announce(Product)
    seen = []

    class Tests(TestCase):
        @classmethod
        def setUpTestData(cls):
            with unannounced():
                cls.product = Product.objects.create(name="Anvil")

        def test_changes(self):
            with recording() as broadcasts:
                with self.assertNumQueries(1):
                    self.product.save()
                assert broadcasts.ids == ["1"]
                with transaction.atomic(durable=True):
                    save("Bolt")
                    assert broadcasts.ids == ["1"]
                    OrderLine.objects.create(order=Order.objects.create())
                assert broadcasts.ids == ["1", "2"]
                Product.objects.bulk_create([Product(name="Crate")])
                assert broadcasts.ids == ["1", "2", "3"]
                with pytest.raises(ConfigurationError):
                    announce_ids(Product, [1])
            seen.append("changes")

        def test_failures(self):
            with recording() as broadcasts:
                broadcasts.fail()
                with pytest.raises(PublishError):
                    save("Bolt")
                with pytest.raises(PublishError), transaction.atomic():
                    self.product.delete()
            assert Product.objects.get().name == "Anvil"
            seen.append("failures")

    outcome_of(Tests)

    assert sorted(seen) == ["changes", "failures"]
    assert shop.channel.ids() == []
    assert shop.saved(Product) == []


def test_a_transaction_test_case_broadcasts_and_can_flush(shop):
    shop.announce(Product)

    class Tests(TransactionTestCase):
        available_apps = ("warehouse",)
        databases = "__all__"

        def test_changes(self):
            save("Anvil")
            assert shop.saved(Product) == [1]

    outcome_of(Tests)

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == []
