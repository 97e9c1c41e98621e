"""Renewals of several saves share calls of a publisher, up to ten ids in each."""

from __future__ import annotations

import contextvars
import threading
from contextlib import ExitStack

import pytest
from virtual_time import VirtualTime, attributes_of, own, time

from change_events import (
    BroadcastStats,
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcasting,
)
from change_events._event import ChangeEvent
from change_events._producer.broadcasts import Broadcast
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Senders

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


class Recorded:
    """
    A publisher whose saves can share calls.

    Attributes:
        calls: The ids of each call.
        events: The events of all calls.
        refused: The ids that are refused.
    """

    shares_calls = True

    def __init__(self):
        self.calls = []
        self.events = []
        self.refused = set()

    def publish(self, events, /):
        self.calls.append([event.id for event in events])
        self.events += events
        if refused := self.refused & {*self.calls[-1]}:
            raise PublishError("refused", ids=[*refused])


def renewed(time, *saves, **settings):
    """Begin saves, each of a publisher and some ids; return after their first renewals."""
    with ExitStack() as stack:
        for publisher, *ids in saves:
            stack.enter_context(time.broadcasting(publisher, *ids, **settings))
        for publisher, *_ in saves:
            publisher.calls.clear()
            publisher.events.clear()
        for _ in range(wait_for_senders(time)):
            time.renewals.renew_next()


def wait_for_senders(time):
    time.now = 2.5
    return time.renewals.collect_due()


def test_saves_of_one_publisher_share_a_call_though_others_came_in_between(time):
    one, other = Recorded(), Recorded()

    renewed(time, (one, "a"), (other, "b"), (one, "c"))

    assert (one.calls, other.calls) == ([["a", "c"]], [["b"]])


def test_events_that_share_a_call_are_those_of_their_saves(time):
    publisher = Recorded()
    renewed(time, (publisher, "a"), (publisher, "b"), settle=3.0, confirm=True)

    a, b = publisher.events[:2]
    assert (a.settle, a.phase, b.settle, b.phase) == (3.0, "saving", 3.0, "saving")
    assert a.save != b.save
    assert None not in {a.save, b.save}


def test_ten_ids_of_one_publisher_share_a_call(time):
    publisher = Recorded()

    renewed(time, *((publisher, f"p{number}") for number in range(23)))

    assert [len(ids) for ids in publisher.calls] == [10, 10, 3]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=23)


def test_a_call_has_whole_saves(time):
    publisher = Recorded()
    large = [f"l{number}" for number in range(12)]

    renewed(
        time,
        (publisher, *"abcd"),
        (publisher, *"efghijk"),
        (publisher, *large),
        (publisher, *"lm"),
    )

    assert publisher.calls == [[*"abcdlm"], [*"efghijk"], large]


def test_saves_of_different_publishers_share_no_call(time):
    one, other = Recorded(), Recorded()

    renewed(time, (one, "a"), (other, "b"), (one, "c"))

    assert (one.calls, other.calls) == ([["a", "c"]], [["b"]])


def test_a_publisher_of_the_user_is_called_for_each_save(time):
    class Own(Recorded):
        shares_calls = False

    publisher = Own()

    renewed(time, (publisher, "a"), (publisher, "b"))

    assert publisher.calls == [["a"], ["b"]]


def test_only_the_saves_of_refused_ids_count_as_not_renewed(time, caplog):
    publisher = Recorded()

    with ExitStack() as stack:
        for ids in (("a", "b"), ("c",), ("d",)):
            stack.enter_context(time.broadcasting(publisher, *ids))
        publisher.refused = {"b", "d"}
        time.passes(2.9)
        publisher.refused = set()
        time.passes(0.1)

    assert publisher.calls[3:] == [[*"abcd"], [*"abd"]]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=3)
    (record,) = [record for record in own(caplog) if record.action == "renew"]
    assert sorted(record.ids) == ["a", "b", "d"]


