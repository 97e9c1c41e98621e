"""Letters that are old by SQS's clock: one look for each id settles all of them."""

from __future__ import annotations

import math
import threading
import time
from types import SimpleNamespace

import pytest

from change_events import ChangeEvent, MemorySink, redrive
from change_events._consumer.breaker import FAILURES
from change_events._consumer.crew import Threads
from change_events._consumer.queue import Message, Queue
from change_events._consumer.settings import Settings
from change_events._operations.dead_letters import Redrive
from change_events._operations.letter_looks import LetterLooks
from change_events._operations.letters import Hand, Letter, Look
from change_events.testing import FakeQueue, FakeSource


@pytest.fixture
def queue():
    return FakeQueue()


def run(queue, source, **settings):
    return redrive(queue.url, client=queue.client, fetcher=source, sink=MemorySink(), **settings)


def test_letters_that_are_received_after_the_look_are_settled_by_it(queue):
    source = FakeSource({f"p{n}": {"id": f"p{n}"} for n in range(50)})
    queue.publish([ChangeEvent(f"p{n % 50}") for n in range(2500)])  # three rounds
    queue.advance(60)
    began = time.monotonic()

    report = run(queue, source)

    took = time.monotonic() - began
    assert (report.letters, report.deleted, report.looks) == (2500, 2500, 50)
    assert sorted(source.fetched) == sorted(source)
    assert set(report.ids.values()) == {50}
    assert 60 <= report.oldest + 3 <= 64 + took
    assert queue.bodies == []


def test_a_letter_that_is_sent_while_the_redrive_runs_gets_a_look_of_its_own(queue):
    class Source(FakeSource):
        def fetch(self, id, /, *, etag=None):
            if not self.fetched:
                queue.publish([ChangeEvent("p1")] * 1000)  # too young for this look
            return super().fetch(id, etag=etag)

    source = Source({"p1": {"id": "p1"}})
    queue.publish([ChangeEvent("p1")] * 1000)
    queue.advance(60)

    assert run(queue, source, settle=0.5).deleted == 2000

    assert len(source.fetched) == 2


def test_an_id_whose_look_failed_is_not_asked_for_again(queue):
    source = FakeSource()
    source.fail("p1", status=500)
    queue.publish([ChangeEvent("p1")] * 1500)
    queue.advance(60)

    report = run(queue, source)

    assert (report.kept, report.failed.keys()) == (1500, {"p1"})
    assert len(source.fetched) == 1
    assert len(queue.bodies) == 1500


# When a look settles a letter

DATE = 1_700_000_000.0


def letter(*, sent, answered, received=100.0, settle=5.0, phase=None):
    message = Message("m1", "handle", "", 1, {}, sent, answered)
    return Letter.of(message, ChangeEvent("p1", phase=phase), settle=settle, received=received)


@pytest.mark.parametrize(
    ("sent", "answered", "due"),
    [
        (DATE - 60, DATE, 100.0),  # old
        (DATE - 5, DATE, 102.0),  # two seconds less, for the clocks
        (DATE, DATE, 105.0),
        (None, DATE, 105.0),
        (DATE - 60, None, 105.0),
    ],
)
def test_a_letter_is_due_when_its_window_is_over(sent, answered, due):
    its = letter(sent=sent, answered=answered)

    assert its.settled_by(Look(started=due, since=-float("inf")))
    assert not its.settled_by(Look(started=due - 0.1, since=-float("inf")))


def test_a_look_from_before_the_receipt_settles_by_sqs_clock_alone():
    its = letter(sent=DATE, answered=DATE + 60)

    assert its.settled_by(Look(started=0.0, since=DATE + 7))
    assert not its.settled_by(Look(started=99.0, since=DATE + 6))
    assert not letter(sent=None, answered=DATE).settled_by(Look(started=99.0, since=DATE + 60))


def test_a_saved_letter_has_no_window():
    its = letter(sent=DATE, answered=DATE, phase="saved")

    assert its.settled_by(Look(started=100.0, since=-float("inf")))


