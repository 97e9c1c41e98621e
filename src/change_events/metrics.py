"""
Metrics for Prometheus and for OpenTelemetry.

Make one object for each process. Give it to every `Worker(metrics=...)` and, where entities are
saved, to `measure_broadcasts`. `METRICS` lists all names and labels; no label is ever an id.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from change_events._extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound="MetricWrapperBase")

__all__ = ["METRICS", "Metric", "OpenTelemetryMetrics", "PrometheusMetrics"]

_QUEUE = ("queue",)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STALENESS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 6, 7.5, 10, 15, 30, 60, 300, 900, 3600, 14_400)
"""Milliseconds for first looks, a step at the default window and its slack, hours for outages."""


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric, whichever library it is sent to.

    Attributes:
        kind: A counter, a histogram, or a gauge.
        help: What it measures.
        labels: The names of its labels.
        telemetry: Its name for OpenTelemetry, after `change_events.`.
        unit: Its unit in UCUM, for OpenTelemetry.
        buckets: A histogram's upper bounds.
    """

    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...]
    telemetry: str
    unit: str
    buckets: tuple[float, ...] = ()


_counter, _histogram = partial(Metric, "counter"), partial(Metric, "histogram")

METRICS: Mapping[str, Metric] = {
    "received": _counter("Deliveries taken from the queue.", _QUEUE, "received", "{message}"),
    "malformed": _counter(
        "Deliveries that are not change events.", _QUEUE, "malformed", "{message}"
    ),
    "unverified": _counter(
        "Deliveries whose signature's certificate could not be fetched.",
        _QUEUE,
        "unverified",
        "{message}",
    ),
    "looks": _counter(
        "Looks, by what they did to the cache.", ("queue", "outcome"), "looks", "{look}"
    ),
    "look_seconds": _histogram("How long looks took.", _QUEUE, "look.duration", "s", _SECONDS),
    "gets": _counter("GETs begun.", _QUEUE, "gets", "{get}"),
    "answers": _counter(
        "GETs, by answer; a bulk GET counts once for each entity found.",
        ("queue", "answer"),
        "answers",
        "{get}",
    ),
    "get_seconds": _histogram("How long GETs took.", _QUEUE, "get.duration", "s", _SECONDS),
    "conflicts": _counter(
        "Looks begun again after a lost compare-and-set.", _QUEUE, "conflicts", "{look}"
    ),
    "retries": _counter(
        "Events sent back to the queue after a failed look.", _QUEUE, "retries", "{event}"
    ),
    "acknowledged": _counter(
        "Deliveries deleted from the queue.", _QUEUE, "acknowledged", "{message}"
    ),
    "ack_failures": _counter(
        "Failed attempts to delete a delivery.", _QUEUE, "ack_failures", "{message}"
    ),
    "staleness_seconds": _histogram(
        "Age of an event, from SQS's SentTimestamp, when its first or its last look was applied.",
        ("queue", "look"),
        "staleness",
        "s",
        _STALENESS,
    ),
    "held": Metric("gauge", "Events in the worker's hands.", _QUEUE, "held", "{event}"),
    "prefetch": Metric(
        "gauge", "Events that the worker would hold now.", _QUEUE, "prefetch", "{event}"
    ),
    "get_limit": Metric(
        "gauge", "GETs that the worker sends at once at most.", _QUEUE, "get_limit", "{get}"
    ),
    "audit_compared": _counter(
        "Ids compared with the source.", _QUEUE, "audit.compared", "{entity}"
    ),
    "audit_stale": Metric(
        "gauge", "Cached ids known to be wrong.", _QUEUE, "audit.stale", "{entity}"
    ),
    "last_clean_audit_seconds": Metric(
        "gauge", "Time since a pass of the audit was clean.", _QUEUE, "audit.last_clean", "s"
    ),
    "paused_seconds": _counter(
        "Time without receiving, by reason.", ("queue", "reason"), "paused", "s"
    ),
    "renewals": _counter(
        "Broadcasts repeated while a save was under way.", (), "renewals", "{broadcast}"
    ),
    "late_broadcasts": _counter(
        "Saves announced once more after their end.", (), "late_broadcasts", "{save}"
    ),
    "unsettled_saves": _counter(
        "Of these, saves where that failed, too.", (), "unsettled_saves", "{save}"
    ),
}
"""All metrics, by name."""


