"""
Tell the demo's story, from the first process to the verdict.

It runs in its own thread; the screen reads its state.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import urllib3

from change_events import Audit, AuditReport, HTTPFetcher, HTTPListing, SQLiteSink
from demo_parts.changes import Driver, plan, stock
from demo_parts.evidence import Staleness, staleness
from demo_parts.stacks import Outputs, deploy, deploy_queue, waiting

if TYPE_CHECKING:
    from pathlib import Path

    from demo_parts.processes import Child, Children

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "demo",
    "AWS_SECRET_ACCESS_KEY": "demo",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""The emulator wants some. The user's own are neither needed nor read."""

THREADS = 4
PRODUCTS = 30
"""How many products there are first: more than a page of the list."""

SLOWEST_SAVE = 0.2
"""As a share of the settle window: later than an early look, and well within the promise."""

QUIET_PATIENCE = 60.0
"""Seconds to wait, after the last change, for empty queues and filled caches."""

CATCH_UP = 1.0
"""Seconds, beside the settle window, that an audit gives a cache to follow a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What the user can choose.

    Attributes:
        changes: How many changes to make.
        seed: What to draw them from.
        settle: The settle window in whole seconds.
    """

    changes: int
    seed: int
    settle: int


class Downstream:
    """
    A service that keeps a cache.

    Attributes:
        name: Its name, for people.
        queue: Its stack's outputs.
        stats: Its worker's latest known counts.
        staleness: How stale its cache was; known in the end.
    """

    def __init__(self, name: str, queue: Outputs, directory: Path) -> None:
        self.name = name
        self.queue = queue
        self.cache = directory / f"{name}.db"
        self.outcome_log = directory / f"{name}.jsonl"
        self.stats: dict[str, int] = {}
        self.staleness: Staleness | None = None
        self.url = ""

    def start(self, children: Children, source: str, settle: int) -> Child:
        """Start its process."""
        options = {
            "--queue-url": self.queue["QueueUrl"],
            "--source": source,
            "--cache": str(self.cache),
            "--settle": str(settle),
            "--outcome-log": str(self.outcome_log),
            "--port": "0",
            "--log-level": "warning",
        }
        return children.start(
            self.name,
            "product_service.downstream",
            *(word for option in options.items() for word in option),
        )

    def audit(self, source: str, settle: int) -> AuditReport:
        """Compare its cache with the source."""
        products = f"{source}/products"
        with SQLiteSink(self.cache) as cache:
            return Audit(
                HTTPListing(products, entities=True),
                fetcher=HTTPFetcher(f"{products}/{{id}}"),
                sink=cache,
                min_age=settle + CATCH_UP,
            ).run()

    def queue_urls(self) -> list[str]:
        """Return the URLs of its queue and of both dead-letter queues."""
        return [url for output, url in self.queue.items() if output.endswith("QueueUrl")]


