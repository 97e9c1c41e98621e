from __future__ import annotations

import json
import multiprocessing
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from change_events import ConfigurationError, Entry, Found, Gone, MemorySink, SQLiteSink, Unchanged

DAY = 24 * 3600.0
FOUND = Found({"id": "p1", "n": 1}, '"one"')


class Clock:
    def __init__(self):
        self.now = 1_000_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def sink(request, tmp_path, clock):
    if request.param == "memory":
        yield MemorySink(clock=clock)
    else:
        with SQLiteSink(tmp_path / "cache.db", clock=clock) as sqlite:
            yield sqlite


# The contract of every sink


def test_an_id_never_touched_has_version_0(sink):
    assert sink.entry("p1") == Entry(version=0, present=False, etag=None)
    assert sink.get("p1") is None


@pytest.mark.parametrize(
    ("change", "entry", "value"),
    [
        (FOUND, Entry(1, True, '"one"'), {"id": "p1", "n": 1}),
        (Found({"id": "p1"}), Entry(1, True, None), {"id": "p1"}),
        (Gone(), Entry(1, False, None), None),
    ],
)
def test_the_first_look_makes_version_1(sink, change, entry, value):
    assert sink.apply("p1", change, if_version=0) is True

    assert sink.entry("p1") == entry
    assert sink.get("p1") == value


@pytest.mark.parametrize(
    ("change", "entry", "value"),
    [
        (Found({"n": 2}, '"two"'), Entry(2, True, '"two"'), {"n": 2}),
        (Found({"n": 2}), Entry(2, True, None), {"n": 2}),
        (Unchanged(), Entry(2, True, '"one"'), {"id": "p1", "n": 1}),
        (Gone(), Entry(2, False, None), None),
    ],
)
def test_every_later_look_bumps_the_version_too(sink, change, entry, value):
    sink.apply("p1", FOUND, if_version=0)

    assert sink.apply("p1", change, if_version=1) is True

    assert sink.entry("p1") == entry
    assert sink.get("p1") == value


@pytest.mark.parametrize("change", [FOUND, Unchanged(), Gone()])
@pytest.mark.parametrize("if_version", [0, 1, 3, 99])
def test_a_look_with_another_version_changes_nothing(sink, change, if_version):
    sink.apply("p1", FOUND, if_version=0)
    sink.apply("p1", Unchanged(), if_version=1)

    assert sink.apply("p1", change, if_version=if_version) is False

    assert sink.entry("p1") == Entry(2, True, '"one"')
    assert sink.get("p1") == {"id": "p1", "n": 1}


@pytest.mark.parametrize("change", [FOUND, Unchanged(), Gone()])
def test_a_version_of_an_id_never_touched_is_0_only(sink, change):
    assert sink.apply("p1", change, if_version=1) is False
    assert sink.entry("p1") == Entry()


def test_the_version_survives_a_delete_and_a_return(sink):
    for version, change in enumerate([FOUND, Gone(), Gone(), FOUND]):
        assert sink.apply("p1", change, if_version=version)

    assert sink.entry("p1") == Entry(4, True, '"one"')


def test_reading_shows_live_entries_only(sink):
    sink.apply("p1", FOUND, if_version=0)
    sink.apply("p2", Found({"n": 2}), if_version=0)
    sink.apply("p3", FOUND, if_version=0)
    sink.apply("p3", Gone(), if_version=1)
    sink.apply("p4", Gone(), if_version=0)

    assert sorted(sink.items()) == [("p1", {"id": "p1", "n": 1}), ("p2", {"n": 2})]
    assert len(sink) == 2


def test_ids_of_all_kinds_are_kept_apart(sink):
    ids = ["a", "A", "ä", "a\u0308", " a", "a'; DROP TABLE entities; --", "%", "\u200b", "x" * 512]
    for id in ids:
        assert sink.apply(id, Found({"id": id}), if_version=0)

    assert dict(sink.items()) == {id: {"id": id} for id in ids}


