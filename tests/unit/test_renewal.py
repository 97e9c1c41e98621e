"""Slow saves, late ones and confirmed ones: what arrives in a queue, and when it was sent."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import math
import signal
import subprocess
import sys
import threading
import weakref
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events import (
    BroadcastStats,
    ConfigurationError,
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcast_stats,
    broadcasting,
    broadcasts_before_save,
    measure_broadcasts,
)
from change_events._producer import renewals as renewal_module
from change_events._producer.renewals import Renewals

W = 5.0


class Time:
    """
    Monotonic seconds that pass when a test says so; what the watcher does meanwhile is done
    meanwhile.
    """

    def __init__(self):
        self.now = 0.0
        self.slept = []
        self.renewals = Renewals(
            clock=lambda: self.now,
            sleep=self._sleep,
            in_thread=lambda watch: None,
            submit=lambda job: job(),
        )

    def passes(self, seconds):
        until = self.now + seconds
        while (
            at := min((save.renew_at for save in self.renewals._saves), default=math.inf)
        ) <= until:
            self.now = max(self.now, at)
            for save in self.renewals.due(self.now):
                self.renewals.renew(save)
        self.now = max(self.now, until)

    def _sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class Line:
    """
    The way to a topic, which may be slow, or cut for a time. Notes when it was asked to publish.
    """

    def __init__(self, publisher, time):
        self._publisher = publisher
        self._time = time
        self.takes = []
        self.meanwhile = lambda: None  # once
        self.cut = (math.inf, math.inf)
        self.asked = []
        self.accepted = []

    def publish(self, events, /):
        started = self._time.now
        self.asked.append(started)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.takes:
            self._time.now += self.takes.pop(0)
        if self.cut[0] <= started < self.cut[1]:
            raise PublishError("the line is cut", ids=[event.id for event in events])
        self._publisher.publish(events)
        self.accepted.append(started)


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(broadcasting, "_renewals", time.renewals)
    return time


@pytest.fixture
def line(channel, time):
    return Line(SNSPublisher(channel.topic_arn), time)


@pytest.fixture
def real(monkeypatch):
    """Renewals with a clock and threads, and none of the saves of other tests."""
    renewals = Renewals()
    monkeypatch.setattr(broadcasting, "_renewals", renewals)
    return renewals


class Kind:
    """
    The ways to save: a block or a decorated function, each synchronous or asynchronous, of one
    entity or several.
    """

    def __init__(self, *, decorated, asynchronous):
        self.decorated = decorated
        self.asynchronous = asynchronous

    def save(self, publisher, body, *ids, **settings):
        if self.asynchronous:
            return asyncio.run(self._save_async(publisher, body, ids, settings))
        if not self.decorated:
            with broadcasting(publisher, *ids, **settings):
                return body()

        @broadcasts_before_save(publisher, ids="ids", **settings)
        def save(ids):
            return body()

        return save(ids)

    async def _save_async(self, publisher, body, ids, settings):
        if not self.decorated:
            async with broadcasting(publisher, *ids, **settings):
                return await self._run(body)

        @broadcasts_before_save(publisher, ids="ids", **settings)
        async def save(ids):
            return await self._run(body)

        return await save(ids)

    async def _run(self, body):
        return await asyncio.to_thread(body)


@pytest.fixture(
    params=[(False, False), (True, False), (False, True), (True, True)],
    ids=["with", "decorated", "async with", "decorated coroutine"],
)
def kind(request):
    return Kind(decorated=request.param[0], asynchronous=request.param[1])


def said(messages, *names):
    """What the messages' attributes say, raw or in the envelope."""
    return [tuple(_attributes(message).get(name) for name in names) for message in messages]


def _attributes(message):
    if "MessageAttributes" in message:
        return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    enveloped = json.loads(message["Body"]).get("MessageAttributes", {})
    return {name: value["Value"] for name, value in enveloped.items()}


def own(caplog):
    """The library's records, and not the emulator's."""
    return [record for record in caplog.records if record.name == "change_events"]


