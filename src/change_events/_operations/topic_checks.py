"""The doctor's checks of what comes to a queue, and of the functions that receive from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from change_events._operations.checkup import (
    Case,
    Finding,
    SkippedError,
    Status,
    code_of,
    ok,
    problem,
    warning,
)
from change_events._operations.queue_checks import letters, redrive_of
from change_events._text import printable

REPORTS = "ReportBatchItemFailures"

SNS = "sns.amazonaws.com"


def subscription(case: Case) -> Finding:
    """Find the queue among the topic's subscriptions."""
    topic, arn = topic_of(case), case.attributes["QueueArn"]
    token: dict[str, str] = {}
    while True:
        try:
            page = case.asked("sns", "list_subscriptions_by_topic", TopicArn=topic, **token)
        except Exception as error:
            if code_of(error).startswith("NotFound"):
                return problem(f"there is no topic {topic}", "Compare the ARN with its stack.")
            raise
        for each in page["Subscriptions"]:
            if each["Endpoint"] == arn:
                return _subscribed(case, topic, each["SubscriptionArn"])
        if not page.get("NextToken"):
            return problem(
                f"{topic} has no subscription of this queue",
                "Nothing that is published there arrives here. Subscribe the queue: see "
                "`change-events template queue`.",
            )
        token = {"NextToken": page["NextToken"]}


def _subscribed(case: Case, topic: str, arn: str) -> Finding:
    if not arn.startswith("arn:"):
        return problem("it waits for a confirmation", "Confirm it, or subscribe the queue again.")
    answer = case.asked("sns", "get_subscription_attributes", SubscriptionArn=arn)
    case.subscribed = answer["Attributes"]
    return ok(f"to {topic}")


def topic_of(case: Case) -> str:
    """
    Return the topic that the queue should be subscribed to.

    Raises:
        SkippedError: Nobody said, and the queue's policy does not name exactly one.
    """
    if case.topic_arn:
        return case.topic_arn
    named = {
        source
        for statement in statements_of(case.attributes)
        for source in sources_of(statement)
        if ":sns:" in source and "*" not in source
    }
    if len(named) != 1:
        raise SkippedError("say which topic: --topic-arn")
    return named.pop()


def queue_policy(case: Case) -> Finding:
    """Look for a statement in the queue's policy by which the topic can send."""
    queue = case.attributes["QueueArn"]
    sending = [each for each in statements_of(case.attributes) if _is_about(each, queue)]
    denying = [each for each in sending if each.get("Effect") == "Deny"]
    allowing = [each for each in sending if each.get("Effect") == "Allow"]
    if any(not each.get("Condition") for each in denying):
        return problem("it denies it", "Remove the Deny of sqs:SendMessage that has no condition.")
    topic = topic_of(case) if allowing else "any topic"
    if any(fnmatchcase(topic, source) for each in allowing for source in sources_of(each)):
        unless = f", unless one of its {len(denying)} Deny applies" if denying else ""
        return ok(f"it lets the topic send{unless}")
    if any(not each.get("Condition") for each in allowing):
        return warning(
            "it lets everybody's topics send",
            f"Add the condition ArnEquals aws:SourceArn: {topic}.",
        )
    return problem(
        f"it does not let {topic} send",
        f"SNS can't deliver. Allow sqs:SendMessage to {SNS} if aws:SourceArn is the topic: see "
        "`change-events template queue`.",
    )


def raw_delivery(case: Case) -> Finding:
    """Compare the form of the messages with what the worker accepts."""
    raw = _subscription_of(case).get("RawMessageDelivery") == "true"
    worker = case.worker
    if raw and worker is not None and worker.topic_arn is not None:
        return problem(
            "raw, and the worker has topic_arn=",
            "A raw message does not say where it comes from, so every message counts as "
            "malformed. Set RawMessageDelivery to false, or leave out topic_arn= and "
            "verify_signatures=.",
        )
    return ok("raw" if raw else "in envelopes")


def filter_policy(case: Case) -> Finding:
    """Report the filter of the subscription."""
    policy = _subscription_of(case).get("FilterPolicy")
    if policy in {None, "", "{}"}:
        return ok("none")
    return warning(
        printable(policy),
        "Events that do not match never arrive, and nothing shows it. An event has only the "
        "attributes that its publisher gives it, beside phase, save and settle.",
    )


