"""Plays in which a source, or the way to it, answers falsely, or not at all."""

from __future__ import annotations

import json
import random
import signal
import time
from typing import TYPE_CHECKING

from change_events import broadcasting
from verification.chaos.faults import Deliveries, noted
from verification.chaos.forgetful import ForgetfulProxy
from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import wait_until
from verification.harness.progress import Progress
from verification.harness.source import id_in
from verification.harness.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.harness.wire import Asked

GONE = Answer(404, b'{"detail": "no such product"}')


def forgotten_connections(_seed: int, *, idle: Sequence[float], get_timeout: float) -> list[Figure]:
    """Something between worker and source forgets connections that were idle, and tells neither."""
    return [figure for seconds in idle for figure in _forgotten(seconds, get_timeout)]


def _forgotten(idle: float, get_timeout: float) -> list[Figure]:
    with Stage(visibility=30) as stage, ForgetfulProxy(stage.source.server.url) as line:
        deliveries = Deliveries(stage.before_sqs)
        worker = stage.worker(url=line.url + "/products/{id}", get_timeout=get_timeout)
        line.slow.set()  # so that several connections are open at once
        stage.commit(f"before-{each}" for each in range(10))
        wait_until(lambda: line.connections > 1, PATIENCE)
        line.slow.clear()
        stage.wait_until_empty()
        connections, line.patience = line.connections, idle
        time.sleep(idle + 0.5)  # nothing is sent meanwhile
        stage.commit(["p1"])
        stage.wait_until_cached(["p1"])
        asked = next(at for at, id in stage.source.asked if id == "p1")
        stage.wait_until_empty()
        outages, failed = worker.noted("outage"), worker.stop().stats["failed"]
    what = f"idle for over {idle:g} s"
    return [
        Figure(f"{what}: connections that were kept", connections, at_least=2),
        Figure(
            f"{what}: from the receive to a GET that arrives, timeout {get_timeout:g} s",
            asked - deliveries.first["p1"],
            "s",
            at_most=get_timeout + 1,  # a second forgotten connection would cost two timeouts
        ),
        *none(**{f"{what}: looks that failed": failed, f"{what}: outages seen": len(outages)}),
    ]


def guard_restarts(
    seed: int, *, entities: int, few: int, restarts: int, lives: tuple[float, float]
) -> list[Figure]:
    """
    The source answers 404 to everything, and the worker is restarted again and again.

    Every other time it is by kill -9. First the cache is large, then small.
    """
    chance = random.Random(seed)
    ages = [chance.uniform(*lives) for _ in range(restarts)]
    # The guard lets half of the last hundred looks delete, and half of a small cache.
    return _restarted(chance, entities, ages, at_most=50) + _restarted(
        chance, few, ages, at_most=few // 2
    )


def _restarted(
    chance: random.Random, entities: int, ages: Sequence[float], *, at_most: int
) -> list[Figure]:
    with Stage(visibility=5, max_receives=1000) as stage:
        ids = stage.fill(entities)
        for id in ids:
            stage.source.commit(id, delete=True)
        stage.before_source.fault = lambda _: GONE
        for number, age in enumerate(ages):
            worker = stage.worker()
            stage.announce(chance.sample(ids, min(entities, 30)))  # the emulator is slow with more
            time.sleep(age)
            worker.require_alive()
            worker.send(signal.SIGKILL if number % 2 else signal.SIGTERM)
            worker.wait()
        worker = stage.worker()
        stage.announce(ids)
        wait_until(lambda: worker.noted("mass_deletion"), PATIENCE)
        deleted = entities - len(stage.cache.items())
        worker.send(signal.SIGUSR1)
        stage.wait_until_empty()
        what = f"{entities} cached"
        return [
            Figure(
                f"{what}: deleted in {len(ages)} restarts", deleted, at_least=1, at_most=at_most
            ),
            exactly(f"{what}: left after SIGUSR1", len(stage.cache.items()), 0),
            *none(**{f"{what}: dead letters": stage.dead()}),
        ]


def wrong_url(_seed: int, *, events: int) -> list[Figure]:
    """A worker begins with an empty cache and a wrong path, which answers 404 to everything."""
    with Stage(visibility=30) as stage:
        asked: list[Asked] = []
        stage.before_source.fault = noted(lambda _: GONE, asked)
        url = stage.before_source.url + "/wrong/{id}"
        worker = stage.worker(url=url)
        stage.commit(f"p{number}" for number in range(events))
        wait_until(lambda: worker.noted("mass_deletion"), PATIENCE)
        warnings = [line["text"] for line in worker.noted("unknown")]
        end = worker.stop()
        acknowledged = end.stats["acknowledged"]
        return [
            Figure("events", events),
            exactly("warnings that name the URL", sum(url in text for text in warnings), 1),
            exactly("refusals that name the URL", _naming(worker.noted("mass_deletion"), url), 1),
            Figure("ids asked for", len({id_in(each) for each in asked}), at_least=20),
            Figure("events acknowledged", acknowledged, at_most=20),
            exactly("events still in the queue", stage.waiting(), events - acknowledged),
            *none(dead_letters=stage.dead(), cached=len(stage.cache.items())),
        ]


def _naming(lines: Sequence[dict[str, object]], url: str) -> int:
    return sum(url in str(line["text"]) for line in lines)


def coarse_etags(_seed: int, *, saves: int) -> list[Figure]:
    """An ETag is made of seconds and size, and two saves of equal size come within a second."""
    right, mistaken = [_after_pairs(saves, trusted=trusted) for trusted in (False, True)]
    return [
        Figure("pairs of saves within a second", saves),
        *none(**right),
        Figure(
            "lost with trust_etags=True, which is a mistake here",
            mistaken["lost"],
            at_least=1,  # or the play would show nothing
        ),
    ]


def _after_pairs(saves: int, *, trusted: bool) -> dict[str, int]:
    progress = Progress(saves, "pairs of saves")
    with Stage(visibility=10) as stage:
        stage.before_source.fault = lambda asked: _coarse(stage, asked)
        stage.worker(trust_etags=trusted)
        for number in range(saves):
            id = f"p{number}"
            for _ in range(2):
                with broadcasting(stage.publisher, id, settle=stage.settle):
                    stage.source.commit(id)
                stage.wait_until_cached([id])  # the first one, before the second is made
            progress.add(1)
        stage.wait_until_empty()
        return stage.verdict()


def _coarse(stage: Stage, asked: Asked) -> Answer:
    """Return the answer of a source whose saves all come in one second, and have one length."""
    body = json.dumps(stage.source.live()[id_in(asked)]).ljust(100).encode()
    tag = f'"65a1b2c3-{len(body):x}"'
    if asked.headers.get("If-None-Match") == tag:
        return Answer(304)
    return Answer(200, body, {"Content-Type": "application/json", "ETag": tag})