# Quick saves


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_a_quick_save_is_one_plain_broadcast(make_channel, time, kind, raw):
    channel = make_channel(raw=raw)

    assert kind.save(SNSPublisher(channel.topic_arn), lambda: "saved", "p1") == "saved"
    time.passes(100)

    (message,) = channel.messages()
    body = json.loads(message["Body"])
    assert "MessageAttributes" not in message
    assert (
        body == {"id": "p1"}
        if raw
        else (body["Message"] == '{"id": "p1"}' and "MessageAttributes" not in body)
    )
    assert time.renewals.stats() == BroadcastStats()


def test_quick_saves_start_one_thread_which_sleeps(monkeypatch):
    awake = threading.Semaphore(0)

    def clock():
        if threading.current_thread().name == "change-events-renewals":
            awake.release()
        return 0.0

    renewals = Renewals(clock=clock)
    monkeypatch.setattr(broadcasting, "_renewals", renewals)
    before = {*threading.enumerate()}

    for _ in range(1000):
        with broadcasting(NullPublisher(), "p1", settle=3600):
            pass

    assert awake.acquire(timeout=10)  # it has woken once, to be told when to wake again
    with renewals._lock:  # which it lets go of when it sleeps
        assert len(renewals._earlier._waiters) == 1
    assert not awake.acquire(blocking=False)
    (watcher,) = {*threading.enumerate()} - before
    assert (watcher.name, watcher.daemon) == ("change-events-renewals", True)
    assert renewals._saves == {}


def test_a_save_that_is_over_leaves_nothing_behind_that_needs_collecting(time):
    class Request:
        pass

    request = contextvars.ContextVar("request")

    def save():
        request.set(Request())
        with broadcasting(NullPublisher(), "p1"):
            return weakref.ref(request.get())

    gc.disable()
    try:
        left = contextvars.Context().run(save)
        assert left() is None  # the renewals' copy of the context is gone with the save
    finally:
        gc.enable()


def test_a_signal_handler_may_save_while_a_save_begins_or_ends(monkeypatch):
    saved = []
    signals = iter([signal.SIGUSR1])

    def handler(*_):
        with broadcasting(NullPublisher(), "p2"):
            saved.append("p2")

    def clock():
        if renewals._lock._is_owned() and (number := next(signals, None)):
            signal.raise_signal(number)
        return 0.0

    renewals = Renewals(clock=clock, in_thread=lambda watch: None)
    monkeypatch.setattr(broadcasting, "_renewals", renewals)
    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with broadcasting(NullPublisher(), "p1"):
            pass
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert saved == ["p2"]
    assert renewals._saves == {}


# Slow saves


def test_a_slow_save_is_broadcast_again_whenever_half_of_the_window_has_passed(
    channel, time, line, kind
):
    kind.save(line, lambda: time.passes(9.0), "p1")
    time.passes(100)

    assert line.asked == [0.0, 2.5, 5.0, 7.5]
    assert channel.bodies() == ['{"id": "p1"}'] * 4
    assert time.renewals.stats() == BroadcastStats(renewals=3)


def test_all_ids_of_a_slow_save_are_broadcast_again(channel, time, line, kind):
    ids = [f"p{number}" for number in range(12)]  # more than one call to SNS

    kind.save(line, lambda: time.passes(3.0), *ids)

    assert sorted(channel.ids()) == sorted(ids * 2)


def test_the_half_window_counts_from_the_start_of_the_last_accepted_broadcast(time, line):
    line.takes = [1.0, 2.0]

    with broadcasting(line, "p1"):
        time.passes(7.0)

    assert line.asked == [0.0, 2.5, 5.0, 7.5]


def test_renewals_come_by_themselves(channel, real, kind):
    """The same with a real clock and real threads: the save waits for its own third renewal."""

    class Counting(SNSPublisher):
        sent = threading.Semaphore(0)

        def publish(self, events, /):
            super().publish(events)
            self.sent.release()

    publisher = Counting(channel.topic_arn)

    def body():
        return all(publisher.sent.acquire(timeout=20) for _ in range(4))

    assert kind.save(publisher, body, "p1", settle=0.5)
    assert real._saves == {}
    assert len(channel.messages()) >= 4
    assert real.stats().renewals >= 3


