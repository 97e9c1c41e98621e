"""The spans of a real OpenTelemetry SDK, for tests."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from change_events.traces import OpenTelemetryTraces


class Spans:
    """
    A tracer provider of its own, and the spans that it has exported.

    Attributes:
        provider: The provider.
        traces: What makes spans with it.
    """

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = OpenTelemetryTraces(self.provider)

    def span(self, name):
        """Begin a span of the user's, as the current one, for a block."""
        return self.provider.get_tracer("tests").start_as_current_span(name)

    def all(self):
        """Return the spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def named(self, beginning):
        return [span for span in self.all() if span.name.startswith(beginning)]

    def producers(self, topic_arn):
        """Return those of a topic: a thread of an earlier test can still publish to another one."""
        name = topic_arn.rpartition(":")[2]
        return [
            span
            for span in self.all()
            if span.kind is SpanKind.PRODUCER
            and any(name in str(value) for value in span.attributes.values())
        ]

    def one(self, beginning):
        (span,) = self.named(beginning)
        return span


def traceparent(span):
    """Return the trace context of a span as W3C writes it."""
    context = span.get_span_context()
    ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
    return f"00-{ids}-{context.trace_flags:02x}"


def is_child(span, parent):
    """Return whether a span is in the trace of another one, directly below it."""
    of = parent.get_span_context()
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == (
        of.trace_id,
        of.span_id,
    )


def links(span):
    """Return the span ids and the message ids of a span's links."""
    return [(link.context.span_id, link.attributes["messaging.message.id"]) for link in span.links]


def span_id(span):
    return span.get_span_context().span_id
