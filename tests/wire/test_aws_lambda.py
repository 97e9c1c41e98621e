"""
The Lambda handler: with the events in AWS's documentation, and behind a poller that handles a real
queue as Lambda's does.
"""

from __future__ import annotations

import json
import logging
import random
import time
from dataclasses import dataclass, field
from email.utils import formatdate

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    Gone,
    HTTPFetcher,
    MemorySink,
    Unchanged,
)
from change_events._consumer.guard import Guard
from change_events.integrations.aws_lambda import CLOCK_SLACK, _Function, make_handler
from lambda_records import EPOCH, Context, EventSourceMapping, arn_of, record
from verification.harness.wire import Answer

SETTLE = 5.0


@pytest.fixture
def fetcher(source):
    return HTTPFetcher(source.url + "/products/{id}")


@pytest.fixture
def make(fetcher, sink):
    return lambda **settings: make_handler(
        **({"fetcher": fetcher, "sink": sink, "settle": SETTLE} | settings)
    )


@pytest.fixture
def make_still(fetcher, sink):
    """Like `make`, with a clock that stands still."""

    def make(**settings):
        given = {
            "fetcher": fetcher,
            "sink": sink,
            "settle": SETTLE,
            "early_look": True,
            "clock": lambda: 0.0,
        } | settings
        return _Function(
            given.pop("fetcher"), given.pop("sink"), given.pop("settle"), Guard(), **given
        ).handle

    return make


FIFO = "arn:aws:sqs:eu-west-1:123456789012:fifo.fifo"


def back(handler, *records, context=None):
    """Return the message ids that the handler reports as failed."""
    return [
        failure["itemIdentifier"]
        for failure in handler({"Records": list(records)}, context)["batchItemFailures"]
    ]


class SQS:
    """A client that records its calls, for messages that no emulated queue could have."""

    class meta:  # noqa: N801  # boto3's
        endpoint_url = "https://sqs.eu-west-1.amazonaws.com"

    def __init__(self, *, ahead=0.0, no_time=None, no_change=None, clock=lambda: EPOCH):
        self.asked = 0
        self.changed = []
        self.calls = []
        self.urls = set()
        self.ahead = ahead
        self.no_time = no_time
        self.no_change = no_change
        self.clock = clock

    def get_queue_attributes(self, QueueUrl, AttributeNames):  # noqa: N803
        self.asked += 1
        self.urls.add(QueueUrl)
        if self.no_time:
            raise self.no_time
        return {
            "ResponseMetadata": {
                "HTTPHeaders": {"date": formatdate(self.clock() + self.ahead, usegmt=True)}
            }
        }

    def change_message_visibility_batch(self, QueueUrl, Entries):  # noqa: N803
        self.calls.append(len(Entries))
        self.urls.add(QueueUrl)
        if self.no_change:
            raise self.no_change
        self.changed += [entry["VisibilityTimeout"] for entry in Entries]
        return {}


@pytest.fixture
def client():
    return SQS()


@dataclass
class World:
    """The true time, in seconds; how far SQS's `Date` is off; and a source whose GETs take time."""

    now: float = 0.0
    skew: float = 0.0
    takes: float = 0.0
    gets: list[float] = field(default_factory=list)

    def fetch(self, id, /, *, etag=None):
        self.gets.append(self.now)
        self.now += self.takes
        return Gone()


# With a real queue, and with documented events


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "FIFO"])
@pytest.mark.parametrize("raw", [False, True], ids=["envelope", "raw"])
def test_the_cache_follows_the_source(make_channel, source, sink, make, fifo, raw):
    channel = make_channel(fifo=fifo, raw=raw)
    lambda_ = EventSourceMapping(channel.queue_url, make(settle=2.0))

    source.entities["p1"] = {"id": "p1", "n": 1}
    channel.announce("p1", "p2", "p1", "never")
    assert len(lambda_.poll()) == 4  # looked at, but not settled
    assert dict(sink.items()) == {"p1": {"id": "p1", "n": 1}}

    source.entities |= {"p1": None, "p2": {"id": "p2"}}  # the saves commit only now
    lambda_.poll_until(lambda: channel.count() == {})

    assert dict(sink.items()) == {"p2": {"id": "p2"}}
    assert source.ids().count("p2") == 2  # a look at once, and one when the window was over


