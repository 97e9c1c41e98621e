"""SQLAlchemySink on SQLite, PostgreSQL and MariaDB: the contract, and what it stores."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier, Event, Thread

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url as parsed
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from change_events import ConfigurationError, Entry, Found, Gone, SQLAlchemySink, Unchanged
from change_events.sinks.sqlalchemy.entries import AT_ONCE
from change_events.testing import SinkContract
from databases import DATABASES, OfOwnTables, make_products, make_url, running_on
from hooks.sqlalchemy_products import delete, read, upsert

FOUND = Found({"id": "p1", "name": "Anvil", "n": 1}, '"one"', "d1")

NOT_OURS = (
    "the entities are where upsert= put them, in tables of your own: query those; "
    r"get\(\) needs read="
)


@pytest.fixture(params=DATABASES)
def url(request, tmp_path):
    return make_url(request, tmp_path, request.param)


@pytest.fixture
def postgresql(request, tmp_path):
    return make_url(request, tmp_path, "PostgreSQL")


@pytest.fixture
def mariadb_url(request, tmp_path):
    return make_url(request, tmp_path, "MariaDB")


@pytest.fixture
def sql(url):
    with running_on(url) as run:
        yield run


@pytest.fixture
def on_postgresql(postgresql):
    with running_on(postgresql) as run:
        yield run


@pytest.fixture
def on_mariadb(mariadb_url):
    with running_on(mariadb_url) as run:
        yield run


@pytest.fixture
def products(url, sql):
    make_products(url, sql)
    return lambda: sql("SELECT id, name, n FROM products ORDER BY id")


class TestSQLAlchemySink(SinkContract):
    @pytest.fixture
    def sink(self, open_again, clock):
        with open_again(clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, url):
        return partial(SQLAlchemySink, url, timeout=30)


class TestSQLAlchemySinkWithTablesOfYourOwn(OfOwnTables, TestSQLAlchemySink):
    @pytest.fixture
    def open_again(self, url, products):
        return partial(SQLAlchemySink, url, timeout=30, upsert=upsert, delete=delete, read=read)


def test_the_table_is_as_documented_and_can_be_queried(mariadb_url, on_mariadb):
    with SQLAlchemySink(mariadb_url, revision="r1", clock=lambda: 7.0) as sink:
        sink.apply("p1", Found({"name": "\u00dc \U0001f40d"}, '"one"', "d1"), if_version=0)
        sink.apply("p2", Gone(), if_version=0)

    documented = SQLAlchemySink.__doc__.partition("CREATE TABLE entities (")[2].partition("    )")[
        0
    ]
    on_mariadb(f"CREATE TABLE documented ({re.sub('--.*', '', documented)}) CHARSET utf8mb4")
    columns = (
        "SELECT column_name, column_type, is_nullable, collation_name, column_key "
        "FROM information_schema.columns WHERE table_name = '{}' AND table_schema = database() "
        "ORDER BY ordinal_position"
    )
    assert on_mariadb(columns.format("entities")) == on_mariadb(columns.format("documented"))
    assert on_mariadb("SELECT * FROM entities ORDER BY id") == [
        ("p1", 7_000_000, 1, '{"name": "\\u00dc \\ud83d\\udc0d"}', '"one"', "d1", "r1", None, 7.0),
        ("p2", 7_000_000, 0, None, None, None, "r1", None, 7.0),
    ]
    names = "SELECT json_value(body, '$.name') FROM entities WHERE present"
    assert on_mariadb(names) == [("\u00dc \U0001f40d",)]


def test_the_cache_survives_the_process(url):
    with SQLAlchemySink(url) as sink:
        sink.apply("p1", FOUND, if_version=0)
        entry = sink.entry("p1")

    with SQLAlchemySink(parsed(url)) as sink:
        assert sink.entry("p1") == entry
        assert sink.get("p1") == FOUND.value


def test_one_database_can_hold_several_tables_even_with_reserved_words_as_names(url):
    with SQLAlchemySink(url, table="order") as orders, SQLAlchemySink(url, table="Group") as others:
        orders.apply("1", FOUND, if_version=0)

        assert (len(orders), len(others)) == (1, 0)


def test_a_large_entity_is_stored_whole(url):
    value = {"text": "Sm\u00f8rrebr\u00f8d \U0001f40d" * 50_000}
    with SQLAlchemySink(url) as sink:
        assert sink.apply("p1", Found(value, '"' + "e" * 70_000 + '"'), if_version=0)

        assert sink.get("p1") == value
        assert len(sink.entry("p1").etag) == 70_002


@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), (float("nan"), ValueError)])
def test_an_entity_that_json_can_not_hold_is_not_written(url, value, error):
    with SQLAlchemySink(url) as sink:
        page = {"p1": Found({}), "p2": Found({"value": value})}
        with pytest.raises(error):
            sink.apply("p2", page["p2"], if_version=0)
        with pytest.raises(error):
            sink.insert_many(page)

        assert (sink.entry("p1"), sink.entry("p2")) == (Entry(), Entry())


def test_an_id_that_is_too_long_is_refused_before_a_database_cuts_it_off(url):
    too_long = "x" * 514
    with SQLAlchemySink(url) as sink:
        for write in (
            partial(sink.apply, too_long, FOUND, if_version=0),
            partial(sink.insert_many, {"p1": FOUND, too_long: FOUND}),
            partial(sink.set_state, too_long, "text", if_state=None),
        ):
            with pytest.raises(ValueError, match=r"has 51[45] characters, and at most 512 fit"):
                write()

        assert len(sink) == 0


def test_an_error_does_not_quote_the_entity(postgresql):
    with SQLAlchemySink(postgresql) as sink, pytest.raises(DataError) as caught:
        sink.apply("p1", Found({"name": "a secret"}, "\0"), if_version=0)

    assert "INSERT INTO entities" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_tombstones_are_purged_in_portions(url):
    now = [0.0]
    with SQLAlchemySink(url, clock=lambda: now[0]) as sink:
        sink.insert_many({f"p{n}": FOUND for n in range(AT_ONCE + 2)})
        sink.set_state("name", "text", if_state=None)
        for n in range(AT_ONCE + 1):
            sink.apply(f"p{n}", Gone(), if_version=sink.entry(f"p{n}").version)
        now[0] = 15 * 24 * 3600.0
        sink.apply("young", Gone(), if_version=0)

        assert sink.purge() == AT_ONCE + 1
        assert sink.purge() == 0
        assert (sink.state("name"), sink.ids()) == ("text", [f"p{AT_ONCE + 1}"])
        assert sink.entry("young") != Entry()


def test_a_call_names_a_thousand_ids_unless_it_is_told_another_number(url):
    with SQLAlchemySink(url) as sink:
        sink.insert_many({f"p{n:04}": FOUND for n in range(1001)})

        assert sink.ids() == [f"p{n:04}" for n in range(1000)]
        assert len(sink.ids(limit=1001)) == 1001


def test_an_insert_that_fails_for_another_reason_than_the_id_is_an_error(url, sql):
    with SQLAlchemySink(url, clock=lambda: 7.0) as sink:
        sql("CREATE UNIQUE INDEX one ON entities (applied_at)")
        sink.apply("p1", FOUND, if_version=0)
        with pytest.raises(IntegrityError):
            sink.apply("p2", FOUND, if_version=0)
        with pytest.raises(IntegrityError):
            sink.insert_many({"p1": FOUND, "p2": FOUND})


# Isolation


LEVELS = pytest.mark.parametrize(
    "level", ["AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
)


@pytest.fixture
def engine_with(url):
    """Make an engine with an isolation level."""
    engines = []

    def make(level, **settings):
        if url.startswith("sqlite") and level not in {"AUTOCOMMIT", "SERIALIZABLE"}:
            pytest.skip("SQLite has no such level")
        engines.append(create_engine(url, isolation_level=level, **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@LEVELS
def test_whatever_the_isolation_level_one_look_wins(engine_with, level):
    sink = SQLAlchemySink(engine_with(level, pool_size=10, pool_timeout=60))
    start = Barrier(6)

    def contend(number):
        won = []
        for turn in range(10):
            start.wait(60)
            version = sink.entry("p1").version
            start.wait(60)
            if sink.apply("p1", Found({"n": number}), if_version=version):
                won.append(turn)
            page = {f"{turn}-{n}": Found({"n": number}) for n in range(10)}
            won += sink.insert_many(page if number % 2 else dict(reversed(page.items())))
        return won

    with ThreadPoolExecutor(6) as pool:
        wins = [win for won in pool.map(contend, range(6)) for win in won]

    assert len(wins) == len(set(wins)) == 110


@LEVELS
def test_whatever_the_isolation_level_the_hooks_are_rolled_back(engine_with, products, level):
    def fail(connection, id, value):
        upsert(connection, id, {"name": "half", "n": 0})
        raise LookupError("no such shelf")

    engine = engine_with(level)
    failing = SQLAlchemySink(engine, upsert=fail, delete=delete)
    with pytest.raises(LookupError):
        failing.apply("p1", FOUND, if_version=0)

    sink = SQLAlchemySink(engine, upsert=upsert, delete=delete)
    assert (sink.entry("p1"), products()) == (Entry(), [])
    assert sink.apply("p1", FOUND, if_version=0)
    assert products() == [("p1", "Anvil", 1)]


@pytest.mark.parametrize("name", ["SQLite", "MariaDB"])
def test_a_driver_that_commits_each_statement_is_told_to_roll_back(request, tmp_path, name):
    url = make_url(request, tmp_path, name)
    settings = {"isolation_level": None} if name == "SQLite" else {"autocommit": True}
    engine = create_engine(url, connect_args=settings)

    def fail(connection, id, value):
        raise LookupError("no such shelf")

    sink = SQLAlchemySink(engine, upsert=fail, delete=delete)
    with pytest.raises(LookupError):
        sink.apply("p1", FOUND, if_version=0)

    assert sink.entry("p1") == Entry()
    with running_on(url) as sql:
        assert sql("SELECT * FROM entities") == []
    engine.dispose()


def test_a_serialization_failure_is_tried_again(postgresql, on_postgresql):
    on_postgresql("CREATE TABLE shelves (n integer)")
    on_postgresql("INSERT INTO shelves VALUES (0)")
    called = []

    def count(connection, id, value):
        called.append(id)
        connection.execute(text("SELECT n FROM shelves")).one()  # the snapshot
        if len(called) <= failures:
            on_postgresql("UPDATE shelves SET n = n + 10")
        connection.execute(text("UPDATE shelves SET n = n + 1"))

    engine = create_engine(postgresql, isolation_level="REPEATABLE READ")
    sink = SQLAlchemySink(engine, upsert=count, delete=delete)
    failures = 4
    assert sink.apply("p1", FOUND, if_version=0)
    assert (len(called), on_postgresql("SELECT n FROM shelves")) == (5, [(41,)])

    called.clear()
    failures = 5
    with pytest.raises(DBAPIError, match="could not serialize"):
        sink.apply("p2", FOUND, if_version=0)
    assert (len(called), sink.entry("p2")) == (5, Entry())
    engine.dispose()


@pytest.fixture
def deadlock(on_mariadb, mariadb_url):
    """What a hook can do in MariaDB to be the victim of a deadlock: lock rows in another order."""
    on_mariadb("CREATE TABLE shelves (n integer PRIMARY KEY, v integer) ENGINE InnoDB")
    on_mariadb("INSERT INTO shelves VALUES (1, 0), (2, 0)")
    lock = text("UPDATE shelves SET v = v + 1 WHERE n = :n")
    engine = create_engine(mariadb_url)
    threads = []

    def hold(started, asked):
        with engine.begin() as other:
            # The victim is the transaction that has changed fewer rows.
            other.execute(text("INSERT INTO shelves SELECT seq, 0 FROM seq_10_to_500"))
            other.execute(text("DELETE FROM shelves WHERE n >= 10"))
            other.execute(lock, {"n": 2})
            started.set()
            assert asked.wait(60)
            other.execute(lock, {"n": 1})

    def meet(connection):
        started, asked = Event(), Event()
        threads.append(Thread(target=hold, args=(started, asked)))
        threads[-1].start()
        assert started.wait(60)
        connection.execute(lock, {"n": 1})
        asked.set()
        connection.execute(lock, {"n": 2})

    yield meet
    for thread in threads:
        thread.join()
    engine.dispose()


def test_a_deadlock_that_a_hook_catches_is_not_taken_for_the_look_that_came_next(
    mariadb_url, deadlock
):
    """The next look writes the same version, because the first one's is undone."""
    sink = SQLAlchemySink(mariadb_url, upsert=lambda *_: None, delete=lambda *_: None)
    sink.apply("p1", FOUND, if_version=0)
    version = sink.entry("p1").version

    def catch(connection, id, value):
        with suppress(DBAPIError):
            deadlock(connection)
        assert sink.apply("p1", Found({"n": 2}, None, "older"), if_version=version)

    with sink, SQLAlchemySink(mariadb_url, upsert=catch, delete=delete) as other:
        with pytest.raises(RuntimeError, match="upsert caught an error"):
            other.apply("p1", Found({"n": 3}, None, "newer"), if_version=version)
        assert sink.entry("p1").digest == "older"


