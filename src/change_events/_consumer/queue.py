"""An SQS queue: its messages in batches, and what SQS refuses of a batch."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from change_events._aws import could_be_credentials, make_client, new_session
from change_events._codec import OWN_ATTRIBUTES
from change_events._text import printable
from change_events._trace_context import TRACE_ATTRIBUTES, XRAY_ATTRIBUTE
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("change_events")

BATCH_SIZE = 10
"""The most entries in one batch call, and messages in one receive (Amazon SQS API Reference)."""

MAX_VISIBILITY = 43_200
"""Seconds: twelve hours (Amazon SQS API Reference, ChangeMessageVisibility)."""

SYSTEM_ATTRIBUTES = ("ApproximateReceiveCount", "SentTimestamp")

_QUEUE_URL = re.compile(r"https?://[^/]+/.+")
_AWS_HOST = re.compile(
    r"https://(?:sqs\.(?P<new>[^.]+)|(?P<old>[^.]+)\.queue)\.amazonaws\.com(?:\.cn)?/"
)


CLOCK_SLACK = 2.0
"""
Seconds by which SQS's clocks can make a message look older than it is: one because a `Date` has
whole seconds, one because the clocks of SQS's hosts can differ (assumption A6).
"""


@dataclass(frozen=True, slots=True)
class Message:
    """
    A delivery of a message.

    Attributes:
        sent: When SQS accepted the message, in seconds since the epoch, by SQS's clock; None if
            unknown.
        answered: When SQS answered the receive, in the same way, in whole seconds.
        xray: X-Ray's trace header; None if there is none, or nobody asked.
    """

    message_id: str
    receipt_handle: str
    body: str
    receive_count: int
    attributes: dict[str, str]
    sent: float | None = None
    answered: float | None = None
    xray: str | None = None

    @property
    def age(self) -> float:
        """
        The seconds for which the message has been in the queue, at least; 0 if that is unknown.

        They are told by SQS's clocks alone: no clock of this computer takes part.
        """
        if self.sent is None or self.answered is None:
            return 0.0
        return max(0.0, self.answered - self.sent - CLOCK_SLACK)


class Queue:
    """
    An SQS queue, as far as a worker needs it.

    Args:
        client: A boto3 SQS client. Default: `open` makes one for the Region in the URL, and another
            one in a child of a fork: two processes can't share connections.
        traced: Ask for the trace contexts of messages, too.

    Raises:
        ConfigurationError: `url` is not a queue's URL.
    """

    def __init__(self, url: str, client: Any = None, *, traced: bool = False) -> None:
        if not _QUEUE_URL.match(url):
            raise ConfigurationError(
                f"{url!r} is not a queue's URL; "
                "one looks like https://sqs.eu-west-1.amazonaws.com/123456789012/name"
            )
        self.url = url
        self._client = client
        self._names = [*OWN_ATTRIBUTES, *(TRACE_ATTRIBUTES if traced else ())]
        self._system_names = [*SYSTEM_ATTRIBUTES, *([XRAY_ATTRIBUTE] if traced else ())]
        self._own_client = client is None
        self._made_in = 0

    @property
    def client(self) -> Any:
        """The boto3 client; None before `open`, unless the user gave one."""
        return self._client

    def open(self, *, wait: int) -> float:
        """
        Check that the queue can be read. Return `DelaySeconds`: a message's least age at receipt.

        Raises:
            ConfigurationError: The queue can't be asked (it does not exist; credentials, a
                permission or a route are missing), or the client would give up a long poll before
                the end of its `wait` seconds.
        """
        try:
            if self._own_client and self._made_in != os.getpid():
                self._client, self._made_in = self._new_client(), os.getpid()
            attributes = self._attributes("DelaySeconds")
        # boto3 has no common root for what can be wrong here, from the Region to DNS.
        except Exception as error:
            raise ConfigurationError(
                f"the queue {self.url} can't be read: {printable(error).rstrip('.')}. Check the "
                "URL, the credentials and region that boto3 finds, and that they allow "
                "sqs:GetQueueAttributes, ReceiveMessage, DeleteMessage and ChangeMessageVisibility"
            ) from error
        patience = self._client.meta.config.read_timeout
        # SQS can give messages to a poll that the client has abandoned. They would stay invisible
        # until their visibility timeout ends.
        if patience is not None and patience <= wait:
            raise ConfigurationError(
                f"the client's read_timeout ({patience} s) must be longer than wait_time ({wait} s)"
            )
        return float(attributes["DelaySeconds"])

    def renew(self, error: Exception) -> None:
        """
        Make a new client, with credentials that are looked for again, if a call's error could be
        due to expired ones. A client that the user gave is kept.
        """
        if not self._own_client:
            return
        if could_be_credentials(error):
            # While, say, a credentials file is rewritten, no client can be made: keep the old one.
            with contextlib.suppress(Exception):
                self._client = self._new_client(new_session())

    def delayed(self) -> int:
        """Return about how many messages wait for the queue's delay to pass."""
        name = "ApproximateNumberOfMessagesDelayed"
        return int(self._attributes(name)[name])

    def now(self) -> float:
        """Return the time by SQS's own clock, in whole seconds since the epoch, rounded down."""
        response = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        # Every response has a date (RFC 9110, 6.6.1); AWS's SDKs correct a computer's clock by it.
        date = response["ResponseMetadata"]["HTTPHeaders"]["date"]
        return parsedate_to_datetime(date).timestamp()

    def receive(self, *, most: int, wait: int, visibility: int) -> list[Message]:
        """Long-poll for at most `most` messages. `wait` and `visibility` are in seconds."""
        response = self._client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageAttributeNames=self._names,
            MessageSystemAttributeNames=self._system_names,
        )
        answered = _date(response)
        return [
            Message(
                message["MessageId"],
                message["ReceiptHandle"],
                message["Body"],
                int(message["Attributes"]["ApproximateReceiveCount"]),
                {
                    name: value.get("StringValue", "")
                    for name, value in message.get("MessageAttributes", {}).items()
                },
                _seconds(message["Attributes"].get("SentTimestamp")),
                answered,
                message["Attributes"].get(XRAY_ATTRIBUTE),
            )
            for message in response.get("Messages", [])
        ]

    def delete(self, receipt_handles: Sequence[str]) -> tuple[int, list[str]]:
        """
        Acknowledge at most ten deliveries.

        Returns:
            How many were deleted, and the receipt handles to try again. Handles that SQS refuses
            for good (they have expired, say) are logged and in neither.
        """
        # Positions as entry ids: a message that was delivered twice can be in a batch twice, and
        # its own id only once.
        entries = [
            {"Id": str(position), "ReceiptHandle": handle}
            for position, handle in enumerate(receipt_handles)
        ]
        response = self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        failed = response.get("Failed", [])
        retriable = _log_failed(failed, "acknowledge")
        return len(entries) - len(failed), [receipt_handles[position] for position in retriable]

    def change_visibility(
        self, deliveries: Sequence[tuple[str, float]]
    ) -> tuple[list[str], list[str]]:
        """
        Make at most ten deliveries visible after their number of seconds from now, rounded up.

        Failures are logged: the message becomes visible by itself, sooner or later than asked.

        Returns:
            The receipt handles that SQS refuses for good (they have expired, say), and those to
            try again.
        """
        entries = [
            {"Id": str(position), "ReceiptHandle": handle, "VisibilityTimeout": math.ceil(seconds)}
            for position, (handle, seconds) in enumerate(deliveries)
        ]
        response = self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)
        failed = response.get("Failed", [])
        again = [deliveries[position][0] for position in _log_failed(failed, "change_visibility")]
        handles = [deliveries[int(entry["Id"])][0] for entry in failed]
        return [handle for handle in handles if handle not in again], again

    def _attributes(self, *names: str) -> dict[str, str]:
        response = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))
        attributes: dict[str, str] = response["Attributes"]
        return attributes

    def _new_client(self, session: Any = None) -> Any:
        client = make_client(
            "sqs",
            region=region_of(self.url),
            connect_timeout=5,
            # The longest poll takes 20 s. With much more, a lost packet would hold up the
            # heartbeat for a minute.
            read_timeout=30,
            # One for each thread that a worker can have: boto3 closes the others after each call.
            connections=400,
            validate=False,  # our parameters are right; a check costs a twentieth of each call
            session=session,
        )
        client.meta.events.register("before-parse.sqs.*", _require_complete)
        return client


