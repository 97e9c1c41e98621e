"""The queue, in batches; and every batch's `Failed` list is read."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("change_events")

BATCH_SIZE = 10
"""
Entries in one batch call, and messages in one receive, at the most (Amazon SQS API Reference).
"""

MAX_VISIBILITY = 43_200
"""Seconds: twelve hours (Amazon SQS API Reference, ChangeMessageVisibility)."""

_QUEUE_URL = re.compile(r"https?://[^/]+/.+")
_AWS_HOST = re.compile(
    r"https://(?:sqs\.(?P<new>[^.]+)|(?P<old>[^.]+)\.queue)\.amazonaws\.com(?:\.cn)?/"
)


@dataclass(frozen=True, slots=True)
class Message:
    """
    A delivery of a message.

    Attributes:
        sent: When SQS accepted the message, in seconds since the epoch, by SQS's clock; None if it
            did not say.
    """

    message_id: str
    receipt_handle: str
    body: str
    receive_count: int
    attributes: dict[str, str]
    sent: float | None = None


class Queue:
    """
    An SQS queue, as far as a worker needs it.

    Args:
        url: The queue's URL.
        client: A boto3 SQS client, or None to make one for the region in the URL.

    Raises:
        ConfigurationError: `url` is no queue's URL.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        if not _QUEUE_URL.match(url):
            raise ConfigurationError(
                f"{url!r} is no queue's URL; one looks like https://sqs.eu-west-1.amazonaws.com/123456789012/name"
            )
        self.url = url
        self._client = client
        self._own = client is None

    def open(self, *, wait: int) -> float:
        """
        Ask the queue for its delay, which shows that it exists and may be read.

        Args:
            wait: Seconds that a long poll will take.

        Returns:
            `DelaySeconds`: how old every message is, at the least, when it is received.

        Raises:
            ConfigurationError: It can't be asked: no such queue, no credentials, no permission, no
                route to it; or the client would give up a long poll before its end.
        """
        try:
            self._client = self._client or _make_client(self.url)
            attributes = self._attributes("DelaySeconds")
        except (
            Exception
        ) as error:  # boto3 has no common root for what can be wrong here, from region to DNS
            raise ConfigurationError(
                f"the queue {self.url} can't be read: {error}. Check the URL, the credentials and region that boto3 finds, "
                "and that they allow sqs:GetQueueAttributes, ReceiveMessage, DeleteMessage and ChangeMessageVisibility"
            ) from error
        patience = self._client.meta.config.read_timeout
        # The messages that an abandoned poll was given would be nobody's until their visibility
        # timeout is over.
        if patience is not None and patience <= wait:
            raise ConfigurationError(
                f"the client's read_timeout ({patience} s) must be longer than wait_time ({wait} s)"
            )
        return float(attributes["DelaySeconds"])

    def renew(self, error: Exception) -> None:
        """
        Make a new client, if this one is our own and its credentials may be why a call has failed.
        """
        if self._own and _may_be_credentials(error):
            with contextlib.suppress(
                Exception
            ):  # a file that is being rewritten, say: there is the old one until then
                self._client = _make_client(self.url, anew=True)

    def delayed(self) -> int:
        """Return about how many messages wait for the queue's delay to pass."""
        return int(
            self._attributes("ApproximateNumberOfMessagesDelayed")[
                "ApproximateNumberOfMessagesDelayed"
            ]
        )

    def now(self) -> float:
        """
        Return what time it is by SQS's own clock, in seconds since the epoch, rounded down to a
        whole one.
        """
        response = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        # Every answer over HTTP is dated (RFC 9110, 6.6.1); AWS's SDKs correct a computer's clock
        # by it.
        return parsedate_to_datetime(
            response["ResponseMetadata"]["HTTPHeaders"]["date"]
        ).timestamp()

    def _attributes(self, *names: str) -> dict[str, str]:
        attributes: dict[str, str] = self._client.get_queue_attributes(
            QueueUrl=self.url, AttributeNames=list(names)
        )["Attributes"]
        return attributes

    def receive(self, *, most: int, wait: int, visibility: int) -> list[Message]:
        """Long-poll for messages. Times are in seconds."""
        response = self._client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["phase", "save", "settle"],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
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
            )
            for message in response.get("Messages", [])
        ]

    def delete(self, receipt_handles: Sequence[str]) -> tuple[int, list[str]]:
        """
        Acknowledge up to ten deliveries.

        Returns:
            How many were deleted, and the receipt handles that may be tried again. Those that SQS
            refuses for good, as they have expired say, are logged and in neither.
        """
        # Positions as entry ids: one message delivered twice may stand twice in a batch, and its id
        # then only once.
        entries = [
            {"Id": str(position), "ReceiptHandle": handle}
            for position, handle in enumerate(receipt_handles)
        ]
        failed = self._client.delete_message_batch(QueueUrl=self.url, Entries=entries).get(
            "Failed", []
        )
        retriable = _retriable(failed, "acknowledge")
        return len(entries) - len(failed), [
            receipt_handles[int(entry["Id"])] for entry in retriable
        ]

    def change_visibility(
        self, deliveries: Sequence[tuple[str, float]]
    ) -> tuple[list[str], list[str]]:
        """
        Make up to ten deliveries invisible for so many seconds from now, rounded up.

        What fails is logged: the message becomes visible by itself, sooner or later than asked.

        Returns:
            The receipt handles that SQS refuses for good, as they have expired say; and those that
            may be tried again.
        """
        entries = [
            {"Id": str(position), "ReceiptHandle": handle, "VisibilityTimeout": math.ceil(seconds)}
            for position, (handle, seconds) in enumerate(deliveries)
        ]
        failed = self._client.change_message_visibility_batch(
            QueueUrl=self.url, Entries=entries
        ).get("Failed", [])
        retriable = [
            deliveries[int(entry["Id"])][0] for entry in _retriable(failed, "change_visibility")
        ]
        handles = [deliveries[int(entry["Id"])][0] for entry in failed]
        return [handle for handle in handles if handle not in retriable], retriable


def batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut into pieces of ten."""
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


def _retriable(failed: list[dict[str, Any]], action: str) -> list[dict[str, Any]]:
    if failed:
        codes = ", ".join(sorted({str(entry.get("Code")) for entry in failed}))
        log.warning(
            "%s failed for %d messages: %s",
            action,
            len(failed),
            codes,
            extra={"action": action, "code": codes},
        )
    return [entry for entry in failed if not entry.get("SenderFault")]


def _may_be_credentials(error: Exception) -> bool:
    """
    Credentials that have expired have many names; so anything that is SQS's refusal, or went wrong
    before it was asked.
    """
    from botocore import exceptions as botocore

    if isinstance(error, botocore.ClientError):
        return bool(
            400 <= error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400) < 500
        )
    no_answer = isinstance(error, (botocore.HTTPClientError, botocore.ConnectionError))
    return isinstance(error, botocore.BotoCoreError) and not no_answer


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _make_client(url: str, *, anew: bool = False) -> Any:
    """
    Make a client, `anew` with credentials that are looked for again, in the environment, files or
    wherever they are.
    """
    import boto3
    from botocore.config import Config

    host = _AWS_HOST.match(url)
    region = (host["new"] or host["old"]) if host else None
    # As many connections as a worker can have threads, or some would be thrown away after each
    # call. Patience enough for the longest poll, 20 s, and no more: a lost packet must not hold up
    # the heartbeat for a minute. And no validation: what is sent is ours, and checking it takes a
    # twentieth of each call.
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard"},
        max_pool_connections=400,
        parameter_validation=False,
    )
    session = _new_session() if anew else boto3
    client = session.client("sqs", region_name=region, config=config)
    client.meta.events.register("before-parse.sqs.*", _require_whole)
    return client


def _require_whole(response_dict: dict[str, Any], **_: Any) -> None:
    """
    Refuse an answer that broke off: botocore takes the half of one for an empty one, and a poll
    would spin.
    """
    from botocore.exceptions import IncompleteReadError

    expected, actual = (
        int(response_dict["headers"].get("Content-Length", 0)),
        len(response_dict["body"]),
    )
    if actual < expected:
        raise IncompleteReadError(actual_bytes=actual, expected_bytes=expected)


def _new_session() -> Any:
    """
    Return a session that has found nothing yet, but else is like the default one, which remembers
    what it has found.
    """
    import boto3
    from boto3.session import Session

    old = boto3.DEFAULT_SESSION
    if old is None:
        return Session()
    credentials = old.get_credentials()
    if (
        credentials is not None and credentials.method == "explicit"
    ):  # the user's own, not to be exchanged for others
        return old
    return Session(profile_name=None if old.profile_name == "default" else old.profile_name)
