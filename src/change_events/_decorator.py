"""The producer's side: broadcast, then save."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from change_events._event import ChangeEvent
from change_events._ids import Arguments, checked_id, id_resolver, reader
from change_events.exceptions import ConfigurationError, IdResolutionError
from change_events.typing import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")


class broadcasting:  # a context manager, named like one  # noqa: N801
    """
    Broadcast ids, then run the block; `with` it or, in asynchronous code, `async with` it.

    No broadcast, no save: if the publisher raises, the block does not run. In `async with` the publisher runs in a thread,
    within the caller's context variables, and the event loop goes on.

    Args:
        publisher: What broadcasts.
        ids: The ids of the entities that the block is about to save: text, integers or UUIDs. None at all: nothing to say.

    Raises:
        IdResolutionError: An id is None, empty, `.` or `..`, over 512 characters, or has control characters or lone
            surrogates.
        PublishError: On entering: the broadcast was not accepted.
    """

    def __init__(self, publisher: Publisher, /, *ids: object) -> None:
        try:
            self._events = [ChangeEvent(id) for id in dict.fromkeys(map(checked_id, ids))]
        except ValueError as error:
            raise IdResolutionError(str(error)) from None
        self._publisher = publisher

    def __enter__(self) -> None:
        if self._events:
            self._publisher.publish(self._events)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Leave: whether the block has saved or raised, there is nothing to take back."""

    async def __aenter__(self) -> None:
        import asyncio  # an asynchronous caller has it already; a synchronous one need not pay for it

        if self._events:
            await asyncio.to_thread(self._publisher.publish, self._events)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave, as `__exit__` does."""


def broadcasts_before_save(
    publisher: Publisher | Callable[..., Publisher],
    *,
    id: str | Callable[..., object] | None = None,
    ids: str | Callable[..., Iterable[object]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Decorate a function that saves, updates or deletes entities: it broadcasts their ids before it runs.

    No broadcast, no save: if the publisher raises, the function does not run. The function may be asynchronous; then the
    publisher runs in a thread, within the caller's context variables.

    Args:
        publisher: What broadcasts; or a callable that returns it and names the parameters it needs
            (`lambda self: self.publisher`).
        id: Where a call has its entity's id: a path (`"product.id"`: a parameter, then attributes or mapping keys), or a
            callable that names the parameters it needs (`lambda product: product.id`). Default: the parameter named `id`,
            else the first parameter's own `id` (`self` and `cls` don't count).
        ids: Where a call has the ids of several entities, likewise; for a function that saves them all.

    Raises:
        ConfigurationError: At decoration: a parameter that the function doesn't have; `id` with `ids`; a generator function
            (it runs when it is iterated, not when it is called); no publisher.
        IdResolutionError: At the call: no id there, or one that can't be used. Nothing is sent or saved.
        PublishError: At the call: the broadcast was not accepted. Nothing is saved.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _require_plain_function(function)
        signature = inspect.signature(function)
        find_publisher = _publisher_finder(function, publisher)
        resolve = id_resolver(function, id=id, ids=ids)

        def announce(args: tuple[Any, ...], kwargs: dict[str, Any]) -> broadcasting:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return broadcasting(find_publisher(bound.arguments), *resolve(bound.arguments))

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def save_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with announce(args, kwargs):
                    return await function(*args, **kwargs)

            return save_async  # type: ignore[return-value]  # R is the coroutine, which no checker can see from here

        @functools.wraps(function)
        def save(*args: P.args, **kwargs: P.kwargs) -> R:
            with announce(args, kwargs):
                return function(*args, **kwargs)

        return save

    return decorate


def _require_plain_function(function: object) -> None:
    if isinstance(function, (staticmethod, classmethod)):
        raise ConfigurationError(f"put @broadcasts_before_save below @{type(function).__name__}, not above it")
    if not inspect.isroutine(function):
        raise ConfigurationError(f"@broadcasts_before_save(publisher) decorates a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is a generator function: it runs when it is iterated, not when it is called. "
            "Decorate what iterates it, or use `with broadcasting(publisher, id):` inside"
        )


def _publisher_finder(
    function: Callable[..., Any], publisher: Publisher | Callable[..., Publisher]
) -> Callable[[Arguments], Publisher]:
    if isinstance(publisher, Publisher):
        return lambda _: publisher
    if callable(publisher):
        return reader(function, publisher, setting="publisher")
    raise ConfigurationError(f"{function.__qualname__}(): {publisher!r} has no publish(events), nor is it a callable")
