"""Stand-ins for what the production code calls: clients of AWS, a pool, a sink."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Hashable, Mapping
from email.utils import formatdate
from typing import Any

import urllib3

from change_events import Entry, Found, Gone, Unchanged
from change_events._consumer.look import digest
from verification.proof.effects import ID, RAISES, Message, Setup, ask

SQS_CLOCK = -1_000_000
"""
The time at each receive by the clock of the host that keeps the message: far behind all others. The
clock of the host that answers, and writes the `Date`, is a second ahead of it.
"""

PAGES = 3
"""The pages of a listing. Which of them can name the entity is in the set-up."""

FIRST_PAGE = "http://source/pages/1"


class Sns:
    """An SNS client. `slow`: SNS accepts and answers in two steps."""

    def __init__(self, *, slow: Callable[[], bool]) -> None:
        self._slow = slow

    def publish(
        self, *, TopicArn: str, Message: str, MessageAttributes: dict[str, Any] | None = None
    ) -> None:
        attributes = {
            name: value["StringValue"] for name, value in (MessageAttributes or {}).items()
        }
        accepted = ask("publish", Message, tuple(sorted(attributes.items())))
        answered = ask("answer") if self._slow() else True
        if not (accepted and answered):
            raise ConnectionError(f"{TopicArn} does not answer")


class Sqs:
    """An SQS client."""

    class meta:  # noqa: N801
        class config:  # noqa: N801
            read_timeout = 60

    def __init__(self, delay: int) -> None:
        self._delay = delay

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"DelaySeconds": str(self._delay)}}

    def receive_message(self, **_: Any) -> dict[str, Any]:
        return {
            "ResponseMetadata": {"HTTPHeaders": {"date": formatdate(SQS_CLOCK + 1, usegmt=True)}},
            "Messages": [_received(*delivery) for delivery in ask("receive")],
        }

    def delete_message_batch(
        self, *, QueueUrl: str, Entries: list[dict[str, str]]
    ) -> dict[str, Any]:
        del QueueUrl
        failed = ask("delete", tuple(entry["ReceiptHandle"] for entry in Entries))
        code = {"Code": "InternalError", "SenderFault": False}
        return {"Failed": _failed(Entries, failed, code)}

    def change_message_visibility_batch(
        self, *, QueueUrl: str, Entries: list[dict[str, Any]]
    ) -> dict[str, Any]:
        del QueueUrl
        refused = ask("visibility", tuple(entry["ReceiptHandle"] for entry in Entries)) or ()
        code = {"Code": "MessageNotInflight", "SenderFault": True}
        return {"Failed": _failed(Entries, refused, code)}


def _failed(
    entries: list[dict[str, Any]], handles: tuple[str, ...], code: dict[str, Any]
) -> list[dict[str, Any]]:
    return [{"Id": each["Id"], **code} for each in entries if each["ReceiptHandle"] in handles]


def _received(message_id: str, message: Message) -> dict[str, Any]:
    return {
        "MessageId": message_id,
        "ReceiptHandle": message_id,
        "Body": message.body,
        "Attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str((SQS_CLOCK - message.age) * 1000),
        },
        "MessageAttributes": {name: {"StringValue": value} for name, value in message.attributes},
    }


class Pool:
    """
    A urllib3 pool. The production fetcher, above it, decides what an answer means.

    The set-up says whether the source reads and answers in two steps, and how exact its ETags are.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def request(
        self, method: str, url: str, *, headers: dict[str, str], **_: Any
    ) -> urllib3.HTTPResponse:
        assert method == "GET"
        if url.startswith("http://source/pages/"):
            return self._page(int(url.rpartition("/")[2]))
        assert url in {f"http://source/{ID}", f"http://source/?id={ID}"}
        many = url.endswith(f"?id={ID}")
        status, number = ask("get many") if many else ask("get", headers.get("If-None-Match"))
        if self._setup.slow_get:
            ask("arrive")
        body: Any = entity(self._setup.body(number)) if status == 200 else {"detail": "no product"}
        if many and status < 500:
            status, body = 200, [body] if status == 200 else []
        return self._response(status, b"" if status == 304 else json.dumps(body).encode(), number)

    def _page(self, page: int) -> urllib3.HTTPResponse:
        status, number = ask("page") if page == self._setup.page else (404, 0)
        items = [entity(self._setup.body(number))] if status == 200 else []
        following = f"/pages/{page + 1}" if page < PAGES else None
        body = {"items": items, "next": following}
        return self._response(200, json.dumps(body).encode(), number)

    def _response(self, status: int, body: bytes, number: int) -> urllib3.HTTPResponse:
        return urllib3.HTTPResponse(
            io.BytesIO(body),
            headers={"Content-Type": "application/json", "ETag": self._setup.etag(number)},
            status=status,
            preload_content=False,
        )


class Cache:
    """A sink."""

    def entry(self, id: str, /) -> Entry:
        assert id == ID
        version, present, etag, number = ask("entry")
        return Entry(version, present, etag, digest_of(number))

    def apply(self, id: str, change: Any, /, *, if_version: int) -> bool:
        assert id == ID
        answer: bool = ask("apply", *described(change), if_version)
        return answer


class FilledCache(Cache):
    """
    A sink that can be filled: it stores pages, names its ids, and keeps state.

    Args:
        kept: The state.
        keep: Stores a text under a name of the state.
    """

    def __init__(self, kept: Mapping[str, str], *, keep: Callable[[str, str], object]) -> None:
        self._kept = kept
        self._keep = keep

    def insert_many(self, found: Mapping[str, Found[dict[str, Any]]], /) -> set[str]:
        (change,) = found.values()
        answer = ask("insert", *described(change))
        if answer == RAISES:
            raise ConnectionError("the sink does not answer")
        return {ID} if answer else set()

    def ids(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        del limit
        return [ID] if after is None and ask("ids") else []

    def state(self, name: str, /) -> str | None:
        return self._kept.get(name)

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        if self._kept.get(name) != if_state:
            return False
        self._keep(name, text)
        return True


def entity(number: int) -> dict[str, Any]:
    """Return the entity with a number in its body: in most set-ups that of the commit."""
    return {"id": ID, "number": number}


def digest_of(number: int | None) -> str | None:
    """Return the digest of the entity with this number; None without one."""
    return None if number is None else digest(entity(number))


def described(change: Found[dict[str, Any]] | Unchanged | Gone) -> tuple[Hashable, ...]:
    """Return a change as hashable values: its kind, the entity's number, and its ETag."""
    if isinstance(change, Gone):
        return ("Gone", None, None)
    number = change.value["number"] if isinstance(change, Found) else None
    return (type(change).__name__, number, change.etag)
