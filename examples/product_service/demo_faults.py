"""
Saves that go wrong on purpose, for demonstrations and tests.

They need the option --demo-faults. A request then says what happens to its save, *after* the
broadcast and *before* the commit:

    X-Demo-Fault: fail          the save raises; nothing is saved, though it was announced
    X-Demo-Fault: slow=0.5      the save takes half a second
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER = "X-Demo-Fault"

_fault: ContextVar[str] = ContextVar("_fault", default="")


class DemoFaultError(Exception):
    """The save fails because the request asked for it."""


def before_commit() -> None:
    """Let the save fail or wait if its request asked for that."""
    fault = _fault.get()
    if fault == "fail":
        raise DemoFaultError("this save fails, as its request asked for")
    if fault.startswith("slow="):
        time.sleep(float(fault.removeprefix("slow=")))


class DemoFaults:
    """ASGI middleware that keeps a request's wish for its save, which runs in the same context."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            _fault.set(Headers(scope=scope).get(HEADER, ""))
        await self._app(scope, receive, send)
