"""Sessions of SQLAlchemy that broadcast what they commit, on real databases."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey, event
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from change_events import IdResolutionError
from shop import (
    Comment,
    Employee,
    Guest,
    Manager,
    Order,
    OrderLine,
    Parcel,
    Product,
    SameTable,
    Shelf,
    Tag,
    Task,
    postgres_url,
    shop,
    sqlite_url,
)

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


def commit(*rows):
    """Return work that saves new rows."""

    def work(session):
        session.add_all(rows)
        session.commit()

    return work


# Which rows count


def test_an_id_that_the_database_makes_is_broadcast(shop):
    shop.announce({Product: "id"})

    shop.run(commit(Product(name="Anvil")))

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == [1]


def test_a_changed_row_is_broadcast_and_a_row_that_was_only_read_is_not(shop):
    shop.make(Product(name="Anvil"), Product(name="Bolt"), Tag(name="heavy"))
    shop.announce({Product: "id"})

    def work(session):
        anvil, bolt = session.get(Product, 1), session.get(Product, 2)
        heavy = session.get(Tag, 1)
        heavy.name = "light"
        anvil.name = f"not a {bolt.name}"
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]


def test_a_row_that_was_only_touched_is_not_broadcast(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        product = session.get(Product, 1)
        product.name = "Anvil"
        assert product in session.dirty
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == []


def test_a_touched_row_that_a_later_listener_changes_is_broadcast(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        product = session.get(Product, 1)
        product.name = "Anvil"
        session.commit()

    def raise_price(mapper, connection, product):
        product.price += 1

    event.listen(Product, "before_update", raise_price)
    try:
        shop.run(work)
    finally:
        event.remove(Product, "before_update", raise_price)

    assert shop.channel.ids() == ["1"]


def test_a_deleted_row_is_broadcast(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        product = session.get(Product, 1)
        session.commit()  # so that its attributes have expired
        session.delete(product)
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == []


def test_rows_that_go_with_their_parent_are_broadcast(shop):
    shop.make(Order(id=7, lines=[OrderLine(id=1), OrderLine(id=2)]))
    shop.announce({OrderLine: "id"})

    def work(session):
        session.delete(session.get(Order, 7))
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "2"]
    assert shop.saved(OrderLine) == []


def test_a_row_that_loses_its_parent_is_broadcast(shop):
    """One is deleted as an orphan, and the other one's foreign key becomes NULL."""
    shop.make(Order(id=7, lines=[OrderLine(id=1), OrderLine(id=2)], comments=[Comment(id=3)]))
    shop.announce({OrderLine: "id", Comment: "id"})

    def work(session):
        order = session.get(Order, 7)
        order.lines.pop(0)
        order.comments.clear()
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "3"]


def test_a_row_whose_collection_changed_is_broadcast(shop):
    shop.make(Product(name="Anvil"), Product(name="Bolt"), Tag(name="heavy"))
    shop.announce({Product: "id"})

    def work(session):
        anvil, bolt, heavy = session.get(Product, 1), session.get(Product, 2), session.get(Tag, 1)
        anvil.tags.append(heavy)
        session.commit()
        heavy.products.append(bolt)
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1", "2"]


def test_a_row_whose_collection_lost_a_deleted_row_is_broadcast(shop):
    heavy = Tag(name="heavy")
    shop.make(Product(name="Anvil", tags=[heavy]), Product(name="Bolt", tags=[heavy]))
    shop.announce({Product: "id"})

    def work(session):
        session.delete(session.get(Product, 2))
        session.delete(session.get(Tag, 1))
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "2"]


def test_a_row_whose_collection_is_changed_from_the_other_side_only_is_broadcast(shop):
    """`Shelf.products` does not tell `Product.shelves`."""
    shop.make(Product(name="Anvil"), Product(name="Bolt"), Shelf())
    shop.announce({Product: "id"})

    def work(session):
        shelf = session.get(Shelf, 1)
        shelf.products.append(session.get(Product, 1))
        session.commit()
        shelf.products[:] = [session.get(Product, 2), Product(name="Crate")]
        session.commit()

    shop.run(work)

    ids = shop.channel.ids()
    assert (ids[:1], sorted(ids[1:])) == (["1"], ["1", "2", "3"])


