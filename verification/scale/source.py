"""
What caches that have a backlog cost the other clients of their source, in virtual time.

    python -m verification.scale.source [--save]

The source does eight requests at once, 20 ms each, and queues the others. Beside each row stands
how long its other clients wait without any cache.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from change_events._consumer.limit import Answer, Limit
from verification.harness.commands import status_of
from verification.harness.docs import markdown_table, write_between_markers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORK = 0.0005
"""Seconds between a cache's GET and its next one."""

SERVERS, SECONDS = 8, 0.02
CAPACITY = SERVERS / SECONDS

SHOWN = 100
"""Requests that show a cache how long they last without a backlog."""

THREADS = 50
"""GETs at once of loops that have no limit."""

USE = 0.8
"""The part of what is free that GETs at an even rate use."""


class Source:
    """
    A source in virtual time, with a queue, its other clients, and caches that always have something
    to look at.

    Args:
        servers: How many requests it serves at once.
        seconds: Given the time, returns for how long one is served.
        foreground: The other clients' share of the capacity.
        limits: The limit of each cache.

    Attributes:
        answered: For each cache, when its GETs ended.
        others: How long each request of other clients lasted, in seconds.
        now: The time, in seconds.
    """

    def __init__(
        self,
        servers: int,
        seconds: Callable[[float], float],
        *,
        foreground: float = 0.0,
        limits: Sequence[Limit] = (),
    ) -> None:
        self.limits = limits
        self.answered: list[list[float]] = [[] for _ in limits]
        self.others: list[float] = []
        self.now = 0.0
        self._servers, self._seconds = servers, seconds
        self._busy = 0
        self._queue: deque[Callable[[], object]] = deque()
        self._random = random.Random(1)
        self._events: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self.foreground(foreground)
        if foreground:
            self._at(self._random.expovariate(self._rate), self._come)
        for cache in range(len(limits)):
            self._at(cache * 0.01, self._ask, cache)

    def show(self, seconds: Sequence[float]) -> Source:
        """Let all caches know how long GETs last without a backlog; return this source."""
        for limit, (at, each) in itertools.product(self.limits, enumerate(seconds, -len(seconds))):
            limit.answered(Answer(at, each), at + each)
        return self

    def run(self, until: float) -> Source:
        """Let time pass until then; return this source."""
        while self._events[0][0] <= until:
            self.now, _, step, arguments = heapq.heappop(self._events)
            step(*arguments)
        return self

    def foreground(self, share: float) -> None:
        """Let other clients want that share of the capacity from now on."""
        self._rate = share * self._servers / self._seconds(0.0)

    def evenly(self, rate: float) -> Source:
        """Let requests come besides, so many a second and evenly; return this source."""
        self._serve(lambda: None)
        self._at(self.now + 1 / rate, self.evenly, rate)
        return self

    def rate(self, begin: float, end: float) -> float:
        """Return the GETs a second between two times, of all caches."""
        return sum(begin <= at < end for each in self.answered for at in each) / (end - begin)

    def p99(self) -> float:
        """Return the 99th percentile of other clients' requests, in seconds."""
        return sorted(self.others)[int(0.99 * len(self.others))]

    def _at(self, at: float, step: Callable[..., object], *arguments: object) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), step, arguments))

    def _come(self) -> None:
        came = self.now
        self._serve(lambda: self.others.append(self.now - came))
        self._at(self.now + self._random.expovariate(self._rate), self._come)

    def _ask(self, cache: int) -> None:
        limit = self.limits[cache]
        while (at := limit.next_at()) <= self.now:
            id, began = str(next(self._numbers)), self.now
            limit.begin(id, began)
            self._serve(partial(self._answer, cache, id, began))
        limit.waits = True
        self._at(at, self._ask, cache)

    def _answer(self, cache: int, id: str, began: float) -> None:
        self.answered[cache].append(self.now)
        self.limits[cache].over(id)
        self.limits[cache].answered(Answer(began, self.now - began), self.now)
        self._at(self.now + WORK, self._ask, cache)

    def _serve(self, then: Callable[[], object]) -> None:
        if self._busy == self._servers:
            self._queue.append(then)
            return
        self._busy += 1
        seconds = self._seconds(self.now) * (1 + 0.01 * self._random.random())
        self._at(self.now + seconds, self._served, then)

    def _served(self, then: Callable[[], object]) -> None:
        self._busy -= 1
        if self._queue:
            self._serve(self._queue.popleft())
        then()


def rows(share: float, seconds: float) -> list[list[str]]:
    """Play each kind of cache beside other clients that want that share of the capacity."""

    def source(*limits: Limit) -> Source:
        return Source(SERVERS, lambda _: SECONDS, foreground=share, limits=limits)

    def caches(number: int) -> Source:
        return source(*(Limit(64) for _ in range(number)))

    alone = source().run(seconds)
    free = CAPACITY * (1 - share)
    plays = {
        "one, that has just started": caches(1),
        "one, that followed live changes before": caches(1).show(alone.others[-SHOWN:]),
        "twelve, that have just started": caches(12),
        "twelve, that followed live changes before": caches(12).show(alone.others[-SHOWN:]),
        f"loops, {THREADS} GETs at once": source(Limit.fixed(THREADS)),
        "none; GETs at an even rate": source().evenly(USE * free),
    }
    found = []
    for who, play in plays.items():
        play.run(seconds)
        used = play.rate(seconds / 10, seconds) / free if play.limits else USE
        times = play.p99() / alone.p99()
        found.append([f"{share * 100:.0f} %", who, f"{used:.2f}", f"{times:.1f}"])
    return found


def command(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.scale.source",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="virtual seconds of each row (default: 60)"
    )
    parser.add_argument("--save", action="store_true", help="write docs/explanation/design.md")
    given = parser.parse_args(arguments)
    return status_of(lambda: _main(given))


def _main(given: argparse.Namespace) -> int:
    head = [
        "other clients need",
        "caches",
        "they use of what is free",
        "p99 of the others, times alone",
    ]
    found = [row for share in (0.3, 0.7) for row in rows(share, given.seconds)]
    table = Table(*head)
    for row in found:
        table.add_row(*row)
    Console().print(table)
    if given.save:
        write_between_markers("limit", markdown_table([head, *found]), page="design.md")
    return 0


if __name__ == "__main__":
    sys.exit(command())
