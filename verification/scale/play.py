"""One queue of a set-up in virtual time, with the production consumer."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, deque
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

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
from verification.scale.model import PRICES, Needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._consumer.control import Control
    from change_events._event import Gone, Unchanged
    from verification.proof.simulation._kernel import Task
    from verification.scale.model import Setup

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/products"

WARM = 7.0
"""Virtual seconds until as many messages are held as there will be: a window and its slack."""

EPOCH = 1_700_000_000
"""When a world begins, in seconds since the epoch."""


class Sqs:
    """
    boto3's client of a queue that is never wrong. Messages that it has given away stay invisible.

    Attributes:
        in_flight: How many messages were received and are not deleted.
        calls: How many calls there were.
        deleted: How many messages were deleted.
        away: Every call fails.
    """

    meta = SimpleNamespace(config=SimpleNamespace(read_timeout=30))

    def __init__(self, kernel: Kernel, call: float) -> None:
        self._kernel = kernel
        self._half = partial(random.Random(str(call)).uniform, 0.0, call)  # twice make a call
        self._visible: deque[tuple[str, float, dict[str, Any]]] = deque()
        self._waiting: deque[Task] = deque()
        self._numbers = itertools.count()
        self._changed = self._area = 0.0
        self.in_flight = self.deleted = 0
        self.calls: Counter[str] = Counter()
        self.away = False

    @property
    def waiting(self) -> int:
        """How many messages nobody has received."""
        return len(self._visible)

    def send(self, body: str, attributes: dict[str, Any], *, age: float = 0.0) -> None:
        """Let a message arrive, which was sent so many seconds ago."""
        self._visible.append((body, self._kernel.now - age, attributes))
        if self._waiting:
            self._kernel.wake(self._waiting.popleft(), self._kernel.now)

    def area(self) -> float:
        """Return the seconds that all messages together have been in flight."""
        self._area += self.in_flight * (self._kernel.now - self._changed)
        self._changed = self._kernel.now
        return self._area

    def get_queue_attributes(self, **_: object) -> dict[str, Any]:
        return {"Attributes": {"DelaySeconds": "0"}}

    def receive_message(
        self, *, MaxNumberOfMessages: int, WaitTimeSeconds: float, **_: object
    ) -> dict[str, Any]:
        self._begin("receive")
        if not self._visible:
            task = self._kernel.current
            self._waiting.append(task)
            self._kernel.pause(WaitTimeSeconds)
            if task in self._waiting:
                self._waiting.remove(task)
            self._require()
        taken = [
            self._visible.popleft() for _ in range(min(MaxNumberOfMessages, len(self._visible)))
        ]
        self._count(len(taken))
        self._kernel.pause(self._half())
        messages = [self._message(*each) for each in taken]
        date = formatdate(EPOCH + int(self._kernel.now), usegmt=True)
        return {"Messages": messages, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    def delete_message_batch(self, *, Entries: Sequence[object], **_: object) -> dict[str, Any]:
        self._begin("delete")
        self._count(-len(Entries))
        self.deleted += len(Entries)
        self._kernel.pause(self._half())
        return {}

    def change_message_visibility_batch(self, **_: object) -> dict[str, Any]:
        self._begin("visibility")
        self._kernel.pause(self._half())
        return {}

    def _begin(self, call: str) -> None:
        self.calls[call] += 1
        self._kernel.pause(self._half())
        self._require()

    def _require(self) -> None:
        if self.away:
            raise ConnectionError("no answer from SQS")

    def _count(self, messages: int) -> None:
        self.area()
        self.in_flight += messages

    def _message(self, body: str, sent: float, attributes: dict[str, Any]) -> dict[str, Any]:
        name = f"m{next(self._numbers)}"
        return {
            "MessageId": name,
            "ReceiptHandle": name,
            "Body": body,
            "Attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": str(int((EPOCH + sent) * 1000)),
            },
            "MessageAttributes": attributes,
        }


class Source:
    """
    A source that commits and answers, and the time that each commit took to the cache.

    Attributes:
        gets: How many GETs there were.
        stale: The seconds from each commit to the cache.
        uncached: When the first commit was made that is not cached, by id.
    """

    def __init__(self, kernel: Kernel, get: float) -> None:
        self._kernel = kernel
        self._half = partial(random.Random(str(get)).uniform, 0.0, get)  # twice make a GET
        self._versions: Counter[str] = Counter()
        self.gets = 0
        self.stale: list[float] = []
        self.uncached: dict[str, float] = {}

    def commit(self, id: str) -> None:
        """Commit the id's next state."""
        self._versions[id] += 1
        self.uncached.setdefault(id, self._kernel.now)

    def fetch(self, id: str, /, *, etag: str | None = None) -> Found[int]:
        """Answer a GET."""
        del etag
        self.gets += 1
        self._kernel.pause(self._half())
        version = self._versions[id]
        self._kernel.pause(self._half())
        return Found(version, None, str(version))

    def cached(self, id: str, version: int) -> None:
        """Note that the cache has a version."""
        if version == self._versions[id] and (since := self.uncached.pop(id, None)) is not None:
            self.stale.append(self._kernel.now - since)


