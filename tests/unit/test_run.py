"""One run of a worker: which threads it starts, what ends it, and the order in which they stop."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from hands import URL, Catalogue, NotingQueue, message

from change_events import FetchError, Found, MassDeletionError, MemorySink, Worker
from change_events import _worker as worker_module
from change_events._consumer.control import Notice
from change_events._consumer.guard import Guard
from change_events._consumer.limit import WAKES, Limit
from change_events._consumer.run import Run, Threads
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from change_events.testing import FakeQueue, FakeSource
from verification.harness.processes import wait_until


class Thread:
    """A thread that runs when it is joined."""

    def __init__(self, role, target, steps):
        self.role = role
        self.target = target
        self._steps = steps

    def join(self, timeout=None):
        self._steps.append(f"join {self.role}")
        self.target()


class Unstarted(Threads):
    """Threads that the test runs, one after the other, and a clock that it sets."""

    def __init__(self, steps):
        self.now = 100.0
        self.started = []
        self._steps = steps

    def clock(self):
        return self.now

    def start(self, role, target):
        self.started.append(Thread(role, target, self._steps))
        return self.started[-1]

    def of(self, role):
        return [thread for thread in self.started if thread.role == role]


class Told:
    """A run's control. While nothing comes in, the test's time passes, and other threads run."""

    def __init__(self, threads):
        self.meanwhile = lambda: None
        self._threads = threads
        self._coming = []

    def put(self, notice):
        self._coming.append(notice)

    def get(self, timeout):
        if self._coming:
            return self._coming.pop(0)
        self.meanwhile()
        self._threads.now += timeout
        raise queue.Empty

    def left(self):
        left, self._coming = self._coming, []
        return left


class Bench:
    """A run, and what it is made of."""

    def __init__(self, *, until_empty=False, **settings):
        self.steps = []
        self.threads = Unstarted(self.steps)
        self.queue = NotingQueue()
        self.queue.delete = self.delete
        self.queue.change_visibility = self.change_visibility
        self.source = FakeSource()
        self.sink = MemorySink()
        self.control = Told(self.threads)
        self.run = Run(
            Settings(URL, **{"fetcher": self.source, "sink": self.sink} | settings),
            queue=self.queue,
            guard=Guard(max_share=0.0, min_deleted=1),
            tally=Tally(),
            control=self.control,
            until_empty=until_empty,
            threads=self.threads,
            limit=Limit.fixed(),
        )

    def delete(self, handles):
        self.steps.append(f"delete {' '.join(handles)}")
        return len(handles), []

    def change_visibility(self, deliveries):
        self.steps += [f"hand back {handle}" for handle, _ in deliveries]
        return [], []

    def receive(self, *messages):
        self.queue.messages = list(messages)
        self.run.intake.receive(wait=1)

    def come_in(self, *reasons):
        for reason in reasons:
            self.control.put(reason)


@pytest.fixture
def bench():
    return Bench(threads=1)


# Starting


@pytest.mark.parametrize(
    ("threads", "until_empty", "acknowledge", "poll"),
    [(10, False, 2, 2), (10, True, 2, 1), (1, False, 2, 2), (25, False, 4, 4)],
)
def test_a_run_starts_threads_for_each_role(threads, until_empty, acknowledge, poll):
    bench = Bench(threads=threads, until_empty=until_empty)

    bench.run.start()

    one_each = dict.fromkeys(("look", "nap", "heartbeat", "guard", "finish"), 1)
    assert Counter(thread.role for thread in bench.threads.started) == {
        **one_each,
        "acknowledge": acknowledge,
        "poll": poll,
    }


def test_a_run_asks_for_the_queues_delay_before_it_starts_a_thread(bench, caplog):
    caplog.set_level(logging.INFO, "change_events")
    bench.queue.delay = 3.0
    bench.queue.open = lambda wait: bench.threads.started == [] and bench.queue.delay
    bench.come_in(Notice.STOP, Notice.FINISHED)

    bench.run.work()

    assert (caplog.records[0].getMessage(), caplog.records[0].delay) == ("started", 3.0)
    assert bench.threads.started


def test_real_threads_are_daemons_with_the_name_of_their_role():
    began = threading.Event()
    names = []

    def target():
        names.append((threading.current_thread().name, threading.current_thread().daemon))
        began.set()

    Threads().start("look", target).join(10)

    assert names == [("change-events-look", True)]


# The order of stopping


def test_a_run_stops_its_threads_in_order_and_the_polls_first(bench):
    bench.run.ask_delay()
    bench.run.start()
    bench.run.stop()

    for thread in bench.threads.of("finish"):
        thread.target()

    assert bench.steps == [
        "join poll",
        "join poll",
        "join look",
        "join acknowledge",
        "join acknowledge",
        "join heartbeat",
        "join guard",
        "join nap",
    ]
    assert bench.control.left() == [Notice.FINISHED]


def test_a_stopping_run_acknowledges_what_its_looks_settle_and_hands_back_the_rest(bench):
    bench.run.ask_delay()
    bench.run.start()
    bench.receive(message("a", 1, phase="saved"), message("b", 2, phase="saved"), message("c", 3))
    ids = bench.run.consumer.take()
    assert ids == ["a"]
    looks = list(bench.run.looks.look(ids))
    bench.run.stop()
    (look,) = bench.threads.of("look")
    poll, _ = bench.threads.of("poll")
    stopped, polled = look.target, poll.target

    def look_to_its_end():
        for settled in looks:
            bench.run.acknowledgements.add(settled)
        stopped()

    def poll_to_its_end():
        bench.receive(message("late", 4))
        polled()

    look.target, poll.target = look_to_its_end, poll_to_its_end
    for thread in bench.threads.of("finish"):
        thread.target()

    assert bench.steps == [
        "join poll",
        "hand back h4",
        "join poll",
        "join look",
        "join acknowledge",
        "delete h1",
        "join acknowledge",
        "join heartbeat",
        "hand back h2",
        "hand back h3",
        "join guard",
        "join nap",
    ]


def test_a_run_that_has_finished_in_time_says_stopped(bench, caplog):
    caplog.set_level(logging.INFO, "change_events")
    bench.come_in(Notice.STOP, Notice.FINISHED)

    bench.run.work()

    assert caplog.messages[-1] == "stopped"


def test_a_run_that_does_not_finish_in_time_says_stopped_halfway(caplog):
    bench = Bench(shutdown_timeout=0.0)
    bench.come_in(Notice.STOP)

    bench.run.work()

    assert caplog.messages == ["stopped halfway; the messages still held come back by themselves"]
    assert bench.threads.now == 103.0  # it has given SQS three seconds
    assert bench.run.health().paused == "gave up"


def test_a_run_that_gives_up_hands_back_what_is_held_and_extends_nothing_from_then_on(
    bench, caplog
):
    def wake_the_heartbeat():
        if bench.run._finished.is_set():
            bench.threads.of("heartbeat")[0].target()

    bench.run.ask_delay()
    bench.receive(message("a", 1), message("b", 2))
    assert bench.run.consumer.take() == ["a"]  # and this look hangs
    bench.threads.now += 2.0
    bench.control.meanwhile = wake_the_heartbeat
    bench.queue.change_visibility = bench.steps.extend
    bench.come_in(Notice.SIGNAL, Notice.SIGNAL)

    bench.run.work()

    assert bench.steps == [("h1", 3.0), ("h2", 3.0)]
    assert bench.run.health().held == 0
    assert caplog.messages == ["stopped halfway; what was held has gone back to the queue"]


def test_a_third_signal_ends_the_wait_for_sqs(bench):
    bench.come_in(*[Notice.SIGNAL] * 3)

    bench.run.work()

    assert bench.threads.now == 100.0


def test_looks_begin_until_half_of_the_time_for_a_stop_is_over(bench):
    bench.run.ask_delay()
    bench.receive(*(message(f"p{number}", number) for number in range(80)))
    taken = []
    bench.control.meanwhile = lambda: taken.append((bench.threads.now, bench.run.consumer.take()))
    bench.come_in(Notice.STOP)

    bench.run.work()

    assert max(now for now, ids in taken if ids) == 112.25
    assert min(now for now, ids in taken if not ids) == 112.5


@pytest.mark.parametrize("step", ["look_at", "look_together"])
@pytest.mark.parametrize("fails", [None, 404, 503])
def test_a_look_that_ends_after_its_run_gave_up_does_no_harm(step, fails, caplog):
    class Slow(Catalogue):
        def fetch(self, id, /, *, etag=None):
            bench.run.visibility.hand_back_all()
            return super().fetch(id, etag=etag)

        def fetch_many(self, ids, /):
            bench.run.visibility.hand_back_all()
            if fails:
                raise FetchError("", status=fails)
            return super().fetch_many(ids)

    source = Slow()
    source["a"] = {"id": "a"}
    bench = Bench(threads=1, fetcher=source)
    if fails:
        source.fail(status=fails)
    bench.run.ask_delay()
    bench.run.start()
    bench.receive(message("a", 1, phase="saved"))
    ids = iter([bench.run.consumer.take(), []])
    bench.run.consumer.take = lambda **_: next(ids)
    bench.run.looks.look = lambda ids: (
        [bench.run.looks.look_at(*ids)] if step == "look_at" else bench.run.looks.look_together(ids)
    )

    bench.threads.of("look")[0].target()

    assert bench.steps == ["hand back h1"]
    assert bench.run.acknowledgements._events == []
    assert bench.run.health().held == 0
    assert "died" not in caplog.text


def test_a_second_signal_ends_the_wait_for_the_threads(bench, caplog):
    bench.come_in(Notice.SIGNAL, Notice.STOP, Notice.SIGNAL, Notice.FINISHED)

    bench.run.work()

    assert "stopped halfway" in caplog.text
    assert not bench.control.left()  # while it waited for SQS


def test_the_error_of_a_thread_stops_the_run_and_is_raised(bench, caplog):
    caplog.set_level(logging.INFO, "change_events")
    bench.come_in(ZeroDivisionError("bug"), Notice.FINISHED)

    with pytest.raises(ZeroDivisionError, match="bug"):
        bench.run.work()

    assert caplog.messages[-1] == "stopped"


# What the threads tell the run


def test_a_thread_that_dies_logs_its_role_and_hands_over_its_error(bench, caplog):
    bench.run.start()
    bench.run.consumer.take = lambda **_: 1 / 0

    bench.threads.of("look")[0].target()

    assert [type(error) for error in bench.control.left()] == [ZeroDivisionError]
    (record,) = caplog.records
    assert (record.levelno, record.action, record.role) == (logging.CRITICAL, "die", "look")
    assert not bench.run.health().alive


def test_a_drain_ends_once_the_queue_is_empty():
    bench = Bench(until_empty=True)
    bench.run.ask_delay()
    bench.run.start()

    bench.threads.of("poll")[0].target()

    assert bench.control.left() == [Notice.DRAINED]


def test_a_drain_ends_with_the_error_of_polls_that_fail():
    bench = Bench(until_empty=True)
    bench.run.start()
    bench.run.stop()  # so that the poll makes no pause
    bench.queue.open = lambda wait: 0.0
    bench.queue.receive = None
    bench.run.consumer.wait_for_room = lambda: True

    bench.threads.of("poll")[0].target()

    assert [type(error) for error in bench.control.left()] == [TypeError]


def look_until_it_halts(bench, *messages):
    """Let the look thread of a drain look at these messages; return what it tells the run."""
    bench.run.ask_delay()
    bench.run.start()
    bench.receive(*messages)
    ids = [bench.run.consumer.take() for _ in messages]
    taken = iter([*ids, []])
    bench.run.consumer.take = lambda **_: next(taken)
    bench.threads.of("look")[0].target()
    return bench.control.left()


@pytest.mark.parametrize(("until_empty", "told"), [(True, 1), (False, 0)])
def test_only_a_drain_ends_with_the_error_that_shows_an_outage(until_empty, told):
    bench = Bench(until_empty=until_empty)
    bench.source.fail()

    errors = look_until_it_halts(bench, *(message(f"p{number}", number) for number in range(5)))

    assert [type(error) for error in errors] == [FetchError] * told


def test_a_drain_ends_with_a_refused_mass_deletion():
    bench = Bench(until_empty=True)
    bench.sink.apply("p1", Found({}), if_version=0)

    (error,) = look_until_it_halts(bench, message("p1", phase="saved"))

    assert isinstance(error, MassDeletionError)


def test_a_drain_goes_on_after_looks_that_succeed():
    assert look_until_it_halts(Bench(until_empty=True), message("p1", phase="saved")) == []


def test_resume_goes_on_after_a_refused_mass_deletion():
    bench = Bench(until_empty=True)
    bench.sink.apply("p1", Found({}), if_version=0)
    look_until_it_halts(bench, message("p1", phase="saved"))
    assert bench.run.health().paused == "mass deletion"

    bench.run.resume()

    assert bench.run.health().paused is None


def test_the_heartbeat_extends_until_the_run_has_finished(bench):
    bench.run.ask_delay()
    bench.run.start()
    bench.threads.now -= 0.1
    bench.receive(message())  # it would become visible before the next beat but one
    bench.threads.now += 20.1

    def change_visibility(deliveries):
        bench.steps.append(f"extend {deliveries}")
        bench.run._finished.set()
        return [], []

    bench.queue.change_visibility = change_visibility
    bench.threads.of("heartbeat")[0].target()

    assert bench.steps == ["extend [('h1', 60)]", "extend [('h1', 0.0)]"]  # and hands it back


# Health


def test_a_run_is_ready_from_its_first_poll_until_it_stops(bench):
    bench.run.ask_delay()
    seen = [bench.run.health()]
    bench.run.start()
    seen.append(bench.run.health())
    bench.run.intake.poll()
    seen.append(bench.run.health())
    bench.run.stop()
    seen.append(bench.run.health())

    assert [(each.paused, each.ready) for each in seen] == [
        ("starting", False),
        (None, False),
        (None, True),
        ("stopping", False),
    ]
    assert all(each.alive for each in seen)


def test_health_tells_ages_and_what_is_in_hand(bench):
    bench.run.ask_delay()
    bench.run.start()
    bench.queue.messages = [message(), message("p2", 2)]
    bench.run.intake.poll()
    bench.run.consumer.take()
    bench.threads.now += 3.0

    health = bench.run.health()

    assert (health.last_poll, health.oldest_held) == (3.0, 3.0)
    assert (health.held, health.in_flight) == (2, 1)


def test_stop_while_a_run_is_being_made_ends_it(monkeypatch):
    """As by a signal's handler, at the worst moment."""
    fake = FakeQueue()
    worker = Worker(fake.url, client=fake.client, fetcher=FakeSource(), sink=MemorySink())

    def make_run(*arguments, **settings):
        worker.stop()
        return Run(*arguments, **settings)

    monkeypatch.setattr(worker_module, "Run", make_run)

    worker.run()

    assert not worker.health().alive


