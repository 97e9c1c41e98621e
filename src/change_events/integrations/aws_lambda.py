"""
Keep a cache from AWS Lambda: a handler for an SQS event source.

The handler looks at each record's id as a worker does. Its answer, `batchItemFailures`, names the
messages that Lambda must *not* delete: all whose event no look has settled. So no error deletes a
message, not even an error of the handler, and no record makes another one fail.

**When an event is settled.** As in a worker: by a look whose GET started when the event was at
least W old. W is the larger of the handler's settle window and the event's own (0 for *saved*). A
worker measures the age from the receipt, by its own clock. A handler can't: another process can get
the event the next time; Lambda's poller can receive it and invoke nobody (if the function is
throttled), so a count of receives proves nothing; and a process that was frozen can't trust its
clocks. So the handler uses the message's age by SQS's clocks:

- The broadcast was at `SentTimestamp`, when SQS accepted the message, or before.
- The GET is at `ApproximateFirstReceiveTimestamp` or after. So the time in the queue counts: the
  delay that the queue had for this message, and any backlog.
- If the event is still too young by that, the handler asks SQS for the time before the first GET:
  the `Date` of the answer to `GetQueueAttributes`, a call that every such function is allowed, less
  a second for the difference between SQS's machines.
- From then on the monotonic clock counts, until the invocation ends.

This assumes that SQS's machines agree on the time: to a second where a `Date` is used, and to the
time from a broadcast to the queue where a message's two timestamps are used. Every other error
makes an event look younger than it is, and costs one more look.

**Younger events** are looked at, too, so that the cache is fresh (not *saving*: that means that the
change can't be seen yet). Their messages are reported as failed, and made invisible for the rest of
the window plus two seconds for the clocks, so that they come back once. If that call fails, a
message comes back later, at the end of the queue's visibility timeout. On a queue with a delay of
at least W no event is younger, and no call is needed.

**Records of one id** in a batch share a look: all were received before the invocation, so before
the look's GET.

**FIFO queues.** If a record goes back, the later records of its message group go back, too, without
a look and no earlier than it: they must be delivered after it, and get their look then.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from change_events._aws import make_client
from change_events._consumer.backoff import MAX_PAUSE, pause_after, retry_pause
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._consumer.intake import window_of
from change_events._consumer.log import MalformedLog, log_failed_look
from change_events._consumer.look import look
from change_events._consumer.queue import Queue, batches
from change_events._event import DEFAULT_SETTLE, MAX_SETTLE
from change_events._text import printable
from change_events.exceptions import ConfigurationError
from change_events.integrations._records import delivery_of, group_of, records_of
from change_events.traces import note, require_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._event import ChangeEvent, Entry
    from change_events.integrations._records import Delivery, Record
    from change_events.traces import OpenTelemetryTraces
    from change_events.typing import Fetcher, Sink

__all__ = ["make_handler"]

T = TypeVar("T")

log = logging.getLogger("change_events")

CLOCK_MARGIN = 1.0
"""Seconds by which the clocks of SQS's machines can differ."""

CLOCK_SLACK = CLOCK_MARGIN + 1.0
"""
Seconds after the end of its window when an event comes back: the margin, and the fraction of a
second that a `Date` leaves out.
"""

KEEP = 20
"""Looks at cached entities after which the guard's state is stored, without a deletion, too."""

LOOK_SHARE, RETURN_SHARE = 0.5, 0.75
"""Shares of the invocation's time after which no look begins, and no visibility is changed."""


