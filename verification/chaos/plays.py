"""
The plays. Each breaks one thing, over the wire, and returns figures with their goals.

What is lost is an entity whose cached state, once the queue is empty, is not the source's; what is
wrong is a state that the source never had; backward is a state that the cache had before a newer
one. The judge knows all states of both.
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
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from verification.chaos.figures import Figure, exactly, none
from verification.chaos.process import wait_until
from verification.chaos.source import Saver
from verification.chaos.stage import Stage, Worker
from verification.chaos.wire import HANG_UP, RESET, Answer, half, sqs_error
from verification.proof._parallel import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from verification.chaos.wire import Asked, Proxy

HTML = {"Content-Type": "text/html; charset=utf-8"}

FEW_IDS = ["hot", *(f"p{number}" for number in range(1, 20))]

PATIENCE = 300.0
"""Seconds until a queue must be empty again."""


def kill(seed: int, *, kills: int) -> list[Figure]:
    """
    One of three workers is killed every second or so, and another begins; meanwhile the savers
    never rest.
    """
    chance = random.Random(seed)
    progress = Progress(kills, "kills")
    with Stage(visibility=5) as stage, ExitStack() as exits:
        workers = [stage.worker() for _ in range(3)]
        savers = _savers(stage, exits, seed, per_second=8.0)
        killed = 0
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 1.2))
            place = chance.randrange(3)
            workers[place].require_alive()
            workers[place].send(signal.SIGKILL)
            killed += workers[place].wait() == -signal.SIGKILL
            workers[place] = stage.worker()
            progress.add(1)
        exits.close()
        stage.wait_until_empty(PATIENCE)
        return [
            exactly("kill -9", killed, kills),
            Figure("saves meanwhile", sum(saver.saves for saver in savers), at_least=1),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def outage(
    seed: int, *, times: int, visibility: int, max_receives: int, events: int
) -> list[Figure]:
    """
    The source is down for four times the visibility timeout times maxReceiveCount, while so many
    events wait.
    """
    down = float(times * visibility * max_receives)
    chance = random.Random(seed)
    with Stage(visibility=visibility, max_receives=max_receives) as stage:
        ids = [f"p{number}" for number in range(events)]
        for id in ids:
            stage.source.commit(id)
        stage.announce(ids)
        asked: list[float] = []
        cut: list[float] = []  # a GET that is cut off before its answer begins is sent again, once

        def fault(_: Asked) -> Answer:
            answer = _failure(chance)
            asked.append(time.time())
            if not answer.status:
                cut.append(asked[-1])
            return answer

        stage.before_source.fault = fault
        worker = stage.worker()
        _sleep(down, "seconds of an outage")
        probes = [line for line in worker.lines() if line.get("action") == "outage"]
        # Not from the first line on: looks that were under way may ask a moment after it.
        at, pauses = probes[1]["at"], len(probes) - 1
        later, cut_later = [sum(then > at for then in times) for times in (asked, cut)]
        earlier, cut_earlier = len(asked) - later, len(cut) - cut_later
        stage.before_source.fault = lambda _: None
        first = wait_until(lambda: bool(stage.cache.items()), PATIENCE)
        drained = first + stage.wait_until_empty(PATIENCE)
        return [
            Figure("the source is down", down, "s"),
            Figure("events waiting", events),
            # Five must fail, eleven more looks may be under way, and one ends the first pause.
            Figure(
                "GETs until that was known, and the first pause over",
                earlier,
                at_most=5 + 11 + 1 + cut_earlier,
            ),
            Figure(
                f"GETs in the other {pauses} pauses; {cut_later} were cut off",
                later,
                at_most=pauses + cut_later,
            ),
            Figure(
                "back to the first entity cached", first, "s", at_most=60 + 5
            ),  # the longest pause, and a moment
            Figure("back to all events drained, which is the emulator's time", drained, "s"),
            exactly("events drained", len(stage.cache.items()), events),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def quiet_outage(_seed: int, *, times: int, visibility: int, max_receives: int) -> list[Figure]:
    """
    The source is down for as long, while a single event waits: what fails may be the entity or the
    source.
    """
    down = float(times * visibility * max_receives)
    with Stage(visibility=visibility, max_receives=max_receives) as stage:
        stage.source.commit("p1")
        stage.before_source.go_away()
        worker = stage.worker()
        stage.announce(["p1"])
        _sleep(down, "seconds of an outage")
        worker.require_alive()
        failed = sum(line.get("action") in {"look", "outage"} for line in worker.lines())
        stage.before_source.come_back()
        drained = stage.wait_until_empty(PATIENCE)
        return [
            Figure("the source is down", down, "s"),
            Figure("looks that failed meanwhile, by the log", failed, at_least=2),
            Figure("drained, after it was back", drained, "s", at_most=60 + 5),
            *none(**stage.verdict(), dead_letters=stage.dead()),
        ]


def wrong_answers(_seed: int, *, rows: int, seconds: float) -> list[Figure]:
    """
    The source answers as if nothing were there, or as if we were nobody, or somebody else answers
    in its place.
    """
    other = {"id": "orders-7", "total": 12}
    answers: dict[str, Callable[[Asked], Answer]] = {
        "404 to everything": lambda _: Answer(404, b'{"detail": "no such product"}'),
        "a page of HTML with 404 to everything": lambda _: Answer(
            404, b"<html><h1>Not Found</h1></html>", HTML
        ),
        "401 to everything": lambda _: Answer(401, b'{"detail": "token expired"}'),
        "another host's 200 to everything": lambda _: Answer(200, json.dumps(other).encode()),
    }
    figures = [Figure("entities cached", rows)]
    for what, fault in answers.items():
        with Stage(visibility=10) as stage:
            ids = [f"p{number}" for number in range(rows)]
            for id in ids:
                stage.source.commit(id)
            stage.announce(ids)
            worker = stage.worker()
            stage.wait_until_empty(PATIENCE)
            before = stage.cache.items()
            asked: list[Asked] = []
            stage.before_source.fault = _noted(fault, asked)
            stage.announce(ids)
            time.sleep(seconds)
            figures.append(Figure(f"{what}: GETs answered so", len(asked), at_least=5))
            cached = stage.cache.items()
            changed = sum(cached[id] != before[id] for id in cached)
            deleted = len(before) - len(cached)
            if what.startswith(
                "404"
            ):  # the guard's threshold: half of the last hundred looks, of which the first went well
                figures.append(Figure(f"{what}: deleted", deleted, at_most=50, at_least=1))
            else:
                figures.append(exactly(f"{what}: deleted", deleted, 0))
            figures += none(
                **{f"{what}: overwritten": changed, f"{what}: dead letters": stage.dead()}
            )
            worker.require_alive()
    return figures


def broken_id(seed: int, *, ids: int, max_receives: int) -> list[Figure]:
    """One id of many always fails."""
    broken = f"p{random.Random(seed).randrange(ids)}"
    seconds = {}
    with Stage(visibility=5, max_receives=max_receives, settle=0.5) as stage:
        for which, fails in ("sound", None), ("broken", broken):
            names = [
                f"{which}-{number}" if fails is None else f"p{number}" for number in range(ids)
            ]
            for name in names:
                stage.source.commit(name)
            stage.before_source.fault = _failing_for(fails)
            worker = stage.worker()
            started = time.monotonic()
            stage.announce(names)
            others = set(names) - {fails}
            _wait_until_cached(stage, others)
            seconds[which] = time.monotonic() - started
            stage.wait_until_empty(PATIENCE)
            worker.send(signal.SIGTERM)
            worker.wait()
        letters = stage.sqs.receive_message(QueueUrl=stage.dead_url, MaxNumberOfMessages=10).get(
            "Messages", []
        )
        return [
            Figure(f"seconds until {ids} sound ones are cached", seconds["sound"], "s"),
            Figure(
                f"seconds until {ids - 1} are, beside a broken one",
                seconds["broken"],
                "s",
                at_most=seconds["sound"] + 2.0,
            ),
            exactly("cached", len(stage.cache.items()), 2 * ids - 1),
            exactly("dead letters", stage.dead(), 1),
            exactly(
                "of them the broken one's",
                sum(letter["Body"] == json.dumps({"id": broken}) for letter in letters),
                1,
            ),
        ]


def sqs_away(seed: int, *, seconds: float) -> list[Figure]:
    """SQS is away, and comes back, twice: first nobody is there, then it fails in many ways."""
    chance = random.Random(seed)
    figures = [Figure("away, each time", seconds, "s")]
    with Stage(visibility=5) as stage:
        worker = stage.worker()
        for which in "first", "second":
            ids = [f"{which}-{number}" for number in range(20)]
            if which == "first":
                stage.before_sqs.go_away()
            else:
                stage.before_sqs.fault = lambda asked: _sqs_failure(asked, chance, stage.before_sqs)
            time.sleep(
                1.5
            )  # the poll that was under way, and passed on, must not bring what comes now
            before = len(worker.lines())
            for id in ids:
                stage.source.commit(id)
            stage.announce(ids)
            _sleep(seconds, f"seconds of the {which} time")
            lines = worker.lines()[before:]
            pauses = sum(line.get("action") == "receive" for line in lines)
            if which == "first":
                stage.before_sqs.come_back()
            stage.before_sqs.fault = lambda _: None
            first = _wait_until_cached(stage, ids[:1])
            stage.wait_until_empty(PATIENCE)
            complaints = math.ceil(seconds / 30) + 1  # of the other calls, one line in 30 s
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
    """
    Every tenth batch of more than one fails for half of its entries, some of them for good; and
    receipt handles expire.
    """
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
                _half_failed(asked, stage.before_sqs, refused) if next(calls) % every == 0 else None
            )

        stage.before_sqs.fault = fault
        workers = [stage.worker(prefetch=50), stage.worker(prefetch=50)]
        savers = _savers(stage, exits, seed, per_second=12.0)
        paused = 0
        for second in range(round(seconds / 2)):
            time.sleep(2.0)
            if (
                second % 5 == 1
            ):  # a worker that is stopped for longer than its visibility timeout holds handles that expired
                workers[0].send(signal.SIGSTOP)
                time.sleep(stage.visibility + 1.5)
                workers[0].send(signal.SIGCONT)
                paused += 1
        exits.close()
        stage.wait_until_empty(PATIENCE)
        stats = [_stop(worker).stats for worker in workers]
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
    """
    A worker is stopped by SIGTERM under load, again and again; and some that have nothing to do.
    """
    chance = random.Random(seed)
    progress = Progress(times, "times stopped")
    with Stage(visibility=10) as stage, ExitStack() as exits:
        receives: Counter[str] = Counter()
        stage.before_sqs.fault = lambda asked: _noting(asked, stage.before_sqs, receives)
        savers = _savers(stage, exits, seed, per_second=15.0)
        ends = []
        for _ in range(times):
            worker = stage.worker()
            time.sleep(chance.uniform(*lives))
            ends.append(_stop(worker))
            progress.add(1)
        exits.close()
        worker = stage.worker()
        stage.wait_until_empty(PATIENCE)
        _stop(worker)
        seconds = sorted(end.seconds for end in ends)
        succeeded = sum(end.status == 0 for end in ends)
        verdict = stage.verdict()
        waiting = [stage.worker(wait_time=wait_time) for _ in range(idle)]
        time.sleep(1.0)
        for worker in waiting:
            worker.send(signal.SIGTERM)
        idle_seconds = max(_ended(worker).seconds for worker in waiting)
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
            Figure("receives a message, on average", receives.total() / len(receives)),
            Figure(
                "receives of one message, at the most", max(receives.values()), at_most=9
            ),  # ten, and it is a dead letter
            *none(**verdict, dead_letters=stage.dead()),
        ]


def _savers(stage: Stage, exits: ExitStack, seed: int, *, per_second: float) -> list[Saver]:
    """Start two; they end with `exits`."""
    savers = [
        Saver(
            stage.source,
            stage.publisher,
            FEW_IDS,
            settle=stage.settle,
            per_second=per_second / 2,
            seed=seed + number,
        )
        for number in range(2)
    ]
    for saver in savers:
        saver.start()
        exits.callback(saver.end)
    return savers


@dataclass(frozen=True)
class End:
    """
    How a worker ended that was told to stop: after how many seconds, with which exit status and
    counts.
    """

    seconds: float
    status: int
    stats: dict[str, Any]


def _stop(worker: Worker) -> End:
    worker.send(signal.SIGTERM)
    return _ended(worker)


def _ended(worker: Worker) -> End:
    started = time.monotonic()
    status = worker.wait()
    return End(time.monotonic() - started, status, worker.lines()[-1])


def _wait_until_cached(stage: Stage, ids: Iterable[str]) -> float:
    """Return how many seconds it took."""
    missing = set(ids)
    return wait_until(lambda: missing <= stage.cache.items().keys(), PATIENCE)


def _sleep(seconds: float, what: str) -> None:
    progress = Progress(math.ceil(seconds), what)
    for _ in range(math.ceil(seconds)):
        time.sleep(1.0)
        progress.add(1)


def _noted(fault: Callable[[Asked], Answer], asked: list[Asked]) -> Callable[[Asked], Answer]:
    """Let the fault answer, and note what was asked."""

    def answer(request: Asked) -> Answer:
        asked.append(request)
        return fault(request)

    return answer


def _failure(chance: random.Random) -> Answer:
    """One of the ways in which a source is down."""
    return chance.choice(
        [
            Answer(503, b"<html>Service Unavailable</html>", HTML),
            Answer(500, b'{"detail": "oops"}'),
            Answer(429, b'{"detail": "slow down"}'),
            Answer(
                200, b"", {"Content-Type": "application/json"}, length=100, chunks=[(3.0, b"late")]
            ),
            half(Answer(200, b'{"id": "p1", "n": 1000000}')),
            HANG_UP,
            RESET,
        ]
    )


def _failing_for(id: str | None) -> Callable[[Asked], Answer | None]:
    return lambda asked: (
        Answer(500, b'{"detail": "oops"}') if asked.path.rpartition("/")[2] == id else None
    )


def _sqs_failure(asked: Asked, chance: random.Random, sqs: Proxy) -> Answer:
    """One of the ways in which SQS fails."""
    operation = asked.headers.get("X-Amz-Target", "")
    return chance.choice(
        [
            sqs_error(500, "InternalError"),
            sqs_error(503, "ServiceUnavailable"),
            sqs_error(400, "ThrottlingException"),
            sqs_error(403, "ExpiredToken"),
            HANG_UP,
            RESET,
            *(
                [] if "Receive" in operation else [half(sqs.forward(asked))]
            ),  # half of a receive strands what it brought
        ]
    )


def _noting(asked: Asked, sqs: Proxy, receives: Counter[str]) -> Answer | None:
    """Pass on, and count how often each message is received."""
    if not asked.headers.get("X-Amz-Target", "").endswith("ReceiveMessage"):
        return None
    answer = sqs.forward(asked)
    receives.update(message["MessageId"] for message in json.loads(answer.body).get("Messages", []))
    return answer


def _half_failed(asked: Asked, sqs: Proxy, refused: Counter[str]) -> Answer:
    """Pass on half of a batch's entries, and refuse the others, by turns for good and for now."""
    request = json.loads(asked.body)
    entries = request["Entries"]
    passed, kept = entries[::2], entries[1::2]
    answer = sqs.forward(replace(asked, body=json.dumps(request | {"Entries": passed}).encode()))
    failed = []
    for entry in kept:
        for_good = refused.total() % 2 == 0
        code = "ReceiptHandleIsInvalid" if for_good else "InternalError"
        failed.append(
            {"Id": entry["Id"], "Code": code, "Message": "refused", "SenderFault": for_good}
        )
        refused[code] += 1
    return replace(answer, body=json.dumps(json.loads(answer.body) | {"Failed": failed}).encode())
