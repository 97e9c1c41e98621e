"""Messages and ids, through a queue to a worker."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from typing import TYPE_CHECKING
from urllib.parse import unquote

from verification.chaos.fuzz._draw import Surprises, for_each
from verification.chaos.fuzz._messages import messages
from verification.chaos.stage import Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import wait_until
from verification.harness.progress import Progress
from verification.harness.wire import Raw, RawServer

if TYPE_CHECKING:
    from verification.chaos.fuzz._messages import Body
    from verification.chaos.stage import Worker

PATIENCE = 120.0
"""Seconds until the queue must be empty."""

MOST_WAITING = 150
"""
The sender's limit of messages in the queue. The emulator searches all of them several times in each
call, so it is slow with many.
"""


class Sender:
    """
    Sends messages in batches of ten, as fast as the worker handles them.

    Attributes:
        sent: The messages that were sent, by message id.
        dead: The message ids of dead letters that were removed meanwhile. The emulator is slow
            with many of them.
    """

    def __init__(self, stage: Stage, progress: Progress) -> None:
        self.sent: dict[str, Body] = {}
        self.dead: set[str] = set()
        self._stage = stage
        self._progress = progress
        self._batch: list[Body] = []

    def add(self, body: Body) -> None:
        """Add a message to the batch; send the batch first if the message does not fit."""
        size = sum(len(other.text.encode()) for other in self._batch)
        # SQS allows 262,144 bytes, attributes included.
        if len(self._batch) == 10 or size + len(body.text.encode()) > 200_000:
            self.flush()
        self._batch.append(body)

    def flush(self) -> None:
        """Send the batch."""
        entries = [
            {
                "Id": str(number),
                "MessageBody": body.text,
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in body.attributes.items()
                },
            }
            for number, body in enumerate(self._batch)
        ]
        answer = self._stage.sqs.send_message_batch(QueueUrl=self._stage.queue_url, Entries=entries)
        for entry in answer["Successful"]:
            self.sent[entry["MessageId"]] = self._batch[int(entry["Id"])]
        self._progress.add(len(self._batch))
        self._batch = []
        if len(self.sent) % 50 < 10:
            wait_until(lambda: self._stage.waiting() < MOST_WAITING, PATIENCE)
            _take_letters(self._stage, self.dead)


def fuzz_bodies(seed: int, examples: int) -> list[Figure]:
    """Send messages to a worker through a queue."""
    lines: list[str] = []
    surprises = Surprises()

    def respond(head: bytes) -> Raw:
        line = head.partition(b"\r\n")[0].decode("latin-1")
        lines.append(line)
        body = json.dumps({"id": unquote(line.split(" ")[1].rpartition("/")[2])}).encode()
        headers = b"Content-Type: application/json\r\nContent-Length: %d" % len(body)
        return Raw(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n" + body, keep=True)

    with RawServer(respond) as source, Stage(visibility=3, max_receives=2, settle=0.0) as stage:
        worker = stage.worker(url=source.url + "/products/{id}")
        sender = Sender(stage, Progress(examples, "bodies"))
        for_each(messages, sender.add, seed=seed, examples=examples)
        sender.flush()
        with contextlib.suppress(TimeoutError):  # one of the figures counts what is left
            stage.wait_until_empty(PATIENCE)
        left = stage.waiting()
        crashes = _crashes(worker)
        _take_letters(stage, sender.dead)
        cached = set(stage.cache.items())
    sent = sender.sent
    named = {body.id for body in sent.values() if body.id is not None}
    asked = {id for line in lines if (id := _asked_for(line, surprises)) is not None}
    for id in named ^ asked:
        surprises.see(
            "ids looked at, though no event names them"
            if id in asked
            else "ids that were not looked at",
            id,
        )
    for message_id, body in sent.items():
        if (body.id is None) != (message_id in sender.dead):
            surprises.see(
                "events in the dead-letter queue" if body.id else "others that were deleted", body
            )
    malformed = sum(body.id is None for body in sent.values())
    return [
        exactly("bodies", len(sent), examples),
        Figure(
            "of them different",
            len({(body.text, *sorted(body.attributes.items())) for body in sent.values()}),
        ),
        Figure("events", examples - malformed, at_least=examples // 4),
        Figure("of so many ids", len(named)),
        Figure("no events", malformed, at_least=examples // 10),
        Figure("GETs", len(lines)),
        *none(
            crashes=crashes,
            messages_left_in_the_queue=left,
            paths_asked_outside_the_template=surprises["outside the template"],
            ids_looked_at_though_no_event_names_them=surprises[
                "ids looked at, though no event names them"
            ],
            ids_that_were_not_looked_at=surprises["ids that were not looked at"],
            ids_cached_that_are_not_named_or_named_and_not_cached=len(cached ^ named),
            events_in_the_dead_letter_queue=surprises["events in the dead-letter queue"],
            others_that_were_deleted=surprises["others that were deleted"],
        ),
    ]


def _asked_for(line: str, surprises: Surprises) -> str | None:
    """Return the id that a request line asks for."""
    match = re.fullmatch(r"GET /products/((?:[\w.~-]|%[0-9A-F]{2})+) HTTP/1\.1", line, re.ASCII)
    if match is None or match[1] in {".", ".."}:
        surprises.see("outside the template", line)
        return None
    return unquote(match[1], errors="strict")


def _crashes(worker: Worker) -> int:
    """
    Stop the worker, and count its crashes.

    These are 1 if it has died or its exit status is not 0, and 1 for each critical log line.
    """
    died = not worker.alive
    if not died:
        worker.send(signal.SIGTERM)
        died = worker.wait() != 0
    return died + len([line for line in worker.lines() if line.get("level") == "CRITICAL"])


def _take_letters(stage: Stage, letters: set[str]) -> None:
    """Remove the dead letters from their queue, and add their message ids to `letters`."""
    while found := stage.sqs.receive_message(QueueUrl=stage.dead_url, MaxNumberOfMessages=10).get(
        "Messages", []
    ):
        letters |= {letter["MessageId"] for letter in found}
        handles = [
            {"Id": str(number), "ReceiptHandle": letter["ReceiptHandle"]}
            for number, letter in enumerate(found)
        ]
        stage.sqs.delete_message_batch(QueueUrl=stage.dead_url, Entries=handles)
