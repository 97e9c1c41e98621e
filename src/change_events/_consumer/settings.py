"""What a worker is made with, checked in one place."""

from __future__ import annotations

import inspect
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from change_events._codec import parsed_arn
from change_events._consumer.guard import MAX_SHARE, MIN_DELETED, WINDOW, Guard
from change_events._consumer.queue import BATCH_SIZE, MAX_VISIBILITY
from change_events._event import DEFAULT_SETTLE, MAX_SETTLE, Gone, Outcome
from change_events._extras import missing_extra
from change_events.exceptions import ConfigurationError
from change_events.traces import require_traces
from change_events.typing import BulkFetcher, StatefulSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from change_events.traces import OpenTelemetryTraces
    from change_events.typing import Fetcher, Listing, Metrics, Sink

T = TypeVar("T")

CALLS = (
    "get_queue_attributes",
    "receive_message",
    "delete_message_batch",
    "change_message_visibility_batch",
)
"""What a worker calls of a boto3 SQS client."""

OPTIONAL = (
    ("max_gets_per_second", 0.01, 10_000),
    ("audit_per_minute", 0.01, 6_000),
    ("audit_min_age", 0, 86_400),
)
"""Settings that can be None, and their ranges."""

PREFETCH = 1000
"""Events that a worker holds at first by default, if its heartbeat can."""

THREADS = 64
"""The most GETs at once, by default."""

HELD_PER_SECOND = 150
"""
Events that a heartbeat can hold for each second of visibility timeout: at 10 ms for a call of ten,
half of its time.
"""

HANDED_BACK_PER_SECOND = 500
"""
Events that a stop can hand back for each second of its timeout: at 10 ms for a call of ten, in half
of the timeout. The looks have the other half.
"""

IN_FLIGHT = 120_000
"""The most messages in flight in a queue, standard or FIFO (Amazon SQS quotas)."""


