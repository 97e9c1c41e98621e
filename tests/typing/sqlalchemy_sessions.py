"""Checked by mypy and pyright, never run: what SQLAlchemy's sessions broadcast."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session
from sqlalchemy.orm import sessionmaker as make_sessionmaker
from typing_extensions import assert_type

from change_events import SNSPublisher
from change_events.integrations.sqlalchemy import announce, announce_ids

publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")


class Base(DeclarativeBase): ...


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)


class OrderLine(Base):
    __tablename__ = "order_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


class OwnSession(Session): ...


sessions = make_sessionmaker(class_=OwnSession)
async_sessions = async_sessionmaker()

announce(sessions, publisher, {Product: "id", OrderLine: lambda line: line.order_id})
announce(Session, publisher, {Product: "id"})
announce(OwnSession, publisher, {Product: lambda product: [product.id]})
announce(scoped_session(sessions), publisher, {Product: "id"}, settle=10.0, confirm=True)
announce(async_sessions, publisher, {Product: "id"}, on_unsettled=lambda ids, error: None)
announce(async_scoped_session(async_sessions, int), publisher, {Product: "id"})
announce(sessions, publisher, {Product: 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
announce(sessions, None, {Product: "id"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
announce(AsyncSession, publisher, {Product: "id"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def save(session: OwnSession) -> None:
    assert_type(announce_ids(session, Product, ["p1", 2]), None)
    announce_ids(session, Product, session.scalars(text("SELECT id FROM products")))
    announce_ids(session, Product, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def save_asynchronously(session: AsyncSession | async_scoped_session[AsyncSession]) -> None:
    announce_ids(session, Product, [1])


with sessions() as made:
    assert_type(made, OwnSession)
