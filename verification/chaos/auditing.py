"""A play in which workers audit their cache."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from contextlib import ExitStack, closing

from change_events import Audit, HTTPFetcher, SQLiteSink
from verification.chaos.filling import PAGE, is_filled
from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import wait_until
from verification.harness.progress import Progress

AUDIT = "worker audit"
"""The name of its state."""

WRONG = {
    "wrong-1": "different",  # the row was changed by SQL
    "wrong-2": "missing",  # the row was removed by SQL
    "wrong-3": "extra",  # the row was added by SQL
    "wrong-4": "different",  # the entity was saved without a broadcast
}
"""What is planted, and what an audit must say about it. No saver uses these ids."""


def audited(
    seed: int,
    *,
    entities: int,
    kills: int,
    lives: tuple[float, float],
    min_age: float,
    per_second: float,
) -> list[Figure]:
    """
    Two workers audit their cache and are killed again and again, while two savers save.

    Four entities are made wrong: three by SQL, one by a save without a broadcast.
    """
    chance = random.Random(seed)
    progress = Progress(kills, "kills")
    with Stage(visibility=5) as stage, ExitStack() as exits:
        settings = {
            "listing": f"{stage.before_source.url}/products?limit={PAGE}",
            "audit_per_minute": 6_000,
            "audit_min_age": min_age,
            "allow_mass_deletion": True,  # the savers delete many of few
        }
        for id in [*(f"q{number}" for number in range(entities)), "wrong-1", "wrong-2", "wrong-4"]:
            stage.source.commit(id)
        workers = [stage.worker(**settings) for _ in range(2)]
        wait_until(lambda: is_filled(stage), PATIENCE)
        wait_until(lambda: stage.state(AUDIT).get("last_clean"), PATIENCE)
        _plant(stage)
        savers = stage.savers(exits, seed, per_second=per_second) if per_second else []
        named: set[str] = set()
        killed = 0
        for _ in range(kills):
            time.sleep(chance.uniform(*lives))
            place = chance.randrange(2)
            workers[place].require_alive()
            workers[place].send(signal.SIGKILL)
            killed += workers[place].wait() == -signal.SIGKILL
            named |= _stale(stage).keys()
            workers[place] = stage.worker(**settings)
            progress.add(1)
        wait_until(lambda: _stale(stage) == WRONG, PATIENCE)
        exits.close()
        stage.wait_until_empty()
        named |= _stale(stage).keys()
        _repair(stage)
        wait_until(lambda: not _stale(stage), PATIENCE)
        return [
            exactly("kill -9", killed, kills),
            Figure("saves meanwhile", sum(saver.saves for saver in savers)),
            exactly("made wrong, and named", len(named & WRONG.keys()), len(WRONG)),
            exactly("named, and only late", len(named - WRONG.keys()), 0),
            *none(lost=stage.verdict()["lost"], dead_letters=stage.dead()),
        ]


def _plant(stage: Stage) -> None:
    with closing(sqlite3.connect(stage.cache.path, timeout=PATIENCE)) as database, database:
        database.execute("UPDATE entities SET body = '{\"n\": 0}' WHERE id = 'wrong-1'")
        database.execute("DELETE FROM entities WHERE id = 'wrong-2'")
        database.execute(
            "INSERT INTO entities (id, version, body, applied_at) VALUES ('wrong-3', 1, '{}', 0)"
        )
    stage.source.commit("wrong-4")


def _stale(stage: Stage) -> dict[str, str]:
    """Return what the audit knows to be wrong, and how."""
    return {id: each["kind"] for id, each in stage.state(AUDIT).get("stale", {}).items()}


def _repair(stage: Stage) -> None:
    with SQLiteSink(stage.cache.path) as sink:
        fetcher = HTTPFetcher(stage.source.server.url + "/products/{id}")
        Audit(list(stage.source.live()), fetcher=fetcher, sink=sink, min_age=0.0).run().repair()
