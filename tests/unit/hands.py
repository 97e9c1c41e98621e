"""
A worker's parts, put together as a run does, with the test's clock and a stub queue; and events for
an inbox.
"""

from __future__ import annotations

from contextlib import contextmanager
from queue import SimpleQueue

from change_events import Found, MemorySink
from change_events._consumer.backoff import Backoff
from change_events._consumer.crew import Threads
from change_events._consumer.guard import Guard
from change_events._consumer.health import RECEIVE_FAILED
from change_events._consumer.inbox import Held
from change_events._consumer.limit import Limit
from change_events._consumer.queue import Message
from change_events._consumer.run import Run
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from change_events._meter import Meter
from change_events.testing import FakeSource

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"


class NotingQueue:
    """Hands out the test's messages, and notes what it is told."""

    def __init__(self):
        self.delay = 0.0
        self.has_delayed = False
        self.asked = []
        self.messages = []
        self.deleted = []
        self.hidden = []  # one list for each call
        self.calls = 0  # that delete or change visibility
        self.renewed = []
        self.broken = False
        self.refused = set()  # handles whose visibility can never be changed
        self.failed = set()  # handles whose visibility can't be changed for now

    def open(self, *, wait):
        self.asked.append(wait)
        return self.delay

    def delayed(self):
        return self.has_delayed

    def receive(self, *, most, wait, visibility):
        self.asked.append((most, wait, visibility))
        messages, self.messages = self.messages, []
        return messages

    def delete(self, receipt_handles):
        self._may_break()
        self.deleted.append(list(receipt_handles))
        return len(receipt_handles) - 1, [receipt_handles[-1]]

    def change_visibility(self, deliveries):
        self._may_break()
        self.hidden.append(list(deliveries))
        handles = [handle for handle, _ in deliveries]
        return [handle for handle in handles if handle in self.refused], [
            handle for handle in handles if handle in self.failed
        ]

    def renew(self, error):
        self.renewed.append(error)

    def _may_break(self):
        self.calls += 1
        if self.broken:
            raise ConnectionError("reset")


class NotingCondition:
    """A condition for one thread, which never waits: it notes how many would be woken."""

    def __init__(self, lock):
        self.lock = lock
        self.woken = []

    def notify(self, number=1):
        assert self.lock.locked()
        self.woken.append(number)

    def notify_all(self):
        assert self.lock.locked()


def doubling(failures, most):
    return min(2.0**failures, most)


class NotingThreads(Threads):
    """The test's clocks, and conditions that note what they are told."""

    def __init__(self, hands):
        self.clock = lambda: hands.now
        self.wall_clock = lambda: hands.wall
        self.condition = lambda lock: (
            hands.conditions.append(NotingCondition(lock)) or hands.conditions[-1]
        )

    def start(self, role, target):
        """Run it at once."""
        target()


class Hands:
    """A worker's parts, and what a test changes and reads around them."""

    def __init__(self, *, metrics=None, guard=None, verify=None, pause=doubling, **settings):
        self.now = 100.0
        self.wall = 1_700_000_000.0
        self.queue = NotingQueue()
        self.source = FakeSource()
        self.sink = MemorySink()
        self.outcomes = []
        self.tally = Tally(Meter(metrics, queue="q"))
        given = {
            "fetcher": self.source,
            "sink": self.sink,
            "settle": 5.0,
            "early_look": True,
            "prefetch": 1000,
            "threads": 1,
            "batch_size": 7,
            "wait_time": 20,
            "visibility_timeout": 60,
            "on_outcome": lambda id, outcome: self.outcomes.append((id, outcome)),
        } | settings
        self.settings = settings = Settings(URL, **given)
        self.guard = guard or Guard()
        self.conditions = []
        self.threads = NotingThreads(self)
        self.run = run = Run(
            settings,
            queue=self.queue,
            guard=self.guard,
            tally=self.tally,
            control=SimpleQueue(),
            verify=verify,
            backoff=Backoff(pause),
            threads=self.threads,
            limit=Limit.fixed(),
        )
        self.consumer, self.intake, self.looks = run.consumer, run.intake, run.looks
        self.visibility, self.acknowledgements = run.visibility, run.acknowledgements
        self.due, _, self.room, self.backlog = self.conditions[:4]
        with self.consumer as desk:
            self.desk = desk
        self.inbox = self.desk.inbox
        self.pauses = self.consumer.pauses
        self.reader = self.intake.reader
        for name in ("begin", "end"):
            setattr(self.pauses, name, self._locked(getattr(self.pauses, name)))

    def _locked(self, function):
        # Two threads can change a reason, or one that began after its end would last for ever. Only
        # the thread that polls tells that a receive has failed.
        def call(why):
            assert self.is_locked() or why == RECEIVE_FAILED
            function(why)

        return call

    def is_locked(self):
        return self.due.lock.locked()

    @property
    def halted(self):
        return self.looks.halted

    @property
    def changes(self):
        """How many threads were woken to look, wake by wake: each wakes the next one."""
        return self.due.woken

    def receive(self, *messages):
        self.queue.messages = list(messages)
        return self.intake.receive(wait=3)

    def look(self, id="p1"):
        """Look at the id that is due next, which must be this one."""
        assert self.inbox.next(self.now) == id
        return self.look_at(id)

    def look_at(self, id):
        return [event for settled in self.looks.look([id]) for event in settled]

    @contextmanager
    def under_way(self, id):
        """Let the GET of the reserved id have begun, whatever is known meanwhile."""
        early = self.inbox.freeze(id, self.now)
        self.consumer.begin_get = lambda ids, *, again: {id} if early else set()
        yield
        del self.consumer.begin_get

    def resume(self):
        self.run.resume()

    def next(self):
        """Reserve the ids to look at now; return the first, None without any."""
        return next(iter(self.desk.next(self.now)), None)

    def next_at(self):
        return self.desk.next_at()

    def may_help_receive(self):
        return self.desk.receiving.may_help()

    def may_receive(self):
        return self.desk.receiving.may_begin()

    def counts(self):
        return dict(self.tally.read())

    def held(self):
        return {event.message_id: event for event in self.inbox.expiring(float("inf"))}


