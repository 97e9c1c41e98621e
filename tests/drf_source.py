"""
A service in Django REST framework, as a program: as its tutorial makes one, or mended for caches.

It keeps its entities in SQLite, prints its URL, and ends with its input.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType

import django
from django.apps import AppConfig
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, models

from source_apps import serving_wsgi

MENDED = sys.argv[1:] == ["mended"]


class App(AppConfig):
    path = str(Path(__file__).parent)


def make_urls():
    """Define what needs Django to be set up; return the URLs."""
    from rest_framework import pagination, routers, serializers, viewsets

    class Product(models.Model):  # noqa: DJ008  # nobody reads it
        id = models.CharField(primary_key=True, max_length=100)
        number = models.CharField(max_length=20)

        class Meta:
            app_label = "drf"

    class Products(serializers.ModelSerializer):
        class Meta:
            model = Product
            fields = ("id", "number")

    class ByNumber(pagination.PageNumberPagination):
        page_size = 2

    class ByCursor(pagination.CursorPagination):
        page_size = 2
        ordering = "id"

    class ProductViews(viewsets.ModelViewSet):
        queryset = Product.objects.order_by("id")
        serializer_class = Products
        pagination_class = ByCursor if MENDED else ByNumber

    if MENDED:
        ProductViews.lookup_value_regex = ".+"

    with connection.schema_editor() as editor:
        editor.create_model(Product)
    router = routers.DefaultRouter()
    router.register("products", ProductViews)
    return router.urls


def main():
    with tempfile.TemporaryDirectory() as directory:
        urls = ModuleType("urls")
        settings.configure(
            ALLOWED_HOSTS=["*"],
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": f"{directory}/products.db",
                }
            },
            INSTALLED_APPS=[App("drf", ModuleType("drf")), "rest_framework"],
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
            ROOT_URLCONF=urls,
        )
        django.setup()
        urls.urlpatterns = make_urls()
        with serving_wsgi(WSGIHandler()) as url:
            print(url, flush=True)  # noqa: T201  # the test reads it
            sys.stdin.read()


if __name__ == "__main__":
    main()
