"""A worker's parts, put together as a run does, with the test's clock and a stub queue."""

from __future__ import annotations

from queue import SimpleQueue

from change_events import MemorySink
from change_events._consumer.guard import Guard
from change_events._consumer.queue import Message
from change_events._consumer.run import Run, Threads
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from change_events._meter import Meter
from change_events.testing import FakeSource

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"


class NotingQueue:
    """Hands out the test's messages, and notes what it is told."""

    def __init__(self):
        self.delay = 0.0
        self.asked = []
        self.messages = []
        self.deleted = []
        self.hidden = []  # one list for each call
        self.calls = 0  # to change something
        self.renewed = []
        self.broken = False
        self.refused = set()  # what can't be made invisible, for good
        self.failed = set()  # or for now

    def open(self, *, wait):
        self.asked.append(wait)
        return self.delay

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
    """A condition on which nobody waits: it notes who would be woken."""

    def __init__(self, lock):
        self.lock = lock
        self.woken = []

    def notify(self, number=1):
        assert self.lock.locked()
        self.woken.append(number)

    def notify_all(self):
        assert self.lock.locked()


def doubling(failures):
    return 2.0**failures


class NotingThreads(Threads):
    """The test's clocks, and conditions that note what they are told."""

    def __init__(self, hands):
        self.clock = lambda: hands.now
        self.wall_clock = lambda: hands.wall
        self.condition = lambda lock: (
            hands.conditions.append(NotingCondition(lock)) or hands.conditions[-1]
        )


class Hands:
    """A worker's parts, and all around them that a test looks at."""

    def __init__(self, *, metrics=None, guard=None, verify=None, probe_pause=doubling, **settings):
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
        run = Run(
            settings,
            queue=self.queue,
            guard=self.guard,
            tally=self.tally,
            control=SimpleQueue(),
            verify=verify,
            probe_pause=probe_pause,
            threads=NotingThreads(self),
        )
        self.consumer, self.intake, self.looks = run.consumer, run.intake, run.looks
        self.visibility, self.acknowledgements = run.visibility, run.acknowledgements
        self.due, self.room, self.backlog = self.conditions[:3]
        with self.consumer as desk:
            self.desk = desk
        self.inbox = self.desk.inbox
        self.pauses = self.consumer.pauses
        self.reader = self.intake._reader
        for name in ("begin", "end"):  # a reason that began after its end would be one for ever
            setattr(self.pauses, name, self._locked(getattr(self.pauses, name)))

    def _locked(self, function):
        def call(why):
            assert self.is_locked()
            function(why)

        return call

    def is_locked(self):
        return self.due.lock.locked()

    @property
    def halted(self):
        return self.desk.halted

    @property
    def changes(self):
        """How many looks were said to be due, call by call."""
        return self.due.woken

    def receive(self, *messages):
        self.queue.messages = list(messages)
        return self.intake.receive(wait=3)

    def look(self, id="p1"):
        assert self.inbox.next(self.now) == id
        return self.look_at(id)

    def look_at(self, id):
        return self.looks.look_at(id)

    def resume(self):
        with self.consumer as desk:
            desk.resume(self.now)

    def next(self):
        """Reserve the ids to look at now; return the first, None without any."""
        return next(iter(self.desk.next(self.now)), None)

    def next_at(self):
        return self.desk.next_at()

    def may_help_receive(self):
        return self.desk.may_help_receive()

    def may_receive(self):
        return self.desk.may_receive()

    def counts(self):
        return dict(self.tally.read())

    def held(self):
        return {event.message_id: event for event in self.inbox.expiring(float("inf"))}


def message(id="p1", number=1, *, count=1, sent=None, **attributes):
    return Message(f"m{number}", f"h{number}", f'{{"id": "{id}"}}', count, attributes, sent)


def messages(number):
    return [message(number=number) for number in range(number)]


MALFORMED = Message("bad", "h9", "{}", 1, {})
