"""A worker at half of its full load, for half an hour: its use of the machine must not grow."""

from __future__ import annotations

import json
import random
import statistics
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import psutil

from verification.chaos.faults import SOON
from verification.chaos.stage import Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from verification.chaos.stage import Worker

MEGABYTE = 2**20

IDS = [f"p{number}" for number in range(2000)]

BACKLOG = 200
"""
Messages that wait while the full load is measured: always some, but few, because each call of the
emulator searches all of them.
"""

MOST_SOCKETS = 10 + 3 + 10
"""
Sockets that a worker may have: each of its ten looking threads has one to the source and one to
SQS, to hand back what has failed; three other threads have one to SQS each.
"""


@dataclass(frozen=True)
class Sample:
    """
    What a process uses.

    Attributes:
        at: Monotonic seconds.
        memory: The memory that would be free without the process (USS), in MB. The resident set
            counts pages of files that other processes read, too.
        threads: Threads.
        sockets: IP sockets.
        files: Open files, including sockets.
        waiting: Messages in the queue, visible or not.
    """

    at: float
    memory: float
    threads: int
    sockets: int
    files: int
    waiting: int


class Load:
    """
    Changes entities, and sends events.

    They go directly to the queue, because the emulator's SNS keeps everything that it ever sent.

    Attributes:
        events: How many were sent.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.events = 0
        self._stage = stage
        self._random = random.Random(seed)

    def send(self) -> None:
        """Announce ten changes, then make them. Every tenth is a delete."""
        ids = self._random.sample(IDS, 10)
        entries = [
            {"Id": str(number), "MessageBody": json.dumps({"id": id})}
            for number, id in enumerate(ids)
        ]
        self._stage.sqs.send_message_batch(QueueUrl=self._stage.queue_url, Entries=entries)
        for id in ids:
            self._stage.source.commit(id, delete=self._random.random() < 0.1)
        self.events += len(ids)


def soak(
    seed: int,
    *,
    seconds: float,
    warm_up: float,
    every: float,
    full_load_for: float,
    most_growth: float,
    late_threads: int,
    least_share: float,
) -> list[Figure]:
    """A worker at half of its full load, while one GET of fifty fails."""
    with Stage(visibility=10, settle=0.5) as stage:
        gets = count(1)
        stage.before_source.fault = lambda _: (
            SOON[number // 50 % len(SOON)] if (number := next(gets)) % 50 == 0 else None
        )
        full = _full_load(stage, seed, full_load_for)
        load, worker = Load(stage, seed), stage.worker()
        started = time.monotonic()
        samples = _samples(stage, worker, load, per_second=full / 2, seconds=seconds, every=every)
        rate = load.events / (time.monotonic() - started)
        lag = stage.wait_until_empty()
        end = worker.stop()
        return [
            Figure("full load", full, "events/s"),
            Figure("half of it, as sent", rate, "events/s", at_least=least_share * full),
            Figure("events", load.events),
            Figure("looks that failed", end.stats["failed"], at_least=1),
            *_held(
                [sample for sample in samples if sample.at >= started + warm_up],
                most_growth,
                late_threads,
            ),
            # Events whose look has failed come back after a while.
            Figure("until the queue was empty, at the end", lag, "s", at_most=60),
            exactly("exit status", end.status, 0),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def _full_load(stage: Stage, seed: int, seconds: float) -> float:
    """Return how many events a worker settles per second while some always wait in the queue."""
    worker, load = stage.worker(), Load(stage, seed)
    before = _keep_some_waiting(stage, load, seconds / 2)  # meanwhile the worker prefetches
    started = time.monotonic()
    after = _keep_some_waiting(stage, load, seconds)
    ended = time.monotonic()
    stage.wait_until_empty()
    worker.stop()
    return (after - before) / (ended - started)


def _keep_some_waiting(stage: Stage, load: Load, seconds: float) -> int:
    """Send events whenever few are waiting; return how many events of this load are settled."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(min(5, (BACKLOG - stage.waiting()) // 10)):
            load.send()
    return load.events - stage.waiting()


def _samples(
    stage: Stage, worker: Worker, load: Load, *, per_second: float, seconds: float, every: float
) -> list[Sample]:
    """Send events at an even rate, and sample the worker every `every` seconds."""
    process = psutil.Process(worker.pid)
    progress = Progress(round(seconds), "seconds of soak")
    samples: list[Sample] = []
    started = time.monotonic()
    send_at, sample_at = started, started + every
    while (now := time.monotonic()) < started + seconds:
        if (
            now >= sample_at
        ):  # first, because a busy machine can be behind with sending all the time
            samples.append(_sample(process, stage.waiting()))
            stage.source.asked.clear()  # it grows, and is not read here
            progress.add(round(every))
            sample_at += every
        elif now >= send_at:
            load.send()
            send_at += 10 / per_second
        else:
            time.sleep(min(send_at, sample_at) - now)
    return samples


def _sample(process: psutil.Process, waiting: int) -> Sample:
    memory, sockets = (
        process.memory_full_info().uss / MEGABYTE,
        len(process.net_connections(kind="inet")),
    )
    return Sample(
        time.monotonic(), memory, process.num_threads(), sockets, process.num_fds(), waiting
    )


def _held(samples: Sequence[Sample], most_growth: float, late_threads: int) -> list[Figure]:
    """Compare the first tenth of the samples with the last. So many threads can start late."""
    tenth = max(1, len(samples) // 10)

    def growth(what: Callable[[Sample], float]) -> float:
        return statistics.median(map(what, samples[-tenth:])) - statistics.median(
            map(what, samples[:tenth])
        )

    hours = [sample.at / 3600 for sample in samples]
    slope = statistics.linear_regression(hours, [sample.memory for sample in samples]).slope
    threads, sockets, files = (
        [getattr(sample, name) for sample in samples] for name in ("threads", "sockets", "files")
    )
    return [
        Figure("samples after the warm-up", len(samples), at_least=10),
        Figure(
            "memory, median of the last tenth",
            statistics.median(sample.memory for sample in samples[-tenth:]),
            "MB",
        ),
        Figure("growth of memory", growth(lambda sample: sample.memory), "MB", at_most=most_growth),
        Figure("growth of memory, by all samples", slope, "MB/h"),
        Figure("threads, least", min(threads)),
        Figure("threads, most", max(threads), at_most=min(threads) + late_threads),
        Figure("sockets, least", min(sockets)),
        # Each of the ten looking threads can have a connection, or have closed one that was idle.
        # One that starts late, on a busy machine, opens one to SQS, too.
        Figure("sockets, most", max(sockets), at_most=MOST_SOCKETS + late_threads),
        Figure(
            "growth of sockets",
            growth(lambda sample: sample.sockets),
            at_most=10 + late_threads,
        ),
        Figure("open files, least", min(files)),
        Figure("open files, most", max(files)),
        Figure(
            "growth of other open files",
            growth(lambda sample: sample.files - sample.sockets),
            at_most=2,  # the two are not counted at the same moment
        ),
        Figure("messages in the queue, most", max(sample.waiting for sample in samples)),
    ]
