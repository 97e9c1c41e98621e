"""What a broadcast costs a save."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from change_events import SNSPublisher, broadcasts_before_save
from change_events._event import DEFAULT_SETTLE
from change_events._producer.publishers import AT_ONCE
from verification.benchmarks.bench import Bench, distinct
from verification.benchmarks.contest import Report
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

MANY = 100
"""Entities in one save."""

VERY_MANY = (3_000, 10_000)
"""Entities in one save, at `CALL` seconds a call."""

CALL = 0.025
"""Seconds that a call to SNS takes from another region, say."""

THREADS, TASKS = 50, 200
"""How many save at the same time."""

ROUNDS = 5
"""How often each way of saving at the same time is measured."""


class Products:
    """
    A repository in memory, with the same save in three ways.

    Args:
        client: A boto3 SNS client.
        topic_arn: The topic.
    """

    def __init__(self, client: Any, topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn
        self.rows: dict[str, dict[str, str]] = {}
        publisher = SNSPublisher(topic_arn, client=client)
        self.save = broadcasts_before_save(publisher, id="product.id")(self.store)
        self.save_in_task = broadcasts_before_save(publisher, id="product.id")(self.store_in_task)
        self.save_all = broadcasts_before_save(
            publisher, ids=lambda products: [product["id"] for product in products]
        )(self.store_all)

    def save_by_hand(self, product: dict[str, str]) -> None:
        """Publish and store without the library."""
        self._client.publish(TopicArn=self._topic_arn, Message=json.dumps({"id": product["id"]}))
        self.store(product)

    def store(self, product: dict[str, str]) -> None:
        """Store a product."""
        self.rows[product["id"]] = product

    async def store_in_task(self, product: dict[str, str]) -> None:
        """Store a product in asynchronous code."""
        self.store(product)

    async def save_by_hand_in_task(self, product: dict[str, str]) -> None:
        """Publish and store without the library, and without blocking the event loop."""
        await asyncio.to_thread(self.save_by_hand, product)

    def store_all(self, products: Sequence[dict[str, str]]) -> None:
        """Store many products."""
        self.rows |= {product["id"]: product for product in products}


def publishing(bench: Bench) -> Report:
    """
    F: publishing: the decorator against a bare `publish`; one save of 100 ids against a loop; saves
    of thousands of ids, and many saves at the same time, with SNS at 25 ms a call (canned queue).
    """
    stage = bench.stage()
    client = stage.client("sns")
    calls: Counter[str] = Counter()
    client.meta.events.register("before-call.sns", lambda model, **_: calls.update([model.name]))
    products = Products(client, stage.topic(stage.queue()))
    slices, size = bench.number(40, 20), bench.number(50, 20)
    bench.progress("one by one", 2 * slices * size)
    saves = {"bare": products.save_by_hand, "decorated": products.save}
    pairs = []
    for turn in range(slices):
        names = sorted(saves, reverse=turn % 2 == 0)  # the queue grows, so the order alternates
        took = {name: seconds(partial(each, saves[name], size)) for name in names}
        pairs.append((took["bare"], took["decorated"]))
    overhead = statistics.median(decorated / bare for bare, decorated in pairs)
    milliseconds = statistics.median(bare for bare, _ in pairs) / size * 1e3
    rounds = bench.number(20, 5) // 4
    bench.progress(f"{MANY} at once", 2 * MANY * rounds)
    calls.clear()
    loop = statistics.median(seconds(lambda: each(products.save, MANY)) for _ in range(rounds))
    looped = calls.total()
    calls.clear()
    many = [{"id": id} for id in distinct(MANY)]
    batch = statistics.median(seconds(lambda: products.save_all(many)) for _ in range(rounds))
    return Report(
        [
            Figure("a bare publish", milliseconds, "ms"),
            Figure("decorator, times a bare publish", overhead, at_most=1.03),
            Figure(f"{MANY} ids at once, times fewer calls", looped / calls.total(), at_least=8),
            Figure(f"{MANY} ids at once, times as fast", loop / batch, at_least=5),
            *very_many(bench),
            *together(bench),
        ],
        data={"pairs": pairs, "slice": size, "loop": loop, "batch": batch},
    )


def very_many(bench: Bench) -> list[Figure]:
    """Save thousands of ids at once, with the default window; fewer in a quick run."""
    numbers = VERY_MANY[: 1 if bench.quick else None]
    bench.progress("thousands at once", sum(numbers))
    stage = bench.stage(canned=True)
    client = stage.client("sns", connections=AT_ONCE)
    client.meta.events.register("before-send.sns", lambda **_: time.sleep(CALL))
    products = Products(client, stage.topic(stage.queue()))
    return [
        Figure(
            f"{number:,} ids at once, SNS at {CALL * 1e3:.0f} ms a call",
            seconds(partial(products.save_all, [{"id": id} for id in distinct(number)])),
            "s",
            at_most=DEFAULT_SETTLE,
        )
        for number in numbers
    ]


@dataclass(frozen=True)
class Cost:
    """What a save costs: seconds of CPU, calls to SNS, and the median of its seconds."""

    cpu: float
    calls: float
    p50: float


def together(bench: Bench) -> list[Figure]:
    """Save in many threads, or tasks of one event loop, as fast as they can."""
    bench.progress("at the same time", 4 * ROUNDS * bench.number(4_000, 1_000))
    stage = bench.stage(canned=True)
    client = stage.client("sns", connections=100)
    calls: Counter[str] = Counter()
    client.meta.events.register("before-call.sns", lambda model, **_: calls.update([model.name]))
    client.meta.events.register("before-send.sns", lambda **_: time.sleep(CALL))
    products = Products(client, stage.topic(stage.queue()))
    ways = {
        f"{THREADS} threads": [
            partial(in_threads, save) for save in (products.save_by_hand, products.save)
        ],
        f"{TASKS} tasks": [
            partial(in_tasks, save)
            for save in (products.save_by_hand_in_task, products.save_in_task)
        ],
    }
    figures = []
    for name, (bare, ours) in ways.items():
        number = bench.number(4_000, 1_000)
        pairs = [
            (cost_of(bare, number, calls), cost_of(ours, number, calls)) for _ in range(ROUNDS)
        ]
        cpu = statistics.median(own.cpu / bare.cpu for bare, own in pairs)
        p50 = statistics.median(own.p50 / bare.p50 for bare, own in pairs)
        each = statistics.median(own.calls for _, own in pairs)
        milliseconds = statistics.median(own.cpu for _, own in pairs) * 1e3
        figures += [
            Figure(f"{name}, CPU of a save", milliseconds, "ms"),
            Figure(f"{name}, CPU of a save, times a bare publish", cpu, at_most=0.35),
            Figure(f"{name}, calls for each save", each, at_most=0.15),
            Figure(f"{name}, p50 of a save, times a bare publish", p50, at_most=1.0),
        ]
    return figures


def cost_of(
    save_all: Callable[[Sequence[str]], list[float]], number: int, calls: Counter[str]
) -> Cost:
    """Save so many products."""
    calls.clear()
    started = time.process_time()
    took = save_all(distinct(number))
    cpu = time.process_time() - started
    return Cost(cpu / number, calls.total() / number, statistics.median(took))


def in_threads(save: Callable[[dict[str, str]], object], ids: Sequence[str]) -> list[float]:
    """Save the products in threads; return the seconds of each save."""
    took: list[float] = []

    def work(own: Sequence[str]) -> None:
        took.extend(seconds(partial(save, {"id": id})) for id in own)

    threads = [threading.Thread(target=work, args=(ids[at::THREADS],)) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def in_tasks(
    save: Callable[[dict[str, str]], Coroutine[object, object, None]], ids: Sequence[str]
) -> list[float]:
    """Save the products in tasks of an event loop; return the seconds of each save."""
    took: list[float] = []

    async def work(own: Sequence[str]) -> None:
        for id in own:
            started = time.perf_counter()
            await save({"id": id})
            took.append(time.perf_counter() - started)

    async def all_of_them() -> None:
        await asyncio.gather(*(work(ids[at::TASKS]) for at in range(TASKS)))

    asyncio.run(all_of_them())
    return took


def each(save: Callable[[dict[str, str]], object], number: int) -> None:
    """Save so many products, one by one."""
    for id in distinct(number):
        save({"id": id})


def seconds(call: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
