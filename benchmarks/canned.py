"""
A queue and a topic that cost next to nothing, as a process: `python -m benchmarks.canned`.

For what the client's side costs, where the server's would only be in the way; and for tests, which need no other environment.
It speaks as much of SQS's and SNS's protocols as the contenders of our own environment do. A queue that is asked for is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
import uuid
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from benchmarks.ledger import Ledger
from benchmarks.loopback import response, serve

if TYPE_CHECKING:
    from benchmarks.loopback import Send

_TARGET = re.compile(rb"\r\nX-Amz-Target: AmazonSQS\.(\w+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nHost: ([^\r]+)", re.IGNORECASE)


class Queue:
    """A standard queue without a delay. What was delivered is not delivered again: only what forgot to delete would notice."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._ready: deque[dict[str, Any]] = deque()
        self._held: set[str] = set()
        self._polls: deque[tuple[int, Send, asyncio.TimerHandle]] = deque()

    def fill(self, messages: list[dict[str, Any]]) -> None:
        """Put in messages, as `SendMessage` would take them."""
        sent = str(int(time.time() * 1000))
        for message in messages:
            body = message["MessageBody"]
            self._ready.append(
                {
                    "MessageId": str(uuid.uuid4()),
                    "Body": body,
                    "MD5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
                    "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": sent},
                }
            )
        self.ledger.left += len(messages)
        self.ledger.polling = len(self._polls)
        self.ledger.fill()
        while self._polls and self._ready:
            most, send, timer = self._polls.popleft()
            timer.cancel()
            send(self._next(most))

    def receive(self, body: dict[str, Any], send: Send) -> None:
        """Answer a receive, at once or when something is there."""
        wait = body.get("WaitTimeSeconds", 0)
        if self._ready or not wait:
            send(self._next(body.get("MaxNumberOfMessages", 1)))
            return
        timer = asyncio.get_running_loop().call_later(wait, self._give_up, send)
        self._polls.append((body.get("MaxNumberOfMessages", 1), send, timer))

    def delete(self, handles: list[str]) -> None:
        """Delete what is held."""
        deleted = self._held.intersection(handles)
        self._held -= deleted
        self.ledger.delete(len(deleted))

    def _give_up(self, send: Send) -> None:
        self._polls = deque(poll for poll in self._polls if poll[1] is not send)
        send(response(b"{}"))

    def _next(self, most: int) -> bytes:
        messages = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        for message in messages:
            message["ReceiptHandle"] = message["MessageId"]
            self._held.add(message["MessageId"])
        return response(json.dumps({"Messages": messages} if messages else {}).encode())


queues: defaultdict[str, Queue] = defaultdict(Queue)


def answer(head: bytes, body: bytes, send: Send) -> None:
    """Answer SQS's JSON protocol, SNS's query protocol, or the benchmark."""
    target = _TARGET.search(head)
    if target is not None:
        operate(target[1].decode(), json.loads(body), head, send)
    elif head.startswith(b"POST /_bench/"):
        send(response(json.dumps(tell(head.split(b" ", 2)[1].decode(), json.loads(body))).encode()))
    else:
        send(publish(parse_qs(body.decode())))


def operate(operation: str, body: dict[str, Any], head: bytes, send: Send) -> None:
    """Do what an operation of SQS does."""
    name = body["QueueName"] if "QueueName" in body else body["QueueUrl"].rpartition("/")[2]
    queue = queues[name]
    queue.ledger.call(operation)
    entries = body.get("Entries", [body])
    answered: dict[str, Any] = {}
    match operation:
        case "ReceiveMessage":
            queue.receive(body, send)
            return
        case "CreateQueue":
            host = _HOST.search(head)
            answered = {"QueueUrl": f"http://{host[1].decode() if host else ''}/000000000000/{name}"}
        case "GetQueueAttributes":
            answered = {"Attributes": {"DelaySeconds": "0", "QueueArn": f"arn:aws:sqs:eu-west-1:000000000000:{name}"}}
        case "DeleteMessage" | "DeleteMessageBatch":
            queue.delete([entry["ReceiptHandle"] for entry in entries])
    if operation.endswith("Batch"):
        answered = {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}
    send(response(json.dumps(answered).encode(), media_type=b"application/x-amz-json-1.0"))


def publish(parameters: dict[str, list[str]]) -> bytes:
    """Take what is published, and deliver it to nobody."""
    action = parameters["Action"][0]
    ids = [value[0] for name, value in parameters.items() if name.endswith(".Id")]
    members = "".join(f"<member><Id>{id}</Id><MessageId>m</MessageId></member>" for id in ids)
    result = f"<Successful>{members}</Successful><Failed/>" if ids else "<MessageId>m</MessageId>"
    xml = f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><{action}Result>{result}</{action}Result>'
    return response(f"{xml}</{action}Response>".encode(), media_type=b"text/xml")


def tell(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Do what the benchmark asks for."""
    queue = queues[body["queue"]]
    if path == "/_bench/fill":
        queue.fill(body["messages"])
    return queue.ledger.state()


if __name__ == "__main__":
    serve(answer)