@dataclass(frozen=True, eq=False, repr=False)
class Settings(Generic[T]):
    """The settings of a worker. `Worker` describes each of them."""

    queue_url: str
    _: KW_ONLY
    fetcher: Fetcher[T]
    sink: Sink[T]
    client: Any = None
    topic_arn: str | None = None
    verify_signatures: bool = False
    settle: float = DEFAULT_SETTLE
    max_settle: float = MAX_SETTLE
    early_look: bool = True
    prefetch: int | None = None
    threads: int = THREADS
    batch_size: int = BATCH_SIZE
    wait_time: int = 20
    visibility_timeout: int = 60
    shutdown_timeout: float = 25.0
    on_outcome: Callable[[str, Outcome], object] | None = None
    max_gets_per_second: float | None = None
    max_deleted_share: float = MAX_SHARE
    min_deleted: int = MIN_DELETED
    allow_mass_deletion: bool = False
    metrics: Metrics | None = None
    traces: OpenTelemetryTraces | None = None
    health_address: tuple[str, int] | None = None
    backfill: Listing[T] | Iterable[str] | Iterable[tuple[str, T]] | None = None
    audit_per_minute: float | None = None
    audit_min_age: float | None = None

    @property
    def most_looks(self) -> int:
        """How many looks run at once at most: a quarter more than GETs, for reads and writes."""
        return self.threads * 5 // 4

    @property
    def first_held(self) -> int:
        """How many events to hold at first, and at least: `prefetch`, or its default."""
        return min(PREFETCH, self._most_prefetch()) if self.prefetch is None else self.prefetch

    @property
    def most_held(self) -> int:
        """How many events to hold at most: `prefetch`, or what the worker finds to be good."""
        if self.prefetch is not None:
            return self.prefetch
        handed_back = int(HANDED_BACK_PER_SECOND * self.shutdown_timeout)
        # Another worker can hold as many.
        most = min(self._most_prefetch(), handed_back, IN_FLIGHT // 2)
        return max(self.first_held, most)

    def __post_init__(self) -> None:
        self._require_collaborators()
        self._require("settle", 0, MAX_SETTLE)
        self._require("max_settle", self.settle, MAX_SETTLE)
        self._require_integer("threads", 1, 256)
        self._require_integer("batch_size", 1, BATCH_SIZE)
        self._require_integer("wait_time", 1, 20)
        self._require_integer("visibility_timeout", 3, MAX_VISIBILITY)
        if self.prefetch is not None:
            self._require_integer("prefetch", self.batch_size, self._most_prefetch())
        self._require("shutdown_timeout", 0, 3600)
        for name, least, most in OPTIONAL:
            if getattr(self, name) is not None:
                self._require(name, least, most)
        self._require("max_deleted_share", 0, 1)
        self._require_integer("min_deleted", 1, WINDOW)
        for name in ("early_look", "verify_signatures", "allow_mass_deletion"):
            require_bool(name, getattr(self, name))
        if self.topic_arn is not None:
            parsed_arn(self.topic_arn)
        elif self.verify_signatures:
            raise ConfigurationError(
                "verify_signatures=True needs topic_arn=, too: SNS signs for anybody with a topic"
            )
        if self.health_address is not None:
            _require_address(self.health_address)

    def _most_prefetch(self) -> int:
        return HELD_PER_SECOND * self.visibility_timeout

    def _require_collaborators(self) -> None:
        if not isinstance(self.queue_url, str):
            raise ConfigurationError(f"queue_url must be a queue's URL, not {self.queue_url!r}")
        require_fetcher(self.fetcher)
        require_sink(self.sink)
        if self.client is not None:
            _require_methods("client", self.client, *CALLS)
        if self.metrics is not None:
            _require_methods("metrics", self.metrics, "count", "observe", "gauge")
        require_traces(self.traces)
        if self.on_outcome is not None:
            require_plain("on_outcome", self.on_outcome)
            _require_takes(self.on_outcome, "on_outcome(id, outcome)", "id", Outcome.CREATED)

    def _require_integer(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigurationError(f"{name} must be an integer, not {value!r}")
        self._require(name, least, most)

    def _require(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise ConfigurationError(f"{name} must be from {least} to {most}, not {value!r}")


def make_guard(settings: Settings[Any]) -> Guard:
    """Return the guard that a worker with these settings has."""
    return Guard(
        max_share=settings.max_deleted_share,
        min_deleted=settings.min_deleted,
        on=not settings.allow_mass_deletion,
    )


def make_verifier(settings: Settings[Any]) -> Callable[[Mapping[str, object]], None] | None:
    """
    Return what raises for an envelope that SNS has not signed; None if nothing is to be verified.

    Raises:
        ConfigurationError: The extra `verify` is not installed, or the partition is not known.
    """
    if not settings.verify_signatures:
        return None
    try:
        from change_events._consumer.signature import SignatureVerifier
    except ImportError as error:
        raise missing_extra("verify_signatures=True needs cryptography", "verify", error) from error
    return SignatureVerifier(settings.topic_arn or "").verify


def require_fetcher(fetcher: Fetcher[Any]) -> None:
    """
    Require what a look calls of a fetcher.

    Raises:
        ConfigurationError: It has not got that.
    """
    _require_methods("fetcher", fetcher, "fetch")
    _require_takes(fetcher.fetch, "fetcher.fetch(id, etag=None)", "id", etag=None)
    if isinstance(fetcher, BulkFetcher):
        _require_methods("fetcher", fetcher, "fetch_many")
        _require_takes(fetcher.fetch_many, "fetcher.fetch_many(ids)", ["id"])


def require_sink(sink: Sink[Any]) -> None:
    """
    Require what a look calls of a sink.

    Raises:
        ConfigurationError: It has not got that.
    """
    _require_methods("sink", sink, "entry", "apply")
    _require_takes(sink.entry, "sink.entry(id)", "id")
    apply = "sink.apply(id, change, if_version=0)"
    _require_takes(sink.apply, apply, "id", Gone(), if_version=0)
    if isinstance(sink, StatefulSink):
        set_state = "sink.set_state(name, text, if_state=None)"
        _require_takes(sink.set_state, set_state, "name", "text", if_state=None)


def _require_methods(setting: str, given: object, *names: str) -> None:
    if isinstance(given, type):
        raise ConfigurationError(
            f"{setting} must be an object, not a class: {given.__name__}(...), not {given.__name__}"
        )
    for name in names:
        method = getattr(given, name, None)
        if method is None:
            raise ConfigurationError(
                f"{setting} needs {' and '.join(names)}; {given!r} has no {name}"
            )
        require_plain(f"{setting}.{name}", method)


def _require_takes(
    function: Callable[..., object], call: str, /, *arguments: object, **by_name: object
) -> None:
    """Require that the function can be called with such arguments, as `call` says."""
    try:
        # Not of a function that is wrapped: the wrapper can be called in another way.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # it is not written in Python, or says nothing
        return
    try:
        signature.bind(*arguments, **by_name)
    except TypeError as error:
        raise ConfigurationError(
            f"the worker calls {call}, and its parameters are {signature}: {error}"
        ) from None


def require_bool(name: str, value: object) -> None:
    """
    Require True or False: a text like "false" would count as true.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")


def require_plain(name: str, function: object) -> None:
    """
    Require a function that is not a coroutine function.

    Raises:
        ConfigurationError: It is something else.
    """
    if not callable(function):
        raise ConfigurationError(f"{name} must be a function, not {function!r}")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"{name} must not be a coroutine function: it would never run. Let from_async() wrap it"
        )


def _require_address(address: tuple[str, int]) -> None:
    match address:
        case (str(), int(port)) if 0 <= port <= 65_535:
            return
    raise ConfigurationError(
        f'health_address must be a host and a port, like ("0.0.0.0", 8080), not {address!r}'
    )
