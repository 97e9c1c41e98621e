"""The sink's table, for any database: how it is created, and what it must be able to do."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.exc import DBAPIError, IntegrityError

from change_events._ids import MAX_ID_LENGTH
from change_events.exceptions import ConfigurationError
from change_events.sinks import split_table_name, state_key

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect, Engine

KEY_LENGTH = len(state_key("")) + MAX_ID_LENGTH

ALIKE = ("", "a", "A", "a ", "\u00e4", "a\u0308", "\u200b", "\U0001f40d")
"""Ends of ids that a database can take for one another, by its collation, or can't store."""

LONG = "x" * 70_000
"""A text that is too long for MySQL's TEXT."""

LARGE = 2**53


def make_table(name: str, dialect: Dialect) -> Table:
    """Return the table with this name, perhaps with its schema, for a database."""
    schema, table = split_table_name(name)
    text = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
    return Table(
        table,
        MetaData(),
        Column("id", String(KEY_LENGTH, _collation(dialect)), primary_key=True),
        Column("version", BigInteger, nullable=False),
        Column("present", Boolean, nullable=False),
        Column("body", text),
        Column("etag", text),
        Column("digest", text),
        Column("revision", text, nullable=False),
        Column("state", text),
        Column("applied_at", Double, nullable=False),
        schema=schema,
        **_options(dialect),
    )


def _collation(dialect: Dialect) -> str | None:
    """Return one that tells apart all ids: upper and lower case, and spaces at the end."""
    if _is_mysql(dialect):
        is_mariadb = getattr(dialect, "is_mariadb", False)
        return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return "C" if dialect.name == "postgresql" else None


def _options(dialect: Dialect) -> dict[str, Any]:
    if not _is_mysql(dialect):
        return {}
    return {f"{dialect.name}_engine": "InnoDB", f"{dialect.name}_charset": "utf8mb4"}


def _is_mysql(dialect: Dialect) -> bool:
    return dialect.name in {"mysql", "mariadb"}


def prepare(engine: Engine, name: str) -> tuple[Table, Engine]:
    """
    Create the table if there is none, and try it.

    Returns:
        The table, and an engine that has transactions: the one given, or the same with an isolation
        level, if that one commits each statement.

    Raises:
        ConfigurationError: There is no such schema; the table can't be what the sink needs; or
            connections read what others have not committed.
    """
    with engine.connect() as connection:  # only then the dialect knows what the server is
        table = make_table(name, connection.dialect)
        _require_schema(connection, table)
    _create(engine, table)
    if not _is_undone(engine, table):
        level = engine.dialect.default_isolation_level
        engine = engine.execution_options(isolation_level=level)
        if not _is_undone(engine, table):
            raise ConfigurationError(
                f"the table {name!r} can't be used, because the database can't roll back what is "
                "written to it. In MySQL and MariaDB, it must be an InnoDB table"
            )
    _refuse_dirty_reads(engine)
    return table, engine


def _refuse_dirty_reads(engine: Engine) -> None:
    """
    Refuse READ UNCOMMITTED. A version that is undone comes again, so a look that has read it would
    be taken for one that began later.
    """
    level: str | None = None
    with engine.connect() as connection, suppress(NotImplementedError, DBAPIError):
        level = connection.get_isolation_level()
    if level == "READ UNCOMMITTED":
        raise ConfigurationError(
            "the database's connections read what others have not committed: use another isolation "
            'level, with create_engine(..., isolation_level="READ COMMITTED")'
        )


def _require_schema(connection: Connection, table: Table) -> None:
    if table.schema and not inspect(connection).has_schema(table.schema):
        raise ConfigurationError(
            f"the table {table.fullname!r} can't be created, because there is no schema "
            f"{table.schema!r}. Create it first, in a migration"
        )


def _create(engine: Engine, table: Table) -> None:
    if _exists(engine, table):
        return  # it needs no permission to create
    try:
        table.create(engine)
    except DBAPIError:
        if not _exists(engine, table):  # otherwise another process was faster
            raise


def _exists(engine: Engine, table: Table) -> bool:
    with engine.connect() as connection:
        return inspect(connection).has_table(table.name, schema=table.schema)


def _is_undone(engine: Engine, table: Table) -> bool:
    """
    Write to the table, and roll that back; return whether that has worked.

    It fails now, and not at the first event, if the table can't be written.
    """
    key = state_key(uuid.uuid4().hex)  # processes that start at once don't wait for each other
    its_rows = table.c.id.in_([f"{key}{end}" for end in ALIKE])
    with engine.connect() as connection:
        try:
            _try(connection, table, key)
        finally:
            connection.rollback()
            is_undone = connection.scalars(select(table.c.id).where(its_rows)).first() is None
            if not is_undone:
                connection.execute(delete(table).where(its_rows))
                connection.commit()
    return is_undone


def _try(connection: Connection, table: Table, key: str) -> None:
    """Write rows that are hard to keep apart and to keep whole."""
    rows: dict[str, dict[str, Any]] = {
        f"{key}{end}": {
            "version": LARGE,
            "present": False,
            "applied_at": 0.5,
            **dict.fromkeys(("body", "etag", "digest", "revision", "state"), "" if end else LONG),
        }
        for end in ALIKE
    }
    try:
        connection.execute(insert(table), [{"id": id, **row} for id, row in rows.items()])
    except IntegrityError as error:
        error.hide_parameters = True  # they are long
        raise _confused(table) from error
    query = select(table).where(table.c.id.in_(rows))
    if {row.id: row._asdict() for row in connection.execute(query)} != {
        id: {"id": id, **row} for id, row in rows.items()
    }:
        raise _confused(table)
    for version, count in ((LARGE - 1, 0), (LARGE, 1)):
        statement = update(table).where(table.c.id == f"{key}a", table.c.version == version)
        if connection.execute(statement.values(applied_at=1.5)).rowcount != count:
            raise ConfigurationError(
                f"the table {table.fullname!r} can't be used: an UPDATE does not say how many rows "
                "it has changed, and compare-and-set needs that"
            )


def _confused(table: Table) -> ConfigurationError:
    return ConfigurationError(
        f"the table {table.fullname!r} can't be used, because it changes what is written to it, or "
        "confuses ids (A with a, or a space at the end with none). Its columns must be "
        "as SQLAlchemySink's documentation shows them, and its connections must use Unicode. If "
        "the sink has created it, this database can't keep a cache"
    )
