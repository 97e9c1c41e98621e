"""What it costs on paper, at list prices."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from change_events._consumer.acknowledgements import LINGER
from change_events._consumer.settings import IN_FLIGHT
from verification.benchmarks.contest import Report

if TYPE_CHECKING:
    from verification.benchmarks.bench import Bench

MONTH = 30 * 86_400
"""The seconds of a month."""


@dataclass(frozen=True)
class Assumptions:
    """
    What the table assumes.

    Prices are list prices of US East in US dollars, without the free tier and volume discounts.

    Attributes:
        sqs: The price of a million requests to a standard queue.
        sns: The price of a million publishes. Deliveries from SNS to SQS are free.
        call: The seconds of a receive, if there are messages.
        get: The seconds of a GET.
        cpu: The seconds of CPU of an event in the worker; workload E measures them.
        settle: The settle window in seconds.
        looks: GETs per event: an early one, and one that settles it. Events of one id share them.
    """

    sqs: float = 0.40
    sns: float = 0.50
    call: float = 0.010
    get: float = 0.020
    cpu: float = 0.001
    settle: float = 5.0
    looks: int = 2


@dataclass(frozen=True)
class Bill:
    """The costs of a rate of events, with so many services that keep a cache."""

    rate: float
    consumers: int
    publishes: float
    requests: float
    dollars: float
    gets: float
    in_flight: float
    threads: int
    processes: int


def bill(rate: float, consumers: int, given: Assumptions) -> Bill:
    """Return the costs of so many events a second, all of different ids."""
    publishes = rate * MONTH
    # A receive returns as soon as there is a message: with what has arrived since the last call.
    received = min(10.0, max(1.0, rate * given.call))
    deleted = min(10.0, max(1.0, rate * LINGER))
    idle = max(0.0, 1 - rate * 20) / 20 * MONTH  # long polls of 20 s without a message
    requests = consumers * (publishes * (1 / received + 1 / deleted) + idle)
    return Bill(
        rate=rate,
        consumers=consumers,
        publishes=publishes,
        requests=requests,
        dollars=publishes / 1e6 * given.sns + requests / 1e6 * given.sqs,
        gets=rate * given.looks * consumers,
        in_flight=rate * given.settle * 1.1,  # a look can wait a tenth of the window for others
        threads=max(1, math.ceil(rate * given.looks * given.get)),
        processes=max(1, math.ceil(rate * given.looks * given.cpu)),
    )


def cost(bench: Bench) -> Report:
    """I: cost on paper, at 1, 100 and 10,000 events a second with 1 and 12 consumers."""
    del bench
    given = Assumptions()
    bills = [
        bill(rate, consumers, given)
        for rate, consumers in itertools.product((1, 100, 10_000), (1, 12))
    ]
    head = [
        *(
            "events/s",
            "consumers",
            "publishes/month",
            "SQS requests/month",
            "$/month",
            "GETs/s at the source",
        ),
        *("in flight, each queue", "threads, each cache", "processes, each cache"),
    ]
    note = (
        f"Assumed: SNS ${given.sns:.2f} a million publishes, deliveries to SQS free; SQS standard "
        f"${given.sqs:.2f} a million requests; {given.call * 1e3:.0f} ms for a receive, "
        f"{given.get * 1e3:.0f} ms for a GET, {given.cpu * 1e3:.1f} ms of CPU for a look; "
        f"{given.looks} looks an event, because no two are of one id; settle {given.settle:.0f} s; "
        "a month of 30 days. "
        f"A queue can have {IN_FLIGHT:,} messages in flight; * is above that."
    )
    data = {"assumptions": asdict(given), "bills": [asdict(each) for each in bills]}
    return Report([], [head, *map(_row, bills)], [note], data)


def _row(each: Bill) -> list[str]:
    over = "*" if each.in_flight > IN_FLIGHT else ""
    return [
        f"{each.rate:,}",
        f"{each.consumers}",
        f"{each.publishes / 1e6:,.1f} M",
        f"{each.requests / 1e6:,.1f} M",
        f"{each.dollars:,.0f}",
        f"{each.gets:,.0f}",
        f"{each.in_flight:,.0f}{over}",
        f"{each.threads}",
        f"{each.processes}",
    ]
