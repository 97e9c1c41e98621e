"""Each fault of a queue, a topic or a permission is planted, and `doctor` names it."""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile
from dataclasses import replace

import boto3
import pytest

from change_events import HTTPFetcher, MemorySink, Worker
from change_events._operations.checkup import Case, Finding, SkippedError
from change_events._operations.doctor import OF_A_CACHE, OF_A_QUEUE, doctor
from change_events.exceptions import ConfigurationError
from verification.harness.wire import Answer, sqs_error

CHECKS = OF_A_QUEUE | OF_A_CACHE


def examine(case: Case, *names: str) -> Finding:
    """Make the checks in this order; return what the last one says."""
    for name in names:
        try:
            finding = CHECKS[name](case)
        except SkippedError as error:
            finding = Finding("skipped", str(error))
    return finding


def arn_of(channel) -> str:
    return attribute(channel, "QueueArn")


def attribute(channel, name: str) -> str:
    return channel.sqs.get_queue_attributes(QueueUrl=channel.queue_url, AttributeNames=["All"])[
        "Attributes"
    ][name]


def set_attributes(channel, **attributes: object) -> None:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in attributes.items()
    }
    channel.sqs.set_queue_attributes(QueueUrl=channel.queue_url, Attributes=texts)


def subscribed(channel, **attributes: str) -> None:
    (subscription,) = channel.sns.list_subscriptions_by_topic(TopicArn=channel.topic_arn)[
        "Subscriptions"
    ]
    for name, value in attributes.items():
        channel.sns.set_subscription_attributes(
            SubscriptionArn=subscription["SubscriptionArn"],
            AttributeName=name,
            AttributeValue=value,
        )


def make_queue(sqs, **attributes: str) -> tuple[str, str]:
    url = sqs.create_queue(QueueName=uuid.uuid4().hex, Attributes=attributes)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    return url, found["QueueArn"]


def redrive(arn: str, receives: int = 10) -> dict[str, object]:
    return {"deadLetterTargetArn": arn, "maxReceiveCount": receives}


def statement(queue_arn: str, topic_arn: str, **other: object) -> dict[str, object]:
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    return allowed | other


@pytest.fixture
def case(channel) -> Case:
    return Case(queue_url=channel.queue_url, topic_arn=channel.topic_arn)


@pytest.fixture
def make_case(channel):
    """Make the case of a worker with these settings."""

    def make(**settings) -> Case:
        fetcher = HTTPFetcher("http://127.0.0.1:9/products/{id}")
        given = {"fetcher": fetcher, "sink": MemorySink()} | settings
        return Case.of(Worker(channel.queue_url, **given))

    return make


def refuse(line, *operations: str) -> None:
    """Let SQS refuse these operations."""

    def fault(asked):
        target = asked.headers.get("X-Amz-Target", "").rpartition(".")[2]
        return sqs_error(403, "AccessDeniedException") if target in operations else None

    line.fault = fault


# Credentials and the Region


def test_credentials_are_named_by_their_arn(case):
    finding = examine(case, "credentials")

    assert (finding.status, finding.seen) == ("ok", "arn:aws:sts::123456789012:user/moto")


