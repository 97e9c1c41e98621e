"""Spans that a real OpenTelemetry SDK exports, and what travels to SNS, SQS and the source."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading

import boto3
import pytest
from opentelemetry import propagate
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.semconv._incubating.attributes import aws_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from change_events import (
    ChangeEvent,
    ConfigurationError,
    FetchError,
    HTTPFetcher,
    MemorySink,
    PublishError,
    SNSPublisher,
    Worker,
    broadcasting,
)
from change_events._producer.broadcasts import Broadcast, failures
from change_events.integrations.aws_lambda import make_handler
from change_events.testing import FakeQueue, FakeSource
from change_events.traces import OpenTelemetryTraces
from conftest import wait_until
from lambda_records import record
from spans import Spans, is_child, links, span_id, traceparent
from verification.harness.wire import Answer

TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
XRAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
def publisher(channel, spans):
    return SNSPublisher(channel.topic_arn, traces=spans.traces)


@pytest.fixture
def instrumented(spans):
    """Let botocore's own instrumentation make spans, too."""
    BotocoreInstrumentor().instrument(tracer_provider=spans.provider)
    yield
    BotocoreInstrumentor().uninstrument()


@pytest.fixture(params=["botocore's instrumentation off", "botocore's instrumentation on"])
def both(request):
    if request.param.endswith("on"):
        request.getfixturevalue("instrumented")


def events(*ids):
    return [ChangeEvent(id) for id in ids]


def attributes_in(message):
    return {
        name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()
    }


def traceparent_of(asked):
    (value,) = [value for name, value in asked.headers.items() if name.lower() == "traceparent"]
    return value


# From a request to the GET


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_one_trace_leads_from_a_request_to_the_get(
    raw, both, make_channel, source, make_worker, spans
):
    channel = make_channel(raw=raw)
    publisher = SNSPublisher(channel.topic_arn, traces=spans.traces)
    with (
        spans.span("PUT /products/p1"),
        spans.span("save"),
        broadcasting(publisher, "p1"),
        spans.span("commit"),
    ):
        source.entities["p1"] = {"id": "p1"}

    assert make_worker(channel.queue_url, traces=spans.traces).drain() == 1

    request, save, commit = (spans.one(name) for name in ("PUT", "save", "commit"))
    publish, look = spans.one("publish"), spans.one("process")
    assert is_child(save, request)
    assert is_child(publish, save)
    assert is_child(commit, save)
    assert is_child(look, publish)
    assert [span for span, _ in links(look)] == [span_id(publish)]
    assert traceparent_of(source.asked[0]) == traceparent(look)
    assert publish.end_time <= commit.start_time
    assert commit.end_time <= look.start_time


def test_the_names_are_those_of_the_conventions(publisher, channel, source, make_worker, spans):
    source.entities["p1"] = {"id": "p1"}
    publisher.publish(events("p1"))
    name = channel.topic_arn.rpartition(":")[2]

    make_worker(traces=spans.traces).drain()

    of = messaging_attributes
    publish, look = spans.one("publish"), spans.one("process")
    assert (publish.name, publish.kind) == (f"publish {name}", SpanKind.PRODUCER)
    assert dict(publish.attributes) == {
        of.MESSAGING_SYSTEM: of.MessagingSystemValues.AWS_SNS.value,
        of.MESSAGING_DESTINATION_NAME: name,
        of.MESSAGING_OPERATION_NAME: "publish",
        of.MESSAGING_OPERATION_TYPE: of.MessagingOperationTypeValues.SEND.value,
        aws_attributes.AWS_SNS_TOPIC_ARN: channel.topic_arn,
        "change_events.id": "p1",
    }
    ((_, message_id),) = links(look)
    assert (look.name, look.kind) == (f"process {name}", SpanKind.CONSUMER)
    assert dict(look.attributes) == {
        of.MESSAGING_SYSTEM: of.MessagingSystemValues.AWS_SQS.value,
        of.MESSAGING_DESTINATION_NAME: name,
        of.MESSAGING_OPERATION_NAME: "process",
        of.MESSAGING_OPERATION_TYPE: of.MessagingOperationTypeValues.PROCESS.value,
        of.MESSAGING_MESSAGE_ID: message_id,
        "change_events.id": "p1",
        "change_events.outcome": "created",
        "change_events.settled": 1,
    }
    scope = publish.instrumentation_scope
    assert (scope.name, scope.schema_url) == ("change_events", Schemas.V1_44_0.value)
    assert publish.status.status_code is StatusCode.UNSET


