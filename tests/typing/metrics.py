"""Checked by mypy and pyright, never run: what is a `Metrics`, and the parts of `Health`."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from change_events import Health, HTTPFetcher, MemorySink, Metrics, Worker, measure_broadcasts
from change_events.metrics import OpenTelemetryMetrics, PrometheusMetrics


class Statsd:
    def count(self, name: str, value: float = 1, /, **labels: str) -> None: ...

    def observe(self, name: str, value: float, /, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None: ...


class Half:
    def count(self, name: str, value: float = 1, /, **labels: str) -> None: ...


some: list[Metrics] = [PrometheusMetrics(), OpenTelemetryMetrics(), Statsd()]
measure_broadcasts(some[0])
measure_broadcasts(None)
measure_broadcasts(Half())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # counts only

worker: Worker[dict[str, Any]] = Worker(
    "https://sqs.eu-west-1.amazonaws.com/123456789012/products",
    fetcher=HTTPFetcher("https://products.example.com/products/{id}"),
    sink=MemorySink(),
    metrics=some[1],
    health_address=("127.0.0.1", 8080),
)
assert_type(worker.health(), Health)
assert_type(worker.health().paused, str | None)
