"""Checked by mypy and pyright, never run: what Django's models broadcast."""

from __future__ import annotations

from uuid import UUID

from typing_extensions import assert_type

from change_events import SNSPublisher
from change_events.integrations.django import announce_ids, announced, unannounced

publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")


class Product:  # in your code a models.Model, whose types only django-stubs knows
    id: UUID


class OrderLine:
    order_id: int


assert_type(announced(publisher)(Product), type[Product])
announced(publisher, id="order")(OrderLine)
announced(publisher, id=lambda line: line.order_id, settle=10.0, confirm=True)(OrderLine)
announced(publisher, id=lambda line: [line.order_id], on_unsettled=lambda ids, error: None)
announced(publisher, id=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
announced(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@announced(publisher)
class Decorated:
    name: str


assert_type(Decorated().name, str)

assert_type(announce_ids(Product, ["p1", 2, UUID(int=3)], using="default"), None)
announce_ids(Product, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

with unannounced():
    Decorated()