def test_rows_of_subclasses_are_broadcast(shop):
    shop.announce({Employee: "id"})

    shop.run(commit(Employee(id=1), Manager(id=2)))

    assert sorted(shop.channel.ids()) == ["1", "2"]


# Which entity a row belongs to


@pytest.mark.parametrize("source", ["order_id", "order.id", lambda line: line.order_id])
def test_a_row_can_belong_to_another_entity(shop, source):
    shop.announce({OrderLine: source})

    def work(session):
        session.add_all([Order(id=7, lines=[OrderLine()]), Order(id=8), OrderLine(order_id=8)])
        session.commit()
        session.add(OrderLine(order_id=7))
        session.commit()

    shop.run(work)

    ids = shop.channel.ids()
    assert (sorted(ids[:2]), ids[2:]) == (["7", "8"], ["7"])


@pytest.mark.parametrize("source", ["order_id", "order.id", lambda line: line.owner()])
def test_a_row_that_moves_is_broadcast_for_both_entities(shop, source):
    shop.make(Order(id=7, lines=[OrderLine(id=1)]), Order(id=8), Order(id=9))
    shop.announce({OrderLine: source})

    def work(session):
        line = session.get(OrderLine, 1)
        line.order_id = 8
        session.commit()
        assert sorted(shop.channel.ids()) == ["7", "8"]
        line.order_id = 9  # which has expired, so that its old value is not known
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["8", "9"]


def test_a_row_whose_id_changes_is_broadcast_with_both(shop):
    shop.make(Product(id=1, name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        product = session.get(Product, 1)
        product.id = 2
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "2"]


def test_a_row_that_moves_and_is_deleted_is_broadcast_for_what_it_belonged_to(shop):
    shop.make(Order(id=7, lines=[OrderLine(id=1)]), Order(id=8))
    shop.announce({OrderLine: "order_id"})

    def work(session):
        line = session.get(OrderLine, 1)
        line.order_id = 8
        session.delete(line)
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["7"]


def test_a_row_that_replaces_a_deleted_one_is_broadcast_for_both_entities(shop):
    """SQLAlchemy makes one UPDATE of a DELETE and an INSERT of the same primary key."""
    shop.make(Order(id=7, lines=[OrderLine(id=1)]), Order(id=8))
    shop.announce({OrderLine: "order_id"})

    def work(session):
        session.delete(session.get(OrderLine, 1))
        session.add(OrderLine(id=1, order_id=8))
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["7", "8"]


def test_a_deleted_row_that_one_of_another_class_replaces_is_broadcast(shop):
    shop.make(Employee(id=1, kind="guest"))
    shop.announce({Guest: "id"})

    def work(session):
        session.delete(session.get(Employee, 1))
        session.add(Employee(id=1))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]


def test_a_touched_row_that_a_later_listener_moves_is_broadcast_for_both_entities(shop):
    shop.make(Order(id=7, lines=[OrderLine(id=1)]), Order(id=8))
    shop.announce({OrderLine: "order_id"})

    def work(session):
        session.get(OrderLine, 1).quantity = 1
        session.commit()

    def move(mapper, connection, line):
        line.order_id = 8

    event.listen(OrderLine, "before_update", move)
    try:
        shop.run(work)
    finally:
        event.remove(OrderLine, "before_update", move)

    assert sorted(shop.channel.ids()) == ["7", "8"]


def test_a_foreign_key_that_is_set_after_all_rows_counts(shop):
    """`post_update` sets it, when the events of the rows are over."""
    shop.make(Order(id=7), Order(id=8), Parcel(id=1))
    shop.announce({Tag: "id", Parcel: "order_id"})

    def work(session):
        parcel = session.get(Parcel, 1)
        parcel.order = session.get(Order, 7)
        session.commit()
        assert shop.channel.ids() == ["7"]
        parcel.order = session.get(Order, 8)
        session.commit()
        assert sorted(shop.channel.ids()) == ["7", "8"]
        session.delete(session.get(Order, 8))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["8"]