def test_renewals_stop_when_the_save_raises(time, line, kind):
    def body():
        time.passes(3.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kind.save(line, body, "p1")
    time.passes(100)

    assert line.asked == [0.0, 2.5]


@pytest.mark.parametrize("decorated", [False, True])
def test_renewals_stop_when_the_save_is_cancelled(time, line, decorated):
    async def save_for_ever(publisher):
        entered.set()
        await asyncio.Event().wait()

    async def block():
        async with broadcasting(line, "p1"):
            await save_for_ever(line)

    async def main():
        nonlocal entered
        entered = asyncio.Event()
        decorate = broadcasts_before_save(line, id=lambda publisher: "p1")
        task = asyncio.create_task(decorate(save_for_ever)(line) if decorated else block())
        await entered.wait()
        time.passes(3.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    entered = None
    asyncio.run(main())
    time.passes(100)

    assert line.asked == [0.0, 2.5]


def test_a_renewal_still_waiting_for_a_sender_when_the_save_ends_is_not_sent(channel, time, line):
    with broadcasting(line, "p1"):
        time.now = 3.0
        (waiting,) = time.renewals.due(3.0)
    time.renewals.renew(waiting)

    assert line.asked == [0.0]


def test_a_save_that_ends_while_it_is_renewed_does_not_rely_on_that(channel, time, line):
    block = broadcasting(line, "p1")
    block.__enter__()

    def ends():
        time.now = 5.0
        block.__exit__(None, None, None)

    line.meanwhile = ends
    time.now = 4.9
    (save,) = time.renewals.due(4.9)
    time.renewals.renew(save)
    time.passes(100)

    assert line.asked == [0.0, 4.9, 5.0]  # the second may be accepted, or never
    assert time.renewals.stats() == BroadcastStats(renewals=1, late=1)


def test_many_slow_saves_do_not_wait_for_each_other(real):
    saves = renewal_module.SENDERS
    together = threading.Barrier(saves)  # lets go when so many renewals are under way at once
    renewed = []
    senders = set()

    class Meeting:
        def __init__(self):
            self.calls = 0
            self.renewed = threading.Event()

        def publish(self, events, /):
            self.calls += 1
            if self.calls == 2:
                together.wait(20)
                senders.add(threading.current_thread().name)
                renewed.append(events[0].id)
                self.renewed.set()

    def save(id):
        publisher = Meeting()
        with broadcasting(publisher, id, settle=0.5):
            assert publisher.renewed.wait(20)

    threads = [threading.Thread(target=save, args=(f"p{number}",)) for number in range(saves)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(renewed) == sorted(f"p{number}" for number in range(saves))
    assert len(senders) == saves
    assert all(name.startswith("change-events-broadcast") for name in senders)


def test_the_watcher_wakes_earlier_for_a_shorter_window(real):
    class Counting:
        def __init__(self):
            self.sent = threading.Semaphore(0)

        def publish(self, events, /):
            self.sent.release()

    short = Counting()
    with broadcasting(NullPublisher(), "p1", settle=3600), broadcasting(short, "p2", settle=0.2):
        assert all(short.sent.acquire(timeout=20) for _ in range(3))


def test_there_is_one_watcher_which_wakes_for_whatever_is_due_first():
    watchers = []
    renewals = Renewals(clock=lambda: 0.0, in_thread=watchers.append)
    slow, _ = (
        renewals.begin([id], settle=settle, started=0.0, broadcast=lambda: None)
        for id, settle in (("p1", 9), ("p2", 4))
    )

    renewals.renew(slow)

    assert len(watchers) == 1
    assert renewals._wake_at == 2.0


def test_the_watcher_sleeps_until_something_is_due(monkeypatch):
    wakes = []

    def clock():
        if threading.current_thread().name == "change-events-renewals":
            wakes.append(None)
        return monotonic()

    class Counting:
        sent = threading.Semaphore(0)

        def publish(self, events, /):
            self.sent.release()

    monkeypatch.setattr(broadcasting, "_renewals", Renewals(clock=clock))
    with broadcasting(Counting(), "p1", settle=0.5):
        assert all(Counting.sent.acquire(timeout=20) for _ in range(3))

    assert len(wakes) < 100


def test_renewals_and_confirmations_run_in_the_context_of_the_save(channel, time, kind):
    tenant = contextvars.ContextVar("tenant", default="nobody")
    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: {"tenant": tenant.get()})

    def save():
        tenant.set("t1")
        kind.save(publisher, body, "p1", confirm=True)

    def body():
        contextvars.Context().run(
            time.passes, 3.0
        )  # the watcher knows nothing of the caller's context

    contextvars.copy_context().run(save)

    assert said(channel.messages(), "tenant", "phase") == [
        ("t1", "saving"),
        ("t1", "saving"),
        ("t1", "saved"),
    ]


# Slow broadcasts


def test_a_broadcast_that_took_longer_than_half_the_window_is_repeated_before_the_save(
    channel, time, line, kind
):
    line.takes = [2.6, 0.1]

    assert len(kind.save(line, channel.bodies, "p1")) == 2
    assert line.asked == [0.0, 2.6]


def test_a_broadcast_of_half_the_window_is_not_repeated(channel, time, line):
    line.takes = [2.5]

    with broadcasting(line, "p1"):
        assert len(channel.bodies()) == 1


def test_a_repeated_broadcast_that_was_slow_but_not_too_slow_is_renewed_at_once(time, line):
    line.takes = [6.0, 4.9]

    with broadcasting(line, "p1"):
        time.passes(0.0)

    assert line.asked == [0.0, 6.0, 10.9]


def test_a_broadcast_that_took_the_window_twice_saves_nothing(time, line, kind):
    line.takes = [5.0, 5.0]

    with pytest.raises(
        PublishError, match=r"the broadcast took 5.0 s, longer than settle=5.0; nothing saved"
    ) as caught:
        kind.save(line, lambda: pytest.fail("saved"), "p1")

    assert caught.value.ids == ("p1",)
    assert line.asked == [0.0, 5.0]
    assert time.renewals._saves == {}


# Renewals that fail, and what comes after the save


def test_a_renewal_that_fails_is_tried_again_soon(channel, time, line, caplog):
    line.cut = (2.0, 3.2)

    with broadcasting(line, "p1"):
        time.passes(4.0)

    assert line.asked == [0.0, 2.5, 3.0, 3.5]
    assert len(channel.bodies()) == 2
    assert time.renewals.stats() == BroadcastStats(renewals=1)
    assert [record.action for record in own(caplog)] == ["renew", "renew"]
    assert "the line is cut" in caplog.text


def test_a_save_that_ends_within_the_window_needs_no_renewal(channel, time, line):
    line.cut = (2.0, math.inf)

    with broadcasting(line, "p1"):
        time.passes(4.9)

    assert len(channel.bodies()) == 1
    assert time.renewals.stats() == BroadcastStats()


def test_a_save_that_could_not_be_renewed_is_broadcast_after_it(channel, time, line, kind):
    line.cut = (2.0, 7.0)

    def body():
        time.passes(5.0)
        line.cut = (2.0, 5.0)
        return channel.bodies()

    assert len(kind.save(line, body, "p1")) == 1
    assert line.accepted == [0.0, 5.0]
    assert channel.bodies() == ['{"id": "p1"}']
    assert time.renewals.stats() == BroadcastStats(late=1)


def test_the_broadcast_after_the_save_is_tried_again_with_growing_pauses(channel, time, line, kind):
    def body():
        line.cut = (2.0, time.now + 0.5)
        time.now += 8.0  # and no thread could renew it meanwhile
        line.cut = (8.0, 8.6)

    kind.save(line, body, "p1")

    first, second = time.slept
    assert 0.2 <= first <= 0.4 <= second <= 0.8
    assert len(line.asked) == 4
    assert channel.bodies() == ['{"id": "p1"}'] * 2
    assert time.renewals.stats() == BroadcastStats(late=1)


def too_slow(time, line):
    line.cut = (time.now + 0.1, math.inf)
    time.passes(6.0)
    return "saved"


def test_if_that_fails_too_it_is_said_loudly_and_not_raised(time, line, kind, caplog):
    told = []

    result = kind.save(
        line,
        lambda: too_slow(time, line),
        "p1",
        "p2",
        on_unsettled=lambda ids, error: told.append((list(ids), error)),
    )

    assert result == "saved"
    ((ids, error),) = told
    assert ids == ["p1", "p2"]
    assert isinstance(error, PublishError)
    (record,) = [record for record in own(caplog) if record.levelno == logging.ERROR]
    assert (record.action, list(record.ids)) == ("unsettled", ["p1", "p2"])
    assert "'p1', 'p2'" in record.getMessage()
    assert time.renewals.stats() == BroadcastStats(late=1, unsettled=1)
    assert len(time.slept) == 2  # between three attempts


class Noted:
    """Metrics that note what they count."""

    def __init__(self):
        self.told = []

    def count(self, name, value=1, /, **labels):
        self.told.append((name, value, labels))


@pytest.fixture
def noted(time, monkeypatch):
    monkeypatch.setattr(renewal_module, "renewals", time.renewals)
    noted = Noted()
    measure_broadcasts(noted)
    return noted


def test_what_is_broadcast_beside_is_measured_too(time, line, noted):
    with broadcasting(line, "p1"):
        time.passes(2.6)
    with broadcasting(line, "p1"):
        too_slow(time, line)

    assert time.renewals.stats() == BroadcastStats(renewals=1, late=1, unsettled=1)
    assert noted.told == [
        ("renewals", 1, {}),
        ("late_broadcasts", 1, {}),
        ("unsettled_saves", 1, {}),
    ]


def test_measuring_ends_when_nobody_listens_any_more(time, line, noted):
    measure_broadcasts(None)

    with broadcasting(line, "p1"):
        time.passes(2.6)

    assert time.renewals.stats().renewals == 1
    assert noted.told == []


def test_without_on_unsettled_it_is_logged_and_counted_all_the_same(time, line, kind, caplog):
    assert kind.save(line, lambda: too_slow(time, line), "p1") == "saved"

    assert "caches may be stale" in caplog.text
    assert time.renewals.stats().unsettled == 1


def test_what_on_unsettled_raises_is_logged(time, line, kind, caplog):
    assert (
        kind.save(line, lambda: too_slow(time, line), "p1", on_unsettled=lambda ids, error: 1 / 0)
        == "saved"
    )

    assert "ZeroDivisionError" in caplog.text


def test_the_saves_own_exception_comes_through(time, line, kind):
    def body():
        too_slow(time, line)
        raise LookupError("the save's own")

    with pytest.raises(LookupError, match="the save's own"):
        kind.save(line, body, "p1", on_unsettled=lambda ids, error: 1 / 0)

    assert time.renewals.stats().unsettled == 1


def test_a_late_save_that_raised_is_broadcast_after_it_too(channel, time, line, kind):
    def body():
        time.now += 6.0
        raise LookupError("which does not prove that nothing was committed")

    with pytest.raises(LookupError):
        kind.save(line, body, "p1", confirm=True)

    saving, late = channel.messages()
    assert said([saving], "phase") == [("saving",)]
    assert _attributes(late) == {}


def test_a_cancelled_save_that_was_late_is_broadcast_after_it(channel, time, line):
    async def main():
        async with broadcasting(line, "p1"):
            time.now += 6.0
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())

    assert line.asked == [0.0, 6.0]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.4, 2.6, 4.9, 5.0, 7.0]), st.booleans()),
        max_size=30,
    ),
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 2.6, 4.9, 5.0, 11.0]), min_size=1, max_size=5),
)
def test_a_save_never_ends_unannounced(broadcasts, steps):
    """Whatever the broadcasts take and whichever of them fail."""
    time = Time()
    plan = iter(broadcasts)
    accepted = []  # (start, end)
    unsettled = []

    class Unreliable:
        def publish(self, events, /):
            takes, works = next(plan, (0.0, True))
            started = time.now
            time.now += takes
            if not works:
                raise PublishError("no", ids=[])
            accepted.append((started, time.now))

    block = broadcasting(Unreliable(), "p1", on_unsettled=lambda ids, error: unsettled.append(ids))
    block._renewals = time.renewals
    moments = []
    try:
        with block:
            moments.append(time.now)
            for step in steps:
                time.passes(step)
                moments.append(time.now)
    except PublishError:
        assert moments == [], "saved, though the broadcast failed"
        return

    assert unsettled or max(start for start, _ in accepted) > moments[-1] - W
    assert time.renewals._saves == {}
    if all(works and takes < W / 2 for takes, works in broadcasts):
        for moment in moments:  # a crash right after a commit does no harm
            assert max(start for start, end in accepted if end <= moment) > moment - W


