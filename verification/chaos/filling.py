"""Plays in which a cache is filled."""

from __future__ import annotations

import math
import random
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from change_events import Found, SQLiteSink
from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import wait_until
from verification.harness.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 100

DELETED = 5
"""
Entities that are cached, and were deleted before there was a queue. Few, because the savers delete,
too, and the guard must not take all that for a mass deletion.
"""


def filled(
    seed: int, *, entities: int, kills: int, lives: tuple[float, float], down: float
) -> list[Figure]:
    """
    A worker fills its cache from a listing, and is killed again and again, while two savers save.

    In the end the source is down for a while.
    """
    chance = random.Random(seed)
    with Stage(visibility=5) as stage, ExitStack() as exits:
        listing = f"{stage.before_source.url}/products?limit={PAGE}"
        for number in range(entities):
            stage.source.commit(f"p{number}")
        deleted = [f"q{number}" for number in range(DELETED)]
        _cache_and_delete(stage, deleted)
        savers = stage.savers(exits, seed, per_second=8.0)
        killed = 0
        for _ in range(kills):
            worker = stage.worker(listing=listing)
            time.sleep(chance.uniform(*lives))
            worker.require_alive()
            worker.send(signal.SIGKILL)
            killed += worker.wait() == -signal.SIGKILL
        stage.before_source.fault = lambda _: Answer(503)
        worker = stage.worker(listing=listing)
        time.sleep(down)
        stage.before_source.fault = lambda _: None
        # Not by the log: a worker that was killed can have completed it.
        wait_until(lambda: is_filled(stage), PATIENCE)
        worker.require_alive()
        exits.close()
        stage.wait_until_empty()
        listed = stage.source.listed
        return [
            exactly("kill -9", killed, kills),
            Figure("saves meanwhile", sum(saver.saves for saver in savers), at_least=1),
            Figure("pages read", len(set(listed)), at_least=math.ceil(entities / PAGE)),
            # The one that is stored, and the one that is read meanwhile.
            Figure("pages read again", len(listed) - len(set(listed)), at_most=2 * kills),
            exactly(
                "deleted before, and still cached", len(stage.cache.items().keys() & {*deleted}), 0
            ),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def is_filled(stage: Stage) -> bool:
    """Tell whether the cache of the stage has all that was listed."""
    return stage.state("backfill").get("phase") == "done"


def _cache_and_delete(stage: Stage, ids: Sequence[str]) -> None:
    """Cache these entities, and then delete them, and tell nobody."""
    with SQLiteSink(stage.cache.path) as sink:
        for id in ids:
            stage.source.commit(id)
            sink.apply(id, Found(stage.source.live()[id]), if_version=0)
            stage.source.commit(id, delete=True)
