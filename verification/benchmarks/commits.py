"""
Prints what a SQLAlchemy session that is announced costs, beside one that is not.

    python -m verification.benchmarks.commits

Both sessions do the same work on SQLite in memory. Nothing is published, because what a publish
costs depends on SNS. A figure is the least CPU time of many short rounds, because whatever else the
machine does only adds to it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from change_events import NullPublisher
from change_events.integrations.sqlalchemy import announce

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 300

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


if __name__ == "__main__":
    commit_overhead()