# Confirmed saves


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "envelope"])
def test_a_confirmed_save_is_broadcast_before_and_after(make_channel, time, kind, raw):
    channel = make_channel(raw=raw)

    before = kind.save(SNSPublisher(channel.topic_arn), channel.messages, "p1", confirm=True)
    after = channel.messages()

    ((phase, save, settle),) = said(before, "phase", "save", "settle")
    assert (phase, settle) == ("saving", None)
    assert said(after, "phase", "save", "settle") == [("saved", save, None)]
    assert save


def test_every_save_has_a_name_of_its_own_which_its_renewals_share(channel, time, line, kind):
    kind.save(line, lambda: time.passes(3.0), "p1", "p2", confirm=True, settle=4)
    kind.save(line, lambda: None, "p1", confirm=True, settle=4)

    messages = said(channel.messages(), "phase", "save")
    first = messages[0][1]
    assert [phase for phase, save in messages if save == first] == ["saving"] * 4 + ["saved"] * 2
    assert [phase for phase, save in messages if save != first] == ["saving", "saved"]


def test_a_save_that_raises_is_not_confirmed(channel, time, kind):
    with pytest.raises(ZeroDivisionError):
        kind.save(SNSPublisher(channel.topic_arn), lambda: 1 / 0, "p1", confirm=True)

    assert said(channel.messages(), "phase") == [("saving",)]


