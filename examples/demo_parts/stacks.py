"""Deploy the topic and the queues from the templates that the package ships."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

Outputs = dict[str, str]


def deploy(session: Any, name: str, template: str, **parameters: object) -> Outputs:
    """
    Deploy one of the package's templates.

    Args:
        session: A boto3 session.
        name: The stack's name.
        template: The template's file name.
        parameters: The template's parameters.

    Returns:
        The stack's outputs.
    """
    client = session.client("cloudformation")
    client.create_stack(
        StackName=name,
        TemplateBody=(files("change_events") / "cloudformation" / template).read_text(),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": str(value)} for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    client.get_waiter("stack_create_complete").wait(StackName=name)
    stack = client.describe_stacks(StackName=name)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def deploy_queue(session: Any, name: str, *, topic_arn: str, delay: int, raw: bool) -> Outputs:
    """Deploy `queue.yaml`, with its subscription to the topic."""
    delivery = "true" if raw else "false"
    queue = deploy(
        session,
        name,
        "queue.yaml",
        TopicArn=topic_arn,
        DelaySeconds=delay,
        MaxReceiveCount=10,
        RawMessageDelivery=delivery,
    )
    _subscribe_for_moto(session, topic_arn, queue, delivery)
    return queue


def waiting(session: Any, queue_urls: list[str]) -> int:
    """Count the messages in these queues, visible or not."""
    names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    client = session.client("sqs")
    answers = [
        client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        for url in queue_urls
    ]
    return sum(int(answer[name]) for answer in answers for name in names)


def _subscribe_for_moto(session: Any, topic_arn: str, queue: Outputs, delivery: str) -> None:
    """Make the template's subscription: moto's CloudFormation ignores `AWS::SNS::Subscription`."""
    sns = session.client("sns")
    known = sns.list_subscriptions_by_topic(TopicArn=topic_arn)["Subscriptions"]
    if queue["QueueArn"] not in {subscription["Endpoint"] for subscription in known}:
        attributes = {"RawMessageDelivery": delivery}
        sns.subscribe(
            TopicArn=topic_arn, Protocol="sqs", Endpoint=queue["QueueArn"], Attributes=attributes
        )
