"""Redis, or Valkey, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from verification.harness.processes import START_PATIENCE, Process, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CHOSEN = "REDIS_SERVER"
"""The environment variable that names another program than the one that is found."""

MISSING = "neither Redis nor Valkey is installed (Debian: apt-get install redis-server)"


def program() -> str | None:
    """Return the path of a server's program; None if there is none."""
    return os.environ.get(CHOSEN) or shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """
    A server with a directory and a port of its own. It saves a snapshot only if it is told to.

    Args:
        directory: Where it keeps its files.
        settings: More settings, as in `redis.conf`.

    Attributes:
        port: Its port, the same after each start.
        settings: As they will be at the next start.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self.settings = {"save": "", "appendonly": "no"} | settings
        self.port = free_port(second=10_000)  # which a node of a cluster has, too
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """A new client for it."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=20.0, retry=once)

    def start(self, *, loaded: bool = True) -> None:
        """Start it, and wait until it answers. `loaded`: Wait until it has read its files, too."""
        settings = self.settings | {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._directory),
        }
        path = program()
        if path is None:
            raise RuntimeError(MISSING)
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = Process(self._directory / "server.log", path, *words)
        wait_until(lambda: self._answers(loaded=loaded), START_PATIENCE)

    def kill(self) -> None:
        """Kill it, as a power cut does."""
        if self._process is not None:
            self._process.close()

    def pause(self) -> None:
        """Stop it where it is: it keeps its connections, and answers nothing."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        assert self._process is not None  # noqa: S101  # it was started
        self._process.send(number)

    def _answers(self, *, loaded: bool) -> bool:
        assert self._process is not None  # noqa: S101  # it was started
        self._process.require_alive()
        with self.client as client, suppress(redis.ConnectionError):
            try:
                return bool(client.ping())
            except redis.BusyLoadingError:
                return not loaded
        return False


@contextmanager
def redis_server(**settings: str) -> Iterator[RedisServer]:
    """Run a server in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="redis") as directory:
        server = RedisServer(Path(directory), **settings)
        server.start()
        try:
            yield server
        finally:
            server.kill()