class PrometheusMetrics:
    """
    Metrics in a Prometheus registry: `change_events_received_total`, `change_events_look_seconds`,
    and so on.

    Expose them as you like: with `prometheus_client.start_http_server(9000)`, say.

    Args:
        registry: Where to register them, once. Default: `prometheus_client.REGISTRY`.

    Raises:
        ConfigurationError: prometheus-client is missing: `pip install 'change-events[prometheus]'`.
        ValueError: The registry has these metrics already: share one object between workers.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise missing_extra("PrometheusMetrics needs an extra", "prometheus", error) from error
        to = prometheus.REGISTRY if registry is None else registry
        self._counters = {
            name: prometheus.Counter(*_named(name), registry=to) for name in _all("counter")
        }
        self._gauges = {
            name: prometheus.Gauge(*_named(name), registry=to) for name in _all("gauge")
        }
        self._histograms = {
            name: prometheus.Histogram(*_named(name), registry=to, buckets=METRICS[name].buckets)
            for name in _all("histogram")
        }

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        _child(self._counters[name], labels).inc(value)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        _child(self._histograms[name], labels).observe(value)

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        _child(self._gauges[name], labels).set(value)


def _named(name: str) -> tuple[str, str, tuple[str, ...]]:
    return f"change_events_{name}", METRICS[name].help, METRICS[name].labels


def _child(metric: M, labels: Mapping[str, str]) -> M:
    return metric.labels(**labels) if labels else metric


class OpenTelemetryMetrics:
    """
    Metrics for an OpenTelemetry SDK: `change_events.received`, `change_events.look.duration` in
    seconds, and so on.

    The queue is the attribute `messaging.destination.name`; other labels are attributes like
    `change_events.outcome`.

    Args:
        meter_provider: The provider of the meter. Default: the global one, even if it is set later.

    Raises:
        ConfigurationError: opentelemetry-api is missing: `pip install
            'change-events[opentelemetry]'`.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        try:
            from opentelemetry.metrics import get_meter
        except ImportError as error:
            raise missing_extra(
                "OpenTelemetryMetrics needs an extra", "opentelemetry", error
            ) from error
        meter = get_meter("change_events", meter_provider=meter_provider)
        self._counters = {name: meter.create_counter(*_described(name)) for name in _all("counter")}
        self._gauges = {name: meter.create_gauge(*_described(name)) for name in _all("gauge")}
        self._histograms = {
            name: meter.create_histogram(
                *_described(name), explicit_bucket_boundaries_advisory=METRICS[name].buckets
            )
            for name in _all("histogram")
        }

    def count(self, name: str, value: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        self._counters[name].add(value, _attributes(labels))

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add an observation to a histogram."""
        self._histograms[name].record(value, _attributes(labels))

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._gauges[name].set(value, _attributes(labels))


def _described(name: str) -> tuple[str, str, str]:
    metric = METRICS[name]
    return f"change_events.{metric.telemetry}", metric.unit, metric.help


def _attributes(labels: Mapping[str, str]) -> dict[str, str]:
    # A queue has a name in OpenTelemetry's Semantic Conventions, Messaging.
    return {
        "messaging.destination.name" if name == "queue" else f"change_events.{name}": labels[name]
        for name in labels
    }


def _all(kind: Literal["counter", "histogram", "gauge"]) -> list[str]:
    return [name for name, metric in METRICS.items() if metric.kind == kind]
