"""SQLAlchemySink: its connections, and what is refused when it is made."""

from __future__ import annotations

import math
import re
import select
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url as parsed
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from change_events import ConfigurationError, Found, SQLAlchemySink
from change_events.sinks.sqlalchemy import engine as engine_module
from command_line import run
from databases import DATABASES, make_products, make_url, running_on
from fetching import talking
from hooks.sqlalchemy_products import delete, upsert

FOUND = Found({"id": "p1", "name": "Anvil", "n": 1}, '"one"', "d1")

PAGE = {f"p{n}": Found({"name": f"Anvil {n}", "n": n}, None, f"d{n}") for n in range(3)}


@pytest.fixture(params=DATABASES)
def url(request, tmp_path):
    return make_url(request, tmp_path, request.param)


@pytest.fixture
def mariadb_url(request, tmp_path):
    return make_url(request, tmp_path, "MariaDB")


@pytest.fixture
def on_mariadb(mariadb_url):
    with running_on(mariadb_url) as run:
        yield run


@pytest.fixture
def products(url):
    with running_on(url) as sql:
        make_products(url, sql)


@pytest.mark.parametrize("hooks", [{}, {"upsert": upsert, "delete": delete}], ids=["own", "user's"])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_a_page_whose_commit_gets_no_answer_raises_and_can_be_repeated(
    mariadb_url, on_mariadb, hooks, committed
):
    """Whether MariaDB has committed it is unknown, so nothing may count as stored."""
    make_products(mariadb_url, on_mariadb)
    address = parsed(mariadb_url)
    losing, lost = [], []

    def talk(client):
        with socket.create_connection((address.host, address.port)) as server:
            while readable := select.select([client, server], [], [])[0]:
                data = readable[0].recv(1 << 20)
                if not data:
                    return
                if readable[0] is client and losing and not lost and b"COMMIT" in data:
                    lost.append(data)
                    if committed:
                        server.sendall(data)
                        server.recv(1)
                    return
                (server if readable[0] is client else client).sendall(data)

    with (
        talking(talk) as port,
        SQLAlchemySink(address.set(port=port), **hooks) as sink,
    ):
        losing.append(True)
        with pytest.raises(DBAPIError, match="Lost connection"):
            sink.insert_many(PAGE)
        repeated = sink.insert_many(PAGE)
        assert {id for id in PAGE if sink.entry(id).present} == set(PAGE)

    assert lost
    assert repeated == (set() if committed else set(PAGE))


def test_dead_connections_are_replaced_before_a_look(mariadb_url, on_mariadb):
    with SQLAlchemySink(mariadb_url) as sink:
        sink.apply("p1", FOUND, if_version=0)
        database = parsed(mariadb_url).database
        for (id,) in on_mariadb(
            f"SELECT id FROM information_schema.processlist WHERE db = '{database}' "
            "AND id <> connection_id()"
        ):
            on_mariadb(f"KILL {id}")

        assert sink.entry("p1").present


def test_more_threads_than_connections_can_share_a_sink(url):
    with SQLAlchemySink(url, connections=1, timeout=60) as sink, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda n: sink.apply(f"p{n}", FOUND, if_version=0), range(50)))

        assert len(sink) == 50


def test_a_look_does_not_wait_for_ever_for_a_connection(url, products):
    started, ended = Event(), Event()

    def wait(connection, id, value):
        started.set()
        assert ended.wait(60)

    with (
        SQLAlchemySink(url, connections=1, timeout=0.1, upsert=wait, delete=delete) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(sink.apply, "p1", FOUND, if_version=0)
        assert started.wait(60)
        with pytest.raises(PoolTimeoutError):
            sink.entry("p1")
        ended.set()
        assert first.result()


def test_a_locked_sqlite_file_is_an_error_until_it_is_unlocked(tmp_path):
    url = f"sqlite:///{tmp_path}/cache.db"
    engine = create_engine(url)
    with SQLAlchemySink(url, timeout=0.05) as sink:
        with engine.connect() as other:
            other.exec_driver_sql("BEGIN IMMEDIATE")
            with pytest.raises(DBAPIError, match="locked"):
                sink.apply("p1", FOUND, if_version=0)
        assert sink.apply("p1", FOUND, if_version=0)
    engine.dispose()


def test_a_given_engine_stays_open_and_one_of_our_own_is_closed(url):
    engine = create_engine(url)
    opened, closed = [], []
    event.listen(engine, "connect", lambda *_: opened.append(1))
    event.listen(engine, "close", lambda *_: closed.append(1))
    with SQLAlchemySink(engine) as sink:
        sink.apply("p1", FOUND, if_version=0)
    assert sink.entry("p1").present
    assert not closed
    engine.dispose()
    assert len(opened) == len(closed)

    own = SQLAlchemySink(url)
    own.entry("p1")
    own.close()
    assert own._transactions.engine.pool.checkedin() == 0


def test_many_sinks_can_start_at_once(url):
    start = Barrier(8)

    def begin(_):
        start.wait(60)
        SQLAlchemySink(url, timeout=60).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))


