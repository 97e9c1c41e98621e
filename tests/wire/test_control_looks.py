"""
Broken ids do not keep others from being looked at, and an outage costs no receive: the queue makes
a dead letter of every message that is received twice.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

from change_events import ChangeEvent, Found, HTTPFetcher, MemorySink
from change_events import _worker as worker_module
from change_events._consumer.backoff import Backoff
from change_events._consumer.look import digest
from change_events._consumer.run import Run
from change_events.testing import FakeQueue
from conftest import running, wait_until
from verification.harness.wire import Answer, Server

PAUSE = 0.05
"""Seconds between looks in an outage."""


class Refusing(MemorySink):
    """A sink that refuses some ids, or whose entries can't be read."""

    def __init__(self):
        super().__init__()
        self.refuses = lambda id: False
        self.unreadable = False

    def entry(self, id, /):
        if self.unreadable:
            raise OSError("no connection")
        return super().entry(id)

    def apply(self, id, change, /, *, if_version):
        if self.refuses(id):
            raise ValueError(f"{id} breaks a foreign key")
        return super().apply(id, change, if_version=if_version)


@pytest.fixture
def sink():
    return Refusing()


def queued(*ids, receives):
    queue = FakeQueue(max_receive_count=receives)
    queue.publish([ChangeEvent(id) for id in ids])
    return queue


def fill(source, sink, ids):
    """Let the source have these entities, and the cache, too."""
    for id in ids:
        source.entities[id] = {"id": id}
        change = Found({"id": id}, digest=digest({"id": id}))
        assert sink.apply(id, change, if_version=0)


def outages(caplog):
    return [record for record in caplog.records if getattr(record, "action", None) == "outage"]


# An outage

HTML = {"Content-Type": "text/html"}

ANSWERS = {
    "500": Answer(500),
    "503": Answer(503),
    "403": Answer(403),
    "a redirect": Answer(302, headers={"Location": "/sign-in"}),
    "a page": Answer(200, b"<h1>Sign in</h1>", HTML),
    "a 404 as a page": Answer(404, b"<h1>no such host</h1>", HTML),
}


class World:
    """A source, a cache, and what can be wrong with them."""

    def __init__(self, server, source, sink):
        self.server, self.source, self.sink = server, source, sink
        self.token = True
        self.fetcher = HTTPFetcher(server.url + "/products/{id}", headers=self.headers)

    def headers(self):
        if not self.token:
            raise OSError("no token")
        return {"Authorization": "Bearer x"}

    def set_down(self, kind, *, down):
        if kind == "refused":
            (self.server.go_away if down else self.server.come_back)()
        elif kind == "no token":
            self.token = not down
        elif kind == "the sink refuses all":
            self.sink.refuses = lambda id: down
        elif kind == "no entry can be read":
            self.sink.unreadable = down
        else:
            self.source.answer = lambda id: ANSWERS[kind] if down else None


@pytest.fixture
def world(source, sink):
    with Server(lambda asked: source.respond(asked)) as server:  # noqa: PLW0108
        yield World(server, source, sink)


@pytest.mark.parametrize("number", [1, 2, 40])
@pytest.mark.parametrize(
    "kind", [*ANSWERS, "refused", "no token", "the sink refuses all", "no entry can be read"]
)
def test_an_outage_costs_no_receive_and_no_dead_letter_and_all_follow_after_it(
    world, source, sink, make_worker, monkeypatch, caplog, kind, number
):
    pause = Backoff(lambda failures, most: PAUSE)
    monkeypatch.setattr(worker_module, "Run", partial(Run, backoff=pause))
    fill(source, sink, [f"good{n}" for n in range(5)])
    ids = [f"p{n}" for n in range(number)]
    source.entities |= {id: {"id": id} for id in ids}
    queue = queued(*ids, receives=1)
    world.set_down(kind, down=True)
    worker = make_worker(queue.url, client=queue.client, fetcher=world.fetcher)
    with running(worker):
        wait_until(lambda: len(outages(caplog)) >= 4)
        world.set_down(kind, down=False)
        wait_until(lambda: worker.stats().acknowledged == number)

    assert {id: sink.get(id) for id in ids} == {id: {"id": id} for id in ids}
    assert queue.dead_letters == []
    assert worker.stats().received == number
    assert worker.stats().retries == 0
    assert outages(caplog)[-1].over


# Broken ids

BROKEN = {
    "500": Answer(500),
    "a 404 as a page": Answer(404, b"<h1>Not Found</h1>", HTML),
    "a wrong body": Answer(200, b"[]", {"Content-Type": "application/json"}),
    "refused by the sink": None,
}


@pytest.mark.parametrize("number", [1, 5, 1000])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_ids_neither_stop_the_worker_nor_delay_others(
    source, sink, make_worker, outcomes, caplog, kind, number
):
    """All were good before, half of the cache or less, and break at once."""
    ids = [f"p{n}" for n in range(2001)]
    broken = set(ids[1 : 2 * number : 2])
    fill(source, sink, ids)
    sink.refuses = lambda id: BROKEN[kind] is None and id in broken
    source.answer = lambda id: BROKEN[kind] if id in broken else None
    queue = queued(*broken, receives=99)
    worker = make_worker(queue.url, client=queue.client, threads=10, prefetch=1000)
    began = time.monotonic()
    with running(worker):
        wait_until(lambda: worker.stats().failed >= number)
        source.entities["p2000"] = {"id": "p2000", "n": 2}
        queue.publish([ChangeEvent("p2000")])
        sent = time.monotonic()
        outcomes.wait_for(("p2000", "updated"))
        seconds = time.monotonic() - sent
        wait_until(lambda: worker.stats().retries >= number)

    assert outages(caplog) == []
    # Under load, the first are back when the last has failed: then there are as many before it.
    assert seconds < 1.0 + (sent - began)


def test_while_the_sink_looks_for_good_ids_broken_ones_are_no_outage(
    source, sink, make_worker, outcomes, caplog
):
    """The threads that fail first come before the ids that tell a broken id from an outage."""
    broken = [f"p{number}" for number in range(9)]
    fill(source, sink, [*broken, "good"])
    source.answer = lambda id: Answer(500) if id in broken else None
    queue = queued(*broken, receives=99)
    worker = make_worker(queue.url, client=queue.client, threads=10)
    ids = sink.ids

    def late_ids(**asked):
        wait_until(lambda: worker.stats().failed >= len(broken))
        return ids(**asked)

    sink.ids = late_ids
    with running(worker):
        wait_until(lambda: worker.stats().retries >= len(broken))

    assert outages(caplog) == []
