"""PostgresSink against a real server."""

from __future__ import annotations

import re
import select
import socket
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from threading import Barrier

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from sqlalchemy.engine import make_url

from change_events import ConfigurationError, Entry, Found, Gone, PostgresSink, Unchanged
from change_events.sinks.postgres import pool as postgres_pool
from change_events.testing import SinkContract
from conftest import make_schema
from databases import OfOwnTables
from fetching import talking
from hooks.postgres_products import delete, read, upsert

FOUND = Found({"id": "p1", "name": "Anvil"}, '"one"')

NOT_OURS = (
    "the entities are where upsert= put them, in tables of your own: query those; "
    r"get\(\) needs read="
)
ONE_HOOK = "tables of your own need both upsert= and delete= to follow the source"


@pytest.fixture
def database(postgres):
    return make_schema(postgres)


@pytest.fixture
def sql(database):
    """Run a statement without the sink, and return its rows."""
    with psycopg.connect(database, autocommit=True) as connection:

        def run(statement):
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def role(database, sql):
    """A role that can only read in the schema: a connection string, and its name."""
    role = f"role_{uuid.uuid4().hex}"
    ((schema,),) = sql("SELECT current_schema")
    sql(f"CREATE ROLE {role} LOGIN")
    sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role}")
    return database.replace("postgres:@", f"{role}:@"), role


@pytest.fixture
def products(sql):
    sql(
        "CREATE TABLE products (id text PRIMARY KEY, name text NOT NULL CHECK (name <> ''), "
        "n integer NOT NULL)"
    )
    return lambda: sql("SELECT id, name, n FROM products ORDER BY id")


class TestPostgresSink(SinkContract):
    @pytest.fixture
    def sink(self, open_again, clock):
        with open_again(clock=clock) as sink:
            yield sink

    @pytest.fixture
    def open_again(self, database):
        return partial(PostgresSink, database)


class TestPostgresSinkWithTablesOfYourOwn(OfOwnTables, TestPostgresSink):
    @pytest.fixture
    def open_again(self, database, products):
        return partial(PostgresSink, database, upsert=upsert, delete=delete, read=read)


def test_the_table_is_as_documented_and_can_be_queried(database, sql):
    entity = {"name": "Ü", "n": [1, None, True]}
    with PostgresSink(database, revision="r1", clock=lambda: 7.0) as sink:
        sink.apply("p1", Found(entity, '"one"', "d1"), if_version=0)
        sink.apply("p2", Gone(), if_version=0)

    columns = sql(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_name = 'entities' AND table_schema = current_schema ORDER BY ordinal_position"
    )
    documented = re.findall(
        r"^ +(\w+) +(text|bigint|boolean|jsonb|timestamptz)\b", PostgresSink.__doc__, re.MULTILINE
    )
    assert columns == [
        (name, {"timestamptz": "timestamp with time zone"}.get(kind, kind))
        for name, kind in documented
    ]
    at = datetime.fromtimestamp(7, timezone.utc)
    assert sql("SELECT * FROM entities ORDER BY id") == [
        ("p1", 7_000_000, True, entity, '"one"', "d1", "r1", None, at),
        ("p2", 7_000_000, False, None, None, None, "r1", None, at),
    ]
    assert sql("SELECT body->>'name' FROM entities WHERE present") == [("Ü",)]


def test_the_cache_survives_the_process(database):
    with PostgresSink(database) as sink:
        sink.apply("p1", FOUND, if_version=0)
        entry = sink.entry("p1")

    with PostgresSink(database) as sink:
        assert sink.entry("p1") == entry
        assert sink.get("p1") == FOUND.value


OLD_TABLE = (
    'CREATE TABLE entities (id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, '
    "present boolean NOT NULL, body jsonb, etag text, applied_at timestamptz NOT NULL)"
)


def test_columns_that_an_older_table_lacks_are_added(database, sql):
    sql(OLD_TABLE)
    sql("""INSERT INTO entities VALUES ('p1', 7, true, '{"n": 1}', '"one"', now())""")

    with PostgresSink(database), PostgresSink(database) as sink:
        assert sink.entry("p1") == Entry(7, True, '"one"')
        assert sink.apply("p1", Found({"n": 2}, '"two"', "d2"), if_version=7)
        assert sink.entry("p1") == Entry(8, True, '"two"', "d2")


