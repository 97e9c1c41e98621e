"""
A shop's models on a real database, and the settings of the only Django that a process can have.

The database is chosen by each test.
"""

from __future__ import annotations

# ruff: noqa: DJ008  # nobody reads these models
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import psycopg.conninfo
import pytest
from django.apps import AppConfig, apps
from django.conf import settings
from django.db import connections, models
from django.http import HttpResponse
from django.urls import path

from change_events import SNSPublisher
from change_events.integrations._model_changes import announced_models
from change_events.integrations.django import announced
from conftest import make_schema


class App(AppConfig):
    path = str(Path(__file__).parent)
    default_auto_field = "django.db.models.AutoField"


IN_MEMORY = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": dict(IN_MEMORY), "other": dict(IN_MEMORY), "witness": dict(IN_MEMORY)},
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        App("warehouse", ModuleType("warehouse")),  # the models below
        App("shop", ModuleType("shop")),  # those of the documentation
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of tests",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()


class Warehouse:
    """The options that all models share."""

    app_label = "warehouse"


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)

    class Meta(Warehouse): ...


class Product(models.Model):
    name = models.CharField(max_length=50, unique=True)
    price = models.IntegerField(default=1)
    tags = models.ManyToManyField(Tag, related_name="products")

    class Meta(Warehouse):
        ordering = ("-name",)

    def __str__(self):
        return self.name


class Sale(Product):
    class Meta(Warehouse):
        proxy = True


class SameTable(models.Model):
    name = models.CharField(max_length=50)

    class Meta(Warehouse):
        db_table = "warehouse_product"
        managed = False


class SameRelation(models.Model):
    product = models.ForeignKey(Product, models.DO_NOTHING, related_name="+")
    tag = models.ForeignKey(Tag, models.DO_NOTHING, related_name="+")

    class Meta(Warehouse):
        db_table = "warehouse_product_tags"
        managed = False


class Order(models.Model):
    note = models.CharField(max_length=50, default="")

    class Meta(Warehouse): ...


class OrderLine(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.CASCADE, null=True)
    quantity = models.IntegerField(default=1)
    tags = models.ManyToManyField(Tag)

    class Meta(Warehouse): ...


class Comment(models.Model):
    order = models.ForeignKey(Order, models.SET_NULL, null=True)
    text = models.CharField(max_length=50, default="")

    class Meta(Warehouse): ...


class Parcel(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    weight = models.IntegerField(default=1)

    class Meta(Warehouse): ...


class Employee(models.Model):
    name = models.CharField(max_length=50, default="")
    tags = models.ManyToManyField(Tag)

    class Meta(Warehouse): ...


class Manager(Employee):
    budget = models.IntegerField(default=0)

    class Meta(Warehouse): ...


class Base(models.Model):
    class Meta(Warehouse):
        abstract = True


def raise_prices(request):
    for product in Product.objects.all():
        product.price += 1
        product.save()
    if "fail" in request.GET:
        raise ValueError(request.GET["fail"])
    return HttpResponse("raised")


def urls():
    from django.contrib import admin  # not above: it needs the apps

    if not admin.site.is_registered(Product):
        admin.site.register(Product)
    return [path("raise", raise_prices), path("admin/", admin.site.urls)]


urlpatterns = urls()


def forget_connections() -> None:
    """Close this thread's connections; it makes new ones, perhaps to other databases."""
    for alias in connections:
        connections[alias].close()
        del connections[alias]


def use_database(alias: str, **values: Any) -> None:
    """Let an alias name another database from now on."""
    forget_connections()
    connections.settings[alias].update({"USER": "", "HOST": "", "PORT": "", "OPTIONS": {}} | values)


def make_tables(alias: str, made: Any) -> None:
    with connections[alias].schema_editor() as editor:
        for model in made:
            editor.create_model(model)


class Shop:
    """
    A database with a shop's tables, whose models can be announced.

    Attributes:
        database: The settings of the database.
        channel: Where `publisher` broadcasts to.
        publisher: The publisher of models that are announced without another one.
    """

    def __init__(self, database: dict[str, Any], channel: Any) -> None:
        self.database = database
        self.channel = channel
        self.publisher = SNSPublisher(channel.topic_arn)

    def announce(self, *made: Any, publisher: Any = None, **values: Any) -> None:
        if "renewals" not in values:  # a slow machine would need some
            values = {"settle": 60.0} | values
        for model in made:
            announced(publisher or self.publisher, **values)(model)

    def saved(self, model: Any) -> list[Any]:
        """Return the primary keys of the rows that are committed."""
        return list(model.objects.using("witness").order_by("pk").values_list("pk", flat=True))


class Witness:
    """Broadcasts, and notes which ids came when which rows were committed."""

    def __init__(self, shop: Shop, model: Any = Product) -> None:
        self.seen: list[Any] = []
        self._shop = shop
        self._model = model

    def publish(self, events: Any, /) -> None:
        self.seen.append(([event.id for event in events], self._shop.saved(self._model)))
        self._shop.publisher.publish(events)


@pytest.fixture
def sqlite_database(tmp_path):
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "shop.db")}


@pytest.fixture
def postgres_database(postgres):
    parts = psycopg.conninfo.conninfo_to_dict(make_schema(postgres))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "HOST": parts["host"],
        "OPTIONS": {"options": parts["options"]},
    }


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, channel, tmp_path):
    database = request.getfixturevalue(f"{request.param}_database")
    for alias in ("default", "witness"):
        use_database(alias, **database)
    use_database("other", **IN_MEMORY | {"NAME": str(tmp_path / "other.db")})
    made = [
        model
        for model in apps.get_app_config("warehouse").get_models()
        if model._meta.managed and not model._meta.proxy
    ]
    for alias in ("default", "other"):
        make_tables(alias, made)
    yield Shop(database, channel)
    announced_models.clear()
    for alias in connections:
        use_database(alias, **IN_MEMORY)
