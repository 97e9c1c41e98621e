"""An HTTP proxy on loopback: it forwards requests, and TLS by CONNECT."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if not self._is_allowed():
            return
        parts = urlsplit(self.path)
        assert parts.netloc, "a proxy is asked for the whole URL"
        assert self.headers["Host"] == parts.netloc
        own = ("proxy-authorization", "connection")
        headers = {name: self.headers[name] for name in self.headers if name.lower() not in own}
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port_of(parts.netloc))
        with contextlib.closing(upstream):
            path = self.path[len(f"http://{parts.netloc}") :]
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            upstream.request(self.command, path, body, headers)
            answer = upstream.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def do_CONNECT(self):
        assert self.headers["Host"] == self.path
        if not self._is_allowed():
            return
        self.close_connection = True
        port = self.server.port_of(self.path)
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            self.wfile.write(self.server.established)
            back = threading.Thread(target=_forward, args=(upstream, self.connection))
            back.start()
            _forward(self.connection, upstream)
            back.join()

    def _is_allowed(self):
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        user = self.server.user
        basic = user and f"Basic {base64.b64encode(user.encode()).decode()}"
        status = self.server.status or (
            407 if basic != self.headers.get("Proxy-Authorization") else 200
        )
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")
        return status == 200

    def log_message(self, *_):
        pass


def _forward(source, target):
    with contextlib.suppress(OSError):  # the other end has closed
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):  # it is closed already
        target.shutdown(socket.SHUT_RDWR)


class ForwardProxy(ThreadingHTTPServer):
    """
    A proxy. It reaches every host on loopback.

    Attributes:
        user: Whom it wants: `user:password`; None: it must not be told.
        status: What it answers to all requests; None: it forwards them.
        established: The bytes that it answers to CONNECT.
        asked: The method, the target and the headers of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.user = None
        self.status = None
        self.established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def port_of(self, authority):
        return int(authority.rpartition(":")[2])

    def process_request_thread(self, request, client_address):
        sys.settrace(None)  # coverage would trace each line of the proxy
        super().process_request_thread(request, client_address)

    def handle_error(self, request, client_address):
        pass  # broken connections are expected


@contextlib.contextmanager
def forward_proxy():
    with ForwardProxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