def test_of_many_threads_with_one_version_one_wins(sink):
    start = threading.Barrier(8)

    def contend(number):
        wins = 0
        for version in range(50):
            start.wait()
            wins += sink.apply("p1", Found({"n": number}), if_version=version)
        return wins

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(contend, range(8))) == 50
    assert sink.entry("p1").version == 50


def test_purge_forgets_old_tombstones_only(sink, clock):
    sink.apply("old", Gone(), if_version=0)
    sink.apply("live", FOUND, if_version=0)
    sink.apply("looked at", Gone(), if_version=0)
    sink.apply("still gone", Gone(), if_version=0)
    clock.now += 20 * DAY
    sink.apply("looked at", Unchanged(), if_version=1)
    sink.apply("still gone", Gone(), if_version=1)
    sink.apply("young", Gone(), if_version=0)

    assert sink.purge() == 1

    assert sink.entry("old") == Entry()
    assert [sink.entry(id).version for id in ("live", "looked at", "still gone", "young")] == [1, 2, 2, 1]
    assert sink.purge(older_than=30 * DAY) == 0


@pytest.mark.parametrize("older_than", [0, 13.9 * DAY, -1])
def test_purge_refuses_the_young(sink, older_than):
    with pytest.raises(ConfigurationError, match="younger than 14 days"):
        sink.purge(older_than=older_than)


