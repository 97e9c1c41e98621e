"""The set-up of a seed. It is drawn at random, and far more goes wrong than in any production."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from change_events import MemorySink
from verification.proof.simulation._chance import Faults, Latencies, latency
from verification.proof.simulation._environment import Setup
from verification.proof.simulation._ours import Service
from verification.proof.simulation._worker import Worker

if TYPE_CHECKING:
    from verification.proof.simulation._sinks import AnySink
    from verification.proof.simulation._world import World

WRITES = 10_000
"""The default number of writes in a world."""

OPERATIONS = 0.5
"""The share of worlds with backfills, audits and redrives."""

SHARES_CALLS = 0.5
"""The share of worlds in which saves of the same moment share calls to SNS."""

FINDS_LIMIT = 0.5
"""The share of worlds in which workers find out how many GETs at once the source can bear."""

LATENCIES = Latencies(
    publish=latency(0.012, tail=0.003, worst=(0.3, 9.0)),  # some longer than the settle window
    save=latency(0.015, tail=0.01, worst=(0.3, 40.0)),  # some much longer
    deliver=latency(0.03, tail=0.01, worst=(0.3, 600.0)),
    get=latency(0.01, tail=0.004, worst=(0.2, 20.0)),
    sink=latency(0.002, tail=0.002, worst=(0.05, 5.0)),
    queue=latency(0.005, tail=0.002, worst=(0.1, 5.0)),
)

FAULTS = Faults(
    save_fails=0.02,
    save_hides=0.005,
    save_cancelled=0.005,
    publish_fails=0.005,
    publish_hides=0.002,
    batch_entry_fails=0.01,
    call_fails=0.002,
    service_crashes=5e-4,
    worker_crashes=5e-4,
    worker_stops=2e-4,
    stalls=1e-4,
    heartbeat_stalls=0.05,
    duplicated=0.005,
    undelivered=0.01,
    redelivered=0.002,
    get_fails=0.01,
    sink_fails=0.001,
    outages_per_second=1 / 500,
    topic_outages_per_second=1 / 1000,
    cache_outages_per_second=1 / 1000,
)


class Ours:
    """The production code on both sides. The cache is in memory, unless another sink is given."""

    def __init__(self, sink: AnySink | None = None) -> None:
        self._sink = MemorySink(clock=float) if sink is None else sink

    def service(self, world: World, name: str) -> Service:
        return Service(world, name)

    def worker(self, world: World, name: str) -> Worker:
        return Worker(world, name, self._sink)


def drawn(seed: int, *, writes: int = WRITES) -> Setup:
    """Draw the set-up of a seed."""
    choose = random.Random(f"setup {seed}").choice
    settle = choose([1.0, 5.0, 5.0, 5.0, 12.0])
    return Setup(
        writes=writes,
        ids=choose([3, 30, 300, 3000]),
        zipf=choose([0.6, 1.0, 1.3]),
        rate=choose([10.0, 50.0, 150.0, 300.0]),
        unique_states=choose([True, False]),
        many=choose([0.0, 0.02, 0.1]),
        settle=settle,
        worker_settle=choose([settle, 5.0]) if settle < 5 else 5.0,
        confirm=choose([0.0, 0.0, 0.5, 1.0]),
        renewals=choose([True, True, True, False]),
        services=choose([1, 2, 3]),
        workers=choose([1, 2, 3]),
        threads=choose([1, 4, 10, 10]),
        early_look=choose([True, False]),
        prefetch=choose([30, 1000, 1000, 1000]),
        visibility=choose([10, 30, 60]),
        queue_delay=choose([0.0, 0.0, 3.0, 5.0, 15.0]),
        most_receives=choose([4, 10]),
        raw=choose([True, True, True, False]),
        etags=choose(["exact", "coarse", "none"]),
        latencies=LATENCIES,
        faults=FAULTS.times(choose([0.0, 0.2, 1.0, 1.0, 4.0])),
        bulk=choose([1, 1, 5, 50]),
        guard=choose([True, False]),
        sink=choose([*7 * ["memory"], "sqlite"]),
        finds_limit=random.Random(f"limit {seed}").random() < FINDS_LIMIT,
        shares_calls=random.Random(f"shares {seed}").random() < SHARES_CALLS,
        operations=random.Random(f"operations {seed}").random() < OPERATIONS,
    )
