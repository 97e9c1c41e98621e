from __future__ import annotations

import contextvars
import json
import logging
import threading

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from change_events import (
    ChangeEvent,
    ConfigurationError,
    NullPublisher,
    Publisher,
    PublishError,
    SNSPublisher,
    broadcasts_before_save,
)

TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


def events(*ids):
    return [ChangeEvent(id) for id in ids]


def numbered(count):
    return events(*(f"p{number}" for number in range(count)))


@pytest.fixture
def publisher(channel):
    return SNSPublisher(channel.topic_arn)


def test_one_event_arrives_as_its_id_and_nothing_else(channel, publisher):
    publisher.publish(events("abc"))

    (message,) = channel.messages()
    assert json.loads(message["Body"]) == {"id": "abc"}
    assert message["Body"] == '{"id": "abc"}'
    assert "MessageAttributes" not in message


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 25])
def test_many_events_arrive_each_as_a_message_of_its_own(channel, publisher, count):
    publisher.publish(numbered(count))

    assert sorted(channel.bodies()) == sorted(f'{{"id": "p{number}"}}' for number in range(count))


def test_many_events_need_one_call_for_every_ten(channel):
    client = boto3.client("sns")
    calls = []
    client.meta.events.register(
        "before-send.sns.*", lambda request, **_: calls.append(request.body)
    )

    SNSPublisher(channel.topic_arn, client=client).publish(numbered(25))

    assert len(calls) == 3


def test_attributes_travel_with_every_event(channel):
    publisher = SNSPublisher(channel.topic_arn, attributes={"source": "products"})

    publisher.publish(events("p1"))
    publisher.publish(events("p2", "p3"))

    attributes = [
        message["MessageAttributes"]["source"]["StringValue"] for message in channel.messages()
    ]
    assert attributes == ["products"] * 3


def test_attributes_can_come_from_the_context_of_the_save(channel):
    trace = contextvars.ContextVar("trace")
    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: {"traceparent": trace.get()})
    trace.set("00-abc-01")

    publisher.publish(events("p1"))

    assert channel.messages()[0]["MessageAttributes"]["traceparent"]["StringValue"] == "00-abc-01"


def test_seven_attributes_arrive_as_text(channel):
    attributes = {f"a{number}": "x" for number in range(7)}

    SNSPublisher(channel.topic_arn, attributes=attributes).publish(events("p1"))

    (message,) = channel.messages()
    assert {
        name: (attribute["DataType"], attribute["StringValue"])
        for name, attribute in message["MessageAttributes"].items()
    } == dict.fromkeys(attributes, ("String", "x"))


OWN = "the message attribute {!r} is the protocol's own; use another name"
NOT_TEXT = "the message attribute 'source' must be text that is not empty, not {!r}"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {f"a{number}": "x" for number in range(8)},
            "8 message attributes; at most 7 reach every queue",
        ),
        ({"settle": "5"}, OWN.format("settle")),
        ({"phase": "x"}, OWN.format("phase")),
        ({"save": "x"}, OWN.format("save")),
        ({"source": ""}, NOT_TEXT.format("")),
        ({"source": 5}, NOT_TEXT.format(5)),
    ],
)
def test_attributes_that_would_not_arrive_are_refused(attributes, message):
    with pytest.raises(ConfigurationError) as caught:
        SNSPublisher(TOPIC, attributes=attributes)

    assert str(caught.value) == message


def test_none_in_place_of_a_topic_is_refused_and_the_error_says_what_to_use():
    with pytest.raises(ConfigurationError) as caught:
        SNSPublisher(None)

    assert str(caught.value) == (
        "topic_arn is None. If it comes from the environment, use SNSPublisher.from_env(name); "
        "to broadcast nothing, use NullPublisher()"
    )


@pytest.mark.parametrize("arn", [5, b"arn", ["arn"], TOPIC.encode()])
def test_a_topic_that_is_neither_text_nor_a_callable_is_refused(arn):
    with pytest.raises(ConfigurationError, match="is not a topic's ARN"):
        SNSPublisher(arn)


def test_a_callable_that_returns_something_else_prevents_the_save():
    @broadcasts_before_save(SNSPublisher(lambda: 5))
    def save(product):
        pytest.fail("saved")

    with pytest.raises(ConfigurationError, match="5 is not a topic's ARN"):
        save({"id": "p1"})


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "products",
        "arn:aws:sqs:eu-west-1:123456789012:q",
        TOPIC + ":more",
        "https://example.com",
    ],
)
def test_an_invalid_topic_arn_is_refused(arn):
    with pytest.raises(ConfigurationError, match="is not a topic's ARN"):
        SNSPublisher(arn)


