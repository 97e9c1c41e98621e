"""
Keep a cache from AWS Lambda: a handler for an SQS event source.

The event source mapping must have `FunctionResponseTypes: [ReportBatchItemFailures]`. Without it
Lambda ignores what the handler answers and deletes every message of the batch, also those that must
come back: **changes are lost for good**. The handler can't see whether it is there.

Each record gets the look that a worker takes. What the handler answers is which messages Lambda
must *not* delete (`batchItemFailures`): all but those whose event a look has settled. So nothing
that goes wrong, in here either, deletes a message, and no record fails its neighbours.

**When an event is settled.** As ever: by a look whose GET started when the event was at least W
old, W being the larger of the handler's settle window and the event's own (none for *saved*). A
worker measures that from the receipt, by its own monotonic clock. A handler has no receipt to
measure from: another process may see the event again, Lambda's poller may have received it without
invoking anybody (it does when the function is throttled), so that a count of receives proves
nothing, and a process that was frozen can't trust its clocks. So it takes the age of the message
from SQS, by SQS's clocks alone:

- the time of the broadcast is no later than `SentTimestamp`, when SQS accepted the message;
- the time of the GET is no earlier than `ApproximateFirstReceiveTimestamp`; so what the message has
  waited in the queue counts, the queue's delay as it was for this very message, and any backlog;
- if that does not make it old enough, SQS is asked for the time before the first GET (the `Date` of
  its answer to `GetQueueAttributes`, a call that every such function may make), less a second for
  the difference between its machines;
- from there on the monotonic clock counts, for as long as the invocation lasts.

What this takes for granted is that SQS's machines agree on the time: to a second where a `Date` is
used, and to the moment that a broadcast takes to reach the queue where a message's own two stamps
are. Anything else that may go wrong makes an event look younger than it is, and is paid for with a
look more.

**A younger event** is looked at, too, for the cache to be fresh (not if it is *saving*; that says
that nothing is there to see yet). Its message is reported as failed, and made invisible for what
remains of the window, and two seconds for the clocks, so that it comes back once. If that call
fails, it comes back when the queue's visibility timeout is over: later. On a queue with a delay of
at least W no event is younger, and no call is needed.

**Records of one id** in a batch share a look: all of them were received before the invocation, and
so before its GET.

**FIFO queues.** Once a record goes back, so does what follows it in its message group, without a
look and not before it: it must be delivered after it, and so will be looked at then.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from change_events._codec import decode
from change_events._consumer.backoff import MAX_PAUSE, pause_after, retry_pause
from change_events._consumer.intake import window_of
from change_events._consumer.log import MalformedLog, log_failed_look
from change_events._consumer.look import look
from change_events._consumer.queue import Queue, batches
from change_events._event import DEFAULT_SETTLE, MAX_SETTLE
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._event import ChangeEvent
    from change_events.typing import Fetcher, Sink

__all__ = ["make_handler"]

T = TypeVar("T")

Record: TypeAlias = Mapping[str, Any]

log = logging.getLogger("change_events")

CLOCK_MARGIN = 1.0
"""Seconds by which the clocks of SQS's own machines may differ."""

SPARE = CLOCK_MARGIN + 1.0
"""
Seconds that an event comes back later than its window is over: the margin, and what a `Date` of
whole seconds leaves out.
"""

LOOK_SHARE, RETURN_SHARE = 0.5, 0.75
"""
The shares of the invocation's time after which no look is begun, and after which no visibility is
changed.
"""