def make_handler(
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    settle: float = DEFAULT_SETTLE,
    early_look: bool = True,
    allow_mass_deletion: bool = False,
    client: Any = None,
    traces: OpenTelemetryTraces | None = None,
) -> Callable[[Mapping[str, Any], object], dict[str, list[dict[str, str]]]]:
    """
    Make a Lambda handler for the events of an SQS queue: standard or FIFO, raw or in envelopes.

    **The event source mapping must have `FunctionResponseTypes: [ReportBatchItemFailures]`.**
    Otherwise Lambda deletes every message whatever the handler answers: changes are lost for good.
    The handler can't check the mapping.

    The role needs what every function with an SQS event source needs
    (`AWSLambdaSQSQueueExecutionRole`), and `sqs:ChangeMessageVisibility`. Without the latter,
    messages come back only after the queue's visibility timeout.

    No look begins in the second half of the invocation's time; the remaining messages come back. So
    a function should have at least twice the time that a look can take.

    Args:
        fetcher: Reads the source. Its timeout must be well below half of the function's.
        sink: The cache. All processes that Lambda starts share it, so not in memory or in a file.
        settle: The settle window in seconds; see `Worker`.
        early_look: Look also when an event arrives, not only when its window is over; see `Worker`.
        allow_mass_deletion: Refuse no deletion. By default, a deletion is refused if more than half
            of the last hundred looks at cached entities saw them gone, and twenty or more did (of a
            small cache, fewer are enough); see `Worker`. The event comes back, and ends in the
            dead-letter queue if nobody acts. All processes count together, if the sink keeps state
            (a `StatefulSink`).
        client: A boto3 SQS client. Default: one for the queue's Region, made when first needed.
        traces: Makes a span of each look, with a link for each of its records: an
            `OpenTelemetryTraces` of `change_events.traces`.

    Returns:
        The handler. It raises `ConfigurationError` for an event that is not SQS's. After any other
        error, messages come back.

    Raises:
        ConfigurationError: `settle` is out of its range, or `traces` something else.
    """
    if not isinstance(settle, (int, float)) or not 0 <= settle <= MAX_SETTLE:
        raise ConfigurationError(f"settle must be from 0 to {MAX_SETTLE}, not {settle!r}")
    require_traces(traces)
    guard = Guard(on=not allow_mass_deletion)
    function = _Function(
        fetcher, sink, settle, guard, early_look=early_look, client=client, traces=traces
    )

    def handler(event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        return function.handle(event, context)

    return handler


@dataclass(eq=False, repr=False)
class _Function(Generic[T]):
    """What invocations in one process share."""

    fetcher: Fetcher[T]
    sink: Sink[T]
    settle: float
    guard: Guard
    early_look: bool
    client: Any
    traces: OpenTelemetryTraces | None = None
    clock: Callable[[], float] = time.monotonic
    _malformed: MalformedLog = field(default_factory=MalformedLog)
    _unchangeable: set[str] = field(default_factory=set)
    _deletions: Deletions = field(init=False)

    def __post_init__(self) -> None:
        # Lambda invokes one process once at a time.
        alone = contextlib.nullcontext()
        self._deletions = Deletions(self.guard, self.sink, self.fetcher, lock=alone)

    def handle(self, event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        records = records_of(event)
        self._deletions.learn()
        batch = _Batch(self, records)
        try:
            batch.work(context)
        except Exception:  # raised, it would fail the whole batch
            log.exception("handling a batch failed", extra={"action": "handle"})
        with contextlib.suppress(Exception):  # then a later batch stores it
            self._deletions.keep(at_least=KEEP)
        ids = [record["messageId"] for record in records]
        back = dict.fromkeys(id for id in ids if id not in batch.settled)
        settled = len(batch.settled)
        log.debug("handled", extra={"action": "handle", "settled": settled, "back": len(back)})
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in back]}

    def read(self, record: Record) -> Delivery | None:
        """Return the record as a delivery; or log, once a message, why it is not a change event."""
        try:
            delivery = delivery_of(record)
        except Exception as error:  # whatever the record is, the others must not fail
            self._malformed.add(record["messageId"], error)
            return None
        if self.traces is not None:
            delivery.origin = self.traces.origin(delivery.attributes, delivery.xray)
        return delivery

    def look(self, id: str, arn: str, deliveries: Sequence[Delivery], *, early: bool) -> float:
        """
        Look at the id of these deliveries; return when the GET started.

        Raises:
            MassDeletionError: Too many entities seem to be gone.
            Exception: The fetcher or the sink raised it.
        """
        if self.traces is None:
            return self._look(id, deliveries, early=early)
        with self.traces.looking_here(arn, id, deliveries):
            return self._look(id, deliveries, early=early)

    def _look(self, id: str, deliveries: Sequence[Delivery], *, early: bool) -> float:
        looked = look(
            id,
            fetcher=self.fetcher,
            sink=self.sink,
            before_gone=self._refuse,
            early=early,
            clock=self.clock,
        )
        if looked.found:
            self.guard.found(cached=looked.cached)
        what = "too_early" if looked.outcome is None else looked.outcome.value
        log.debug("looked", extra={"action": "look", "id": id, "outcome": what})
        settled = [each for each in deliveries if each.due <= looked.get_started and not early]
        note(what, settled)
        return looked.get_started

    def _refuse(self, id: str, entry: Entry) -> None:
        if refusal := self._deletions.refused(id, entry):
            raise refusal

    def ask_time(self, arn: str) -> float:
        """Return the least possible time by SQS's clocks, in epoch milliseconds; 0 if unknown."""
        try:
            return (self._queue(arn).now() - CLOCK_MARGIN) * 1000
        except Exception as error:  # boto3 has no common root for what can be wrong here
            log.error(  # noqa: TRY400  # boto3's traceback helps nobody
                "SQS can't be asked for the time, so young events can't be settled, and end in the "
                "dead-letter queue: %s. Give the queue a delay of the settle window, or give the "
                "function a route to SQS, and sqs:GetQueueAttributes",
                printable(error),
                extra={"action": "ask_time"},
            )
            return 0

    def send_back(self, arn: str, deliveries: Sequence[tuple[str, float]]) -> None:
        """Make at most ten deliveries visible after so many seconds; if that fails, later."""
        try:
            self._queue(arn).change_visibility(deliveries)
        except Exception as error:
            if str(error) not in self._unchangeable:
                self._unchangeable.add(str(error))
                log.warning(
                    "changing visibility failed, so messages come back only after the queue's "
                    "visibility timeout: %s. The role needs sqs:ChangeMessageVisibility, and the "
                    "function a route to SQS; this is logged once",
                    printable(error),
                    extra={"action": "change_visibility"},
                )

    def _queue(self, arn: str) -> Queue:
        _, _, _, region, account, name = arn.split(":")
        if self.client is None:
            # Without a route to SQS an invocation's calls fail. They must not use up its time.
            self.client = make_client(
                "sqs", region=region, connect_timeout=1, read_timeout=2, attempts=2
            )
        # GetQueueUrl would tell the URL, but needs a permission that the role can lack.
        return Queue(f"{self.client.meta.endpoint_url}/{account}/{name}", self.client)


