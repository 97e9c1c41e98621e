"""SQLiteSink with tables of the user's own."""

from __future__ import annotations

import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial

import pytest

from change_events import ConfigurationError, Entry, Found, Gone, SQLiteSink, Unchanged
from change_events.testing import SinkContract
from change_events.testing._sink_extras import ReadingRules
from databases import OfOwnTables
from hooks.sqlite_products import delete, read, upsert

FOUND = Found({"id": "p1", "name": "Anvil", "n": 1}, '"one"', "d1")
PAGE = {f"p{n}": Found({"name": f"Anvil {n}", "n": n}, None, f"d{n}") for n in range(3)}

NOT_OURS = (
    "the entities are where upsert= put them, in tables of your own: query those; "
    r"get\(\) needs read="
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def sql(path):
    """Run a statement without the sink, and return its rows."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield lambda statement: connection.execute(statement).fetchall()


@pytest.fixture
def products(sql):
    sql(
        "CREATE TABLE products (id text PRIMARY KEY, name text NOT NULL CHECK (name <> ''), "
        "n integer NOT NULL)"
    )
    return lambda: sql("SELECT id, name, n FROM products ORDER BY id")


@pytest.fixture
def make(path, products):
    """Make sinks for the file, with other hooks or these."""
    made = []

    def make(**settings):
        made.append(SQLiteSink(path, **{"upsert": upsert, "delete": delete, **settings}))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


class TestSQLiteSinkWithTablesOfYourOwn(OfOwnTables, SinkContract):
    @pytest.fixture
    def sink(self, open_again, clock):
        with open_again(clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, path, products):
        return partial(SQLiteSink, path, timeout=30, upsert=upsert, delete=delete, read=read)


class TestSQLiteSinkThatCanNotReadTablesOfYourOwn(OfOwnTables, ReadingRules):
    """Its reading tests are skipped, because nothing says how to read."""

    @pytest.fixture
    def sink(self, make, products):
        return make()


def test_the_version_and_the_users_tables_change_together_or_not_at_all(make, products):
    sink = make()
    assert sink.apply("p1", FOUND, if_version=0)
    entry = sink.entry("p1")

    with pytest.raises(sqlite3.IntegrityError):
        sink.apply("p1", Found({"name": "", "n": 2}, '"two"'), if_version=entry.version)

    assert sink.entry("p1") == entry
    assert products() == [("p1", "Anvil", 1)]


def test_a_failing_hook_is_rolled_back(make, products):
    def fail(connection, id, value=None):
        upsert(connection, id, {"name": "half", "n": 0})
        raise LookupError("no such shelf")

    sink = make(upsert=fail, delete=fail)
    for change in (FOUND, Gone()):
        with pytest.raises(LookupError, match="no such shelf"):
            sink.apply("p1", change, if_version=0)

    assert sink.entry("p1") == Entry()
    assert products() == []


def test_a_look_that_lost_calls_no_hook(make):
    called = []
    sink = make(
        upsert=lambda *_: called.append("upsert"), delete=lambda *_: called.append("delete")
    )
    sink.apply("p1", FOUND, if_version=0)
    sink.apply("p1", Unchanged(), if_version=sink.entry("p1").version)
    for change in (FOUND, Unchanged(), Gone()):
        assert sink.apply("p1", change, if_version=1) is False

    assert called == ["upsert"]


def test_upsert_is_called_for_the_stored_part_of_a_page_only(make):
    called = []
    sink = make(upsert=lambda _, id, value: called.append((id, value)))
    sink.apply("p1", Gone(), if_version=0)

    assert sink.insert_many(PAGE) == {"p0", "p2"}
    assert called == [(id, PAGE[id].value) for id in ("p0", "p2")]


def test_if_upsert_fails_for_one_entity_nothing_of_the_page_is_stored(make, products):
    def fail_at_p2(connection, id, value):
        upsert(connection, id, value)
        if id == "p2":
            raise LookupError("no such shelf")

    sink = make(upsert=fail_at_p2)
    with pytest.raises(LookupError):
        sink.insert_many(PAGE)

    assert (len(sink), products()) == (0, [])


def test_tables_of_ones_own_can_store_what_json_can_not(make, sql):
    stored = []
    value = {"id": "p1", "on": {"Monday", "Friday"}}
    sink = make(upsert=lambda _, id, value: stored.append(value))

    assert sink.apply("p1", Found(value), if_version=0)
    assert stored == [value]
    assert sql("SELECT id, body FROM entities") == [("p1", "null")]


def test_entities_in_the_users_tables_can_not_be_read_through_the_sink(make):
    sink = make()
    for reading in (sink.items, partial(sink.get, "p1"), partial(sink.get_many, ["p1"])):
        with pytest.raises(ConfigurationError, match=f"^{NOT_OURS}$"):
            reading()


def test_read_waits_for_no_writer(make, path):
    sink = make(read=read, timeout=0.1)
    sink.apply("p1", FOUND, if_version=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        assert sink.get("p1") == {"name": "Anvil", "n": 1}


def test_all_that_read_reads_is_of_one_moment(make, path, sql):
    def read_and_change(connection, id):
        found = read(connection, id)
        sql("UPDATE products SET n = n + 1")
        return found

    sink = make(read=read_and_change)
    sink.insert_many({"p1": FOUND, "p2": FOUND})

    anvil = {"name": "Anvil", "n": 1}
    assert sink.get_many(["p1", "p2"]) == {"p1": anvil, "p2": anvil}


def test_what_read_raises_is_raised_and_the_next_look_is_as_always(make):
    def fail(connection, id):
        connection.row_factory = sqlite3.Row
        raise LookupError("no such shelf")

    sink = make(read=fail)
    with pytest.raises(LookupError, match="no such shelf"):
        sink.get("p1")

    assert sink.apply("p1", FOUND, if_version=0)


def test_read_can_not_call_its_sink(make):
    sink = make(read=lambda _, id: sink.get(id))
    with pytest.raises(RuntimeError, match="upsert, delete and read can't call their sink"):
        sink.get("p1")


def test_read_is_for_tables_of_ones_own(path):
    with pytest.raises(ConfigurationError, match=r"^read= is for tables of your own, which need"):
        SQLiteSink(path, read=read)
    assert not path.exists()


@pytest.mark.parametrize("hooks", [{"upsert": upsert}, {"delete": delete}])
def test_one_hook_without_the_other_is_refused(path, hooks):
    with pytest.raises(ConfigurationError, match=r"^tables of your own need both upsert= and del"):
        SQLiteSink(path, **hooks)
    assert not path.exists()


def test_foreign_keys_are_enforced(make, sql):
    sql("CREATE TABLE shelves (product text REFERENCES products ON DELETE CASCADE)")
    sink = make()
    sink.apply("p1", FOUND, if_version=0)
    sql("INSERT INTO shelves VALUES ('p1')")
    sink.apply("p1", Gone(), if_version=sink.entry("p1").version)

    assert sql("SELECT * FROM shelves") == []


def test_a_constraint_that_is_checked_at_the_commit_fails_the_look(make, sql):
    sql(
        "CREATE TABLE shelves (product text REFERENCES products DEFERRABLE INITIALLY DEFERRED, n "
        "integer)"
    )

    def shelve(connection, id, value):
        connection.execute("INSERT INTO shelves VALUES (?, 1)", (id,))

    sink = make(upsert=shelve)
    with pytest.raises(sqlite3.IntegrityError):
        sink.apply("p1", FOUND, if_version=0)

    assert (sink.entry("p1"), sql("SELECT * FROM shelves")) == (Entry(), [])
    assert make().apply("p1", FOUND, if_version=0)


ENDS = {
    "COMMIT": lambda connection: connection.execute("COMMIT"),
    "ROLLBACK": lambda connection: connection.execute("ROLLBACK"),
    "commit()": lambda connection: connection.commit(),
    "rollback()": lambda connection: connection.rollback(),
    "close()": lambda connection: connection.close(),
    "another transaction": lambda connection: [
        connection.execute("ROLLBACK"),
        connection.execute("BEGIN"),
    ],
    "executescript()": lambda connection: connection.executescript("SELECT 1"),
}


@pytest.mark.parametrize(
    ("change", "hook"), [(FOUND, "upsert"), (Gone(), "delete")], ids=["upsert", "delete"]
)
@pytest.mark.parametrize("end", ENDS)
def test_a_look_whose_hook_ends_the_transaction_fails_and_is_right_when_it_is_tried_again(
    make, sql, products, end, change, hook
):
    sql("INSERT INTO products VALUES ('p1', 'before', 0)")
    ending = [ENDS[end]]

    def badly(connection, id, value=None):
        if ending:
            connection.execute("UPDATE products SET name = 'badly'")
            ending.pop()(connection)
        else:
            upsert(connection, id, value) if value else delete(connection, id)

    sink = make(upsert=badly, delete=badly)
    with pytest.raises(RuntimeError, match=rf"^{hook} must leave its transaction and the connec"):
        sink.apply("p1", change, if_version=0)
    committed = "commit" in end.lower() or end == "executescript()"
    assert products() == [("p1", "badly" if committed else "before", 0)]

    # Only what the hook itself has committed is there, with a version.
    assert (sink.entry("p1") != Entry()) == committed
    assert sink.apply("p1", change, if_version=sink.entry("p1").version)
    assert products() == ([("p1", "Anvil", 1)] if hook == "upsert" else [])


def as_dict(cursor, row):
    return {name: value for (name, *_), value in zip(cursor.description, row, strict=True)}


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row_factory", sqlite3.Row),
        ("row_factory", as_dict),
        ("text_factory", bytes),
        ("isolation_level", "DEFERRED"),
    ],
)
def test_what_hooks_set_on_their_connection_changes_nothing_for_the_sink(
    make, path, name, value, raises
):
    def choose(connection, id, entity):
        setattr(connection, name, value)
        if raises:
            raise LookupError("no such shelf")

    sink = make(upsert=choose)
    with suppress(LookupError):
        assert sink.insert_many(PAGE) == set(PAGE)
    assert [sink.entry(id).digest for id in PAGE] == ([None] * 3 if raises else ["d0", "d1", "d2"])
    assert sink.ids() == ([] if raises else list(PAGE))

    assert sink.set_state("name", "text", if_state=None)
    with SQLiteSink(path) as other:
        assert other.state("name") == "text"


def test_a_hook_can_catch_an_error_of_a_statement(make, sql, products):
    sql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")

    def insert(connection, id, value):
        with suppress(sqlite3.IntegrityError):
            connection.execute("INSERT INTO products VALUES (?, 'Anvil', 2)", (id,))

    sink = make(upsert=insert)

    assert sink.apply("p1", FOUND, if_version=0)
    assert sink.entry("p1").present


def test_an_error_after_which_sqlite_rolls_back_fails_the_look_also_if_it_is_caught(make, sql):
    sql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")

    def insert(connection, id, value):
        with suppress(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO products VALUES (?, 'Anvil', 2)", (id,))

    sink = make(upsert=insert)
    with pytest.raises(RuntimeError, match="don't catch an error after which SQLite rolls back"):
        sink.apply("p1", FOUND, if_version=0)

    assert sink.entry("p1") == Entry()


@pytest.mark.parametrize("call", ["entry", "apply"])
def test_a_hook_that_calls_its_sink_is_told_so_and_waits_for_nothing(make, products, call):
    calls = {
        "entry": lambda: sink.entry("p2"),
        "apply": lambda: sink.apply("p2", Unchanged(), if_version=7),
    }

    def badly(connection, id, value):
        upsert(connection, id, value)
        calls[call]()

    sink = make(upsert=badly)
    with pytest.raises(RuntimeError, match=r"^upsert, delete and read can't call their sink"):
        sink.apply("p1", FOUND, if_version=0)

    assert (sink.entry("p1"), products()) == (Entry(), [])


def test_a_connection_in_memory_that_a_hook_closes_is_not_opened_again_empty():
    sink = SQLiteSink(":memory:", upsert=lambda connection, *_: connection.close(), delete=delete)
    with pytest.raises(RuntimeError, match="upsert must leave"):
        sink.apply("p1", FOUND, if_version=0)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        sink.entry("p1")
    sink.close()


def test_looks_of_other_threads_wait_until_a_hook_has_ended(make, products):
    started, ended = threading.Event(), threading.Event()

    def wait(connection, id, value):
        if id == "p1":
            started.set()
            assert ended.wait(60)
        upsert(connection, id, value)

    sink = make(upsert=wait)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(sink.apply, "p1", FOUND, if_version=0)
        assert started.wait(60)
        looks = [pool.submit(sink.apply, f"p{n}", FOUND, if_version=0) for n in range(2, 8)]
        unchanged = pool.submit(sink.apply, "p8", Unchanged(), if_version=7)
        ended.set()
        assert first.result()
        assert all(look.result() for look in looks)
        assert unchanged.result() is False

    assert len(products()) == len(sink) == 7


def test_a_hook_of_a_locked_database_is_not_called(make, sql):
    called = []
    sink = make(upsert=lambda *_: called.append(1), timeout=0.05)
    sql("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sink.apply("p1", FOUND, if_version=0)
    sql("COMMIT")

    assert not called
    assert sink.apply("p1", FOUND, if_version=0)


def test_the_table_with_bodies_elsewhere_can_be_queried(make, sql):
    make().insert_many(PAGE)

    assert sql(
        "SELECT count(json_extract(body, '$.name')) FROM entities WHERE body IS NOT NULL"
    ) == [(0,)]
    assert re.search("'null' if it is in a table of your own", SQLiteSink.__doc__)