def test_a_late_save_is_confirmed_by_the_broadcast_after_it(channel, time, line, kind):
    kind.save(line, lambda: setattr(time, "now", 6.0), "p1", confirm=True)

    assert said(channel.messages(), "phase") == [("saving",), ("saved",)]


class Gated:
    """Keeps the confirmation waiting until the gate opens."""

    def __init__(self, publisher):
        self._publisher = publisher
        self.gate = threading.Event()
        self.done = threading.Event()

    def publish(self, events, /):
        if events[0].phase == "saved":
            assert self.gate.wait(20)
        self._publisher.publish(events)
        if events[0].phase == "saved":
            self.done.set()


def test_the_caller_does_not_wait_for_the_confirmation(channel, real, kind):
    publisher = Gated(SNSPublisher(channel.topic_arn))

    assert kind.save(publisher, lambda: "saved", "p1", confirm=True) == "saved"
    assert said(channel.messages(), "phase") == [("saving",)]
    publisher.gate.set()
    assert publisher.done.wait(20)
    assert said(channel.messages(), "phase") == [("saved",)]


def test_a_confirmation_that_is_lost_does_no_harm(channel, time, line, kind, caplog):
    caplog.set_level(logging.INFO, "change_events")

    def body():
        line.cut = (0.0, math.inf)
        return "saved"

    assert kind.save(line, body, "p1", confirm=True) == "saved"

    assert said(channel.messages(), "phase") == [("saving",)]
    assert [(record.levelno, record.action) for record in own(caplog)] == [
        (logging.INFO, "confirm")
    ]
    assert time.renewals._in_background == 0
    assert time.renewals.stats() == BroadcastStats()


