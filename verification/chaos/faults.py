"""How a source and SQS fail, over the wire."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from verification.harness.wire import HANG_UP, RESET, Answer, half, sqs_error

if TYPE_CHECKING:
    import random
    from collections import Counter
    from collections.abc import Callable

    from verification.harness.wire import Asked, Proxy

HTML = {"Content-Type": "text/html; charset=utf-8"}

OOPS = Answer(500, b'{"detail": "oops"}')
UNAVAILABLE = Answer(503, b"<html>Service Unavailable</html>", HTML)
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


def failing_for(id: str | None) -> Callable[[Asked], Answer | None]:
    """Return a fault that fails the GETs of one id."""
    return lambda asked: OOPS if asked.path.rpartition("/")[2] == id else None


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


def counting_receives(asked: Asked, sqs: Proxy, receives: Counter[str]) -> Answer | None:
    """Forward a receive, and count the receives of each message; leave other calls alone."""
    if not asked.headers.get("X-Amz-Target", "").endswith("ReceiveMessage"):
        return None
    answer = sqs.forward(asked)
    receives.update(message["MessageId"] for message in json.loads(answer.body).get("Messages", []))
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
