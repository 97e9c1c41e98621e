"""The conditions of the comparison. Each rate has its reason; `--faults` multiplies all rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from verification.proof.field._peers import (
    GetWorker,
    IdBefore,
    PayloadAfter,
    PayloadBefore,
    PayloadWorker,
    Peers,
)
from verification.proof.simulation._chance import Faults, Latencies, latency
from verification.proof.simulation._environment import Setup
from verification.proof.simulation._setups import Ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.proof.simulation._world import Protagonists

WRITES = 20_000
"""Writes in one world."""

RATES: dict[str, tuple[float, str]] = {
    "save_fails": (1e-2, "a constraint, a conflict, a deadlock: one save in a hundred"),
    "save_hides": (1e-4, "the answer to a commit is lost: a failover, a timeout on the way back"),
    "publish_fails": (1e-4, "SNS promises 99.9 % and does better; after the SDK's own retries"),
    "publish_hides": (1e-4, "as often, the answer is lost instead of the request"),
    "batch_entry_fails": (1e-4, "like a publish"),
    "call_fails": (1e-4, "the same for SQS"),
    "service_crashes": (
        1e-4,
        "per save: out of memory, a lost node, a deployment that kills; with all saves under way",
    ),
    "worker_crashes": (2e-4, "per message: the same for a consumer, every five thousand messages"),
    "worker_stops": (1e-4, "per message: a deployment or a scale-in"),
    "stalls": (
        1e-5,
        "per message or save: a stall of 0.1 to 100 s (garbage collection, a paused machine)",
    ),
    "heartbeat_stalls": (1e-3, "per beat: the heartbeat alone is late"),
    "duplicated": (1e-3, "SNS to SQS is at least once"),
    "redelivered": (1e-4, "so is SQS itself, even for deleted messages"),
    "get_fails": (1e-3, "a 5xx or a lost connection"),
    "sink_fails": (1e-4, "a locked or lost database, with the write done or not"),
    "outages_per_second": (
        1 / 7200,
        "the source answers 5xx to everything for 1 s to 15 min, every two hours",
    ),
    "topic_outages_per_second": (1 / 86_400, "SNS refuses everything for as long, once a day"),
}

LATENCIES = Latencies(
    publish=latency(0.015, tail=0.001, worst=(0.3, 6.0)),
    save=latency(0.02, tail=0.002, worst=(0.3, 20.0)),
    deliver=latency(0.04, tail=0.003, worst=(0.3, 120.0)),
    get=latency(0.012, tail=0.002, worst=(0.2, 5.0)),
    sink=latency(0.002, tail=0.001, worst=(0.05, 2.0)),
    queue=latency(0.008, tail=0.001, worst=(0.1, 3.0)),
)
LATENCY_TEXT = (
    "medians: publish 15 ms, save 20 ms, SNS to SQS 40 ms, GET 12 ms each way, cache 2 ms, "
    "SQS 8 ms; log-normal, with tails: 0.1 % of publishes take 0.3 to 6 s, 0.2 % of saves 0.3 to "
    "20 s, 0.3 % of deliveries 0.3 to 120 s, 0.2 % of GETs 0.2 to 5 s"
)

FAULTS = Faults(**{name: rate for name, (rate, _) in RATES.items()})

SETUP = Setup(
    writes=WRITES,
    ids=2000,
    zipf=1.0,
    rate=12.0,
    unique_states=True,
    many=0.02,
    settle=5.0,
    worker_settle=5.0,
    confirm=0.0,
    renewals=True,
    services=3,
    workers=3,
    threads=10,
    early_look=True,
    prefetch=1000,
    visibility=60,
    queue_delay=0.0,
    most_receives=10,
    raw=True,
    etags="exact",
    latencies=LATENCIES,
    faults=FAULTS,
    same_outages=True,
)
WORKLOAD_TEXT = (
    "2000 ids by Zipf's law, 12 calls a second in bursts (x5) and lulls (x0.1), 15 % deletes, "
    "2 % of calls save 2 to 12 entities; 3 services; queues with a visibility timeout of 60 s and "
    "a maxReceiveCount of 10, redriven every 4 min"
)


@dataclass(frozen=True, slots=True)
class Contender:
    """
    A row of the table.

    Attributes:
        name: A short name, for the plot.
        text: What it does.
        make: Makes its protocol for one world.
        setup: Its world. The command sets the number of writes and the faults.
        ours: It is the production code.
    """

    name: str
    text: str
    make: Callable[[], Protagonists]
    setup: Setup
    ours: bool = False


def _payload_after() -> Protagonists:
    return Peers(PayloadAfter, PayloadWorker)


def _payload_before() -> Protagonists:
    return Peers(PayloadBefore, PayloadWorker)


def _id_only() -> Protagonists:
    return Peers(IdBefore, GetWorker)


_PLAIN = replace(SETUP, etags="none")
_SERIAL = replace(_PLAIN, workers=1, threads=1)

CONTENDERS = [
    Contender("payload after", "payload, after the save", _payload_after, SETUP),
    Contender("payload before", "payload, before the save", _payload_before, SETUP),
    Contender("id, 1 thread", "id only, GET; one thread", _id_only, _SERIAL),
    Contender("id, 3 workers", "id only, GET; 3 workers", _id_only, _PLAIN),
    Contender(
        "id, delay, 1 thread",
        "id only, GET; delay 5 s, one thread",
        _id_only,
        replace(_SERIAL, queue_delay=5.0),
    ),
    Contender(
        "id, delay, 3 workers",
        "id only, GET; delay 5 s, 3 workers",
        _id_only,
        replace(_PLAIN, queue_delay=5.0),
    ),
    Contender(
        "ours, delay",
        "change-events; delay 5 s, 3 workers",
        Ours,
        replace(SETUP, queue_delay=5.0),
        ours=True,
    ),
    Contender("ours, early look", "change-events; early look, 3 workers", Ours, SETUP, ours=True),
    Contender(
        "ours, confirm",
        "change-events; early look, confirm, 3 workers",
        Ours,
        replace(SETUP, confirm=1.0),
        ours=True,
    ),
]

BY_NAME = {contender.name: contender for contender in CONTENDERS}
