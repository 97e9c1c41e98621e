"""When sessions of SQLAlchemy broadcast, what that stops, and what they refuse."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import (
    AsyncAdaptedQueuePool,
    QueuePool,
    column,
    create_engine,
    delete,
    event,
    insert,
    select,
    table,
    text,
    update,
)
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import IntegrityError, InternalError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, aliased, scoped_session, sessionmaker

from change_events import (
    ConfigurationError,
    IdResolutionError,
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcasts_before_save,
)
from change_events._event import DEFAULT_SETTLE
from change_events.integrations._session_hook import Hook, Work
from change_events.integrations.sqlalchemy import announce, announce_ids
from conftest import wait_until
from shop import (
    Base,
    Employee,
    Manager,
    Order,
    OrderLine,
    Product,
    Shop,
    Tag,
    postgres_url,
    product_tags,
    shop,
    sqlite_url,
)

MISSING = "arn:aws:sns:us-east-1:123456789012:missing"

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


class Witness:
    """Broadcasts, and notes which ids came when which rows were committed."""

    def __init__(self, shop, mapped=Product):
        self.seen = []
        self._shop = shop
        self._mapped = mapped

    def publish(self, events, /):
        self.seen.append(([event.id for event in events], self._shop.saved(self._mapped)))
        self._shop.publisher.publish(events)


# Savepoints


def test_a_released_savepoint_is_broadcast_at_the_commit_only(shop):
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    def work(session):
        with session.begin_nested():
            session.add(Product(name="Anvil"))
        session.add(Product(name="Bolt"))
        session.flush()
        assert witness.seen == []
        session.commit()

    shop.run(work)

    assert witness.seen == [(["1", "2"], [])]
    assert shop.saved(Product) == [1, 2]


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_ids_with_it(shop):
    shop.make(Product(name="Anvil"), Product(name="Bolt"))
    shop.announce({Product: "id"})

    def work(session):
        anvil, bolt = session.get(Product, 1), session.get(Product, 2)
        anvil.price = 2
        savepoint = session.begin_nested()
        anvil.price = 3
        bolt.price = 3
        session.flush()
        savepoint.rollback()
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]


def test_a_session_can_be_announced_while_a_savepoint_is_open(sqlite_url, channel):
    shop = Shop(sqlite_url, channel, asynchronous=False)

    def work(session):
        savepoint = session.begin_nested()
        shop.announce({Product: "id"})
        session.add(Product(id=1, name="Anvil"))
        session.flush()
        savepoint.rollback()
        session.add(Product(id=2, name="Bolt"))
        session.commit()

    shop.run(work)

    assert sorted(channel.ids()) == ["1", "2"]


def test_a_savepoint_in_which_a_flush_fails_takes_only_its_own_ids_with_it(shop):
    shop.announce({Product: "id"})

    def fail(session):
        with session.begin_nested():
            session.add(Product(id=2, name="Bolt"))
            session.flush()
            session.add(Product(id=3, name="Anvil"))

    def work(session):
        session.add(Product(id=1, name="Anvil"))
        session.flush()
        with pytest.raises(IntegrityError):
            fail(session)
        session.add(Product(id=4, name="Crate"))
        session.commit()

    shop.run(work)

    assert sorted(shop.channel.ids()) == ["1", "4"]
    assert shop.saved(Product) == [1, 4]


def test_a_commit_with_savepoints_still_open_is_broadcast_before_it(shop):
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    def work(session):
        with session.begin():
            session.add(Product(id=1, name="Anvil"))
            session.begin_nested()
            session.add(Product(id=2, name="Bolt"))
            session.begin_nested()
            session.add(Product(id=3, name="Crate"))

    shop.run(work)

    assert [id for ids, _ in witness.seen for id in ids] == ["1", "2", "3"]
    assert {tuple(saved) for _, saved in witness.seen} == {()}
    assert shop.saved(Product) == [1, 2, 3]


# Other listeners


@pytest.mark.parametrize("name", ["before_commit", "after_flush_postexec"])
def test_what_later_listeners_save_is_broadcast_before_the_commit(shop, name):
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    saved = []

    def work(session):
        def save_another(*_):
            if not saved:
                saved.append(Product(id=2, name="Bolt"))
                session.add_all(saved)
                if name == "before_commit":
                    session.flush()

        event.listen(session, name, save_another)
        session.add(Product(id=1, name="Anvil"))
        session.commit()

    shop.run(work)

    assert [id for ids, _ in witness.seen for id in ids] == ["1", "2"]
    assert {tuple(saved) for _, saved in witness.seen} == {()}
    assert shop.saved(Product) == [1, 2]


def test_a_late_flush_that_can_not_be_broadcast_commits_nothing(shop):
    shop.announce({Product: "id"})
    shop.announce({Tag: "id"}, SNSPublisher(MISSING))

    def work(session):
        event.listen(session, "before_commit", lambda _: session.add(Tag(name="heavy")))
        session.add(Product(name="Anvil"))
        with pytest.raises(PublishError):
            session.commit()

    shop.run(work)

    assert shop.saved(Product) == shop.saved(Tag) == []


# Broadcasts and commits that fail


def test_without_a_broadcast_nothing_is_committed_now_or_by_the_next_transaction(shop):
    shop.announce({Product: "id"}, SNSPublisher(MISSING))
    shop.announce({Tag: "id"})
    pool = AsyncAdaptedQueuePool if shop.asynchronous else QueuePool
    shop.pool = {"poolclass": pool, "pool_size": 1, "max_overflow": 0}

    def work(session):
        session.add(Product(name="Anvil"))
        with pytest.raises(PublishError):
            session.commit()
        session.rollback()
        session.add(Tag(name="heavy"))
        session.commit()

    shop.run(work)

    assert shop.saved(Product) == []
    assert shop.saved(Tag) == [1]


def test_a_commit_whose_broadcast_failed_can_be_tried_again(shop):
    topics = [MISSING, shop.channel.topic_arn]
    shop.announce({Product: "id"}, SNSPublisher(lambda: topics.pop(0)))

    def work(session):
        session.add(Product(name="Anvil"))
        with pytest.raises(PublishError):
            session.commit()
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]
    assert shop.saved(Product) == [1]


def test_a_flush_that_fails_is_not_broadcast(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        session.add(Product(name="Anvil"))
        with pytest.raises(IntegrityError):
            session.commit()

    shop.run(work)

    assert shop.channel.ids() == []


def test_a_transaction_that_is_rolled_back_is_not_broadcast_by_the_next_one(shop):
    shop.announce({Product: "id"})

    def work(session):
        session.add(Product(id=1, name="Anvil"))
        session.flush()
        session.rollback()
        session.add(Product(id=2, name="Bolt"))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["2"]


# Changes without a flush

BULK = [
    insert(Product).values(id=9, name="Crate"),
    update(Product).values(price=5),
    update(Product.__table__).values(price=5),
    update(aliased(Product)).values(price=5),
    delete(Product),
]


def test_a_statement_that_names_no_ids_is_refused(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        for statement in BULK:
            with pytest.raises(IdResolutionError, match="announce="):
                session.execute(statement)
        with pytest.raises(IdResolutionError, match="announce="):
            session.query(Product).update({"price": 5})
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == []
    assert shop.saved(Product) == [1]


@pytest.mark.parametrize(
    "statement",
    [
        insert(product_tags).values(product_id=1, tag_id=1),
        delete(product_tags),
        update(table("products", column("price"))).values(price=5),
        select(Product).from_statement(update(Product).values(price=5).returning(Product)),
    ],
    ids=["secondary, insert", "secondary, delete", "by the table's name", "from_statement"],
)
def test_a_statement_that_changes_an_entity_in_another_way_is_refused(shop, statement):
    shop.make(Product(name="Anvil"), Tag(name="heavy"))
    shop.announce({Product: "id"})

    def work(session):
        with pytest.raises(IdResolutionError, match="announce="):
            session.execute(statement)
        session.execute(statement, execution_options={"announce": [1]}).close()
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]


def test_the_ids_that_a_statement_names_are_broadcast(shop):
    shop.make(Product(name="Anvil"))
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    def work(session):
        for number, statement in enumerate(BULK):
            session.execute(statement, execution_options={"announce": [number, "9"]})
            session.commit()

    shop.run(work)

    assert [ids for ids, _ in witness.seen] == [[str(number), "9"] for number in range(5)]
    assert [saved for _, saved in witness.seen] == [[1], [1, 9], [1, 9], [1, 9], [1, 9]]
    assert shop.saved(Product) == []


def test_a_statement_can_say_that_nothing_is_to_be_broadcast(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        session.execute(delete(Product).execution_options(announce=False))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == []
    assert shop.saved(Product) == []


def test_ids_that_are_none_are_refused(shop):
    shop.announce({Product: "id"})

    def work(session):
        for named in (True, "p1", 1, [None], [""]):
            with pytest.raises(IdResolutionError):
                session.execute(delete(Product).execution_options(announce=named))

    shop.run(work)


def test_statements_that_change_other_tables_need_no_ids(shop):
    shop.announce({Product: "id"})

    def work(session):
        session.execute(insert(Tag).values(name="heavy"))
        session.execute(select(Product))
        session.commit()

    shop.run(work)

    assert shop.saved(Tag) == [1]


def test_a_statement_for_the_table_of_a_parent_class_is_refused(shop):
    shop.announce({Manager: "id"})

    def work(session):
        with pytest.raises(IdResolutionError):
            session.execute(update(Employee).values(team="b"))

    shop.run(work)


def test_a_commit_after_an_old_bulk_method_is_refused(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        for call in (
            lambda: session.bulk_save_objects([Product(name="Bolt")]),
            lambda: session.bulk_insert_mappings(Product, [{"name": "Bolt"}]),
            lambda: session.bulk_update_mappings(Product, [{"id": 1, "price": 5}]),
        ):
            call()
            with pytest.raises(IdResolutionError, match="bulk_save_objects"):
                session.commit()
            session.rollback()
        session.add(Tag(name="heavy"))
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == []
    assert shop.saved(Product) == [1]
    assert shop.saved(Tag) == [1]


def test_a_bulk_method_after_a_flush_that_did_not_begin_is_noticed(shop):
    shop.announce({Product: "id"})

    def work(session):
        def refuse(*_):
            raise ZeroDivisionError

        event.listen(session, "before_flush", refuse)
        tag = Tag(name="heavy")
        session.add(tag)
        with pytest.raises(ZeroDivisionError):
            session.flush()
        session.expunge(tag)
        session.bulk_save_objects([Product(name="Anvil")])
        with pytest.raises(IdResolutionError, match="bulk_save_objects"):
            session.commit()

    shop.run(work)

    assert shop.saved(Product) == []


def test_ids_can_be_announced_for_changes_that_a_session_can_not_see(shop):
    shop.make(Product(name="Anvil"), Product(name="Bolt"))
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    def work(session):
        announce_ids(session, Product, ["3"])
        session.rollback()
        changed = session.scalars(text("UPDATE products SET price = 2 RETURNING id"))
        announce_ids(session, Product, changed)
        session.commit()

    shop.run(work)

    assert [ids for ids, _ in witness.seen] == [["1", "2"]]


def test_ids_can_be_announced_by_a_listener_during_the_commit(shop):
    witness = Witness(shop)
    shop.announce({Product: "id"}, witness)

    def work(session):
        event.listen(session, "before_commit", lambda _: announce_ids(session, Product, ["9"]))
        session.add(Product(name="Anvil"))
        session.commit()

    shop.run(work)

    assert witness.seen == [(["1"], []), (["9"], [])]


def test_ids_to_announce_are_not_a_text(shop):
    shop.announce({Product: "id"})

    def work(session):
        with pytest.raises(IdResolutionError, match="'78'"):
            announce_ids(session, Product, "78")
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == []


def test_ids_of_a_class_that_nothing_broadcasts_are_refused(shop):
    shop.announce({Product: "id"})

    def work(session):
        with pytest.raises(ConfigurationError, match="announce"):
            announce_ids(session, Tag, [1])

    shop.run(work)


# Ids that are unusable


@pytest.mark.parametrize(
    ("id_of", "named"),
    [(lambda product: None, "Product"), (lambda product: product.sku, "sku")],
    ids=["there is none", "it can't be read"],
)
def test_a_new_row_without_an_id_is_refused(shop, id_of, named):
    shop.announce({Product: id_of})

    def work(session):
        session.add(Product(name="Anvil"))
        with pytest.raises(IdResolutionError, match=named):
            session.commit()

    shop.run(work)

    assert shop.saved(Product) == []


# Which sessions


def test_types_can_have_publishers_of_their_own(shop, make_channel):
    orders = make_channel()
    shop.announce({Product: "id"})
    shop.announce({Order: "id", OrderLine: "order_id"}, SNSPublisher(orders.topic_arn))

    def work(session):
        session.add_all([Product(id=1, name="Anvil"), Order(id=7, lines=[OrderLine()])])
        session.commit()

    shop.run(work)

    assert shop.channel.ids() == ["1"]
    assert orders.ids() == ["7"]


@pytest.mark.parametrize(
    "make",
    [
        sessionmaker,
        lambda: sessionmaker(class_=type("Own", (Session,), {})),
        lambda: scoped_session(sessionmaker()),
        lambda: type("Own", (Session,), {}),
    ],
    ids=["sessionmaker", "with a class", "scoped_session", "class"],
)
def test_what_makes_sessions_can_be_announced(sqlite_url, channel, make):
    factory, shop = make(), Shop(sqlite_url, channel, asynchronous=False)
    announce(factory, shop.publisher, {Product: "id"}, settle=60.0)

    with factory(bind=shop.engine) as session:
        session.add(Product(name="Anvil"))
        session.commit()
    with Session(shop.engine) as other:
        other.add(Product(name="Bolt"))
        other.commit()

    assert channel.ids() == ["1"]


@pytest.mark.parametrize(
    "make",
    [
        async_sessionmaker,
        lambda: async_sessionmaker(sync_session_class=sessionmaker()),
        lambda: async_sessionmaker(sync_session_class=type("Own", (Session,), {})),
        lambda: async_sessionmaker(class_=type("Own", (AsyncSession,), {})),
        lambda: sessionmaker(class_=AsyncSession),
    ],
    ids=[
        "async_sessionmaker",
        "with a sessionmaker",
        "with a class",
        "with an AsyncSession",
        "old",
    ],
)
def test_what_makes_asynchronous_sessions_can_be_announced(sqlite_url, make_channel, make):
    shop = Shop(sqlite_url, make_channel(), asynchronous=True)
    tags = make_channel()
    shop.factory = make()
    shop.announce({Product: "id"})
    shop.announce({Tag: "id"}, SNSPublisher(tags.topic_arn))

    async def work(session):
        session.add_all([Product(name="Anvil"), Tag(name="heavy")])
        await session.commit()

    asyncio.run(shop.run_async(work))
    shop.factory = async_sessionmaker()
    asyncio.run(shop.run_async(lambda session: session.run_sync(save_another)))

    assert shop.channel.ids() == ["1"]
    assert tags.ids() == ["1"]


def test_an_asynchronous_session_can_be_scoped(sqlite_url, channel):
    shop = Shop(sqlite_url, channel, asynchronous=True)
    shop.factory = async_scoped_session(async_sessionmaker(), asyncio.current_task)
    shop.announce({Product: "id"})

    async def work(_):
        shop.factory.add(Product(name="Anvil"))
        announce_ids(shop.factory, Product, [77])
        await shop.factory.commit()

    asyncio.run(shop.run_async(work))

    assert sorted(shop.channel.ids()) == ["1", "77"]


def save_another(session):
    session.add(Product(name="Bolt"))
    session.commit()


@pytest.mark.parametrize(
    "sessions",
    [None, AsyncSession, Session(), int, "Session", async_scoped_session(AsyncSession, int)],
)
def test_what_makes_no_sessions_is_refused(sessions):
    with pytest.raises(ConfigurationError, match="announce"):
        announce(sessions, NullPublisher(), {Product: "id"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"publisher": None},
        {"publisher": SNSPublisher},
        {"types": {int: "id"}},
        {"types": {Product(): "id"}},
        {"types": {"Product": "id"}},
        {"types": {Product: "sku"}},
        {"types": {Product: None}},
        {"types": {}},
        {"settle": 0},
    ],
)
def test_arguments_that_are_wrong_are_refused(arguments):
    given = {"publisher": NullPublisher(), "types": {Product: "id"}} | arguments

    with pytest.raises(ConfigurationError):
        announce(sessionmaker(), **given)


def test_an_announced_session_needs_transactions(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    def work(session):
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.add(Product(name="Bolt"))
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            session.commit()
        session.rollback()
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            session.execute(delete(Product), execution_options={"announce": [1]})
        session.rollback()
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            announce_ids(session, Product, [1])
        session.rollback()

    shop.run(work)

    assert shop.saved(Product) == [1]


@pytest.mark.skipif(
    not hasattr(DefaultDialect, "detect_autocommit_setting"),
    reason="this SQLAlchemy can't see what its driver was told",
)
@pytest.mark.parametrize(
    ("url", "arguments"),
    [("sqlite_url", {"isolation_level": None}), ("postgres_url", {"autocommit": True})],
)
def test_a_driver_that_commits_each_statement_is_refused(request, url, arguments):
    engine = create_engine(request.getfixturevalue(url), connect_args=arguments)
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    announce(sessions, NullPublisher(), {Product: "id"})

    with sessions() as session:
        session.add(Product(name="Bolt"))
        with pytest.raises(ConfigurationError, match="its driver was told to commit"):
            session.commit()
        session.rollback()
        # On SQLite the end of a savepoint commits; PostgreSQL itself refuses it.
        with (
            pytest.raises((ConfigurationError, InternalError), match=r"told to commit|SAVEPOINT"),
            session.begin_nested(),
        ):
            session.add(Product(name="Bolt"))
        session.rollback()
        assert session.scalars(select(Product.id)).all() == []
    engine.dispose()


def test_a_dialect_that_cannot_see_what_its_driver_was_told_is_believed(sqlite_url):
    class Blind(type(sqlite_url.get_dialect()())):
        supports_statement_cache = True

        def detect_autocommit_setting(self, connection):
            raise NotImplementedError

    engine = create_engine(sqlite_url)
    engine.dialect.__class__ = Blind
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    announce(sessions, NullPublisher(), {Product: "id"})

    with sessions() as session:
        session.add(Product(name="Bolt"))
        session.commit()
        assert session.scalars(select(Product.id)).all() == [1]
    engine.dispose()


# Saves around a commit


def test_a_decorator_and_the_session_broadcast_a_save_once(shop):
    shop.make(Product(name="Anvil"))
    shop.announce({Product: "id"})

    @broadcasts_before_save(shop.publisher, id="product.id", settle=60.0)
    def save(session, product):
        product.price = 2
        session.commit()

    shop.run(lambda session: save(session, session.get(Product, 1)))

    assert shop.channel.ids() == ["1"]


def test_an_asynchronous_decorator_and_the_session_broadcast_a_save_once(sqlite_url, channel):
    shop = Shop(sqlite_url, channel, asynchronous=True)
    shop.announce({Product: "id"})

    @broadcasts_before_save(shop.publisher, id="product.id", settle=60.0)
    async def save(session, product):
        session.add(product)
        await session.commit()

    asyncio.run(shop.run_async(lambda session: save(session, Product(id=1, name="Anvil"))))

    assert channel.ids() == ["1"]
    assert shop.saved(Product) == [1]


def test_a_confirmed_save_is_broadcast_again_after_the_commit(shop):
    shop.announce({Product: "id"}, confirm=True)

    shop.run(save_another)
    wait_until(lambda: shop.channel.count() == {"visible": 2})

    assert shop.channel.ids() == ["1", "1"]


# Asynchronous sessions


def test_the_event_loop_goes_on_while_a_commit_is_broadcast(sqlite_url, channel):
    """Each publish waits for the loop, so it would fail if the loop waited for it."""
    shop = Shop(sqlite_url, channel, asynchronous=True)
    loop_went_on = threading.Event()

    class Slow:
        def publish(self, events, /):
            loop.call_soon_threadsafe(loop_went_on.set)
            assert loop_went_on.wait(30)
            shop.publisher.publish(events)

    shop.announce({Product: "id"}, Slow())

    async def work(session):
        nonlocal loop
        loop = asyncio.get_running_loop()
        session.add(Product(name="Anvil"))
        await session.commit()

    loop = None
    asyncio.run(shop.run_async(work))

    assert channel.ids() == ["1"]


def test_what_could_not_be_broadcast_does_not_count_as_announced():
    class Down:
        def __enter__(self):
            raise RuntimeError("SNS is down")

    hook, work = Hook([], lambda ids: Down()), Work()
    work.add(["p1"])

    with pytest.raises(RuntimeError, match="SNS is down"):
        hook._broadcast(work)

    assert (work.announced, list(work.ids)) == (set(), ["p1"])