def undelivered(case: Case) -> Finding:
    """Count what SNS could not deliver."""
    arn = redrive_of(_subscription_of(case)).get("deadLetterTargetArn")
    if not arn:
        return warning(
            "the subscription has no dead-letter queue",
            "What SNS can't deliver is lost. Set its RedrivePolicy: see `change-events template "
            "queue`.",
        )
    return letters(case, arn)


def _subscription_of(case: Case) -> dict[str, str]:
    if case.subscribed is None:
        raise SkippedError("the subscription could not be read")
    return case.subscribed


def function_timeout(case: Case) -> Finding:
    """Compare a function's timeout with the queue's and with a GET's."""
    if not case.functions:
        raise SkippedError("no function is known to receive from the queue")
    settings = [
        case.asked("lambda", "get_function_configuration", FunctionName=each)
        for each in case.functions
    ]
    seconds = max(each["Timeout"] for each in settings)
    invisible = int(case.attributes["VisibilityTimeout"])
    if invisible < 6 * seconds:
        return warning(
            f"{seconds} s, and the queue's visibility timeout is {invisible} s",
            "Make that six times as long, or events come back while Lambda still tries to invoke "
            "a busy function.",
        )
    a_get = float(getattr(case.fetcher, "timeout", 0.0))
    if a_get >= seconds / 4:
        return warning(
            f"{seconds} s, and a GET's is {a_get:g} s",
            "Make HTTPFetcher's timeout less than a quarter of the function's.",
        )
    return ok(f"{seconds} s, and the queue's visibility timeout is {invisible} s")


FAULTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Status, str, str], ...] = (
    (
        lambda mapping: REPORTS not in mapping.get("FunctionResponseTypes", ()),
        "problem",
        f"without {REPORTS}",
        f"Lambda deletes all messages: changes are lost. Set FunctionResponseTypes: [{REPORTS}].",
    ),
    (
        lambda mapping: bool(mapping.get("FilterCriteria")),
        "problem",
        "with FilterCriteria",
        "Lambda deletes the messages that do not match. Remove the filter.",
    ),
    (
        lambda mapping: mapping["State"].startswith("Disabl"),
        "problem",
        "disabled",
        "Nothing is received. Enable the event source mapping.",
    ),
    (
        lambda mapping: not mapping.get("ScalingConfig", {}).get("MaximumConcurrency"),
        "warning",
        "without MaximumConcurrency",
        "Lambda can send the source a thousand GETs at once. Set ScalingConfig.",
    ),
)
"""What can be wrong with an event source mapping, the worst first."""


def mappings(case: Case) -> Finding:
    """Look at the Lambda functions that receive from the queue."""
    answer = case.asked(
        "lambda", "list_event_source_mappings", EventSourceArn=case.attributes["QueueArn"]
    )
    found = answer["EventSourceMappings"]
    case.functions = [each["FunctionArn"] for each in found]
    names = ", ".join(each["FunctionArn"].partition(":function:")[2] for each in found)
    if not found:
        return ok("no function receives from the queue")
    for has, status, what, advice in FAULTS:
        if any(map(has, found)):
            return Finding(status, f"{names}: {what}", advice)
    if case.worker is not None:
        return warning(
            f"{names}: receives from the worker's queue, too",
            "Each event goes to one of the two, so they must share one cache.",
        )
    return ok(f"{names}, with {REPORTS}")


def statements_of(attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the statements of a queue's policy."""
    return _listed(json.loads(attributes.get("Policy") or "{}").get("Statement"))


def sources_of(statement: Mapping[str, Any]) -> list[str]:
    """Return the ARNs, or patterns of them, that may send by a statement's condition."""
    return [
        source
        for operator, keys in (statement.get("Condition") or {}).items()
        if "Not" not in operator
        for key, values in keys.items()
        if key.lower() == "aws:sourcearn"
        for source in _listed(values)
    ]


def _is_about(statement: Mapping[str, Any], queue: str) -> bool:
    """Return whether the statement is about SNS, sending, and this queue."""
    principal = statement.get("Principal")
    if isinstance(principal, Mapping):
        principals = [each for group in principal.values() for each in _listed(group)]
    else:
        principals = _listed(principal)
    actions = [action.lower() for action in _listed(statement.get("Action"))]
    return (
        any(each in {"*", SNS} for each in principals)
        and any(fnmatchcase("sqs:sendmessage", action) for action in actions)
        and any(fnmatchcase(queue, resource) for resource in _listed(statement.get("Resource")))
    )


def _listed(value: Any) -> list[Any]:
    """Return a policy's value as a list: one alone can be written without brackets."""
    return [] if value is None else value if isinstance(value, list) else [value]