class Cache(MemorySink[int]):
    """The cache, which has every id from the start."""

    def __init__(self, source: Source, ids: Sequence[str]) -> None:
        super().__init__(clock=lambda: 1.0)
        self._source = source
        self.insert_many({id: Found(0, None, "0") for id in ids})

    def apply(self, id: str, change: Found[int] | Unchanged | Gone, /, *, if_version: int) -> bool:
        applied = super().apply(id, change, if_version=if_version)
        if applied and isinstance(change, Found):
            self._source.cached(id, change.value)
        return applied


class World:
    """
    One queue of a set-up.

    Args:
        setup: The set-up.
        seed: Of everything random.
        ids: How many ids there are.
    """

    def __init__(self, setup: Setup, *, seed: int, ids: int) -> None:
        self._setup = setup
        self._random = random.Random(seed)
        self.kernel = Kernel()
        self.sqs = Sqs(self.kernel, setup.call)
        self.source = Source(self.kernel, setup.get)
        self._ids = [f"p{n}" for n in range(ids)]
        self._next = 0
        self.saved = 0
        cache = Cache(self.source, self._ids)
        for number in range(setup.workers):
            self._start(f"worker {number}", cache)
        self._save_next()

    def run(self) -> None:
        """Let time pass until somebody stops it, and end the workers."""
        with undisturbed():  # each thread would tell its end
            self.kernel.run()

    def _start(self, name: str, cache: Cache) -> None:
        setup = self._setup
        process = self.kernel.process(name)
        offset = self._random.uniform(0.0, 1e4)
        threads = VirtualThreads(self.kernel, process, offset=offset)
        settings = Settings(
            URL, fetcher=self.source, sink=cache, settle=setup.settle, threads=setup.threads
        )
        run = Run(
            settings,
            queue=Queue(URL, self.sqs),
            guard=Guard(clock=threads.wall_clock),
            tally=Tally(),
            control=cast("Control", SimpleNamespace(put=_raise)),
            threads=threads,
        )
        self.kernel.spawn(process, partial(_begin, run))

    def _save_next(self) -> None:
        rate = self._setup.rate / self._setup.queues
        self.kernel.at(self.kernel.now + self._random.expovariate(rate), self._save)

    def _save(self) -> None:
        self.saved += 1
        id = self._ids[self._next % len(self._ids)]
        self._next += 1
        body, now = json.dumps({"id": id}), self.kernel.now
        save = self._random.uniform(0.0, 2 * self._setup.save)
        lag = self._setup.lag
        self.kernel.at(now + save, partial(self.source.commit, id))
        if self._setup.confirm:
            name = str(self.saved)
            for phase, at in (("saving", now + lag), ("saved", now + save + lag)):
                self.kernel.at(at, partial(self.sqs.send, body, _attributes(phase, name)))
        else:
            self.kernel.at(now + lag, partial(self.sqs.send, body, {}))
        self._save_next()


