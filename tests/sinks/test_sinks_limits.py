"""MemorySink and SQLiteSink: their limits and defaults, and what their errors say."""

from __future__ import annotations

import os
import sqlite3
from functools import partial

import pytest

from change_events import ConfigurationError, Entry, Found, Gone, MemorySink, SQLiteSink

FOUND = Found({"n": 1}, '"one"', "d1")
DAYS = 24 * 3600.0


@pytest.fixture(params=[MemorySink, partial(SQLiteSink, ":memory:")], ids=["memory", "sqlite"])
def make(request):
    made = []

    def make(**settings):
        made.append(request.param(**settings))
        return made[-1]

    yield make
    for sink in made:
        if isinstance(sink, SQLiteSink):
            sink.close()


def test_a_page_of_ids_has_at_most_a_thousand_by_default(make):
    sink = make()
    for n in range(1001):
        sink.apply(f"p{n:04}", FOUND, if_version=0)

    assert sink.ids() == [f"p{n:04}" for n in range(1000)]


def test_a_tombstone_of_just_14_days_is_kept(make):
    now = [0.0]
    sink = make(clock=lambda: now[0])
    sink.apply("p1", Gone(), if_version=0)

    now[0] = 14 * DAYS
    assert sink.purge() == 0
    assert sink.entry("p1") == Entry(1, False)
    now[0] += 1
    assert sink.purge() == 1
    assert sink.entry("p1") == Entry()


def test_the_least_age_of_a_purge_is_14_days(make):
    with pytest.raises(ConfigurationError) as caught:
        make().purge(older_than=14 * DAYS - 1)

    assert str(caught.value) == (
        "tombstones younger than 14 days (1209600 s) can't be purged: an event could still be in a "
        "queue, and its look could bring the entity back; not older_than=1209599.0"
    )


def test_time_and_versions_are_real_by_default(make):
    sink = make()

    sink.apply("p1", FOUND, if_version=0)

    assert sink.entry("p1").version > 1_700_000_000_000_000


def test_the_error_for_a_file_says_what_it_must_be(tmp_path):
    path = tmp_path / "missing" / "cache.db"

    with pytest.raises(ConfigurationError) as caught:
        SQLiteSink(path)

    assert str(caught.value) == (
        f"the cache file {str(path)!r} can't be used: unable to open database file. Its directory "
        "must exist and be writable by this user, and an existing file must be a SQLite database "
        "whose table this sink created"
    )


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            {"table": "a b"},
            "'a b' can't be a table's name; use letters, digits and underscores",
        ),
        ({"revision": 7}, "revision must be text, not 7"),
    ],
)
def test_the_error_for_a_setting_says_what_is_wrong_with_it(setting, text):
    with pytest.raises(ConfigurationError) as caught:
        SQLiteSink(":memory:", **setting)

    assert str(caught.value) == text


def test_the_errors_in_a_fork_that_python_does_not_see_name_the_processes(tmp_path, monkeypatch):
    parent, child = os.getpid(), os.getpid() + 1
    says = (
        f"this {{}} was made in process {parent}, and can't be used in its fork, {child}: "
        "connections can't be shared. Make the sink in the process that uses it"
    )
    with SQLiteSink(":memory:") as memory, SQLiteSink(tmp_path / "cache.db") as file:
        for sink, name in ((memory, "cache in memory"), (file, "SQLiteSink")):
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: child)
                with pytest.raises(ConfigurationError) as caught:
                    sink.entry("p1")
                assert str(caught.value) == says.format(name)
            assert sink.entry("p1") == Entry()


def test_a_path_without_a_name_is_a_cache_in_memory():
    with SQLiteSink("") as sink:
        assert sink.apply("p1", FOUND, if_version=0)


def test_the_default_patience_with_another_writer_is_five_seconds(tmp_path, monkeypatch):
    connect, asked = sqlite3.connect, []
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda path, **settings: asked.append(settings["timeout"]) or connect(path, **settings),
    )

    SQLiteSink(tmp_path / "cache.db").close()

    assert asked == [5.0]


def test_the_default_table_is_named_entities(tmp_path):
    SQLiteSink(tmp_path / "cache.db").close()

    other = sqlite3.connect(tmp_path / "cache.db")
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("entities",)]
    other.close()


def test_an_entity_that_another_revision_stored_has_no_etag_and_no_digest(tmp_path):
    path = tmp_path / "cache.db"
    with SQLiteSink(path, revision="r1") as sink:
        sink.apply("p1", FOUND, if_version=0)
        known = sink.entry("p1")
        assert (known.etag, known.digest) == ('"one"', "d1")
    with SQLiteSink(path, revision="r2") as sink:
        assert sink.entry("p1") == Entry(known.version, True)


def test_the_first_version_is_the_time_in_microseconds(make):
    for now, version in ((0.0, 1), (0.000002, 2), (1.5, 1_500_000)):
        sink = make(clock=lambda now=now: now)
        sink.apply("p1", FOUND, if_version=0)
        assert sink.entry("p1").version == version


@pytest.mark.parametrize("table", ["a", "Z9", "_", "products_2"])
def test_a_tables_name_can_have_letters_digits_and_underscores(table):
    with SQLiteSink(":memory:", table=table) as sink:
        assert sink.apply("p1", FOUND, if_version=0)
