"""Connections to PostgreSQL: how they are made, lent and left."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from change_events._extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from psycopg import Connection
    from psycopg_pool import ConnectionPool

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
    """Add timeouts that the string does not set, for a server that is gone: defaults are hours."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    seconds = max(2, math.ceil(timeout))  # libpq's minimum
    timeouts = {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 3,
        "tcp_user_timeout": 4 * seconds * 1000,
    }
    return make_conninfo("", **(timeouts | dict(conninfo_to_dict(database))))
