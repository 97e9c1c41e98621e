"""Prints what the library costs a service: per call, at import, on disk. `make figures` runs it."""

from __future__ import annotations

import base64
import compileall
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from change_events import (
    ChangeEvent,
    MemorySink,
    NullPublisher,
    SNSPublisher,
    broadcasting,
    broadcasts_before_save,
)
from change_events._codec import decode
from change_events._consumer.guard import Guard
from change_events._consumer.queue import BATCH_SIZE, Message, Queue
from change_events._consumer.run import Run
from change_events._consumer.settings import Settings
from change_events._consumer.signature import SignatureVerifier, _Certificate
from change_events._consumer.stats import Tally
from change_events._meter import Meter
from change_events._producer.clocks import read_clocks
from change_events._producer.renewals import Renewals
from change_events.metrics import OpenTelemetryMetrics, PrometheusMetrics
from change_events.testing import FakeSource
from verification.benchmarks.commits import commit_overhead, django_overhead, loop_stop
from verification.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events import Metrics

TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


class Client:
    """Answers like SNS in no time, so that only our own time is measured."""

    def publish(self, **_: Any) -> dict[str, str]:
        return {"MessageId": "m"}


class Repository:
    client = Client()
    publisher = SNSPublisher(TOPIC, client=client)

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}

    def save_by_hand(self, product: dict[str, str]) -> None:
        self.client.publish(TopicArn=TOPIC, Message=json.dumps({"id": product["id"]}))
        self.rows[product["id"]] = product

    @broadcasts_before_save(publisher, id="product.id")
    def save(self, product: dict[str, str]) -> None:
        self.rows[product["id"]] = product


def microseconds_per_call(save: Callable[[dict[str, str]], None], calls: int = 5_000) -> float:
    product = {"id": "0191d3c4-0000-7000-8000-000000000000"}
    started = time.perf_counter()
    for _ in range(calls):
        save(product)
    return (time.perf_counter() - started) / calls * 1e6


def decorator_overhead() -> None:
    repository = Repository()
    pairs = [
        (microseconds_per_call(repository.save_by_hand), microseconds_per_call(repository.save))
        for _ in range(15)
    ]
    overhead = statistics.median(decorated - by_hand for by_hand, decorated in pairs)
    by_hand = statistics.median(pair[0] for pair in pairs)
    print(
        f"decorator   {overhead:6.1f} µs a call more than the same publish and save by hand "
        f"({by_hand:.1f} µs); goal 25"
    )


class broadcast_only(broadcasting):  # noqa: N801  # named like the class that it replaces
    """One broadcast before the save, without renewals."""

    def __enter__(self) -> None:
        self._publisher.publish([ChangeEvent(id) for id in self._ids])

    def __exit__(self, *_: object) -> None:
        pass


def microseconds_per_block(block: type[broadcasting], calls: int = 5_000) -> float:
    publisher = NullPublisher()
    started = time.perf_counter()
    for _ in range(calls):
        with block(publisher, "p1"):
            pass
    return (time.perf_counter() - started) / calls * 1e6


def renewal_overhead() -> None:
    pairs = [
        (microseconds_per_block(broadcast_only), microseconds_per_block(broadcasting))
        for _ in range(31)
    ]
    overhead = statistics.median(renewed - plain for plain, renewed in pairs)
    print(f"renewals    {overhead:6.1f} µs more for a fast save, which needs no renewal; goal 5")


def renewal_threads(settle: float, saves: int = 10_000) -> None:
    asked = 0

    def clocks() -> tuple[float, ...]:
        nonlocal asked
        asked += threading.current_thread().name == "change-events-renewals"
        return read_clocks()

    renewals = Renewals(clocks=clocks)  # with no saves of others under way
    before = threading.active_count()
    started = time.monotonic()
    for _ in range(saves):
        with broadcasting(NullPublisher(), "p1", settle=settle, renewals=renewals):
            pass
    took = time.monotonic() - started
    started_threads = threading.active_count() - before
    print(
        f"watcher     {started_threads:6d} thread(s) started by {saves:,} fast saves "
        f"in {took:.2f} s; {asked} clock reads in {took / settle * 2:.1f} half windows "
        f"of {settle / 2} s; goal 1, and 4 per half window"
    )