# FIFO


def test_on_a_fifo_topic_the_group_is_the_id_and_no_broadcast_is_a_duplicate(make_channel):
    channel = make_channel(fifo=True)
    publisher = SNSPublisher(channel.topic_arn)

    publisher.publish(events("p1"))
    publisher.publish(events("p1"))
    publisher.publish(events("p1", "p2"))

    messages = channel.messages()
    assert [json.loads(message["Body"])["id"] for message in messages] == ["p1", "p1", "p1", "p2"]
    assert [message["Attributes"]["MessageGroupId"] for message in messages] == [
        "p1",
        "p1",
        "p1",
        "p2",
    ]
    assert len({message["Attributes"]["MessageDeduplicationId"] for message in messages}) == 4


@pytest.mark.parametrize("id", ["two words", "Übergröße", "x" * 129])
def test_an_id_that_cannot_be_a_group_is_hashed(make_channel, id):
    channel = make_channel(fifo=True)
    publisher = SNSPublisher(channel.topic_arn)

    publisher.publish(events(id))
    publisher.publish(events(id, "other"))

    messages = channel.messages()
    groups = [message["Attributes"]["MessageGroupId"] for message in messages]
    assert [json.loads(message["Body"])["id"] for message in messages] == [id, id, "other"]
    assert groups[0] == groups[1] != groups[2]
    assert len(groups[0]) == 64


# Failures: each raises a PublishError, and nothing is saved


def must_not_save(publisher, ids):
    """Save the ids; the publisher must prevent it. Return the error."""
    saved = []

    @broadcasts_before_save(publisher, ids="ids")
    def save(ids):
        saved.extend(ids)

    with pytest.raises(PublishError) as caught:
        save(ids)
    assert saved == []
    return caught.value


@pytest.mark.parametrize("ids", [["p1"], ["p1", "p2"]])
def test_a_topic_that_is_gone_prevents_the_save(channel, sns, publisher, ids):
    sns.delete_topic(TopicArn=channel.topic_arn)

    error = must_not_save(publisher, ids)

    assert error.ids == tuple(ids)
    assert type(error.__cause__).__name__ == "NotFoundException"
    assert channel.topic_arn in str(error)
    assert "'p1'" in str(error)


