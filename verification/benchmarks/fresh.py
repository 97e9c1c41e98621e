"""The time from a commit until the cache has it."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from change_events import ChangeEvent, SNSPublisher, broadcasting
from verification.benchmarks.contest import Report
from verification.benchmarks.ledger import SNS_LAG
from verification.benchmarks.stage import CREDENTIALS, Stage
from verification.harness.figures import Figure
from verification.harness.processes import wait_until

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

GET = 0.005
"""The source's latency in seconds."""

PERIOD = 0.05
"""Seconds between two saves."""

EARLY, CONFIRM, ARTICLE = "early look", "confirm", "the article's"


@dataclass(frozen=True)
class Way:
    """
    A way from a commit to the cache.

    Attributes:
        name: Its name.
        kind: The kind of consumer, see `benchmarks.freshness`.
        save: Seconds from the end of the broadcast to the commit.
        delay: The queue's delay in seconds.
        confirm: Saves are confirmed by a second broadcast.
        backfill: What the worker's own backfill lists beside them, `ids` or whole `entities`;
            empty: it has none.
    """

    name: str
    kind: str
    save: float
    delay: int = 0
    confirm: bool = False
    backfill: str = ""

    @property
    def title(self) -> str:
        """The name and the duration of the save."""
        return f"{self.name}, save of {self.save * 1e3:.0f} ms"


WAYS = [
    Way(ARTICLE, "article", save=0.002, delay=5),
    Way(EARLY, "ours", save=0.002),
    Way(CONFIRM, "ours", save=0.002, confirm=True),
    *(
        Way(name, "ours", save=save, confirm=name == CONFIRM)
        for save in (0.02, 0.1, 0.3, 1.0)
        for name in (EARLY, CONFIRM)
    ),
]
"""Slow saves come last, because quick runs leave them out."""


def freshness(bench: Bench) -> Report:
    """
    G: seconds from a commit to the cache: the article's queue with a delay of 5 s; an early look; a
    confirmed save.
    """
    number = bench.number(200, 40)
    rows = [["way", "p50 ms", "p99 ms", "worst ms", "over 1 s"]]
    found: dict[str, list[float]] = {}
    for way in WAYS[:3] if bench.quick else WAYS:
        bench.progress(way.title, number)
        found[way.title] = lags = sorted(lag * 1e3 for lag in play(bench.stage(), way, number))
        late = sum(lag > 1000 for lag in lags) / number
        rows.append(
            [
                way.title,
                f"{statistics.median(lags):,.0f}",
                f"{percentile(lags, 99):,.0f}",
                f"{lags[-1]:,.0f}",
                f"{late:.0%}",
            ]
        )
    article, early, confirm = (statistics.median(found[way.title]) for way in WAYS[:3])
    figures = [
        Figure("early look, p50", early, "ms", at_most=50),
        Figure("confirm, p50", confirm, "ms", at_most=50),
        Figure("early look, p99", percentile(found[WAYS[1].title], 99), "ms"),
        Figure("confirm, p99", percentile(found[WAYS[2].title], 99), "ms"),
        Figure("early look, times as fresh as the article's", article / early, at_least=100),
        Figure("confirm, times as fresh as the article's", article / confirm, at_least=100),
    ]
    figures += [
        Figure(
            f"{way.title}: p50, as a share of two saves and a GET",
            statistics.median(found[way.title]) / 1e3 / (2 * way.save + GET),
            at_most=1,
        )
        for way in WAYS[3:]
        if way.title in found and not way.confirm
    ]
    note = (
        f"Assumed: {SNS_LAG * 1e3:.0f} ms for a delivery by SNS, {GET * 1e3:.0f} ms for a GET at "
        f"the source; a save every {PERIOD * 1e3:.0f} ms, each of another id. The table says how "
        "long after its broadcast a save commits: an early look before the commit finds the old "
        "state, and the next one follows soon."
    )
    return Report(
        figures, rows, [note], {"ways": [asdict(way) for way in WAYS], "milliseconds": found}
    )


def play(stage: Stage, way: Way, number: int) -> list[float]:
    """Return the seconds from each commit to the cache."""
    queue_url = stage.queue(DelaySeconds=str(way.delay))
    publisher = SNSPublisher(stage.topic(queue_url), client=stage.client("sns"))
    run = uuid.uuid4().hex
    ids = [f"fresh-{run}-{number}" for number in range(number)]
    path = stage.directory / f"{run}.db"
    work = {
        "queue_url": queue_url,
        "source": stage.source,
        "path": str(path),
        "threads": 10,
        "more": {"ids": ids, "backfill": way.backfill},
    }
    stage.tell(stage.source, "begin", latency=GET, still=True)
    command = [
        sys.executable,
        "-m",
        "verification.benchmarks.freshness",
        way.kind,
        json.dumps(work),
    ]
    consumer = stage.start("fresh", *command, **CREDENTIALS, AWS_ENDPOINT_URL=stage.server)
    stage.wait_for_polls(queue_url, [consumer])

    def save(number: int) -> tuple[str, float]:
        id = ids[number]
        time.sleep(max(0.0, begin + number * PERIOD - time.monotonic()))
        if way.kind == "article":
            publisher.publish([ChangeEvent(id)])
            time.sleep(way.save)
            return id, commit(stage, id)
        with broadcasting(publisher, id, confirm=way.confirm):
            time.sleep(way.save)
            return id, commit(stage, id)

    def cached() -> dict[str, float]:
        lines = [
            json.loads(line)
            for line in consumer.text().splitlines(keepends=True)
            if line.endswith("}\n")
        ]
        return {line["id"]: line["at"] for line in reversed(lines) if line["edition"] == 1}

    try:
        with ThreadPoolExecutor(16) as executor:
            begin = time.monotonic() + 0.1
            commits = dict(executor.map(save, range(number)))
        wait_until(lambda: commits.keys() <= cached().keys(), 30)
        arrived = cached()
    finally:
        consumer.close()
    return [arrived[id] - committed for id, committed in commits.items()]


def commit(stage: Stage, id: str) -> float:
    """Change a product at the source; return the time in monotonic seconds."""
    return float(stage.tell(stage.source, "save", **{id: 1})["at"])


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile of sorted values, by the nearest rank."""
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]