def test_a_young_event_is_received_twice(channel, source, make):
    lambda_ = EventSourceMapping(channel.queue_url, make(settle=1.2))
    channel.announce("p1")

    assert lambda_.poll() != []
    assert channel.count() == {"held": 1}
    while not (event := lambda_.receive())["Records"]:
        pass
    assert event["Records"][0]["attributes"]["ApproximateReceiveCount"] == "2"
    assert lambda_.invoke(event) == []
    assert channel.count() == {}


def test_with_a_queue_delay_of_the_window_an_event_needs_one_receive_and_no_call_to_sqs(
    make_channel, source, sink, make
):
    channel = make_channel(DelaySeconds="2")
    client = boto3.client("sqs")
    called = []
    client.meta.events.register("before-call.sqs", lambda **_: called.append(1))
    lambda_ = EventSourceMapping(channel.queue_url, make(settle=2, client=client))
    source.entities["p1"] = {"id": "p1"}
    channel.announce("p1")

    lambda_.poll_until(lambda: channel.count() == {})

    assert dict(sink.items()) == source.entities
    assert (source.ids(), called) == (["p1"], [])


@pytest.mark.parametrize("age", [4.0, 60.0])
def test_an_events_age_is_measured_by_the_date_that_sqs_answers(make, source, age):
    """The emulator's clock is this machine's; so the message's timestamps can be in the past."""
    queue_url = boto3.client("sqs").create_queue(QueueName="told-by-sqs")["QueueUrl"]

    message_ids = back(make(), record(age=age, now=time.time(), arn=arn_of(queue_url)))

    assert message_ids == ([] if age > SETTLE else ["message of p1"])
    assert source.ids() == ["p1"]


STANDARD_EVENT = """
{
    "Records": [
        {
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
            "body": %s,
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1545082649183",
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": "1545082649185"
            },
            "messageAttributes": {
                "myAttribute": {
                    "stringValue": "myValue",
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": "String"
                },
                "myBinary": {
                    "binaryValue": "eA==",
                    "stringListValues": [],
                    "binaryListValues": [],
                    "dataType": "Binary"
                }
            },
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
            "awsRegion": "us-east-2"
        }
    ]
}
"""

FIFO_EVENT = """
{
    "Records": [
        {
            "messageId": "11d6ee51-4cc7-4302-9e22-7cd8afdaadf5",
            "receiptHandle": "AQEBBX8nesZEXmkhsmZeyIE8iQAMig7qw...",
            "body": %s,
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1573251510774",
                "SequenceNumber": "18849496460467696128",
                "MessageGroupId": "1",
                "SenderId": "AIDAIO23YVJENQZJOL4VO",
                "MessageDeduplicationId": "1",
                "ApproximateFirstReceiveTimestamp": "1573251510774"
            },
            "messageAttributes": {},
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:fifo.fifo",
            "awsRegion": "us-east-2"
        }
    ]
}
"""

RAW = '{"id": "p1"}'
ENVELOPE = json.dumps(
    {"Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324", "Message": RAW}
)


@pytest.mark.parametrize("body", [RAW, ENVELOPE], ids=["raw", "envelope"])
@pytest.mark.parametrize("event", [STANDARD_EVENT, FIFO_EVENT], ids=["standard", "FIFO"])
def test_the_example_events_of_the_documentation_are_handled(
    source, sink, make, client, event, body
):
    source.entities["p1"] = {"id": "p1"}

    answer = make(client=client)(json.loads(event % json.dumps(body)), Context())

    assert answer == {"batchItemFailures": []}  # they are of 2018 and 2019
    assert dict(sink.items()) == source.entities
    (url,) = client.urls
    assert url.startswith("https://sqs.eu-west-1.amazonaws.com/123456789012/")


def test_an_empty_batch_is_answered_with_no_failures(make):
    assert back(make()) == []


@pytest.mark.parametrize(
    "event", [{}, None, {"Records": {}}, {"Records": [{"EventSource": "aws:sns", "Sns": {}}]}]
)
def test_an_event_from_another_source_than_sqs_is_refused(make, event):
    with pytest.raises(
        ConfigurationError, match="Subscribe a queue to the topic, not the function itself"
    ):
        make()(event, None)