def test_only_so_many_confirmations_wait(channel, monkeypatch):
    monkeypatch.setattr(renewal_module, "MAX_BACKGROUND", 3)
    waiting = []
    monkeypatch.setattr(
        broadcasting, "_renewals", Renewals(in_thread=lambda watch: None, submit=waiting.append)
    )
    publisher = SNSPublisher(channel.topic_arn)

    def save(number):
        with broadcasting(publisher, f"p{number}", confirm=True):
            pass

    for number in range(5):
        save(number)
    assert len(waiting) == 3
    for confirm in waiting:
        confirm()
    save(5)
    assert len(waiting) == 4

    assert said(channel.messages(), "phase").count(("saved",)) == 3


def test_a_confirmation_for_which_there_is_no_thread_is_dropped_and_the_next_is_not(
    channel, monkeypatch
):
    monkeypatch.setattr(renewal_module, "MAX_BACKGROUND", 1)

    def submit(job):
        if next(attempts) == 0:
            raise RuntimeError("can't start new thread")
        job()

    attempts = iter(range(2))
    monkeypatch.setattr(
        broadcasting, "_renewals", Renewals(in_thread=lambda watch: None, submit=submit)
    )
    for id in ("p1", "p2"):
        with broadcasting(SNSPublisher(channel.topic_arn), id, confirm=True):
            pass

    confirmed = [
        message["Body"]
        for message in channel.messages()
        if _attributes(message)["phase"] == "saved"
    ]
    assert confirmed == ['{"id": "p2"}']


