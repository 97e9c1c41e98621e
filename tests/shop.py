"""A shop's tables in a real database, and sessions, sync or async, that are announced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    Column,
    Engine,
    ForeignKey,
    Table,
    create_engine,
    event,
    make_url,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    sessionmaker,
)
from sqlalchemy.pool import NullPool

from change_events import SNSPublisher
from change_events.integrations.sqlalchemy import announce
from conftest import make_schema


class Base(DeclarativeBase):
    pass


product_tags = Table(
    "product_tags",
    Base.metadata,
    Column("product_id", ForeignKey("products.id"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
)


shelf_products = Table(
    "shelf_products",
    Base.metadata,
    Column("shelf_id", ForeignKey("shelves.id"), primary_key=True),
    Column("product_id", ForeignKey("products.id"), primary_key=True),
)


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    price: Mapped[int] = mapped_column(default=1)
    tags: Mapped[list[Tag]] = relationship(secondary=product_tags, back_populates="products")
    shelves: Mapped[list[Shelf]] = relationship(secondary=shelf_products, overlaps="products")


class SameTable(Base):
    __table__ = Product.__table__


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    products: Mapped[list[Product]] = relationship(secondary=product_tags, back_populates="tags")


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    products: Mapped[list[Product]] = relationship(secondary=shelf_products, overlaps="shelves")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="")
    lines: Mapped[list[OrderLine]] = relationship(cascade="all, delete-orphan")
    comments: Mapped[list[Comment]] = relationship(back_populates="order")
    parcels: Mapped[list[Parcel]] = relationship(back_populates="order", post_update=True)


class OrderLine(Base):
    __tablename__ = "order_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(
        ForeignKey("orders.id", deferrable=True, initially="DEFERRED")
    )
    quantity: Mapped[int] = mapped_column(default=1)
    order: Mapped[Order] = relationship(viewonly=True)

    def owner(self) -> int:
        return self.order_id


class Comment(Base):
    __tablename__ = "comments"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="comments")
    tag_name: Mapped[str | None] = mapped_column(ForeignKey("tags.name"))
    tag: Mapped[Tag | None] = relationship()


class Parcel(Base):
    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order | None] = relationship(back_populates="parcels", post_update=True)


class Employee(Base):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    team: Mapped[str] = mapped_column(default="a")
    kind: Mapped[str] = mapped_column(default="employee")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}  # noqa: RUF012


class Manager(Employee):
    __tablename__ = "managers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    budget: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Guest(Employee):
    __mapper_args__ = {"polymorphic_identity": "guest"}  # noqa: RUF012


class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    manager_id: Mapped[int] = mapped_column(ForeignKey("managers.id"))
    manager: Mapped[Manager] = relationship()


class Shop:
    """
    A database with a shop's tables, and a factory of sessions for it.

    Attributes:
        url: The database, with a synchronous driver.
        asynchronous: The factory makes asynchronous sessions.
        channel: Where `publisher` broadcasts to.
        factory: What is announced.
        pool: Where `run` has connections from.
        engine: Other connections.
    """

    def __init__(self, url: URL, channel: Any, *, asynchronous: bool) -> None:
        self.url = url
        self.asynchronous = asynchronous
        self.channel = channel
        self.publisher = SNSPublisher(channel.topic_arn)
        self.factory: Any = async_sessionmaker() if asynchronous else sessionmaker()
        self.pool: dict[str, Any] = {"poolclass": NullPool}
        self.engine = create_engine(url, poolclass=NullPool)
        set_up(self.engine)
        Base.metadata.create_all(self.engine)

    def announce(self, types: Any, publisher: Any = None, **settings: Any) -> None:
        if "renewals" not in settings:  # a slow machine would need some
            settings = {"settle": 60.0} | settings
        announce(self.factory, publisher or self.publisher, types, **settings)

    def run(self, work: Callable[[Session], Any], **settings: Any) -> Any:
        """Let a function use a session, in an event loop if sessions are asynchronous."""
        if self.asynchronous:
            return asyncio.run(self.run_async(lambda session: session.run_sync(work), **settings))
        engine = create_engine(self.url, **self.pool)
        set_up(engine)
        try:
            with self.factory(bind=engine, **settings) as session:
                return work(session)
        finally:
            engine.dispose()

    async def run_async(self, work: Callable[[AsyncSession], Any], **settings: Any) -> Any:
        """Let a coroutine function use an asynchronous session."""
        driver = {"sqlite": "sqlite+aiosqlite"}.get(self.url.drivername, self.url.drivername)
        engine = create_async_engine(self.url.set(drivername=driver), **self.pool)
        set_up(engine.sync_engine)
        try:
            async with self.factory(bind=engine, **settings) as session:
                return await work(session)
        finally:
            await engine.dispose()

    def saved(self, mapped: Any) -> list[Any]:
        """Return the ids of the rows that are committed."""
        with Session(self.engine) as session:
            return list(session.scalars(select(mapped.id).order_by(mapped.id)))

    def make(self, *rows: Any) -> list[Any]:
        """Save rows without broadcasting them; return their ids."""
        with Session(self.engine) as session:
            session.add_all(rows)
            session.commit()
            return [row.id for row in rows]


def set_up(engine: Engine) -> None:
    """
    Let SQLAlchemy, not the driver, begin transactions on SQLite, as SQLAlchemy's docs say:
    otherwise a savepoint can commit. And let SQLite check foreign keys.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.fixture
def postgres_url(postgres):
    return make_url(make_schema(postgres)).set(drivername="postgresql+psycopg")


@pytest.fixture
def sqlite_url(tmp_path):
    return make_url(f"sqlite:///{tmp_path}/shop.db")


@pytest.fixture(params=["sqlite", "sqlite async", "postgres", "postgres async"])
def shop(request, channel):
    database, _, asynchronous = request.param.partition(" ")
    url = request.getfixturevalue(f"{database}_url")
    return Shop(url, channel, asynchronous=bool(asynchronous))