# Broadcasts


def test_an_event_is_its_id_and_its_trace_context(both, publisher, channel, spans):
    with spans.span("save"):
        publisher.publish(events("p1"))

    (arrived,) = channel.messages()
    assert arrived["Body"] == '{"id": "p1"}'
    assert attributes_in(arrived) == {"traceparent": traceparent(spans.one("publish"))}
    assert spans.producers(channel.topic_arn) == [
        spans.one("publish")
    ]  # no second span for the same call


def test_botocores_instrumentation_traces_other_calls_as_before(
    instrumented, publisher, channel, spans
):
    publisher.publish(events("p1"))
    boto3.client("sqs").list_queues()

    assert spans.named("SQS.ListQueues")
    assert spans.producers(channel.topic_arn) == [spans.one("publish")]


def test_with_botocores_instrumentation_alone_a_look_has_a_link_to_its_span(
    instrumented, channel, source, make_worker, spans
):
    SNSPublisher(channel.topic_arn).publish(events("p1"))

    assert make_worker(traces=spans.traces).drain() == 1

    (sent,) = spans.producers(channel.topic_arn)
    assert [id for id, _ in links(spans.one("process"))] == [span_id(sent)]


def test_a_batch_has_one_span_whose_context_all_its_events_carry(both, publisher, channel, spans):
    publisher.publish(events(*(f"p{number}" for number in range(25))))

    span = spans.one("publish")
    assert span.attributes["messaging.batch.message_count"] == 25
    assert "change_events.id" not in span.attributes
    arrived = channel.messages()
    assert len(arrived) == 25
    assert [attributes_in(each) for each in arrived] == [{"traceparent": traceparent(span)}] * 25


def test_saves_that_share_a_call_keep_their_own_traces(both, publisher, channel, spans):
    broadcasts = []
    for id in ("p1", "p2"):
        with spans.span(f"save {id}"):
            broadcasts.append(Broadcast(publisher, events(id), contextvars.copy_context()))

    assert failures(broadcasts) == (set(), None)

    sent = {span.attributes["change_events.id"]: span for span in spans.named("publish")}
    for id in ("p1", "p2"):
        assert is_child(sent[id], spans.one(f"save {id}"))
    assert {each["Body"]: attributes_in(each) for each in channel.messages()} == {
        f'{{"id": "{id}"}}': {"traceparent": traceparent(sent[id])} for id in ("p1", "p2")
    }


def test_a_renewal_has_a_span_in_the_trace_of_its_save(publisher, channel, spans):
    with spans.span("save"), broadcasting(publisher, "p1"):
        renewal = Broadcast(publisher, events("p1"), contextvars.copy_context())
        sender = threading.Thread(target=renewal)
        sender.start()
        sender.join()

    first, second = spans.named("publish")
    assert is_child(first, spans.one("save"))
    assert is_child(second, spans.one("save"))
    assert [attributes_in(each)["traceparent"] for each in channel.messages()] == [
        traceparent(first),
        traceparent(second),
    ]


def test_both_broadcasts_of_a_confirmed_save_are_in_its_trace_and_share_a_look(
    publisher, channel, source, make_worker, spans
):
    with spans.span("save"), broadcasting(publisher, "p1", confirm=True):
        source.entities["p1"] = {"id": "p1"}
    wait_until(lambda: len(spans.named("publish")) == 2)

    assert make_worker(traces=spans.traces, settle=5.0).drain() == 2

    look = spans.one("process")
    assert {id for id, _ in links(look)} == {span_id(each) for each in spans.named("publish")}
    assert len({span.get_span_context().trace_id for span in spans.all()}) == 1
    assert look.attributes["messaging.batch.message_count"] == 2
    assert look.attributes["change_events.settled"] == 2