def test_if_the_role_can_not_add_columns_the_error_shows_what_can(database, sql, role):
    conninfo, name = role
    sql(OLD_TABLE)
    sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON entities TO {name}")

    with pytest.raises(
        ConfigurationError, match=r"'entities' lacks columns.*must be owner.*can run ALTER TABLE"
    ) as raised:
        PostgresSink(conninfo)
    sql(str(raised.value).partition("Let a role that can run ")[2])

    with PostgresSink(conninfo) as sink:
        assert sink.apply("p1", Found({"n": 2}, '"two"', "d2"), if_version=0)


def test_one_schema_can_hold_several_tables_even_with_reserved_words_as_names(database):
    with (
        PostgresSink(database, table="order") as orders,
        PostgresSink(database, table="Order") as others,
    ):
        orders.apply("1", FOUND, if_version=0)

        assert (len(orders), len(others)) == (1, 0)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (float("nan"), ValueError),
        ("\0", psycopg.DataError),
        ("\ud800", psycopg.DataError),
    ],
)
def test_an_entity_that_jsonb_can_not_hold_is_not_written(database, value, error):
    with PostgresSink(database) as sink:
        with pytest.raises(error):
            sink.apply("p1", Found({"value": value}), if_version=0)

        assert sink.entry("p1") == Entry()


PAGE = {f"p{n}": Found({"name": f"Anvil {n}", "n": n}, None, f"d{n}") for n in range(3)}


def test_a_page_is_stored_in_one_transaction(database, sql):
    with PostgresSink(database) as sink:
        sink.apply("p1", Gone(), if_version=0)

        assert sink.insert_many(PAGE) == {"p0", "p2"}
    assert sql("SELECT count(DISTINCT xmin::text) FROM entities WHERE present") == [(1,)]


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), TypeError), (float("nan"), ValueError), ("\0", psycopg.DataError)],
)
def test_a_page_with_an_entity_that_jsonb_can_not_hold_stores_nothing(database, value, error):
    with PostgresSink(database) as sink:
        with pytest.raises(error):
            sink.insert_many({**PAGE, "p3": Found({"value": value})})

        assert dict(sink.items()) == {}
        assert sink.insert_many(PAGE) == set(PAGE)


@pytest.mark.parametrize("hooks", [{}, {"upsert": upsert, "delete": delete}], ids=["own", "user's"])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_a_page_whose_commit_gets_no_answer_raises_and_can_be_repeated(
    postgres, database, products, hooks, committed
):
    """Whether PostgreSQL has committed it is unknown, so nothing may count as stored."""
    address = psycopg.conninfo.conninfo_to_dict(postgres.get_uri())
    last = b"COMMIT" if hooks else b"p2"
    losing, lost = [], []

    def talk(client):
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{address['host']}/.s.PGSQL.5432")
            while readable := select.select([client, server], [], [])[0]:
                data = readable[0].recv(1 << 20)
                if not data:
                    return
                if readable[0] is client and losing and not lost and last in data:
                    lost.append(data)
                    if committed:
                        server.sendall(data)
                        server.recv(1)
                    return
                (server if readable[0] is client else client).sendall(data)

    with talking(talk) as port:
        through = psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=port)
        with PostgresSink(through, **hooks) as sink:
            losing.append(True)
            with pytest.raises(psycopg.OperationalError):
                sink.insert_many(PAGE)
            repeated = sink.insert_many(PAGE)
            assert {id for id in PAGE if sink.entry(id).present} == set(PAGE)

    assert lost
    assert repeated == (set() if committed else set(PAGE))


# Tables of your own


@pytest.fixture
def sink(database, products):
    with PostgresSink(database, upsert=upsert, delete=delete) as sink:
        yield sink


def test_the_version_and_the_users_tables_change_together_or_not_at_all(sink, products):
    assert sink.apply("p1", Found({"name": "Anvil", "n": 1}, '"one"'), if_version=0)
    entry = sink.entry("p1")

    with pytest.raises(psycopg.errors.CheckViolation):
        sink.apply("p1", Found({"name": "", "n": 2}, '"two"'), if_version=entry.version)

    assert sink.entry("p1") == entry
    assert products() == [("p1", "Anvil", 1)]


def test_a_failing_hook_is_rolled_back(database, products):
    def fail(connection, id, value=None):
        upsert(connection, id, {"name": "half", "n": 0})
        raise LookupError("no such shelf")

    with PostgresSink(database, upsert=fail, delete=fail) as sink:
        for change in (FOUND, Gone()):
            with pytest.raises(LookupError, match="no such shelf"):
                sink.apply("p1", change, if_version=0)

        assert sink.entry("p1") == Entry()
        assert products() == []


