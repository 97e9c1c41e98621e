"""Which trace contexts the attributes of a message carry, and which attributes a span needs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from change_events._trace_context import MAX_LENGTH, attributes_of, origin_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
XRAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


def span(*, sampled=True, state=()):
    context = SpanContext(
        int(TRACE, 16),
        int(SPAN, 16),
        is_remote=False,
        trace_flags=TraceFlags(sampled),
        trace_state=TraceState(state),
    )
    return NonRecordingSpan(context)


def ids(context):
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags)


def test_a_span_needs_its_traceparent():
    assert attributes_of(span()) == {"traceparent": TRACEPARENT}
    assert attributes_of(span(sampled=False)) == {"traceparent": TRACEPARENT[:-1] + "0"}


def test_a_span_needs_its_tracestate_if_it_has_one():
    assert attributes_of(span(state=[("a", "1"), ("b", "2")])) == {
        "traceparent": TRACEPARENT,
        "tracestate": "a=1,b=2",
    }


def test_a_tracestate_that_is_too_long_is_left_out():
    longest, longer = [("a", "x" * 254), ("b", "x" * 253)], [("a", "x" * 254), ("b", "x" * 254)]

    assert len(attributes_of(span(state=longest))["tracestate"]) == MAX_LENGTH
    assert attributes_of(span(state=longer)) == {"traceparent": TRACEPARENT}


def test_a_span_without_a_context_needs_nothing():
    assert attributes_of(NonRecordingSpan(SpanContext(0, 0, is_remote=False))) == {}


def test_the_sender_is_named_by_traceparent_and_tracestate():
    origin = origin_of({"traceparent": TRACEPARENT, "tracestate": "a=1", "phase": "saved"}, None)

    assert ids(origin.sent) == (TRACE, SPAN, 1)
    assert origin.sent.is_remote
    assert dict(origin.sent.trace_state) == {"a": "1"}
    assert origin.xray is None


def test_the_header_of_x_ray_names_a_span():
    origin = origin_of({}, XRAY)

    assert origin.sent is None
    assert ids(origin.xray) == ("5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8", 1)
    assert origin.xray.is_remote


def test_the_fields_of_x_rays_header_can_have_any_order_and_company():
    header = "Sampled=0;Lineage=1:2;Self=x;Parent=53995c3f42cd8ad8;" + XRAY[:40]

    assert ids(origin_of({}, header).xray)[1:] == ("53995c3f42cd8ad8", 0)


def test_both_can_name_different_spans():
    origin = origin_of({"traceparent": TRACEPARENT}, XRAY)

    assert ids(origin.sent)[1] == SPAN
    assert ids(origin.xray)[1] == "53995c3f42cd8ad8"


def test_a_span_that_both_name_counts_once():
    header = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"

    assert origin_of({"traceparent": TRACEPARENT}, header).xray is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Root=1-5759e988-bd862e3fe1be46a994272793",
        "Parent=53995c3f42cd8ad8",
        XRAY.replace("Root=1", "Root=2"),
        XRAY.replace("53995c3f42cd8ad8", "0" * 16),
        XRAY.replace("53995c3f42cd8ad8", "53995c3f42cd8ad"),
        "x" * 600 + XRAY,
    ],
)
def test_a_malformed_header_of_x_ray_counts_as_missing(header):
    assert origin_of({}, header) is None


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "1",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT + "-" + "x" * 600,
    ],
)
def test_a_malformed_traceparent_counts_as_missing(traceparent):
    assert origin_of({"traceparent": traceparent, "tracestate": "a=1"}, None) is None


def test_a_malformed_tracestate_leaves_the_traceparent():
    for tracestate in ("", "=", "a", ",,,", "\x00", "a=1," * 300):
        origin = origin_of({"traceparent": TRACEPARENT, "tracestate": tracestate}, None)
        assert ids(origin.sent) == (TRACE, SPAN, 1)


@given(st.text(), st.text(), st.text())
def test_no_text_is_an_error(traceparent, tracestate, xray):
    origin_of({"traceparent": traceparent, "tracestate": tracestate}, xray)
    origin_of({"traceparent": TRACEPARENT, "tracestate": tracestate}, xray)


def test_a_text_that_is_made_to_take_long_takes_no_time():
    long = " " * 250_000 + "x"
    spent = time.process_time()

    origin_of({"traceparent": f"{TRACEPARENT}-{long}\n", "tracestate": long}, "a" * 250_000)
    origin_of({"traceparent": TRACEPARENT, "tracestate": long}, "Root=" * 50_000)

    assert time.process_time() - spent < 1.0
