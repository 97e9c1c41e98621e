"""HTTP servers on loopback that answer as told, or break off; and a proxy that can do so, too."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import urllib3

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from typing_extensions import Self


@dataclass(frozen=True)
class Asked:
    """A request. `connection` identifies the connection that it came by."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Answer:
    """
    A server's answer.

    Attributes:
        status: The HTTP status; 0: send nothing.
        body: The body.
        headers: The headers, without Content-Length.
        length: A false Content-Length; the server then closes the connection.
        chunks: Bytes to send after the body, each after a pause in seconds.
        reset: Reset the TCP connection at the end.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    length: int | None = None
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    reset: bool = False


HANG_UP = Answer(status=0)
"""No answer: the server closes the connection."""

RESET = Answer(status=0, reset=True)
"""No answer: the server resets the connection."""


def sqs_error(status: int, code: str) -> Answer:
    """Return the answer by which SQS refuses a call."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": code}).encode()
    return Answer(status, body, {"Content-Type": "application/x-amz-json-1.0"})


def half(answer: Answer) -> Answer:
    """Return the answer, broken off in the middle of its body."""
    return replace(answer, body=answer.body[: len(answer.body) // 2], length=len(answer.body))


def _reset_on_close(connection: socket.socket) -> None:
    """Let `close` reset the connection: the time to linger is zero (socket(7), SO_LINGER)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Handler(BaseHTTPRequestHandler):
    server: _Listener  # pyright: ignore[reportIncompatibleVariableOverride]  # no other class makes one
    protocol_version = "HTTP/1.1"
    # Head and body are sent apart, and Nagle's algorithm would delay each body by 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.respond(
            Asked(self.command, self.path, dict(self.headers), body, id(self.connection))
        )
        try:
            self._send(answer)
        except OSError:  # the client gives up on a slow answer
            self.close_connection = True

    do_POST = do_GET  # noqa: N815  # http.server's name

    def _send(self, answer: Answer) -> None:
        if answer.status:
            self._send_head(answer)
            self.wfile.write(answer.body)
            for pause, chunk in answer.chunks:
                time.sleep(pause)  # simulates a slow server
                self.wfile.write(chunk)
        if not answer.status or answer.length is not None:
            self.close_connection = True
        if answer.reset:
            _reset_on_close(self.connection)

    def _send_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 304:
            self.send_header(
                "Content-Length", str(len(answer.body) if answer.length is None else answer.length)
            )
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, respond: Callable[[Asked], Answer]) -> None:
        self.respond = respond
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        sys.settrace(None)  # coverage would trace each line of the server
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)  # a shutdown first would end it without a reset
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # broken connections are expected


class Server:
    """
    A server on a free port of loopback. It keeps the port when it goes away and comes back.

    Args:
        respond: Returns the answer to a request. Each connection has a thread.
        tls: Speak HTTPS.
    """

    def __init__(
        self, respond: Callable[[Asked], Answer], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._respond = respond
        self._tls = tls
        self._port = 0
        self._listener: _Listener | None = None

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def come_back(self) -> None:
        """Start to listen."""
        self._listener = _Listener(self._port, self._respond)
        self._port = self._listener.server_port
        if self._tls is not None:
            self._listener.socket = self._tls.wrap_socket(self._listener.socket, server_side=True)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self._thread.start()

    def go_away(self) -> None:
        """Refuse new connections, and break the open ones. Do nothing if the server is away."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.shutdown()
        self._thread.join()
        listener.server_close()
        for connection in listener.connections.copy():
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)


class Proxy(Server):
    """
    A server that forwards to another one.

    Args:
        upstream: The other server's URL.

    Attributes:
        fault: Returns an answer instead of the other server's, or None to forward the request.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(lambda asked: self.fault(asked) or self.forward(asked))
        self.fault: Callable[[Asked], Answer | None] = lambda _: None
        self._upstream = upstream
        self._pool = urllib3.PoolManager(maxsize=100, retries=False)

    def forward(self, asked: Asked) -> Answer:
        """Return the other server's answer."""
        headers = {
            name: value
            for name, value in asked.headers.items()
            if name.lower() not in _OF_A_CONNECTION
        }
        response = self._pool.request(
            asked.method,
            self._upstream + asked.path,
            body=asked.body,
            headers=headers,
            redirect=False,
            decode_content=False,
        )
        answered = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in _OF_A_CONNECTION
        }
        return Answer(response.status, response.data, answered)


@dataclass(frozen=True)
class Raw:
    """
    The answer of a `RawServer`: any bytes.

    Attributes:
        text: The bytes.
        keep: Keep the connection for the next request; otherwise close it.
        reset: Reset the TCP connection after these bytes.
    """

    text: bytes
    keep: bool = False
    reset: bool = False


class _Talk(socketserver.BaseRequestHandler):
    server: _RawListener  # pyright: ignore[reportIncompatibleVariableOverride]  # no other class makes one

    def handle(self) -> None:
        keep = True
        with contextlib.suppress(OSError):  # the client has closed
            while keep and (head := self._head()):
                answer = self.server.respond(head)
                self.request.sendall(answer.text)
                keep = answer.keep
                if answer.reset:
                    _reset_on_close(self.request)
                    self.request.close()  # the server would shut it down first: without a reset

    def _head(self) -> bytes:
        """Return the request line and the headers; nothing if the client has closed."""
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.request.recv(65536)
            if not more:
                return b""
            head += more
        return head


class _RawListener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, respond: Callable[[bytes], Raw]) -> None:
        self.respond = respond
        super().__init__(("127.0.0.1", 0), _Talk)


class Loopback:
    """A server in a thread of its own, which ends with the block. `listener` has its port."""

    def __init__(self, listener: socketserver.TCPServer) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=listener.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


class RawServer(Loopback):
    """
    A server on a free port of loopback that knows nothing of HTTP.

    Args:
        respond: Given a request line and its headers, returns the bytes to answer. Each
            connection has a thread.
        tls: Speak TLS.
    """

    def __init__(
        self, respond: Callable[[bytes], Raw], *, tls: ssl.SSLContext | None = None
    ) -> None:
        listener = _RawListener(respond)
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        super().__init__(listener)


_OF_A_CONNECTION = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}