def test_a_look_that_lost_calls_no_hook(database):
    called = []
    with PostgresSink(
        database,
        upsert=lambda *_: called.append("upsert"),
        delete=lambda *_: called.append("delete"),
    ) as sink:
        sink.apply("p1", FOUND, if_version=0)
        sink.apply("p1", Unchanged(), if_version=sink.entry("p1").version)
        for change in (FOUND, Unchanged(), Gone()):
            assert sink.apply("p1", change, if_version=1) is False

    assert called == ["upsert"]


def test_upsert_is_called_for_the_stored_part_of_a_page_only(database):
    called = []
    with PostgresSink(
        database, upsert=lambda _, id, value: called.append((id, value)), delete=lambda *_: None
    ) as sink:
        sink.apply("p1", Gone(), if_version=0)
        assert sink.insert_many(dict(reversed(PAGE.items()))) == {"p0", "p2"}

    assert called == [(id, PAGE[id].value) for id in ("p0", "p2")]


def test_tables_of_ones_own_can_store_what_json_can_not(database):
    stored = []
    value = {"id": "p1", "on": {"Monday", "Friday"}}
    with PostgresSink(
        database, upsert=lambda _, id, value: stored.append(value), delete=lambda *_: None
    ) as sink:
        assert sink.apply("p1", Found(value), if_version=0)

    assert stored == [value]


def fail_at_p2(connection, id, value):
    upsert(connection, id, value)
    if id == "p2":
        raise LookupError("no such shelf")


def insert_without_savepoint(connection, id, value):
    upsert(connection, id, value)
    if id == "p2":
        catch(connection, id)


def end_at_p2(connection, id, value):
    upsert(connection, id, value)
    if id == "p2":
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("hook", "error", "text"),
    [
        (fail_at_p2, LookupError, "no such shelf"),
        (insert_without_savepoint, RuntimeError, "upsert caught"),
        (end_at_p2, RuntimeError, "upsert must leave its transaction"),
    ],
)
def test_if_upsert_fails_for_one_entity_nothing_of_the_page_is_stored(
    database, products, hook, error, text
):
    with PostgresSink(database, upsert=hook, delete=delete) as sink:
        with pytest.raises(error, match=f"^{text}"):
            sink.insert_many(PAGE)

        assert (len(sink), products()) == (0, [])


def test_a_constraint_that_is_checked_at_the_commit_fails_the_page(database, sql, products):
    sql("CREATE TABLE shelves (n integer PRIMARY KEY)")
    sql("INSERT INTO shelves VALUES (0), (1)")
    sql("ALTER TABLE products ADD FOREIGN KEY (n) REFERENCES shelves DEFERRABLE INITIALLY DEFERRED")
    with PostgresSink(database, upsert=upsert, delete=delete) as sink:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            sink.insert_many(PAGE)

        assert (len(sink), products()) == (0, [])


def test_an_entity_that_the_sink_never_saw_is_deleted_from_the_users_tables(sink, sql, products):
    sql("INSERT INTO products VALUES ('old', 'Rope', 1)")

    assert sink.apply("old", Gone(), if_version=0)

    assert products() == []


def test_entities_in_the_users_tables_can_not_be_read_through_the_sink(sink):
    for reading in (sink.items, partial(sink.get, "p1")):
        with pytest.raises(ConfigurationError, match=f"^{NOT_OURS}$"):
            reading()


def test_read_is_for_tables_of_ones_own():
    with pytest.raises(ConfigurationError, match=r"^read= is for tables of your own, which need"):
        PostgresSink("", read=read)


def test_what_read_raises_is_raised_and_the_next_read_is_as_always(database, products):
    def fail(connection, id):
        connection.execute("SELECT * FROM no_such_table")

    hooks = {"upsert": upsert, "delete": delete}
    with PostgresSink(database, **hooks, read=fail, connections=1) as other:
        other.apply("p1", Found({"name": "Anvil", "n": 1}), if_version=0)
        with pytest.raises(psycopg.errors.UndefinedTable):
            other.get("p1")
        assert other.entry("p1").present


