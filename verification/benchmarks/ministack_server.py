"""
ministack, as a process in its own environment, with queues that stay fast when they are long.

ministack searches the whole queue in each call: with 20,000 messages a receive takes longer than
everything that is measured here. AWS does not do that. So a queue here is a heap of the messages to
deliver next, and a dictionary by receipt handle. A long poll checks every 5 ms instead of every
100. Calls are counted. Everything else is ministack's: its HTTP server, its protocols, its checks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import ministack.app as ministack
from ministack.services import sqs

from verification.benchmarks.ledger import SNS_LAG, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

POLL = 0.005
"""Seconds between the checks of a long poll."""

ledgers: dict[str, Ledger] = {}
queues: dict[str, dict[str, Any]] = {}


class Messages:
    """A standard queue's messages, instead of ministack's list."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._messages: dict[str, dict[str, Any]] = {}
        self._by_handle: dict[str, dict[str, Any]] = {}
        self._agenda: list[tuple[float, int, dict[str, Any]]] = []
        self._numbers = itertools.count()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, message: dict[str, Any]) -> None:
        if "md5" in message:  # made by SNS
            message["visible_at"] += SNS_LAG
        self._messages[message["id"]] = message
        self._ledger.left += 1
        self._schedule(message)

    def clear(self) -> None:
        self.__init__(self._ledger)
        self._ledger.left = 0

    def collect(self, most: int, now: float, invisible: float) -> list[dict[str, Any]]:
        collected: list[dict[str, Any]] = []
        while self._agenda and self._agenda[0][0] <= now and len(collected) < most:
            at, _, message = heapq.heappop(self._agenda)
            if message["visible_at"] != at or message["id"] not in self._messages:
                continue
            collected.append(message)
            self._by_handle.pop(message["receipt_handle"], None)
            message["receipt_handle"] = sqs.new_uuid()
            self._by_handle[message["receipt_handle"]] = message
            message["receive_count"] += 1
            message["first_receive_at"] = message["first_receive_at"] or now
            message["visible_at"] = now + invisible
            self._schedule(message)
        self._ledger.received += len(collected)
        return collected

    def delete(self, handle: str) -> bool:
        message = self._by_handle.pop(handle, None)
        if message is None:
            return False
        self._ledger.missed += message["visible_at"] < time.time()
        del self._messages[message["id"]]
        self._ledger.delete()
        return True

    def change_visibility(self, handle: str, seconds: float) -> bool:
        message = self._by_handle.get(handle)
        if message is None:
            return False
        self._ledger.missed += message["visible_at"] < time.time()
        message["visible_at"] = time.time() + seconds
        self._schedule(message)
        return True

    def _schedule(self, message: dict[str, Any]) -> None:
        heapq.heappush(self._agenda, (message["visible_at"], next(self._numbers), message))


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def create(data: dict[str, Any], url: str) -> Any:
    created = original["CreateQueue"](data, url)
    name = data["QueueName"]
    if name not in queues:
        queue = queues[name] = sqs._get_q(created["QueueUrl"])
        ledgers[name] = Ledger()
        if not queue["is_fifo"]:
            queue["messages"] = Messages(ledgers[name])
    return created


async def receive(data: dict[str, Any], url: str) -> Any:
    queue = sqs._get_q(data.get("QueueUrl", url))
    wait = int(
        data.get("WaitTimeSeconds", queue["attributes"].get("ReceiveMessageWaitTimeSeconds", "0"))
    )
    deadline = time.time() + wait
    ledger = ledgers[queue["name"]]
    ledger.polling += 1
    try:
        while (
            not (found := await original["ReceiveMessage"]({**data, "WaitTimeSeconds": 0}, url))
            and time.time() < deadline
        ):
            await asyncio.sleep(POLL)
        return found
    finally:
        ledger.polling -= 1


def collect(queue: dict[str, Any], most: int, invisible: float) -> list[dict[str, Any]]:
    if queue["is_fifo"]:
        return original_collect(queue, most, invisible)
    return queue["messages"].collect(most, time.time(), invisible)


def one_by_handle(operation: str) -> Any:
    def act(data: dict[str, Any], url: str) -> Any:
        messages = sqs._get_q(data.get("QueueUrl", url))["messages"]
        if not isinstance(messages, Messages):
            return original[operation](data, url)
        if not apply(messages, operation, data):
            raise sqs._Err("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        return {}

    return act


def batch_by_handle(operation: str) -> Any:
    def act(data: dict[str, Any], url: str) -> Any:
        messages = sqs._get_q(data.get("QueueUrl", url))["messages"]
        if not isinstance(messages, Messages):
            return original[operation](data, url)
        entries = data.get("Entries", [])
        sqs._validate_batch_entries(entries, f"{operation}RequestEntry")
        done = [(entry["Id"], apply(messages, operation, entry)) for entry in entries]
        refused = {
            "Code": "ReceiptHandleIsInvalid",
            "Message": "The input receipt handle is invalid.",
            "SenderFault": True,
        }
        return {
            "Successful": [{"Id": id} for id, well in done if well],
            "Failed": [{"Id": id, **refused} for id, well in done if not well],
        }

    return act


def apply(messages: Messages, operation: str, data: dict[str, Any]) -> bool:
    if operation.startswith("Delete"):
        return messages.delete(data["ReceiptHandle"])
    return messages.change_visibility(data["ReceiptHandle"], int(data["VisibilityTimeout"]))


async def dispatch(action: str, data: dict[str, Any], url: str) -> Any:
    ledger = ledgers.get(name_of(data.get("QueueUrl") or url))
    if ledger is not None:
        ledger.call(action)
    return await original_dispatch(action, data, url)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer the benchmark's requests; let ministack answer all others."""
    if scope["type"] != "http" or not scope["path"].startswith("/_bench/"):
        await original_app(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = json.dumps(tell(scope["path"], json.loads(body or b"{}"))).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(told))],
        }
    )
    await send({"type": "http.response.body", "body": told})


def tell(path: str, body: dict[str, Any]) -> dict[str, Any]:
    ledger = ledgers[body["queue"]]
    if path == "/_bench/fill":
        now = time.time()
        for message in body["messages"]:
            queues[body["queue"]]["messages"].append(stored(message, now, body["age"]))
        ledger.fill()
    return ledger.state()


def stored(message: dict[str, Any], now: float, age: float) -> dict[str, Any]:
    """
    Return a message as `SendMessage` made it `age` seconds ago, without its checks: filling is not
    measured.
    """
    attributes = message.get("MessageAttributes", {})
    made = {
        "id": sqs.new_uuid(),
        "body": message["MessageBody"],
        "message_attributes": attributes,
        "md5_attrs": sqs._md5_msg_attrs(attributes),
        "sent_at": now - age,
        "visible_at": now,
    }
    sqs._ensure_msg_fields(made)
    return made


original = dict(sqs._HANDLERS)
original_collect, original_dispatch, original_app = sqs._collect_msgs, sqs._dispatch, ministack.app
sqs._HANDLERS |= {
    "CreateQueue": create,
    "ReceiveMessage": receive,
    "DeleteMessage": one_by_handle("DeleteMessage"),
    "ChangeMessageVisibility": one_by_handle("ChangeMessageVisibility"),
    "DeleteMessageBatch": batch_by_handle("DeleteMessageBatch"),
    "ChangeMessageVisibilityBatch": batch_by_handle("ChangeMessageVisibilityBatch"),
}
sqs._collect_msgs, sqs._dispatch, sqs._expire_retained, ministack.app = (
    collect,
    dispatch,
    lambda _: None,
    app,
)

if __name__ == "__main__":
    ministack.main()
