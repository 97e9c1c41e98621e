"""
Products in PostgreSQL, by SQLAlchemy.

No method commits. The request does, when it ends, and the session broadcasts the ids before that.
So the database can make them.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Identity, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from change_events.integrations.sqlalchemy import announce
from product_service.models import Product
from product_service.repository import (
    PAGE_SIZE,
    ConflictError,
    UnknownProductError,
    now,
    publisher,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from product_service.models import NewProduct


class Base(DeclarativeBase):
    """The tables."""


class Row(Base):
    """A product's row."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str]
    image_url: Mapped[str]
    last_modified: Mapped[str] = mapped_column(default=now)


class SQLProducts:
    """
    Makes a repository for each request.

    Args:
        url: The database: a URL of SQLAlchemy, like `postgresql+psycopg://...`.
    """

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self._sessions = sessionmaker(self.engine)
        announce(self._sessions, publisher, {Row: "id"})

    def create_table(self) -> None:
        """Make the table unless it exists."""
        Base.metadata.create_all(self.engine)

    @contextmanager
    def open(self) -> Iterator[SQLProductRepository]:
        """
        Open a session, and commit it at the end.

        Raises:
            PublishError: At the end: a broadcast was not accepted; nothing is saved.
        """
        with self._sessions.begin() as session:
            yield SQLProductRepository(session)


class SQLProductRepository:
    """The products, as a session sees them. Its methods are those of `ProductRepository`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, id: str) -> Product:
        """Read the latest commit."""
        return _product(self._row(id))

    def get_many(self, ids: list[str]) -> list[Product]:
        """Read the latest commits of many products, without those that don't exist."""
        keys = [key for id in ids if (key := _key(id)) is not None]
        return _products(self._session.scalars(select(Row).where(Row.id.in_(keys))))

    def page(self, after: str | None = None) -> tuple[list[Product], str | None]:
        """Read up to 25 products, and the cursor of the next page."""
        rows = select(Row).where(Row.id > (_key(after or "") or 0)).order_by(Row.id)
        page = _products(self._session.scalars(rows.limit(PAGE_SIZE)))
        return page, page[-1].id if len(page) == PAGE_SIZE else None

    def add(self, new: NewProduct) -> Product:
        """Save a new product."""
        row = Row(name=new.name, image_url=str(new.imageURL))
        self._session.add(row)
        self._session.flush()  # the database makes its id
        return _product(row)

    def update(self, product: Product) -> Product:
        """
        Save a change of the product.

        Raises:
            ConflictError: Somebody else has saved it since; nothing is saved. (`delete` likewise.)
        """
        row = self._locked(product)
        row.name, row.image_url = product.name, str(product.imageURL)
        row.last_modified = now(later_than=product.lastModified)
        return _product(row)

    def delete(self, product: Product) -> Product:
        """Delete the product. From then on it is unknown."""
        self._session.delete(self._locked(product))
        return product

    def _row(self, id: str, *, lock: bool = False) -> Row:
        key = _key(id)
        row = key and self._session.get(Row, key, with_for_update=lock, populate_existing=lock)
        if not row:
            raise UnknownProductError(id)
        return row

    def _locked(self, product: Product) -> Row:
        """Return the row if nobody has saved it since; until the commit, nobody else can."""
        row = self._row(product.id, lock=True)
        if row.last_modified != product.lastModified:
            raise ConflictError(product.id)
        return row


def _key(id: str) -> int | None:
    """Return an id as the database has it; None if it can't be one."""
    return int(id) if re.fullmatch(r"[1-9][0-9]{0,17}", id) else None


def _products(rows: Iterable[Row]) -> list[Product]:
    return [_product(row) for row in rows]


def _product(row: Row) -> Product:
    return Product.model_validate(
        {
            "id": str(row.id),
            "name": row.name,
            "imageURL": row.image_url,
            "lastModified": row.last_modified,
        }
    )
