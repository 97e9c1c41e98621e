"""
What the tests share: an emulator of AWS, a source of entities, and workers between the two.

All of them are real servers and clients on loopback.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import gc
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO
from urllib.parse import parse_qs, urlsplit

import boto3
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings

from change_events import HTTPFetcher, MemorySink, Outcome, Sink, Worker
from change_events._producer.renewals import process_renewals
from demo_parts.emulator import make_emulator
from verification.harness.emulators import (
    CREDENTIALS,
    MariaDB,
    make_table,  # noqa: F401  # tests import it from here
    mariadb_server,
    postgres_server,
    subscribe,
)
from verification.harness.processes import free_port as any_free_port
from verification.harness.processes import wait_until  # noqa: F401  # tests import it from here
from verification.harness.redis_server import MISSING, program
from verification.harness.redis_server import redis_server as running_redis
from verification.harness.source import answer_of, id_in
from verification.harness.wire import Answer, Asked, Proxy, Server

pytest_plugins = ["change_events.pytest_plugin", "pytester"]

# No deadline: the machines are shared, and a slow example is not a failure.
settings.register_profile("default", deadline=None)
settings.register_profile("many", deadline=None, max_examples=10_000)
settings.load_profile("default")

# A shell starts a background job with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
"""Where files cost no wait for a disk, and the bytes that must be free: a run needs a quarter."""

FILES = pytest.StashKey[TextIO]()
"""The lock of a run's directory there."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """
    Keep the files of a run in memory: a commit to a disk can take milliseconds.

    A run that failed, or was killed, leaves its files until the next one: only a run that lives
    holds the lock in its directory.
    """
    if {"PYTEST_XDIST_WORKER", "TMPDIR"} & os.environ.keys():
        return
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        return
    for lock in MEMORY.glob("change-events-tests-*/lock"):
        with contextlib.suppress(OSError), lock.open("w") as file:  # of another user, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
    own = tempfile.mkdtemp(prefix="change-events-tests-", dir=MEMORY)
    held = Path(own, "lock").open("w")  # noqa: SIM115  # until the end of the run
    fcntl.flock(held, fcntl.LOCK_EX)
    session.stash[FILES] = held
    os.environ["TMPDIR"], tempfile.tempdir = own, None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the files of a run that passed."""
    if held := session.stash.get(FILES, None):
        held.close()
        if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            shutil.rmtree(Path(held.name).parent, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Let every second process begin with plays, which wait for minutes while others work.

    `--dist worksteal` deals the tests out in as many runs as there are processes.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    plays = [item for item in items if item.path.name == "test_chaos.py"]
    total = len(items)
    items[:] = [item for item in items if item.path.name != "test_chaos.py"]
    beginning = range(0, processes, 2)
    for number, process in enumerate(beginning):
        at = total * process // processes + 1  # xdist may round up
        items[at:at] = plays[number :: len(beginning)]


def pytest_collection_finish() -> None:
    """Leave what is loaded out of garbage collections. They took a fifth of a simulation's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture
def untraced() -> Iterator[None]:
    """
    Switch coverage off in this thread, and in those that it starts.

    pytest-cov's `no_cover` does so only without xdist: in its processes there are two tracers.
    """
    here, in_new_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    sys.settrace(here)
    threading.settrace(in_new_threads)  # type: ignore[arg-type]  # None is allowed


@pytest.fixture(scope="session", autouse=True)
def aws() -> Iterator[str]:
    """The emulator's URL. boto3 finds it, and credentials, in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = make_emulator()
    answer = server.process_request_thread

    def answer_untraced(*connection: Any) -> None:
        sys.settrace(None)  # coverage would trace each line of the emulator
        answer(*connection)

    server.process_request_thread = answer_untraced
    # A daemon: without it, a process of tests whose parent was killed would stay for ever.
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        patch.delenv("AWS_PROFILE", raising=False)
        yield url
    with process_renewals._lock:
        for save in [*process_renewals._saves]:  # they would be broadcast to a server that is gone
            process_renewals.forget(save)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def sns(aws: str) -> Any:
    return boto3.client("sns")


@pytest.fixture(scope="session")
def sqs(aws: str) -> Any:
    return boto3.client("sqs")


@pytest.fixture
def line(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before AWS, for all clients that are made from now on. They try each call once."""
    with Proxy(aws) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield line


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server on a Unix socket."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def make_redis() -> Callable[..., Any]:
    """Run Redis with these settings, for a block."""
    if program() is None:
        pytest.skip(MISSING)
    return running_redis


@pytest.fixture(scope="session")
def redis_server(make_redis: Callable[..., Any]) -> Iterator[Any]:
    """A Redis that tests share: they use names of their own."""
    with make_redis() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server on a port of loopback."""
    if MariaDB.program is None:
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    with mariadb_server() as server:
        yield server


def make_schema(postgres: Any) -> str:
    """Make a schema; return a connection string for it."""
    schema = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.get_uri()) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{postgres.get_uri()}&options=-csearch_path%3D{schema}"


@dataclass(frozen=True)
class Channel:
    """A topic, and a queue that is subscribed to it."""

    topic_arn: str
    queue_url: str
    sns: Any
    sqs: Any

    def messages(self) -> list[dict[str, Any]]:
        """Receive and delete the messages that have arrived."""
        arrived: list[dict[str, Any]] = []
        while True:
            response = self.sqs.receive_message(
                QueueUrl=self.queue_url,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
            if "Messages" not in response:
                return arrived
            arrived += response["Messages"]
            self.sqs.delete_message_batch(
                QueueUrl=self.queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(response["Messages"])
                ],
            )

    def bodies(self) -> list[str]:
        """Receive and delete the messages that have arrived; return their bodies."""
        return [message["Body"] for message in self.messages()]

    def ids(self) -> list[str]:
        return [json.loads(body)["id"] for body in self.bodies()]

    def announce(self, *ids: str) -> None:
        for id in ids:
            self.sns.publish(
                TopicArn=self.topic_arn, Message=json.dumps({"id": id}), **self._fifo(id)
            )

    def send(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body, **self._fifo("group"))

    def count(self) -> dict[str, int]:
        """Count the messages that are visible, in flight and delayed; leave out what is 0."""
        names = {
            "visible": "ApproximateNumberOfMessages",
            "held": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=self.queue_url, AttributeNames=list(names.values())
        )["Attributes"]
        return {
            short: int(attributes[name]) for short, name in names.items() if int(attributes[name])
        }

    def _fifo(self, group: str) -> dict[str, str]:
        if not self.topic_arn.endswith(".fifo"):
            return {}
        return {"MessageGroupId": group, "MessageDeduplicationId": uuid.uuid4().hex}


@pytest.fixture(scope="session")
def make_channel(sns: Any, sqs: Any) -> Callable[..., Channel]:
    def make(*, fifo: bool = False, raw: bool = True, **attributes: str) -> Channel:
        name = uuid.uuid4().hex + (".fifo" if fifo else "")
        kind = {"FifoQueue": "true"} if fifo else {}
        topic_arn = sns.create_topic(Name=name, Attributes={"FifoTopic": "true"} if fifo else {})[
            "TopicArn"
        ]
        queue_url = sqs.create_queue(QueueName=name, Attributes={**kind, **attributes})["QueueUrl"]
        queue = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        subscribe(sns, topic_arn, queue, raw=raw)
        return Channel(topic_arn, queue_url, sns, sqs)

    return make


@pytest.fixture
def channel(make_channel: Callable[..., Channel]) -> Channel:
    return make_channel()


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    return any_free_port()


class Source:
    """
    A service that owns entities, on a real socket.

    Tests change `entities`, or set `answer` and `answer_many` to return other answers.
    """

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any] | None] = {}  # None: deleted, 410
        self.answer: Callable[[str], Answer | None] = lambda id: None
        self.answer_many: Callable[[list[str]], Answer | None] = lambda ids: None
        self.asked: list[Asked] = []
        self.asked_many: list[list[str]] = []
        self.url = ""
        self.gate = threading.Event()  # every answer waits until it is set
        self.gate.set()
        self.arrived = threading.Semaphore(0)  # each request releases it, before the gate

    def ids(self) -> list[str]:
        return [id_in(asked) for asked in self.asked]

    def respond(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        self.arrived.release()
        assert self.gate.wait(30)
        if asked.path.startswith("/many?"):
            return self._respond_to_many(parse_qs(urlsplit(asked.path).query)["id"])
        id = id_in(asked)
        return self.answer(id) or answer_of(self.entities, id, asked.headers.get("If-None-Match"))

    def _respond_to_many(self, ids: list[str]) -> Answer:
        self.asked_many.append(ids)
        return self.answer_many(ids) or Answer(200, json.dumps(self.found(ids)).encode())

    def found(self, ids: list[str]) -> list[dict[str, Any]]:
        return [entity for id in ids if (entity := self.entities.get(id)) is not None]


@contextmanager
def serving(source: Source, tls: ssl.SSLContext | None = None) -> Iterator[Source]:
    with Server(
        lambda asked: source.respond(asked),  # noqa: PLW0108  # tests replace `respond`
        tls=tls,
    ) as server:
        source.url = server.url
        yield source


@pytest.fixture
def source() -> Iterator[Source]:
    with serving(Source()) as running:
        yield running


# Certificates

NOW = dt.datetime.now(dt.timezone.utc)
DAY = dt.timedelta(days=1)


def certificate(
    key: Any,
    *,
    begins: dt.datetime = NOW - DAY,
    ends: dt.datetime = NOW + DAY,
    host: str | None = None,
    ca: bool = False,
    issuer: tuple[Any, Any] | None = None,
) -> x509.Certificate:
    """Make a certificate, self-signed unless `issuer` is given: a certificate and its key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host or "sns.amazonaws.com")])
    issuing, issuing_key = issuer or (None, key)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key.public_key())
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuing.subject if issuing else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage),
            critical=True,
        )
    )
    if host:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        )
    return builder.sign(issuing_key, hashes.SHA256())


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority: its certificate's file, and what makes TLS contexts of servers."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate(ca_key, ca=True, host="authority.example")
    directory = tmp_path_factory.mktemp("authority")
    (directory / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def server(host):
        server_key = ec.generate_private_key(ec.SECP256R1())
        private = server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        chain = certificate(server_key, host=host, issuer=(ca, ca_key)).public_bytes(
            serialization.Encoding.PEM
        )
        (directory / f"{host}.pem").write_bytes(private + chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / f"{host}.pem")
        return context

    return directory / "ca.pem", server


@pytest.fixture
def look_up(monkeypatch):
    """Ports of loopback by host name. A host in it resolves to 127.0.0.1 and that port."""
    ports = {}
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host in ports:
            return real("127.0.0.1", ports[host], *args, **kwargs)
        assert "amazonaws" not in str(host), "a test must not ask AWS"
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return ports


class Outcomes:
    """The outcomes of looks, in order, and a way to wait for them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def __call__(self, id: str, outcome: Outcome) -> None:
        with self._changed:
            self.seen.append((id, outcome.value))
            self._changed.notify_all()

    def wait_for(self, *expected: tuple[str, str], seconds: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(expected) <= set(self.seen), seconds), (
                self.seen
            )


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def sink() -> MemorySink[Any]:
    return MemorySink()


@pytest.fixture
def make_worker(
    channel: Channel, source: Source, sink: Sink[Any], outcomes: Outcomes
) -> Callable[..., Worker[Any]]:
    """Make a worker for the test's queue, source and sink. By default it ends quickly."""

    def make(queue_url: str = channel.queue_url, **settings: Any) -> Worker[Any]:
        given = {
            "settle": 0.0,
            "wait_time": 1,
            "sink": sink,
            "on_outcome": outcomes,
            "threads": 4,
            "prefetch": 100,
        }
        fetcher = HTTPFetcher(source.url + "/products/{id}")
        return Worker(queue_url, **({"fetcher": fetcher} | given | settings))

    return make


@pytest.fixture
def name_app(monkeypatch: pytest.MonkeyPatch) -> Callable[[Worker[Any]], str]:
    """Return what names a worker as the command's APP."""

    def name(worker: Worker[Any]) -> str:
        module = ModuleType("shop_cache")
        module.worker = worker  # type: ignore[attr-defined]  # a module can have any
        monkeypatch.setitem(sys.modules, "shop_cache", module)
        return "shop_cache:worker"

    return name


@pytest.fixture
def app(make_worker: Callable[..., Worker[Any]], name_app: Callable[[Worker[Any]], str]) -> str:
    """The test's worker, as the command's APP."""
    return name_app(make_worker())


@pytest.fixture
def list_products(source: Source) -> str:
    """Let the source list its entities, whole, on one page; return the listing's URL."""

    def answer(id: str) -> Answer | None:
        if id != "products":
            return None
        listed = [each for each in source.entities.values() if each is not None]
        return Answer(200, json.dumps(listed).encode())

    source.answer = answer
    return f"{source.url}/products"


@contextmanager
def running(worker: Worker[Any]) -> Iterator[threading.Thread]:
    """Run the worker in a thread; at the end stop it, and raise the error that it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def spy(operation: str) -> tuple[Any, list[Any]]:
    """Return a client, and a list that gets the parameters of its calls of one operation."""
    return spied(boto3.client("sqs"), operation)


def spied(client: Any, operation: str) -> tuple[Any, list[Any]]:
    """Return the client, and a list that gets the parameters of its calls of one operation."""
    calls: list[Any] = []
    client.meta.events.register(
        f"provide-client-params.sqs.{operation}", lambda params, **_: calls.append(params)
    )
    return client, calls


def failing(operation: str, *answers: Any) -> tuple[Any, list[Any]]:
    """
    Return a client whose first calls of one operation get these answers, and the answers left.

    An answer is an error to raise, or a parsed response.
    """
    client = boto3.client("sqs")
    left = list(answers)

    def answer(**_: Any) -> Any:
        if not left:
            return None
        first = left.pop(0)
        if isinstance(first, Exception):
            raise first
        return type("Response", (), {"status_code": 200})(), first

    client.meta.events.register(f"before-call.sqs.{operation}", answer)
    return client, left


def signalled(
    *numbers: int, when: Callable[[], object], then: Callable[[], object] = lambda: None
) -> threading.Thread:
    """Send signals to this process once `when` returns; then call `then`."""

    def send() -> None:
        when()
        for number in numbers:
            os.kill(os.getpid(), number)
        then()

    thread = threading.Thread(target=send)
    thread.start()
    return thread
