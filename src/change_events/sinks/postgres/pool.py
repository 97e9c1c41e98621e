"""Connections to PostgreSQL: how they are made, lent and left."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote, urlencode

from change_events._extras import missing_extra
from change_events.exceptions import ConfigurationError
from change_events.sinks import libpq_timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from psycopg import Connection
    from psycopg_pool import ConnectionPool
    from sqlalchemy import URL

SETTINGS: dict[str, Any] = {
    "autocommit": True,  # transactions are explicit
    # PgBouncer, in its transaction mode, gives each transaction another session. A statement that
    # was prepared in one is missing in the next, or is another client's of the same name.
    "prepare_threshold": None,
}
"""Of all connections that the sink uses."""


@contextmanager
def borrow(pool: ConnectionPool[Any]) -> Iterator[Connection[Any]]:
    """Lend a connection of the user's pool, with the settings of our own pool's connections."""
    with pool.connection() as connection:
        before = {name: getattr(connection, name) for name in SETTINGS}
        _set(connection, SETTINGS)
        try:
            yield connection
        finally:
            _set(connection, before)


def _set(connection: Connection[Any], settings: dict[str, Any]) -> None:
    status = connection.info.transaction_status
    if status == status.IDLE:  # otherwise the pool throws the connection away
        for name, value in settings.items():
            setattr(connection, name, value)


def check_transaction(connection: Connection[Any], hook: str) -> None:
    """Refuse to report a success if COMMIT would not commit what the hook has done."""
    status = connection.info.transaction_status
    if status == status.INERROR:
        raise RuntimeError(
            f"{hook} caught an error of PostgreSQL, which undoes the whole transaction after one: "
            "nothing was stored. Put a savepoint around what can fail, inside the try: "
            "with connection.transaction(): ..."
        )
    if status != status.INTRANS:
        raise RuntimeError(
            f"{hook} must leave its transaction and the connection open: it is {status.name} now. "
            "Don't commit, roll back or close there"
        )


def require_psycopg() -> Any:
    """Return the module, or say how to install it."""
    try:
        import psycopg
        import psycopg_pool  # noqa: F401  # if it is missing, say so now
    except ImportError as error:
        raise missing_extra("PostgresSink needs psycopg", "postgres", error) from error
    return psycopg


def text_of(database: str | URL | ConnectionPool[Any]) -> str | ConnectionPool[Any]:
    """Return a URL of SQLAlchemy's as text, with its password. `str` would hide that."""
    # SQLAlchemy need not be installed.
    url: Any = database
    if not hasattr(url, "render_as_string"):
        return cast("str | ConnectionPool[Any]", database)
    if "+" not in url.drivername:  # the text is SQLAlchemy's, and not libpq's, all the same
        url = url.set(drivername=f"{url.drivername}+psycopg")
    return str(url.render_as_string(hide_password=False))


def connection_to(
    database: str | ConnectionPool[Any], timeout: float
) -> AbstractContextManager[Connection[Any]]:
    """Return a single connection."""
    from psycopg import Connection

    if not isinstance(database, str):
        return borrow(database)
    return Connection.connect(_conninfo(database, timeout), **SETTINGS)


def make_pool(database: str, connections: int, timeout: float) -> ConnectionPool[Any]:
    """Return an open pool."""
    from psycopg_pool import ConnectionPool

    return ConnectionPool(
        _conninfo(database, timeout),
        kwargs=SETTINGS,
        min_size=1,
        max_size=connections,
        timeout=timeout,
        reconnect_timeout=timeout,  # its pauses double: longer ones would outlast the outage
        # Each look costs a round trip more, so that none fails after the server was restarted.
        check=ConnectionPool.check_connection,
        open=True,
    )


def _conninfo(database: str, timeout: float) -> str:
    """Add timeouts that the string does not set."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        if re.match(r"postgres(ql)?(\+\w+)?://[^?]*@[^?]*@", database):
            raise ProgrammingError("a sign @ that is not percent-encoded")
        given = conninfo_to_dict(_libpq_url(database))
    except ProgrammingError as error:
        # Its text can quote the password, but for that of a name that libpq does not know.
        unknown = re.match(r"invalid (?:URI query parameter|connection option).*", str(error))
        why = f": {unknown[0]}" if unknown else ""
        raise ConfigurationError(
            f"the database's URL or connection string can't be read{why}. libpq reads it, so leave "
            "out what only SQLAlchemy or its driver knows, percent-encode a URL's password, and "
            "quote spaces"
        ) from None
    return make_conninfo("", **(libpq_timeouts(timeout) | dict(given)))


def _libpq_url(database: str) -> str:
    """
    Return a URL of SQLAlchemy's as libpq reads it: without the driver, and with `%20` for the `+`
    that is a space in SQLAlchemy's queries. Anything else is returned as it is.
    """
    scheme, _, rest = database.partition("://")
    name, plus, _ = scheme.partition("+")
    if not (plus and name in {"postgresql", "postgres"}):
        return database
    address, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ConfigurationError(
            f"the database's URL has {', '.join(twice)} more than once, and libpq reads only the "
            "last one. For several servers, write ?host=a,b&port=5432,5432"
        )
    return f"{name}://{address.replace(' ', '%20')}?{urlencode(pairs, quote_via=quote)}"
