"""The records that AWS Lambda passes to a handler of an SQS event source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from change_events._codec import decode_all
from change_events._trace_context import XRAY_ATTRIBUTE
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._event import ChangeEvent
    from change_events._trace_context import Origin

Record: TypeAlias = Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Delivery:
    """
    A record that is a change event.

    Attributes:
        message_id: SQS's name for the message.
        sent: When SQS accepted the message, in milliseconds since the epoch, by SQS's clock.
        first_received: When the message was first received, by the same clock.
        attributes: The event's message attributes.
        xray: X-Ray's trace header, or None.
        due: When a GET that settles the event can start, in monotonic seconds.
        origin: The span that sent it. For traces only.
    """

    event: ChangeEvent
    message_id: str
    receipt_handle: str
    receive_count: int
    sent: int
    first_received: int
    attributes: Mapping[str, str]
    xray: str | None
    due: float = math.inf
    origin: Origin | None = None


def records_of(event: object) -> Sequence[Record]:
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not all(
        record.get("eventSource") == "aws:sqs" for record in records
    ):
        raise ConfigurationError(
            "this handler is for events of an SQS event source. Subscribe a queue to the topic, "
            "not the function itself, and give the function an event source mapping for the queue"
        )
    return records


def delivery_of(record: Record) -> Delivery:
    attributes, own = record["attributes"], record["messageAttributes"]
    event, said = decode_all(
        record["body"],
        {name: value["stringValue"] for name, value in own.items() if value.get("stringValue")},
    )
    return Delivery(
        event=event,
        message_id=record["messageId"],
        receipt_handle=record["receiptHandle"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        sent=int(attributes["SentTimestamp"]),
        first_received=int(attributes["ApproximateFirstReceiveTimestamp"]),
        attributes=said,
        xray=attributes.get(XRAY_ATTRIBUTE),
    )


def group_of(record: Record) -> str:
    """Return what goes back together: a FIFO queue's message group, or a message alone."""
    alone: str = record["messageId"]
    fifo = record["eventSourceARN"].endswith(".fifo")  # fair queues have groups, too
    return record["attributes"].get("MessageGroupId", alone) if fifo else alone
