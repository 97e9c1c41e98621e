"""
A queue and a topic that cost next to nothing, as a process.

    python -m verification.benchmarks.canned

It measures the costs of clients, where a real server's would be in the way, and it lets tests run
without another environment. It knows as much of SQS's and SNS's protocols as our own environment's
contenders need. Every queue exists. A topic delivers to the queue of the same name, raw. A message
that is not deleted in time does not come back, but is counted.
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

from verification.benchmarks.ledger import SNS_LAG, Ledger
from verification.benchmarks.loopback import response, serve

if TYPE_CHECKING:
    from verification.benchmarks.loopback import Send

_TARGET = re.compile(rb"\r\nX-Amz-Target: AmazonSQS\.(\w+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nHost: ([^\r]+)", re.IGNORECASE)


class Queue:
    """A standard queue that delivers each message once."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.delay = 0
        self._ready: deque[dict[str, Any]] = deque()
        self._deadlines: dict[str, float] = {}
        self._polls: deque[tuple[dict[str, Any], Send, asyncio.TimerHandle]] = deque()

    def put(self, messages: list[dict[str, Any]], *, age: float = 0.0) -> None:
        """Put in messages, given as parameters of `SendMessage`, as if sent `age` seconds ago."""
        sent = str(int((time.time() - age) * 1000))
        for message in messages:
            body = message["MessageBody"]
            self._ready.append(
                {
                    "MessageId": str(uuid.uuid4()),
                    "Body": body,
                    "MD5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
                    "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": sent},
                    "MessageAttributes": message.get("MessageAttributes", {}),
                }
            )
        self.ledger.left += len(messages)
        while self._polls and self._ready:
            asked, send, timer = self._polls.popleft()
            timer.cancel()
            send(self._next(asked))

    def fill(self, messages: list[dict[str, Any]], *, age: float) -> None:
        """Put in messages, and begin to count."""
        self.ledger.polling = len(self._polls)
        self.ledger.fill()
        self.put(messages, age=age)

    def receive(self, asked: dict[str, Any], send: Send) -> None:
        """Answer a receive, at once or when there is a message."""
        wait = asked.get("WaitTimeSeconds", 0)
        if self._ready or not wait:
            send(self._next(asked))
            return
        timer = asyncio.get_running_loop().call_later(wait, self._give_up, send)
        self._polls.append((asked, send, timer))

    def delete(self, handle: str) -> bool:
        """Delete a message; return False if it is not in flight."""
        if not self._in_time(handle):
            return False
        del self._deadlines[handle]
        self.ledger.delete()
        return True

    def change_visibility(self, handle: str, seconds: float) -> bool:
        """Change the visibility of a message; return False if it is not in flight."""
        if not self._in_time(handle):
            return False
        self._deadlines[handle] = time.monotonic() + seconds
        return True

    def state(self) -> dict[str, Any]:
        """Return the ledger."""
        now = time.monotonic()
        return {
            **self.ledger.state(),
            "late": sum(deadline < now for deadline in self._deadlines.values()),
        }

    def _in_time(self, handle: str) -> bool:
        deadline = self._deadlines.get(handle)
        if deadline is None:
            return False
        self.ledger.missed += deadline < time.monotonic()
        return True

    def _give_up(self, send: Send) -> None:
        self._polls = deque(poll for poll in self._polls if poll[1] != send)
        send(response(b"{}"))

    def _next(self, asked: dict[str, Any]) -> bytes:
        most = min(asked.get("MaxNumberOfMessages", 1), len(self._ready))
        messages = [self._ready.popleft() for _ in range(most)]
        deadline = time.monotonic() + asked.get("VisibilityTimeout", 60)
        for message in messages:
            message["ReceiptHandle"] = message["MessageId"]
            self._deadlines[message["MessageId"]] = deadline
        self.ledger.received += len(messages)
        return response(json.dumps({"Messages": messages} if messages else {}).encode())


queues: defaultdict[str, Queue] = defaultdict(Queue)


