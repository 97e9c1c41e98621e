"""A cache that is merely late is never reported; one that is wrong for longer always is."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest

from change_events import Found, MemorySink
from change_events._consumer.look import look
from change_events._event import Page
from change_events._operations.auditing import Auditing
from change_events._operations.comparing import Findings
from change_events._operations.rounds import Rounds
from change_events._operations.sides import Sides, bodies_of
from change_events._operations.throttle import Throttle
from change_events.testing import FakeSource

LATENESS = 1.0
"""Seconds after which the cache has followed a change, at most."""


CALL = 0.002
"""Seconds that a call of the source or the sink lasts, at most."""


class World:
    """
    A source that changes, and a cache that follows it. Time passes with each call of an audit, and
    while it waits.

    `rate`: Changes a second.
    """

    def __init__(self, seed, *, ids=20, rate=100):
        self.now = 0.0
        self._random = random.Random(seed)
        self._rate = rate
        self._due = []
        self._number = itertools.count()
        self._ids = [f"p{n}" for n in range(ids)]
        self.source, self.sink = FakeSource(), MemorySink()
        for id in self._ids:
            self.source[id] = {"id": id, "in_stock": True}
            look(id, fetcher=self.source, sink=self.sink)
        self._later(self._random.expovariate(rate), self._change)

    def _later(self, seconds, do):
        heapq.heappush(self._due, (self.now + seconds, next(self._number), do))

    def _change(self):
        """Few states, so that what changes often comes back to what it was."""
        id = self._random.choice(self._ids)
        if self._random.random() < 0.3:
            self.source.pop(id, None)
        else:
            self.source[id] = {"id": id, "in_stock": self._random.random() < 0.5}
        self._later(
            self._random.random() * LATENESS,
            lambda: look(id, fetcher=self.source, sink=self.sink),
        )
        self._later(self._random.expovariate(self._rate), self._change)

    def pass_(self, seconds):
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, do = heapq.heappop(self._due)
            do()
        self.now = until

    # A fetcher, a sink and a listing, whose calls last

    def fetch(self, id, /, *, etag=None):
        self.pass_(CALL * self._random.random())
        return self.source.fetch(id)

    def get(self, id):
        self.pass_(CALL * self._random.random())
        return self.sink.get(id)

    def entry(self, id, /):
        self.pass_(CALL * self._random.random())
        return self.sink.entry(id)

    def ids(self, *, after=None, limit=1000):
        self.pass_(CALL)
        return self.sink.ids(after=after, limit=limit)

    def page(self, cursor):
        at = int(cursor or 0)
        self.pass_(CALL)
        items = dict(itertools.islice(sorted(self.source.items()), at, at + 5))
        more = str(at + 5) if items else None
        return Page(list(items), {id: Found(entity) for id, entity in items.items()}, more)


class IdsOnly:
    def __init__(self, world):
        self._world = world

    def page(self, cursor):
        page = self._world.page(cursor)
        return Page(page.ids, None, page.cursor)


def pages_of(listing):
    """Not `Pages`: its thread would read at any time."""
    cursor = None
    while True:
        page = listing.page(cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


def audited(world, listing, *, min_age):
    throttle = Throttle()
    rounds = Rounds(throttle, threads=1, sink=world, on_tick=lambda: None)
    found = Findings()
    auditing = Auditing(
        pages_of(listing),
        sides=Sides(
            world, world, bodies=bodies_of(world), throttle=throttle, clock=lambda: world.now
        ),
        sink=world,
        rounds=rounds,
        throttle=throttle,
        min_age=min_age,
        found=found,
        clock=lambda: world.now,
    )
    try:
        for seconds in auditing.steps():
            world.pass_(seconds)
    finally:
        rounds.close()
    return found


@pytest.mark.parametrize("entities", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_a_cache_that_is_merely_late_is_never_reported(seed, entities):
    world = World(seed)
    world.pass_(3 * LATENESS)

    found = audited(world, world if entities else IdsOnly(world), min_age=LATENESS)

    assert found.stale == {}
    assert found.cleared  # each of them would be reported without the second reading


class Hooked(World):
    """A world in which nothing changes but after the first GETs, and before the others."""

    def __init__(self):
        super().__init__(0, ids=1, rate=1e-9)
        self.after_get = []
        self.before_get = []

    def fetch(self, id, /, *, etag=None):
        before, after = self.before_get.pop(0), self.after_get.pop(0)
        before()
        try:
            return super().fetch(id)
        finally:
            after()

    def save(self, *, in_stock, followed):
        self.source["p0"] = {"id": "p0", "in_stock": in_stock}
        if followed:
            look("p0", fetcher=self.source, sink=self.sink)


def nothing():
    """Do nothing."""


@pytest.mark.parametrize("followed", [True, False])
def test_a_change_back_that_is_still_on_its_way_is_not_reported(followed):
    """A reading that read the source before the cache would take a change for a mismatch."""
    world = Hooked()
    world.after_get = [lambda: world.save(in_stock=False, followed=followed), nothing]
    world.before_get = [nothing, lambda: world.save(in_stock=True, followed=False)]

    found = audited(world, IdsOnly(world), min_age=LATENESS)

    assert found.stale == {}


def test_a_source_that_has_changed_again_is_not_reported():
    world = Hooked()
    world.save(in_stock=False, followed=False)
    world.before_get = [nothing, lambda: world.source.pop("p0")]
    world.after_get = [nothing, nothing]

    found = audited(world, IdsOnly(world), min_age=LATENESS)

    assert found.stale == {}
    assert found.cleared == 1


def test_what_is_wrong_for_longer_is_found_among_a_hundred_changes_a_second():
    world = World(1, ids=200)
    world.source["quiet"] = {"id": "quiet", "in_stock": False}
    world.source["gone"] = {"id": "gone"}
    look("gone", fetcher=world.source, sink=world.sink)
    del world.source["gone"]

    found = audited(world, world, min_age=LATENESS)

    assert {id: stale.kind for id, stale in found.stale.items()} == {
        "quiet": "missing",
        "gone": "extra",
    }
    assert min(stale.age for stale in found.stale.values()) >= LATENESS