class Looks(RuleBasedStateMachine):
    """Any sequence of looks, current and stale, against a model in three lines."""

    make = staticmethod(MemorySink)

    @initialize()
    def start(self):
        self.sink = self.make()
        self.version, self.value, self.etag = 0, None, None

    @rule(
        change=st.builds(
            Found, st.dictionaries(st.text("ab", max_size=2), st.integers()), st.none() | st.text("xy", min_size=1)
        )
        | st.just(Gone()),
        behind=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def look(self, change, behind):
        done = self.sink.apply("p1", change, if_version=self.version - behind)

        assert done == (behind == 0)
        if done:
            self.version += 1
            self.value, self.etag = (change.value, change.etag) if isinstance(change, Found) else (None, None)

    @precondition(lambda self: self.version)
    @rule()
    def look_again(self):
        assert self.sink.apply("p1", Unchanged(), if_version=self.version)
        self.version += 1

    @invariant()
    def agree(self):
        if hasattr(self, "sink"):
            assert self.sink.entry("p1") == Entry(self.version, self.value is not None, self.etag)
            assert self.sink.get("p1") == self.value

    def teardown(self):
        if isinstance(getattr(self, "sink", None), SQLiteSink):
            self.sink.close()


@pytest.mark.parametrize("make", [MemorySink, lambda: SQLiteSink(":memory:")], ids=["memory", "sqlite"])
def test_any_sequence_of_looks_is_what_the_contract_says(make):
    run_state_machine_as_test(
        type("Looks", (Looks,), {"make": staticmethod(make)}), settings=settings(max_examples=40, stateful_step_count=20)
    )


# SQLite


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


def test_the_table_is_as_documented_and_open_to_sql(path):
    with SQLiteSink(path, clock=lambda: 7.0) as sink:
        sink.apply("p1", Found({"name": "Ü", "n": [1, None, True]}, '"one"'), if_version=0)
        sink.apply("p2", Gone(), if_version=0)
        other = sqlite3.connect(path)
        columns = [(row[1], row[2]) for row in other.execute("PRAGMA table_info(entities)")]
        rows = other.execute("SELECT * FROM entities ORDER BY id").fetchall()
        names = other.execute("SELECT json_extract(body, '$.name') FROM entities WHERE body IS NOT NULL").fetchall()
        other.close()

    assert columns == re.findall(r"^ +(\w+) +(TEXT|INTEGER|REAL)\b", SQLiteSink.__doc__, re.MULTILINE)
    assert rows == [("p1", 1, json.dumps({"name": "Ü", "n": [1, None, True]}), '"one"', 7.0), ("p2", 1, None, None, 7.0)]
    assert names == [("Ü",)]


def test_a_commit_reaches_the_disk_before_it_returns(path):
    with SQLiteSink(path) as sink:
        assert sink._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert sink._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_the_cache_survives_the_process(path):
    with SQLiteSink(path) as sink:
        sink.apply("p1", FOUND, if_version=0)
        sink.apply("p2", Gone(), if_version=0)

    with SQLiteSink(str(path)) as sink:
        assert sink.entry("p1") == Entry(1, True, '"one"')
        assert sink.entry("p2") == Entry(1, False, None)


def test_one_file_can_hold_several_tables(path):
    with SQLiteSink(path, table="products") as products, SQLiteSink(path, table="orders") as orders:
        products.apply("1", FOUND, if_version=0)

        assert (len(products), len(orders)) == (1, 0)


@pytest.mark.parametrize("value", [object(), float("inf"), float("nan")])
def test_an_entity_that_is_no_json_is_refused_and_nothing_is_written(path, value):
    with SQLiteSink(path) as sink:
        with pytest.raises((TypeError, ValueError), match="JSON"):
            sink.apply("p1", Found({"value": value}), if_version=0)

        assert sink.entry("p1") == Entry()


def contend_in_a_process(path, rounds):
    with SQLiteSink(path, timeout=30) as sink:
        wins = 0
        while (version := sink.entry("p1").version) < rounds:
            wins += sink.apply("p1", Found({"n": version + 1}), if_version=version)
        return wins


def test_of_many_processes_with_one_version_one_wins(path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        wins = pool.starmap(contend_in_a_process, [(path, 200)] * 3)

    with SQLiteSink(path) as sink:
        assert sum(wins) == sink.entry("p1").version == 200
        assert sink.get("p1") == {"n": 200}


def test_a_database_that_stays_locked_is_an_error_and_the_cache_goes_on_after_it(path):
    other = sqlite3.connect(path, isolation_level=None)
    with SQLiteSink(path, timeout=0.05) as sink:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sink.apply("p1", FOUND, if_version=0)
        assert sink.entry("p1") == Entry()  # reading goes on

        other.execute("COMMIT")
        assert sink.apply("p1", FOUND, if_version=0)
    other.close()


def directory(path):
    path.mkdir()


def no_database(path):
    path.write_text("this is no database, but it is long enough to look like one" * 20)


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
        (no_database, "not a database"),
        (another_table, "no such column"),
        (locked, "locked"),
    ],
)
def test_a_file_that_can_be_no_cache_is_an_error_at_start(path, prepare, reason):
    holder = prepare(path)

    with pytest.raises(ConfigurationError, match=rf"cache\.db' can't be used: .*{reason}.*must exist and be writable"):
        SQLiteSink(path, timeout=0.01)
    if holder:
        holder.close()


def test_a_directory_that_is_missing_is_an_error_at_start(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unable to open.*must exist"):
        SQLiteSink(tmp_path / "missing" / "cache.db")


def test_a_file_that_can_only_be_read_is_an_error_at_start(path, monkeypatch):
    SQLiteSink(path).close()
    connect = sqlite3.connect
    # Tests run as root in places, whom no permission stops; SQLite's own read-only mode stops everybody.
    monkeypatch.setattr(sqlite3, "connect", lambda path, **kwargs: connect(f"file:{path}?mode=ro", uri=True, **kwargs))

    with pytest.raises(ConfigurationError, match="readonly database"):
        SQLiteSink(path)


@pytest.mark.parametrize("table", ["", "a b", "entities; --", "1st", "a-b"])
def test_a_table_needs_a_plain_name(path, table):
    with pytest.raises(ConfigurationError, match="can't be a table's name"):
        SQLiteSink(path, table=table)
