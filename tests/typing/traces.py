"""Checked by mypy and pyright, never run: where traces can be given."""

from __future__ import annotations

from opentelemetry.trace import NoOpTracerProvider

from change_events import HTTPFetcher, MemorySink, SNSPublisher, Worker
from change_events.integrations.aws_lambda import make_handler
from change_events.metrics import OpenTelemetryMetrics
from change_events.traces import OpenTelemetryTraces

traces = OpenTelemetryTraces(NoOpTracerProvider())
fetcher = HTTPFetcher("https://products.example.com/products/{id}")

SNSPublisher("arn:aws:sns:eu-west-1:123456789012:products", traces=traces)
SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN", traces=OpenTelemetryTraces())
SNSPublisher.from_env("X", traces=OpenTelemetryMetrics())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not traces
Worker(
    "https://sqs.eu-west-1.amazonaws.com/123456789012/products",
    fetcher=fetcher,
    sink=MemorySink(),
    traces=traces,
)
make_handler(fetcher=fetcher, sink=MemorySink(), traces=traces)
