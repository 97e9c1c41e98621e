"""
Keep the caches of other services right.

The service that owns entities broadcasts their ids over SNS before it saves them
(`broadcasts_before_save`). A service that needs a copy runs a `Worker`: it receives the ids from
SQS, GETs the entities, and applies what it finds to a local cache.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from change_events.exceptions import (
    AlreadyRunningError,
    ChangeEventsError,
    ConfigurationError,
    DecodeError,
    FetchError,
    IdResolutionError,
    ListingError,
    MassDeletionError,
    PublishError,
)

if TYPE_CHECKING:
    from change_events._consumer.health import Health
    from change_events._consumer.stats import Stats
    from change_events._event import ChangeEvent, Entry, Found, Gone, Outcome, Page, Unchanged
    from change_events._from_async import from_async
    from change_events._operations.audit import Audit
    from change_events._operations.audit_report import AuditReport
    from change_events._operations.backfill import Backfill
    from change_events._operations.dead_letters import RedriveProgress, RedriveReport, redrive
    from change_events._operations.progress import BackfillReport, Progress
    from change_events._operations.refresh import refresh
    from change_events._producer.broadcasting import broadcasting, broadcasts_before_save
    from change_events._producer.publishers import NullPublisher, SNSPublisher, in_portions
    from change_events._producer.renewals import broadcast_stats, measure_broadcasts
    from change_events._producer.tally import BroadcastStats
    from change_events._source.fetcher import HTTPFetcher
    from change_events._source.listing import HTTPListing
    from change_events._source.oauth import ClientCredentials
    from change_events._source.sigv4 import SigV4
    from change_events._worker import Worker
    from change_events.sinks.dynamodb import DynamoDBSink
    from change_events.sinks.memory import MemorySink
    from change_events.sinks.postgres import PostgresSink
    from change_events.sinks.redis import RedisSink
    from change_events.sinks.sqlalchemy import SQLAlchemySink
    from change_events.sinks.sqlite import SQLiteSink
    from change_events.typing import (
        AsyncFetcher,
        AsyncListing,
        AsyncSink,
        Auth,
        BulkFetcher,
        BulkSink,
        EnumerableSink,
        Fetcher,
        ForgetfulSink,
        Listing,
        Metrics,
        Publisher,
        ReadableSink,
        Sink,
        StatefulSink,
    )

__all__ = [
    "AlreadyRunningError",
    "AsyncFetcher",
    "AsyncListing",
    "AsyncSink",
    "Audit",
    "AuditReport",
    "Auth",
    "Backfill",
    "BackfillReport",
    "BroadcastStats",
    "BulkFetcher",
    "BulkSink",
    "ChangeEvent",
    "ChangeEventsError",
    "ClientCredentials",
    "ConfigurationError",
    "DecodeError",
    "DynamoDBSink",
    "Entry",
    "EnumerableSink",
    "FetchError",
    "Fetcher",
    "ForgetfulSink",
    "Found",
    "Gone",
    "HTTPFetcher",
    "HTTPListing",
    "Health",
    "IdResolutionError",
    "Listing",
    "ListingError",
    "MassDeletionError",
    "MemorySink",
    "Metrics",
    "NullPublisher",
    "Outcome",
    "Page",
    "PostgresSink",
    "Progress",
    "PublishError",
    "Publisher",
    "ReadableSink",
    "RedisSink",
    "RedriveProgress",
    "RedriveReport",
    "SNSPublisher",
    "SQLAlchemySink",
    "SQLiteSink",
    "SigV4",
    "Sink",
    "StatefulSink",
    "Stats",
    "Unchanged",
    "Worker",
    "broadcast_stats",
    "broadcasting",
    "broadcasts_before_save",
    "from_async",
    "in_portions",
    "measure_broadcasts",
    "redrive",
    "refresh",
]

__version__: str

_NAMES = {
    "_consumer.health": ["Health"],
    "_consumer.stats": ["Stats"],
    "_event": ["ChangeEvent", "Entry", "Found", "Gone", "Outcome", "Page", "Unchanged"],
    "_from_async": ["from_async"],
    "_operations.backfill": ["Backfill"],
    "_operations.dead_letters": ["RedriveProgress", "RedriveReport", "redrive"],
    "_worker": ["Worker"],
    "_operations.progress": ["BackfillReport", "Progress"],
    "_operations.audit": ["Audit"],
    "_operations.audit_report": ["AuditReport"],
    "_operations.refresh": ["refresh"],
    "_producer.broadcasting": ["broadcasting", "broadcasts_before_save"],
    "_producer.publishers": ["NullPublisher", "SNSPublisher", "in_portions"],
    "_producer.renewals": ["broadcast_stats", "measure_broadcasts"],
    "_producer.tally": ["BroadcastStats"],
    "_source.fetcher": ["HTTPFetcher"],
    "_source.listing": ["HTTPListing"],
    "_source.oauth": ["ClientCredentials"],
    "_source.sigv4": ["SigV4"],
    "sinks.dynamodb": ["DynamoDBSink"],
    "sinks.memory": ["MemorySink"],
    "sinks.postgres": ["PostgresSink"],
    "sinks.redis": ["RedisSink"],
    "sinks.sqlalchemy": ["SQLAlchemySink"],
    "sinks.sqlite": ["SQLiteSink"],
    "typing": [
        "AsyncFetcher",
        "AsyncListing",
        "AsyncSink",
        "Auth",
        "BulkFetcher",
        "BulkSink",
        "EnumerableSink",
        "Fetcher",
        "ForgetfulSink",
        "Listing",
        "Metrics",
        "Publisher",
        "ReadableSink",
        "Sink",
        "StatefulSink",
    ],
}
"""
The names of each module, which is loaded at the first use of one (PEP 562): a service that only
broadcasts does not pay for urllib3 and SQLite.
"""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}

for _name in set(__all__) - set(_HOMES):  # the errors
    globals()[_name].__module__ = __name__  # neither a traceback nor a pickle names another module

if not TYPE_CHECKING:  # pragma: no branch  # otherwise no type checker finds a misspelt name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version  # not above: its import costs milliseconds

            return version("change-events")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        value.__module__ = __name__  # as for the errors
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