@pytest.mark.parametrize(
    ("url", "timeouts"),
    [
        ("sqlite:///cache.db", {"timeout": 2.5}),
        ("mysql+pymysql://a/b", {"connect_timeout": 3, "read_timeout": 60, "write_timeout": 60}),
        (
            "mysql+pymysql://a/b?read_timeout=7&write_timeout=8",
            {"connect_timeout": 3, "read_timeout": 7, "write_timeout": 8},
        ),
        (
            "postgresql+psycopg://a/b?connect_timeout=7",
            {
                "connect_timeout": "7",
                "keepalives_idle": 3,
                "keepalives_interval": 3,
                "keepalives_count": 3,
                "tcp_user_timeout": 12000,
            },
        ),
    ],
)
def test_connections_of_our_own_have_timeouts_unless_the_url_has_others(url, timeouts):
    given = {}

    def connect(dialect, record, arguments, parameters):
        given.update(parameters)
        raise ConnectionRefusedError

    with pytest.MonkeyPatch.context() as patch:
        create = engine_module.create_engine

        def watched(*args, **settings):
            engine = create(*args, **settings)
            event.listen(engine, "do_connect", connect)
            return engine

        patch.setattr(engine_module, "create_engine", watched)
        with pytest.raises(ConnectionRefusedError):
            SQLAlchemySink(url, timeout=2.5)
    assert {name: given.get(name) for name in timeouts} == timeouts


def test_a_server_that_hangs_is_an_error_after_the_timeout(mariadb, mariadb_url):
    with SQLAlchemySink(f"{mariadb_url}&read_timeout=1", timeout=1) as sink:
        sink.apply("p1", FOUND, if_version=0)
        mariadb.send(signal.SIGSTOP)
        try:
            with pytest.raises(DBAPIError):
                sink.entry("p1")
        finally:
            mariadb.send(signal.SIGCONT)

        assert sink.entry("p1").present


APP = """
from change_events import HTTPFetcher, SQLAlchemySink, Worker
fetcher, sink = HTTPFetcher("{source}/products/{{id}}"), SQLAlchemySink("{url}")
worker = Worker("{queue}", fetcher=fetcher, sink=sink, backfill=["p1", "p2"])
"""