@pytest.mark.parametrize("settle", [-1, 3601, "5", float("nan")])
def test_settle_must_be_from_0_to_3600(make, settle):
    with pytest.raises(ConfigurationError, match="settle must be from 0 to 3600"):
        make(settle=settle)


# The settle window


def test_a_young_event_gets_a_look_and_comes_back_after_its_window(make_still, source, client):
    assert back(make_still(client=client), record()) == ["message of p1"]

    assert source.ids() == ["p1"]
    assert client.changed == [SETTLE + CLOCK_SLACK]


def test_without_early_looks_a_young_event_comes_back_without_a_look(make_still, source, client):
    assert back(make_still(client=client, early_look=False), record()) == ["message of p1"]

    assert (source.ids(), client.changed) == ([], [SETTLE + CLOCK_SLACK])


def test_the_time_in_the_queue_counts_towards_the_window(make_still, client):
    handler = make_still(client=client)

    assert back(handler, record(age=5, waited=SETTLE)) == []
    assert client.asked == 0
    assert back(handler, record(age=3, waited=3)) == ["message of p1"]
    assert client.changed == [SETTLE - 3 + CLOCK_SLACK]


@pytest.mark.parametrize(
    ("age", "settled"),
    [(0, False), (5.0, False), (5.999, False), (6.0, True), (3600, True)],
    ids=str,
)
def test_the_age_is_sqs_time_less_one_second(make, client, age, settled):
    assert (back(make(client=client), record(age=age, receives=2)) == []) == settled
    assert client.asked == 1


def test_many_receives_do_not_settle_a_young_event(make, client):
    """Lambda's poller can receive without invoking anybody, because the function is throttled."""
    assert back(make(client=client), record(age=1, receives=99)) == ["message of p1"]


def test_the_machines_clock_does_not_settle_a_young_event(make, client, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: EPOCH + 3600)

    assert back(make(client=client), record()) == ["message of p1"]


def test_an_event_with_impossible_times_is_young(make_still, client):
    assert back(make_still(client=client), record(age=-3600, waited=-7200)) == ["message of p1"]
    assert client.changed == [SETTLE + CLOCK_SLACK]


@pytest.mark.parametrize(("settle", "said", "window"), [(5, "30", 30), (30, "5", 30), (5, "1", 5)])
def test_the_window_is_the_larger_of_the_handlers_and_the_events(
    make_still, client, settle, said, window
):
    handler = make_still(client=client, settle=settle)

    assert back(handler, record(age=window + 3, settle=said)) == []
    assert back(handler, record(settle=said)) == ["message of p1"]
    assert client.changed == [window + CLOCK_SLACK]


def test_a_saved_event_is_settled_by_its_first_look(make, source, client):
    assert back(make(client=client), record(phase="saved", save="s1")) == []
    assert (source.ids(), client.asked) == (["p1"], 0)


def test_a_saving_event_gets_no_look_before_its_window_is_over(make_still, source, client):
    handler = make_still(client=client)

    assert back(handler, record(phase="saving", save="s1")) == ["message of p1"]
    assert (source.ids(), client.changed) == ([], [SETTLE + CLOCK_SLACK])
    assert back(handler, record(phase="saving", save="s1", age=60)) == []
    assert source.ids() == ["p1"]


def test_a_saved_event_ends_the_window_of_its_saving_event_in_the_same_batch(make, source, client):
    records = [
        record(name="saving 1", phase="saving", save="s1"),
        record(name="saving 2", phase="saving", save="s2"),
        record(name="saved 1", phase="saved", save="s1"),
        record(name="another id's", id="p2", phase="saving", save="s1"),
        record(name="plain"),
        record(name="saved without a name", id="p3", phase="saved"),
        record(name="plain 3", id="p3"),
    ]

    assert back(make(client=client), *records) == ["saving 2", "another id's", "plain", "plain 3"]
    assert source.ids() == ["p1", "p3"]


def test_records_of_one_id_share_a_look(make, source, client):
    records = [
        record(name="young"),
        record(name="old", age=60),
        record(name="older", age=99),
        record("p2", age=60),
    ]

    assert back(make(client=client), *records) == ["young"]
    assert source.ids() == ["p1", "p2"]