class _Batch(Generic[T]):
    """
    One invocation.

    Attributes:
        settled: The ids of the messages that Lambda can delete.
    """

    def __init__(self, function: _Function[T], records: Sequence[Record]) -> None:
        self.settled: set[str] = set()
        self._function = function
        self._clock = function.clock
        self._records = records
        self._deliveries: dict[str, list[Delivery]] = {}  # by id
        self._looks: dict[str, float | Exception] = {}
        self._last_look = math.inf
        self._unreached = 0

    def work(self, context: object) -> None:
        """Look at the records' ids, in order; send back the messages that this does not settle."""
        deliveries = [self._function.read(record) for record in self._records]
        self._plan([delivery for delivery in deliveries if delivery is not None])
        now, left = self._clock(), _seconds_left(context)
        self._last_look = now + left * LOOK_SHARE
        returns: dict[str, float] = {}
        changes: list[tuple[str, float]] = []
        for record, delivery in zip(self._records, deliveries, strict=True):
            group = group_of(record)
            at = returns[group] if group in returns else self._return_at(delivery)
            if at is None:
                self.settled.add(record["messageId"])
            else:
                returns[group] = at
                if delivery is not None and at < math.inf:
                    changes.append((delivery.receipt_handle, at))
        self._send_back(changes, until=now + left * RETURN_SHARE)

    def _plan(self, deliveries: Sequence[Delivery]) -> None:
        """Set each event's `due`."""
        windows = self._windows([delivery.event for delivery in deliveries])
        planned = list(zip(deliveries, windows, strict=True))
        young = any(window > _seconds(each.sent, each.first_received) for each, window in planned)
        time_now = self._function.ask_time(self._queue_arn) if young else 0.0
        start = self._clock()
        for delivery, window in planned:
            age = _seconds(delivery.sent, max(delivery.first_received, time_now))
            delivery.due = start + max(0.0, window - age)
            self._deliveries.setdefault(delivery.event.id, []).append(delivery)

    def _windows(self, events: Sequence[ChangeEvent]) -> list[float]:
        saved = [event for event in events if event.phase == "saved"]
        over = {(event.id, event.save) for event in saved if event.save is not None}
        return [
            0.0 if (each.id, each.save) in over else window_of(each, self._function.settle)
            for each in events
        ]

    def _return_at(self, delivery: Delivery | None) -> float | None:
        """
        Return when the message must come back (infinity: when its visibility timeout ends); None if
        it is settled.
        """
        if delivery is None:
            return math.inf
        event = delivery.event
        young = self._clock() < delivery.due
        if young and (event.phase == "saving" or not self._function.early_look):
            return delivery.due + CLOCK_SLACK
        looked = self._looked(event.id)
        if looked is None:
            pause = pause_after(delivery.receive_count, MAX_PAUSE)
        elif isinstance(looked, Exception):
            pause = retry_pause(looked, delivery.receive_count)
            log_failed_look(event.id, looked, pause)
        else:
            return None if looked >= delivery.due else delivery.due + CLOCK_SLACK
        return max(self._clock() + pause, delivery.due + CLOCK_SLACK if young else 0.0)

    def _looked(self, id: str) -> float | Exception | None:
        """
        Return when the GET of the batch's look at the id started, or why the look failed; None if
        it is too late for a look.
        """
        if id not in self._looks:
            if self._clock() >= self._last_look:
                self._unreached += 1
                return None
            deliveries = self._deliveries[id]
            early = self._clock() < min(delivery.due for delivery in deliveries)
            try:
                started = self._function.look(id, self._queue_arn, deliveries, early=early)
            except Exception as error:  # of the fetcher or the sink: the event needs another look
                self._looks[id] = error
            else:
                self._looks[id] = -math.inf if early else started  # early, it settles nothing
        return self._looks[id]

    def _send_back(self, changes: Sequence[tuple[str, float]], *, until: float) -> None:
        if self._unreached:
            log.warning(
                "half of the function's time was over before %d of %d records: give it more time, "
                "or fewer records",
                self._unreached,
                len(self._records),
                extra={"action": "handle", "unreached": self._unreached},
            )
        for batch in batches(changes):
            now = self._clock()
            if now < until:  # later, messages come back when the visibility timeout ends
                deliveries = [(handle, max(0.0, at - now)) for handle, at in batch]
                self._function.send_back(self._queue_arn, deliveries)

    @property
    def _queue_arn(self) -> Any:
        return self._records[0]["eventSourceARN"]  # a batch comes from one queue


def _seconds(earlier: float, later: float) -> float:
    return max(0.0, later - earlier) / 1000


def _seconds_left(context: object) -> float:
    """Return the seconds until Lambda ends the invocation; infinity if unknown, as in tests."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    return math.inf if ask is None else ask() / 1000
