"""A whole worker in virtual time: the production `Run`, with a queue, and a patient source."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

from change_events import MemorySink
from change_events._consumer.guard import Guard
from change_events._consumer.queue import Queue
from change_events._consumer.run import Run
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from change_events._event import Found
from verification.proof.simulation._kernel import Kernel
from verification.proof.simulation._run import undisturbed
from verification.proof.simulation._threads import VirtualThreads
from verification.scale.play import URL, Sqs


class World:
    """
    A worker, its queue, and a source that bears any number of GETs.

    Args:
        seconds: How long a GET lasts.
        refuse: Given the time, returns the error of a GET, or None.
        cached: Ids that the cache has.
        settings: Of the worker.

    Attributes:
        began: For each id, when its first GET began.
        running: How many GETs run now; `most`: ran at once.
    """

    def __init__(self, seconds, *, refuse=lambda now: None, cached=(), **settings):
        self.kernel = Kernel()
        self.sqs = Sqs(self.kernel, call=0.01)
        self.seconds, self.refuse = seconds, refuse
        self.began = {}
        self.running = self.most = 0
        self.numbers = itertools.count()
        process = self.kernel.process("w")
        threads = VirtualThreads(self.kernel, process, offset=100.0)
        sink = MemorySink(clock=lambda: 1.0)
        sink.insert_many({id: Found({}, None, "0") for id in cached})
        self.run_ = Run(
            Settings(URL, fetcher=self, sink=sink, **settings),
            queue=Queue(URL, self.sqs),
            guard=Guard(clock=threads.wall_clock, on=False),
            tally=Tally(),
            control=SimpleNamespace(put=self.fail),
            threads=threads,
        )
        with self.run_.consumer as desk:
            self.limit = desk.limit
        self.kernel.spawn(process, self.start)

    def start(self):
        self.run_.ask_delay()
        self.run_.start()

    def fail(self, notice):
        if isinstance(notice, BaseException):  # a thread died, perhaps with its world
            raise notice

    def fetch(self, id, /, *, etag=None):
        self.began.setdefault(id, self.kernel.now)
        self.running += 1
        self.most = max(self.most, self.running)
        error = self.refuse(self.kernel.now)
        self.kernel.pause(self.seconds)
        self.running -= 1
        if error is not None:
            raise error
        return Found({"id": id}, None, str(self.kernel.now))

    def send(self, *, age=0.0):
        """Let an event of a new id arrive, which was sent so long ago; return the id."""
        id = f"p{next(self.numbers)}"
        self.sqs.send(json.dumps({"id": id}), {}, age=age)
        return id

    def every(self, period, act):
        """Act at once, and again after each period."""
        act()
        self.kernel.at(self.kernel.now + period, lambda: self.every(period, act))

    def run(self, until):
        """Let time pass until then; return this world."""
        self.kernel.at(until, self.kernel.stop)
        with undisturbed():
            self.kernel.run()
        return self