def test_missing_credentials_are_a_problem(case, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    finding = examine(case, "credentials")

    assert finding.status == "problem"
    assert "Unable to locate credentials" in finding.seen
    assert "a task role" in finding.advice


def test_expired_credentials_are_a_problem(case, line):
    line.fault = lambda asked: Answer(
        403,
        b"<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code>"
        b"<Message>The security token included in the request is expired</Message></Error>"
        b"</ErrorResponse>",
        {"Content-Type": "text/xml"},
    )

    finding = examine(case, "credentials")

    assert finding.status == "problem"
    assert "ExpiredToken" in finding.seen


def test_an_sts_that_does_not_answer_says_nothing_about_credentials(case, free_port, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_port}")

    finding = examine(case, "credentials")

    assert finding.status == "skipped"
    assert "STS can't be asked" in finding.seen


def test_a_client_of_the_workers_own_has_credentials_of_its_own(case, sqs):
    case.client = sqs

    assert examine(case, "credentials").status == "skipped"


@pytest.mark.parametrize(
    ("host", "region", "status"),
    [
        ("sqs.eu-west-1.amazonaws.com", "eu-west-1", "ok"),
        ("sqs.eu-west-1.amazonaws.com", None, "ok"),
        ("localhost", "eu-west-1", "ok"),
        ("sqs.us-east-1.amazonaws.com", "eu-west-1", "warning"),
        ("localhost", None, "problem"),
    ],
)
def test_a_region_must_be_known_and_should_be_the_queues(host, region, status, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if region:
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)

    finding = examine(Case(queue_url=f"https://{host}/123456789012/products"), "region")

    assert finding.status == status
    assert ("us-east-1" in finding.seen) == (status == "warning")


# The queue and the permissions


def test_the_queue_is_counted(case, channel):
    channel.announce("a", "b")

    finding = examine(case, "queue")

    assert finding.status == "ok"
    assert finding.seen.startswith("2 messages wait, 0 are held")


def test_a_queue_that_does_not_exist_is_a_problem(case, channel):
    case.queue_url = channel.queue_url + "-other"

    finding = examine(case, "queue")

    assert finding.status == "problem"
    assert finding.seen == f"there is no queue {case.queue_url}"
    assert examine(case, "sqs:DeleteMessage").status == "skipped"
    assert examine(case, "delay").status == "skipped"


def test_an_sqs_that_does_not_answer_is_a_problem(free_port, case, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port}")

    finding = examine(case, "queue")

    assert finding.status == "problem"
    assert "VPC endpoint" in finding.advice


def test_a_queue_that_refuses_the_credentials_is_a_problem(line, case):
    line.fault = lambda asked: sqs_error(403, "ExpiredToken")

    finding = examine(case, "queue")

    assert finding.status == "problem"
    assert "a task role" in finding.advice


def test_without_credentials_the_queue_is_a_problem(case, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

    assert "a task role" in examine(case, "queue").advice


def test_a_signature_that_is_too_old_tells_that_the_clock_is_wrong(line, case):
    line.fault = lambda asked: sqs_error(400, "InvalidSignatureException")
    case.now = lambda: time.time() - 1000

    assert examine(case, "queue").status == "problem"
    assert examine(case, "clock").status == "warning"


PERMISSIONS = {
    "sqs:ReceiveMessage": "ReceiveMessage",
    "sqs:DeleteMessage": "DeleteMessageBatch",
    "sqs:ChangeMessageVisibility": "ChangeMessageVisibilityBatch",
}


@pytest.mark.parametrize("action", PERMISSIONS)
def test_each_permission_is_shown_by_its_call(case, action):
    assert examine(case, "queue", action) == Finding("ok", "allowed")


@pytest.mark.parametrize("action", PERMISSIONS)
def test_each_missing_permission_is_a_problem(line, case, action):
    refuse(line, PERMISSIONS[action])

    finding = examine(case, "queue", action)

    assert finding.status == "problem"
    assert finding.seen.startswith(f"{action} is not allowed")
    assert "WorkerPolicyArn" in finding.advice


def test_without_get_queue_attributes_the_other_permissions_are_still_checked(line, case):
    refuse(line, "GetQueueAttributes")

    assert examine(case, "queue").status == "problem"
    assert examine(case, "sqs:DeleteMessage").status == "ok"
    assert examine(case, "sqs:ReceiveMessage").status == "skipped"


def test_a_call_that_fails_for_another_reason_is_not_taken_for_a_permission(line, case):
    line.fault = lambda asked: (
        sqs_error(400, "ThrottlingException") if b"doctor" in asked.body else None
    )

    with pytest.raises(Exception, match="Throttling"):
        examine(case, "queue", "sqs:DeleteMessage")


def test_no_message_is_received_for_the_sake_of_a_check(case, channel):
    channel.announce("a")

    finding = examine(case, "queue", "sqs:ReceiveMessage")

    assert finding.status == "skipped"
    (message,) = channel.messages()
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_queue_with_very_few_receives_is_not_received_from(case, channel, sqs):
    _, letters = make_queue(sqs)
    set_attributes(channel, RedrivePolicy=redrive(letters, 1))

    assert examine(case, "queue", "sqs:ReceiveMessage").status == "skipped"


# The queue's settings


def test_a_missing_redrive_policy_is_a_problem(case):
    finding = examine(case, "queue", "redrive policy")

    assert finding.status == "problem"
    assert examine(case, "dead-letter queue").status == "skipped"


@pytest.mark.parametrize(("receives", "status"), [(2, "warning"), (3, "ok"), (10, "ok")])
def test_few_receives_are_warned_of(case, channel, sqs, receives, status):
    _, letters = make_queue(sqs)
    set_attributes(channel, RedrivePolicy=redrive(letters, receives))

    finding = examine(case, "queue", "redrive policy")

    assert (finding.status, finding.seen) == (status, f"maxReceiveCount is {receives}")


def test_dead_letters_that_wait_are_counted(case, channel, sqs):
    url, letters = make_queue(sqs, MessageRetentionPeriod="1209600")
    set_attributes(channel, RedrivePolicy=redrive(letters))

    assert examine(case, "queue", "dead-letter queue").status == "ok"

    sqs.send_message(QueueUrl=url, MessageBody="{}")
    finding = examine(case, "dead-letter queue")

    assert (finding.status, finding.seen) == ("warning", "letters wait: 1")
    assert "dead-letters list" in finding.advice


def test_letters_must_be_kept_for_longer_than_events(case, channel, sqs):
    _, letters = make_queue(sqs, MessageRetentionPeriod="345600")
    set_attributes(channel, RedrivePolicy=redrive(letters))

    finding = examine(case, "queue", "dead-letter queue")

    assert (finding.status, finding.seen) == (
        "warning",
        "it keeps letters for 4 days, and the queue events for 4 days",
    )


def test_in_a_fifo_queue_the_age_of_a_letter_begins_again(make_channel, sqs):
    channel = make_channel(fifo=True)
    url = sqs.create_queue(QueueName=f"{uuid.uuid4().hex}.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    letters = attribute(replace(channel, queue_url=url), "QueueArn")
    set_attributes(channel, RedrivePolicy=redrive(letters))

    finding = examine(Case(queue_url=channel.queue_url), "queue", "dead-letter queue")

    assert finding == Finding("ok", "no letters, kept for 4 days")


def test_a_dead_letter_queue_that_is_deleted_is_a_problem(case, channel, sqs):
    url, letters = make_queue(sqs)
    set_attributes(channel, RedrivePolicy=redrive(letters))
    sqs.delete_queue(QueueUrl=url)

    assert examine(case, "queue", "dead-letter queue").status == "problem"


def test_a_dead_letter_queue_that_the_doctor_must_not_read_says_nothing(line, case, channel, sqs):
    url, letters = make_queue(sqs)
    set_attributes(channel, RedrivePolicy=redrive(letters))
    line.fault = lambda asked: (
        sqs_error(403, "AccessDeniedException") if url[-32:].encode() in asked.body else None
    )

    finding = examine(case, "queue", "dead-letter queue")

    assert finding == Finding("skipped", "needs sqs:GetQueueAttributes, which is not allowed")


@pytest.mark.parametrize(("seconds", "status"), [("43200", "warning"), ("345600", "ok")])
def test_a_short_retention_is_warned_of(case, channel, seconds, status):
    set_attributes(channel, MessageRetentionPeriod=seconds)

    finding = examine(case, "queue", "retention")

    assert (finding.status, finding.seen) == (
        status,
        {"43200": "12 hours", "345600": "4 days"}[seconds],
    )


@pytest.mark.parametrize(
    ("settle", "delay", "fifo", "status"),
    [
        (5.0, "0", False, "ok"),
        (5.0, "5", False, "ok"),
        (5.0, "2", False, "warning"),
        (5.0, "0", True, "warning"),
        (1.5, "2", False, "ok"),
    ],
)
def test_a_delay_fits_the_settle_window(make_channel, settle, delay, fifo, status):
    channel = make_channel(fifo=fifo, DelaySeconds=delay)
    worker = Worker(
        channel.queue_url,
        fetcher=HTTPFetcher("http://127.0.0.1:9/{id}"),
        sink=MemorySink(),
        settle=settle,
    )

    finding = examine(Case.of(worker), "queue", "delay")

    assert finding.status == status


@pytest.mark.parametrize(
    ("key", "status"),
    [("alias/aws/sqs", "problem"), ("alias/ours", "ok"), (None, "ok")],
)
def test_the_key_with_which_sns_can_not_deliver_is_a_problem(case, channel, key, status):
    if key:
        set_attributes(channel, KmsMasterKeyId=key)

    finding = examine(case, "queue", "encryption")

    assert finding.status == status
    assert (key or "by SQS") in finding.seen


@pytest.mark.parametrize(
    ("settings", "status", "seen"),
    [
        ({}, "ok", "a GET at most 10 s, a poll 20 s < a stop 25 s"),
        ({"shutdown_timeout": 20.0}, "warning", "shutdown_timeout is 20 s"),
        (
            {"fetcher": HTTPFetcher("http://127.0.0.1:9/{id}", timeout=13.0)},
            "warning",
            "a GET can last 26 s",
        ),
        ({"visibility_timeout": 20}, "warning", "visibility_timeout is 20 s"),
    ],
)
def test_timeouts_fit_into_each_other(make_case, settings, status, seen):
    finding = examine(make_case(**settings), "timeouts")

    assert finding.status == status
    assert seen in finding.seen


# The topic


def test_the_subscription_of_the_queue_is_found(case, channel):
    assert examine(case, "queue", "subscription") == Finding("ok", f"to {channel.topic_arn}")


def test_a_queue_that_is_not_subscribed_is_a_problem(case, channel, sns):
    case.topic_arn = sns.create_topic(Name=uuid.uuid4().hex)["TopicArn"]

    finding = examine(case, "queue", "subscription")

    assert finding.status == "problem"
    assert "has no subscription of this queue" in finding.seen
    assert examine(case, "delivery").status == "skipped"


def test_a_worker_with_a_client_of_its_own_can_have_a_topic_elsewhere(line, case, sqs):
    case.client = sqs
    line.fault = lambda asked: Answer(
        403,
        b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code>"
        b"<Message>not valid</Message></Error></ErrorResponse>",
        {"Content-Type": "text/xml"},
    )

    finding = examine(case, "queue", "subscription")

    assert finding.status == "skipped"
    assert finding.seen.startswith("the worker has a client of its own")


def test_the_subscription_is_found_on_a_later_page(case, channel, sns):
    case.topic_arn = sns.create_topic(Name=uuid.uuid4().hex)["TopicArn"]
    for number in range(100):
        sns.subscribe(
            TopicArn=case.topic_arn,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:eu-west-1:123456789012:other-{number}",
        )
    sns.subscribe(TopicArn=case.topic_arn, Protocol="sqs", Endpoint=arn_of(channel))

    assert examine(case, "queue", "subscription").status == "ok"


def test_a_topic_that_does_not_exist_is_a_problem(case, channel):
    case.topic_arn = channel.topic_arn + "x"

    assert examine(case, "queue", "subscription").seen.startswith("there is no topic")


def test_a_subscription_that_nobody_confirmed_is_a_problem(line, case, channel):
    def answer(asked):
        if b"Action=ListSubscriptionsByTopic" not in asked.body:
            return None
        upstream = line.forward(asked)
        arn = upstream.body.partition(b"<SubscriptionArn>")[2].partition(b"<")[0]
        body = upstream.body.replace(arn, b"PendingConfirmation")  # as SNS says it
        return replace(upstream, body=body)

    line.fault = answer

    assert examine(case, "queue", "subscription").seen == "it waits for a confirmation"


def test_without_permission_to_read_the_topic_nothing_is_said_about_it(line, case):
    line.fault = lambda asked: (
        Answer(
            403,
            b"<ErrorResponse><Error><Type>Sender</Type><Code>AuthorizationError</Code>"
            b"<Message>not authorized</Message></Error></ErrorResponse>",
            {"Content-Type": "text/xml"},
        )
        if b"Action=" in asked.body
        else None
    )

    finding = examine(case, "queue", "subscription")

    assert finding == Finding("skipped", "needs sns:ListSubscriptionsByTopic, which is not allowed")


def test_the_topic_is_asked_for_in_its_own_region(line, case, channel):
    case.topic_arn = channel.topic_arn.replace("eu-west-1", "us-east-1")
    asked = []
    line.fault = asked.append

    examine(case, "queue", "subscription")

    assert "/us-east-1/sns/" in asked[-1].headers["Authorization"]


@pytest.mark.parametrize("policies", [0, 1, 2])
def test_the_topic_is_the_only_one_that_the_queues_policy_names(case, channel, policies):
    case.topic_arn = None
    topics = [channel.topic_arn, channel.topic_arn + "x"][:policies]
    if topics:
        statements = [statement(arn_of(channel), topic) for topic in topics]
        set_attributes(channel, Policy={"Version": "2012-10-17", "Statement": statements})

    finding = examine(case, "queue", "subscription")

    assert finding.status == ("ok" if policies == 1 else "skipped")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "ok"),
        ({"Principal": "*"}, "ok"),
        ({"Principal": {"AWS": ["*"]}, "Action": ["SQS:*"]}, "ok"),
        ({"Condition": {"ArnLike": {"AWS:SourceArn": ["arn:aws:sns:*:123456789012:*"]}}}, "ok"),
        ({"Condition": {}}, "warning"),
        ({"Effect": "Deny"}, "problem"),
        ({"Effect": "Deny", "Condition": {}}, "problem"),
        ({"Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:sns:eu-west-1:1:t"}}}, "problem"),
        (
            {"Condition": {"ArnNotLike": {"aws:SourceArn": "arn:aws:sns:*:123456789012:*"}}},
            "problem",
        ),
        ({"Condition": {"StringEquals": {"aws:SourceAccount": "1"}}}, "problem"),
        ({"Principal": {"Service": "events.amazonaws.com"}}, "problem"),
        ({"Action": "sqs:ReceiveMessage"}, "problem"),
        ({"Resource": "arn:aws:sqs:eu-west-1:123456789012:other"}, "problem"),
        (None, "problem"),
    ],
)
def test_the_queues_policy_must_let_the_topic_send(case, channel, change, status):
    if change is not None:
        one = statement(arn_of(channel), channel.topic_arn) | change
        set_attributes(channel, Policy={"Version": "2012-10-17", "Statement": one})

    assert examine(case, "queue", "queue policy").status == status


