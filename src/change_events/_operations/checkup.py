"""What `change-events doctor` examines, and what its checks say."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from change_events._aws import could_be_credentials, is_denied, make_client
from change_events._consumer.queue import region_of
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from change_events._consumer.settings import Settings
    from change_events.typing import Fetcher, Listing, Sink

Status = Literal["ok", "warning", "problem", "skipped"]


class Finding(NamedTuple):
    """What a check says: its status, what it has seen, and what to do about it."""

    status: Status
    seen: str
    advice: str = ""


def ok(seen: str, advice: str = "") -> Finding:
    """Return a finding that needs nothing done."""
    return Finding("ok", seen, advice)


def warning(seen: str, advice: str) -> Finding:
    """Return a finding with which a worker works, but not as it should."""
    return Finding("warning", seen, advice)


def problem(seen: str, advice: str) -> Finding:
    """Return a finding with which changes do not arrive, or are lost."""
    return Finding("problem", seen, advice)


class SkippedError(Exception):
    """A check can't be made. The text says why."""


@dataclass(eq=False, kw_only=True)
class Case:
    """
    A worker, or parts of one, to be examined; and what checks have found that later ones need.

    Args:
        queue_url: The queue.
        client: The worker's own boto3 SQS client. Default: one for the Region in `queue_url`.
        topic_arn: The topic that the queue should be subscribed to. Default: the only one that the
            queue's policy names.
        fetcher: Reads the source.
        sink: The cache.
        listing: The source's list: a `Listing`, or an iterable of ids or of pairs.
        known_id: An id that the source has. Default: one that the sink or the listing names.
        worker: All settings of the worker. Default: none are known.
        now: Returns this computer's wall clock, in seconds since the epoch.
    """

    queue_url: str | None = None
    client: Any = None
    topic_arn: str | None = None
    fetcher: Fetcher[Any] | None = None
    sink: Sink[Any] | None = None
    listing: Listing[Any] | Iterable[Any] | None = None
    known_id: str | None = None
    worker: Settings[Any] | None = None
    now: Callable[[], float] = time.time

    reached: bool = field(default=False, init=False)  # SQS has answered
    found: dict[str, str] | None = field(default=None, init=False)  # the queue's attributes
    subscribed: dict[str, str] | None = field(default=None, init=False)  # the subscription's
    functions: list[str] = field(default_factory=list, init=False)  # that receive from the queue
    names: list[str] = field(default_factory=list, init=False)  # ids that the source should know
    etag: str | None = field(default=None, init=False)
    answered: bool = field(default=False, init=False)  # the source, with an entity
    offsets: dict[str, float] = field(default_factory=dict, init=False)  # of other clocks
    _clients: dict[str, Any] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls, worker: Settings[Any], *, topic_arn: str | None = None, known_id: str | None = None
    ) -> Case:
        """Return the case of a worker."""
        return cls(
            queue_url=worker.queue_url,
            client=worker.client,
            topic_arn=topic_arn or worker.topic_arn,
            fetcher=worker.fetcher,
            sink=worker.sink,
            listing=worker.backfill,
            known_id=known_id,
            worker=worker,
        )

    @property
    def attributes(self) -> dict[str, str]:
        """The queue's attributes. Raises `SkippedError` if they could not be read."""
        if self.found is None:
            raise SkippedError("the queue's attributes could not be read")
        return self.found

    def sqs(self) -> Any:
        """Return the client that the worker would use for the queue."""
        return self.client or self._client("sqs", region_of(self.queue_url or ""))

    def asked(self, service: str, call: str, **parameters: object) -> dict[str, Any]:
        """
        Return the answer to a call that only the doctor makes, not the worker.

        Raises:
            SkippedError: It is not allowed; or AWS refuses it, and the worker has a client of its
                own, with other credentials or another address than boto3 finds.
        """
        topic = parameters.get("TopicArn") or parameters.get("SubscriptionArn")
        region = str(topic).split(":")[3] if topic else region_of(self.queue_url or "")
        client = self.sqs() if service == "sqs" else self._client(service, region)
        try:
            answer: dict[str, Any] = getattr(client, call)(**parameters)
        except Exception as error:
            if is_refused(error):
                operation = "".join(word.capitalize() for word in call.split("_"))
                raise SkippedError(f"needs {service}:{operation}, which is not allowed") from error
            if self.client is not None and service != "sqs" and could_be_credentials(error):
                raise SkippedError(
                    f"the worker has a client of its own, and without it: {printable(error)}"
                ) from error
            raise
        return answer

    def compare_clock(self, whose: str, date: str | None) -> None:
        """Note how far the `Date` of an answer that came just now is ahead of our clock."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except (ValueError, OverflowError):
            return
        self.offsets[whose] = told - self.now()

    def _client(self, service: str, region: str | None) -> Any:
        if service not in self._clients:  # all calls of a service are for one Region
            # Together less than the bound of a check, so that an error says what hangs.
            self._clients[service] = make_client(
                service, region=region, connect_timeout=2, read_timeout=4, attempts=2
            )
        return self._clients[service]


def is_refused(error: Exception) -> bool:
    """Return whether a permission is missing, as any of the services says it."""
    return is_denied(error) or code_of(error).startswith("AuthorizationError")


def code_of(error: Exception) -> str:
    """Return an error's code; an empty text if AWS has not sent one."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