def test_a_moved_row_of_joined_tables_is_broadcast_for_both_entities(shop):
    shop.make(Manager(id=1, team="a"))
    shop.announce({Manager: "team"})

    def work(session):
        manager = session.get(Manager, 1)
        session.expire(manager)
        manager.team = "b"
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["a", "b"]


def test_a_row_can_belong_to_several_entities_or_none(shop):
    shop.make(Tag(id=1, name="x", products=[Product(name="Anvil"), Product(name="Bolt")]))
    shop.make(Tag(id=2, name="y"))
    shop.announce({Tag: lambda tag: [product.id for product in tag.products]})

    def work(session):
        empty, tag = session.get(Tag, 2), session.get(Tag, 1)
        empty.name = "z"
        tag.products.pop(0)
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "2"]


@pytest.mark.parametrize(
    "source", ["order_id", lambda comment: [comment.order.id] if comment.order else []]
)
def test_a_row_can_be_made_a_part_of_an_entity_later(shop, source):
    shop.make(Order(id=7), Comment(id=1))
    shop.announce({Comment: source})

    def work(session):
        comment = session.get(Comment, 1)
        comment.order = session.get(Order, 7)
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["7"]


def test_a_row_added_to_a_collection_counts_for_its_parent(shop):
    shop.make(Order(id=7))
    shop.announce({Order: "id"})

    def work(session):
        order = session.get(Order, 7)
        session.add(Comment(order=order))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["7"]


def test_a_parent_of_joined_tables_is_found(shop):
    shop.make(Manager(id=1), Manager(id=2))
    shop.announce({Task: "manager.id"})

    def work(session):
        task = Task(manager_id=1)
        session.add(task)
        session.commit()
        task.manager_id = 2
        session.commit()

    shop.run(work)

    ids = shop.channel.ids()
    assert (ids[:1], sorted(ids[1:])) == (["1"], ["1", "2"])


@pytest.mark.parametrize("source", ["order.id", "key"])
def test_an_attribute_of_any_kind_can_have_the_id(shop, source):
    """A backref does not exist before all classes are mapped. A hybrid can fail on its class."""

    class Mine(DeclarativeBase):
        pass

    class Cart(Mine):
        __tablename__ = "carts"
        id: Mapped[int] = mapped_column(primary_key=True)
        lines = relationship("CartLine", backref="order")

    class CartLine(Mine):
        __tablename__ = "cart_lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        cart_id: Mapped[int] = mapped_column(ForeignKey("carts.id"))
        sku: Mapped[str]

        @hybrid_property
        def key(self):
            return self.sku.lower()

    Mine.metadata.create_all(shop.engine)
    shop.announce({CartLine: source})

    shop.run(commit(Cart(id=7, lines=[CartLine(sku="7")])))

    assert shop.channel.ids() == ["7"]


def test_a_parent_that_is_not_found_by_its_primary_key_is_refused(shop):
    shop.make(Tag(id=1, name="heavy"))
    shop.announce({Comment: "tag.id"})

    def work(session):
        session.add(Comment(tag_name="heavy"))
        with pytest.raises(IdResolutionError, match="primary key"):
            session.commit()

    shop.run(work)

    assert shop.saved(Comment) == []


def test_another_class_with_the_same_table_is_refused(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        row = session.get(SameTable, 1)
        row.price = 1  # which it is
        session.commit()
        for change in (
            lambda: setattr(session.get(SameTable, 1), "price", 2),
            lambda: session.delete(session.get(SameTable, 1)),
            lambda: session.add(SameTable(name="Bolt")),
        ):
            change()
            with pytest.raises(IdResolutionError, match="SameTable has a table of Product"):
                session.commit()
            session.rollback()

    shop.run(work)

    assert shop.saved(Product) == [1]


def test_another_class_with_the_same_table_can_be_announced_too(shop):
    shop.announce({Product: "id", SameTable: "id"})

    shop.run(commit(SameTable(name="Bolt")))

    assert shop.channel.ids() == ["1"]