def test_a_queue_that_no_topic_may_send_to_is_a_problem_whatever_its_topic(case):
    case.topic_arn = None

    finding = examine(case, "queue", "queue policy")

    assert (finding.status, finding.seen) == ("problem", "it does not let any topic send")


def test_a_deny_that_has_a_condition_is_left_to_the_reader(case, channel):
    one = statement(arn_of(channel), channel.topic_arn)
    other = one | {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    set_attributes(channel, Policy={"Version": "2012-10-17", "Statement": [one, other]})

    finding = examine(case, "queue", "queue policy")

    assert finding == Finding("ok", "it lets the topic send, unless one of its 1 Deny applies")


@pytest.mark.parametrize(
    ("raw", "named", "status"),
    [(True, True, "problem"), (False, True, "ok"), (True, False, "ok")],
)
def test_raw_delivery_to_a_worker_that_knows_its_topic_is_a_problem(
    make_case, channel, raw, named, status
):
    subscribed(channel, RawMessageDelivery="true" if raw else "false")
    case = make_case(topic_arn=channel.topic_arn if named else None)
    case.topic_arn = channel.topic_arn

    finding = examine(case, "queue", "subscription", "delivery")

    assert (finding.status, "raw" in finding.seen) == (status, raw)


def test_a_filter_policy_is_reported(case, channel):
    assert examine(case, "queue", "subscription", "filter policy").status == "ok"
    subscribed(channel, FilterPolicy='{"team": ["a"]}')

    finding = examine(case, "subscription", "filter policy")

    assert (finding.status, finding.seen) == ("warning", '{"team": ["a"]}')


def test_what_sns_could_not_deliver_is_counted(case, channel, sqs):
    assert examine(case, "queue", "subscription", "undelivered").status == "warning"
    url, letters = make_queue(sqs)
    subscribed(channel, RedrivePolicy=json.dumps({"deadLetterTargetArn": letters}))

    assert examine(case, "subscription", "undelivered").status == "ok"

    sqs.send_message(QueueUrl=url, MessageBody="{}")

    assert examine(case, "undelivered").seen == "letters wait: 1"


def test_a_dead_letter_queue_of_another_region_is_not_read(case, channel):
    case.found = {"QueueArn": arn_of(channel)}
    arn = "arn:aws:sqs:us-east-1:123456789012:letters"
    case.subscribed = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn})}

    assert "another Region" in examine(case, "undelivered").seen


