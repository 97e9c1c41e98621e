"""Run an application as a process that stops cleanly."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    import argparse

    from fastapi import FastAPI


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for `serve`."""
    group = parser.add_argument_group("serving")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    group.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen on; 0 for a free one (default: %(default)s)",
    )
    group.add_argument(
        "--log-level",
        default="info",
        help="critical, error, warning, info or debug (default: %(default)s)",
    )


def serve(app: FastAPI, *, host: str, port: int, log_level: str) -> bool:
    """
    Serve until SIGTERM or Ctrl-C. Print `listening on <url>` when requests are answered.

    Returns:
        False if the application could not start; the log has the reason.
    """
    # uvicorn stops at either signal, and then raises it again so that the program ends, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener = socket.create_server((host, port))
    server = _Server(uvicorn.Config(app, log_level=log_level))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return server.started


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            if self.started:
                host, port = listener.getsockname()[:2]
                print(f"listening on http://{host}:{port}", flush=True)  # noqa: T201  # people and the demo read it
