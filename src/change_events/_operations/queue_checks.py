"""The doctor's checks of a queue: credentials, permissions, settings, dead letters."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from change_events._aws import could_be_credentials
from change_events._consumer.queue import region_of
from change_events._event import DEFAULT_SETTLE
from change_events._operations.checkup import (
    Case,
    Finding,
    SkippedError,
    code_of,
    is_refused,
    ok,
    problem,
    warning,
)
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

DAY = 86_400

FEWEST_RECEIVES = 3
"""A worker that dies, and an outage of more than eleven hours, cost a receive each."""

LONGEST_CALL = 30
"""Seconds that a worker waits for an answer of SQS."""

HANDLE = "change-events-doctor"
"""Not a receipt handle: SQS refuses it once it has found that the call itself is allowed."""

IDENTITY = (
    "Give the process a role: a task role (ECS), Pod Identity (EKS), an instance profile (EC2). On "
    "your machine, sign in, and set AWS_PROFILE."
)

ROUTE = "Is there a way to SQS: a NAT gateway, a VPC endpoint?"

POLICY = "Attach the policy in the output WorkerPolicyArn of the queue's template to the role."


def credentials(case: Case) -> Finding:
    """Ask AWS whose credentials boto3 finds. That needs no permission."""
    if case.client is not None:
        raise SkippedError("the worker has a client of its own")
    try:
        me = case.asked("sts", "get_caller_identity")
    except Exception as error:
        if could_be_credentials(error):
            return problem(printable(error), IDENTITY)
        raise SkippedError(f"STS can't be asked: {printable(error)}") from error
    return ok(me["Arn"])


def region(case: Case) -> Finding:
    """Compare the queue's Region with the one that boto3 uses for everything else."""
    import boto3

    of_queue = region_of(case.queue_url or "")
    found = (boto3.DEFAULT_SESSION or boto3.Session()).region_name
    if of_queue is None and found is None:
        return problem("boto3 finds none, and the queue's URL names none", "Set AWS_REGION.")
    if of_queue and found and of_queue != found:
        return warning(
            f"the queue is in {of_queue}, and boto3's Region is {found}",
            "The worker itself uses the queue's. If a DynamoDB table or a topic is to be there, "
            f"too, set AWS_REGION={of_queue}.",
        )
    return ok(str(of_queue or found))


def queue(case: Case) -> Finding:
    """Read the queue's attributes, as a worker does at its start."""
    try:
        answer = case.sqs().get_queue_attributes(QueueUrl=case.queue_url, AttributeNames=["All"])
    except Exception as error:
        _compare_clock(case, getattr(error, "response", None))
        case.reached = is_refused(error)
        finding = _unread(case, error)
        if finding is None:
            raise
        return finding
    _compare_clock(case, answer)
    case.reached = True
    case.found = found = answer["Attributes"]
    waiting, held, delayed = counts(found)
    return ok(f"{waiting} messages wait, {held} are held by workers, {delayed} are delayed")


def _unread(case: Case, error: Exception) -> Finding | None:
    """Return why the queue could not be read; None: for another reason."""
    from botocore.exceptions import ConnectionError, HTTPClientError  # noqa: A004  # botocore's

    if is_refused(error):
        return problem(f"sqs:GetQueueAttributes is not allowed: {printable(error)}", POLICY)
    if is_missing(error):
        return problem(
            f"there is no queue {case.queue_url}",
            "Compare the URL with the output QueueUrl of the queue's stack, and the account with "
            "that of the credentials.",
        )
    if isinstance(error, (HTTPClientError, ConnectionError)):
        return problem(printable(error), ROUTE)
    # AWS's codes are ExpiredToken, InvalidClientTokenId, SignatureDoesNotMatch and the like.
    code = code_of(error)
    refused = re.search("Token|Signature|Client", code) if code else could_be_credentials(error)
    return problem(printable(error), IDENTITY) if refused else None