@pytest.mark.parametrize("hooks", [{"upsert": upsert}, {"delete": delete}])
def test_one_hook_without_the_other_is_refused(hooks):
    with pytest.raises(ConfigurationError, match=f"^{ONE_HOOK}$"):
        PostgresSink("", **hooks)


def insert(connection, id):
    connection.execute("INSERT INTO products VALUES (%s, 'Anvil', 1)", (id,))


def catch(connection, id, value=None):
    with suppress(psycopg.errors.UniqueViolation):
        insert(connection, id)


def catch_with_a_savepoint(connection, id, value=None):
    try:
        with connection.transaction():
            insert(connection, id)
    except psycopg.errors.UniqueViolation:
        connection.execute("UPDATE products SET n = 2 WHERE id = %s", (id,))


CHANGES = pytest.mark.parametrize(
    ("change", "hook"), [(FOUND, "upsert"), (Gone(), "delete")], ids=["upsert", "delete"]
)


@CHANGES
def test_an_error_of_the_database_that_a_hook_catches_fails_the_look(
    database, sql, products, change, hook
):
    sql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")
    with PostgresSink(database, upsert=catch, delete=catch) as sink:
        with pytest.raises(RuntimeError) as caught:
            sink.apply("p1", change, if_version=0)

        assert sink.entry("p1") == Entry()
    assert str(caught.value) == (
        f"{hook} caught an error of PostgreSQL, which undoes the whole transaction after one: "
        "nothing was stored. Put a savepoint around what can fail, inside the try: "
        "with connection.transaction(): ..."
    )


@CHANGES
def test_the_error_says_which_hook_has_ended_the_transaction(database, change, hook):
    def end(connection, *_):
        connection.execute("ROLLBACK")

    with PostgresSink(database, upsert=end, delete=end) as sink:
        with pytest.raises(RuntimeError) as caught:
            sink.apply("p1", change, if_version=0)

        assert sink.entry("p1") == Entry()
    assert str(caught.value) == (
        f"{hook} must leave its transaction and the connection open: it is IDLE now. "
        "Don't commit, roll back or close there"
    )


@CHANGES
def test_a_hook_can_catch_errors_of_the_database_behind_a_savepoint(
    database, sql, products, change, hook
):
    sql("INSERT INTO products VALUES ('p1', 'Anvil', 1)")
    hooks = dict.fromkeys(("upsert", "delete"), catch_with_a_savepoint)
    with PostgresSink(database, **hooks) as sink:
        assert sink.apply("p1", change, if_version=0)

        assert sink.entry("p1").present == (hook == "upsert")
        assert products() == [("p1", "Anvil", 2)]


ENDS = {
    "COMMIT": lambda connection: connection.execute("COMMIT"),
    "ROLLBACK": lambda connection: connection.execute("ROLLBACK"),
    "commit()": lambda connection: connection.commit(),
    "rollback()": lambda connection: connection.rollback(),
    "close()": lambda connection: connection.close(),
    "ROLLBACK, and more": lambda connection: (
        connection.execute("ROLLBACK"),
        connection.execute("SELECT 1"),
    ),
}


@pytest.mark.parametrize("pool", ["of ours", "of the user", "of the user, with autocommit"])
@pytest.mark.parametrize("end", ENDS)
def test_a_look_whose_hook_ends_the_transaction_fails_and_is_right_when_it_is_tried_again(
    database, products, pool, end
):
    ending = ENDS[end]

    def badly(connection, id, value):
        upsert(connection, id, {"name": "badly", "n": 0})
        ending(connection)

    settings = {"autocommit": "autocommit" in pool}
    with ConnectionPool(database, kwargs=settings, min_size=1, open=True) as given:
        for hook, name in ((badly, "badly"), (upsert, "Anvil")):
            with PostgresSink(
                database if pool == "of ours" else given, upsert=hook, delete=delete
            ) as sink:
                version = sink.entry("p1").version
                change = Found({"name": "Anvil", "n": 1})
                if name == "badly":
                    with pytest.raises((RuntimeError, psycopg.ProgrammingError)):
                        sink.apply("p1", change, if_version=version)
                    # Only what the hook itself has committed is there, with a version.
                    committed = [("p1", "badly", 0)] if end == "COMMIT" else []
                    assert products() == committed
                    assert sink.entry("p1").present == bool(committed)
                else:
                    assert sink.apply("p1", change, if_version=version)
                    assert products() == [("p1", "Anvil", 1)]