def signature_check(calls: int = 2_000) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    envelope = {
        "Type": "Notification",
        "MessageId": "m",
        "TopicArn": TOPIC,
        "Message": '{"id": "p1"}',
        "Timestamp": "2026-01-01T00:00:00.000Z",
    }
    signed = "".join(
        f"{name}\n{envelope[name]}\n"
        for name in ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
    )
    envelope["Signature"] = base64.b64encode(
        key.sign(signed.encode(), PKCS1v15(), SHA256())
    ).decode()
    envelope["SignatureVersion"] = "2"
    envelope["SigningCertURL"] = (
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
    )
    body = json.dumps(envelope)
    verifier = SignatureVerifier(TOPIC)
    certificate = _Certificate(key.public_key(), 0.0, math.inf)
    verifier._certificate = lru_cache(lambda _: certificate)  # noqa: SLF001  # fetches nothing

    def microseconds(verify: Callable[[Mapping[str, object]], None] | None) -> float:
        started = time.process_time()
        for _ in range(calls):
            decode(body, topic_arn=TOPIC, verify=verify)
        return (time.process_time() - started) / calls * 1e6

    pairs = [(microseconds(None), microseconds(verifier.verify)) for _ in range(15)]
    check = statistics.median(verified - plain for plain, verified in pairs)
    plain = statistics.median(pair[0] for pair in pairs)
    print(f"signature   {check:6.1f} µs of CPU a message more than decoding it ({plain:.1f} µs)")


class InMemory:
    """A consumer with all collaborators in memory, so that only our own CPU is measured."""

    def __init__(self, metrics: Metrics | None) -> None:
        self.received = 0
        source = FakeSource()
        source.update({f"p{number}": {"id": f"p{number}"} for number in range(BATCH_SIZE)})
        self.run = Run(
            Settings("https://sqs/q", fetcher=source, sink=MemorySink(), threads=1),
            queue=cast("Queue", self),
            guard=Guard(),
            tally=Tally(Meter(metrics, queue="products")),
            control=SimpleQueue(),
        )
        self.run.ask_delay()

    def open(self, **_: Any) -> float:
        return 10.0

    def receive(self, **_: Any) -> list[Message]:
        self.received += BATCH_SIZE
        return [
            Message(
                f"m{self.received + number}",
                f"h{number}",
                f'{{"id": "p{number}"}}',
                1,
                {},
                time.time(),
            )
            for number in range(BATCH_SIZE)
        ]

    def delete(self, receipt_handles: list[str]) -> tuple[int, list[str]]:
        return len(receipt_handles), []

    def _due(self) -> list[str]:
        with self.run.consumer as desk:
            return desk.next(math.inf)

    def microseconds_per_event(self, batches: int = 100) -> float:
        started = time.process_time()
        for _ in range(batches):
            self.run.intake.receive(wait=1)
            settled: list[str] = []
            while ids := self._due():
                for events in self.run.looks.look(ids):
                    settled += [event.receipt_handle for event in events]
            self.run.acknowledgements.delete(settled)
        return (time.process_time() - started) / batches / BATCH_SIZE * 1e6


def metrics_overhead() -> None:
    each = {
        "without metrics": InMemory(None),
        "PrometheusMetrics": InMemory(PrometheusMetrics(CollectorRegistry())),
        "OpenTelemetryMetrics": InMemory(
            OpenTelemetryMetrics(MeterProvider([InMemoryMetricReader()]))
        ),
    }
    rounds = [
        {name: consumer.microseconds_per_event() for name, consumer in each.items()}
        for _ in range(15)
    ]
    for name in each:
        cost = statistics.median(taken[name] for taken in rounds)
        print(f"metrics     {cost:6.1f} µs of CPU per event in the consumer's own steps, {name}")


def milliseconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - started) * 1e3


def import_times() -> None:
    compileall.compile_dir(ROOT / "src", quiet=1)  # like an installed package
    for statement, goal in [
        ("import change_events", "; goal 40"),
        ("from change_events import SNSPublisher, broadcasts_before_save", ""),
        ("from change_events import HTTPFetcher, SQLiteSink, Worker", ""),
    ]:
        milliseconds(statement)
        pairs = [(milliseconds("pass"), milliseconds(statement)) for _ in range(15)]
        median = statistics.median(b - a for a, b in pairs)
        print(f"import      {median:6.1f} ms more than python -c pass: {statement}{goal}")


def distributions(python: Path) -> set[str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True
    ).stdout
    return {distribution["name"] for distribution in json.loads(listed)}


def added_distributions() -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory, "bin", "python")
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*install, "boto3"], check=True)
        before = distributions(python)
        subprocess.run([*install, ROOT], check=True)
        added = sorted(distributions(python) - before)
    print(
        f"install     {len(added)} distribution(s) besides boto3's {len(before)}: "
        f"{', '.join(added)}; goal 2"
    )


if __name__ == "__main__":
    decorator_overhead()
    renewal_overhead()
    for window in (5.0, 0.02):
        renewal_threads(window)
    commit_overhead()
    loop_stop()
    django_overhead()
    signature_check()
    metrics_overhead()
    import_times()
    added_distributions()
