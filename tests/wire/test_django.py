"""What Django's ORM changes, and whose ids are broadcast for it, on real databases."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from uuid import UUID, uuid4

import django
import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.apps.registry import Apps
from django.core.management import call_command
from django.db import models, transaction
from django.db.migrations.state import ProjectState
from django.db.models import Count, F, Value
from django.db.models.sql import UpdateQuery
from django.db.models.sql.constants import NO_RESULTS

from change_events import ConfigurationError, IdResolutionError, NullPublisher
from change_events.integrations.django import announced
from django_shop import (
    Base,
    Comment,
    Employee,
    Manager,
    Order,
    OrderLine,
    Parcel,
    Product,
    Sale,
    SameRelation,
    SameTable,
    Tag,
    Warehouse,
    forget_connections,
    make_tables,
    postgres_database,
    shop,
    sqlite_database,
)

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names
# ruff: noqa: DJ008  # nobody reads these models


# Rows


def test_an_id_that_the_database_makes_is_broadcast(shop):
    shop.announce(Product)

    Product.objects.create(name="Anvil")

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == [1]


def test_a_changed_row_is_broadcast_and_a_row_that_was_only_read_is_not(shop):
    anvil, _ = Product.objects.create(name="Anvil"), Product.objects.create(name="Bolt")
    shop.announce(Product)

    anvil.name = f"not a {Product.objects.select_for_update(nowait=False).none().count()}"
    anvil.save()
    list(Product.objects.all())
    Tag.objects.create(name="heavy")

    assert shop.channel.ids() == ["1"]


def test_a_deleted_row_is_broadcast(shop):
    product = Product.objects.create(name="Anvil")
    shop.announce(Product)

    product.delete()

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == []


def test_a_row_with_an_id_of_its_own_is_broadcast_once(shop):
    """`save()` tries an UPDATE first, which changes no row."""
    shop.announce(Product)

    Product(id=7, name="Anvil").save()

    assert shop.channel.ids() == ["7"]


def test_an_id_is_broadcast_in_its_field_s_own_form(shop):
    shop.announce(Parcel)
    id = uuid4()

    Parcel(id=id.hex).save()
    Parcel.objects.filter(id=id.hex.upper()).update(weight=2)
    Parcel.objects.filter(weight=2).update(weight=3)
    Parcel.objects.get().delete()

    assert shop.channel.ids() == [str(id)] * 4


def test_fixtures_are_broadcast(shop, tmp_path):
    fixture = tmp_path / "products.json"
    fields = {"name": "Anvil", "price": 1, "tags": []}
    fixture.write_text(json.dumps([{"model": "warehouse.product", "pk": 7, "fields": fields}]))
    shop.announce(Product)

    call_command("loaddata", str(fixture), verbosity=0)
    assert shop.channel.ids() == ["7"]

    call_command("loaddata", str(fixture), verbosity=0)
    assert shop.channel.ids() == ["7"]
    assert shop.saved(Product) == [7]


def test_a_compiler_s_method_that_calls_another_one_is_broadcast_once(shop):
    """Since Django 6 `execute_returning_sql()` can call `execute_sql()`."""
    Product.objects.create(name="Anvil")
    shop.announce(Product)
    query = UpdateQuery(Product)
    query.add_update_values({"price": 2})
    compiler = query.get_compiler("default")
    announced_execution = compiler.execute_sql.func

    announced_execution(compiler.execute_sql, NO_RESULTS)

    assert shop.channel.ids() == ["1"]
    assert Product.objects.get().price == 2


def test_get_or_create_and_update_or_create_broadcast_what_they_change(shop):
    shop.announce(Product)

    Product.objects.get_or_create(name="Anvil")
    assert shop.channel.ids() == ["1"]
    Product.objects.get_or_create(name="Anvil")
    assert shop.channel.ids() == []
    Product.objects.update_or_create(name="Anvil", defaults={"price": 2})
    assert shop.channel.ids() == ["1"]
    Product.objects.update_or_create(name="Bolt", defaults={"price": 2})
    assert shop.channel.ids() == ["2"]


def test_asynchronous_calls_are_broadcast(shop):
    shop.announce(Product)

    async def work():
        anvil = await Product.objects.acreate(name="Anvil")
        anvil.price = 2
        await anvil.asave()
        await Product.objects.filter(name="Anvil").aupdate(price=3)
        await Product.objects.abulk_create([Product(name="Bolt")])
        await anvil.adelete()
        await Product.objects.filter(name="Bolt").adelete()
        await sync_to_async(forget_connections)()

    asyncio.run(work())

    assert shop.channel.ids() == ["1", "1", "1", "2", "1", "2"]
    assert shop.saved(Product) == []


# Many rows


def test_the_rows_of_an_update_are_broadcast(shop):
    for price in (1, 1, 5):
        Product.objects.create(name=uuid4().hex, price=price)
    shop.announce(Product)

    assert Product.objects.filter(price=1).order_by("name").update(price=F("price") + 1) == 2

    assert sorted(shop.channel.ids()) == ["1", "2"]
    assert sorted(Product.objects.values_list("price", flat=True)) == [2, 2, 5]


def test_an_update_of_no_row_is_not_broadcast(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    assert Product.objects.filter(price=9).update(price=2) == 0
    assert Product.objects.filter(pk=1, price=9).update(price=2) == 0
    assert Product.objects.exclude(pk=1).delete() == (0, {})

    assert shop.channel.ids() == []


@pytest.mark.parametrize(
    "narrow",
    [
        lambda rows: rows.filter(orderline__order__note="a"),
        lambda rows: rows.annotate(n=Count("orderline")).filter(n=2),
        lambda rows: rows.exclude(orderline=None),
        lambda rows: rows.filter(pk__in=Product.objects.filter(name="Anvil")),
        lambda rows: rows.filter(pk=Value(1)),
        lambda rows: rows.filter(pk__gte=1, orderline__isnull=False).distinct(),
        lambda rows: rows.exclude(pk=2),
        lambda rows: rows.filter(pk=1) | rows.filter(name="Anvil"),
        lambda rows: rows.only("name").select_related(None).select_for_update(),
    ],
)
def test_the_rows_of_any_query_are_broadcast(shop, narrow):
    anvil = Product.objects.create(name="Anvil")
    order = Order.objects.create(note="a")
    for _ in range(2):
        OrderLine.objects.create(order=order, product=anvil)
    Product.objects.create(name="Bolt", price=2)
    rows = narrow(Product.objects.filter(price=1))
    shop.announce(Product)

    assert rows.update(price=1) == 1
    assert shop.channel.ids() == ["1"]
    if not rows.query.distinct and not rows.query.group_by:
        rows.delete()
        assert shop.channel.ids() == ["1"]
        assert shop.saved(Product) == [2]


def test_rows_deleted_together_are_broadcast(shop):
    Product.objects.bulk_create([Product(name="Anvil"), Product(name="Bolt")])
    Comment.objects.bulk_create([Comment(), Comment()])
    shop.announce(Product, Comment)

    Product.objects.all().delete()
    assert sorted(shop.channel.ids()) == ["1", "2"]

    Comment.objects.all().delete()  # which Django does by one statement
    assert sorted(shop.channel.ids()) == ["1", "2"]

    Tag.objects.all()._raw_delete("default")
    Comment.objects.create()
    Comment.objects.all()._raw_delete("default")
    assert shop.channel.ids() == ["3", "3"]


def test_bulk_calls_are_broadcast_once(shop):
    shop.announce(Product)

    made = Product.objects.bulk_create([Product(name="Anvil"), Product(id=70, name="Bolt")])
    ids = sorted(str(product.pk) for product in made)
    assert sorted(shop.channel.ids()) == ids

    for product in made:
        product.price = 2
    assert Product.objects.bulk_update(made, ["price"], batch_size=1) == 2
    assert sorted(shop.channel.ids()) == ids
    assert Product.objects.bulk_update([], ["price"]) == 0


def test_a_bulk_create_that_ignores_conflicts_needs_ids(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    with pytest.raises(IdResolutionError, match="ignore_conflicts"):
        Product.objects.bulk_create([Product(name="Bolt")], ignore_conflicts=True)
    Product.objects.bulk_create(
        [Product(id=1, name="Anvil"), Product(id=7, name="Crate")], ignore_conflicts=True
    )

    assert sorted(shop.channel.ids()) == ["1", "7"]
    assert shop.saved(Product) == [1, 7]


def test_a_bulk_create_that_updates_conflicts_must_find_them_by_the_id(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    with pytest.raises(IdResolutionError, match="update_conflicts"):
        Product.objects.bulk_create(
            [Product(id=9, name="Anvil", price=2)],
            update_conflicts=True,
            update_fields=["price"],
            unique_fields=["name"],
        )
    Product.objects.bulk_create(
        [Product(id=1, name="Bolt", price=3)],
        update_conflicts=True,
        update_fields=["price"],
        unique_fields=["pk"],
    )

    assert shop.channel.ids() == ["1"]
    assert list(Product.objects.values_list("id", "name", "price")) == [(1, "Anvil", 3)]


def test_an_update_of_the_id_is_broadcast_with_both(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    Product.objects.filter(pk=1).update(id=7)
    assert sorted(shop.channel.ids()) == ["1", "7"]

    with pytest.raises(IdResolutionError, match="primary keys"):
        Product.objects.update(id=F("id") + 1)
    assert shop.saved(Product) == [7]


# What Django does beside


@pytest.mark.parametrize("what", ["a line", "the order", "all orders"])
def test_rows_that_go_with_others_are_broadcast(shop, what):
    order = Order.objects.create()
    line = OrderLine.objects.create(order=order)
    Comment.objects.create(id=5, order=order)
    shop.announce(OrderLine, Comment)

    {"a line": line, "the order": order, "all orders": Order.objects.all()}[what].delete()

    assert sorted(shop.channel.ids()) == (["1"] if what == "a line" else ["1", "5"])
    assert shop.saved(OrderLine) == []


def test_a_row_whose_foreign_key_is_set_to_null_is_broadcast(shop):
    order, other = Order.objects.create(), Order.objects.create()
    Comment.objects.create(order=order)
    Comment.objects.create(order=other)
    shop.announce(Comment)

    order.delete()

    assert shop.channel.ids() == ["1"]


def test_a_row_whose_many_to_many_relation_changes_is_broadcast(shop):
    anvil, bolt = Product.objects.create(name="Anvil"), Product.objects.create(name="Bolt")
    heavy, light = Tag.objects.create(name="heavy"), Tag.objects.create(name="light")
    shop.announce(Product)

    anvil.tags.add(heavy, light)
    assert shop.channel.ids() == ["1"]
    heavy.products.add(bolt)
    assert shop.channel.ids() == ["2"]
    bolt.tags.set([light])
    assert shop.channel.ids() == ["2"]
    anvil.tags.remove(heavy)
    assert shop.channel.ids() == ["1"]
    anvil.tags.remove(heavy)  # is not there
    assert shop.channel.ids() == []
    light.delete()
    assert sorted(shop.channel.ids()) == ["1", "2"]
    anvil.tags.clear()
    assert shop.channel.ids() == []


def test_a_relation_counts_while_its_signals_are_listened_to(shop):
    product, tag = Product.objects.create(name="Anvil"), Tag.objects.create(name="heavy")
    shop.announce(Product)

    def listen(**_):
        pass

    models.signals.m2m_changed.connect(listen, sender=Product.tags.through)
    try:
        product.tags.add(tag)
    finally:
        models.signals.m2m_changed.disconnect(listen, sender=Product.tags.through)

    assert shop.channel.ids() == ["1"]


@pytest.mark.parametrize("id", ["order", lambda line: line.order_id])
def test_a_relation_counts_for_the_entity_of_its_row(shop, id):
    order, tag = Order.objects.create(id=7), Tag.objects.create(name="heavy")
    line = OrderLine.objects.create(order=order)
    shop.announce(OrderLine, id=id)

    line.tags.add(tag)
    assert shop.channel.ids() == ["7"]
    line.tags.clear()
    assert shop.channel.ids() == ["7"]


def test_the_model_of_a_relation_can_be_announced_for_its_other_side(shop):
    product, tag = Product.objects.create(name="Anvil"), Tag.objects.create(id=7, name="heavy")
    shop.announce(Product.tags.through, id="tag")

    product.tags.add(tag)

    assert shop.channel.ids() == ["7"]


def test_the_admin_s_delete_selected_is_broadcast(shop, client):
    Product.objects.bulk_create([Product(name="Anvil"), Product(name="Bolt"), Product(name="C")])
    shop.announce(Product)

    answer = client.post(
        "/admin/django_shop/product/".replace("django_shop", "warehouse"),
        {"action": "delete_selected", "_selected_action": ["1", "3"], "post": "yes"},
    )

    assert answer.status_code == 302
    assert sorted(shop.channel.ids()) == ["1", "3"]
    assert shop.saved(Product) == [2]


def test_the_admin_s_form_is_broadcast(shop, client):
    Tag.objects.create(name="heavy")
    shop.announce(Product)

    client.post("/admin/warehouse/product/add/", {"name": "Anvil", "price": "5", "tags": ["1"]})

    assert shop.channel.ids() == ["1"]
    assert list(Product.objects.get().tags.values_list("pk", flat=True)) == [1]


@pytest.fixture
def client(shop):
    from django.contrib.auth.models import User
    from django.contrib.contenttypes.models import ContentType
    from django.test import Client

    made = [
        model
        for name in ("contenttypes", "auth", "admin", "sessions")
        for model in apps.get_app_config(name).get_models()
    ]
    make_tables("default", made)
    ContentType.objects.clear_cache()  # of another test's database
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


# Inheritance


def test_a_row_of_a_child_counts_for_its_parent(shop):
    shop.announce(Employee)

    manager = Manager.objects.create(name="Ann")
    assert shop.channel.ids() == ["1"]
    manager.budget = 5
    manager.save(update_fields=["budget"])
    assert shop.channel.ids() == ["1"]
    Manager.objects.update(budget=6)
    assert shop.channel.ids() == ["1"]
    Manager.objects.update(name="Bob")
    assert shop.channel.ids() == ["1"]
    manager.delete()
    assert shop.channel.ids() == ["1"]
    assert shop.saved(Employee) == []


def test_a_row_of_a_parent_counts_for_its_child(shop):
    shop.announce(Manager)
    tag = Tag.objects.create(name="heavy")

    Employee.objects.create(name="Ann")
    assert shop.channel.ids() == []
    Manager.objects.create(name="Bob")
    assert shop.channel.ids() == ["2"]
    for employee in Employee.objects.all():
        employee.name += "!"
        employee.save()
    assert shop.channel.ids() == ["2"]
    Manager.objects.update(name="C")
    assert shop.channel.ids() == ["2"]
    for employee in Employee.objects.all():
        employee.tags.add(tag)
    assert shop.channel.ids() == ["2"]
    Employee.objects.all().delete()
    assert shop.channel.ids() == ["2"]


def test_a_fixture_of_a_child_counts_for_its_parent(shop, tmp_path):
    fixture = tmp_path / "managers.json"
    rows = [
        {"model": "warehouse.employee", "pk": 7, "fields": {"name": "Ann"}},
        {"model": "warehouse.manager", "pk": 7, "fields": {"budget": 5}},
    ]
    fixture.write_text(json.dumps(rows))
    shop.announce(Employee)

    call_command("loaddata", str(fixture), verbosity=0)

    assert shop.channel.ids() == ["7"]


def test_a_proxy_and_its_model_are_the_same(shop):
    shop.announce(Sale)

    Product.objects.create(name="Anvil")
    Sale.objects.create(name="Bolt")

    assert shop.channel.ids() == ["1", "2"]


# Which entity a row belongs to

SOURCES = ["order", "order_id", lambda line: line.order_id, lambda line: [line.order.pk]]


@pytest.mark.parametrize("id", SOURCES)
def test_a_row_can_belong_to_another_entity(shop, id):
    orders = Order.objects.bulk_create([Order(id=7), Order(id=8)])
    shop.announce(OrderLine, id=id)

    line = OrderLine.objects.create(order=orders[0])
    assert shop.channel.ids() == ["7"]
    OrderLine.objects.bulk_create([OrderLine(order=order) for order in orders])
    assert sorted(shop.channel.ids()) == ["7", "8"]
    line.quantity = 2
    line.save(update_fields=["quantity"])
    assert shop.channel.ids() == ["7"]
    OrderLine.objects.filter(order=orders[1]).update(quantity=F("quantity") + 1)
    assert shop.channel.ids() == ["8"]
    line.delete()
    assert shop.channel.ids() == ["7"]
    OrderLine.objects.all().delete()
    assert sorted(shop.channel.ids()) == ["7", "8"]


@pytest.mark.parametrize("id", SOURCES)
def test_a_row_that_moves_is_broadcast_for_both_entities(shop, id):
    Order.objects.bulk_create([Order(id=7), Order(id=8), Order(id=9)])
    line = OrderLine.objects.create(order_id=7)
    shop.announce(OrderLine, id=id)

    line.order_id = 8
    line.save()
    assert sorted(shop.channel.ids()) == ["7", "8"]
    OrderLine.objects.update(order_id=F("order_id") + 1)
    assert sorted(shop.channel.ids()) == ["8", "9"]
    OrderLine.objects.filter(quantity=1).update(order=7)
    assert sorted(shop.channel.ids()) == ["7", "9"]


@pytest.mark.parametrize("id", SOURCES)
def test_a_bulk_create_that_ignores_conflicts_reads_the_entities_from_memory(shop, id):
    order = Order.objects.create(id=7)
    shop.announce(OrderLine, id=id)

    OrderLine.objects.bulk_create([OrderLine(order=order)], ignore_conflicts=True)

    assert shop.channel.ids() == ["7"]


def test_an_entity_that_the_database_computes_must_be_read_again(shop):
    Order.objects.create(id=7)
    shop.announce(OrderLine, id="order")

    OrderLine.objects.create(order_id=Value(7))
    assert shop.channel.ids() == ["7"]

    with pytest.raises(IdResolutionError, match="database"):
        OrderLine.objects.bulk_create([OrderLine(order_id=Value(7))], ignore_conflicts=True)
    assert shop.saved(OrderLine) == [1]


def test_a_row_can_belong_to_several_entities_or_none(shop):
    anvil, bolt = Product.objects.create(name="Anvil"), Product.objects.create(name="Bolt")
    tags = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    tags[0].products.set([anvil, bolt])
    shop.announce(Tag, id=lambda tag: [product.pk for product in tag.products.all()])
    shop.announce(Comment, id="order")

    for tag in tags:
        tag.name += "!"
        tag.save()
    Comment.objects.create()

    assert sorted(shop.channel.ids()) == ["1", "2"]


def test_models_with_the_same_settings_share_a_broadcast(shop):
    calls = []
    publisher = SimpleNamespace(publish=calls.append)
    shop.announce(Order, publisher=publisher)
    shop.announce(OrderLine, publisher=publisher, id="order")

    with transaction.atomic():
        order = Order.objects.create()
        OrderLine.objects.create(order=order)

    assert [[event.id for event in events] for events in calls] == [["1"]]


# What is refused


@pytest.mark.parametrize(
    "id", [lambda product: object(), lambda product: product.sku, lambda product: ""]
)
def test_a_row_without_a_usable_id_is_refused(shop, id):
    shop.announce(Product, id=id)

    with pytest.raises(IdResolutionError, match="id of a Product"):
        Product.objects.create(name="Anvil")

    assert shop.saved(Product) == []


def test_the_error_of_a_function_reaches_the_caller(shop):
    def id_of(product):
        raise IdResolutionError("mine")

    shop.announce(Product, id=id_of)

    with pytest.raises(IdResolutionError, match="mine"):
        Product.objects.create(name="Anvil")


def test_another_model_with_the_same_table_is_refused(shop):
    Product.objects.create(name="Anvil")
    shop.announce(Product)

    with pytest.raises(IdResolutionError, match="SameTable"):
        SameTable.objects.update(name="Bolt")

    assert Product.objects.get().name == "Anvil"


def test_another_model_with_the_table_of_a_relation_is_refused(shop):
    product, tag = Product.objects.create(name="Anvil"), Tag.objects.create(name="heavy")
    shop.announce(Product)

    with pytest.raises(IdResolutionError, match="SameRelation"):
        SameRelation.objects.create(product=product, tag=tag)

    assert shop.saved(Product.tags.through) == []


def test_a_migration_is_warned_about(shop, caplog):
    Product.objects.create(name="Anvil")
    shop.announce(Product)
    historical = ProjectState.from_apps(apps).apps.get_model("warehouse", "Product")

    with caplog.at_level(logging.WARNING, logger="change_events"):
        for _ in range(2):
            historical.objects.update(price=2)

    assert [(record.action, record.table) for record in caplog.records] == [
        ("migrate", "warehouse_product")
    ]
    assert Product.objects.get().price == 2
    assert shop.channel.ids() == []


def test_a_migration_of_a_relation_or_of_a_parent_is_warned_about(shop, caplog):
    Tag.objects.create(name="heavy")
    Manager.objects.create(name="Ann")
    shop.announce(Manager)
    historical = ProjectState.from_apps(apps).apps.get_model("warehouse", "Employee")

    with caplog.at_level(logging.WARNING, logger="change_events"):
        historical.objects.update(name="Bob")
        historical.objects.get().tags.add(1)

    assert [(record.action, record.table) for record in caplog.records] == [
        ("migrate", "warehouse_employee"),
        ("migrate", "warehouse_employee_tags"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"publisher": None},
        {"model": int},
        {"model": Product()},
        {"model": "Product"},
        {"model": Base},
        {"id": "sku"},
        {"id": "tags"},
        {"id": 1},
        {"settle": 0},
    ],
)
def test_arguments_that_are_wrong_are_refused(arguments):
    given = {"publisher": NullPublisher(), "model": Product} | arguments
    model, publisher = given.pop("model"), given.pop("publisher")

    with pytest.raises(ConfigurationError):
        announced(publisher, **given)(model)


def test_a_foreign_key_that_the_database_follows_is_refused(shop):
    """`DB_CASCADE` is new in Django 6.1. A stand-in is enough: an `on_delete` that has SQL."""

    def cascade(*_):
        pass

    cascade.on_delete_sql = lambda editor: "ON DELETE CASCADE"
    on_delete = getattr(models, "DB_CASCADE", cascade)

    class Review(models.Model):
        product = models.ForeignKey(Product, on_delete, related_name="+")

        class Meta(Warehouse):
            apps = Apps()

    with pytest.raises(ConfigurationError, match=r"Review\.product"):
        announced(NullPublisher())(Review)


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_an_id_of_text_is_broadcast_as_the_database_has_it(shop):
    class Voucher(models.Model):
        code = models.CharField(max_length=50, primary_key=True, db_collation="nocase")
        value = models.IntegerField(default=1)

        class Meta(Warehouse):
            apps = Apps()

    make_tables("default", [Voucher])
    shop.announce(Voucher)

    Voucher.objects.create(code="abc")
    Voucher(code="ABC", value=2).save()

    assert shop.channel.ids() == ["abc", "abc"]
    assert list(Voucher.objects.values_list("code", "value")) == [("abc", 2)]


@pytest.mark.skipif(django.VERSION < (5, 0), reason="has no defaults of the database")
def test_an_id_that_is_a_default_of_the_database_is_broadcast(shop):
    class Pallet(models.Model):
        id = models.IntegerField(primary_key=True, db_default=7)

        class Meta(Warehouse):
            apps = Apps()

    make_tables("default", [Pallet])
    shop.announce(Pallet)

    Pallet.objects.create()
    assert shop.channel.ids() == ["7"]
    Pallet.objects.all().delete()
    assert shop.channel.ids() == ["7"]


@pytest.mark.skipif(django.VERSION < (5, 2), reason="has no composite primary keys")
def test_a_composite_primary_key_needs_an_id(shop):
    class Stock(models.Model):
        pk = models.CompositePrimaryKey("product_id", "place")
        product_id = models.IntegerField()
        place = models.CharField(max_length=50)
        amount = models.IntegerField(default=0)

        class Meta(Warehouse):
            apps = Apps()

    make_tables("default", [Stock])
    with pytest.raises(ConfigurationError, match="no column"):
        announced(NullPublisher())(Stock)
    shop.announce(Stock, id="product_id")

    stock = Stock.objects.create(product_id=7, place="Bonn")
    assert shop.channel.ids() == ["7"]
    stock.amount = 5
    stock.save()
    assert shop.channel.ids() == ["7"]
    Stock.objects.update(amount=6)
    assert shop.channel.ids() == ["7"]
    stock.delete()
    assert shop.channel.ids() == ["7"]
