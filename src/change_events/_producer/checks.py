"""What `broadcasts_before_save` refuses at decoration."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from change_events._event import MAX_SETTLE
from change_events._ids import Arguments, reader
from change_events.exceptions import ConfigurationError
from change_events.typing import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable


def require_settings(settle: float, on_unsettled: object) -> None:
    """Refuse a settle window that workers could not read, and a function that would never run."""
    is_number = isinstance(settle, (int, float)) and not isinstance(settle, bool)
    if not is_number or not 0 < settle <= MAX_SETTLE:
        raise ConfigurationError(
            f"settle must be seconds, more than 0 and up to {MAX_SETTLE:.0f}, not {settle!r}"
        )
    if on_unsettled is not None and not callable(on_unsettled):
        raise ConfigurationError(f"on_unsettled must be a function, not {on_unsettled!r}")
    if inspect.iscoroutinefunction(on_unsettled):
        raise ConfigurationError(
            "on_unsettled must be a plain function: a thread calls it, and nobody would await it"
        )


def require_publisher(publisher: object) -> None:
    """Refuse what can't publish: otherwise a block could be saved unannounced."""
    if not isinstance(publisher, Publisher) or isinstance(publisher, type):
        raise ConfigurationError(
            f"broadcasting(publisher, *ids): {publisher!r} is not a publisher, an object with "
            "publish(events); make one, SNSPublisher(topic_arn), and pass it first"
        )


def require_sent(result: object, sender: object) -> None:
    """Refuse an awaitable that `publish` has returned: nobody awaits it, so nothing is sent."""
    if inspect.isawaitable(result):
        getattr(result, "close", int)()  # or Python warns that nobody has awaited it
        raise ConfigurationError(
            f"publish() of {sender!r} is asynchronous, and nobody awaits what it returns, so "
            "nothing is broadcast. Use a plain one: in asynchronous code it runs in a thread"
        )


def require_plain_function(function: object) -> None:
    """Refuse what is not a function, or what runs later than it is called."""
    if isinstance(function, (staticmethod, classmethod)):
        raise ConfigurationError(
            f"put @broadcasts_before_save below @{type(function).__name__}, not above it"
        )
    if not inspect.isroutine(function):
        raise ConfigurationError(
            f"@broadcasts_before_save(publisher) decorates a function, not {function!r}; is "
            "`(publisher)` missing?"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is a generator function: it runs when it is iterated, not "
            "when it is called. Decorate what iterates it, or use "
            "`with broadcasting(publisher, id):` inside"
        )


def publisher_finder(
    function: Callable[..., Any], publisher: Publisher | Callable[..., Publisher]
) -> Callable[[Arguments], Publisher]:
    """Return a function that finds the publisher of a call of `function`."""
    if isinstance(publisher, Publisher) and not isinstance(publisher, type):
        return lambda _: publisher
    if callable(publisher) and not isinstance(publisher, type):
        return reader(function, publisher, setting="publisher")
    raise ConfigurationError(
        f"{function.__qualname__}(): {publisher!r} has no publish(events) and is not a callable"
    )
