"""
The plays. Each breaks one thing, over the wire, and returns figures with their goals.

- lost: an entity whose cached state is not the source's, once the queue is empty
- wrong: a state in the cache that the source never had
- backward: a state that the cache had after a newer one
"""

from __future__ import annotations

import json
import math
import random
import signal
import statistics
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from verification.chaos.faults import HTML, OUTAGE, Deliveries, half_failed, noted, sqs_failure
from verification.chaos.stage import PATIENCE, Stage
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import wait_until
from verification.harness.progress import Progress, sleep
from verification.harness.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.harness.wire import Asked


def kill(seed: int, *, kills: int) -> list[Figure]:
    """About every second one of three workers is killed and replaced, while two savers save."""
    chance = random.Random(seed)
    progress = Progress(kills, "kills")
    with Stage(visibility=5) as stage, ExitStack() as exits:
        # A fifth of twenty ids is deleted again and again, which the guard can take for a mistake.
        start = partial(stage.worker, allow_mass_deletion=True)
        workers = [start() for _ in range(3)]
        savers = stage.savers(exits, seed, per_second=8.0)
        killed = 0
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 1.2))
            place = chance.randrange(3)
            workers[place].require_alive()
            workers[place].send(signal.SIGKILL)
            killed += workers[place].wait() == -signal.SIGKILL
            workers[place] = start()
            progress.add(1)
        exits.close()
        stage.wait_until_empty()
        return [
            exactly("kill -9", killed, kills),
            Figure("saves meanwhile", sum(saver.saves for saver in savers), at_least=1),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def outage(
    seed: int, *, times: int, visibility: int, max_receives: int, events: int
) -> list[Figure]:
    """
    The source is down while many events wait.

    The outage lasts four times as long as the visibility timeout times maxReceiveCount.
    """
    down = float(times * visibility * max_receives)
    chance = random.Random(seed)
    with Stage(visibility=visibility, max_receives=max_receives) as stage:
        ids = [f"p{number}" for number in range(events)]
        for id in ids:
            stage.source.commit(id)
        stage.announce(ids)
        asked: list[float] = []
        cut: list[float] = []  # a GET that is cut off before its answer begins is retried once

        def fault(_: Asked) -> Answer:
            answer = chance.choice(OUTAGE)
            asked.append(time.time())
            if not answer.status:
                cut.append(asked[-1])
            return answer

        stage.before_source.fault = fault
        worker = stage.worker()
        sleep(down, "seconds of an outage")
        probes = [line for line in worker.lines() if line.get("action") == "outage"]
        # The first line does not count: looks that were under way can ask a moment after it.
        at, pauses = probes[1]["at"], len(probes) - 1
        later, cut_later = [sum(then > at for then in times) for times in (asked, cut)]
        earlier, cut_earlier = len(asked) - later, len(cut) - cut_later
        stage.before_source.fault = lambda _: None
        first = wait_until(lambda: bool(stage.cache.items()), PATIENCE)
        drained = first + stage.wait_until_empty()
        return [
            Figure("the source is down", down, "s"),
            Figure("events waiting", events),
            # Five looks must fail, eleven more can be under way, and one ends the first pause.
            Figure(
                "GETs until the outage was known and the first pause was over",
                earlier,
                at_most=5 + 11 + 1 + cut_earlier,
            ),
            Figure(
                f"GETs in the other {pauses} pauses; {cut_later} were cut off",
                later,
                at_most=pauses + cut_later,
            ),
            # The longest pause, and a moment.
            Figure("back to the first entity cached", first, "s", at_most=30 + 5),
            Figure("back to all events drained, which is the emulator's time", drained, "s"),
            exactly("events drained", len(stage.cache.items()), events),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


WRONG_ANSWERS: dict[str, Callable[[Asked], Answer]] = {
    "404 to everything": lambda _: Answer(404, b'{"detail": "no such product"}'),
    "a page of HTML with 404 to everything": lambda _: Answer(
        404, b"<html><h1>Not Found</h1></html>", HTML
    ),
    "401 to everything": lambda _: Answer(401, b'{"detail": "token expired"}'),
    "another host's 200 to everything": lambda _: Answer(
        200, json.dumps({"id": "orders-7", "total": 12}).encode()
    ),
}


def wrong_answers(_seed: int, *, rows: int, seconds: float) -> list[Figure]:
    """Every GET gets a 404, a page of HTML with 404, a 401, or a 200 of another service."""
    figures = [Figure("entities cached", rows)]
    for what, fault in WRONG_ANSWERS.items():
        with Stage(visibility=10) as stage:
            ids = [f"p{number}" for number in range(rows)]
            for id in ids:
                stage.source.commit(id)
            stage.announce(ids)
            worker = stage.worker()
            stage.wait_until_empty()
            before = stage.cache.items()
            asked: list[Asked] = []
            stage.before_source.fault = noted(fault, asked)
            stage.announce(ids)
            time.sleep(seconds)
            figures.append(Figure(f"{what}: GETs answered so", len(asked), at_least=5))
            cached = stage.cache.items()
            changed = sum(cached[id] != before[id] for id in cached)
            deleted = len(before) - len(cached)
            if what.startswith("404"):
                # The guard lets at most half of the last hundred looks delete.
                figures.append(Figure(f"{what}: deleted", deleted, at_most=50, at_least=1))
            else:
                figures.append(exactly(f"{what}: deleted", deleted, 0))
            figures += none(
                **{f"{what}: overwritten": changed, f"{what}: dead letters": stage.dead()}
            )
            worker.require_alive()
    return figures


def sqs_away(seed: int, *, seconds: float) -> list[Figure]:
    """SQS goes away twice and comes back: first it refuses connections, then all calls fail."""
    chance = random.Random(seed)
    figures = [Figure("away, each time", seconds, "s")]
    with Stage(visibility=5) as stage:
        worker = stage.worker()
        for which in "first", "second":
            ids = [f"{which}-{number}" for number in range(20)]
            if which == "first":
                stage.before_sqs.go_away()
            else:
                stage.before_sqs.fault = lambda asked: sqs_failure(asked, chance, stage.before_sqs)
            time.sleep(1.5)  # a long poll that the proxy has forwarded must not bring these events
            before = len(worker.lines())
            for id in ids:
                stage.source.commit(id)
            stage.announce(ids)
            sleep(seconds, f"seconds of the {which} time")
            lines = worker.lines()[before:]
            pauses = sum(line.get("action") == "receive" for line in lines)
            if which == "first":
                stage.before_sqs.come_back()
            stage.before_sqs.fault = lambda _: None
            first = stage.wait_until_cached(ids[:1])
            stage.wait_until_empty()
            complaints = math.ceil(seconds / 30) + 1  # of the other calls: a line every 30 s
            what = f"lines in the log, in {pauses} pauses, {which} time"
            figures.append(Figure(what, len(lines), at_most=pauses + complaints, at_least=1))
            figures.append(
                Figure(f"back to the first event, {which} time", first, "s", at_most=30 + 2)
            )
        return [
            *figures,
            exactly("processes that live", int(worker.alive), 1),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def failed_batches(seed: int, *, seconds: float, every: int) -> list[Figure]:
    """Half of every tenth batch fails, for good or for now; and receipt handles expire."""
    with Stage(visibility=3) as stage, ExitStack() as exits:
        refused: Counter[str] = Counter()
        calls = count(1)

        def fault(asked: Asked) -> Answer | None:
            if (
                "Batch" not in asked.headers.get("X-Amz-Target", "")
                or len(json.loads(asked.body)["Entries"]) < 2
            ):
                return None
            return (
                half_failed(asked, stage.before_sqs, refused) if next(calls) % every == 0 else None
            )

        stage.before_sqs.fault = fault
        workers = [stage.worker(prefetch=50), stage.worker(prefetch=50)]
        savers = stage.savers(exits, seed, per_second=12.0)
        paused = 0
        for second in range(round(seconds / 2)):
            time.sleep(2.0)
            if second % 5 == 1:
                # Suspended for longer than its visibility timeout, a worker has expired handles.
                workers[0].send(signal.SIGSTOP)
                time.sleep(stage.visibility + 1.5)
                workers[0].send(signal.SIGCONT)
                paused += 1
        exits.close()
        stage.wait_until_empty()
        stats = [worker.stop().stats for worker in workers]
        received = sum(stat["received"] for stat in stats)
        acknowledged = sum(stat["acknowledged"] for stat in stats)
        return [
            Figure("saves", sum(saver.saves for saver in savers), at_least=1),
            Figure("batches of more than one", next(calls) - 1),
            Figure("entries refused for good", refused["ReceiptHandleIsInvalid"], at_least=1),
            Figure("entries refused for now", refused["InternalError"], at_least=1),
            Figure("times that a worker slept until its handles expired", paused, at_least=1),
            Figure("messages received again, and looked at twice", received - acknowledged),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def stop(
    seed: int, *, times: int, lives: tuple[float, float], idle: int, wait_time: int
) -> list[Figure]:
    """SIGTERM stops a worker under load, again and again; then some idle workers."""
    chance = random.Random(seed)
    progress = Progress(times, "times stopped")
    with Stage(visibility=10) as stage, ExitStack() as exits:
        deliveries = Deliveries(stage.before_sqs)
        savers = stage.savers(exits, seed, per_second=15.0)
        ends = []
        for _ in range(times):
            worker = stage.worker()
            time.sleep(chance.uniform(*lives))
            ends.append(worker.stop())
            progress.add(1)
        exits.close()
        worker = stage.worker()
        stage.wait_until_empty()
        worker.stop()
        seconds = sorted(end.seconds for end in ends)
        succeeded = sum(end.status == 0 for end in ends)
        verdict = stage.verdict()
        waiting = [stage.worker(wait_time=wait_time) for _ in range(idle)]
        time.sleep(1.0)
        for worker in waiting:
            worker.send(signal.SIGTERM)
        idle_seconds = max(worker.ended().seconds for worker in waiting)
        return [
            exactly(
                f"SIGTERM under load, each after {lives[0]} to {lives[1]} s, exit status 0",
                succeeded,
                times,
            ),
            Figure("saves meanwhile", sum(saver.saves for saver in savers), at_least=1),
            Figure("median exit under load, wait_time 1", statistics.median(seconds), "s"),
            Figure("slowest exit under load", seconds[-1], "s", at_most=25.0),  # shutdown_timeout
            Figure(
                f"slowest exit of {idle} that were idle, wait_time {wait_time}",
                idle_seconds,
                "s",
                at_most=25.0,
            ),
            Figure(
                "receives a message, on average",
                deliveries.receives.total() / len(deliveries.receives),
            ),
            # The tenth receive would make it a dead letter.
            Figure(
                "receives of one message, at most", max(deliveries.receives.values()), at_most=9
            ),
            *none(**verdict, dead_letters=stage.dead()),
        ]
