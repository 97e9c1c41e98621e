"""A source that can do a few things at once, and has other clients."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class _Request(NamedTuple):
    seconds: float
    answer: Callable[[], object]


class Servers:
    """
    Requests are served a few at once, each for a while, in the order in which they come.

    The foreground is requests of the source's other clients, at random moments (Poisson). They wait
    in the same queue, but have no connection, so that they cost next to nothing.

    Args:
        number: How many requests are served at once; 0: all of them.

    Attributes:
        latency: For how many seconds a request is served.
        foreground: How long each request of the foreground lasted.
    """

    def __init__(self, number: int, latency: float) -> None:
        self.latency = latency
        self.foreground: list[float] = []
        self._number = number
        self._busy = 0
        self._waiting: deque[_Request] = deque()
        self._ended = False

    def serve(self, answer: Callable[[], object]) -> None:
        """Call `answer` once the request was served."""
        if not self._number:
            if self.latency:
                asyncio.get_running_loop().call_later(self.latency, answer)
            else:
                answer()
            return
        request = _Request(self.latency, answer)
        if self._busy < self._number:
            self._busy += 1
            self._begin(request, asyncio.get_running_loop().time())
        else:
            self._waiting.append(request)

    def _begin(self, request: _Request, at: float) -> None:
        asyncio.get_running_loop().call_at(at + request.seconds, self._end, request, at)

    def _end(self, request: _Request, began: float) -> None:
        if self._waiting:
            # From the time at which the last one should have ended, so that the loop's delays do
            # not take from the capacity.
            self._begin(self._waiting.popleft(), began + request.seconds)
        else:
            self._busy -= 1
        request.answer()

    def come(self, per_second: float) -> None:
        """Let so many requests of the foreground come each second, until `end`."""
        loop = asyncio.get_running_loop()
        self._come(per_second, loop.time(), random.Random(1))

    def _come(self, per_second: float, at: float, chance: random.Random) -> None:
        if self._ended:
            return
        loop = asyncio.get_running_loop()
        after = at + chance.expovariate(per_second)
        loop.call_at(after, self._come, per_second, after, chance)
        came = loop.time()
        self.serve(lambda: self.foreground.append(loop.time() - came))

    def end(self) -> None:
        """Let no further requests of the foreground come."""
        self._ended = True

    def state(self) -> dict[str, float]:
        """Return how long requests of the foreground lasted: median, 99th percentile, number."""
        if len(self.foreground) < 2:
            return {}
        cuts = statistics.quantiles(self.foreground, n=100)
        return {"p50": cuts[49], "p99": cuts[98], "foreground": len(self.foreground)}