def make_handler(
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    settle: float = DEFAULT_SETTLE,
    early_look: bool = True,
    client: Any = None,
) -> Callable[[Mapping[str, Any], object], dict[str, list[dict[str, str]]]]:
    """
    Make a Lambda handler for the events of an SQS queue, standard or FIFO, raw delivery or
    envelope.

    **The event source mapping must have `FunctionResponseTypes: [ReportBatchItemFailures]`**, or
    Lambda deletes every message whatever the handler answers, and changes are lost for good.

    The role needs what every function with an SQS event source needs
    (`AWSLambdaSQSQueueExecutionRole`), and `sqs:ChangeMessageVisibility`; without that, what must
    come back does so after the queue's visibility timeout.

    No look is begun in the second half of the invocation's time. What was not reached comes back,
    so a function should have twice the time that a look may take.

    Args:
        fetcher: What reads the source. Its timeout must be well below half of the function's.
        sink: The cache. It must be shared by all the processes that Lambda starts, so neither in
            memory nor in a file.
        settle: The settle window in seconds; see `Worker`.
        early_look: Look at an entity as soon as an event arrives, too, not only when its window is
            over; see `Worker`.
        client: A boto3 SQS client. Default: one for the queue's region, made when first needed.

    Returns:
        The handler. It raises `ConfigurationError` for an event of another kind than SQS's; for
        anything else that goes wrong, messages come back.

    Raises:
        ConfigurationError: `settle` is out of its range.
    """
    if not isinstance(settle, (int, float)) or not 0 <= settle <= MAX_SETTLE:
        raise ConfigurationError(f"settle must be from 0 to {MAX_SETTLE}, not {settle!r}")
    function = _Function(fetcher, sink, settle, early_look=early_look, client=client)

    def handler(event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        return function.handle(event, context)

    return handler


@dataclass(slots=True, eq=False)
class _Delivery:
    """
    A record that is a change event.

    Attributes:
        sent: When SQS accepted the message, in milliseconds since the epoch, by SQS's clock.
        first_received: When it was first received, likewise.
        due: When a GET that settles the event may start at the earliest, in monotonic seconds.
    """

    event: ChangeEvent
    receipt_handle: str
    receive_count: int
    sent: int
    first_received: int
    due: float = math.inf


class _Function(Generic[T]):
    """What lasts from one invocation to the next."""

    def __init__(
        self,
        fetcher: Fetcher[T],
        sink: Sink[T],
        settle: float,
        *,
        early_look: bool,
        client: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fetcher = fetcher
        self.sink = sink
        self.settle = settle
        self.early_look = early_look
        self.clock = clock
        self._client = client
        self._malformed = MalformedLog()
        self._unchangeable: set[str] = set()

    def handle(self, event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        records = _records(event)
        batch = _Batch(self, records)
        try:
            batch.work(context)
        except Exception:  # ours; raised, it would fail the batch
            log.exception("handling a batch failed", extra={"action": "handle"})
        back = dict.fromkeys(
            record["messageId"] for record in records if record["messageId"] not in batch.settled
        )
        log.debug(
            "handled", extra={"action": "handle", "settled": len(batch.settled), "back": len(back)}
        )
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in back]}

    def read(self, record: Record) -> _Delivery | None:
        """
        Return the record as a delivery; None if it is no change event, which is logged once for
        each message.
        """
        try:
            return _delivery(record)
        except (
            Exception
        ) as error:  # whatever a record may hold, the others are not to suffer for it
            self._malformed.add(record["messageId"], error)
            return None

    def ask_time(self, arn: str) -> float:
        """
        Return what time it is at the least by SQS's clocks, in milliseconds since the epoch; 0 if
        it can't be asked.
        """
        try:
            return (self._queue(arn).now() - CLOCK_MARGIN) * 1000
        except Exception as error:  # boto3 has no common root for what can be wrong here
            log.error(  # noqa: TRY400  # boto3's traceback helps nobody
                "SQS can't be asked for the time, so young events can't be settled, and end in the dead-letter queue: %s. Give "
                "the queue a delay of the settle window, or else the function a way to SQS, and sqs:GetQueueAttributes",
                error,
                extra={"action": "ask_time"},
            )
            return 0

    def send_back(self, arn: str, deliveries: Sequence[tuple[str, float]]) -> None:
        """
        Make up to ten deliveries visible after so many seconds. What fails becomes visible by
        itself, later.
        """
        try:
            self._queue(arn).change_visibility(deliveries)
        except Exception as error:
            if str(error) not in self._unchangeable:
                self._unchangeable.add(str(error))
                log.warning(
                    "changing visibility failed, so messages come back after the queue's visibility timeout only: %s. The "
                    "role needs sqs:ChangeMessageVisibility, and the function a way to SQS; this is logged once",
                    error,
                    extra={"action": "change_visibility"},
                )

    def _queue(self, arn: str) -> Queue:
        _, _, _, region, account, name = arn.split(":")
        if self._client is None:
            self._client = _make_client(region)
        # Not asked for by GetQueueUrl, which takes a permission that the role need not have.
        return Queue(f"{self._client.meta.endpoint_url}/{account}/{name}", self._client)


class _Batch(Generic[T]):
    """
    One invocation.

    Attributes:
        settled: The ids of the messages that Lambda may delete.
    """

    def __init__(self, function: _Function[T], records: Sequence[Record]) -> None:
        self.settled: set[str] = set()
        self._function = function
        self._clock = function.clock
        self._records = records
        self._looks: dict[str, float | Exception] = {}
        self._last_look = math.inf
        self._unreached = 0

    def work(self, context: object) -> None:
        """
        Look at what the records name, in their order, and send back what that does not settle.
        """
        deliveries = [self._function.read(record) for record in self._records]
        self._plan([delivery for delivery in deliveries if delivery is not None])
        now, left = self._clock(), _seconds_left(context)
        self._last_look = now + left * LOOK_SHARE
        back: dict[str, float] = {}
        returned: list[tuple[str, float]] = []
        for record, delivery in zip(self._records, deliveries, strict=True):
            group = _group(record)
            at = back[group] if group in back else self._back_at(delivery)
            if at is None:
                self.settled.add(record["messageId"])
            else:
                back[group] = at
                if delivery is not None and at < math.inf:
                    returned.append((delivery.receipt_handle, at))
        self._send_back(returned, until=now + left * RETURN_SHARE)

    def _plan(self, deliveries: Sequence[_Delivery]) -> None:
        """Say of each event when it is due."""
        windows = self._windows([delivery.event for delivery in deliveries])
        planned = list(zip(deliveries, windows, strict=True))
        young = any(window > _seconds(each.sent, each.first_received) for each, window in planned)
        time_now = self._function.ask_time(_queue_arn(self._records)) if young else 0.0
        start = self._clock()
        for delivery, window in planned:
            age = _seconds(delivery.sent, max(delivery.first_received, time_now))
            delivery.due = start + max(0.0, window - age)

    def _windows(self, events: Sequence[ChangeEvent]) -> list[float]:
        over = {
            (event.id, event.save)
            for event in events
            if event.phase == "saved" and event.save is not None
        }
        return [
            0.0 if (each.id, each.save) in over else window_of(each, self._function.settle)
            for each in events
        ]

    def _back_at(self, delivery: _Delivery | None) -> float | None:
        """
        Return when the message is to come back (infinity: when its visibility timeout is over);
        None if it is settled.
        """
        if delivery is None:
            return math.inf
        event = delivery.event
        young = self._clock() < delivery.due
        if young and (event.phase == "saving" or not self._function.early_look):
            return delivery.due + SPARE
        looked = self._looked(event.id)
        if looked is None:
            pause = pause_after(delivery.receive_count, MAX_PAUSE)
        elif isinstance(looked, Exception):
            pause = retry_pause(looked, delivery.receive_count)
            log_failed_look(event.id, looked, pause)
        else:
            return None if looked >= delivery.due else delivery.due + SPARE
        return max(self._clock() + pause, delivery.due + SPARE if young else 0.0)

    def _looked(self, id: str) -> float | Exception | None:
        """
        Return when the GET of the batch's look at the id started, or why that decided nothing;
        None: too late for one.
        """
        if id not in self._looks:
            if self._clock() >= self._last_look:
                self._unreached += 1
                return None
            self._looks[id] = self._look(id)
        return self._looks[id]

    def _look(self, id: str) -> float | Exception:
        fetcher, sink = self._function.fetcher, self._function.sink
        try:
            looked = look(id, fetcher=fetcher, sink=sink, clock=self._clock)
        except Exception as error:  # of the source, of the user's fetcher or sink
            return error
        log.debug("looked", extra={"action": "look", "id": id, "outcome": looked.outcome.value})
        return looked.get_started

    def _send_back(self, returned: Sequence[tuple[str, float]], *, until: float) -> None:
        if self._unreached:
            log.warning(
                "half of the function's time was over before %d of %d records: give it more time, or fewer records",
                self._unreached,
                len(self._records),
                extra={"action": "handle", "unreached": self._unreached},
            )
        for batch in batches(returned):
            now = self._clock()
            if now < until:  # or they come back when the visibility timeout is over
                self._function.send_back(
                    _queue_arn(self._records),
                    [(handle, max(0.0, at - now)) for handle, at in batch],
                )


def _records(event: object) -> Sequence[Record]:
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not all(
        record.get("eventSource") == "aws:sqs" for record in records
    ):
        raise ConfigurationError(
            "this handler takes the events of an SQS event source. Subscribe a queue to the topic, not the function itself, "
            "and give the function an event source mapping for the queue"
        )
    return records


def _queue_arn(records: Sequence[Record]) -> str:
    arn: str = records[0]["eventSourceARN"]  # a batch comes from one queue
    return arn


def _delivery(record: Record) -> _Delivery:
    attributes, own = record["attributes"], record["messageAttributes"]
    return _Delivery(
        event=decode(
            record["body"],
            {name: value["stringValue"] for name, value in own.items() if value.get("stringValue")},
        ),
        receipt_handle=record["receiptHandle"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        sent=int(attributes["SentTimestamp"]),
        first_received=int(attributes["ApproximateFirstReceiveTimestamp"]),
    )


def _group(record: Record) -> str:
    """
    Return what goes back together: a FIFO queue's message group, else (fair queues have groups,
    too) the message alone.
    """
    fifo = record["eventSourceARN"].endswith(".fifo")
    alone: str = record["messageId"]
    return record["attributes"].get("MessageGroupId", alone) if fifo else alone


def _seconds(earlier: float, later: float) -> float:
    return max(0.0, later - earlier) / 1000


def _seconds_left(context: object) -> float:
    """
    Return the seconds until Lambda ends the invocation; infinity if nobody says, as in a test.
    """
    ask = getattr(context, "get_remaining_time_in_millis", None)
    return math.inf if ask is None else ask() / 1000


def _make_client(region: str) -> Any:
    import boto3
    from botocore.config import Config

    # In a subnet without a way to SQS both calls of an invocation fail; that must not take all of
    # its time.
    config = Config(
        connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2}
    )
    return boto3.client("sqs", region_name=region, config=config)
