"""
Traces for OpenTelemetry: a span for each broadcast, and one for each look.

Make one object for each process. Give it to every `SNSPublisher(traces=...)`, `Worker(traces=...)`
and `make_handler(traces=...)`. The names of spans and attributes are those of OpenTelemetry's
Semantic Conventions 1.44, Messaging. Our own attributes begin with `change_events.`.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

from change_events._extras import missing_extra
from change_events._text import printable
from change_events._trace_context import attributes_of, origin_of
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from change_events._event import ChangeEvent
    from change_events._trace_context import Origin

__all__ = ["OpenTelemetryTraces"]

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("change_events")

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"


class Traced(Protocol):
    """An event that a look reads for."""

    @property
    def message_id(self) -> str: ...

    @property
    def origin(self) -> Origin | None: ...


class _Send(NamedTuple):
    """A save's part of a broadcast."""

    span: Span | None = None
    attributes: Mapping[str, str] = {}


class OpenTelemetryTraces:
    """
    Spans for an OpenTelemetry SDK: `publish product-events`, `process product-cache`.

    The span of a broadcast belongs to the trace of its save. Its trace context travels in two
    message attributes, `traceparent` and `tracestate`. The span of a look has a link for each event
    that it reads for. If all of them come from one trace, it belongs to that trace, too.

    Its methods are for the library. An error of the SDK is logged once, and changes nothing else.

    Args:
        tracer_provider: The provider of the tracer. Default: the global one, even if it is set
            later.

    Raises:
        ConfigurationError: opentelemetry-api is missing: `pip install
            'change-events[opentelemetry]'`.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import context, trace
        except ImportError as error:
            raise missing_extra(
                "OpenTelemetryTraces needs an extra", "opentelemetry", error
            ) from error
        self._context, self._trace = context, trace
        self._tracer = trace.get_tracer(
            "change_events", tracer_provider=tracer_provider, schema_url=SCHEMA
        )
        self._not_instrumented = _suppression()
        self._failed = False

    # Broadcasts

    @contextmanager
    def publishing(
        self, topic_arn: str, events: Sequence[ChangeEvent]
    ) -> Iterator[Sequence[Mapping[str, str]]]:
        """
        Trace a broadcast; yield the message attributes to send with each event.

        Where saves share a broadcast, each has a span in its own trace. Calls of botocore are not
        instrumented meanwhile: that would put one other trace context into all messages, and add a
        second span for the same.
        """
        by_context: dict[int, list[ChangeEvent]] = {}
        for event in events:
            by_context.setdefault(id(_context_of(event)), []).append(event)
        sends: dict[int, _Send] = {}
        for key, own in by_context.items():
            context = _context_of(own[0])
            run: Any = _call if context is None else context.run
            sends[key] = self._safely(run, self._begin_send, topic_arn, own) or _Send()
        spans = [send.span for send in sends.values() if send.span is not None]
        failure = None
        try:
            with self._not_instrumented(), self._current(spans):
                yield [sends[id(_context_of(event))].attributes for event in events]
        except BaseException as error:
            failure = error
            raise
        finally:
            for span in spans:
                self._safely(self._end, span, failure)

    def _begin_send(self, topic_arn: str, events: Sequence[ChangeEvent]) -> _Send:
        topic = topic_arn.rpartition(":")[2]
        attributes = _messaging("aws.sns", topic, "publish", "send", len(events))
        attributes["aws.sns.topic.arn"] = topic_arn
        if len(events) == 1:
            attributes["change_events.id"] = events[0].id
        kind = self._trace.SpanKind.PRODUCER
        span = self._tracer.start_span(f"publish {topic}", kind=kind, attributes=attributes)
        return _Send(span, attributes_of(span))

    def _current(self, spans: Sequence[Span]) -> AbstractContextManager[object]:
        """Make the span of a broadcast the current one, if there is only one."""
        if len(spans) != 1:
            return nullcontext()
        return self._trace.use_span(spans[0], record_exception=False, set_status_on_exception=False)

    # Looks

    def origin(self, attributes: Mapping[str, str], xray: str | None = None) -> Origin | None:
        """
        Return where a message comes from, by its attributes and X-Ray's header; None: not known.

        What is malformed counts as missing.
        """
        return self._safely(origin_of, attributes, xray)

    def looking(
        self, queue: str, ids: Sequence[str], events: Sequence[Traced]
    ) -> AbstractContextManager[None]:
        """
        Trace a look of a worker at these ids, which reads for these events.

        `queue` is its URL or its ARN. What is around counts for nothing: a worker's thread can have
        been started within any span.
        """
        return self._looking(queue, ids, events, self._context.Context())

    def looking_here(
        self, queue: str, id: str, events: Sequence[Traced] = ()
    ) -> AbstractContextManager[None]:
        """Trace a look that belongs to the caller's span, if there is one."""
        return self._looking(queue, [id], events, self._context.get_current())

    @contextmanager
    def _looking(
        self, queue: str, ids: Sequence[str], events: Sequence[Traced], around: Context
    ) -> Iterator[None]:
        span = self._safely(self._begin_look, queue, ids, events, around)
        if span is None:
            yield
            return
        look = Look(span, ids=ids, events=events, fail=self._fail, safely=self._safely)
        outer, failure = current_look.get(), None
        current_look.set(look)
        try:
            with self._current([span]):
                yield
        except BaseException as error:
            failure = error
            raise
        finally:
            current_look.set(outer)
            self._safely(self._end, span, failure)

    def _begin_look(
        self, queue: str, ids: Sequence[str], events: Sequence[Traced], around: Context
    ) -> Span:
        attributes: dict[str, Any] = {}
        name, kind = "look", self._trace.SpanKind.INTERNAL  # nothing was consumed
        if events:
            destination = re.split("[/:]", queue)[-1]
            name, kind = f"process {destination}", self._trace.SpanKind.CONSUMER
            attributes = _messaging("aws_sqs", destination, "process", "process", len(events))
            if len(events) == 1:
                attributes["messaging.message.id"] = events[0].message_id
        if len(ids) == 1:
            attributes["change_events.id"] = ids[0]
        return self._tracer.start_span(
            name,
            self._parent(events, around),
            kind,
            attributes,
            [self._trace.Link(*link) for event in events for link in links_of(event)],
        )

    def _parent(self, events: Sequence[Traced], around: Context) -> Context:
        """Return what is around, or the events' trace, if there is only one."""
        if self._trace.get_current_span(around).get_span_context().is_valid:
            return around
        sent = [event.origin.sent for event in events if event.origin and event.origin.sent]
        if len({each.trace_id for each in sent}) != 1:
            return around
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(sent[0]), around)

    # Both

    def _end(self, span: Span, failure: BaseException | None) -> None:
        if failure is not None:
            self._fail(span, failure)
        span.end()

    def _fail(self, span: Span, failure: BaseException) -> None:
        span.set_attribute("error.type", type(failure.__cause__ or failure).__qualname__)
        span.set_status(self._trace.StatusCode.ERROR, printable(failure))

    def _safely(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return function(*args, **kwargs)
        except Exception:  # of a sampler, a processor or an exporter; the work goes on
            if not self._failed:
                self._failed = True
                log.exception("traces failed; this is logged once", extra={"action": "trace"})
            return None


class Look:
    """A look that is traced, under way. The span has links to its `events` already."""

    def __init__(
        self,
        span: Span,
        *,
        ids: Sequence[str],
        events: Sequence[Traced],
        fail: Callable[[Span, BaseException], object],
        safely: Callable[..., object],
    ) -> None:
        self._span = span
        self._is_alone = len(ids) == 1
        self._linked = {event.message_id for event in events}
        self._settled = 0
        self._fail = fail
        self._safely = safely

    def note(self, outcome: str, settled: Sequence[Traced], error: BaseException | None) -> None:
        """See the function `note`."""
        self._safely(self._note, outcome, settled, error)

    def _note(self, outcome: str, settled: Sequence[Traced], error: BaseException | None) -> None:
        if self._is_alone:
            self._span.set_attribute("change_events.outcome", outcome)
        if settled:
            self._settled += len(settled)
            self._span.set_attribute("change_events.settled", self._settled)
        for event in settled:  # one that arrived after the look had begun has no link yet
            if event.message_id not in self._linked:
                for context, attributes in links_of(event):
                    self._span.add_link(context, attributes)
        if error is not None:
            self._fail(self._span, error)

    def add_headers(self, headers: dict[str, str]) -> None:
        """Add the trace context to the headers of a GET. Those that are there stay."""
        self._safely(self._add_headers, headers)

    def _add_headers(self, headers: dict[str, str]) -> None:
        from opentelemetry.propagate import inject

        carried: dict[str, str] = {}
        inject(carried)
        taken = {name.lower() for name in headers}
        headers |= {
            name: value
            for name, value in carried.items()
            # What no header can have would fail the GET.
            if name.lower() not in taken and value.isascii() and value.isprintable()
        }


current_look: ContextVar[Look | None] = ContextVar("change_events_look", default=None)
"""The look under way in this thread, if it is traced."""


def note(outcome: str, settled: Sequence[Traced] = (), error: BaseException | None = None) -> None:
    """Note what came of the look under way, if it is traced, and which events it settles."""
    look = current_look.get()
    if look is not None:
        look.note(outcome, settled, error)


def links_of(event: Traced) -> Iterator[tuple[SpanContext, dict[str, str]]]:
    """Return the context and the attributes of each link to an event."""
    for context in event.origin or ():
        if context is not None:
            yield context, {"messaging.message.id": event.message_id}


def require_traces(traces: object) -> None:
    """
    Require what the setting `traces` can be.

    Raises:
        ConfigurationError: It is something else, a `TracerProvider` for example.
    """
    if traces is not None and not isinstance(traces, OpenTelemetryTraces):
        raise ConfigurationError(
            f"traces must be an OpenTelemetryTraces of change_events.traces, not {traces!r}"
        )


def _messaging(system: str, name: str, operation: str, kind: str, number: int) -> dict[str, Any]:
    """Return the attributes of a span that sends or processes so many messages."""
    attributes: dict[str, Any] = {
        "messaging.system": system,
        "messaging.destination.name": name,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    if number != 1:
        attributes["messaging.batch.message_count"] = number
    return attributes


def _context_of(event: ChangeEvent) -> contextvars.Context | None:
    """Return the context variables of the save of an event, if its broadcast is shared."""
    return getattr(event, "context", None)


def _suppression() -> Callable[[], AbstractContextManager[object]]:
    """Return what switches other instrumentation off in a block."""
    try:
        from opentelemetry.instrumentation.utils import suppress_instrumentation
    except ImportError:  # then there is none
        return nullcontext
    return suppress_instrumentation


def _call(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    return function(*args, **kwargs)