def test_a_deadlock_is_tried_again(mariadb_url, on_mariadb, deadlock):
    called = []

    def meet_once(connection, id, value):
        called.append(id)
        if len(called) == 1:
            deadlock(connection)

    with SQLAlchemySink(mariadb_url, upsert=meet_once, delete=delete) as sink:
        assert sink.apply("p1", FOUND, if_version=0)

        assert (called, sink.entry("p1").present) == (["p1", "p1"], True)


def test_a_deadlock_that_a_hook_catches_fails_the_look(mariadb_url, on_mariadb, deadlock):
    """MariaDB then undoes the whole transaction, and goes on with the next one, without a word."""

    def catch(connection, id, value):
        with suppress(DBAPIError):
            deadlock(connection)

    with SQLAlchemySink(mariadb_url, upsert=catch, delete=delete) as sink:
        with pytest.raises(RuntimeError, match="upsert caught an error"):
            sink.apply("p1", FOUND, if_version=0)

        assert sink.entry("p1") == Entry()


# Tables of your own


@pytest.fixture
def sink(url, products):
    with SQLAlchemySink(url, upsert=upsert, delete=delete) as sink:
        yield sink


def test_the_version_and_the_users_tables_change_together_or_not_at_all(sink, products):
    assert sink.apply("p1", FOUND, if_version=0)
    entry = sink.entry("p1")

    with pytest.raises(DBAPIError):
        sink.apply("p1", Found({"name": "", "n": 2}, '"two"'), if_version=entry.version)

    assert sink.entry("p1") == entry
    assert products() == [("p1", "Anvil", 1)]


