"""Consumers that do the same work: per event a GET, an upsert into SQLite, an acknowledgement."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verification.benchmarks import environments
from verification.harness import ROOT

HERE = ROOT / "verification" / "benchmarks" / "contenders"


def change_event(id: str, queue: str) -> str:
    """Return a change event, as SNS's raw delivery sends it."""
    del queue
    return json.dumps({"id": id})


def dramatiq_message(id: str, queue: str) -> str:
    """Return what dramatiq-sqs sends (`dramatiq.Message`, in base64)."""
    message = {
        "queue_name": queue,
        "actor_name": "look",
        "args": [id],
        "kwargs": {},
        "options": {},
        "message_id": str(uuid.uuid4()),
        "message_timestamp": 1_700_000_000_000,
    }
    return _base64(message)


def celery_message(id: str, queue: str) -> str:
    """
    Return what celery sends over kombu's SQS transport (Celery's message protocol, version 2).
    """
    task = str(uuid.uuid4())
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    message = {
        "body": _base64([[id], {}, embedded]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "look",
            "id": task,
            "root_id": task,
            "parent_id": None,
            "group": None,
            "retries": 0,
        },
        "properties": {
            "correlation_id": task,
            "reply_to": task,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return _base64(message)


def _base64(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """
    A consumer.

    Attributes:
        name: Its name in the tables.
        about: How it does the work.
        environment: The environment that it runs in.
        arguments: Given the number of threads, returns its command line after `python -m`; None:
            the name of its module, which is its own name up to a comma.
        message: Given an id and the queue's name, returns a message's body. Bodies are change
            events if the consumer can read these.
        share: The part of the events that it gets, where all of them would take minutes. Only
            rates are compared.
        more: Settings that only it knows.
    """

    name: str
    about: str
    environment: str = environments.OURS
    arguments: Callable[[int], list[str]] | None = None
    message: Callable[[str, str], str] = change_event
    share: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)

    def command(self, threads: int) -> list[str]:
        """
        Return the command to run.

        Raises:
            EnvironmentUnavailableError: Its environment does not exist, and cannot be made.
        """
        if self.environment == environments.NODE:
            return [
                "env",
                f"NODE_PATH={environments.node() / 'node_modules'}",
                "node",
                str(HERE / f"{self.name}.cjs"),
            ]
        name = self.name.partition(",")[0].replace("-", "_")
        module = f"verification.benchmarks.contenders.{name}"
        arguments = self.arguments(threads) if self.arguments else [module]
        return [environments.python(self.environment), "-m", *arguments]

    def messages(self, queue: str, ids: list[str]) -> list[dict[str, Any]]:
        """Return the parameters of `SendMessage` for these ids."""
        return [{"MessageBody": self.message(id, queue)} for id in ids]


def _dramatiq(threads: int) -> list[str]:
    return [
        "dramatiq",
        "verification.benchmarks.contenders.dramatiq",
        "--processes",
        "2",
        "--threads",
        str(threads),
    ]


def _celery(threads: int) -> list[str]:
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [
        "celery",
        "-A",
        "verification.benchmarks.contenders.celery",
        "worker",
        "-P",
        "threads",
        "-c",
        str(threads),
        *alone,
    ]


OURS = Contender(name="ours", about="the Worker with its defaults, apart from `threads`")
NO_EARLY = Contender(
    name="ours, early_look=False",
    about="the Worker, which looks at a fresh event only once, when the settle window is over",
    more={"early_look": False},
)
AHEAD = Contender(
    name="ours, prefetch 5,000",
    about="the Worker, which holds at most that many events",
    more={"prefetch": 5000},
)
BULK = Contender(
    name="ours, bulk",
    about=(
        "the Worker, with a source that answers up to fifty products at once: "
        "the ids that are due share a GET"
    ),
    more={"bulk": True},
)
TUNED = Contender(
    name="tuned",
    about=(
        "loops on boto3: each thread receives ten, GETs one after the other, deletes the ten in "
        "one call"
    ),
)
PLAIN = Contender(
    name="plain", about="one thread: receive ten; for each GET, write, delete", share=0.03
)

OWN = [OURS, NO_EARLY, AHEAD, BULK]
"""Ours, with its defaults first."""

OTHERS = [
    TUNED,
    Contender(
        name="asyncio-httpx",
        about=(
            "with aiobotocore, httpx and aiosqlite: each task receives ten, GETs one after the "
            "other, deletes the ten in one call"
        ),
        environment="asyncio",
    ),
    Contender(
        name="sqs-consumer",
        about=(
            "on Node: receive ten, all GETs at once, delete the ten in one call; "
            "five such for 50 threads"
        ),
        environment=environments.NODE,
    ),
    Contender(
        name="dramatiq",
        about=(
            "with dramatiq-sqs: two processes of so many threads, each with at most ten messages; "
            "single deletes"
        ),
        environment="dramatiq",
        arguments=_dramatiq,
        message=dramatiq_message,
        share=0.3,
    ),
    Contender(
        name="celery",
        about=(
            "a pool of threads, late acknowledgement, a large prefetch multiplier, hardly a pause "
            "between polls"
        ),
        environment="celery",
        arguments=_celery,
        message=celery_message,
        share=0.3,
    ),
    Contender(
        name="sqs-workers",
        about="a raw queue; one thread, because it has no more; batch delete",
        environment="sqs-workers",
        share=0.03,
    ),
    PLAIN,
]

AT_HAND = [*OWN, TUNED, PLAIN]
"""The contenders that need no other environment."""

ALL = [*OWN, *OTHERS]
"""In the order of the tables."""
