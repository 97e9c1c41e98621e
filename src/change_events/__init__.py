"""
Keep the caches of other services right.

The service that owns entities broadcasts their ids over SNS before it saves them (`broadcasts_before_save`). A service that
needs a copy lets a `Worker` receive the ids from SQS, GET the entities, and apply what it finds to a local cache.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from change_events.exceptions import (
    ChangeEventsError,
    ConfigurationError,
    DecodeError,
    FetchError,
    IdResolutionError,
    PublishError,
)

if TYPE_CHECKING:
    from change_events._decorator import broadcasting, broadcasts_before_save
    from change_events._event import ChangeEvent, Entry, Found, Gone, Outcome, Unchanged
    from change_events._fetch import HTTPFetcher
    from change_events._publishers import NullPublisher, SNSPublisher
    from change_events._worker import Stats, Worker
    from change_events.sinks.memory import MemorySink
    from change_events.sinks.sqlite import SQLiteSink
    from change_events.typing import Fetcher, Publisher, Sink

__all__ = [
    "ChangeEvent",
    "ChangeEventsError",
    "ConfigurationError",
    "DecodeError",
    "Entry",
    "FetchError",
    "Fetcher",
    "Found",
    "Gone",
    "HTTPFetcher",
    "IdResolutionError",
    "MemorySink",
    "NullPublisher",
    "Outcome",
    "PublishError",
    "Publisher",
    "SNSPublisher",
    "SQLiteSink",
    "Sink",
    "Stats",
    "Unchanged",
    "Worker",
    "broadcasting",
    "broadcasts_before_save",
]

_HOMES = {
    "ChangeEvent": "_event",
    "Entry": "_event",
    "Fetcher": "typing",
    "Found": "_event",
    "Gone": "_event",
    "HTTPFetcher": "_fetch",
    "MemorySink": "sinks.memory",
    "NullPublisher": "_publishers",
    "Outcome": "_event",
    "Publisher": "typing",
    "SNSPublisher": "_publishers",
    "SQLiteSink": "sinks.sqlite",
    "Sink": "typing",
    "Stats": "_worker",
    "Unchanged": "_event",
    "Worker": "_worker",
    "broadcasting": "_decorator",
    "broadcasts_before_save": "_decorator",
}
"""Loaded when first asked for (PEP 562): a service that only broadcasts does not pay for urllib3 and SQLite."""


def _public(name: str, value: object) -> object:
    value.__module__ = __name__  # so that neither a traceback nor a pickle names a private module
    globals()[name] = value
    return value


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _public(name, getattr(import_module(f"{__name__}.{_HOMES[name]}"), name))


def __dir__() -> list[str]:
    return __all__


for _error in (ChangeEventsError, ConfigurationError, DecodeError, FetchError, IdResolutionError, PublishError):
    _public(_error.__name__, _error)