def message(id="p1", number=1, *, count=1, sent=None, answered=None, **attributes):
    body = f'{{"id": "{id}"}}'
    return Message(f"m{number}", f"h{number}", body, count, attributes, sent, answered)


def messages(number):
    return [message(number=number) for number in range(number)]


MALFORMED = Message("bad", "h9", "{}", 1, {})


def opened(**settings):
    """Make hands that have asked the queue for its delay."""
    hands = Hands(**settings)
    hands.intake.ask_delay()
    return hands


def outage_log(caplog):
    return [record for record in caplog.records if record.action == "outage"]


def fail_look(hands, error):
    """
    Let a look at an id fail whose twelve messages have been received one to three times; return
    what was handed back, call by call.
    """

    def fetch(id, /, *, etag=None):
        raise error

    hands.source.fetch = fetch
    hands.receive(*(message(number=number, count=1 + number % 3) for number in range(12)))
    assert hands.look() == []
    return hands.queue.hidden


# Many ids at once


class Catalogue(FakeSource):
    """A source that answers for many ids at once, unless it is told to fail at that."""

    bulk_size = 4

    def __init__(self):
        super().__init__()
        self.asked_many = []
        self.error = None
        self.meanwhile = lambda: None

    def fetch_many(self, ids, /):
        self.asked_many.append(list(ids))
        self.meanwhile()
        if self.error:
            raise self.error
        return {id: Found(self[id]) for id in self if id in ids} | {"stranger": Found({})}


def with_catalogue(*ids, deleted=(), **settings):
    """Make hands with an event of each id; the source has all of these entities but the deleted."""
    hands = opened(**({"fetcher": Catalogue()} | settings))
    hands.source = hands.settings.fetcher
    hands.receive(*(message(id, number, sent=hands.wall - 2.0) for number, id in enumerate(ids)))
    for id in set(ids).difference(deleted):
        hands.source[id] = {"id": id}
    return hands


def reserved(hands):
    with hands.consumer as desk:
        return desk.next(hands.now)


def look_together(hands):
    return [
        event.message_id
        for settled in hands.looks.look_together(reserved(hands))
        for event in settled
    ]


# Events for an inbox


def held(id="p1", message="m1", now=0.0, hold=5.0, handle="h1", count=1, phase=None, save=None):
    return Held(
        id,
        message,
        handle,
        count,
        received=now,
        hold=hold,
        expires=now + 60,
        phase=phase,
        save=save,
    )


def saving(message="m1", now=0.0, save="s1", **other):
    return held(message=message, now=now, phase="saving", save=save, **other)


def saved(message="m2", now=0.0, save="s1", **other):
    return held(message=message, now=now, hold=0.0, phase="saved", save=save, **other)


def look(inbox, id, now):
    """Reserve the look, start its GET and settle it, all at once."""
    assert inbox.next(now) == id
    inbox.freeze(id, now)
    return inbox.settle(id)
