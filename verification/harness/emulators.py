"""AWS on loopback."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from verification.harness import ROOT
from verification.harness.processes import Process

if TYPE_CHECKING:
    from pathlib import Path

EMULATOR = ROOT / "examples" / "demo_parts" / "emulator.py"
"""moto's server. It belongs to the examples, because these must run without this package."""

REGION = "eu-west-1"

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}
"""Environment variables. Emulators do not check them, but boto3 needs them."""


def start_emulator(log: Path) -> Process:
    """Start the emulator as a process; `address()` waits for its URL."""
    return Process(log, sys.executable, str(EMULATOR), **CREDENTIALS)


def client(service: str, url: str, *, connections: int = 10) -> Any:
    """Return a boto3 client for an emulator, with boto3's default of connections."""
    session = boto3.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"],
        CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    config = Config(max_pool_connections=connections)
    return session.client(service, endpoint_url=url, config=config)


def subscribe(sns: Any, topic_arn: str, queue_arn: str, *, raw: bool = True) -> None:
    """Subscribe a queue to a topic."""
    sns.subscribe(
        TopicArn=topic_arn,
        Protocol="sqs",
        Endpoint=queue_arn,
        Attributes={"RawMessageDelivery": "true" if raw else "false"},
    )