def test_a_broadcast_that_fails_ends_its_span_with_the_error(publisher, channel, sns, spans):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError):
        publisher.publish(events("p1"))

    span = spans.one("publish")
    assert span.status.status_code is StatusCode.ERROR
    assert channel.topic_arn in span.status.description
    assert span.attributes[error_attributes.ERROR_TYPE] == "NotFoundException"


def test_a_publisher_that_broadcasts_nothing_makes_no_span(spans, monkeypatch):
    monkeypatch.delenv("NO_TOPIC_ARN", raising=False)
    SNSPublisher.from_env("NO_TOPIC_ARN", traces=spans.traces).publish(events("p1"))

    assert spans.all() == []


# The ten attributes of a message


def five():
    return {f"a{number}": "x" for number in range(5)}


def test_five_attributes_of_the_users_arrive_beside_all_others(both, channel, spans, make_worker):
    publisher = SNSPublisher(channel.topic_arn, attributes=five(), traces=spans.traces)
    state = {"traceparent": OTHER, "tracestate": "vendor=1"}
    token = propagate.extract(state)
    event = ChangeEvent("p1", settle=7.0, phase="saving", save="s1")

    contextvars.copy_context().run(attached, token, publisher.publish, [event])

    (arrived,) = channel.messages()
    assert attributes_in(arrived) == {
        **five(),
        "phase": "saving",
        "save": "s1",
        "settle": "7.0",
        "traceparent": traceparent(spans.one("publish")),
        "tracestate": "vendor=1",
    }


def attached(context, function, *arguments):
    from opentelemetry.context import attach

    attach(context)
    function(*arguments)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        (
            {**five(), "a5": "x"},
            "6 message attributes; at most 5 reach every queue, because traces= sends two more",
        ),
        (
            {"traceparent": OTHER},
            "the message attribute 'traceparent' comes from traces=; leave one of the two out",
        ),
        (
            {"tracestate": "a=1"},
            "the message attribute 'tracestate' comes from traces=; leave one of the two out",
        ),
    ],
)
def test_attributes_for_which_traces_leave_no_room_are_refused(attributes, why, channel, spans):
    with pytest.raises(ConfigurationError) as caught:
        SNSPublisher(channel.topic_arn, attributes=attributes, traces=spans.traces)
    assert str(caught.value) == why

    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: attributes, traces=spans.traces)
    with pytest.raises(PublishError, match=why.split(";")[0]), broadcasting(publisher, "p1"):
        pytest.fail("saved")
    assert channel.bodies() == []


def test_without_traces_users_have_seven_attributes_and_send_a_traceparent_if_they_like(channel):
    own = {**five(), "a5": "x", "traceparent": OTHER}
    SNSPublisher(channel.topic_arn, attributes=own).publish(events("p1"))

    assert attributes_in(channel.messages()[0]) == own


def test_without_traces_botocores_instrumentation_drops_no_attribute(instrumented, channel):
    own = {**five(), "a5": "x", "a6": "x"}
    event = ChangeEvent("p1", settle=7.0, phase="saving", save="s1")

    SNSPublisher(channel.topic_arn, attributes=own).publish([event])

    (arrived,) = channel.messages()
    assert attributes_in(arrived) == {**own, "phase": "saving", "save": "s1", "settle": "7.0"}


# Looks


def test_the_header_of_x_ray_is_a_link_and_not_a_parent(channel, source, make_worker, spans):
    header = {"StringValue": XRAY, "DataType": "String"}
    channel.sqs.send_message(
        QueueUrl=channel.queue_url,
        MessageBody='{"id": "p1"}',
        MessageAttributes={"traceparent": {"StringValue": OTHER, "DataType": "String"}},
        MessageSystemAttributes={"AWSTraceHeader": header},
    )
    channel.sqs.send_message(
        QueueUrl=channel.queue_url,
        MessageBody='{"id": "p2"}',
        MessageSystemAttributes={"AWSTraceHeader": header},
    )

    assert make_worker(traces=spans.traces).drain() == 2

    one, two = sorted(spans.named("process"), key=lambda span: span.attributes["change_events.id"])
    assert [id for id, _ in links(one)] == [0xB7AD6B7169203331, 0x53995C3F42CD8AD8]
    assert one.parent.span_id == 0xB7AD6B7169203331
    assert [id for id, _ in links(two)] == [0x53995C3F42CD8AD8]
    assert two.parent is None