# Lambda


@pytest.fixture(scope="module")
def function(aws):
    """The name of a function that nobody invokes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cache.py", "def handler(event, context): ...")
    role = boto3.client("iam").create_role(
        RoleName=uuid.uuid4().hex, AssumeRolePolicyDocument="{}"
    )["Role"]["Arn"]
    name = uuid.uuid4().hex
    boto3.client("lambda").create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=role,
        Handler="cache.handler",
        Timeout=10,
        Code={"ZipFile": archive.getvalue()},
    )
    return name


REPORTING = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}
LIMITED = {"ScalingConfig": {"MaximumConcurrency": 10}}


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (REPORTING | LIMITED, "ok"),
        (LIMITED, "problem"),
        (REPORTING, "warning"),
        (REPORTING | LIMITED | {"Enabled": False}, "problem"),
        (REPORTING | LIMITED | {"FilterCriteria": {"Filters": [{"Pattern": "{}"}]}}, "problem"),
    ],
)
def test_a_function_must_report_batch_item_failures(case, channel, function, settings, status):
    boto3.client("lambda").create_event_source_mapping(
        FunctionName=function, EventSourceArn=arn_of(channel), **settings
    )

    finding = examine(case, "queue", "Lambda")

    assert finding.status == status
    assert function in finding.seen


def test_a_function_beside_a_worker_is_warned_of(make_case, channel, function):
    boto3.client("lambda").create_event_source_mapping(
        FunctionName=function, EventSourceArn=arn_of(channel), **REPORTING, **LIMITED
    )

    assert examine(make_case(), "queue", "Lambda").status == "warning"


def test_a_queue_without_a_function_is_fine(case):
    assert examine(case, "queue", "Lambda").status == "ok"
    assert examine(case, "Lambda timeout").status == "skipped"


@pytest.mark.parametrize(
    ("invisible", "a_get", "status"),
    [("60", 2.0, "ok"), ("59", 2.0, "warning"), ("60", 2.5, "warning"), ("60", None, "ok")],
)
def test_a_functions_timeout_fits_the_queues_and_a_gets(
    case, channel, function, invisible, a_get, status
):
    set_attributes(channel, VisibilityTimeout=invisible)
    boto3.client("lambda").create_event_source_mapping(
        FunctionName=function, EventSourceArn=arn_of(channel), **REPORTING, **LIMITED
    )
    if a_get is not None:
        case.fetcher = HTTPFetcher("http://127.0.0.1:9/{id}", timeout=a_get)

    finding = examine(case, "queue", "Lambda", "Lambda timeout")

    assert (finding.status, finding.seen.startswith("10 s")) == (status, True)


def test_without_permission_to_list_mappings_the_check_is_skipped(line, case):
    body = json.dumps({"Message": "not authorized"}).encode()
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": "AccessDeniedException"}
    line.fault = lambda asked: (
        Answer(403, body, headers) if "event-source-mappings" in asked.path else None
    )

    finding = examine(case, "queue", "Lambda")

    assert finding == Finding(
        "skipped", "needs lambda:ListEventSourceMappings, which is not allowed"
    )


# All of them


def test_every_check_says_something_although_nothing_answers(free_port, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    case = Case(
        queue_url=f"http://127.0.0.1:{free_port}/123456789012/products",
        fetcher=HTTPFetcher(f"http://127.0.0.1:{free_port}/products/{{id}}"),
        known_id="p1",
    )

    checks = list(doctor(case))

    assert [check.name for check in checks] == list(CHECKS)
    problems = [check.name for check in checks if check.status == "problem"]
    assert problems == ["queue", "source", "deleted entity"]
    assert all(check.seen for check in checks)
    assert all(check.advice for check in checks if check.status in {"warning", "problem"})


def test_a_check_that_raises_does_not_stop_the_others(line, case):
    line.fault = lambda asked: sqs_error(400, "ThrottlingException")

    checks = {check.name: check for check in doctor(case)}

    assert checks.keys() == CHECKS.keys()
    assert checks["queue"].seen.startswith("ClientError: An error occurred (ThrottlingException)")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queue_url": "products"}, "is not a queue's URL"),
        ({"topic_arn": "products"}, "is not a topic's ARN"),
        ({"known_id": ""}, "an id has 1 to 512 characters"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_checked(given, message):
    with pytest.raises(ConfigurationError, match=message):
        doctor(Case(**given))


def test_a_delayed_message_is_not_received_for_the_sake_of_a_check(case, channel):
    set_attributes(channel, DelaySeconds="60")
    channel.announce("p1")

    assert examine(case, "queue", "sqs:ReceiveMessage").status == "skipped"


def test_messages_that_workers_hold_do_not_keep_a_check_from_receiving(case, channel):
    channel.announce("p1")
    received = channel.sqs.receive_message(QueueUrl=channel.queue_url, VisibilityTimeout=60)
    assert len(received["Messages"]) == 1

    assert examine(case, "queue", "sqs:ReceiveMessage") == Finding("ok", "allowed")


def test_a_message_that_comes_meanwhile_stays_visible(case, channel):
    examine(case, "queue")
    channel.announce("p1")

    assert examine(case, "sqs:ReceiveMessage").status == "ok"
    assert len(channel.messages()) == 1


def test_a_letter_that_somebody_reads_waits_too(case, channel, sqs):
    url, letters = make_queue(sqs, MessageRetentionPeriod="1209600")
    set_attributes(channel, RedrivePolicy=redrive(letters))
    sqs.send_message(QueueUrl=url, MessageBody="{}")
    assert len(sqs.receive_message(QueueUrl=url)["Messages"]) == 1

    assert examine(case, "queue", "dead-letter queue").seen == "letters wait: 1"


def test_the_key_of_sqs_can_be_named_by_its_arn(case):
    case.found = {"KmsMasterKeyId": "arn:aws:kms:eu-west-1:123456789012:alias/aws/sqs"}

    assert examine(case, "encryption").status == "problem"


def test_one_deny_without_a_condition_is_enough(case, channel):
    allow = statement(arn_of(channel), channel.topic_arn)
    deny = allow | {"Effect": "Deny", "Condition": {}}
    deny_http = deny | {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    policy = {"Version": "2012-10-17", "Statement": [allow, deny_http, deny]}
    set_attributes(channel, Policy=policy)

    assert examine(case, "queue", "queue policy").status == "problem"


def test_the_resource_of_a_policy_can_be_a_pattern(case, channel):
    allow = statement("arn:aws:sqs:*:123456789012:*", channel.topic_arn)
    set_attributes(channel, Policy={"Version": "2012-10-17", "Statement": allow})

    assert examine(case, "queue", "queue policy").status == "ok"


@pytest.mark.parametrize(
    "bad", [{"FunctionResponseTypes": []}, {"State": "Disabling"}, {"State": "Disabled"}]
)
def test_each_function_is_looked_at_and_not_only_the_first_one(case, bad):
    good = {
        "FunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:a",
        "State": "Enabled",
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 10},
    }
    case.found = {"QueueArn": "arn:aws:sqs:eu-west-1:123456789012:products"}
    case.asked = lambda *_, **__: {"EventSourceMappings": [good, good | bad]}

    assert examine(case, "Lambda").status == "problem"


def test_the_slowest_function_counts(case):
    queue = "arn:aws:sqs:eu-west-1:123456789012:products"
    case.found = {"QueueArn": queue, "VisibilityTimeout": "60"}
    case.functions = ["slow", "quick"]
    case.asked = lambda *_, **named: {"Timeout": {"slow": 30, "quick": 10}[named["FunctionName"]]}

    assert examine(case, "Lambda timeout").status == "warning"