def test_a_constraint_that_is_checked_at_the_commit_fails_the_look(database, sql, products):
    sql("CREATE TABLE shelves (n integer PRIMARY KEY)")
    sql("ALTER TABLE products ADD FOREIGN KEY (n) REFERENCES shelves DEFERRABLE INITIALLY DEFERRED")
    with PostgresSink(database, upsert=upsert, delete=delete) as sink:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            sink.apply("p1", Found({"name": "Anvil", "n": 1}), if_version=0)

        assert (sink.entry("p1"), products()) == (Entry(), [])


def test_upsert_is_called_for_an_unchanged_entity_once_it_has_a_new_revision(
    database, sql, products, channel, source, make_worker
):
    source.entities["p1"] = {"id": "p1", "name": "Anvil", "n": 1, "color": "red"}
    called = []

    def upsert_with_color(connection, id, value):
        called.append(id)
        upsert(connection, id, value)
        connection.execute("UPDATE products SET color = %s WHERE id = %s", (value["color"], id))

    def look(upsert, **settings):
        with PostgresSink(database, upsert=upsert, delete=delete, **settings) as sink:
            channel.announce("p1")
            make_worker(sink=sink).drain()

    look(upsert)
    sql("ALTER TABLE products ADD COLUMN color text")
    look(upsert_with_color, revision="with color")
    look(upsert_with_color, revision="with color")

    assert sql("SELECT id, color FROM products") == [("p1", "red")]
    assert called == ["p1"]


def test_many_entities_are_read_at_once(database):
    with PostgresSink(database) as sink:
        for id in ("p1", "p2", "p3"):
            sink.apply(id, Found({"id": id}), if_version=0)
        sink.apply("p2", Gone(), if_version=sink.entry("p2").version)

        assert sink.get_many(["p1", "p2", "p4"]) == {"p1": {"id": "p1"}}
        assert sink.get_many([]) == {}

    with (
        PostgresSink(database, upsert=upsert, delete=delete) as sink,
        pytest.raises(ConfigurationError, match=f"^{NOT_OURS}$"),
    ):
        sink.get_many(["p1"])


# Connections


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_given_pool_can_have_any_settings_and_stays_open(database, sql, autocommit):
    settings = {"row_factory": dict_row, "autocommit": autocommit}
    with ConnectionPool(database, kwargs=settings, min_size=1, open=True) as pool:
        with PostgresSink(pool) as sink:
            sink.apply("p1", FOUND, if_version=0)
            assert (sink.get("p1"), dict(sink.items()), len(sink), sink.purge()) == (
                FOUND.value,
                {"p1": FOUND.value},
                1,
                0,
            )

        assert sink.entry("p1").present
        assert sql("SELECT id FROM entities") == [("p1",)]
        with pool.connection() as connection:
            assert connection.autocommit is autocommit
            assert connection.prepare_threshold == 5


def test_dead_connections_are_replaced_before_a_look(database, sql):
    with PostgresSink(database) as sink:
        sink.apply("p1", FOUND, if_version=0)
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )

        assert sink.entry("p1").present


def test_more_threads_than_connections_can_share_a_sink(database):
    with PostgresSink(database, connections=1) as sink, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda n: sink.apply(f"p{n}", FOUND, if_version=0), range(50)))

        assert len(sink) == 50


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("host=a", "2"),
        ("host=a connect_timeout=7", "7"),
        ("postgresql://a/b?connect_timeout=7", "7"),
    ],
)
def test_timeouts_in_the_connection_string_are_kept(given, kept):
    assert f"connect_timeout={kept} " in postgres_pool._conninfo(given, 0.5) + " "


def test_a_server_that_is_gone_is_noticed_within_the_timeout_and_three_questions():
    def given(timeout):
        return psycopg.conninfo.conninfo_to_dict(postgres_pool._conninfo("host=a", timeout))

    assert given(2.5) == {
        "host": "a",
        "connect_timeout": "3",
        "keepalives_idle": "3",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "12000",
    }
    assert given(0.1)["connect_timeout"] == "2"


def test_a_pool_of_ours_begins_with_one_connection_of_ten_and_waits_for_five_seconds(database):
    with PostgresSink(database) as sink:
        pool = sink._table._pool
        assert (pool.min_size, pool.max_size) == (1, 10)
        assert (pool.timeout, pool.reconnect_timeout) == (5.0, 5.0)


