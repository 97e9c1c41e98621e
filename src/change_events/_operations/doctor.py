"""Examine a worker and everything around it: what `change-events doctor` prints."""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from change_events._codec import parsed_arn
from change_events._consumer.by_hand import required_id
from change_events._consumer.queue import Queue
from change_events._operations import queue_checks, source_checks, topic_checks
from change_events._operations.checkup import Case, Finding, SkippedError, Status, problem
from change_events._operations.pool import Pool
from change_events._text import printable, with_type
from change_events.exceptions import ChangeEventsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOUND = 15.0
"""The most seconds for a check: some wait twice for a service that does not answer."""

OF_A_QUEUE: dict[str, Callable[[Case], Finding]] = {
    "credentials": queue_checks.credentials,
    "region": queue_checks.region,
    "queue": queue_checks.queue,
    "sqs:ReceiveMessage": queue_checks.may_receive,
    "sqs:DeleteMessage": queue_checks.may_delete,
    "sqs:ChangeMessageVisibility": queue_checks.may_extend,
    "redrive policy": queue_checks.redrive_policy,
    "dead-letter queue": queue_checks.dead_letters,
    "retention": queue_checks.retention,
    "delay": queue_checks.delay,
    "encryption": queue_checks.encryption,
    "subscription": topic_checks.subscription,
    "queue policy": topic_checks.queue_policy,
    "delivery": topic_checks.raw_delivery,
    "filter policy": topic_checks.filter_policy,
    "undelivered": topic_checks.undelivered,
    "Lambda": topic_checks.mappings,
    "Lambda timeout": topic_checks.function_timeout,
}

OF_A_CACHE: dict[str, Callable[[Case], Finding]] = {
    "timeouts": queue_checks.timeouts,
    "sink": source_checks.cache,
    "sink's server": source_checks.server,
    "state": source_checks.state,
    "listing": source_checks.listing,
    "source": source_checks.known_id,
    "deleted entity": source_checks.unknown_id,
    "ETag": source_checks.etag,
    "clock": source_checks.clock,
}


@dataclass(frozen=True, slots=True)
class Check:
    """
    What a check found.

    Attributes:
        name: What was checked.
        status: `ok`; `warning`: the worker works, but not as it should; `problem`: changes do not
            arrive, or are lost; `skipped`: not known.
        seen: What was seen; or why the check was skipped.
        advice: What to do; empty if nothing.
    """

    name: str
    status: Status
    seen: str
    advice: str = ""


def doctor(case: Case, *, bound: float = BOUND) -> Iterator[Check]:
    """
    Check a worker's queue, topic, cache and source, one after another.

    A check that raises or hangs does not stop the others. Nothing is changed but a state named
    `doctor` in the sink; a message is received only if one arrives in the moment after the queue
    was empty.

    Args:
        case: What to examine. Parts that it does not have are skipped.
        bound: The most seconds for a check.

    Yields:
        One `Check` each, as soon as it is done.

    Raises:
        ConfigurationError: The queue's URL, the topic's ARN or the known id is not one.
    """
    if case.queue_url is not None:
        Queue(case.queue_url)
    if case.topic_arn is not None:
        parsed_arn(case.topic_arn)
    if case.known_id is not None:
        required_id(case.known_id)
    return _checks(case, bound)


def _checks(case: Case, bound: float) -> Iterator[Check]:
    checks = OF_A_CACHE if case.queue_url is None else OF_A_QUEUE | OF_A_CACHE
    if case.queue_url is None:
        yield Check("queue", "skipped", "no queue was given")
    pool = Pool(len(checks), "doctor")
    try:
        for name, check in checks.items():
            yield Check(name, *_finding(pool.submit(check, case), bound))
    finally:
        pool.close()


def _finding(future: Future[Finding], bound: float) -> Finding:
    wait([future], bound)
    if not future.done():
        return problem(f"no answer within {bound:g} s", "What it asks hangs. Is there a way to it?")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, SkippedError):
        return Finding("skipped", str(error))
    show = printable if isinstance(error, ChangeEventsError) else with_type
    return problem(show(error), "The error says what went wrong.")
