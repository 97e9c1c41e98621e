"""
A worker's own audit: it compares a few ids a minute with the source, for ever.

It goes through the cached ids and then through those that are listed and not cached, page by page.
So each id is compared once in a pass, and nothing has to be listed as a whole.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from change_events._consumer.health import FULL
from change_events._consumer.log import log
from change_events._consumer.look import entry_of
from change_events._operations.comparing import KEPT, Comparing, Findings
from change_events._operations.patience import patiently
from change_events._operations.reading import Pages
from change_events._operations.rounds import TRIES, Rounds
from change_events._operations.sides import Sides, bodies_of
from change_events._operations.state import NUMBER_OR_NONE, TEXT_OR_NONE
from change_events._operations.throttle import RATE_LIMIT, SINK, TICK, Stopped
from change_events._text import printable
from change_events.exceptions import ListingError
from change_events.typing import EnumerableSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from change_events._consumer.health import Pauses
    from change_events._consumer.stats import Tally
    from change_events._operations.comparing import Stale
    from change_events._operations.sides import Reading
    from change_events._operations.state import Kept
    from change_events._operations.throttle import Throttle
    from change_events.typing import Fetcher, Listing, Sink

R = TypeVar("R")
T = TypeVar("T")

PAGE = 100
"""Cached ids that are read from the sink at once."""

FIRST: dict[str, Any] = {
    "phase": "cached",
    "after": None,
    "cursor": None,
    "at": 0,
    "compared": 0,
    "undecided": {},
}
"""Where a pass begins."""

TYPES: dict[str, type | tuple[type, ...]] = {
    "listing": TEXT_OR_NONE,
    "phase": str,
    "after": TEXT_OR_NONE,
    "cursor": TEXT_OR_NONE,
    "at": int,
    "compared": int,
    "undecided": dict,
    "stale": dict,
    "suspects": list,
    "began": NUMBER_OR_NONE,
    "last_clean": NUMBER_OR_NONE,
}
"""What is kept, and the types."""

AGAIN = 5
"""Each so many comparisons, one is of an id that is known to be wrong."""


class Rolling(Generic[T]):
    """
    An audit without an end, from the moment when this process becomes its owner.

    Args:
        listing: Names what the source has; None: only what is cached is compared.
        fetcher: Reads the source.
        sink: The cache.
        throttle: When a GET can begin, and when to stop.
        pauses: Why the worker receives nothing: then the cache is late, and nothing is compared.
        kept: What was found, and is kept in the sink.
        tally: Counts the comparisons.
        per_minute: How many ids to compare in a minute.
        min_age: Seconds between the two readings.
    """

    def __init__(
        self,
        listing: Listing[T] | None,
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        throttle: Throttle,
        pauses: Pauses,
        kept: Kept,
        tally: Tally,
        per_minute: float,
        min_age: float,
    ) -> None:
        self._listing = listing
        self._sink = sink
        self._throttle = throttle
        self._pauses = pauses
        self._kept = kept
        self._tally = tally
        self._interval = 60.0 / per_minute
        self._next = time.monotonic()
        self._turns = 0
        self._late = False
        self._rounds = Rounds(throttle, threads=1, sink=sink, on_tick=self._tick)
        bodies = self._patiently(lambda: bodies_of(sink))
        sides = Sides(fetcher, sink, bodies=bodies, throttle=throttle)
        self._comparing = Comparing(
            sides=sides, rounds=self._rounds, min_age=min_age, found=Findings()
        )

    def work(self) -> NoReturn:
        """
        Compare, pass after pass.

        Raises:
            Stopped: Somebody asked to stop.
            Exception: The listing is wrong, or another process has taken over.
        """
        values = self._kept.values
        self._comparing.again = list(values["suspects"])  # before a restart
        try:
            while True:
                for id, position in self._pass(values):
                    self._pause()
                    self._compare_again()
                    self._compare([*self._known(values), *([] if id is None else [id])])
                    values |= position
                while self._comparing.suspects or self._comparing.again:
                    self._wait(self._comparing.seconds_left)
                    self._compare_again()
                self._end(values)
        except ListingError:
            values |= {"cursor": None, "at": 0}  # its cursors can have become invalid
            raise
        finally:
            self._rounds.close()

    def _end(self, values: dict[str, Any]) -> None:
        now = time.time()
        clean = not values["stale"] and not values["undecided"]
        last = {"compared": values["compared"], "undecided": values["undecided"], "clean": clean}
        values |= FIRST | {"ended": now, "last_pass": last}
        if clean:
            values["last_clean"] = now
        self._patiently(self._kept.save)

    # Which ids

    def _pass(self, values: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, object]]]:
        """Go on with a pass: yield each id, or None, and where the pass is when it is compared."""
        sink = self._sink if isinstance(self._sink, EnumerableSink) else None
        if values["phase"] == "cached" and sink is not None:
            after = values["after"]
            while ids := self._patiently(lambda: sink.ids(after=after, limit=PAGE)):  # noqa: B023
                for after in ids:
                    yield after, {"after": after}
        yield None, {"phase": "listed"}  # at least once in a pass: it must take its time
        if self._listing is None:
            return
        at, awaited = values["at"], self._rounds.awaited
        with closing(
            Pages(self._listing, throttle=self._throttle, awaited=awaited, start=values["cursor"])
        ) as pages:
            for page in pages:
                for number, id in enumerate(page.ids[at:], at + 1):
                    if sink is None or not self._is_cached(id):
                        yield id, {"at": number}
                at = 0
                yield None, {"cursor": page.cursor, "at": 0}  # a page is a GET, too

    def _is_cached(self, id: str) -> bool:
        return self._patiently(lambda: entry_of(self._sink, id)).present

    def _known(self, values: Mapping[str, Any]) -> list[str]:
        """Return, now and then, an id that is known to be wrong, each in its turn."""
        self._turns += 1
        if self._turns % AGAIN or not values["stale"]:
            return []
        id = next(iter(values["stale"]))
        values["stale"][id] = values["stale"].pop(id)
        return [id]

    # Comparing

    def _compare_again(self) -> None:
        """Compare what has to be compared again, once the worker receives."""
        while self._is_late():
            self._wait(TICK)
        again, self._comparing.again = self._comparing.again, []
        self._compare(list(dict.fromkeys(again)))

    def _compare(self, ids: Sequence[str]) -> None:
        for id in ids:
            if id not in self._comparing.suspects:
                self._note(self._comparing.read([id], tries=TRIES))
                self._kept.values["compared"] += 1
                self._tally.add("audit_compared")

    def _note(self, readings: Mapping[str, Reading]) -> None:
        comparing, values = self._comparing, self._kept.values
        found, comparing.found = comparing.found, Findings()
        if self._late:  # what has changed meanwhile is still on its way
            self._late = False
            comparing.again += [*found.stale, *comparing.suspects]
            found.stale.clear()
            comparing.suspects.clear()
        for id, reading in readings.items():
            if reading.differs is False and values["stale"].pop(id, None):
                log.info("%s is right again", printable(id), extra={"action": "stale", "id": id})
        for id, stale in found.stale.items():
            self._add_stale(id, stale)
        values["undecided"] = dict(list((values["undecided"] | found.undecided).items())[:KEPT])
        values["suspects"] = [*comparing.again, *comparing.suspects][:KEPT]

    def _add_stale(self, id: str, stale: Stale) -> None:
        known = self._kept.values["stale"]
        if id not in known:
            log.error(
                "the cache is wrong: %s is %s (%s)",
                printable(id),
                printable(stale.kind),
                printable(stale.why),
                extra={"action": "stale", "id": id, "kind": stale.kind},
            )
            if len(known) < KEPT:
                known[id] = {"kind": stale.kind, "why": stale.why, "found": time.time()}

    # Waiting

    def _pause(self) -> None:
        """Wait until the next id can be compared; meanwhile read suspects again."""
        self._wait(self._next - time.monotonic())
        while (left := self._next - time.monotonic()) > 0:
            self._wait(left)
        self._next = max(self._next, time.monotonic() - self._interval) + self._interval

    def _wait(self, seconds: float) -> None:
        if self._comparing.suspects:
            seconds = min(seconds, self._comparing.seconds_left)
        self._rounds.wait(seconds, RATE_LIMIT)
        self._tick()
        if self._late:
            self._note({})
        self._note(self._comparing.read_due())

    def _is_late(self) -> bool:
        return self._pauses.why not in {None, FULL}

    def _tick(self) -> None:
        if self._throttle.stopping.is_set():
            raise Stopped
        self._late = self._late or self._is_late()
        self._patiently(self._kept.beat)

    def _patiently(self, call: Callable[[], R]) -> R:
        return patiently(call, throttle=self._throttle, what=SINK)


def begun(values: dict[str, Any], listing: str | None) -> dict[str, Any]:
    """Return what is kept, for a pass that goes on, or for the first one."""
    if values.get("listing") != listing:  # then its cursor means nothing
        values |= FIRST
    values["listing"] = listing
    for name, value in (FIRST | {"began": time.time(), "last_clean": None}).items():
        values.setdefault(name, value)
    values.setdefault("stale", {})
    values.setdefault("suspects", [])
    return values
