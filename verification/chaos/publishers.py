"""Plays in which a publisher is frozen, cancelled or forked."""

from __future__ import annotations

import json
import random
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.judge import Cache
from verification.harness.processes import wait_until
from verification.harness.progress import Progress
from verification.harness.source import id_in
from verification.harness.wire import Answer, Proxy, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from verification.harness.wire import Asked


def frozen_publisher(_seed: int, *, publishers: int) -> list[Figure]:
    """
    Publishers stand still between broadcast and commit, for longer than the settle window.

    Then they go on, and commit. Others are killed right after their commit: the documented hole.
    """
    with Stage(visibility=10) as stage, _commits(stage) as commit_url:
        stage.worker()
        lived = _Frozen(stage, commit_url, publishers, dies=False)
        died = _Frozen(stage, commit_url, publishers, dies=True)
        return [
            Figure("publishers", publishers),
            Figure("frozen", lived.seconds, "s", at_least=stage.settle),
            exactly("exit status 0", lived.statuses.count(0), publishers),
            Figure("saves counted as late", lived.late, at_least=1),
            *none(lost=lived.stale, dead_letters=stage.dead()),
            exactly(
                "others, killed right after the commit",
                died.statuses.count(-signal.SIGKILL),
                publishers,
            ),
            Figure("caches stale after that: the second hole of rule 1", died.stale),
        ]


class _Frozen:
    """Some publishers that were frozen, and what the cache has then."""

    def __init__(self, stage: Stage, commit_url: str, number: int, *, dies: bool) -> None:
        ids = [f"{'dies' if dies else 'lives'}-{each}" for each in range(number)]
        settings = {
            "mode": "frozen",
            "topic_arn": stage.topic_arn,
            "commit_url": commit_url,
            "settle": stage.settle,
            "dies": dies,
        }
        with Proxy(stage.aws) as before_sns:
            processes = [
                stage.process("publisher", settings | {"id": id}, AWS_ENDPOINT_URL=before_sns.url)
                for id in ids
            ]
            wait_until(lambda: all(each.noted("freeze") for each in processes), PATIENCE)
            frozen_at = time.monotonic()
            stage.wait_until_empty()  # the worker has looked for the last time
            time.sleep(max(0.0, frozen_at + 2 * stage.settle - time.monotonic()))
            if not dies:
                # No renewal is accepted before the end of the save, which is at once.
                before_sns.fault = _slowly
            self.seconds = time.monotonic() - frozen_at
            for process in processes:
                process.send(signal.SIGCONT)
            self.statuses = [process.wait() for process in processes]
            time.sleep(stage.settle)  # a renewal of a dead process could still be on its way
            stage.wait_until_empty()
        cached, live = stage.cache.items(), stage.source.live()
        self.stale = sum(cached.get(id) != live[id] for id in ids)
        self.late = sum(line["late"] for each in processes for line in each.noted("stats"))


def _slowly(_: Asked) -> None:
    time.sleep(0.5)  # simulates a slow SNS


def cancelled_save(_seed: int, *, delays: list[float]) -> list[Figure]:
    """`await asyncio.to_thread(commit)` is cancelled; the commit comes after the settle window."""
    # The default window: on a busy machine, half of it is enough for a renewal.
    with Stage(visibility=10, settle=5.0) as stage, _commits(stage) as commit_url:
        stage.worker()
        process = stage.process(
            "publisher",
            {
                "mode": "cancelled",
                "topic_arn": stage.topic_arn,
                "commit_url": commit_url,
                "settle": stage.settle,
                "delays": delays,
            },
        )
        status = process.wait()
        stage.wait_until_empty()
        (cancelled,), (stats,) = process.noted("cancelled"), process.noted("stats")
        return [
            exactly("saves cancelled", cancelled["number"], len(delays)),
            Figure("the first commit after that", min(delays), "s", at_least=stage.settle),
            Figure("the last one", max(delays), "s"),
            exactly("exit status", status, 0),
            Figure("renewals", stats["renewals"], at_least=1),
            exactly("cached", len(stage.cache.items()), len(delays)),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


@contextmanager
def _commits(stage: Stage) -> Iterator[str]:
    """Yield a URL under which processes change the source's entities, but for the warm-up."""

    def commit(asked: Asked) -> Answer:
        if id_in(asked) != "warm-up":
            stage.source.commit(id_in(asked))
        return Answer()

    with Server(commit) as server:
        yield server.url


def fork(seed: int, *, rounds: int, children: int, works: int) -> list[Figure]:
    """
    A publisher forks while its threads store and publish, and ends before its children.

    Sink and publisher were made before the forks. Meanwhile a reader opens and closes the cache.
    """
    chance = random.Random(seed)
    progress = Progress(rounds, "rounds")
    ended = stored = published = lost_rows = lost_events = failed = 0
    for _ in range(rounds):
        with Stage(visibility=300) as stage:
            cache = Cache(stage.cache.path.with_name("forked.db"))
            process = stage.process(
                "publisher",
                {
                    "mode": "forking",
                    "topic_arn": stage.topic_arn,
                    "path": str(cache.path),
                    "children": children,
                    "works": works,
                },
            )
            patience = time.monotonic() + PATIENCE
            while len(process.noted("done")) < 1 + children and time.monotonic() < patience:
                cache.items()
                time.sleep(chance.uniform(0.0, 0.2))
            failed += process.wait() != 0
            done = process.noted("done")
            ended += len(done)
            rows, events = cache.items().keys(), _ids_in_queue(stage)
            acknowledged = {id for each in done for id in each["stored"]}
            sent = {id for each in done for id in each["published"]}
            stored += len(acknowledged)
            published += len(sent)
            lost_rows += len(acknowledged - rows)
            lost_events += len(sent - events)
            progress.add(1)
    total = rounds * (1 + children)
    return [
        exactly("processes that have done their work", ended, total),
        exactly("rows acknowledged", stored, rounds * 2 * works * (1 + 2 * children)),
        exactly("events acknowledged", published, rounds * 2 * works * (1 + 2 * children)),
        *none(
            rows_lost=lost_rows,
            events_lost=lost_events,
            parents_that_failed=failed,
        ),
    ]


def _ids_in_queue(stage: Stage) -> set[str]:
    ids: set[str] = set()
    while stage.waiting():
        messages: list[dict[str, Any]] = stage.sqs.receive_message(
            QueueUrl=stage.queue_url, MaxNumberOfMessages=10
        ).get("Messages", [])
        ids |= {json.loads(message["Body"])["id"] for message in messages}
        if messages:
            stage.sqs.delete_message_batch(
                QueueUrl=stage.queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
    return ids