def made(settings, hand, **more):
    return Redrive(
        settings=settings,
        hand=hand,
        looks=LetterLooks(settings, hand),
        verify=None,
        dry_run=False,
        limit=None,
        drop_malformed=False,
        on_progress=None,
        **more,
    )


def test_a_redrive_stops_before_it_holds_more_letters_than_sqs_lets_it(queue):
    for n in range(1200):
        queue.send(f"no event {n}")
    settings = Settings(queue.url, fetcher=FakeSource(), sink=MemorySink())

    report = made(settings, Hand(Queue(queue.url, queue.client)), most_held=1000).work()

    assert (report.letters, report.kept) == (1000, 1000)
    assert "1,000 letters can't be settled, and no more can be held" in str(report.stopped)
    assert len(queue.bodies) == 1200


class Clock:
    """A clock that stands still until it is told the time."""

    now = 0.0

    def __call__(self):
        return self.now


def at(clock):
    """Return threads whose time the clock tells."""
    threads = Threads()
    threads.clock = clock
    return threads


def test_letters_in_hand_stay_invisible_beat_by_beat(queue):
    clock = Clock()
    hand = Hand(Queue(queue.url, queue.client), threads=at(clock))
    queue.publish([ChangeEvent("p1")])
    new, some = hand.receive(10)
    assert (len(new), some) == (1, True)

    for _ in range(4):  # an hour
        queue.advance(899)
        clock.now += 899
        hand.beat()
    assert hand.receive(10) == ([], False)

    queue.advance(899)
    clock.now += 299
    hand.beat()  # too soon for the next
    queue.advance(2)
    assert hand.receive(10) == ([], True)  # it is in hand already


def test_a_redrive_keeps_its_letters_invisible_while_a_look_lasts(queue):
    clock, beaten, changes = Clock(), threading.Event(), []

    class Client:
        def __getattr__(self, name):
            return getattr(queue.client, name)

        def change_message_visibility_batch(self, **call):
            changes.append([entry["VisibilityTimeout"] for entry in call["Entries"]])
            beaten.set()
            return queue.client.change_message_visibility_batch(**call)

    class Source(FakeSource):
        def fetch(self, id, /, *, etag=None):
            clock.now += 300
            assert beaten.wait(20)
            return super().fetch(id, etag=etag)

    settings = Settings(queue.url, fetcher=Source(), sink=MemorySink())
    hand = Hand(Queue(queue.url, Client()), threads=at(clock))
    queue.publish([ChangeEvent("p1")])
    queue.advance(60)

    report = made(settings, hand).work()

    assert (report.deleted, changes) == (1, [[900]])


def test_a_letter_that_comes_again_is_deleted_by_its_latest_handle():
    class Again:
        handles = ("first", "latest")

        def receive(self, **_):
            handle, *self.handles = self.handles
            return [SimpleNamespace(message_id="m1", receipt_handle=handle, answered=None, age=0.0)]

        def delete(self, handles):
            deleted.extend(handles)
            return len(handles), []

    deleted, hand = [], Hand(Again())

    assert [len(hand.receive(10)[0]) for _ in range(2)] == [1, 0]
    hand.settle(["m1"], flush=True)

    assert deleted == ["latest"]


def test_failures_between_looks_that_succeed_do_not_stop_a_redrive(queue):
    source = FakeSource({f"p{n}": {"id": f"p{n}"} for n in range(FAILURES)})
    settings = Settings(queue.url, fetcher=source, sink=MemorySink())
    looks, stop = LetterLooks(settings, SimpleNamespace(since=-math.inf)), threading.Event()

    for n in range(FAILURES):
        source.fail(f"bad{n}", status=503)
        assert looks.look([Letter("m", f"bad{n}", -math.inf, math.inf)], stop) is None
        assert looks.look([Letter("m", f"p{n}", -math.inf, math.inf)], stop)

    assert len(looks.failed) == FAILURES
