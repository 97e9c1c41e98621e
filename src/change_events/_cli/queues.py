"""Finds a worker's dead-letter queues."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from change_events._aws import make_client
from change_events._cli.problems import Mistake
from change_events._codec import parsed_arn
from change_events._consumer.queue import Queue
from change_events._operations.letters import WAIT
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from change_events._worker import Worker


def dead_letter_queue(worker: Worker[Any], named: str | None) -> str:
    """
    Return the URL of the worker's dead-letter queue.

    Args:
        worker: The worker.
        named: The URL that the user names. None: that of the worker's queue.

    Raises:
        Mistake: There is none, or the one that is named is another one's.
        ConfigurationError: A queue can't be read.
    """
    attributes = _attributes(worker.queue_url, worker.client)
    target = _target(attributes)
    if named is None:
        if target is None:
            raise Mistake(
                f"{worker.queue_url} has no redrive policy, so it has no dead-letter queue; if its "
                "subscription has one, name it: --queue URL"
            )
        # It is in the Region and account of the queue.
        return f"{worker.queue_url.rpartition('/')[0]}/{target.rpartition(':')[2]}"
    arn = _attributes(named, worker.client)["QueueArn"]
    own = attributes["QueueArn"]
    if arn == own:
        raise Mistake(f"{named} is the worker's own queue, not a dead-letter queue")
    if arn != target and arn not in _targets_of_subscriptions(worker, own):
        raise Mistake(
            f"{named} is neither the dead-letter queue of {worker.queue_url}"
            f"{f' ({target})' if target else ''} nor of its subscription. The letters of another "
            "queue are for another cache"
        )
    return named


def _attributes(url: str, client: Any) -> Mapping[str, str]:
    """Return what the queue says of itself and its dead-letter queue."""
    queue = Queue(url, client)
    queue.open(wait=WAIT)
    answer = queue.client.get_queue_attributes(
        QueueUrl=url, AttributeNames=["QueueArn", "RedrivePolicy"]
    )
    found: Mapping[str, str] = answer["Attributes"]
    return found


def _target(attributes: Mapping[str, str]) -> str | None:
    """Return the ARN of the dead-letter queue in a redrive policy."""
    target = json.loads(attributes.get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
    return None if target is None else str(target)


def _targets_of_subscriptions(worker: Worker[Any], queue_arn: str) -> set[str | None]:
    """
    Return the ARNs of the dead-letter queues of the queue's subscriptions.

    Raises:
        Mistake: SNS does not say.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return set(_ask_sns(worker.topic_arn, queue_arn))
    except (BotoCoreError, ClientError) as error:
        raise Mistake(
            f"whose dead-letter queue it is can't be checked: {printable(error)}. It needs "
            "sns:GetSubscriptionAttributes, and "
            f"sns:ListSubscriptions{'ByTopic' if worker.topic_arn else ''}"
        ) from error


def _ask_sns(topic_arn: str | None, queue_arn: str) -> Iterator[str | None]:
    region = parsed_arn(topic_arn)["region"] if topic_arn else queue_arn.split(":")[3]
    sns = make_client("sns", region=region, connect_timeout=5, read_timeout=10)
    pages = (
        sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn)
        if topic_arn
        else sns.get_paginator("list_subscriptions").paginate()
    )
    for page in pages:
        for each in page["Subscriptions"]:
            if each["Endpoint"] == queue_arn and each["SubscriptionArn"].startswith("arn:"):
                answer = sns.get_subscription_attributes(SubscriptionArn=each["SubscriptionArn"])
                yield _target(answer["Attributes"])