def test_a_bulk_get_carries_the_trace_context(channel, source, make_worker, spans):
    ids = [f"p{number}" for number in range(3)]
    source.entities |= {id: {"id": id} for id in ids}
    channel.announce(*ids)
    fetcher = HTTPFetcher(source.url + "/products/{id}", bulk_url=source.url + "/many")

    assert make_worker(fetcher=fetcher, traces=spans.traces).drain() == 3

    sent = {traceparent_of(asked) for asked in source.asked}
    assert sent == {traceparent(look) for look in spans.named("process")}


def test_a_look_by_hand_is_in_the_callers_span(source, make_worker, spans):
    source.entities["p1"] = {"id": "p1"}
    worker = make_worker(traces=spans.traces)

    with spans.span("GET /report"):
        worker.refresh("p1")
    source.answer = lambda id: Answer(500)
    with pytest.raises(FetchError):
        worker.refresh("p1")

    done, failed = spans.named("look")
    assert is_child(done, spans.one("GET"))
    assert done.kind is SpanKind.INTERNAL
    assert dict(done.attributes) == {"change_events.id": "p1", "change_events.outcome": "created"}
    assert traceparent_of(source.asked[0]) == traceparent(done)
    assert failed.parent is None
    assert failed.attributes["error.type"] == "FetchError"


# GETs


@pytest.mark.parametrize("name", ["traceparent", "TraceParent"])
def test_a_header_of_the_users_stays(name, channel, source, make_worker, spans):
    channel.announce("p1")
    fetcher = HTTPFetcher(source.url + "/products/{id}", headers={name: OTHER})

    assert make_worker(fetcher=fetcher, traces=spans.traces).drain() == 1

    assert traceparent_of(source.asked[0]) == OTHER


def test_without_traces_a_get_carries_no_trace_context(channel, source, make_worker, spans):
    channel.announce("p1")

    with spans.span("a test"):
        assert make_worker().drain() == 1
        HTTPFetcher(source.url + "/products/{id}").fetch("p1")

    names = {name.lower() for asked in source.asked for name in asked.headers}
    assert "user-agent" in names
    assert "traceparent" not in names


class Odd(TextMapPropagator):
    """Injects what can't be sent, or raises."""

    fields = frozenset()
    error = None

    def extract(self, carrier, context=None, getter=None):
        return context

    def inject(self, carrier, context=None, setter=None):
        if self.error:
            raise self.error
        carrier |= {"x-fine": "1", "x-line": "a\r\nb", "x-far": "\u2028"}


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_a_propagator_can_make_no_get_fail(error, channel, source, make_worker, spans, monkeypatch):
    monkeypatch.setattr(Odd, "error", error)
    monkeypatch.setattr(propagate, "get_global_textmap", Odd)
    channel.announce("p1")

    assert make_worker(traces=spans.traces).drain() == 1

    (asked,) = source.asked
    names = {name.lower() for name in asked.headers if name.lower().startswith("x-")}
    assert names == (set() if error else {"x-fine"})


# An SDK that fails, and none


class Broken(SpanProcessor):
    def __init__(self, name):
        def fail(*arguments, **by_name):
            raise RuntimeError("disk full")

        setattr(self, name, fail)