# Signals


def signal_once(bench):
    """Let SIGTERM come in when the run waits for the first time; then the run finishes."""

    def meanwhile():
        bench.control.meanwhile = lambda: bench.come_in(Notice.FINISHED)
        os.kill(os.getpid(), signal.SIGTERM)

    bench.control.meanwhile = meanwhile


def test_a_signal_stops_a_run_and_has_its_old_meaning_afterwards(bench, caplog):
    caplog.set_level(logging.INFO, "change_events")
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("by the program"))
    signal_once(bench)
    try:
        bench.run.work()
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert heard == ["by the program"]
    assert caplog.messages[-1] == "stopped"


def test_signals_keep_their_meaning_during_a_drain():
    """A drain is a call within a program. It ends by itself."""
    bench = Bench(until_empty=True)
    seen = []
    bench.control.meanwhile = lambda: (
        seen.append(signal.getsignal(signal.SIGTERM)),
        bench.come_in(Notice.DRAINED, Notice.FINISHED),
    )
    before = signal.getsignal(signal.SIGTERM)

    bench.run.work()

    assert seen == [before]


def interrupted_once(bench, error=KeyboardInterrupt):
    """Raise an error where the run waits for the first time, as Ctrl-C in a drain does."""
    get = bench.control.get

    def interrupted(timeout):
        bench.control.get = get
        raise error

    bench.control.get = interrupted