def answer(head: bytes, body: bytes, send: Send) -> None:
    """Answer a request in SQS's JSON protocol, SNS's query protocol, or the benchmark's."""
    target = _TARGET.search(head)
    if target is not None:
        operate(target[1].decode(), json.loads(body), head, send)
    elif head.startswith(b"POST /_bench/"):
        send(response(json.dumps(tell(head.split(b" ", 2)[1].decode(), json.loads(body))).encode()))
    else:
        send(publish({name: value[0] for name, value in parse_qs(body.decode()).items()}))


def operate(operation: str, body: dict[str, Any], head: bytes, send: Send) -> None:
    """Do an operation of SQS, and answer it."""
    name = body["QueueName"] if "QueueName" in body else body["QueueUrl"].rpartition("/")[2]
    queue = queues[name]
    queue.ledger.call(operation)
    answered: dict[str, Any] = {}
    match operation:
        case "ReceiveMessage":
            queue.receive(body, send)
            return
        case "CreateQueue":
            queue.delay = int(body.get("Attributes", {}).get("DelaySeconds", 0))
            host = _HOST.search(head)
            answered = {
                "QueueUrl": f"http://{host[1].decode() if host else ''}/000000000000/{name}"
            }
        case "GetQueueAttributes":
            arn = f"arn:aws:sqs:eu-west-1:000000000000:{name}"
            answered = {"Attributes": {"DelaySeconds": str(queue.delay), "QueueArn": arn}}
        case "DeleteMessage":
            queue.delete(body["ReceiptHandle"])
        case "DeleteMessageBatch":
            answered = outcome(
                [(entry["Id"], queue.delete(entry["ReceiptHandle"])) for entry in body["Entries"]]
            )
        case "ChangeMessageVisibilityBatch":
            answered = outcome(
                [
                    (
                        entry["Id"],
                        queue.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"]),
                    )
                    for entry in body["Entries"]
                ]
            )
    send(response(json.dumps(answered).encode(), media_type=b"application/x-amz-json-1.0"))


def outcome(entries: list[tuple[str, bool]]) -> dict[str, Any]:
    """Return a batch call's answer."""
    refused = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True}
    return {
        "Successful": [{"Id": id} for id, well in entries if well],
        "Failed": [{"Id": id, **refused} for id, well in entries if not well],
    }


def publish(parameters: dict[str, str]) -> bytes:
    """Deliver what is published to the queue with the topic's name, after a while."""
    action = parameters["Action"]
    entries = [name.removesuffix("Id") for name in parameters if name.endswith(".Id")]
    messages = [
        {
            "MessageBody": parameters[f"{entry}Message"],
            "MessageAttributes": dict(attributes(parameters, entry)),
        }
        for entry in entries or [""]
    ]
    queue = queues[parameters["TopicArn"].rpartition(":")[2]]
    asyncio.get_running_loop().call_later(SNS_LAG + queue.delay, queue.put, messages)
    members = "".join(
        f"<member><Id>{parameters[f'{entry}Id']}</Id><MessageId>m</MessageId></member>"
        for entry in entries
    )
    result = (
        f"<Successful>{members}</Successful><Failed/>" if entries else "<MessageId>m</MessageId>"
    )
    xml = (
        f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<{action}Result>{result}</{action}Result></{action}Response>"
    )
    return response(xml.encode(), media_type=b"text/xml")


def attributes(parameters: dict[str, str], entry: str) -> list[tuple[str, dict[str, str]]]:
    """Return the message attributes of a published entry."""
    found, number = [], 1
    while (name := parameters.get(f"{entry}MessageAttributes.entry.{number}.Name")) is not None:
        value = parameters[f"{entry}MessageAttributes.entry.{number}.Value.StringValue"]
        found.append((name, {"DataType": "String", "StringValue": value}))
        number += 1
    return found


def tell(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Do a command of the benchmark."""
    queue = queues[body["queue"]]
    if path == "/_bench/fill":
        queue.fill(body["messages"], age=body["age"])
    return queue.state()


if __name__ == "__main__":
    serve(answer)