def test_an_integrity_error_of_a_hook_is_not_taken_for_a_lost_race(url, products):
    def insert(connection, id, value):
        connection.execute(text("INSERT INTO products VALUES ('p1', 'Anvil', 1)"))

    with SQLAlchemySink(url, upsert=insert, delete=delete) as sink:
        assert sink.apply("p1", FOUND, if_version=0)
        with pytest.raises(IntegrityError):
            sink.apply("p2", FOUND, if_version=0)

        assert sink.entry("p2") == Entry()


def test_a_look_that_lost_calls_no_hook(url):
    called = []
    with SQLAlchemySink(
        url,
        upsert=lambda *_: called.append("upsert"),
        delete=lambda *_: called.append("delete"),
    ) as sink:
        sink.apply("p1", FOUND, if_version=0)
        sink.apply("p1", Unchanged(), if_version=sink.entry("p1").version)
        for change in (FOUND, Unchanged(), Gone()):
            for version in (0, 1):
                assert sink.apply("p1", change, if_version=version) is False

    assert called == ["upsert"]


PAGE = {f"p{n}": Found({"name": f"Anvil {n}", "n": n}, None, f"d{n}") for n in range(3)}


def test_upsert_is_called_for_the_stored_part_of_a_page_only(url):
    called = []
    with SQLAlchemySink(
        url, upsert=lambda _, id, value: called.append((id, value)), delete=lambda *_: None
    ) as sink:
        sink.apply("p1", Gone(), if_version=0)
        assert sink.insert_many(dict(reversed(PAGE.items()))) == {"p0", "p2"}

    assert called == [(id, PAGE[id].value) for id in ("p0", "p2")]


