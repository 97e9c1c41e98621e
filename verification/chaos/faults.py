"""How a source and SQS fail, over the wire."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from verification.harness.source import id_in
from verification.harness.wire import HANG_UP, RESET, Answer, half, sqs_error

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from verification.harness.wire import Asked, Proxy

HTML = {"Content-Type": "text/html; charset=utf-8"}

OOPS = Answer(500, b'{"detail": "oops"}')
UNAVAILABLE = Answer(503, b"<html>Service Unavailable</html>", HTML)
FORBIDDEN = Answer(403, b'{"detail": "token expired"}')
HALF_A_BODY = half(Answer(200, b'{"id": "p1", "n": 1000000}'))

SOON = [OOPS, UNAVAILABLE, HALF_A_BODY, HANG_UP, RESET]
"""The ways in which a GET fails at once."""

OUTAGE = [
    UNAVAILABLE,
    OOPS,
    Answer(429, b'{"detail": "slow down"}'),
    Answer(200, b"", {"Content-Type": "application/json"}, length=100, chunks=[(3.0, b"late")]),
    HALF_A_BODY,
    HANG_UP,
    RESET,
]
"""The ways in which a source is down."""


BROKEN: dict[str, Answer | None] = {
    "500": OOPS,
    "a framework's 404, in HTML": Answer(404, b"<h1>Not Found</h1>", HTML),
    "a body that is wrong": Answer(200, b'{"id": "another"}'),
    "a row that the cache refuses": None,
}
"""The answers to GETs of entities that are broken; None: the entity itself."""


def answering(answer: Answer, prefix: str) -> Callable[[Asked], Answer | None]:
    """Return a fault that gives this answer to the GETs of ids that begin so."""
    return lambda asked: answer if id_in(asked).startswith(prefix) else None


def noted(fault: Callable[[Asked], Answer], asked: list[Asked]) -> Callable[[Asked], Answer]:
    """Return the same fault; it appends each request to `asked`."""

    def answer(request: Asked) -> Answer:
        asked.append(request)
        return fault(request)

    return answer


def sqs_failure(asked: Asked, chance: random.Random, sqs: Proxy) -> Answer:
    """Return one of the ways in which SQS fails."""
    operation = asked.headers.get("X-Amz-Target", "")
    return chance.choice(
        [
            sqs_error(500, "InternalError"),
            sqs_error(503, "ServiceUnavailable"),
            sqs_error(400, "ThrottlingException"),
            sqs_error(403, "ExpiredToken"),
            HANG_UP,
            RESET,
            # Not half of a receive: its messages would stay hidden for a visibility timeout.
            *([] if "Receive" in operation else [half(sqs.forward(asked))]),
        ]
    )


class Deliveries:
    """
    Notes what workers receive through a proxy before SQS.

    Args:
        sqs: The proxy. Its faults are replaced.

    Attributes:
        receives: How often each message was received.
        first: When each id was first received, in monotonic seconds.
    """

    def __init__(self, sqs: Proxy) -> None:
        self.receives: Counter[str] = Counter()
        self.first: dict[str, float] = {}
        self._sqs = sqs
        sqs.fault = self._note

    def _note(self, asked: Asked) -> Answer | None:
        """Forward a receive, and note what it brings; leave other calls alone."""
        if not asked.headers.get("X-Amz-Target", "").endswith("ReceiveMessage"):
            return None
        answer = self._sqs.forward(asked)
        for message in json.loads(answer.body).get("Messages", []):
            self.receives[message["MessageId"]] += 1
            self.first.setdefault(json.loads(message["Body"])["id"], time.monotonic())
        return answer


def half_failed(asked: Asked, sqs: Proxy, refused: Counter[str]) -> Answer:
    """
    Forward half of a batch's entries, and refuse the others.

    Refusals are alternately permanent and temporary; `refused` counts them by their code.
    """
    request = json.loads(asked.body)
    entries = request["Entries"]
    passed, kept = entries[::2], entries[1::2]
    answer = sqs.forward(replace(asked, body=json.dumps(request | {"Entries": passed}).encode()))
    failed = []
    for entry in kept:
        for_good = refused.total() % 2 == 0
        code = "ReceiptHandleIsInvalid" if for_good else "InternalError"
        failed.append(
            {"Id": entry["Id"], "Code": code, "Message": "refused", "SenderFault": for_good}
        )
        refused[code] += 1
    return replace(answer, body=json.dumps(json.loads(answer.body) | {"Failed": failed}).encode())