def region_of(url: str) -> str | None:
    """Return the Region in a queue's URL; None if it is not one of AWS."""
    host = _AWS_HOST.match(url)
    return (host["new"] or host["old"]) if host else None


def batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut into pieces of ten."""
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


def _log_failed(failed: list[dict[str, Any]], action: str) -> list[int]:
    """Log a batch's failed entries; return the positions of those to try again."""
    if failed:
        codes = ", ".join(sorted({str(entry.get("Code")) for entry in failed}))
        log.warning(
            "%s failed for %d messages: %s",
            action,
            len(failed),
            printable(codes),
            extra={"action": action, "code": codes},
        )
    return [int(entry["Id"]) for entry in failed if not entry.get("SenderFault")]


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _date(response: dict[str, Any]) -> float | None:
    """Return the `Date` of a response, in seconds since the epoch; None if it tells none."""
    try:
        date = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, TypeError, ValueError):
        return None
    # Without a time zone, `timestamp` would take the one of this computer.
    return None if date.tzinfo is None else date.timestamp()


def _require_complete(response_dict: dict[str, Any], **_: Any) -> None:
    """
    Refuse an incomplete response. botocore reads one to a poll as an empty response, and the worker
    would poll again at once, without a pause.
    """
    from botocore.exceptions import IncompleteReadError

    expected = int(response_dict["headers"].get("Content-Length", 0))
    actual = len(response_dict["body"])
    if actual < expected:
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=expected)