def test_if_upsert_fails_for_one_entity_nothing_of_the_page_is_stored(url, products):
    def fail_at_p2(connection, id, value):
        upsert(connection, id, value)
        if id == "p2":
            raise LookupError("no such shelf")

    with SQLAlchemySink(url, upsert=fail_at_p2, delete=delete) as sink:
        with pytest.raises(LookupError):
            sink.insert_many(PAGE)

        assert (len(sink), products()) == (0, [])


def test_entities_in_the_users_tables_can_not_be_read_through_the_sink(sink):
    for reading in (sink.items, partial(sink.get, "p1"), partial(sink.get_many, ["p1"])):
        with pytest.raises(ConfigurationError, match=f"^{NOT_OURS}$"):
            reading()


def test_what_read_raises_is_raised_and_the_next_read_is_as_always(url, products):
    def fail(connection, id):
        connection.execute(text("SELECT * FROM no_such_table"))

    with SQLAlchemySink(url, upsert=upsert, delete=delete, read=fail, connections=1) as sink:
        sink.apply("p1", FOUND, if_version=0)
        with pytest.raises(DBAPIError):
            sink.get("p1")
        assert sink.entry("p1").present


def test_read_is_for_tables_of_ones_own(url):
    with pytest.raises(ConfigurationError, match=r"^read= is for tables of your own, which need"):
        SQLAlchemySink(url, read=read)