def test_an_endpoint_that_is_unreachable_prevents_the_save(monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")

    error = must_not_save(SNSPublisher(TOPIC), ["p1"])

    assert type(error.__cause__).__name__ == "EndpointConnectionError"


def test_missing_credentials_prevent_the_save(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    client = boto3.Session().client("sns")  # the default session remembers its credentials

    error = must_not_save(SNSPublisher(TOPIC, client=client), ["p1"])

    assert type(error.__cause__).__name__ == "NoCredentialsError"


def test_access_denied_prevents_the_save():
    client = boto3.client("sns")
    with Stubber(client) as stub:  # the emulator denies nobody
        stub.add_client_error(
            "publish", "AuthorizationError", "not authorized to perform: SNS:Publish", 403
        )

        error = must_not_save(SNSPublisher(TOPIC, client=client), ["p1"])

    assert "not authorized to perform: SNS:Publish" in str(error)


def test_one_failed_entry_of_a_batch_prevents_the_save():
    ids = [f"p{number}" for number in range(22)]
    client = boto3.client("sns", config=Config(max_pool_connections=1))  # one call at a time
    refusal = {"Id": "0", "Code": "InternalError", "Message": "try again", "SenderFault": False}
    with Stubber(client) as stub:  # the emulator fails no single entry
        stub.add_response(
            "publish_batch", {"Successful": [{"Id": str(n)} for n in range(10)], "Failed": []}
        )
        stub.add_response(
            "publish_batch",
            {"Successful": [{"Id": str(n)} for n in range(1, 10)], "Failed": [refusal]},
        )

        error = must_not_save(SNSPublisher(TOPIC, client=client), ids)

    assert error.ids == ("p10", "p20", "p21")  # refused, or not tried; the others were accepted
    assert "'p10', 'p20', 'p21' to" in str(error)
    assert "InternalError: try again" in str(error)


def test_attributes_that_fail_at_the_call_prevent_the_save(channel):
    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: {"save": "x"})

    error = must_not_save(publisher, ["p1"])

    assert "the protocol's own" in str(error)
    assert channel.bodies() == []


def test_many_ids_are_named_by_the_first_three(publisher, channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    error = must_not_save(publisher, ["p1", "p2", "p3", "p4"])

    assert "'p1', 'p2', 'p3' and 1 more" in str(error)
    assert error.ids == ("p1", "p2", "p3", "p4")


# From the environment


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_nothing_is_broadcast_and_one_warning_is_logged(
    monkeypatch, caplog, value
):
    monkeypatch.delenv("PRODUCT_EVENTS_TOPIC_ARN", raising=False)
    if value is not None:
        monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", value)
    publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")

    publisher.publish(events("p1"))
    publisher.publish(events("p1"))

    records = [record for record in caplog.records if record.name == "change_events"]
    assert [record.levelno for record in records] == [logging.WARNING]
    assert records[0].getMessage() == (
        "PRODUCT_EVENTS_TOPIC_ARN is not set (from_env(..., required=True) refuses that): "
        "nothing is broadcast, and saves run unannounced"
    )


def test_a_callable_without_a_topic_broadcasts_nothing_and_one_warning_is_logged(caplog):
    publisher = SNSPublisher(lambda: None)

    publisher.publish(events("p1"))
    publisher.publish(events("p1"))

    (record,) = [record for record in caplog.records if record.name == "change_events"]
    assert "returned None: nothing is broadcast" in record.getMessage()


def test_the_variable_is_read_at_each_broadcast(monkeypatch, make_channel):
    publisher = SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN")
    for id in ("p1", "p2"):
        channel = make_channel()
        monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", channel.topic_arn)

        publisher.publish(events(id))

        assert channel.ids() == [id]


def test_a_publisher_from_the_environment_has_the_client_and_the_attributes_that_it_is_given(
    monkeypatch, channel
):
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", channel.topic_arn)
    client, calls = boto3.client("sns"), []
    client.meta.events.register("before-send.sns.Publish", lambda **_: calls.append(1))

    SNSPublisher.from_env(
        "PRODUCT_EVENTS_TOPIC_ARN", client=client, attributes={"source": "products"}
    ).publish(events("p1"))

    (message,) = channel.messages()
    assert message["MessageAttributes"]["source"]["StringValue"] == "products"
    assert calls == [1]


@pytest.mark.parametrize("value", ["", "products"])
def test_a_required_variable_that_is_missing_or_wrong_prevents_the_save(monkeypatch, value):
    monkeypatch.setenv("PRODUCT_EVENTS_TOPIC_ARN", value)

    @broadcasts_before_save(SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN", required=True))
    def save(product):
        pytest.fail("saved")

    with pytest.raises(
        ConfigurationError,
        match=(
            r"^PRODUCT_EVENTS_TOPIC_ARN is not set: put the ARN of the topic to broadcast to "
            r"into it$|'products' is not a topic's ARN"
        ),
    ):
        save({"id": "p1"})


def test_the_topic_can_come_from_a_callable(channel):
    SNSPublisher(lambda: channel.topic_arn).publish(events("p1"))

    assert channel.ids() == ["p1"]


def test_the_default_client_has_the_topics_region_and_short_timeouts(sns):
    topics = [
        boto3.client("sns", region_name=region).create_topic(Name="t")["TopicArn"]
        for region in ("us-west-2", "eu-west-3")
    ]
    publisher = SNSPublisher(iter(topics).__next__)

    publisher.publish(events("p1"))
    publisher.publish(events("p1"))

    clients = {region: client for (_, region), client in publisher._clients.items()}
    assert {region: client.meta.region_name for region, client in clients.items()} == {
        "us-west-2": "us-west-2",
        "eu-west-3": "eu-west-3",
    }
    config = clients["us-west-2"].meta.config
    assert (config.connect_timeout, config.read_timeout) == (2, 3)
    assert config.max_pool_connections == 100
    assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("standard", 3)


def test_many_threads_share_one_client_and_keep_their_connections(
    channel, publisher, monkeypatch, caplog
):
    made = []
    make = boto3.client
    monkeypatch.setattr(
        boto3, "client", lambda *args, **kwargs: made.append(args) or make(*args, **kwargs)
    )
    start = threading.Barrier(20)

    def publish(id):
        start.wait()
        publisher.publish(events(id))

    threads = [threading.Thread(target=publish, args=(f"p{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(channel.ids()) == sorted(f"p{number}" for number in range(20))
    assert made == [("sns",)]
    assert "discarding" not in caplog.text


def test_the_null_publisher_is_a_publisher_that_broadcasts_nothing():
    assert isinstance(NullPublisher(), Publisher)
    assert isinstance(SNSPublisher(TOPIC), Publisher)
    NullPublisher().publish(events("p1"))
