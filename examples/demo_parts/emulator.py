"""AWS on loopback, as a process: moto's server, one request at a time."""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from moto.core import responses, utils
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sqs.models import Message, Queue, SQSBackend
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from werkzeug.serving import BaseWSGIServer


class OneAtATime:
    """
    Lets one request at a time into the emulator.

    moto has no locks. Two conditional writes at once could both succeed. A message that is sent
    while another is deleted could get lost. One of two receives could fail over a dead letter that
    the other moves, and lose what it had found. AWS does none of that. A request that waits in a
    long poll lets others in.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        with _turn:
            _mine.turn = True
            try:
                return self._app(environ, start_response)
            finally:
                _mine.turn = False


_turn = threading.Lock()
_mine = threading.local()
_wait = Queue.wait_for_messages


def _wait_outside(queue: Queue, timeout: int) -> None:
    """Wait for messages as moto does, but let other requests in meanwhile."""
    if not getattr(_mine, "turn", False):
        _wait(queue, timeout)
        return
    _turn.release()
    try:
        _wait(queue, timeout)
    finally:
        _turn.acquire()


def _is_retained(backend: Any, queue_name: str, message: Message) -> bool:
    """Tell whether a queue still keeps a message. moto counts all messages of the queue first."""
    seconds: float = backend.get_queue(queue_name).message_retention_period
    return time.time() < message.sent_timestamp / 1000 + seconds  # type: ignore[operator]  # typed as None at first


# Another library's. It asks slowly for the time, for each message of a queue, at each call.
Queue.wait_for_messages = _wait_outside  # type: ignore[assignment]
SQSBackend.is_message_valid_based_on_retention_period = _is_retained  # type: ignore[assignment]
Message.visible = property(lambda self: time.time() * 1000 > self.visible_at)  # type: ignore[assignment]
Message.delayed = property(lambda self: time.time() * 1000 < self.delayed_until)  # type: ignore[assignment]
# It inspects a class, and rewrites a name by a pattern, for each request.
for slow in (utils.method_names_from_class, utils.camelcase_to_underscores):
    setattr(responses, slow.__name__, functools.cache(slow))


class KeepAlive(WSGIRequestHandler):
    """
    Keeps connections, as AWS does. The default is a new one, and a new thread, for each request.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a body waits until its headers are acknowledged


def make_emulator() -> BaseWSGIServer:
    """Make a server on a free port of loopback; `serve_forever` starts it."""
    app = DomainDispatcherApplication(create_backend_app)
    # It lists moto's directory, and tries hundreds of patterns, for each request.
    find = functools.cache(app.get_backend_for_host)
    app.get_backend_for_host = find  # type: ignore[method-assign]  # another library's
    return make_server("127.0.0.1", 0, OneAtATime(app), threaded=True, request_handler=KeepAlive)


def main() -> None:
    """Serve until the process is ended."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = make_emulator()
    print(f"listening on http://127.0.0.1:{server.port}", flush=True)  # noqa: T201  # for the parent
    server.serve_forever()


if __name__ == "__main__":
    main()