class Story:
    """
    The demo, step by step.

    Attributes:
        steps: What has been done, in lines.
        driver: Makes the changes; None before they begin.
        downstreams: The services that keep caches; empty before they run.
        summary: The aggregation that a downstream answers from its cache.
        findings: What the end shows, in lines; and for each whether it is right.
        verdict: The last line.
        equal: True if both caches equal the source.
        error: What ended the story early.
        done: Set when the story has ended.
    """

    def __init__(self, settings: Settings, children: Children, directory: Path) -> None:
        self.settings = settings
        self.steps: list[str] = []
        self.driver: Driver | None = None
        self.downstreams: list[Downstream] = []
        self.summary: list[dict[str, Any]] = []
        self.findings: list[tuple[bool, str]] = []
        self.verdict = ""
        self.equal = False
        self.error: Exception | None = None
        self.done = threading.Event()
        self._children = children
        self._directory = directory
        self._pool = urllib3.PoolManager(maxsize=4, retries=False, timeout=10)
        self._session: Any = None
        self._source = ""
        self._first: list[str] = []  # the products that there are before the changes

    def run(self) -> None:
        """Tell the story. Don't raise: put an error into `error`."""
        try:
            self._set_up()
            threading.Thread(target=self._watch, daemon=True).start()
            driver = self._drive()
            self._wait_until_quiet()
            self._judge(driver)
        except Exception as error:  # the screen shows any error, and stops the children
            self.error = self._children.failure() or error
        finally:
            self.done.set()

    def _set_up(self) -> None:
        endpoint = self._children.start("emulator", "demo_parts.emulator").url()
        self.steps.append(f"an emulator of AWS (moto) on {endpoint}")
        self._children.set_environment(**CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        self._session = _Session(endpoint)
        topic_arn = deploy(self._session, "products", "topic.yaml")["TopicArn"]
        self.steps.append("a topic, from a template in change_events/cloudformation/")
        self._children.set_environment(PRODUCT_EVENTS_TOPIC_ARN=topic_arn)
        options = ["--create-table", "--demo-faults", "--port", "0", "--log-level", "warning"]
        self._source = self._children.start("products", "product_service", *options).url()
        self.steps.append(f"the product service on {self._source}: broadcasts, then saves")
        first = Driver(self._source, stock(PRODUCTS), threads=THREADS)
        first.run()
        self._first = first.ids
        self.steps.append(f"it has {PRODUCTS} products, announced before anybody had a queue")
        early, delayed = self._deploy(topic_arn)
        children = [
            downstream.start(self._children, self._source, self.settings.settle)
            for downstream in (early, delayed)
        ]
        early.url, delayed.url = (child.url() for child in children)
        self.steps.append(
            f"{early.name!r} on {early.url}: fills its cache from the list of products; "
            f"looks at an event at once, and {self.settings.settle} s later"
        )
        self.steps.append(
            f"{delayed.name!r} on {delayed.url}: the same, but looks {self.settings.settle} s "
            "later only"
        )
        self.downstreams = [early, delayed]

    def _deploy(self, topic_arn: str) -> tuple[Downstream, Downstream]:
        settle = self.settings.settle
        early = deploy_queue(self._session, "early-look", topic_arn=topic_arn, delay=0, raw=True)
        delayed = deploy_queue(
            self._session, "one-look", topic_arn=topic_arn, delay=settle, raw=False
        )
        self.steps.append("two queues, subscribed to it, from another template there")
        return (
            Downstream("early look", early, self._directory),
            Downstream("one look", delayed, self._directory),
        )

    def _drive(self) -> Driver:
        settings = self.settings
        changes = plan(settings.seed, settings.changes, slowest=SLOWEST_SAVE * settings.settle)
        self.driver = Driver(self._source, changes, ids=self._first, threads=THREADS)
        self.driver.run()
        return self.driver

    def _wait_until_quiet(self) -> None:
        deadline = time.monotonic() + QUIET_PATIENCE
        while not self._is_quiet():
            self._check_children()
            if time.monotonic() > deadline:
                break  # the verdict says it
            time.sleep(0.2)

    def _is_quiet(self) -> bool:
        queues = [downstream.queue["QueueUrl"] for downstream in self.downstreams]
        return not waiting(self._session, queues) and all(
            self._get(f"{downstream.url}/stats")["synced"] for downstream in self.downstreams
        )

    def _judge(self, driver: Driver) -> None:
        self._check_children()
        for downstream in self.downstreams:
            downstream.stats = self._get(f"{downstream.url}/stats")
            downstream.staleness = staleness(driver.saved, downstream.outcome_log)
        self.summary = self._get(f"{self.downstreams[0].url}/summary")
        self.findings = [self._all_announced(driver), self._all_empty(), self._all_filled()]
        audits = [each.audit(self._source, self.settings.settle) for each in self.downstreams]
        for downstream, audit in zip(self.downstreams, audits, strict=True):
            self.findings.append((audit.clean, f"audit of {downstream.name!r}: {found(audit)}"))
        self.equal = all(audit.clean for audit in audits)
        self.verdict = (
            f"Both caches equal the source: {audits[0].compared} products, the same ids, "
            "the same bodies."
            if self.equal
            else "NOT equal to the source: see the audits."
        )

    def _all_announced(self, driver: Driver) -> tuple[bool, str]:
        events = {downstream.stats["acknowledged"] for downstream in self.downstreams}
        if events == {driver.broadcasts}:
            return True, (
                f"{driver.broadcasts} saves begun, as many events: "
                f"the {driver.tally['rejected']} rejected sent none"
            )
        return False, (
            f"{driver.broadcasts} saves begun, but {' and '.join(map(str, events))} events"
        )

    def _all_empty(self) -> tuple[bool, str]:
        urls = [url for downstream in self.downstreams for url in downstream.queue_urls()]
        left = waiting(self._session, urls)
        return left == 0, (
            f"{left or 'no'} messages are left in the {len(urls)} queues, "
            "dead-letter queues included"
        )

    def _all_filled(self) -> tuple[bool, str]:
        filled = all(downstream.stats["synced"] for downstream in self.downstreams)
        return filled, (
            f"both caches were {'' if filled else 'NOT '}filled from the list of products, "
            "beside the changes"
        )

    def _watch(self) -> None:
        """Keep the counts up to date for the screen."""
        # After an error this thread stops; the story's own thread meets the error, too.
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            while not self.done.wait(0.2):
                for downstream in self.downstreams:
                    downstream.stats = self._get(f"{downstream.url}/stats")

    def _check_children(self) -> None:
        if (failure := self._children.failure()) is not None:
            raise failure

    def _get(self, url: str) -> Any:
        return self._pool.request("GET", url).json()


def found(audit: AuditReport) -> str:
    """Say in a line what an audit has found, and in more what is wrong."""
    if not audit.clean:
        return str(audit)
    return (
        f"{audit.compared} compared, {audit.missing} missing, {audit.extra} extra, "
        f"{audit.different} different"
    )


class _Session:
    """Makes each client for the emulator once."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self._endpoint,
                region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
                aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            )
        return self._clients[service]
