"""What every workload needs: a queue server, a source, consumers, and the costs of all of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import urllib3

from verification.benchmarks import environments
from verification.harness import ROOT, emulators
from verification.harness.processes import START_PATIENCE, Process, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from verification.benchmarks.contenders import Contender

CREDENTIALS = {**emulators.CREDENTIALS, "AWS_REGION": emulators.REGION}
"""`AWS_REGION` is what Node's SDK reads."""

WARM_UP = 0.5
"""
Seconds between a consumer's first receive and the filling of the queue. All of the consumer's
threads poll by then.
"""


class Family(Process):
    """A process and its children, and what all of them cost."""

    def __init__(self, log: Path, *command: str, **environment: str) -> None:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])  # of this checkout
        super().__init__(log, *command, **{"PYTHONPATH": paths, **environment})
        self.info = psutil.Process(self.pid)

    def cpu(self) -> float:
        """Return the seconds of CPU, user and system, that the processes have used."""
        total = 0.0
        for process in [self.info, *self.info.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        """Kill the process and its children, which are in its session."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self.info.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        super().close()


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    What a contender did with a queue full of events, and what that cost.

    All consumers are polling when the queue is filled. Times and calls count from then until the
    last event is deleted; the queue server measures both moments. So the time of ours contains the
    settle window, in which it holds an event that is fresh.

    Attributes:
        contender: The contender's name.
        events: How many events there were.
        ids: How many different ids they had.
        threads: The threads of each process.
        processes: The contender's processes.
        wall: Seconds.
        cpu: Seconds of CPU, user and system, of the contender's processes.
        server_cpu: The same of the queue server.
        source_cpu: The same of the source.
        calls: Calls to SQS, by operation.
        gets: GETs to the source, for one product or for many.
        missing: How many ids are missing in the cache at the end. It should be 0.
    """

    contender: str
    events: int
    ids: int
    threads: int
    processes: int
    wall: float
    cpu: float
    server_cpu: float
    source_cpu: float
    calls: dict[str, int]
    gets: int
    missing: int

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.wall


@dataclass
class Stage:
    """
    The servers. Leaving the stage ends all processes.

    Args:
        canned: Use the canned queue server, which costs next to nothing, instead of ministack.
    """

    canned: bool = False
    _exits: ExitStack = field(default_factory=ExitStack, init=False)
    _processes: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.directory = Path(
                exits.enter_context(tempfile.TemporaryDirectory(prefix="change-events-bench-"))
            )
            self._exits = exits
            self.http = urllib3.PoolManager(retries=False, timeout=START_PATIENCE)
            self.source_process = self.start(
                "source", sys.executable, "-m", "verification.benchmarks.source"
            )
            self.source = self.source_process.address()
            self.server_process, self.server = (
                self._start_canned() if self.canned else self._start_ministack()
            )
            self.sqs = self.client("sqs")
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def start(self, name: str, *command: str, **environment: str) -> Family:
        """Start a process, which ends with the stage."""
        self._processes += 1
        process = Family(self.directory / f"{self._processes}-{name}.log", *command, **environment)
        self._exits.callback(process.close)
        return process

    def client(self, service: str, *, connections: int = 10) -> Any:
        """Return a boto3 client for the queue server."""
        return emulators.client(service, self.server, connections=connections)

    def queue(self, **attributes: str) -> str:
        """Make a queue; return its URL."""
        made: str = self.sqs.create_queue(
            QueueName=f"bench-{uuid.uuid4().hex}", Attributes=attributes
        )["QueueUrl"]
        return made

    def topic(self, queue_url: str) -> str:
        """Make a topic that delivers to a queue; return its ARN."""
        name = name_of(queue_url)
        if self.canned:
            return f"arn:aws:sns:eu-west-1:000000000000:{name}"
        sns = self.client("sns")
        arn: str = sns.create_topic(Name=name)["TopicArn"]
        queue_arn = arn.replace(":sns:", ":sqs:")
        allowed = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        self.sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": policy})
        emulators.subscribe(sns, arn, queue_arn)
        return arn

    def consume(
        self, queue_url: str, contender: Contender, path: Path, *, threads: int, **more: Any
    ) -> Family:
        """Start a consumer."""
        told = {
            "queue_url": queue_url,
            "source": self.source,
            "path": str(path),
            "threads": threads,
            "more": more,
        }
        # Libraries with a command line of their own read BENCH; the others ignore it.
        given = {**CREDENTIALS, "AWS_ENDPOINT_URL": self.server, "BENCH": json.dumps(told)}
        return self.start(contender.name, *contender.command(threads), **given)

    def state(self, queue_url: str) -> dict[str, Any]:
        """Return a queue's ledger."""
        return self.tell(self.server, "state", queue=name_of(queue_url))

    def fill(self, queue_url: str, messages: Sequence[dict[str, Any]], *, age: float = 0.0) -> None:
        """Put all messages into a queue at once, as if they had been sent `age` seconds ago."""
        self.tell(self.server, "fill", queue=name_of(queue_url), messages=messages, age=age)

    def tell(self, url: str, what: str, **body: Any) -> dict[str, Any]:
        """Send a command of the benchmark to the queue server or to the source."""
        told: dict[str, Any] = self.http.request("POST", f"{url}/_bench/{what}", json=body).json()
        return told

    def run(
        self,
        contender: Contender,
        ids: Sequence[str],
        *,
        threads: int,
        latency: float,
        processes: int = 1,
        age: float = 0.0,
        patience: float = 600.0,
        **scarce: float,
    ) -> Run:
        """
        Let a contender consume events of these ids, in one or more processes.

        The events have been in the queue for `age` seconds, by the server's clock. `scarce` says
        what the source can do: see `Servers`.
        """
        queue_url = self.queue(VisibilityTimeout="60")
        path = self.directory / f"{uuid.uuid4().hex}.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            # If two processes set this at once, one of them can fail.
            connection.execute("PRAGMA journal_mode = WAL")
        messages = contender.messages(name_of(queue_url), list(ids))
        consumers = [
            self.consume(queue_url, contender, path, threads=threads, **contender.more)
            for _ in range(processes)
        ]
        try:
            self.wait_for_polls(queue_url, consumers)
            self.tell(self.source, "begin", latency=latency, **scarce)
            before = [process.cpu() for process in consumers]
            self.fill(queue_url, messages, age=age)
            measured = [*consumers, self.server_process, self.source_process]
            # Only now, because the server has just spent CPU on filling the queue.
            before += [self.server_process.cpu(), self.source_process.cpu()]
            state = self._wait_until_empty(queue_url, consumers, patience)
            *spent, server, source = [
                process.cpu() - then for process, then in zip(measured, before, strict=True)
            ]
        finally:
            for consumer in consumers:
                consumer.close()
        return Run(
            contender=contender.name,
            events=len(ids),
            ids=len(set(ids)),
            threads=threads,
            processes=processes,
            wall=state["emptied"] - state["filled"],
            cpu=sum(spent),
            server_cpu=server,
            source_cpu=source,
            calls=state["calls"],
            gets=sum(self.tell(self.source, "state").values()),
            missing=len(set(ids) - cached(path)),
        )

    def wait_for_polls(self, queue_url: str, consumers: Sequence[Family]) -> None:
        """Wait until all consumers poll."""

        def all_poll() -> bool:
            return polls(self.state(queue_url)) >= len(consumers) or not all(
                consumer.alive for consumer in consumers
            )

        try:
            wait_until(all_poll, START_PATIENCE)
        except TimeoutError:
            raise TimeoutError(
                f"no poll in {START_PATIENCE:.0f} s: {consumers[0].text()[-2000:]}"
            ) from None
        time.sleep(WARM_UP)
        for consumer in consumers:
            consumer.require_alive()

    def _wait_until_empty(
        self, queue_url: str, consumers: Sequence[Family], patience: float
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while (state := self.state(queue_url))["emptied"] is None:
            for consumer in consumers:
                consumer.require_alive()
            if time.monotonic() > deadline:
                printed = consumers[0].text()[-2000:]
                raise TimeoutError(
                    f"{state['left']} events are left after {patience:.0f} s: {printed}"
                )
            time.sleep(0.1)  # each check costs the server a call
        return state

    def _start_canned(self) -> tuple[Family, str]:
        process = self.start("canned", sys.executable, "-m", "verification.benchmarks.canned")
        return process, process.address()

    def _start_ministack(self) -> tuple[Family, str]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = self.start(
            "ministack",
            environments.python("ministack"),
            *("-m", "verification.benchmarks.ministack_server"),
            BIND_HOST="127.0.0.1",
            GATEWAY_PORT=str(port),
            LOG_LEVEL="WARNING",
            SERVICES="sqs,sns",
        )
        wait_until(lambda: self._answers(url) or not process.alive, START_PATIENCE)
        process.require_alive()
        return process, url

    def _answers(self, url: str) -> bool:
        try:
            return self.http.request("GET", f"{url}/_ministack/health").status < 500
        except urllib3.exceptions.HTTPError:
            return False


def polls(state: dict[str, Any]) -> int:
    """Return how many times a queue was polled."""
    return int(state["calls"].get("ReceiveMessage", 0))


def name_of(queue_url: str) -> str:
    """Return a queue's name."""
    return queue_url.rpartition("/")[2]


def cached(path: Path) -> set[str]:
    """Return the ids in a contender's cache."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            id for (id,) in connection.execute("SELECT id FROM entities WHERE body IS NOT NULL")
        }
