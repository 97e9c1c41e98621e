"""AWS on loopback, as a process: moto's server, one request at a time."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class OneAtATime:
    """
    Lets one request at a time into the emulator.

    moto takes no locks: of two conditional writes at once both could succeed, and a message that is sent while another is
    deleted could get lost. AWS does neither. A long poll can't hold the lock, and does no such harm.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage":
            return self._app(environ, start_response)
        with self._lock:
            return self._app(environ, start_response)


class KeepAlive(WSGIRequestHandler):
    """Keeps connections, as AWS does; the default is a new one, and a new thread, for each request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits until its headers are acknowledged


def main() -> None:
    """Serve on a free port until the process is ended."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=KeepAlive)
    print(f"listening on http://127.0.0.1:{server.port}", flush=True)  # noqa: T201  # for the parent
    server.serve_forever()


if __name__ == "__main__":
    main()