def test_the_command_works_on_a_cache_in_mariadb(
    channel, source, mariadb_url, on_mariadb, tmp_path, monkeypatch
):
    source.entities |= {f"p{n}": {"id": f"p{n}", "n": n} for n in (1, 2)}
    app = APP.format(source=source.url, url=mariadb_url, queue=channel.queue_url)
    (tmp_path / "in_mariadb.py").write_text(app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def printed(command, *arguments):
        return run(command, "in_mariadb:worker", *arguments).output

    try:
        assert "p1: created" in printed("look", "p1")
        assert re.search(r"ok +sink: SQLAlchemySink, has 'p1'", seen := printed("doctor"))
        assert re.search(r"ok +state: stored and read", seen)
        printed("backfill")
        on_mariadb("UPDATE entities SET body = json_set(body, '$.n', 9) WHERE id = 'p2'")
        assert "p2" in printed("audit", "--repair", "--min-age", "0")
        assert on_mariadb("SELECT json_value(body, '$.n') FROM entities WHERE id = 'p2'") == [
            ("2",)
        ]
        assert "audit" in printed("status")
    finally:
        sys.modules.pop("in_mariadb").sink.close()


# Names of tables


@pytest.mark.parametrize("name", ["PostgreSQL", "MariaDB"])
def test_a_table_can_be_in_a_schema(request, tmp_path, name):
    url = make_url(request, tmp_path, name)
    with running_on(url) as sql:
        schema = f"Shop_{parsed(url).database[1:9]}" if name == "MariaDB" else f"Shop_{id(request)}"
        quote = "`" if name == "MariaDB" else '"'
        sql(f"CREATE SCHEMA {quote}{schema}{quote}")
        for _ in range(2):
            with SQLAlchemySink(url, table=f"{schema}.entities") as sink:
                version = sink.entry("p1").version
                assert sink.apply("p1", FOUND, if_version=version)
        with SQLAlchemySink(url) as other:
            assert len(other) == 0
        assert sql(f"SELECT id FROM {quote}{schema}{quote}.entities") == [("p1",)]
        sql(f"DROP SCHEMA {quote}{schema}{quote}" + (" CASCADE" if name == "PostgreSQL" else ""))


def test_a_schema_that_is_missing_is_an_error_at_the_start(url):
    with pytest.raises(ConfigurationError, match=r"no schema 'nowhere'\. Create it first"):
        SQLAlchemySink(url, table="nowhere.entities")


@pytest.mark.parametrize("table", ["", "a b", "entities; --", "1st", 'a"b', ".a", "a.", "a.b.c"])
def test_a_table_name_that_sql_would_quote_is_refused(table):
    with pytest.raises(ConfigurationError, match="can't be a table's name"):
        SQLAlchemySink("sqlite:///cache.db", table=table)


# What is refused


COLUMNS = (
    "id varchar(513) {key} PRIMARY KEY, version bigint NOT NULL, present boolean NOT NULL, "
    "body {text}, etag longtext, digest longtext, revision longtext NOT NULL, state longtext, "
    "applied_at double NOT NULL"
)
BINARY = "COLLATE utf8mb4_nopad_bin"


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        (COLUMNS.format(key="", text="longtext"), "", "confuses ids"),
        (
            COLUMNS.format(key="COLLATE utf8mb4_bin", text="longtext"),
            "",
            "a space at the end",
        ),
        (
            COLUMNS.format(key="COLLATE utf8mb4_unicode_nopad_ci", text="longtext"),
            "",
            "confuses ids",
        ),
        (COLUMNS.format(key=BINARY, text="text"), "", "Data too long for column 'body'"),
        (COLUMNS.format(key=BINARY, text="longtext"), "ENGINE Aria", "must be an InnoDB table"),
        ("id integer, name text", "", "Unknown column 'version'"),
    ],
)
def test_a_table_that_can_not_keep_a_cache_is_an_error_at_the_start(
    mariadb_url, on_mariadb, columns, options, reason
):
    on_mariadb(f"CREATE TABLE entities ({columns}) CHARSET utf8mb4 {options}")

    with pytest.raises(ConfigurationError, match=f"(?s)'entities' can't be used.*{reason}"):
        SQLAlchemySink(mariadb_url)

    assert on_mariadb("SELECT * FROM entities") == []


def test_a_database_that_cuts_off_texts_is_an_error_at_the_start(mariadb_url, on_mariadb):
    on_mariadb(f"CREATE TABLE entities ({COLUMNS.format(key=BINARY, text='text')}) CHARSET utf8mb4")

    with pytest.raises(ConfigurationError, match="because it changes what is written to it"):
        SQLAlchemySink(f"{mariadb_url}&sql_mode=NO_ENGINE_SUBSTITUTION")


def test_connections_without_unicode_are_an_error_at_the_start(mariadb_url):
    with pytest.raises(ConfigurationError, match=r"can't be used: .*codec can't encode"):
        SQLAlchemySink(f"{mariadb_url}&charset=latin1")


