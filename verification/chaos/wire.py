"""
HTTP servers on loopback that answer what they are told to, or break off; and one of them that
stands before another.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import struct
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
    """What a server was asked, on which of its connections."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Answer:
    """
    What it answers.

    Attributes:
        status: 0: nothing is sent.
        length: What Content-Length claims, if it lies; the connection is closed then.
        chunks: Sent after the body, each after a pause in seconds.
        reset: Break off after all that with a TCP reset.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    length: int | None = None
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    reset: bool = False


HANG_UP = Answer(status=0)
"""No answer: the connection is closed."""

RESET = Answer(status=0, reset=True)
"""No answer: the connection is reset."""


def sqs_error(status: int, code: str) -> Answer:
    """Refuse a call, as SQS does."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": code}).encode()
    return Answer(status, body, {"Content-Type": "application/x-amz-json-1.0"})


def half(answer: Answer) -> Answer:
    """Break off in the middle of the body."""
    return replace(answer, body=answer.body[: len(answer.body) // 2], length=len(answer.body))


class _Handler(BaseHTTPRequestHandler):
    server: _Listener  # pyright: ignore[reportIncompatibleVariableOverride]  # no other makes one
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # head and body go out apart: the client would wait 40 ms for each answer's second
    )

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.respond(
            Asked(self.command, self.path, dict(self.headers), body, id(self.connection))
        )
        try:
            self._send(answer)
        except OSError:  # the client has lost its patience, as it should
            self.close_connection = True

    do_POST = do_GET  # noqa: N815  # http.server's name for it

    def _send(self, answer: Answer) -> None:
        if answer.status:
            self._send_head(answer)
            self.wfile.write(answer.body)
            for pause, chunk in answer.chunks:
                time.sleep(pause)  # a slow server is what this plays
                self.wfile.write(chunk)
        if not answer.status or answer.length is not None:
            self.close_connection = True
        if answer.reset:  # what closes with no time to linger is reset (socket(7), SO_LINGER)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

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

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        if request.getsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER
        ):  # to be reset, which a goodbye before would hide
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that broke, which is what all this is for


class Server:
    """
    A server on a free port of loopback, which it keeps when it goes away and comes back.

    Args:
        respond: Says what to answer, in a thread for each connection.
        tls: To speak HTTPS.
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
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def come_back(self) -> None:
        """Listen."""
        self._listener = _Listener(self._port, self._respond)
        self._port = self._listener.server_port
        if self._tls is not None:
            self._listener.socket = self._tls.wrap_socket(self._listener.socket, server_side=True)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self._thread.start()

    def go_away(self) -> None:
        """Refuse connections, and break those that there are; do nothing if it is away."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.shutdown()
        self._thread.join()
        listener.server_close()
        for connection in listener.connections.copy():
            with contextlib.suppress(OSError):  # closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)


class Proxy(Server):
    """
    Stands before another server.

    Args:
        upstream: The other's URL.

    Attributes:
        fault: Answers in the other's place; None: it does.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(lambda asked: self.fault(asked) or self.forward(asked))
        self.fault: Callable[[Asked], Answer | None] = lambda _: None
        self._upstream = upstream
        self._pool = urllib3.PoolManager(maxsize=100, retries=False)

    def forward(self, asked: Asked) -> Answer:
        """Let the other answer."""
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
    What a `RawServer` answers: bytes, whatever they mean.

    Attributes:
        keep: Keep the connection for the next request; else it is closed after them.
        reset: Break it off with a TCP reset.
    """

    text: bytes
    keep: bool = False
    reset: bool = False


class _Talk(socketserver.BaseRequestHandler):
    server: _RawListener  # pyright: ignore[reportIncompatibleVariableOverride]  # no other makes one

    def handle(self) -> None:
        keep = True
        with contextlib.suppress(OSError):  # the client has gone
            while keep and (head := self._head()):
                answer = self.server.respond(head)
                self.request.sendall(answer.text)
                keep = answer.keep
                if answer.reset:
                    self.request.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    self.request.close()  # here, as the server would end what it sends first, and that is no reset

    def _head(self) -> bytes:
        """
        Return the request line and the headers; nothing if the client has closed the connection.
        """
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


class RawServer:
    """
    A server on a free port of loopback that takes no part in HTTP: it hands on what it hears, and
    says what it is told.

    Args:
        respond: Given a request line and its headers, says what to answer, in a thread for each
            connection.
        tls: To speak it in TLS.
    """

    def __init__(
        self, respond: Callable[[bytes], Raw], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._listener = _RawListener(respond)
        if tls is not None:
            self._listener.socket = tls.wrap_socket(self._listener.socket, server_side=True)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()


_OF_A_CONNECTION = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}
