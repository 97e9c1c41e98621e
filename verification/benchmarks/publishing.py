"""What a broadcast costs a save."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from change_events import SNSPublisher, broadcasts_before_save
from change_events._event import DEFAULT_SETTLE
from change_events._producer.publishers import AT_ONCE
from verification.benchmarks.bench import Bench, distinct
from verification.benchmarks.contest import Report
from verification.harness.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MANY = 100
"""Entities in one save."""

VERY_MANY = (3_000, 10_000)
"""Entities in one save, at `CALL` seconds a call."""

CALL = 0.025
"""Seconds that a call to SNS takes from another region, say."""


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

    def store_all(self, products: Sequence[dict[str, str]]) -> None:
        """Store many products."""
        self.rows |= {product["id"]: product for product in products}


def publishing(bench: Bench) -> Report:
    """
    F: publishing: the decorator against a bare `publish`; one save of 100 ids against a loop; saves
    of thousands of ids, with SNS at 25 ms a call (canned queue).
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
        ],
        data={"pairs": pairs, "slice": size, "loop": loop, "batch": batch},
    )


def very_many(bench: Bench) -> list[Figure]:
    """Save thousands of ids at once, with the default window."""
    bench.progress("thousands at once", sum(VERY_MANY))
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
        for number in VERY_MANY
    ]


def each(save: Callable[[dict[str, str]], object], number: int) -> None:
    """Save so many products, one by one."""
    for id in distinct(number):
        save({"id": id})


def seconds(call: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