def test_a_table_whose_updates_go_uncounted_is_an_error_at_the_start(request, tmp_path):
    url = make_url(request, tmp_path, "PostgreSQL")
    SQLAlchemySink(url).close()
    with running_on(url) as sql:
        sql("CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        sql("CREATE TRIGGER t BEFORE UPDATE ON entities FOR EACH ROW EXECUTE FUNCTION skip()")

    with pytest.raises(ConfigurationError, match="does not say how many rows it has changed"):
        SQLAlchemySink(url)


def test_a_user_that_can_not_create_a_table_can_use_an_existing_one(mariadb_url, on_mariadb):
    address = parsed(mariadb_url)
    database = address.database
    on_mariadb(f"CREATE USER {database[:30]}@'127.0.0.1'")
    on_mariadb(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {database[:30]}@'127.0.0.1'"
    )
    url = address.set(username=database[:30])

    with pytest.raises(
        ConfigurationError,
        match=r"(?s)'entities' can't be used: .*CREATE command denied.* its user can create the ta",
    ):
        SQLAlchemySink(url)
    SQLAlchemySink(mariadb_url).close()
    with SQLAlchemySink(url) as sink:
        assert sink.apply("p1", FOUND, if_version=0)

    on_mariadb(f"REVOKE UPDATE ON {database}.* FROM {database[:30]}@'127.0.0.1'")
    with pytest.raises(ConfigurationError, match="UPDATE command denied"):
        SQLAlchemySink(url)


def test_a_database_that_can_not_be_reached_is_an_error_at_the_start(free_port):
    url = f"mysql+pymysql://root:secret@127.0.0.1:{free_port}/shop"

    with pytest.raises(
        ConfigurationError, match=r"(?s)can't be used: .*refused.*Check the URL"
    ) as caught:
        SQLAlchemySink(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("database", "reason"),
    [
        ("no such thing", "needs an Engine, or a URL that SQLAlchemy knows"),
        ("oracle7+nothing://user:secret@host/name", "needs an Engine, or a URL"),
        ("mysql+oursql9://user:secret@host/name", "needs an Engine, or a URL"),
        (3, "needs an Engine or a URL, not int"),
        ("sqlite+aiosqlite:///cache.db", "the driver aiosqlite is asynchronous"),
        ("sqlite://", "each connection to SQLite in memory"),
        ("sqlite:///:memory:", "each connection to SQLite in memory"),
        ("sqlite:///file::memory:?uri=true", "each connection to SQLite in memory"),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", "each connection to SQLite in mem"),
    ],
)
def test_what_can_not_be_a_database_is_refused(database, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        SQLAlchemySink(database)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql+pymysql://user:secret@127.0.0.1:{port}/name?pool=3", "unexpected keyword .*pool"),
        (
            "mysql+pymysql://user:secret@127.0.0.1:{port}/name?read_timeout=x",
            "timeouts are numbers",
        ),
        ("mysql+pymysql://user:secret@127.0.0.1:{port}/name?charset=latin99", "no attribute 'enc"),
        ("mysql+pymysql://user:pass@word:secret@host/name", "or a URL that SQLAlchemy knows"),
        ("mysql+pymysql://user:secret@127.0.0.1:my/name", "or a URL that SQLAlchemy knows"),
    ],
)
def test_what_a_driver_does_not_know_is_an_error_at_the_start(url, reason, free_port):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        SQLAlchemySink(url.format(port=free_port))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"connections": 0}, {"timeout": -1}, {"timeout": math.inf}, {"timeout": math.nan}],
)
def test_a_number_out_of_its_range_is_refused(settings):
    with pytest.raises(ConfigurationError, match="connections must be at least 1, and timeout 0"):
        SQLAlchemySink("sqlite:///cache.db", **settings)


def test_an_engine_whose_threads_share_a_connection_is_refused(tmp_path):
    """One thread's rollback would undo what another one has been told is stored."""
    engine = create_engine(f"sqlite:///{tmp_path}/cache.db", poolclass=StaticPool)

    with pytest.raises(ConfigurationError, match="use another poolclass="):
        SQLAlchemySink(engine)


def test_an_asynchronous_engine_is_refused(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/cache.db")

    with pytest.raises(ConfigurationError, match=r"not AsyncEngine\. .*make an Engine for it"):
        SQLAlchemySink(engine)
    with pytest.raises(ConfigurationError, match="the driver aiosqlite is asynchronous"):
        SQLAlchemySink(engine.sync_engine)


def test_a_given_engine_for_sqlite_in_memory_is_refused():
    with pytest.raises(ConfigurationError, match=r'use SQLiteSink\(":memory:"\) or MemorySink'):
        SQLAlchemySink(create_engine("sqlite://"))


@pytest.mark.parametrize("missing", ["sqlalchemy", "pymysql"])
def test_what_is_not_installed_is_named(monkeypatch, missing):
    for name in ("engine", "entries", "table"):
        monkeypatch.delitem(sys.modules, f"change_events.sinks.sqlalchemy.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    reason = {
        "sqlalchemy": r"pip install 'change-events\[sqlalchemy\]'",
        "pymysql": r"the driver that the database's URL names is missing .*pymysql",
    }[missing]

    with pytest.raises(ConfigurationError, match=reason):
        SQLAlchemySink("mysql+pymysql://a/b")


@pytest.mark.parametrize("commits_each", [False, True])
def test_connections_that_read_what_is_not_committed_are_refused(
    mariadb_url, on_mariadb, commits_each
):
    """A look could read a version that is undone, and comes again."""
    on_mariadb("SET GLOBAL TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    try:
        engine = create_engine(mariadb_url, connect_args={"autocommit": commits_each})
        with pytest.raises(ConfigurationError, match='isolation_level="READ COMMITTED"'):
            SQLAlchemySink(engine)
        engine.dispose()
        engine = create_engine(mariadb_url, isolation_level="READ COMMITTED")
        assert SQLAlchemySink(engine).apply("p1", FOUND, if_version=0)
        engine.dispose()
    finally:
        on_mariadb("SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def test_a_revision_must_be_text():
    with pytest.raises(ConfigurationError, match="revision must be text, not 7"):
        SQLAlchemySink("sqlite:///cache.db", revision=7)
