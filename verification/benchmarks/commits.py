"""
Prints what a SQLAlchemy session or a Django model that is announced costs, beside one that is not.

    python -m verification.benchmarks.commits

Both do the same work on SQLite in memory. Nothing is published, because what a publish costs
depends on SNS. A figure is the least CPU time of many short rounds, because whatever else the
machine does only adds to it.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import django
from django.conf import settings
from django.db import connection, models, transaction
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from change_events import NullPublisher
from change_events.integrations.sqlalchemy import announce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events import ChangeEvent

ROUNDS = 300

SNS = 0.2
"""Seconds of a slow publish."""

GOAL = 60
"""Microseconds for a commit of one row."""


class Base(DeclarativeBase): ...


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]


def save(make: sessionmaker[Session], rows: int) -> None:
    with make() as session:
        session.add_all(Product(name="Anvil", price=number) for number in range(rows))
        session.commit()


def change(make: sessionmaker[Session], rows: int) -> None:
    with make() as session:
        for product in session.query(Product).limit(rows):
            product.price += 1
        session.commit()


def read(make: sessionmaker[Session], rows: int) -> None:
    with make() as session:
        session.query(Product).limit(rows).all()
        session.commit()


def microseconds(call: Callable[[], None], calls: int) -> float:
    """Return the CPU time of a call."""
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls * 1e6


def commit_overhead() -> None:
    """Print the figures."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    bare, announced = sessionmaker(engine), sessionmaker(engine)
    announce(announced, NullPublisher(), {Product: "id"})
    save(bare, 100)
    for what, work, rows, goal in (
        ("a new row", save, 1, f"; goal {GOAL}"),
        ("a changed row", change, 1, f"; goal {GOAL}"),
        ("100 new rows", save, 100, ""),
        ("100 changed rows", change, 100, ""),
        ("nothing, after a read of a row", read, 1, ""),
    ):
        plain, hooked = (
            min(microseconds(partial(work, make, rows), max(4 // rows, 1)) for _ in range(ROUNDS))
            for make in (bare, announced)
        )
        print(
            f"SQLAlchemy  {hooked - plain:6.1f} µs of CPU more than a bare commit ({plain:.0f} µs) "
            f"of {what}{goal}"
        )
    engine.dispose()


def django_overhead() -> None:
    """Print the same of Django. Once a model is announced, all transactions have the hook."""
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()
    from change_events.integrations.django import announced  # it needs the settings

    orm, database = cast(Any, models), cast(Any, connection)  # Django ships no types

    def model(name: str, **fields: object) -> Any:
        meta = type("Meta", (), {"app_label": "shop"})
        return type(name, (orm.Model,), {"__module__": __name__, "Meta": meta, **fields})

    Order = model("Order", status=orm.CharField(max_length=20))  # noqa: N806  # a class
    order = orm.ForeignKey(Order, orm.CASCADE)
    Line = model("Line", order=order, amount=orm.IntegerField(default=1))  # noqa: N806  # likewise
    with database.schema_editor() as editor:
        editor.create_model(Order)
        editor.create_model(Line)
    orders = [Order.objects.create(status="new") for _ in range(2)]
    line = Line.objects.create(order=orders[0])

    def in_transaction(work: Callable[[], object]) -> None:
        with cast(Any, transaction).atomic():
            work()

    def move() -> None:
        line.order_id = 3 - line.order_id
        line.save()

    works: dict[str, tuple[Callable[[], object], str]] = {
        "a new row": (lambda: Order.objects.create(status="new"), ""),
        "a changed row": (orders[0].save, f"; goal {GOAL}"),
        "a new row of another entity": (lambda: Line.objects.create(order=orders[0]), ""),
        "a changed row of another entity": (line.save, ""),
        "a row that moves to another entity": (move, ""),
        "a changed row, by update()": (
            lambda: Line.objects.filter(pk=1).update(amount=orm.F("amount") + 1),
            "",
        ),
        "nothing, after a read of a row": (lambda: Order.objects.get(pk=1), ""),
    }

    def measured() -> list[float]:
        return [
            min(microseconds(partial(in_transaction, work), 3) for _ in range(ROUNDS))
            for work, _ in works.values()
        ]

    plain = measured()
    announced(NullPublisher())(Order)
    announced(NullPublisher(), id="order")(Line)
    for what, before, after in zip(works, plain, measured(), strict=True):
        print(
            f"Django      {after - before:6.1f} µs of CPU more than a bare commit ({before:.0f} µs)"
            f" of {what}{works[what][1]}"
        )


class SlowPublisher:
    """Needs as long as a slow SNS."""

    def publish(self, _: Sequence[ChangeEvent], /) -> None:
        time.sleep(SNS)


async def longest_stop(commits: int = 3) -> float:
    """Return for how long the event loop stood still at most while sessions committed."""
    with TemporaryDirectory() as directory:
        engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/shop.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        make = async_sessionmaker(engine)
        announce(make, SlowPublisher(), {Product: "id"})

        async def save_some(commits: int) -> None:
            for number in range(commits):
                async with make() as session:
                    session.add(Product(name="Anvil", price=number))
                    await session.commit()

        await save_some(1)  # SQLAlchemy compiles its statements once
        saving = asyncio.create_task(save_some(commits))
        longest, before = 0.0, time.perf_counter()
        while not saving.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        await saving
        await engine.dispose()
    return longest


def loop_stop() -> None:
    """Print the figure: the least of five, because other processes only add to it."""
    longest = min(asyncio.run(longest_stop()) for _ in range(5))
    print(
        f"SQLAlchemy  {longest * 1e3:6.1f} ms at most without the event loop, while commits wait "
        f"{SNS * 1e3:.0f} ms for SNS; goal 20"
    )


if __name__ == "__main__":
    commit_overhead()
    loop_stop()
    django_overhead()