def _compare_clock(case: Case, answer: Any) -> None:
    """Compare clocks by an answer, also one that refuses a signature for its time."""
    with contextlib.suppress(KeyError, TypeError):
        case.compare_clock("SQS", answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def may_receive(case: Case) -> Finding:
    """Receive from the queue while it is empty: a message would count one more receive."""
    if sum(counts(case.attributes)[::2]):
        raise SkippedError(
            "messages wait, and to receive one counts towards its maxReceiveCount. Call again "
            "when the queue is empty, or see whether the worker is ready (/readyz)"
        )
    if receives_of(case.attributes) < FEWEST_RECEIVES:
        raise SkippedError("maxReceiveCount is so low that one receive could cost an event")
    return _permission(
        case, "sqs:ReceiveMessage", "receive_message", WaitTimeSeconds=0, VisibilityTimeout=0
    )


def may_delete(case: Case) -> Finding:
    """Delete what can't be deleted."""
    entry = {"Id": "0", "ReceiptHandle": HANDLE}
    return _permission(case, "sqs:DeleteMessage", "delete_message_batch", Entries=[entry])


def may_extend(case: Case) -> Finding:
    """Change the visibility of what has none."""
    entry = {"Id": "0", "ReceiptHandle": HANDLE, "VisibilityTimeout": 0}
    action = "sqs:ChangeMessageVisibility"
    return _permission(case, action, "change_message_visibility_batch", Entries=[entry])


def _permission(case: Case, action: str, call: str, **parameters: object) -> Finding:
    if not case.reached:
        raise SkippedError("SQS has not answered, or there is no such queue")
    try:
        getattr(case.sqs(), call)(QueueUrl=case.queue_url, **parameters)
    except Exception as error:
        if is_refused(error):
            return problem(f"{action} is not allowed: {printable(error)}", POLICY)
        raise
    return ok("allowed")


def redrive_policy(case: Case) -> Finding:
    """Look at where messages go that can't be settled, and when."""
    if not redrive_of(case.attributes):
        return problem(
            "there is none",
            "What is not an event comes back until it is too old, and then the event of a broken "
            "entity is lost, too. Set one: see `change-events template queue`.",
        )
    receives = receives_of(case.attributes)
    seen = f"maxReceiveCount is {receives}"
    if receives < FEWEST_RECEIVES:
        return warning(
            seen, "A worker that dies with an event in its hands costs a receive. Set 10."
        )
    return ok(seen)


def dead_letters(case: Case) -> Finding:
    """Count the queue's dead letters, and look at how long they are kept."""
    arn = redrive_of(case.attributes).get("deadLetterTargetArn")
    if not arn:
        raise SkippedError("there is no redrive policy")
    # In a FIFO queue, a letter's age begins again when it arrives.
    fifo = case.attributes.get("FifoQueue") == "true"
    return letters(case, arn, 0 if fifo else int(case.attributes["MessageRetentionPeriod"]))


def letters(case: Case, arn: str, longer_than: int = 0) -> Finding:
    """
    Count the letters in a dead-letter queue, and look at how long they are kept.

    It is in the Region and account of the queue, so its URL is known.

    Args:
        case: The case.
        arn: The dead-letter queue's.
        longer_than: The seconds for which it must keep a letter, at least.
    """
    here, _, name = arn.rpartition(":")
    if here != case.attributes["QueueArn"].rpartition(":")[0]:
        raise SkippedError(f"{arn} is in another Region or account")
    url = f"{(case.queue_url or '').rpartition('/')[0]}/{name}"
    try:
        answer = case.asked("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
    except Exception as error:
        if is_missing(error):
            return problem(f"there is no queue {name}", "Letters are lost. Create it again.")
        raise
    kept, waiting = (
        int(answer["Attributes"]["MessageRetentionPeriod"]),
        sum(counts(answer["Attributes"])),
    )
    faults = {}
    if waiting:
        faults[f"letters wait: {waiting}"] = (
            "Read why with `change-events dead-letters list`, then redrive them."
        )
    if kept <= longer_than:
        faults[
            f"it keeps letters for {days(kept)}, and the queue events for {days(longer_than)}"
        ] = (
            "A letter's age counts from when it was sent to the queue, so it can be deleted as "
            "soon as it arrives. Set MessageRetentionPeriod to 14 days."
        )
    if faults:
        return warning("; ".join(faults), " ".join(faults.values()))
    return ok(f"no letters, kept for {days(kept)}")


def retention(case: Case) -> Finding:
    """Look at how long an event can wait."""
    seconds = int(case.attributes["MessageRetentionPeriod"])
    if seconds < DAY:
        return warning(
            days(seconds),
            "SQS deletes an event that is older, held or not: an outage that is longer loses it. "
            "Set MessageRetentionPeriod to 4 days or more.",
        )
    return ok(days(seconds))


def timeouts(case: Case) -> Finding:
    """Compare the worker's timeouts with each other and with the fetcher's."""
    worker = case.worker
    if worker is None:
        raise SkippedError("no worker was given")
    a_get = 2 * float(getattr(worker.fetcher, "timeout", 0.0))
    longest = max(worker.wait_time, a_get)
    if worker.shutdown_timeout <= longest:
        return warning(
            f"shutdown_timeout is {worker.shutdown_timeout:g} s, and a poll or a GET can last "
            f"{longest:g} s",
            "A stop then gives up what is under way. Raise shutdown_timeout.",
        )
    if worker.visibility_timeout < LONGEST_CALL:
        return warning(
            f"visibility_timeout is {worker.visibility_timeout} s",
            "One slow answer of SQS, or a pause of the process, costs receives. Set 60.",
        )
    return ok(
        f"a GET at most {a_get:g} s, a poll {worker.wait_time} s < a stop "
        f"{worker.shutdown_timeout:g} s; messages invisible for {worker.visibility_timeout} s"
    )


def delay(case: Case) -> Finding:
    """Compare the queue's delay with the settle window."""
    settle = DEFAULT_SETTLE if case.worker is None else case.worker.settle
    seconds = int(case.attributes["DelaySeconds"])
    seen = f"{seconds} s, and the settle window is {settle:g} s"
    if seconds >= settle:
        return ok(f"{seen}: one look for each event")
    if case.attributes.get("FifoQueue") == "true":
        return warning(
            seen,
            "A FIFO queue delivers no more events of an id while one is held. Set DelaySeconds "
            f"to {settle:g} or more.",
        )
    if seconds:
        return warning(
            seen,
            "The cache is that late, and each event still needs two looks. Set DelaySeconds to 0, "
            f"or to {settle:g} or more.",
        )
    return ok(f"{seen}: a look at once, and one when the window is over")


def encryption(case: Case) -> Finding:
    """Look for the key with which SNS can't deliver."""
    key = case.attributes.get("KmsMasterKeyId", "")
    if key.endswith("alias/aws/sqs"):
        return problem(
            f"by {key}: SNS can't deliver",
            "That key's policy does not admit SNS, and can't be changed. Set "
            "SqsManagedSseEnabled, or use a key of your own.",
        )
    if key:
        return ok(
            f"by {key}",
            "Its policy must let sns.amazonaws.com call kms:GenerateDataKey* and kms:Decrypt, and "
            "the worker kms:Decrypt.",
        )
    return ok("by SQS" if case.attributes.get("SqsManagedSseEnabled") == "true" else "none")


def counts(attributes: Mapping[str, str]) -> tuple[int, int, int]:
    """Return about how many messages wait, are held and are delayed."""
    waiting, held, delayed = (
        int(attributes.get(f"ApproximateNumberOfMessages{kind}", 0))
        for kind in ("", "NotVisible", "Delayed")
    )
    return waiting, held, delayed


def redrive_of(attributes: Mapping[str, str]) -> dict[str, Any]:
    """Return the redrive policy in the attributes of a queue or a subscription, or an empty one."""
    policy: dict[str, Any] = json.loads(attributes.get("RedrivePolicy") or "{}")
    return policy


def receives_of(attributes: Mapping[str, str]) -> int:
    """Return a queue's `maxReceiveCount`; without one, the most there is."""
    return int(redrive_of(attributes).get("maxReceiveCount", 1000))


def is_missing(error: Exception) -> bool:
    """Return whether a queue does not exist, in the codes of both of SQS's protocols."""
    return "NonExistentQueue" in code_of(error) or "QueueDoesNotExist" in code_of(error)


def days(seconds: int) -> str:
    """Return a time as people say it."""
    return f"{seconds / DAY:g} days" if seconds >= DAY else f"{seconds / 3600:.3g} hours"
