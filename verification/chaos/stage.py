"""A play's world: AWS and a source, a proxy before each, a topic with its queue, and workers."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import change_events
from change_events import ChangeEvent, HTTPFetcher, SNSPublisher, SQLiteSink
from change_events._consumer.settings import HELD_PER_SECOND
from verification.harness.emulators import CREDENTIALS, client, shared_emulator, subscribe
from verification.harness.judge import Cache, violations
from verification.harness.processes import START_PATIENCE, Process, wait_until
from verification.harness.source import Saver, Source
from verification.harness.wire import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

FEW_IDS = ["hot", *(f"p{number}" for number in range(1, 20))]

PATIENCE = 300.0
"""Seconds until the queue must be empty."""


@dataclass(frozen=True)
class End:
    """
    How a worker ended.

    Attributes:
        seconds: The time that it needed.
        status: Its exit status.
        stats: Its counts.
    """

    seconds: float
    status: int
    stats: dict[str, Any]


class Worker(Process):
    """A worker's process, which prints JSON lines."""

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that are complete."""
        return [
            json.loads(line)
            for line in self.text().splitlines(keepends=True)
            if line[:1] == "{" and line[-1:] == "\n"
        ]

    def noted(self, action: str) -> list[dict[str, Any]]:
        """Return the lines of an action."""
        return [line for line in self.lines() if line.get("action") == action]

    def stop(self) -> End:
        """Send SIGTERM, and wait for the end."""
        self.send(signal.SIGTERM)
        return self.ended()

    def ended(self) -> End:
        """Wait for the end."""
        started = time.monotonic()
        status = self.wait()
        return End(time.monotonic() - started, status, self.lines()[-1])


class Stage:
    """
    A play's world. Leaving it stops all servers and processes.

    Args:
        visibility: The workers' visibility timeout in seconds.
        max_receives: The queue's `maxReceiveCount`.
        settle: The settle window in seconds, of savers and workers.

    Attributes:
        aws: The emulator's URL.
        source: Owns the entities.
        before_sqs: The proxy between workers and SQS.
        before_source: The proxy between workers and the source.
        sqs: A client that bypasses the proxy.
        topic_arn: The topic.
        publisher: Broadcasts without a proxy.
        cache: The workers' cache.
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
            self.aws = shared_emulator()
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

    def _make_queue(self) -> None:
        self.sqs = client("sqs", self.aws)
        sns = client("sns", self.aws)
        name = uuid.uuid4().hex
        self.dead_url, dead_arn = self._queue(f"{name}-dead")
        redrive = json.dumps(
            {"deadLetterTargetArn": dead_arn, "maxReceiveCount": str(self._max_receives)}
        )
        self.queue_url, arn = self._queue(name, RedrivePolicy=redrive)
        self.topic_arn = sns.create_topic(Name=name)["TopicArn"]
        subscribe(sns, self.topic_arn, arn)
        self.publisher = SNSPublisher(self.topic_arn, client=sns)

    def _queue(self, name: str, **attributes: str) -> tuple[str, str]:
        url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url, self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]

    def worker(self, **settings: Any) -> Worker:
        """Start a worker with these settings, and wait until it has started."""
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
        process = self.process("worker", given | settings, AWS_ENDPOINT_URL=self.before_sqs.url)
        wait_until(
            lambda: '"action": "start"' in process.text() or not process.alive, START_PATIENCE
        )
        process.require_alive()
        return process

    def process(self, module: str, settings: dict[str, Any], **environment: str) -> Worker:
        """Start a module of this package as a process that prints JSON lines."""
        self._processes += 1
        process = Worker(
            self._directory / f"{module}-{self._processes}.log",
            *(sys.executable, "-m", f"verification.chaos.{module}", json.dumps(settings)),
            **CREDENTIALS | {"AWS_ENDPOINT_URL": self.aws, "AWS_MAX_ATTEMPTS": "1"} | environment,
        )
        self._exits.callback(process.close)
        return process

    def savers(self, exits: ExitStack, seed: int, *, per_second: float) -> list[Saver]:
        """Start two savers of a few ids; they end with `exits`."""
        savers = [
            Saver(
                self.source,
                self.publisher,
                FEW_IDS,
                settle=self.settle,
                per_second=per_second / 2,
                seed=seed + number,
            )
            for number in range(2)
        ]
        for saver in savers:
            saver.start()
            exits.callback(saver.end)
        return savers

    def commit(self, ids: Iterable[str]) -> None:
        """Change entities, and announce them."""
        ids = list(ids)
        for id in ids:
            self.source.commit(id)
        self.announce(ids)

    def fill(self, number: int, prefix: str = "p") -> list[str]:
        """Let a worker of this process cache that many entities; return their ids."""
        ids = [f"{prefix}{each}" for each in range(number)]
        self.commit(ids)
        fetcher = HTTPFetcher(self.source.server.url + "/products/{id}")
        with SQLiteSink(self.cache.path) as sink:
            change_events.Worker(
                self.queue_url, fetcher=fetcher, sink=sink, client=self.sqs, settle=self.settle
            ).drain()
        return ids

    def announce(self, ids: Iterable[str]) -> None:
        """Broadcast ids without saving anything."""
        self.publisher.publish([ChangeEvent(id) for id in ids])

    def waiting(self) -> int:
        """
        Count the messages in the queue: visible, in flight and delayed.

        The emulator counts one kind after the other, and so misses a message that becomes visible
        meanwhile. Therefore it is asked twice.
        """
        return max(sum(self._counts(self.queue_url)) for _ in range(2))

    def dead(self) -> int:
        """Count the dead letters."""
        return sum(self._counts(self.dead_url))

    def _counts(self, url: str) -> list[int]:
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return [int(attributes[name]) for name in names]

    def wait_until_empty(self, seconds: float = PATIENCE) -> float:
        """Wait until the queue has no message left; return the seconds that this took."""
        try:
            return wait_until(lambda: not self.waiting(), seconds)
        except TimeoutError as error:
            logs = sorted(self._directory.glob("worker-*.log"), key=lambda log: log.stat().st_mtime)
            words = "\n".join(f"{log.name}: {log.read_text()[-300:]}" for log in logs[-3:])
            raise TimeoutError(
                f"{self.waiting()} messages are left after {seconds:.0f} s; workers said:\n{words}"
            ) from error

    def wait_until_cached(self, ids: Iterable[str]) -> float:
        """Wait until these ids are cached; return the seconds that this took."""
        missing = set(ids)
        return wait_until(lambda: missing <= self.cache.items().keys(), PATIENCE)

    def state(self, name: str) -> dict[str, Any]:
        """Return what an operation keeps in the cache under this name; nothing: an empty one."""
        with SQLiteSink(self.cache.path) as sink:
            kept: dict[str, Any] = json.loads(sink.state(name) or "{}")
            return kept

    def verdict(self) -> dict[str, int]:
        """
        Compare the cache with the source.

        Returns:
            `lost`: how many entities differ now. `wrong` and `backward`: see `violations`.
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
