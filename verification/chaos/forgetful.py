"""A proxy that forgets idle connections without a word, like a NAT gateway."""

from __future__ import annotations

import contextlib
import math
import socket
import socketserver
import threading
import time
from urllib.parse import urlsplit

from verification.harness.wire import Loopback


class _Line(socketserver.BaseRequestHandler):
    server: _Listener  # pyright: ignore[reportIncompatibleVariableOverride]  # no other class makes one

    def handle(self) -> None:
        proxy = self.server.proxy
        proxy.connections += 1
        with contextlib.suppress(OSError), socket.create_connection(proxy.upstream) as upstream:
            back = threading.Thread(target=self._answer, args=(upstream,), daemon=True)
            back.start()
            used = time.monotonic()
            forgotten = False
            while data := self.request.recv(65536):
                forgotten |= time.monotonic() - used > proxy.patience
                used = time.monotonic()
                if not forgotten:  # otherwise nobody will ever answer
                    upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)
            back.join()

    def _answer(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                if self.server.proxy.slow.is_set():
                    time.sleep(0.2)  # simulates a slow source
                self.request.sendall(data)


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: ForgetfulProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Line)


class ForgetfulProxy(Loopback):
    """
    Forwards bytes on a free port of loopback.

    Args:
        upstream: The URL of the server to forward to.

    Attributes:
        upstream: Its host and port.
        slow: While it is set, each answer needs a fifth of a second.
        connections: How many were opened.
        patience: A connection that was idle for more seconds is forgotten: what arrives on it is
            swallowed.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        self.upstream = (address.hostname or "", address.port or 0)
        self.slow = threading.Event()
        self.connections = 0
        self.patience = math.inf
        super().__init__(_Listener(self))