def test_one_hook_without_the_other_is_refused(url):
    for hooks in ({"upsert": upsert}, {"delete": delete}):
        with pytest.raises(ConfigurationError, match=r"need both upsert= and delete="):
            SQLAlchemySink(url, **hooks)


ENDS = {
    "commit()": lambda connection: connection.commit(),
    "rollback()": lambda connection: connection.rollback(),
    "rollback(), and more": lambda connection: (
        connection.rollback(),
        connection.execute(text("SELECT 1")),
    ),
    "close()": lambda connection: connection.close(),
    "ROLLBACK": lambda connection: connection.exec_driver_sql("ROLLBACK"),
    "ROLLBACK, and more": lambda connection: (
        connection.exec_driver_sql("ROLLBACK"),
        connection.exec_driver_sql("SELECT 1"),
    ),
}


@pytest.mark.parametrize(
    ("change", "hook"), [(FOUND, "upsert"), (Gone(), "delete")], ids=["upsert", "delete"]
)
@pytest.mark.parametrize("end", ENDS)
def test_a_look_whose_hook_ends_the_transaction_fails_and_is_right_when_it_is_tried_again(
    url, sql, products, end, change, hook
):
    sql("INSERT INTO products VALUES ('p1', 'before', 0)")

    def badly(connection, id, value=None):
        connection.execute(text("UPDATE products SET name = 'badly'"))
        ENDS[end](connection)

    with (
        SQLAlchemySink(url, upsert=badly, delete=badly) as sink,
        pytest.raises(RuntimeError, match=f"^{hook} "),
    ):
        sink.apply("p1", change, if_version=0)
    committed = end == "commit()"
    assert products() == [("p1", "badly" if committed else "before", 0)]

    with SQLAlchemySink(url, upsert=upsert, delete=delete) as sink:
        # Only what the hook itself has committed is there, with a version.
        assert (sink.entry("p1") != Entry()) == committed
        assert sink.apply("p1", change, if_version=sink.entry("p1").version)
    assert products() == ([("p1", "Anvil", 1)] if hook == "upsert" else [])


def test_a_connection_that_is_lost_in_a_hook_is_an_outage_and_not_the_hooks_mistake(
    mariadb_url, on_mariadb
):
    def lose(connection, id, value):
        on_mariadb(f"KILL {connection.exec_driver_sql('SELECT connection_id()').scalar()}")

    with SQLAlchemySink(mariadb_url, upsert=lose, delete=delete) as sink:
        with pytest.raises(DBAPIError, match=r"Lost connection|gone away"):
            sink.apply("p1", FOUND, if_version=0)

        assert sink.entry("p1") == Entry()


