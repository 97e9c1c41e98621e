"""A play in which a look never ends."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import urllib3

from verification.chaos.faults import UNAVAILABLE, Deliveries
from verification.chaos.stage import PATIENCE, Stage
from verification.chaos.worker import HUNG_ID
from verification.harness.figures import Figure, exactly, none
from verification.harness.processes import free_port, wait_until
from verification.harness.source import id_in

if TYPE_CHECKING:
    from typing_extensions import Self

    from verification.harness.wire import Answer, Asked


def hung_look(
    _seed: int, *, others: int, visibility: int, shutdown_timeout: float, probe: bool
) -> list[Figure]:
    """A look at one id never ends: in a user's fetcher without a timeout, then in a sink."""
    figures = []
    for hangs in "fetcher", "sink":
        figures += _hung_while_working(hangs, others, visibility)
        figures += _hung_at_a_stop(hangs, others, shutdown_timeout)
    return figures + (_hung_probe(2, visibility) if probe else [])


def _hung_while_working(hangs: str, others: int, visibility: int) -> list[Figure]:
    port = free_port()
    with Stage(visibility=visibility) as stage, _Trap(stage) as trap:
        stage.fill(5, "control-")
        deliveries = Deliveries(stage.before_sqs)
        worker = stage.worker(hangs=hangs, health_port=port)
        started = time.monotonic()
        trap.hang(hangs)
        calm = _seconds_until_cached(stage, "calm", others)
        # Only a heartbeat keeps the message invisible for so long.
        time.sleep(max(0.0, started + 2.5 * visibility - time.monotonic()))
        receives = max(deliveries.receives.values())

        trap.down.set()
        later = [f"later-{each}" for each in range(others)]
        stage.commit(later)
        wait_until(lambda: worker.noted("outage"), PATIENCE)
        healthy = _health(port, "/healthz")
        trap.down.clear()
        back = stage.wait_until_cached(later)
        wait_until(lambda: stage.waiting() == 1, PATIENCE)
        what = f"hung in the {hangs}"
        return [
            Figure(f"{what}: until {others} others are cached", calm, "s", at_most=10),
            exactly(f"{what}: receives of a message in 2.5 visibility timeouts", receives, 1),
            exactly(f"{what}: status of /healthz in an outage", healthy, 200),
            # The longest pause, and a moment.
            Figure(f"{what}: until others are cached after an outage", back, "s", at_most=30 + 10),
            *none(**{f"{what}: dead letters": stage.dead()}),
        ]


def _hung_probe(others: int, visibility: int) -> list[Figure]:
    with Stage(visibility=visibility) as stage, _Trap(stage) as trap:
        worker = stage.worker(hangs="fetcher")
        trap.down.set()
        ids = [f"p{each}" for each in range(others)]
        stage.commit([HUNG_ID, *ids])
        wait_until(lambda: worker.noted("outage"), PATIENCE)
        trap.armed.set()
        wait_until(trap.caught.is_set, PATIENCE)
        trap.down.clear()
        back = stage.wait_until_cached(ids)
        return [
            # A probe counts as hung after a minute; then comes the longest pause, and a moment.
            Figure(
                "a probe of an outage hangs: until others are cached",
                back,
                "s",
                at_most=60 + 30 + 10,
            ),
            *none(**{"a probe of an outage hangs: dead letters": stage.dead()}),
        ]


def _hung_at_a_stop(hangs: str, others: int, shutdown_timeout: float) -> list[Figure]:
    # A message that was not handed back would stay invisible for an hour.
    with Stage(visibility=3600, settle=10) as stage, _Trap(stage) as trap:
        worker = stage.worker(hangs=hangs, shutdown_timeout=shutdown_timeout)
        trap.hang(hangs)
        _seconds_until_cached(stage, "held", others)  # by their early looks
        end = worker.stop()
        seen: dict[str, float] = {}
        stopped = time.monotonic()

        def receive() -> bool:
            answer = stage.sqs.receive_message(
                QueueUrl=stage.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=3600
            )
            for message in answer.get("Messages", []):
                seen[json.loads(message["Body"])["id"]] = time.monotonic() - stopped
            return len(seen) == 1 + others

        wait_until(receive, PATIENCE)
        what = f"hung in the {hangs}"
        return [
            # A moment more, because this is the time until the process has ended.
            Figure(f"{what}: stopped", end.seconds, "s", at_most=shutdown_timeout + 3 + 2),
            exactly(f"{what}: exit status", end.status, 0),
            exactly(f"{what}: messages that are visible again", len(seen), 1 + others),
            Figure(
                f"{what}: the last of them, after a window of 10 s",
                max(seen.values()),
                "s",
                at_most=10 + 5,
            ),
        ]


class _Trap:
    """
    Decides how GETs of a stage end, while the block runs.

    Attributes:
        armed: GETs of one id never end.
        caught: One of them has begun.
        down: All others get a 503.
    """

    def __init__(self, stage: Stage) -> None:
        self.armed, self.caught, self.down = (threading.Event() for _ in range(3))
        self._over = threading.Event()
        self._stage = stage

    def __enter__(self) -> Self:
        self._stage.before_source.fault = self._fault
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def hang(self, hangs: str) -> None:
        """Let a look hang, in the fetcher or in the sink."""
        if hangs == "fetcher":
            self.armed.set()
        self._stage.commit([HUNG_ID])
        wait_until(lambda: self.caught.is_set() or _is_asked(self._stage, HUNG_ID), PATIENCE)

    def _fault(self, request: Asked) -> Answer | None:
        if self.armed.is_set() and id_in(request) == HUNG_ID:
            self.caught.set()
            self._over.wait()
        return UNAVAILABLE if self.down.is_set() else None


def _is_asked(stage: Stage, id: str) -> bool:
    return any(asked == id for _, asked in list(stage.source.asked))


def _seconds_until_cached(stage: Stage, prefix: str, number: int) -> float:
    ids = [f"{prefix}-{each}" for each in range(number)]
    stage.commit(ids)
    return stage.wait_until_cached(ids)


def _health(port: int, path: str) -> int:
    url = f"http://127.0.0.1:{port}{path}"
    return urllib3.request("GET", url, timeout=PATIENCE, retries=False).status
