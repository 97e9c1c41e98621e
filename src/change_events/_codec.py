"""Event to message body and back, in both of SNS's deliveries: raw, and wrapped in its envelope."""

from __future__ import annotations

import json

from change_events._event import ChangeEvent
from change_events._ids import checked_id
from change_events.exceptions import DecodeError


def encode(event: ChangeEvent) -> str:
    """Return the message body: the JSON object `{"id": ...}`, and nothing else."""
    return json.dumps({"id": event.id})


def decode(body: str) -> ChangeEvent:
    """
    Read an event from the body of an SQS message.

    Args:
        body: `{"id": ...}` itself (raw message delivery), or SNS's envelope, a JSON object with `"Type": "Notification"`
            and that text as its `"Message"` (Amazon SNS Developer Guide, "HTTP/HTTPS notification JSON format"). Other
            keys beside `"id"` are ignored: looking once too often does no harm.

    Raises:
        DecodeError: The body is neither, or its id can't be one.
    """
    content = _object(body)
    message = content.get("Message")
    if "id" not in content and content.get("Type") == "Notification" and isinstance(message, str):
        content = _object(message)
    value = content.get("id")
    if not isinstance(value, (str, int)):
        raise DecodeError('the body is no {"id": text or integer}')
    try:
        return ChangeEvent(checked_id(value))
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _object(text: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DecodeError("the body is no JSON") from None
    if not isinstance(content, dict):
        raise DecodeError("the body is no JSON object")
    return content