@pytest.mark.parametrize("where", ["on_start", "on_end"])
def test_an_sdk_that_fails_is_logged_once_and_changes_nothing_else(
    where, channel, source, make_worker, spans, caplog
):
    spans.provider.add_span_processor(Broken(where))
    source.entities |= {"p1": {"id": "p1"}, "p2": {"id": "p2"}}
    publisher = SNSPublisher(channel.topic_arn, traces=spans.traces)
    with broadcasting(publisher, "p1"):
        publisher.publish(events("p2"))

    worker = make_worker(traces=spans.traces)
    assert worker.drain() == 2
    assert worker.refresh("p1") == "unchanged"

    (logged,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert (logged.action, logged.getMessage()) == ("trace", "traces failed; this is logged once")


def test_without_an_sdk_nothing_travels(channel, source, make_worker):
    traces = OpenTelemetryTraces()
    SNSPublisher(channel.topic_arn, traces=traces).publish(events("p1"))

    (arrived,) = channel.messages()
    assert "MessageAttributes" not in arrived

    channel.announce("p1")
    assert make_worker(traces=traces).drain() == 1
    assert not any(name.lower() == "traceparent" for name in source.asked[0].headers)


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'change-events\[opentelemetry\]'"):
        OpenTelemetryTraces()


def test_the_package_of_instrumentations_can_be_missing(monkeypatch, channel, spans):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.utils", None)
    publisher = SNSPublisher(channel.topic_arn, traces=OpenTelemetryTraces(spans.provider))

    publisher.publish(events("p1"))

    assert attributes_in(channel.messages()[0]) == {
        "traceparent": traceparent(spans.one("publish"))
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda given: SNSPublisher(TOPIC, traces=given),
        lambda given: Worker(
            FakeQueue().url, fetcher=FakeSource(), sink=MemorySink(), traces=given
        ),
        lambda given: make_handler(fetcher=None, sink=None, traces=given),
    ],
)
def test_a_tracer_provider_in_place_of_traces_is_refused(make, spans):
    with pytest.raises(ConfigurationError, match="must be an OpenTelemetryTraces of"):
        make(spans.provider)


# A queue without AWS, and AWS Lambda


def test_a_worker_of_a_fake_queue_has_traces_too(sink, spans):
    queue, source = FakeQueue(), FakeSource({"p1": {"id": "p1"}})
    queue.send('{"id": "p1"}', {"traceparent": OTHER})
    settings = {"settle": 0.0, "fetcher": source, "sink": sink}

    assert Worker(queue.url, client=queue.client, traces=spans.traces, **settings).drain() == 1

    assert spans.one("process").parent.span_id == 0xB7AD6B7169203331


def handle(spans, source, sink, *records):
    fetcher = HTTPFetcher(source.url + "/products/{id}")
    handler = make_handler(fetcher=fetcher, sink=sink, settle=5.0, traces=spans.traces)
    return handler({"Records": list(records)}, None)["batchItemFailures"]


def test_in_lambda_a_look_has_a_link_for_each_record_and_is_in_the_invocation(source, sink, spans):
    source.entities["p1"] = {"id": "p1"}
    one = record("p1", name="m1", age=60, waited=30, traceparent=OTHER)
    one["attributes"]["AWSTraceHeader"] = XRAY
    two = record("p1", name="m2", age=60, waited=30)
    with spans.span("invocation"):
        assert handle(spans, source, sink, one, two, record("p2", age=60, waited=30)) == []

    look, other = spans.named("process")
    assert is_child(look, spans.one("invocation"))
    assert is_child(other, spans.one("invocation"))
    assert links(look) == [(0xB7AD6B7169203331, "m1"), (0x53995C3F42CD8AD8, "m1")]
    assert look.name == f"process {one['eventSourceARN'].rpartition(':')[2]}"
    assert look.attributes["change_events.outcome"] == "created"
    assert look.attributes["change_events.settled"] == 2
    assert traceparent_of(source.asked[0]) == traceparent(look)


def test_in_lambda_a_look_outside_of_a_span_is_in_the_trace_of_its_record(source, sink, spans):
    handle(spans, source, sink, record("p1", age=60, waited=30, traceparent=OTHER))

    assert spans.one("process").parent.span_id == 0xB7AD6B7169203331


def test_in_lambda_a_look_that_fails_ends_its_span_with_the_error(source, sink, spans):
    source.answer = lambda id: Answer(500)

    assert len(handle(spans, source, sink, record("p1", age=60, waited=30))) == 1

    assert spans.one("process").attributes["error.type"] == "FetchError"