@dataclass(frozen=True)
class Outage:
    """
    An outage of the Region that the workers are in, and how it was made good.

    Attributes:
        setup: The set-up.
        seconds: How long it was away.
        waiting: How many messages waited when it came back.
        caught_up: The seconds from then until none waited.
        gets: GETs for each message that was settled in that time.
        in_flight: The most messages in flight in that time.
        stale: The longest time from a commit to the cache.
    """

    setup: Setup
    seconds: float
    waiting: int
    caught_up: float
    gets: float
    in_flight: int
    stale: float

    def rows(self) -> list[list[str]]:
        """Return what the model and the simulation say, for a table."""
        setup = self.setup
        waiting = setup.rate * self.seconds
        # Each old event needs one GET. The new ones wait behind them, and get old, too.
        caught_up = waiting / (setup.workers * setup.threads / setup.get - setup.rate)
        return [
            ["messages that wait when it is back", f"{waiting:,.0f}", f"{self.waiting:,}"],
            ["seconds until none waits", f"{caught_up:,.0f}", f"{self.caught_up:,.0f}"],
            ["GETs for each message meanwhile", "1.00", f"{self.gets:.2f}"],
            ["most messages in flight", "", f"{self.in_flight:,}"],
            [
                "longest time from a commit to the cache, s",
                f"at most {self.seconds + caught_up:,.0f}",
                f"{self.stale:,.0f}",
            ],
        ]


def outage(setup: Setup, *, seconds: float, seed: int = 1) -> Outage:
    """Let the workers of a set-up lose SQS for so many seconds; saves go on."""
    world = World(setup, seed=seed, ids=int(setup.rate * 2 * seconds) + 1000)
    kernel, sqs, source = world.kernel, world.sqs, world.source
    back = WARM + seconds
    at_return: list[int] = []
    peak = 0

    def lose(*, away: bool) -> None:
        sqs.away = away
        at_return[:] = [sqs.waiting, source.gets, sqs.deleted]

    def look() -> None:
        nonlocal peak
        peak = max(peak, sqs.in_flight)
        if sqs.waiting:
            kernel.at(kernel.now + 1.0, look)
        else:
            kernel.stop()

    kernel.at(WARM, partial(lose, away=True))
    kernel.at(back, partial(lose, away=False))
    kernel.at(back + 1.0, look)
    world.run()
    waiting, gets, deleted = at_return
    return Outage(
        setup,
        seconds,
        waiting=waiting,
        caught_up=kernel.now - back,
        gets=(source.gets - gets) / (sqs.deleted - deleted),
        in_flight=peak,
        stale=max(source.stale),
    )


def measured(setup: Setup, *, seed: int, seconds: float, warm: float = WARM) -> Needs:
    """Return what one queue of a set-up needs, measured in virtual time once it is under way."""
    rate = setup.rate / setup.queues
    world = World(setup, seed=seed, ids=int(rate * (warm + seconds)) + 100)
    before: dict[str, Any] = {}

    def begin() -> None:
        before.update(
            area=world.sqs.area(),
            gets=world.source.gets,
            calls=world.sqs.calls.total(),
            saved=world.saved,
        )
        world.source.stale.clear()

    world.kernel.at(warm, begin)
    world.kernel.at(warm + seconds, world.kernel.stop)
    world.run()
    saved = world.saved - before["saved"]
    requests = (world.sqs.calls.total() - before["calls"]) / saved
    return Needs(
        in_flight=(world.sqs.area() - before["area"]) / seconds,
        stale=median(world.source.stale),
        gets=(world.source.gets - before["gets"]) / seconds * setup.queues,
        dollars=(1 + setup.confirm) * PRICES.sns + requests * PRICES.sqs,
    )


def measured_of(job: tuple[Setup, int], *, seconds: float) -> tuple[Setup, Needs]:
    """Return what `measured` says of a set-up and one of its queues, and which set-up it is."""
    setup, queue = job
    return setup, measured(setup, seed=queue, seconds=seconds)


def _begin(run: Run[int]) -> None:
    run.ask_delay()
    run.start()


def _raise(reason: object) -> None:
    if isinstance(reason, BaseException):
        raise reason


def _attributes(phase: str, save: str) -> dict[str, Any]:
    return {
        name: {"DataType": "String", "StringValue": value}
        for name, value in (("phase", phase), ("save", save))
    }
