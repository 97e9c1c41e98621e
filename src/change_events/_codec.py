"""Event to message body and back, in both of SNS's deliveries: raw, and wrapped in its envelope."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from change_events._event import MAX_SETTLE, ChangeEvent
from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError, DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events._event import Phase

OWN_ATTRIBUTES = ("phase", "save", "settle")
"""The names of the protocol's message attributes."""

_TOPIC_ARN = re.compile(
    r"arn:(?P<partition>[^:]+):sns:(?P<region>[^:]+):[^:]+:[\w-]+(?P<fifo>\.fifo)?"
)


def parsed_arn(topic_arn: str) -> re.Match[str]:
    """
    Match a topic's ARN: the groups are `partition`, `region` and, of a FIFO topic, `fifo`.

    Raises:
        ConfigurationError: It is not a topic's ARN.
    """
    topic = _TOPIC_ARN.fullmatch(topic_arn) if isinstance(topic_arn, str) else None
    if topic is None:
        raise ConfigurationError(
            f"{topic_arn!r} is not a topic's ARN; "
            "one looks like arn:aws:sns:eu-west-1:123456789012:name"
        )
    return topic


def encode(event: ChangeEvent) -> str:
    """Return the message body: the JSON object `{"id": ...}`, and nothing else."""
    return json.dumps({"id": event.id})


def attributes(event: ChangeEvent) -> dict[str, str]:
    """Return the message attributes: all but the id. A plain event has none."""
    settle = None if event.settle is None else str(event.settle)
    values = {"phase": event.phase, "save": event.save, "settle": settle}
    return {name: value for name, value in values.items() if value is not None}


def decode(
    body: str,
    attributes: Mapping[str, str] | None = None,
    *,
    topic_arn: str | None = None,
    verify: Callable[[Mapping[str, object]], object] | None = None,
) -> ChangeEvent:
    """Read an event from an SQS message, as `decode_all` does, without its message attributes."""
    return decode_all(body, attributes, topic_arn=topic_arn, verify=verify)[0]


def decode_all(
    body: str,
    attributes: Mapping[str, str] | None = None,
    *,
    topic_arn: str | None = None,
    verify: Callable[[Mapping[str, object]], object] | None = None,
) -> tuple[ChangeEvent, Mapping[str, str]]:
    """
    Read an event and its message attributes from an SQS message.

    Args:
        body: `{"id": ...}` itself (raw message delivery); or SNS's envelope, a JSON object with
            `"Type": "Notification"` and that text as its `"Message"` (Amazon SNS Developer Guide,
            "HTTP/HTTPS notification JSON format"). Keys beside `"id"` are ignored, because one look
            too many does no harm.
        attributes: The attributes of the SQS message, as text. An envelope has its own in the body.
        topic_arn: The only topic to accept messages from. The envelope names the topic. A message
            without an envelope is refused, too, because everybody with access to the queue can send
            one.
        verify: Called with an envelope of that topic; raises if SNS did not make it.

    Raises:
        DecodeError: The body has neither form, the id or the settle window is invalid, or the
            message comes from elsewhere.
    """
    said = attributes or {}
    content = _object(body)
    message = content.get("Message")
    if "id" not in content and content.get("Type") == "Notification" and isinstance(message, str):
        if topic_arn is not None and content.get("TopicArn") != topic_arn:
            raise DecodeError(
                f"it comes from the topic {content.get('TopicArn')!r:.300}, not from {topic_arn}"
            )
        if verify is not None:
            verify(content)
        said = _enveloped(content.get("MessageAttributes"))
        content = _object(message)
    elif topic_arn is not None or verify is not None:
        raise DecodeError(
            "it has no SNS envelope, so nothing says where it comes from: switch off raw message "
            "delivery of the queue's subscription, or set neither topic_arn= nor verify_signatures="
        )
    value = content.get("id")
    if not isinstance(value, (str, int)):
        raise DecodeError('the body is not {"id": text or integer}')
    try:
        id = checked_id(value)
    except ValueError as error:
        raise DecodeError(str(error)) from None
    settle, phase = _settle(said.get("settle")), _phase(said.get("phase"))
    return ChangeEvent(id, settle, phase, said.get("save")), said


def _settle(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        settle = float(text)
    except ValueError:
        settle = math.nan
    if not 0 < settle <= MAX_SETTLE:
        raise DecodeError(
            f"the attribute settle must be seconds, up to {MAX_SETTLE:.0f}, not {text!r:.40}"
        )
    return settle


def _phase(text: str | None) -> Phase | None:
    """Return the phase; None for an unknown one, because a plain event is always safe."""
    if text == "saving":
        return "saving"
    return "saved" if text == "saved" else None


def _enveloped(attributes: object) -> dict[str, str]:
    """Read SNS's `{"name": {"Type": "String", "Value": "text"}}`."""
    items = attributes.items() if isinstance(attributes, dict) else ()
    return {
        name: str(value["Value"])
        for name, value in items
        if isinstance(value, dict) and "Value" in value
    }


def _object(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DecodeError("the body is not JSON") from None
    if not isinstance(content, dict):
        raise DecodeError("the body is not a JSON object")
    return content
