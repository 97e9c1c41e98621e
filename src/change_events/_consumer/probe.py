"""The HTTP endpoint for a container's probes."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from change_events._text import printable
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from change_events._consumer.health import Health

log = logging.getLogger("change_events")

MAX_CONNECTIONS = 16
"""The most connections at the same time, and so threads. A further one replaces the oldest."""

DEADLINE = 5.0
"""Seconds after which a connection is closed, however fast its client sends and reads."""


@contextmanager
def serving(address: tuple[str, int], health: Callable[[], Health]) -> Iterator[None]:
    """
    Answer probes while the block runs: `/healthz` with 200 if the worker is alive, `/readyz` with
    200 if it is ready, else with 503.

    Raises:
        ConfigurationError: The address can't be listened on.
    """
    try:
        server = _Server(address, health)
    except OSError as error:
        raise ConfigurationError(
            f"health_address={address!r} can't be listened on: {printable(error)}"
        ) from error
    threading.Thread(
        target=server.serve_forever, args=(0.1,), name="change-events-health", daemon=True
    ).start()
    log.info(
        "serving health at %s:%d",
        *server.server_address[:2],
        extra={"action": "serve_health", "address": address},
    )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """
    Answers each connection in a thread of its own, so that a slow client can't make a probe fail. A
    connection ends with its answer, at its deadline, or when there are too many younger ones.
    """

    daemon_threads = True
    request_queue_size = 128  # a client that does not fit in would try again after a second

    def __init__(self, address: tuple[str, int], health: Callable[[], Health]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.health = health
        self._threads_left = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._began: dict[socket.socket, float] = {}  # by connection, the oldest first
        super().__init__(address, _Probe)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. If there are too many, give one a moment to end."""
        if not self._threads_left.acquire(blocking=False):
            self._break_off(oldest=1)
            if not self._threads_left.acquire(timeout=0.5):
                self.shutdown_request(request)
                return
        with self._lock:
            self._began[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started; the caller closes the connection
            self._threads_left.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._threads_left.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Break off connections at their deadline. `serve_forever` calls this all the time."""
        latest = time.monotonic() - DEADLINE
        with self._lock:
            late = sum(began <= latest for began in self._began.values())
        self._break_off(oldest=late)

    def server_close(self) -> None:
        """Stop listening, and break off all connections."""
        super().server_close()
        self._break_off(oldest=MAX_CONNECTIONS)

    def _break_off(self, *, oldest: int) -> None:
        """End the oldest connections: their threads, which read or write, find them closed."""
        with self._lock:
            connections = list(self._began)[:oldest]
        for connection in connections:
            with suppress(OSError):  # its client has closed it
                connection.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for a name that is not needed, which can take seconds.
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log an error at debug level: mostly the client has hung up in mid-answer."""
        del request
        log.debug(
            "no answer for a probe: %s",
            printable(sys.exc_info()[1]),
            extra={"action": "probe", "client": client_address},
        )


class _Probe(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]  # only `_Server` makes it
    server_version, sys_version = "change-events", ""  # don't tell the Python version

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path not in {"/healthz", "/readyz"}:
            self._send(404, b"")
            return
        health = self.server.health()
        good = health.alive if path == "/healthz" else health.ready
        if path == "/readyz" and query == "synced":
            good = good and health.synced
        self._send(200 if good else 503, json.dumps(asdict(health)).encode())

    do_HEAD = do_GET  # noqa: N815  # the base class looks for these names

    def do_POST(self) -> None:
        self._send(405, b"", Allow="GET, HEAD")

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST  # noqa: N815

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        standard = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        for name, value in {**standard, **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every few seconds."""