def test_ctrl_c_counts_as_the_first_signal(bench, caplog):
    interrupted_once(bench)
    bench.come_in(Notice.SIGNAL, Notice.FINISHED)

    with pytest.raises(KeyboardInterrupt):
        bench.run.work()

    assert "stopped halfway" in caplog.text


def test_a_run_has_given_up_if_ctrl_c_ends_the_wait_for_its_threads(bench):
    bench.come_in(Notice.STOP)
    bench.run.consumer.stop_receiving = lambda: interrupted_once(bench)

    with pytest.raises(KeyboardInterrupt):
        bench.run.work()

    assert bench.run.gave_up
    assert bench.run._finished.is_set()


def test_only_a_notice_to_resume_resumes(bench):
    bench.run.resume = lambda: bench.steps.append("resume")
    left = [Notice.RESUME, Notice.STOP]
    bench.control.meanwhile = lambda: (bench.steps.append("wait"), bench.come_in(left.pop(0)))
    bench.come_in(Notice.RESUME)
    finish = bench.run.stop
    bench.run.stop = lambda: (bench.come_in(Notice.FINISHED), finish())

    bench.run.work()

    assert bench.steps == ["resume", "wait", "resume", "wait"]
    assert not bench.run.gave_up


def test_resume_stores_what_it_says_in_a_thread_of_its_own(bench):
    kept = []
    bench.run.looks.deletions.keep = lambda: kept.append("state")

    bench.run.resume()
    assert kept == []
    (aside,) = bench.threads.of("resume")
    aside.target()

    assert kept == ["state"]


