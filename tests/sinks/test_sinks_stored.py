"""What all sinks that outlive their process store: revisions of the user's code, and numbers."""

from __future__ import annotations

import uuid
from functools import partial

import pytest

from change_events import (
    ConfigurationError,
    DynamoDBSink,
    Entry,
    Found,
    Gone,
    MemorySink,
    PostgresSink,
    RedisSink,
    SQLAlchemySink,
    SQLiteSink,
    Unchanged,
)
from conftest import make_schema, make_table


@pytest.fixture(params=["SQLite", "PostgreSQL", "SQLAlchemy", "DynamoDB", "Redis"])
def open_sink(request, tmp_path, aws):
    """Open one cache, as often as the test likes."""
    fixture = request.getfixturevalue
    opened = []
    make = {
        "SQLite": lambda: partial(SQLiteSink, tmp_path / "cache.db"),
        "PostgreSQL": lambda: partial(PostgresSink, make_schema(fixture("postgres"))),
        "SQLAlchemy": lambda: partial(SQLAlchemySink, fixture("mariadb").make_database()),
        "DynamoDB": lambda: partial(DynamoDBSink, make_table()),
        "Redis": lambda: partial(RedisSink, fixture("redis_server").url, name=uuid.uuid4().hex),
    }[request.param]()

    def open_sink(**settings):
        opened.append(make(**settings))
        return opened[-1]

    yield open_sink
    for sink in opened:
        getattr(sink, "close", lambda: None)()


def test_an_entity_of_another_revision_counts_as_changed(open_sink):
    old, new = open_sink(), open_sink(revision="2")
    old.apply("p1", Found({"n": 1}, '"one"', "d1"), if_version=0)
    version = old.entry("p1").version

    assert old.entry("p1") == Entry(version, True, '"one"', "d1")
    assert new.entry("p1") == Entry(version, True, None, None)
    assert new.get("p1") == {"n": 1}


def test_an_entity_that_is_applied_again_has_the_new_revision(open_sink):
    old, new = open_sink(revision="1"), open_sink(revision="2")
    old.apply("p1", Found({"n": 1}, '"one"', "d1"), if_version=0)
    new.apply("p1", Found({"n": 1}, '"one"', "d1"), if_version=new.entry("p1").version)

    assert new.entry("p1") == Entry(old.entry("p1").version, True, '"one"', "d1")
    assert (old.entry("p1").etag, old.entry("p1").digest) == (None, None)


@pytest.mark.parametrize("unchanged", [Unchanged(), Unchanged(etag='"two"')])
def test_an_unchanged_entity_keeps_the_revision_that_stored_it(open_sink, unchanged):
    old, new = open_sink(), open_sink(revision="2")
    old.apply("p1", Found({"n": 1}, '"one"', "d1"), if_version=0)
    new.apply("p1", unchanged, if_version=new.entry("p1").version)

    assert (new.entry("p1").etag, new.entry("p1").digest) == (None, None)
    assert old.entry("p1").digest == "d1"


def test_a_deleted_entity_is_gone_in_every_revision(open_sink):
    old, new = open_sink(), open_sink(revision="2")
    old.apply("p1", Found({"n": 1}, '"one"', "d1"), if_version=0)
    old.apply("p1", Gone(), if_version=old.entry("p1").version)

    assert new.entry("p1") == old.entry("p1") == Entry(old.entry("p1").version)


@pytest.mark.parametrize("revision", [2, None])
def test_a_revision_that_is_not_text_is_refused(open_sink, revision):
    with pytest.raises(ConfigurationError, match=f"revision must be text, not {revision}"):
        open_sink(revision=revision)


NUMBERS = {
    "30 digits": 123456789012345678901234567890,
    "below zero": -(10**29) - 1,
    "a float": 0.1,
    "a small float": 5e-324,
    "a large float": 1.7976931348623157e308,
}


def test_numbers_come_back_as_they_were(open_sink):
    sink = open_sink()
    sink.apply("p1", Found(NUMBERS), if_version=0)

    assert {name: type(NUMBERS[name])(n) for name, n in sink.get("p1").items()} == NUMBERS


def test_memory_has_the_same_number():
    sink = MemorySink()
    sink.apply("p1", Found(NUMBERS), if_version=0)

    assert sink.get("p1") is NUMBERS


def test_a_page_has_the_revision_that_stored_it(open_sink):
    old, new = open_sink(), open_sink(revision="2")

    new.insert_many({"p1": Found({"n": 1}, '"one"', "d1")})

    assert new.entry("p1") == Entry(new.entry("p1").version, True, '"one"', "d1")
    assert (old.entry("p1").etag, old.entry("p1").digest) == (None, None)
