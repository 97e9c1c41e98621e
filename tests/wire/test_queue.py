"""The queue, against the emulator; and the client that it makes."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.stub import Stubber

from change_events import ConfigurationError
from change_events._consumer.queue import Message, Queue, _require_complete, batches
from conftest import failing, spied
from verification.harness.wire import Answer

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"


@pytest.fixture
def queue(channel):
    queue = Queue(channel.queue_url)
    queue.open(wait=20)
    return queue


def receive(queue, most=10):
    return queue.receive(most=most, wait=1, visibility=30)


def test_open_returns_the_queues_delay(make_channel):
    assert Queue(make_channel().queue_url).open(wait=20) == 0.0
    assert Queue(make_channel(DelaySeconds="7").queue_url).open(wait=20) == 7.0


def test_a_message_can_be_received_again_until_it_is_deleted(queue, channel):
    channel.send("one")

    (first,) = receive(queue)
    queue.change_visibility([(first.receipt_handle, 0.0)])
    (second,) = receive(queue)

    assert (first.body, first.receive_count) == ("one", 1)
    assert (second.message_id, second.receive_count) == (first.message_id, 2)
    assert queue.delete([second.receipt_handle]) == (1, [])
    assert channel.count() == {}


def test_two_deliveries_of_one_message_can_be_in_one_batch(queue, channel):
    channel.send("one")
    (first,) = receive(queue)
    queue.change_visibility([(first.receipt_handle, 0.0)])
    (second,) = receive(queue)
    entries = []
    queue._client.meta.events.register(
        "provide-client-params.sqs.DeleteMessageBatch", lambda params, **_: entries.append(params)
    )

    queue.delete([first.receipt_handle, second.receipt_handle])

    assert [entry["Id"] for entry in entries[0]["Entries"]] == ["0", "1"]
    assert channel.count() == {}


@pytest.mark.parametrize(("seconds", "asked"), [(0.0, 0), (0.1, 1), (1.0, 1), (1.5, 2)])
def test_visibility_is_rounded_up_to_whole_seconds(queue, channel, seconds, asked):
    channel.send("one")
    (message,) = receive(queue)
    entries = []
    queue._client.meta.events.register(
        "provide-client-params.sqs.ChangeMessageVisibilityBatch",
        lambda params, **_: entries.append(params),
    )

    queue.change_visibility([(message.receipt_handle, seconds)])

    assert entries[0]["Entries"][0]["VisibilityTimeout"] == asked


def test_delayed_messages_are_counted(make_channel):
    channel = make_channel(DelaySeconds="60")
    queue = Queue(channel.queue_url)
    queue.open(wait=20)

    channel.send("one")

    assert queue.delayed() == 1


def test_failed_entries_are_split_into_final_and_retriable_ones(caplog):
    client = boto3.client("sqs")
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
    queue = Queue(url, client)
    failed = [
        {"Id": "1", "SenderFault": False, "Code": "InternalError"},
        {"Id": "2", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"},
    ]
    with Stubber(client) as stub:  # the emulator never fails a single entry
        stub.add_response("delete_message_batch", {"Successful": [{"Id": "0"}], "Failed": failed})
        stub.add_response(
            "change_message_visibility_batch", {"Successful": [{"Id": "0"}], "Failed": failed}
        )

        assert queue.delete(["a", "b", "c"]) == (1, ["b"])
        assert queue.change_visibility([("a", 0.0), ("b", 0.0), ("c", 0.0)]) == (["c"], ["b"])

    assert [record.getMessage() for record in caplog.records] == [
        "acknowledge failed for 2 messages: InternalError, ReceiptHandleIsInvalid",
        "change_visibility failed for 2 messages: InternalError, ReceiptHandleIsInvalid",
    ]


def test_batches_have_at_most_ten_items():
    assert [len(batch) for batch in batches(range(25))] == [10, 10, 5]
    assert batches([]) == []


# The queue's own client


REFUSED = ClientError(
    {"Error": {"Code": "ExpiredToken"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
    "ReceiveMessage",
)
FAILED = ClientError(
    {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}},
    "ReceiveMessage",
)


@pytest.mark.parametrize(
    ("error", "renewed"),
    [
        (REFUSED, True),
        (ClientError({"Error": {"Code": "ExpiredToken"}}, "ReceiveMessage"), True),
        (NoCredentialsError(), True),
        (FAILED, False),
        (EndpointConnectionError(endpoint_url="https://sqs"), False),
        (ValueError("a client of another kind"), False),
    ],
)
def test_a_new_client_is_made_if_expired_credentials_could_be_the_reason(queue, error, renewed):
    before = queue._client

    queue.renew(error)

    assert (queue._client is not before) == renewed
    assert queue.delayed() == 0


def test_a_given_client_is_never_replaced(channel):
    client = boto3.client("sqs")
    queue = Queue(channel.queue_url, client)

    queue.renew(REFUSED)

    assert queue._client is client


def test_the_old_client_is_kept_if_no_new_one_can_be_made(queue, monkeypatch, tmp_path):
    (tmp_path / "config").write_text("half a fi")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    before = queue._client

    queue.renew(REFUSED)

    assert queue._client is before


@pytest.fixture
def profile(monkeypatch, tmp_path):
    (tmp_path / "config").write_text(
        "[profile mine]\nregion = eu-west-3\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")


def test_a_new_client_has_the_profile_of_the_default_session(channel, profile, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.session.Session(profile_name="mine"))
    queue = Queue(channel.queue_url)
    queue.renew(REFUSED)

    assert queue._client.meta.region_name == "eu-west-3"


def test_a_new_client_keeps_credentials_that_the_user_gave_to_the_default_session(
    channel, monkeypatch
):
    monkeypatch.setattr(
        boto3,
        "DEFAULT_SESSION",
        boto3.session.Session(aws_access_key_id="mine", aws_secret_access_key="s"),
    )
    queue = Queue(channel.queue_url)
    queue.renew(REFUSED)

    assert queue._client._get_credentials().access_key == "mine"


def test_a_new_client_needs_no_default_session(channel, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    queue = Queue(channel.queue_url)
    queue.renew(REFUSED)

    assert queue.delayed() == 0


# Errors at the start


@pytest.mark.parametrize(
    "url",
    [
        "",
        "products",
        "arn:aws:sqs:eu-west-1:123456789012:products",
        "https://host-only",
        "ftp://a/b",
    ],
)
def test_a_url_that_is_not_a_queues_is_refused(url):
    with pytest.raises(
        ConfigurationError, match="is not a queue's URL; one looks like https://sqs"
    ):
        Queue(url)


def test_the_error_for_a_missing_queue_says_what_to_check(aws):
    with pytest.raises(
        ConfigurationError, match=r"missing can't be read: .*Check the URL.*sqs:GetQueueAttributes"
    ) as caught:
        Queue(f"{aws}/123456789012/missing").open(wait=20)

    assert type(caught.value.__cause__).__name__ == "QueueDoesNotExist"


def test_an_endpoint_that_does_not_answer_is_a_configuration_error(monkeypatch, free_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")

    with pytest.raises(ConfigurationError, match="can't be read: Could not connect"):
        Queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q").open(wait=20)


def test_a_client_that_would_give_up_a_long_poll_is_a_configuration_error(channel):
    client = boto3.client("sqs", config=Config(read_timeout=20))

    with pytest.raises(
        ConfigurationError, match=r"read_timeout \(20 s\) must be longer than wait_time \(20 s\)"
    ):
        Queue(channel.queue_url, client).open(wait=20)
    assert Queue(channel.queue_url, client).open(wait=19) == 0.0


def test_missing_credentials_are_a_configuration_error(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found

    with pytest.raises(
        ConfigurationError,
        match=r"Unable to locate credentials.*credentials and region that boto3 finds",
    ):
        Queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q").open(wait=20)


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.us-west-2.amazonaws.com/123456789012/q", "us-west-2"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://us-east-2.queue.amazonaws.com/123456789012/q", "us-east-2"),
        ("http://127.0.0.1:4566/123456789012/q", "eu-west-1"),  # the environment's
    ],
)
def test_the_clients_region_is_the_one_in_the_url(url, region):
    queue = Queue(url)

    with pytest.raises(ConfigurationError):
        queue.open(wait=20)  # no such queue in the emulator

    assert queue._client.meta.region_name == region


def test_the_queues_own_client_gives_the_longest_poll_ten_seconds_to_be_answered(queue):
    """A poll that is abandoned can have received messages. But a lost packet must not cost more."""
    longest_poll = 20  # Amazon SQS API Reference, ReceiveMessage

    assert queue._client.meta.config.read_timeout == longest_poll + 10


def test_a_message_tells_its_age_by_the_dates_of_sqs(queue, channel):
    channel.send("one")
    (message,) = receive(queue)

    assert message.answered == int(message.answered)
    assert -1.0 < message.answered - message.sent < 60.0


@pytest.mark.parametrize(
    ("date", "age"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 28.0),
        ("Thu, 01 Jan 1970 00:00:31 GMT", 0.0),
        ("Thu, 01 Jan 1970 01:01:00 +0100", 28.0),
        ("Thu, 01 Jan 1970 00:01:00 -0000", 0.0),  # in no time zone
        ("yesterday", 0.0),
        (None, 0.0),
    ],
)
def test_a_message_has_no_age_without_a_date_that_can_be_read(date, age):
    client = boto3.client("sqs")
    received = {
        "MessageId": "m1",
        "ReceiptHandle": "h1",
        "Body": "one",
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "30000"},
    }
    headers = {"HTTPHeaders": {} if date is None else {"date": date}}
    with Stubber(client) as stub:  # the emulator always sends its date
        stub.add_response("receive_message", {"Messages": [received], "ResponseMetadata": headers})
        (message,) = receive(Queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q", client))

    assert message.age == age


# What SQS is asked, to the last parameter


def test_a_receive_asks_for_all_that_a_message_needs(queue, channel):
    client, calls = spied(queue._client, "ReceiveMessage")
    channel.send("one")

    queue.receive(most=3, wait=1, visibility=77)

    (asked,) = calls
    assert asked == {
        "QueueUrl": channel.queue_url,
        "MaxNumberOfMessages": 3,
        "WaitTimeSeconds": 1,
        "VisibilityTimeout": 77,
        "MessageAttributeNames": ["phase", "save", "settle"],
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
    }
    assert client is queue._client


def test_an_answer_that_names_no_failures_has_none():
    """The emulator always has a list of them."""
    client, _ = failing("DeleteMessageBatch", {"Successful": [{"Id": "0"}]})
    queue = Queue(URL, client)
    assert queue.delete(["a"]) == (1, [])

    client, _ = failing("ChangeMessageVisibilityBatch", {"Successful": [{"Id": "0"}]})
    assert Queue(URL, client).change_visibility([("a", 0.0)]) == ([], [])


def test_entries_of_a_change_of_visibility_are_named_by_their_positions():
    client, _ = failing("ChangeMessageVisibilityBatch", {})
    _, calls = spied(client, "ChangeMessageVisibilityBatch")

    Queue(URL, client).change_visibility([("a", 1.0), ("b", 2.0)])

    assert calls == [
        {
            "QueueUrl": URL,
            "Entries": [
                {"Id": "0", "ReceiptHandle": "a", "VisibilityTimeout": 1},
                {"Id": "1", "ReceiptHandle": "b", "VisibilityTimeout": 2},
            ],
        }
    ]


def test_the_time_is_the_date_of_an_answer_that_every_role_can_get():
    client = boto3.client("sqs")
    date = {"HTTPHeaders": {"date": "Thu, 01 Jan 1970 00:01:00 GMT"}}
    with Stubber(client) as stub:
        stub.add_response(
            "get_queue_attributes",
            {"Attributes": {}, "ResponseMetadata": date},
            {"QueueUrl": URL, "AttributeNames": ["QueueArn"]},
        )

        assert Queue(URL, client).now() == 60.0


def test_one_failed_entry_of_a_batch_is_logged_with_its_code(caplog):
    failure = {"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
    client, _ = failing("DeleteMessageBatch", {"Failed": [failure]})

    assert Queue(URL, client).delete(["a"]) == (0, [])

    (logged,) = caplog.records
    assert (logged.action, logged.code) == ("acknowledge", "ReceiptHandleIsInvalid")


@pytest.mark.parametrize("failed", [{"Id": "1"}, {"Id": "1", "SenderFault": False}])
def test_an_entry_that_failed_by_nobodys_fault_is_tried_again(failed):
    client, _ = failing("DeleteMessageBatch", {"Failed": [failed]})

    assert Queue(URL, client).delete(["a", "b"]) == (1, ["b"])


def test_the_error_for_a_url_says_what_one_looks_like():
    with pytest.raises(ConfigurationError) as caught:
        Queue("products")

    assert str(caught.value) == (
        "'products' is not a queue's URL; "
        "one looks like https://sqs.eu-west-1.amazonaws.com/123456789012/name"
    )


def test_the_error_for_a_queue_that_can_not_be_read_says_what_to_check():
    client, _ = failing("GetQueueAttributes", ConnectionError("reset"))

    with pytest.raises(ConfigurationError) as caught:
        Queue(URL, client).open(wait=20)

    assert str(caught.value) == (
        f"the queue {URL} can't be read: reset. Check the URL, the credentials and region that "
        "boto3 finds, and that they allow sqs:GetQueueAttributes, ReceiveMessage, DeleteMessage "
        "and ChangeMessageVisibility"
    )


def test_a_client_without_a_read_timeout_waits_for_every_poll(channel):
    client = boto3.client("sqs", config=Config(read_timeout=None))

    assert Queue(channel.queue_url, client).open(wait=20) == 0.0


def test_the_queues_own_client_has_a_connection_for_each_thread_of_a_worker(queue):
    config = queue._client.meta.config

    assert config.max_pool_connections == 400
    assert config.connect_timeout == 5


def test_an_answer_that_is_cut_off_is_an_error_and_no_empty_one(queue, line):
    queue = Queue(queue.url.replace(line._upstream, line.url))
    queue.open(wait=20)
    line.fault = lambda asked: (
        Answer(200, b'{"Messages": []', length=100)
        if asked.headers["X-Amz-Target"].endswith("ReceiveMessage")
        else None
    )

    # The first is boto3's own. Older ones notice it in another place.
    with pytest.raises((IncompleteReadError, ConnectionClosedError)):
        receive(queue)


def test_a_new_client_has_credentials_that_were_looked_for_again(queue, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    queue = Queue(queue.url)
    queue.open(wait=20)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new")

    queue.renew(FAILED)
    assert queue._client._get_credentials().access_key == "test"
    queue.renew(REFUSED)
    assert queue._client._get_credentials().access_key == "new"


def test_all_that_a_delivery_says_is_read():
    text = {"StringValue": "saved", "DataType": "String"}
    first = {
        "MessageId": "m1",
        "ReceiptHandle": "h1",
        "Body": "one",
        "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "30500"},
        "MessageAttributes": {"phase": text, "save": {"BinaryValue": b"x", "DataType": "Binary"}},
    }
    second = {
        "MessageId": "m2",
        "ReceiptHandle": "h2",
        "Body": "two",
        "Attributes": {"ApproximateReceiveCount": "1"},
    }
    headers = {"HTTPHeaders": {"date": "Thu, 01 Jan 1970 00:01:00 GMT"}}
    client, _ = failing(
        "ReceiveMessage", {"Messages": [first, second], "ResponseMetadata": headers}, {}
    )
    queue = Queue(URL, client)

    assert receive(queue) == [
        Message("m1", "h1", "one", 2, {"phase": "saved", "save": ""}, 30.5, 60.0),
        Message("m2", "h2", "two", 1, {}, None, 60.0),
    ]
    assert receive(queue) == []


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Length": "3"}, {"Content-Length": "2"}], ids=["none", "all", "more"]
)
def test_an_answer_of_unknown_or_right_length_is_complete(headers):
    """botocore calls this. The emulator always says the length."""
    _require_complete({"headers": headers, "body": b"abc"})
    if not headers:
        _require_complete({"headers": headers, "body": b""})