# Settings and misuse


@pytest.mark.parametrize(
    ("settle", "text"), [(0.5, "0.5"), (30, "30"), (3600.0, "3600.0"), (5, None), (5.0, None)]
)
def test_another_settle_window_travels_with_the_event(channel, time, kind, settle, text):
    kind.save(SNSPublisher(channel.topic_arn), lambda: None, "p1", "p2", settle=settle)

    assert said(channel.messages(), "settle", "phase") == [(text, None)] * 2


@pytest.mark.parametrize("settle", [0, -1, 3600.1, math.nan, math.inf, None, "5"])
def test_a_settle_window_out_of_its_range_is_refused_at_decoration(settle):
    with pytest.raises(
        ConfigurationError, match=r"settle must be seconds, more than 0 and up to 3600, not "
    ):
        broadcasts_before_save(NullPublisher(), settle=settle)
    with pytest.raises(ConfigurationError, match=r"settle must be seconds"):
        broadcasting(NullPublisher(), "p1", settle=settle)


@pytest.mark.parametrize("ids", [(), ("p1",)])
def test_entering_twice_is_an_error(time, ids):
    block = broadcasting(NullPublisher(), *ids)
    with block, pytest.raises(RuntimeError, match="has been entered before"), block:
        pytest.fail("entered")
    with pytest.raises(
        RuntimeError, match=r"^this broadcasting\(\) has .* before; make a new one for each save$"
    ):
        block.__enter__()

    async def main():
        block = broadcasting(NullPublisher(), *ids)
        results = await asyncio.gather(
            *(block.__aenter__() for _ in range(2)), return_exceptions=True
        )
        await block.__aexit__(None, None, None)
        return results

    assert [type(result) for result in asyncio.run(main())] == [type(None), RuntimeError]
    assert time.renewals._saves == {}


# Threads that are not to be had, forks and the end


def test_if_no_watcher_can_be_started_the_save_is_announced_late_and_the_next_save_tries_again(
    channel, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG, "change_events")
    time = Time()
    started = []

    def in_thread(watch):
        if not started:
            started.append(None)
            raise RuntimeError("can't start new thread")
        started.append(watch)

    renewals = Renewals(clock=lambda: time.now, sleep=time._sleep, in_thread=in_thread)
    monkeypatch.setattr(broadcasting, "_renewals", renewals)
    publisher = SNSPublisher(channel.topic_arn)

    with broadcasting(publisher, "p1"):
        time.now += 6.0
    with broadcasting(publisher, "p2"):
        pass

    assert channel.ids() == ["p1", "p1", "p2"]
    assert len(started) == 2
    assert "can't start new thread" in caplog.text