def insert_p1(connection):
    connection.execute(text("INSERT INTO products VALUES ('p1', 'Anvil', 1)"))


def test_an_error_of_postgresql_that_a_hook_catches_fails_the_look(postgresql, on_postgresql):
    on_postgresql("CREATE TABLE products (id text PRIMARY KEY, name text, n integer)")
    on_postgresql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")

    def catch(connection, id, value):
        with suppress(IntegrityError):
            insert_p1(connection)

    with SQLAlchemySink(postgresql, upsert=catch, delete=delete) as sink:
        with pytest.raises(
            RuntimeError, match=r"^upsert caught an error .*begin_nested\(\): .* must not be caught"
        ):
            sink.apply("p1", FOUND, if_version=0)

        assert sink.entry("p1") == Entry()


def test_a_hook_can_catch_errors_of_the_database_behind_a_savepoint(url, sql, products):
    sql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")

    def catch(connection, id, value):
        try:
            with connection.begin_nested():
                insert_p1(connection)
        except IntegrityError:
            connection.execute(text("UPDATE products SET n = 2 WHERE id = :id"), {"id": id})

    with SQLAlchemySink(url, upsert=catch, delete=delete) as sink:
        assert sink.apply("p1", FOUND, if_version=0)

        assert sink.entry("p1").present
        assert products() == [("p1", "Anvil", 2)]


def test_a_constraint_that_is_checked_at_the_commit_fails_the_look(postgresql, on_postgresql):
    on_postgresql("CREATE TABLE shelves (n integer PRIMARY KEY)")
    on_postgresql(
        "CREATE TABLE products (id text PRIMARY KEY, name text, "
        "n integer REFERENCES shelves DEFERRABLE INITIALLY DEFERRED)"
    )
    with SQLAlchemySink(postgresql, upsert=upsert, delete=delete) as sink:
        with pytest.raises(IntegrityError):
            sink.apply("p1", FOUND, if_version=0)

        assert sink.entry("p1") == Entry()


def test_a_purge_leaves_what_a_look_has_found_meanwhile(tmp_path):
    now, url = [1e9], f"sqlite:///{tmp_path}/cache.db"
    engine = create_engine(url)
    sink = SQLAlchemySink(engine, clock=lambda: now[0])
    other = SQLAlchemySink(url, clock=lambda: now[0])
    sink.apply("p1", Gone(), if_version=0)
    now[0] += 15 * 86_400

    def look(connection, cursor, statement, *_):
        if statement.startswith("DELETE"):
            assert other.apply("p1", FOUND, if_version=other.entry("p1").version)

    event.listen(engine, "before_cursor_execute", look)

    assert sink.purge() == 0
    assert sink.get("p1") == FOUND.value
    other.close()
    engine.dispose()


@pytest.fixture
def beginning(tmp_path):
    """An engine that begins transactions itself, as SQLAlchemy's manual shows it, with a WAL."""
    engine = create_engine(f"sqlite:///{tmp_path}/cache.db", connect_args={"timeout": 0.2})

    @event.listens_for(engine, "connect")
    def connect(connection, _):
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    yield engine
    engine.dispose()


def written_before(engine, word, write):
    """Write once, just before the first statement that begins with the word."""
    writes = [write]

    @event.listens_for(engine, "before_cursor_execute")
    def look(connection, cursor, statement, *_):
        if statement.startswith(word) and writes:
            writes.pop()()


def test_no_transaction_is_open_while_others_write(beginning, tmp_path):
    with (
        SQLAlchemySink(beginning) as sink,
        SQLAlchemySink(f"sqlite:///{tmp_path}/cache.db") as other,
    ):
        assert sink.set_state("name", "one", if_state=None)
        written_before(beginning, "UPDATE", lambda: other.apply("p1", FOUND, if_version=0))
        assert sink.set_state("name", "two", if_state="one")

        written_before(beginning, "INSERT", lambda: other.apply("p2", FOUND, if_version=0))
        assert sink.insert_many({"p3": FOUND}) == {"p3"}