@pytest.mark.parametrize("error", [PublishError("no ids"), ConnectionError("no answer")])
def test_no_save_counts_as_renewed_if_the_error_names_no_ids(time, error):
    class Away(Recorded):
        def publish(self, events, /):
            super().publish(events)
            if len(events) > 1:
                raise error

    publisher = Away()

    renewed(time, (publisher, "a"), (publisher, "b"))

    assert time.renewals.tally.stats() == BroadcastStats()


def test_in_a_shared_call_each_event_has_the_attributes_of_its_save(channel, time):
    tenant = contextvars.ContextVar("tenant")
    publisher = SNSPublisher(channel.topic_arn, attributes=lambda: {"tenant": tenant.get()})
    stack = ExitStack()

    def begin(name, *ids):
        tenant.set(name)
        stack.enter_context(time.broadcasting(publisher, *ids))

    with stack:
        contextvars.copy_context().run(begin, "t1", "a")
        contextvars.copy_context().run(begin, "t2", "b", "c")
        channel.messages()
        contextvars.Context().run(time.passes, 3.0)
        messages = channel.messages()

    tenants = [value for (value,) in attributes_of(messages, "tenant")]
    ids = [message["Body"] for message in messages]
    assert sorted(zip(ids, tenants, strict=True)) == [
        ('{"id": "a"}', "t1"),
        ('{"id": "b"}', "t2"),
        ('{"id": "c"}', "t2"),
    ]
    assert time.renewals.tally.stats() == BroadcastStats(renewals=2)


@pytest.mark.parametrize("shares", [True, False])
def test_topics_that_a_callable_names_are_asked_for_in_the_context_of_each_save(
    make_channel, time, monkeypatch, shares
):
    channels = [make_channel(), make_channel()]
    topic = contextvars.ContextVar("topic")
    monkeypatch.setenv("TOPIC", channels[0].topic_arn)
    publisher = SNSPublisher.from_env("TOPIC") if shares else SNSPublisher(topic.get)
    stack = ExitStack()

    def begin(channel, id):
        topic.set(channel.topic_arn)
        stack.enter_context(time.broadcasting(publisher, id))

    with stack:
        for channel, id in zip(channels, "ab", strict=True):
            contextvars.copy_context().run(begin, channel, id)
        time.passes(3.0)

    assert publisher.shares_calls is shares
    ids = [sorted(channel.ids()) for channel in channels]
    assert ids == ([["a", "a", "b", "b"], []] if shares else [["a", "a"], ["b", "b"]])


def test_400_slow_saves_are_renewed_in_time_with_sns_at_100_ms_a_call():
    """
    Each of ten senders makes a call that lasts 0.1 s, again and again, for ten seconds.

    With one call for each save, half of the window would be enough for 100 saves.
    """
    time = VirtualTime()
    waiting = []
    time.renewals = Renewals(
        clocks=lambda: (time.now,), in_thread=lambda _: None, senders=Senders(waiting.append)
    )
    last = {}
    oldest = 0.0

    class Noting:
        shares_calls = True

        def publish(self, events, /):
            for event in events:
                last[event.id] = time.now

    publisher = Noting()
    with ExitStack() as stack:
        for number in range(400):
            stack.enter_context(time.broadcasting(publisher, f"p{number}", settle=2.0))
            time.now += 0.0025  # within a second, no two at the same time
        for _ in range(100):
            for _ in range(time.renewals.collect_due()):
                time.renewals.senders.renew(time.renewals.renew_next)
            for job in waiting[:10]:
                job()
            del waiting[:10]
            time.now += 0.1
            oldest = max(oldest, time.now - min(last.values()))

    assert oldest < 2.0
    assert time.renewals.tally.stats().late == 0


def test_saves_share_calls_only_of_one_publisher_that_shares_them():
    def broadcast(publisher):
        return Broadcast(publisher, [ChangeEvent("p1")], contextvars.copy_context())

    sharing = Recorded()

    assert broadcast(sharing).shares_with(broadcast(sharing))
    assert not broadcast(sharing).shares_with(broadcast(Recorded()))
    plain = NullPublisher()
    assert not broadcast(plain).shares_with(broadcast(plain))