# The limits of a stop


def test_a_stop_waits_without_end_for_all_but_what_calls_the_users_code(bench):
    joined = []
    bench.run._crew.join = lambda *arguments: joined.append(arguments)
    bench.run.stop()

    bench.run._finish()

    assert joined == [
        ("poll",),
        ("look",),
        ("acknowledge",),
        ("heartbeat",),
        ("aside", 3.0),
        ("guard", 3.0),
        ("measure", 3.0),
        ("nap", 3.0),
    ]


def test_a_run_can_finish_in_the_last_half_second_of_its_time(bench):
    def finish_late():
        if bench.threads.now >= 124.5:
            bench.come_in(Notice.FINISHED)

    bench.control.meanwhile = finish_late
    bench.come_in(Notice.STOP)

    bench.run.work()

    assert not bench.run.gave_up


def test_a_third_signal_does_not_hide_that_the_run_stopped_halfway(bench, caplog):
    bench.come_in(*[Notice.SIGNAL] * 3)

    bench.run.work()

    assert caplog.messages == ["stopped halfway; the messages still held come back by themselves"]


def test_a_poll_that_fails_is_followed_by_its_pause(bench):
    polled = iter([SimpleNamespace(drained=False, error=None, pause=pause) for pause in (0.0, 7.0)])
    rooms = iter([True, True, False])
    pauses = []
    bench.run.intake.poll = lambda: next(polled)
    bench.run.consumer.wait_for_room = lambda: next(rooms)
    bench.run._stopping.wait = pauses.append

    bench.run._poll()

    assert pauses == [7.0]


