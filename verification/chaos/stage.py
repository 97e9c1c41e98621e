"""
What a play needs: AWS and a source, a proxy before each of them, a topic with its queue, and
workers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from change_events import ChangeEvent, SNSPublisher
from change_events._consumer.worker import HELD_PER_SECOND
from verification.chaos.judge import Cache, violations
from verification.chaos.process import START_PATIENCE, Process, wait_until
from verification.chaos.source import Source
from verification.chaos.wire import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-west-1",
}


class Worker(Process):
    """A worker, which prints JSON lines."""

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that it has printed whole."""
        return [
            json.loads(line)
            for line in self.text().splitlines(keepends=True)
            if line[:1] == "{" and line[-1:] == "\n"
        ]


class Stage:
    """
    A play's world. Leaving it stops all servers and processes.

    Args:
        visibility: The workers' visibility timeout in seconds.
        max_receives: After so many receives a message is a dead letter.
        settle: The settle window in seconds, of savers and workers.

    Attributes:
        before_sqs: What all calls of workers to SQS go through.
        before_source: And all their GETs.
        publisher: Broadcasts by the shortest way.
    """

    def __init__(self, *, visibility: int, max_receives: int = 10, settle: float = 1.0) -> None:
        self.visibility = visibility
        self.settle = settle
        self._max_receives = max_receives
        self._exits = ExitStack()
        self._processes = 0

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self._directory = Path(
                exits.enter_context(tempfile.TemporaryDirectory(prefix="change-events-chaos-"))
            )
            self.aws = self._start_emulator(exits)
            self.source = Source()
            exits.enter_context(self.source.server)
            self.before_sqs = exits.enter_context(Proxy(self.aws))
            self.before_source = exits.enter_context(Proxy(self.source.server.url))
            self._make_queue()
            self.cache = Cache(self._directory / "cache.db")
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    def _start_emulator(self, exits: ExitStack) -> str:
        process = Process(self._directory / "aws.log", sys.executable, str(EMULATOR), **CREDENTIALS)
        exits.callback(process.close)
        return process.address()

    def _make_queue(self) -> None:
        session = boto3.Session(
            CREDENTIALS["AWS_ACCESS_KEY_ID"],
            CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name="eu-west-1",
        )
        self.sqs = session.client("sqs", endpoint_url=self.aws)
        sns = session.client("sns", endpoint_url=self.aws)
        name = uuid.uuid4().hex
        self.dead_url, dead_arn = self._queue(f"{name}-dead")
        redrive = json.dumps(
            {"deadLetterTargetArn": dead_arn, "maxReceiveCount": str(self._max_receives)}
        )
        self.queue_url, arn = self._queue(name, RedrivePolicy=redrive)
        topic_arn = sns.create_topic(Name=name)["TopicArn"]
        sns.subscribe(
            TopicArn=topic_arn,
            Protocol="sqs",
            Endpoint=arn,
            Attributes={"RawMessageDelivery": "true"},
        )
        self.publisher = SNSPublisher(topic_arn, client=sns)

    def _queue(self, name: str, **attributes: str) -> tuple[str, str]:
        url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url, self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]

    def worker(self, **settings: Any) -> Worker:
        """Start a worker, and wait until it works."""
        given = {
            "queue_url": self.queue_url,
            "url": self.before_source.url + "/products/{id}",
            "path": str(self.cache.path),
            "get_timeout": 2.0,
            "settle": self.settle,
            "visibility_timeout": self.visibility,
            "wait_time": 1,
            "prefetch": min(1000, HELD_PER_SECOND * self.visibility),
        }
        self._processes += 1
        process = Worker(
            self._directory / f"worker-{self._processes}.log",
            *(sys.executable, "-m", "verification.chaos.worker", json.dumps(given | settings)),
            **CREDENTIALS,
            AWS_ENDPOINT_URL=self.before_sqs.url,
            AWS_MAX_ATTEMPTS="1",
        )
        self._exits.callback(process.close)
        wait_until(
            lambda: '"action": "start"' in process.text() or not process.alive, START_PATIENCE
        )
        process.require_alive()
        return process

    def announce(self, ids: Iterable[str]) -> None:
        """Broadcast ids, and save nothing."""
        self.publisher.publish([ChangeEvent(id) for id in ids])

    def waiting(self) -> int:
        """Count the messages in the queue, visible or not."""
        return sum(self._counts(self.queue_url))

    def dead(self) -> int:
        """Count the dead letters."""
        return sum(self._counts(self.dead_url))

    def _counts(self, url: str) -> list[int]:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return [int(attributes[name]) for name in names]

    def wait_until_empty(self, seconds: float) -> float:
        """Wait until no message is left; return how long that took."""
        return wait_until(lambda: not self.waiting(), seconds)

    def verdict(self) -> dict[str, int]:
        """
        Compare the cache with the source: entities that differ, states that were wrong, and steps
        backward.
        """
        cached, live = self.cache.items(), self.source.live()
        lost = sum(cached.get(id) != live.get(id) for id in cached.keys() | live.keys())
        applied = self.cache.applied()
        pairs = [violations(applied[id], self.source.states.get(id, [])) for id in applied]
        return {
            "lost": lost,
            "wrong": sum(wrong for wrong, _ in pairs),
            "backward": sum(backward for _, backward in pairs),
        }


EMULATOR = Path(__file__).parents[2] / "examples" / "demo_parts" / "emulator.py"