def test_a_message_that_is_twice_in_a_batch_is_reported_once(make, client):
    assert back(make(client=client), record(), record()) == ["message of p1"]


def test_a_window_can_end_while_the_batch_is_handled(sink, client):
    world = World(takes=3.0)
    function = _Function(
        world, sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: world.now
    )

    assert back(function.handle, record("p1"), record("p2"), record("p3")) == [
        "message of p1",
        "message of p2",
    ]
    assert client.changed == [0, 0]


def test_the_time_that_asking_sqs_takes_does_not_count_twice(sink):
    """Its answer counts it already. So the clock is read after it."""
    world = World(now=1.0)

    def date():
        world.now += 3.0
        return EPOCH + world.now

    client = SQS(clock=date)
    function = _Function(
        world, sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: world.now
    )

    assert back(function.handle, record(now=EPOCH)) == ["message of p1"]
    assert world.gets == [4.0]
    assert client.changed == [SETTLE - 3.0 + CLOCK_SLACK]


A_MOMENT = st.floats(0, 1)
VISIT = st.tuples(st.floats(0.05, 0.5), st.booleans(), st.sampled_from([-0.999, 0.0, 0.999]))


@settings(max_examples=300)
@given(
    sent=A_MOMENT,
    waited=A_MOMENT | st.floats(0, 8),
    visits=st.lists(VISIT, min_size=30, max_size=30),
    settle=st.floats(1, 5),
    said=st.none() | st.floats(1, 5),
)
def test_no_event_is_settled_by_a_look_that_began_too_early(sent, waited, visits, settle, said):
    """Visits come at any time, some of them throttled, and SQS's `Date` is off by up to 1 s."""
    frozen = 0.0
    world = World(now=sent + waited)
    client = SQS(clock=lambda: EPOCH + world.now + world.skew)
    function = _Function(
        world,
        MemorySink(),
        settle,
        Guard(),
        early_look=True,
        client=client,
        clock=lambda: world.now - frozen,
    )
    message = record(
        now=EPOCH + sent, waited=waited, **({} if said is None else {"settle": repr(said)})
    )
    for pause, throttled, skew in visits:
        world.now += pause
        frozen += pause / 2
        world.skew = skew
        if not throttled and back(function.handle, message) == []:
            rounding = 0.002  # timestamps are whole milliseconds
            assert world.gets[-1] >= sent + max(settle, said or 0.0) - rounding
            break


def test_an_event_that_was_sent_back_is_old_enough_when_it_returns():
    """At any fraction of a second, and with SQS's clocks a little apart."""
    for tenths in range(100):
        for before, after in [(0.0, 0.0), (0.01, -0.01), (-0.01, 0.01)]:
            world = World(now=tenths / 10, takes=0.02)
            client = SQS(clock=lambda world=world: EPOCH + world.now + world.skew)
            function = _Function(
                world,
                MemorySink(),
                SETTLE,
                Guard(),
                early_look=True,
                client=client,
                clock=lambda world=world: world.now,
            )
            message = record()
            for name in ("SentTimestamp", "ApproximateFirstReceiveTimestamp"):
                message["attributes"][name] = str(int((EPOCH + world.now) * 1000))
            world.skew = before
            assert back(function.handle, message) != []
            world.now += client.changed[0]
            world.skew = after
            assert back(function.handle, message) == []


# Failures


def test_a_failed_look_does_not_fail_other_records(make_still, source, sink, client, caplog):
    source.entities["p2"] = {"id": "p2"}
    source.answer = lambda id: Answer(503, b"{}", {"Retry-After": "77"}) if id == "p1" else None

    assert back(make_still(client=client), record("p1", age=60), record("p2", age=60)) == [
        "message of p1"
    ]

    assert dict(sink.items()) == source.entities
    assert client.changed == [77]
    (logged,) = [each for each in caplog.records if getattr(each, "outcome", None) == "failed"]
    assert (logged.levelno, logged.id, logged.exc_info) == (logging.WARNING, "p1", False)


def test_the_pause_after_a_failed_look_doubles_with_each_receive(
    make_still, source, client, monkeypatch
):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    source.answer = lambda id: Answer(503, b"{}")

    for receives in (1, 2, 3, 20):
        back(make_still(client=client), record(age=60, receives=receives))

    assert client.changed == [2, 4, 8, 300]