# What the threads are given


def test_measurements_are_reported_each_second_and_once_more_at_the_end(bench):
    waits, ends = [], iter([False, True])
    bench.run._finished.wait = lambda seconds: waits.append(seconds) or next(ends)
    bench.run._report = lambda: bench.steps.append("report")
    bench.run._crew.join = lambda role: bench.steps.append(f"join {role}")

    bench.run._measure()

    assert waits == [1.0, 1.0]
    assert bench.steps == ["report", "join heartbeat", "report"]


def test_the_guards_thread_pauses_until_the_run_has_finished(bench):
    shared = []
    bench.run.looks.deletions.share = lambda *arguments: shared.append(arguments)
    bench.run.start()

    bench.threads.of("guard")[0].target()

    assert shared == [(bench.run._finished.wait,)]


def test_the_end_of_a_run_ends_the_pause_of_an_acknowledgement(bench):
    assert bench.run.acknowledgements._pause == bench.run._finished.wait


def test_one_thread_at_a_time_asks_for_the_guards_state(bench):
    assert bench.run.looks.deletions._turn._value == 1


# Threads that start later


@pytest.mark.parametrize(("threads", "looks"), [(1, 1), (3, 3), (4, 5)])
def test_a_thread_that_looks_starts_when_all_are_busy_up_to_a_quarter_more_than_gets(
    threads, looks
):
    bench = Bench(threads=threads)
    bench.run.ask_delay()
    bench.run.start()
    assert len(bench.threads.of("look")) == 1

    for number in range(9):
        bench.receive(message(f"p{number}", number))

    assert len(bench.threads.of("look")) == looks


def test_the_limit_of_gets_is_never_more_than_the_threads():
    bench = Bench(threads=8)
    with bench.run.consumer as desk:
        desk.limit.limit = 7.5
    assert bench.run.health().get_limit == 7.5

    with bench.run.consumer as desk:
        desk.limit.limit = 9.0

    assert bench.run.health().get_limit == 8


def test_while_a_thread_waits_no_other_starts(bench):
    bench = Bench(threads=9)
    bench.run.ask_delay()
    bench.run.start()
    looking = threading.Thread(target=bench.threads.of("look")[0].target, daemon=True)
    looking.start()
    wait_until(lambda: bench.run.consumer._lookers.idle, 10)

    bench.receive(message("a", 1, phase="saved"))

    wait_until(
        lambda: bench.run.consumer.events() == ([], 0) and bench.run.consumer._lookers.idle, 10
    )
    assert len(bench.threads.of("look")) == 1
    bench.run.consumer.stop()
    looking.join(10)


def test_a_nap_tells_the_limit_how_late_it_ended(bench):
    bench.run.ask_delay()
    bench.run.start()
    bench.receive(message("a", 1))
    bench.run.consumer.take()

    def sleep(seconds):
        bench.threads.now += seconds + 0.007
        bench.run.consumer.stop()

    bench.threads.sleep = sleep
    (nap,) = bench.threads.of("nap")
    nap.target()

    with bench.run.consumer as desk:
        assert desk.limit._own.seconds == pytest.approx(WAKES * 0.007)
