"""MemorySink and SQLiteSink."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from change_events import ConfigurationError, Entry, Found, Gone, MemorySink, SQLiteSink, Unchanged
from change_events.testing import SinkContract

FOUND = Found({"id": "p1", "n": 1}, '"one"')


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


class TestMemorySink(SinkContract):
    @pytest.fixture
    def sink(self, clock):
        return MemorySink(clock=clock)


class TestSQLiteSink(SinkContract):
    @pytest.fixture
    def sink(self, path, clock):
        with SQLiteSink(path, clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, path):
        return partial(SQLiteSink, path, timeout=30)


class Looks(RuleBasedStateMachine):
    """Any sequence of looks, current and stale, compared with a model of four attributes."""

    make = staticmethod(MemorySink)

    @initialize()
    def start(self):
        self.sink = self.make(clock=lambda: 1.0)
        self.version, self.value, self.etag, self.digest = 0, None, None, None

    @rule(
        change=st.builds(
            Found,
            st.dictionaries(st.text("ab", max_size=2), st.integers()),
            st.none() | st.text("xy", min_size=1),
            st.none() | st.text("de", min_size=1),
        )
        | st.just(Gone()),
        behind=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def look(self, change, behind):
        done = self.sink.apply("p1", change, if_version=self.version - behind)

        assert done == (behind == 0)
        if done:
            self.version = self.version + 1 if self.version else 1_000_000
            found = change if isinstance(change, Found) else Found(None)
            self.value, self.etag, self.digest = found.value, found.etag, found.digest

    @precondition(lambda self: self.value is not None)
    @rule(etag=st.none() | st.text("xy", min_size=1))
    def look_again(self, etag):
        assert self.sink.apply("p1", Unchanged(etag), if_version=self.version)
        self.version += 1
        self.etag = etag or self.etag

    @invariant()
    def agree(self):
        if hasattr(self, "sink"):
            present = self.value is not None
            assert self.sink.entry("p1") == Entry(self.version, present, self.etag, self.digest)
            assert self.sink.get("p1") == self.value

    def teardown(self):
        if isinstance(getattr(self, "sink", None), SQLiteSink):
            self.sink.close()


@pytest.mark.parametrize(
    "make", [MemorySink, partial(SQLiteSink, ":memory:")], ids=["memory", "sqlite"]
)
def test_any_sequence_of_looks_matches_a_model(make):
    run_state_machine_as_test(
        type("Looks", (Looks,), {"make": staticmethod(make)}),
        settings=settings(max_examples=40, stateful_step_count=20),
    )


# SQLite


def test_the_table_is_as_documented_and_can_be_queried(path):
    entity = {"name": "Ü", "n": [1, None, True]}
    with SQLiteSink(path, revision="r1", clock=lambda: 7.0) as sink:
        sink.apply("p1", Found(entity, '"one"', "d1"), if_version=0)
        sink.apply("p2", Gone(), if_version=0)
        other = sqlite3.connect(path)
        columns = [(row[1], row[2]) for row in other.execute("PRAGMA table_info(entities)")]
        rows = other.execute("SELECT * FROM entities ORDER BY id").fetchall()
        names = other.execute(
            "SELECT json_extract(body, '$.name') FROM entities WHERE body IS NOT NULL"
        ).fetchall()
        other.close()

    assert columns == re.findall(
        r"^ +(\w+) +(TEXT|INTEGER|REAL)\b", SQLiteSink.__doc__, re.MULTILINE
    )
    assert rows == [
        ("p1", 7_000_000, json.dumps(entity), '"one"', "d1", "r1", None, 7.0),
        ("p2", 7_000_000, None, None, None, "r1", None, 7.0),
    ]
    assert names == [("Ü",)]


def test_a_commit_reaches_the_disk_before_it_returns(path):
    with SQLiteSink(path) as sink:
        assert sink._file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert sink._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@contextmanager
def held_up(sink):
    """Let ten writes of the sink wait for each other; yield the statements that SQLite gets."""
    told = []
    with ThreadPoolExecutor(10) as pool, sink._file.lock:
        sink._file.connection.set_trace_callback(told.append)
        yield pool, told
        while len(sink._file.waiting) < 10:
            time.sleep(0.001)  # no event tells when a thread waits for a lock


def test_writes_that_wait_for_each_other_share_one_commit(path):
    with SQLiteSink(path) as sink:
        sink.apply("p1", FOUND, if_version=0)
        with held_up(sink) as (pool, told):
            applied = [pool.submit(sink.apply, f"p{n}", FOUND, if_version=0) for n in range(10)]

        assert [write.result() for write in applied] == [n != 1 for n in range(10)]
        assert [line.split()[0] for line in told] == ["BEGIN", *["INSERT"] * 10, "COMMIT"]
        assert len(sink) == 10


def test_a_write_that_fails_does_not_fail_the_writes_it_waited_with(path):
    with SQLiteSink(path) as sink:
        with held_up(sink) as (pool, _):
            # SQLite can't store a lone surrogate.
            changes = [Found({"n": n}, "\ud800" if n == 3 else None) for n in range(10)]
            applied = [
                pool.submit(sink.apply, f"p{n}", change, if_version=0)
                for n, change in enumerate(changes)
            ]

        assert isinstance(applied.pop(3).exception(), UnicodeEncodeError)
        assert all(write.result() for write in applied)
        assert sorted(dict(sink.items())) == [f"p{n}" for n in range(10) if n != 3]


def denying(operation):
    """Return an authorizer that denies an operation on transactions."""

    def authorize(action, what, *_):
        is_denied = (action, what) == (sqlite3.SQLITE_TRANSACTION, operation)
        return sqlite3.SQLITE_DENY if is_denied else sqlite3.SQLITE_OK

    return authorize


def test_writes_that_share_a_commit_that_fails_are_made_again_one_by_one(path):
    with SQLiteSink(path) as sink:
        with held_up(sink) as (pool, told):
            sink._file.connection.set_authorizer(denying("COMMIT"))
            applied = [pool.submit(sink.apply, f"p{n}", FOUND, if_version=0) for n in range(10)]

        assert all(write.result() for write in applied)
        group, alone = ["BEGIN", *["INSERT"] * 10, "ROLLBACK"], ["INSERT"] * 10
        assert [line.split()[0] for line in told] == group + alone
        other = sqlite3.connect(path)
        assert other.execute("SELECT count(*) FROM entities").fetchone() == (10,)
        other.close()


PAGE = {f"p{n}": Found({"n": n}, None, f"d{n}") for n in range(3)}


def test_a_page_is_stored_in_one_transaction(path):
    with SQLiteSink(path) as sink:
        sink.apply("p1", Gone(), if_version=0)
        told = []
        sink._file.connection.set_trace_callback(told.append)

        assert sink.insert_many(PAGE) == {"p0", "p2"}
        assert [line.split()[0] for line in told] == ["BEGIN", *["INSERT"] * 3, "COMMIT"]


def test_a_page_shares_the_commit_of_the_writes_that_it_waited_with(path):
    with SQLiteSink(path) as sink:
        with held_up(sink) as (pool, told):
            applied = [pool.submit(sink.apply, f"p{n}", FOUND, if_version=0) for n in range(1, 10)]
            inserted = pool.submit(sink.insert_many, PAGE)

        stored = inserted.result()
        assert "p0" in stored
        # Of a look and the page, the first one to wait wins.
        assert [write.result() for write in applied] == [
            f"p{n}" not in stored for n in range(1, 10)
        ]
        assert [line.split()[0] for line in told] == ["BEGIN", *["INSERT"] * 12, "COMMIT"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Found({"value": object()}), TypeError),
        (Found({"value": float("nan")}), ValueError),
        (Found({}, "\ud800"), UnicodeEncodeError),  # found by SQLite, after two rows
    ],
)
def test_a_page_with_an_entity_that_can_not_be_stored_stores_nothing(path, bad, error):
    with SQLiteSink(path) as sink:
        with pytest.raises(error):
            sink.insert_many({**PAGE, "bad": bad})

        assert dict(sink.items()) == {}
        assert sink.insert_many(PAGE) == set(PAGE)


def test_a_page_whose_commit_fails_stores_nothing_and_can_be_repeated(path):
    with SQLiteSink(path) as sink:
        sink._file.connection.set_authorizer(denying("COMMIT"))
        with pytest.raises(sqlite3.DatabaseError):
            sink.insert_many(PAGE)
        sink._file.connection.set_authorizer(None)

        assert dict(sink.items()) == {}
        assert sink.insert_many(PAGE) == set(PAGE)


def test_a_transaction_that_ctrl_c_has_left_open_does_not_keep_what_is_written_next(path):
    with SQLiteSink(path) as sink:
        # What an interrupt just after BEGIN leaves behind.
        sink._file.connection.execute("BEGIN IMMEDIATE")
        sink.apply("p0", FOUND, if_version=0)
        sink._file.connection.execute("BEGIN IMMEDIATE")
        sink.insert_many(PAGE)

        with SQLiteSink(path) as other:
            assert set(other.ids()) == set(PAGE)


def test_a_page_is_not_stored_in_a_locked_database(path):
    other = sqlite3.connect(path, isolation_level=None)
    with SQLiteSink(path, timeout=0.05) as sink:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sink.insert_many(PAGE)
        other.execute("COMMIT")

        assert dict(sink.items()) == {}
        assert sink.insert_many(PAGE) == set(PAGE)
    other.close()


def test_the_cache_survives_the_process(path):
    with SQLiteSink(path, clock=lambda: 7.0) as sink:
        sink.apply("p1", FOUND, if_version=0)
        sink.apply("p2", Gone(), if_version=0)

    with SQLiteSink(str(path)) as sink:
        assert sink.entry("p1") == Entry(7_000_000, True, '"one"')
        assert sink.entry("p2") == Entry(7_000_000, False, None)


OLD_TABLE = """
CREATE TABLE entities (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT, etag TEXT, applied_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO entities VALUES ('p1', 7, '{"n": 1}', '"one"', 7.0);
"""


def test_columns_that_an_older_table_lacks_are_added(path):
    other = sqlite3.connect(path)
    other.executescript(OLD_TABLE)
    other.close()

    for _ in range(2):
        with SQLiteSink(path) as sink:
            assert sink.entry("p1") == Entry(7, True, '"one"')
            sink.set_state("name", "text", if_state=sink.state("name"))
    with SQLiteSink(path) as sink:
        assert sink.apply("p1", Found({"n": 2}, '"two"', "d2"), if_version=7)
        assert sink.entry("p1") == Entry(8, True, '"two"', "d2")


def test_columns_are_added_once_however_many_sinks_start(tmp_path):
    for round in range(10):
        path = tmp_path / f"{round}.db"
        other = sqlite3.connect(path)
        other.executescript(OLD_TABLE)
        other.close()
        meet = threading.Barrier(4)

        def make(path=path, meet=meet):
            meet.wait()
            SQLiteSink(path).close()

        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make) for _ in range(4)]:
                made.result()


def test_no_column_is_added_to_a_table_that_is_not_a_cache(path):
    another_table(path)
    with pytest.raises(ConfigurationError):
        SQLiteSink(path)

    other = sqlite3.connect(path)
    assert [row[1] for row in other.execute("PRAGMA table_info(entities)")] == ["id", "name"]
    other.close()


def test_one_file_can_hold_several_tables(path):
    with SQLiteSink(path, table="products") as products, SQLiteSink(path, table="orders") as orders:
        products.apply("1", FOUND, if_version=0)

        assert (len(products), len(orders)) == (1, 0)


@pytest.mark.parametrize("value", [object(), float("inf"), float("nan")])
def test_an_entity_that_json_can_not_hold_is_not_written(path, value):
    with SQLiteSink(path) as sink:
        with pytest.raises((TypeError, ValueError), match="JSON"):
            sink.apply("p1", Found({"value": value}), if_version=0)

        assert sink.entry("p1") == Entry()


def test_writing_to_a_locked_database_is_an_error_until_it_is_unlocked(path):
    other = sqlite3.connect(path, isolation_level=None)
    with SQLiteSink(path, timeout=0.05) as sink:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sink.apply("p1", FOUND, if_version=0)
        assert sink.entry("p1") == Entry()  # a read still works

        other.execute("COMMIT")
        assert sink.apply("p1", FOUND, if_version=0)
    other.close()


def test_many_sinks_can_create_one_file_at_once(tmp_path):
    for round in range(30):
        meet = threading.Barrier(8)

        def make(path, meet=meet):
            meet.wait()
            SQLiteSink(path).close()

        with ThreadPoolExecutor(8) as pool:
            for made in [pool.submit(make, tmp_path / f"{round}.db") for _ in range(8)]:
                made.result()


def test_a_sink_waits_while_another_creates_the_file(path, monkeypatch):
    """
    A stub: SQLite refuses at once, but only sometimes, if two connections switch a new file to WAL
    mode at the same moment.
    """
    refusals = iter(["database is locked"] * 3)

    class Connection(sqlite3.Connection):
        def execute(self, statement, *values):
            if "journal_mode" in statement and (refusal := next(refusals, None)):
                raise sqlite3.OperationalError(refusal)
            return super().execute(statement, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    with SQLiteSink(path) as sink:
        assert sink.apply("p1", FOUND, if_version=0)
    assert next(refusals, None) is None


def directory(path):
    path.mkdir()


def not_a_database(path):
    path.write_text("not a database, but long enough to be one" * 20)


def another_table(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE entities (id INTEGER, name TEXT)")
    connection.close()


def locked(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (directory, "unable to open"),
        (not_a_database, "not a database"),
        (another_table, "no such column"),
        (locked, "locked"),
    ],
)
def test_a_file_that_can_not_be_a_cache_is_an_error_at_the_start(path, prepare, reason):
    holder = prepare(path)

    with pytest.raises(
        ConfigurationError,
        match=rf"cache\.db' can't be used: .*{reason}.*must exist and be writable",
    ):
        SQLiteSink(path, timeout=0.01)
    if holder:
        holder.close()


def test_a_missing_directory_is_an_error_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unable to open.*must exist"):
        SQLiteSink(tmp_path / "missing" / "cache.db")


def test_a_read_only_file_is_an_error_at_the_start(path, monkeypatch):
    SQLiteSink(path).close()
    connect = sqlite3.connect
    # Some machines run tests as root, and no permission stops root. SQLite's own read-only mode
    # stops everybody.
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda path, **kwargs: connect(f"file:{path}?mode=ro", **{**kwargs, "uri": True}),
    )

    with pytest.raises(ConfigurationError, match="readonly database"):
        SQLiteSink(path)


@pytest.mark.parametrize("table", ["", "a b", "entities; --", "1st", "a-b"])
def test_a_table_name_that_sql_would_quote_is_refused(path, table):
    with pytest.raises(ConfigurationError, match="can't be a table's name"):
        SQLiteSink(path, table=table)