def test_a_call_names_a_thousand_ids_unless_it_is_told_another_number(database, sql):
    with PostgresSink(database) as sink:
        sql(
            "INSERT INTO entities (id, version, present, applied_at) "
            "SELECT 'p' || n, 1, true, now() FROM generate_series(1, 1001) AS n"
        )
        assert len(sink.ids()) == 1000
        assert len(sink.ids(limit=1001)) == len(sink) == 1001


# URLs of SQLAlchemy, and schemas


@pytest.mark.parametrize("driver", ["+psycopg", "+psycopg2", "+asyncpg", ""])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_of_sqlalchemy_names_the_same_database(database, sql, scheme, driver):
    url = database.replace("postgresql://", f"{scheme}{driver}://")
    with PostgresSink(url) as sink:
        sink.apply("p1", FOUND, if_version=0)

    assert sql("SELECT id FROM entities") == [("p1",)]


def test_a_url_object_keeps_its_password_and_its_options(database, sql, role):
    _, name = role
    sql(f"ALTER ROLE {name} PASSWORD 'p+ %/@'")
    PostgresSink(database).close()
    sql(f"GRANT ALL ON entities TO {name}")
    url = make_url(database).set(drivername="postgresql+asyncpg", username=name, password="p+ %/@")
    assert postgres_pool.text_of(url) != str(url)
    given = psycopg.conninfo.conninfo_to_dict(
        postgres_pool._conninfo(postgres_pool.text_of(url), 5)
    )
    assert given["password"] == "p+ %/@"

    spaced = url.update_query_dict({"options": url.query["options"].replace("-c", "-c ")})
    assert "-c+search_path" in str(spaced)
    with PostgresSink(spaced) as sink:
        assert sink.apply("p1", FOUND, if_version=0)
    assert sql("SELECT id FROM entities") == [("p1",)]


def test_what_only_sqlalchemys_driver_knows_in_a_url_is_an_error_at_the_start():
    with pytest.raises(
        ConfigurationError,
        match=r'^the database\'s URL .* can\'t be read: .*"ssl"\. libpq reads it, so leave out',
    ):
        PostgresSink("postgresql+asyncpg://a/b?ssl=require")


def test_several_hosts_as_sqlalchemy_writes_them_are_an_error_at_the_start():
    with pytest.raises(ConfigurationError, match=r"has host more than once.*\?host=a,b&port="):
        PostgresSink("postgresql+psycopg://user@/b?host=a:5432&host=b:5432&sslmode=disable")


@pytest.fixture
def other_schema(sql):
    schema = f"Shop_{uuid.uuid4().hex}"
    sql(f'CREATE SCHEMA "{schema}"')
    return schema


def test_a_table_can_be_in_another_schema(database, sql, other_schema):
    with (
        PostgresSink(database) as plain,
        PostgresSink(database, table=f"{other_schema}.entities") as sink,
        PostgresSink(database, table=f"{other_schema}.order") as order,
    ):
        assert sink.apply("p1", FOUND, if_version=0)
        assert sink.insert_many({"p2": FOUND}) == {"p2"}
        assert sink.set_state("name", "text", if_state=None)
        assert (len(plain), len(sink), len(order)) == (0, 2, 0)
        assert (sink.get("p1"), sink.ids(), sink.state("name")) == (
            FOUND.value,
            ["p1", "p2"],
            "text",
        )
    assert sql(f'SELECT count(*) FROM "{other_schema}".entities') == [(3,)]
    assert sql("SELECT count(*) FROM entities") == [(0,)]


def test_columns_are_added_to_an_older_table_in_another_schema(database, sql, other_schema):
    PostgresSink(database).close()
    sql(OLD_TABLE.replace("entities", f'"{other_schema}".entities'))

    with PostgresSink(database, table=f"{other_schema}.entities") as sink:
        assert sink.apply("p1", Found({"n": 2}, '"two"', "d2"), if_version=0)
        assert sink.entry("p1").digest == "d2"


def test_a_schema_that_is_missing_is_an_error_at_the_start(database):
    with pytest.raises(
        ConfigurationError,
        match=r"^the table 'nowhere\.entities' can't be created, because there is no schema "
        r"'nowhere'\. Create it first, in a migration$",
    ):
        PostgresSink(database, table="nowhere.entities")


def test_many_sinks_can_start_at_once(database):
    start = Barrier(8)

    def begin(_):
        start.wait(30)
        PostgresSink(database).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))