def test_asynchronous_saves_do_without_threads_when_there_are_none_to_be_had(channel, time, line):
    async def main():
        await asyncio.get_running_loop().shutdown_default_executor()
        async with broadcasting(line, "p1"):
            time.now += 6.0

    asyncio.run(main())

    assert line.asked == [0.0, 6.0]
    assert channel.ids() == ["p1", "p1"]


def test_a_save_that_a_fork_cuts_in_two_ends_in_the_child_too(time, line):
    with broadcasting(line, "p1"):
        time.renewals.start_over()  # which is what the child of a fork does

    assert line.asked == [0.0]


SCRIPT = """
import asyncio, atexit, os, sys, threading, traceback
from change_events import BroadcastStats, ChangeEvent, SNSPublisher, broadcast_stats, broadcasting, broadcasts_before_save

topic = SNSPublisher(sys.argv[1])
topic.publish([ChangeEvent("first")])  # boto3 can't be imported any more while the interpreter shuts down


class Counting:
    def __init__(self):
        self.sent = threading.Semaphore(0)

    def publish(self, events, /):
        topic.publish(events)
        self.sent.release()


def wait_for(publisher, broadcasts):
    assert all(publisher.sent.acquire(timeout=20) for _ in range(broadcasts))


"""


def run_script(script, channel, *options):
    process = subprocess.run(
        [sys.executable, *options, "-c", SCRIPT + script, channel.topic_arn],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return channel.ids()


def test_the_child_of_a_fork_starts_over(channel):
    ids = run_script(
        """
parent = Counting()
with broadcasting(parent, "parent", settle=0.4):
    wait_for(parent, 3)
    assert broadcast_stats().renewals
    pid = os.fork()
    if pid == 0:
        try:
            assert broadcast_stats() == BroadcastStats()
            child = Counting()
            with broadcasting(child, "child", settle=0.4, confirm=True):
                wait_for(child, 3)
            assert broadcast_stats().renewals
            wait_for(child, 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    wait_for(parent, 2)
""",
        channel,
        "-W",
        "ignore::DeprecationWarning",  # that a process with threads forks, which is what this is about
    )

    assert ids.count("child") >= 3
    assert ids.count("parent") >= 4


SHUTDOWN = {
    "in an exit handler": """
@atexit.register
def save():
    for id, settings in (("p1", {}), ("p2", {"confirm": True})):
        with broadcasting(topic, id, **settings):
            pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)
""",
    "in an exit handler, after others": """
with broadcasting(topic, "p1", confirm=True):
    pass

@atexit.register
def save():
    with broadcasting(topic, "p2", confirm=True):
        pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)
""",
    "in a thread, after the main thread has ended": """
def save():
    threading.main_thread().join()
    for id, settings in (("p1", {}), ("p2", {"confirm": True})):
        with broadcasting(topic, id, **settings):
            pass
    with broadcasting(topic, "late", settle=0.5):
        threading.Event().wait(0.6)

threading.Thread(target=save).start()
""",
    "in an event loop, after the main thread has ended": """
@broadcasts_before_save(topic, confirm=True)
async def save(id):
    pass

async def main():
    await save("p1")
    threading.main_thread().join()
    await save("p2")
    async with broadcasting(topic, "late", settle=0.5):
        await asyncio.sleep(0.6)

def run():
    loop = asyncio.new_event_loop()  # asyncio.run would itself start a thread at its end, which Python 3.12 then forbids
    loop.run_until_complete(main())
    loop.close()

threading.Thread(target=run).start()
""",
}


@pytest.mark.parametrize("script", SHUTDOWN.values(), ids=SHUTDOWN)
def test_saves_while_the_interpreter_shuts_down_neither_hang_nor_fail(channel, script):
    ids = run_script(script, channel, "-W", "error")

    assert {"p1", "p2"} <= set(ids)
    assert ids.count("late") >= 2  # renewed or announced after it


def test_broadcast_stats_are_those_of_the_renewals_that_saves_use():
    assert broadcasting._renewals is renewal_module.renewals
    assert broadcast_stats() == renewal_module.renewals.stats()