def test_a_young_event_whose_look_failed_does_not_come_back_while_it_is_young(
    make_still, source, client
):
    source.answer = lambda id: Answer(503, b"{}")

    back(make_still(client=client, settle=60), record())

    assert client.changed == [62]


def test_a_message_comes_back_if_the_sink_fails(make_still, client, caplog):
    class Full(MemorySink):
        def apply(self, id, change, /, *, if_version):
            raise OSError("no space left on device")

    assert back(make_still(client=client, sink=Full()), record(age=60)) == ["message of p1"]
    assert len(client.changed) == 1
    assert "no space left on device" in caplog.text
    assert "Traceback" in caplog.text


MALFORMED = {
    "no JSON": record("p0", body="Hello from SQS!"),
    "no id": record("p0", body="{}"),
    "no attributes": {**record("p0"), "attributes": {}},
    "no group": record("p0", body="{}", arn=FIFO),
    "no receipt handle": {
        name: value for name, value in record("p0").items() if name != "receiptHandle"
    },
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_is_logged_once_and_left_to_the_redrive_policy(
    make, sink, source, client, caplog, malformed
):
    source.entities["p1"] = {"id": "p1"}
    handler = make(client=client)

    for _ in range(3):
        assert back(handler, malformed, record("p1", age=60)) == ["message of p0"]

    assert dict(sink.items()) == source.entities
    assert client.changed == []
    (logged,) = [each for each in caplog.records if getattr(each, "action", None) == "decode"]
    assert (logged.levelno, logged.message_id) == (logging.ERROR, "message of p0")


def test_the_redrive_policy_moves_a_malformed_message_to_the_dead_letter_queue(make_channel, make):
    dead = make_channel()
    channel = make_channel(
        RedrivePolicy=json.dumps(
            {"deadLetterTargetArn": arn_of(dead.queue_url), "maxReceiveCount": 2}
        )
    )
    lambda_ = EventSourceMapping(channel.queue_url, make())
    channel.send("no event")

    for _ in range(3):
        event = lambda_.receive(visibility=0)
        if event["Records"]:
            assert lambda_.invoke(event) == ["no event"]

    assert dead.bodies() == ["no event"]


def test_an_error_of_the_handler_deletes_nothing_and_is_logged(make, client, caplog):
    class Broken:
        def get_remaining_time_in_millis(self):
            raise ValueError("no such thing")

    assert back(make(client=client), record("p1", age=60), record("p2"), context=Broken()) == [
        "message of p1",
        "message of p2",
    ]
    assert "handling a batch failed" in caplog.text
    assert "no such thing" in caplog.text


# FIFO queues


def test_after_a_failed_look_the_rest_of_its_group_goes_back_without_a_look(
    make_still, source, client
):
    source.answer = lambda id: Answer(503, b"{}", {"Retry-After": "77"}) if id == "p2" else None
    records = [
        record(id, name=name, group=group, age=60, arn=FIFO)
        for id, group, name in [
            ("p1", "a", "before it"),
            ("p2", "a", "the failure"),
            ("p3", "b", "another group"),
            ("p4", "a", "after it"),
            ("p1", "a", "after it, too"),
        ]
    ]

    assert back(make_still(client=client), *records) == ["the failure", "after it", "after it, too"]

    assert source.ids() == ["p1", "p2", "p3"]
    assert client.changed == [77, 77, 77]


def test_after_a_young_event_the_rest_of_its_group_goes_back(make_still, source, client):
    records = [
        record("p1", name="slow", group="p1", settle="60", arn=FIFO),
        record("p1", name="quick", group="p1", age=60, arn=FIFO),
        record("p2", name="another", group="p2", age=60, arn=FIFO),
    ]

    assert back(make_still(client=client), *records) == ["slow", "quick"]
    assert client.changed == [62, 62]


def test_after_a_malformed_message_the_rest_of_its_group_goes_back(make_still, source, client):
    records = [
        record("p1", group="g", body="{}", arn=FIFO),
        record("p2", group="g", age=60, arn=FIFO),
        record("p3", group="h", age=60, arn=FIFO),
    ]

    assert back(make_still(client=client), *records) == ["message of p1", "message of p2"]
    assert (source.ids(), client.changed) == (["p3"], [])


def test_on_a_standard_queue_a_failed_look_does_not_send_its_group_back(make, source, client):
    """Fair queues have message groups, too."""
    source.answer = lambda id: Answer(503, b"{}") if id == "p1" else None

    assert back(
        make(client=client), record("p1", group="g", age=60), record("p2", group="g", age=60)
    ) == ["message of p1"]


# Time and permissions


class TenSeconds:
    """A context of Lambda."""

    def get_remaining_time_in_millis(self):
        return 10_000


def test_no_look_begins_in_the_second_half_of_the_time(sink, client, caplog):
    seconds = 0.0

    class Slow:
        def fetch(self, id, /, *, etag=None):
            nonlocal seconds
            seconds += 2.0
            raise FetchError("too slow")

    function = _Function(
        Slow(), sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: seconds
    )
    records = [record(f"p{n}", age=60) for n in range(6)]

    assert len(back(function.handle, *records, context=TenSeconds())) == 6

    assert seconds == 6.0  # begun at 0, 2 and 4
    assert client.calls == [6]
    assert all(1 <= pause <= 2 for pause in client.changed[3:])  # never a hot loop
    assert "before 3 of 6 records" in caplog.text


def test_sqs_is_not_called_in_the_last_quarter_of_the_time(sink, client):
    seconds = 0.0

    class Slow:
        def fetch(self, id, /, *, etag=None):
            nonlocal seconds
            seconds += 8.0
            raise FetchError("too slow")

    function = _Function(
        Slow(), sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: seconds
    )

    assert back(function.handle, record(age=60), context=TenSeconds()) == ["message of p1"]
    assert client.calls == []


def test_visibility_is_changed_in_batches_of_ten(make, client):
    records = [record(f"p{n}") for n in range(23)]

    assert len(back(make(client=client), *records)) == 23

    assert client.calls == [10, 10, 3]
    assert client.asked == 1


def test_a_missing_permission_to_change_visibility_is_logged_once(make, caplog):
    client = SQS(no_change=PermissionError("AccessDenied"))
    handler = make(client=client)

    for _ in range(3):
        assert back(handler, record()) == ["message of p1"]

    assert len(client.calls) == 3
    (logged,) = [
        each for each in caplog.records if getattr(each, "action", None) == "change_visibility"
    ]
    assert (logged.levelno, "sqs:ChangeMessageVisibility" in logged.getMessage()) == (
        logging.WARNING,
        True,
    )


def test_without_a_route_to_sqs_young_events_are_not_settled_and_each_time_is_logged(
    make, source, caplog
):
    client = SQS(no_time=TimeoutError("Connect timeout"), no_change=TimeoutError("Connect timeout"))
    handler = make(client=client)

    assert back(handler, record("p1", age=60), record("p2", age=60, waited=60)) == ["message of p1"]
    assert back(handler, record("p1", age=60)) == ["message of p1"]

    assert source.ids() == ["p1", "p2", "p1"]
    logged = [each for each in caplog.records if getattr(each, "action", None) == "ask_time"]
    assert [each.levelno for each in logged] == [logging.ERROR, logging.ERROR]


def test_the_client_is_made_when_first_needed_for_the_queues_region(make, monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    made = []
    make_client = boto3.client
    monkeypatch.setattr(
        boto3,
        "client",
        lambda *args, **kwargs: made.append(make_client(*args, **kwargs)) or made[-1],
    )
    handler = make()

    assert back(handler, record(age=60, waited=60)) == []
    assert made == []  # this event needs no client
    for _ in range(2):
        assert back(handler, record(arn="arn:aws:sqs:us-east-2:123456789012:my-queue")) == [
            "message of p1"
        ]
    (client,) = made
    assert client.meta.region_name == "us-east-2"
    config = client.meta.config
    assert config.connect_timeout + config.read_timeout <= 3  # a part of the function's time


def test_a_handler_does_not_show_what_it_was_made_with(make, fetcher):
    handler = make(fetcher=fetcher)

    assert type(fetcher).__name__ not in repr(handler)
    assert type(fetcher).__name__ not in repr(handler.__closure__[0].cell_contents)


# A mass deletion


class Answering:
    """A fetcher that answers the same for every id."""

    def __init__(self, change):
        self.change = change

    def fetch(self, id, /, *, etag=None):
        return self.change


def with_cached(number):
    sink = MemorySink()
    for n in range(number):
        assert sink.apply(f"p{n}", Found({"id": f"p{n}"}), if_version=0)
    return sink


def test_a_mass_deletion_is_refused_by_all_processes_together(make_still, client, caplog):
    sink = with_cached(60)
    processes = [make_still(client=client, sink=sink, fetcher=Answering(Gone())) for _ in range(2)]
    came_back = [
        bool(back(processes[n % 2], record(f"p{n}", age=60, name=f"m{n}"))) for n in range(30)
    ]

    assert came_back == [False] * 19 + [True] * 11
    assert len(sink) == 41
    assert "saw them gone" in caplog.text


def test_a_mass_deletion_can_be_allowed(make, client):
    sink = with_cached(30)
    handler = make(client=client, sink=sink, fetcher=Answering(Gone()), allow_mass_deletion=True)

    assert back(handler, *(record(f"p{n}", age=60, name=f"m{n}") for n in range(30))) == []
    assert len(sink) == 0


def test_a_look_at_a_tombstone_is_not_an_entity_that_was_found(sink, client):
    guard = Guard()
    function = _Function(
        Answering(Gone()), sink, SETTLE, guard, early_look=True, client=client, clock=lambda: 0.0
    )
    sink.apply("p1", Gone(), if_version=0)

    assert back(function.handle, record(age=60)) == []
    assert guard.is_new


def test_an_early_look_that_finds_nothing_new_writes_nothing_and_counts_what_it_found(
    sink, client, caplog
):
    caplog.set_level(logging.DEBUG, "change_events")
    guard = Guard()
    function = _Function(
        Answering(Unchanged()),
        sink,
        SETTLE,
        guard,
        early_look=True,
        client=client,
        clock=lambda: 0.0,
    )
    sink.apply("p1", Found({}, '"a"'), if_version=0)
    version = sink.entry("p1").version

    assert back(function.handle, record()) == ["message of p1"]

    assert sink.entry("p1").version == version
    assert str(guard) == "0 of the last 1 looks at cached entities saw them gone"
    (look,) = [record for record in caplog.records if record.action == "look"]
    assert look.outcome == "too_early"


def test_what_was_found_is_stored_now_and_then_for_other_processes(make_still, client):
    sink = with_cached(20)
    found = make_still(client=client, sink=sink, fetcher=Answering(Found({"n": 1})))
    assert back(found, *(record(f"p{n}", age=60, name=f"m{n}") for n in range(20))) == []

    assert json.loads(sink.state("guard"))["gone"] == "0" * 20


def test_a_sink_that_cannot_store_the_guards_state_fails_no_batch(make_still, client):
    sink = with_cached(20)
    sink.set_state = lambda *_, **__: 1 / 0
    found = make_still(client=client, sink=sink, fetcher=Answering(Found({"n": 1})))

    assert back(found, *(record(f"p{n}", age=60, name=f"m{n}") for n in range(20))) == []


# What the errors say, word for word


def test_the_error_for_a_setting_names_it(make):
    with pytest.raises(ConfigurationError) as caught:
        make(settle=3601)

    assert str(caught.value) == "settle must be from 0 to 3600.0, not 3601"
    make(settle=3600)
    make(settle=0)


@pytest.mark.parametrize("event", [None, {}, {"Records": [{"eventSource": "aws:kinesis"}]}])
def test_the_error_for_an_event_of_another_source_says_what_to_set_up(make, event):
    with pytest.raises(ConfigurationError) as caught:
        make()(event, None)

    assert str(caught.value) == (
        "this handler is for events of an SQS event source. Subscribe a queue to the topic, "
        "not the function itself, and give the function an event source mapping for the queue"
    )


def test_the_window_is_that_of_a_worker_unless_it_is_set(fetcher, sink, client):
    handler = make_handler(fetcher=fetcher, sink=sink, client=client)

    assert back(handler, record(age=60, waited=4.999)) == []
    assert back(handler, record(age=0, waited=5.0)) == []
    assert client.asked == 1


def test_an_event_is_settled_by_a_look_at_just_the_end_of_its_window(make_still, client):
    assert back(make_still(client=client), record(age=5, waited=5.0)) == []
    assert back(make_still(client=client), record(age=4.999, waited=4.999)) == ["message of p1"]


def test_no_look_begins_at_just_half_of_the_time(sink, client):
    world = World(takes=5.0)
    function = _Function(
        world, sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: world.now
    )

    records = [record(f"p{n}", age=60) for n in range(2)]
    assert back(function.handle, *records, context=TenSeconds()) == ["message of p1"]
    assert world.gets == [0.0]
    assert client.calls == [1]


def test_visibility_is_not_changed_at_just_three_quarters_of_the_time(sink, client):
    world = World(takes=7.5)
    function = _Function(
        world, sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: world.now
    )

    records = [record(f"p{n}", age=60) for n in range(2)]
    assert back(function.handle, *records, context=TenSeconds()) == ["message of p1"]
    assert client.calls == []


def test_the_call_for_the_time_names_the_queue(make, client):
    back(make(client=client), record())

    assert client.urls == {"https://sqs.eu-west-1.amazonaws.com/123456789012/my-queue"}


def test_a_mass_deletion_is_refused_by_default(make, client, caplog):
    sink = with_cached(60)
    handler = make(client=client, sink=sink, fetcher=Answering(Gone()))

    assert back(handler, *(record(f"p{n}", age=60, name=f"m{n}") for n in range(30))) == [
        f"m{n}" for n in range(19, 30)
    ]
    assert len(sink) == 41
    assert "or the URL of <test_aws_lambda.Answering object" in caplog.text


def test_a_call_of_sqs_is_tried_twice_at_most(make, monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    made = []
    make_client = boto3.client
    monkeypatch.setattr(
        boto3,
        "client",
        lambda *args, **kwargs: made.append(make_client(*args, **kwargs)) or made[-1],
    )

    back(make(), record())

    (client,) = made
    assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": 2}


def test_an_empty_cache_believes_no_more_than_twenty_deletions(make, client):
    handler = make(client=client, fetcher=Answering(Gone()))
    records = [record(f"p{n}", age=60, name=f"m{n}") for n in range(25)]

    assert back(handler, *records) == [f"m{n}" for n in range(19, 25)]


def test_each_look_is_logged_with_its_outcome(make, client, source, caplog):
    caplog.set_level(logging.DEBUG, "change_events")
    source.entities["p1"] = {"id": "p1"}

    assert back(make(client=client), record(age=60)) == []

    look, handled = (each for each in caplog.records if each.name == "change_events")
    assert (look.id, look.outcome) == ("p1", "created")
    assert (handled.settled, handled.back) == (1, 0)


def test_messages_of_a_fifo_queue_without_a_group_are_each_alone(make, client):
    records = [record("p1", body="{}", arn=FIFO), record("p2", age=60, arn=FIFO)]

    assert back(make(client=client), *records) == ["message of p1"]


def test_a_malformed_message_is_logged_with_what_is_wrong(make, client, caplog):
    back(make(client=client), record(body="Hello"))

    assert "JSON" in caplog.text


def test_what_goes_back_with_a_malformed_message_keeps_no_other_from_its_time(make_still, client):
    records = [
        record("p1", group="g", body="{}", arn=FIFO),
        record("p2", group="g", age=60, arn=FIFO),
        record("p3", group="h", arn=FIFO),
        record("p4", group="h", body="{}", arn=FIFO),
    ]

    assert len(back(make_still(client=client), *records)) == 4
    assert (client.calls, client.changed) == ([1], [SETTLE + CLOCK_SLACK])


def test_an_event_that_is_old_enough_comes_back_after_the_pause_alone(
    make_still, source, client, monkeypatch
):
    monkeypatch.setattr(random, "uniform", lambda low, high: low)
    source.answer = lambda id: Answer(503, b"{}")

    back(make_still(client=client), record(age=5, waited=SETTLE))

    assert client.changed == [1]


def test_a_look_begins_until_just_half_of_the_time(sink, client):
    world = World(takes=4.997)
    function = _Function(
        world, sink, SETTLE, Guard(), early_look=True, client=client, clock=lambda: world.now
    )

    records = [record(f"p{n}", age=60) for n in range(2)]
    assert back(function.handle, *records, context=TenSeconds()) == []
    assert world.gets == [0.0, 4.997]
