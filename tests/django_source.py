"""
A service in Django, as a program: a process can have one Django only.

PUT saves an entity, and DELETE deletes it. It prints its URL, and ends with its input.
"""

from __future__ import annotations

import sys

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.urls import path

from source_apps import Entities, serving_wsgi

entities = Entities()


def product(request, id):
    if request.method != "GET":
        {"PUT": entities.save, "DELETE": entities.delete}[request.method](id)
    entity = entities.get(id)
    if entity is None:
        return JsonResponse({"detail": "no such product"}, status=404)
    return JsonResponse(entity)


urlpatterns = [path("products/<path:id>", product)]

if __name__ == "__main__":
    middleware = ["http.ConditionalGetMiddleware", "gzip.GZipMiddleware"]
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=sys.modules[__name__],
        MIDDLEWARE=[f"django.middleware.{name}" for name in reversed(middleware)],
    )
    with serving_wsgi(WSGIHandler()) as url:
        print(url, flush=True)  # noqa: T201  # the test reads it
        sys.stdin.read()