def test_a_role_that_can_not_create_a_table_can_use_an_existing_one(database, sql, role):
    conninfo, name = role
    PostgresSink(database).close()
    sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON entities TO {name}")

    with PostgresSink(conninfo) as sink:
        assert sink.apply("p1", FOUND, if_version=0)


# Errors at the start


def test_a_missing_table_that_the_role_can_not_create_is_an_error_at_the_start(role):
    with pytest.raises(
        ConfigurationError,
        match=(
            r"(?s)'entities' can't be used: permission denied.* Check the connection string, and "
            r"that the role can create the table; or else that the table is as PostgresSink's "
            r"documentation shows it, and that the role can read and write it$"
        ),
    ):
        PostgresSink(role[0])


def test_a_table_that_the_role_can_only_read_is_an_error_at_the_start(database, role):
    PostgresSink(database).close()

    with pytest.raises(ConfigurationError, match="permission denied for table entities"):
        PostgresSink(role[0])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("CREATE TABLE entities (id integer, name text)", 'column "version" .*does not exist'),
        (
            (
                "CREATE TABLE entities (id text, version bigint, present boolean, body jsonb, "
                "etag text, applied_at timestamptz)"
            ),
            "no unique or exclusion constraint",
        ),
    ],
)
def test_a_table_with_other_columns_or_no_key_is_an_error_at_the_start(
    database, sql, table, reason
):
    sql(table)

    with pytest.raises(ConfigurationError, match=reason):
        PostgresSink(database)


def test_a_database_that_can_not_be_reached_is_an_error_at_the_start(free_port):
    with pytest.raises(
        ConfigurationError, match=r"(?s)can't be used: .*refused.*Check the connection string"
    ):
        PostgresSink(f"host=127.0.0.1 port={free_port} user=nobody")


@pytest.mark.parametrize(
    "database",
    [
        "no such secret",
        "host=127.0.0.1 password=the secret",
        "postgresql://user:%secret@127.0.0.1/name",
        "postgresql+psycopg://user:%secret@127.0.0.1/name",
        "postgresql://user:the secret@127.0.0.1/name",
        "postgresql://user:secret@[::1/name",
        "postgresql://user:the@secret@127.0.0.1/name",
        "postgresql+psycopg://user:the@secret#/@127.0.0.1/name",
        "mysql+pymysql://user:secret@127.0.0.1/name",
    ],
)
def test_an_error_for_what_libpq_can_not_read_shows_no_password(database):
    """libpq's own text quotes what it has taken for a host, say. An old one takes a space for a
    part of the password, and fails at the connection only."""
    with pytest.raises(
        ConfigurationError, match=r"can't be (read\. libpq reads it|used: connection failed)"
    ) as caught:
        PostgresSink(database)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_url_object_without_a_driver_can_have_a_password_with_spaces(database):
    url = make_url(database).set(username="user", password="p +%")
    text = postgres_pool.text_of(url)
    given = psycopg.conninfo.conninfo_to_dict(postgres_pool._conninfo(text, 5))
    assert given["password"] == "p +%"


def test_a_closed_pool_is_an_error_at_the_start(database):
    with pytest.raises(ConfigurationError, match=r"pool.* is not open yet"):
        PostgresSink(ConnectionPool(database, open=False))


@pytest.mark.parametrize(
    "table", ["", "a b", "entities; --", "1st", 'a"b', ".a", "a.", "a.b.c", "a b.c"]
)
def test_a_table_name_that_sql_would_quote_is_refused(table):
    with pytest.raises(ConfigurationError, match="can't be a table's name"):
        PostgresSink("", table=table)


@pytest.mark.parametrize("missing", ["psycopg", "psycopg_pool"])
def test_without_psycopg_the_error_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ConfigurationError, match=r"pip install 'change-events\[postgres\]'"):
        PostgresSink("")


def test_a_page_is_stored_in_the_order_of_its_ids(database):
    insert = (
        "INSERT INTO entities (id, version, present, revision, applied_at) "
        "VALUES (%s, 1, true, '', now())"
    )
    with (
        PostgresSink(database) as sink,
        psycopg.connect(database) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute(insert, ["a"])
        page = pool.submit(sink.insert_many, {id: Found({}) for id in ("b", "a")})
        time.sleep(0.5)  # it waits for "a" now
        other.execute(insert, ["b"])  # a deadlock if the page had "b" already
        other.commit()

        assert page.result(10) == set()
