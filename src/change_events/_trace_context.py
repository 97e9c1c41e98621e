"""
A trace context in the attributes of a message: W3C's, and the one of AWS X-Ray.

opentelemetry-api is imported when it is needed: only then it must be there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span, SpanContext

TRACE_ATTRIBUTES = ("traceparent", "tracestate")
"""The message attributes of a trace context (W3C Trace Context, 3.2 and 3.3)."""

XRAY_ATTRIBUTE = "AWSTraceHeader"
"""The message system attribute of AWS X-Ray (Amazon SQS API Reference, ReceiveMessage)."""

MAX_LENGTH = 512
"""
The longest `traceparent` or `tracestate` to send or read. Everybody should pass on a `tracestate`
of that length (W3C Trace Context, 3.3.1.5).
"""

_XRAY_FIELD = re.compile(r"(\w+)=([^;]*)")
_XRAY_ROOT = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_XRAY_PARENT = re.compile(r"[0-9a-f]{16}")


class Origin(NamedTuple):
    """Where an event comes from: the span that sent it, and the one that X-Ray names."""

    sent: SpanContext | None
    xray: SpanContext | None


def attributes_of(span: Span) -> dict[str, str]:
    """Return the message attributes that carry the context of a span."""
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carried, set_span_in_context(span))
    return _short(carried)


def origin_of(attributes: Mapping[str, str], xray: str | None) -> Origin | None:
    """
    Return where a message comes from, by its attributes and X-Ray's header; None: not known.

    What is malformed counts as missing.
    """
    from opentelemetry.context import Context
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried = {name: attributes[name] for name in TRACE_ATTRIBUTES if name in attributes}
    context = TraceContextTextMapPropagator().extract(_short(carried), Context())
    sent = get_current_span(context).get_span_context()
    named = None if xray is None else _read_xray(xray[:MAX_LENGTH])
    if named is not None and named.span_id == sent.span_id:  # the same span needs no second link
        named = None
    if not sent.is_valid and named is None:
        return None
    return Origin(sent if sent.is_valid else None, named)


def _read_xray(header: str) -> SpanContext | None:
    """Read `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`."""
    from opentelemetry.trace import SpanContext, TraceFlags

    fields = dict(_XRAY_FIELD.findall(header))
    root = _XRAY_ROOT.fullmatch(fields.get("Root", ""))
    parent = _XRAY_PARENT.fullmatch(fields.get("Parent", ""))
    if root is None or parent is None:
        return None
    context = SpanContext(
        int(root[1] + root[2], 16),
        int(parent[0], 16),
        is_remote=True,
        trace_flags=TraceFlags(fields.get("Sampled") == "1"),
    )
    return context if context.is_valid else None


def _short(carried: Mapping[str, str]) -> dict[str, str]:
    """Leave out what is too long for a message, or for the regular expressions that read it."""
    return {name: value for name, value in carried.items() if len(value) <= MAX_LENGTH}
