"""
Keep the caches of other services right.

The service that owns entities broadcasts their ids over SNS before it saves them
(`broadcasts_before_save`). A service that needs a copy lets a `Worker` receive the ids from SQS,
GET the entities, and apply what it finds to a local cache.
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
    MassDeletionError,
    PublishError,
)

if TYPE_CHECKING:
    from change_events._consumer.health import Health
    from change_events._consumer.stats import Stats
    from change_events._consumer.worker import Worker
    from change_events._event import ChangeEvent, Entry, Found, Gone, Outcome, Unchanged
    from change_events._producer.broadcasting import broadcasting, broadcasts_before_save
    from change_events._producer.publishers import NullPublisher, SNSPublisher
    from change_events._producer.renewals import BroadcastStats, broadcast_stats, measure_broadcasts
    from change_events._source.fetcher import HTTPFetcher
    from change_events.sinks.dynamodb import DynamoDBSink
    from change_events.sinks.memory import MemorySink
    from change_events.sinks.postgres import PostgresSink
    from change_events.sinks.sqlite import SQLiteSink
    from change_events.typing import BulkFetcher, Fetcher, Metrics, Publisher, Sink

__all__ = [
    "BroadcastStats",
    "BulkFetcher",
    "ChangeEvent",
    "ChangeEventsError",
    "ConfigurationError",
    "DecodeError",
    "DynamoDBSink",
    "Entry",
    "FetchError",
    "Fetcher",
    "Found",
    "Gone",
    "HTTPFetcher",
    "Health",
    "IdResolutionError",
    "MassDeletionError",
    "MemorySink",
    "Metrics",
    "NullPublisher",
    "Outcome",
    "PostgresSink",
    "PublishError",
    "Publisher",
    "SNSPublisher",
    "SQLiteSink",
    "Sink",
    "Stats",
    "Unchanged",
    "Worker",
    "broadcast_stats",
    "broadcasting",
    "broadcasts_before_save",
    "measure_broadcasts",
]

_HOMES = {
    "BroadcastStats": "_producer.renewals",
    "BulkFetcher": "typing",
    "ChangeEvent": "_event",
    "DynamoDBSink": "sinks.dynamodb",
    "Entry": "_event",
    "Fetcher": "typing",
    "Found": "_event",
    "Gone": "_event",
    "HTTPFetcher": "_source.fetcher",
    "Health": "_consumer.health",
    "MemorySink": "sinks.memory",
    "Metrics": "typing",
    "NullPublisher": "_producer.publishers",
    "Outcome": "_event",
    "PostgresSink": "sinks.postgres",
    "Publisher": "typing",
    "SNSPublisher": "_producer.publishers",
    "SQLiteSink": "sinks.sqlite",
    "Sink": "typing",
    "Stats": "_consumer.stats",
    "Unchanged": "_event",
    "Worker": "_consumer.worker",
    "broadcast_stats": "_producer.renewals",
    "broadcasting": "_producer.broadcasting",
    "broadcasts_before_save": "_producer.broadcasting",
    "measure_broadcasts": "_producer.renewals",
}
"""
Loaded when first asked for (PEP 562): a service that only broadcasts does not pay for urllib3 and
SQLite.
"""


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


for _error in (
    ChangeEventsError,
    ConfigurationError,
    DecodeError,
    FetchError,
    IdResolutionError,
    MassDeletionError,
    PublishError,
):
    _public(_error.__name__, _error)
