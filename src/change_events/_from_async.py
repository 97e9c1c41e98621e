"""What the user has made for an event loop, for the worker's threads."""

from __future__ import annotations

import inspect
from concurrent.futures import wait
from contextlib import suppress
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from change_events._event import Outcome
    from change_events.typing import (
        AsyncFetcher,
        AsyncListing,
        AsyncSink,
        Fetcher,
        Listing,
        Sink,
    )

T = TypeVar("T")

LOOP_CHECK = 1.0
"""Seconds between two checks that the event loop still runs."""


@overload
def from_async(
    given: AsyncFetcher[T], /, *, loop: asyncio.AbstractEventLoop | None = None
) -> Fetcher[T]: ...
@overload
def from_async(
    given: AsyncSink[T], /, *, loop: asyncio.AbstractEventLoop | None = None
) -> Sink[T]: ...
@overload
def from_async(
    given: AsyncListing[T], /, *, loop: asyncio.AbstractEventLoop | None = None
) -> Listing[T]: ...
@overload
def from_async(
    given: Callable[[str, Outcome], Awaitable[object]],
    /,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Callable[[str, Outcome], object]: ...
def from_async(given: Any, /, *, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """
    Let a worker use a fetcher, a sink, a listing or an `on_outcome` whose methods are coroutine
    functions. Each call waits, in the worker's thread, for its coroutine in the service's own event
    loop, where its clients and pools belong:

        async with Worker(queue_url, fetcher=from_async(fetcher), sink=from_async(sink)).running():
            ...

    The methods that a `BulkFetcher`, a `StatefulSink` and so on have in addition are taken over,
    too. An attribute is read from the object each time. Methods that are not coroutine functions
    are called in the worker's thread. While something blocks the loop, looks wait. No time limit is
    added: use one in the coroutines.

    Args:
        given: The object, or the function.
        loop: The event loop. None: the one that runs now, in this thread.

    Returns:
        An object with the same methods, or a function. A call raises what its coroutine raises; and
        RuntimeError in the loop's own thread, where it would wait for itself, or if the loop has
        ended.

    Raises:
        ConfigurationError: No event loop runs here, and none was given; or a class was given.
    """
    if isinstance(given, type):
        raise ConfigurationError(
            f"from_async needs an object, not a class: {given.__name__}(...), not {given.__name__}"
        )
    loop = loop or _running_loop()
    if loop is None:
        raise ConfigurationError(
            "from_async needs the event loop in which the coroutines are to run: call it where the "
            "loop runs, in a lifespan for example, or give it loop="
        )
    if inspect.isroutine(given) or inspect.iscoroutinefunction(given):
        return _waiting(given, loop)
    members: dict[str, Any] = {}
    for name in dir(given):
        if not name.startswith("_"):
            value = getattr(given, name)
            members[name] = (
                staticmethod(_waiting(value, loop))
                if callable(value)
                else property(attrgetter(f"_given.{name}"))
            )
    return type("FromAsync", (_FromAsync,), members)(given)


class _FromAsync:
    """What `from_async` returns: for each given object, of a subclass that has its members."""

    def __init__(self, given: object) -> None:
        self._given = given

    def __repr__(self) -> str:
        return f"from_async({self._given!r})"


def _waiting(function: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **by_name: Any) -> Any:
        result = function(*arguments, **by_name)
        return _result(result, loop) if inspect.isawaitable(result) else result

    with suppress(ValueError):  # it is not written in Python
        call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # as inspect reads it
    return call


def _result(awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> Any:
    import asyncio

    coroutine = _await(awaitable)
    try:
        if _running_loop() is loop:
            raise RuntimeError(
                "this waits for a coroutine in the event loop that it runs in, and would wait for "
                "ever: call it in a thread, with asyncio.to_thread for example"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise
    while not wait([future], LOOP_CHECK).done:
        if not loop.is_running():
            future.cancel()
            raise RuntimeError("the event loop has ended, and did not run the coroutine")
    return future.result()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _running_loop() -> asyncio.AbstractEventLoop | None:
    import asyncio  # not above: a worker without coroutines does not need it

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
