"""Very many events at once: how SNS is asked, and what is left when something fails."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import threading
import time
from unittest.mock import Mock
from urllib.parse import parse_qsl

import boto3
import pytest
from botocore.config import Config

from change_events import (
    ChangeEvent,
    ConfigurationError,
    PublishError,
    SNSPublisher,
    broadcasting,
    in_portions,
)
from change_events._producer import sharing
from change_events._producer.batches import BATCH_SIZE
from change_events._producer.publishers import AT_ONCE
from conftest import signalled
from verification.harness.wire import Answer

TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"
REFUSAL = b"""<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error>
<Type>Sender</Type><Code>AuthorizationError</Code><Message>not allowed</Message>
</Error></ErrorResponse>"""


def numbered(count, **kwargs):
    return [ChangeEvent(f"p{number}", **kwargs) for number in range(count)]


class SNS:
    """
    SNS behind a proxy, which counts the calls.

    Attributes:
        most: The most calls that were under way at the same time.
        gate: Every call waits until it is set.
        refuse: Returns whether to refuse a call, given its ids.
    """

    def __init__(self, line):
        self.most = self.under_way = 0
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.refuse = lambda ids: False
        self.changed = threading.Condition()
        self._forward = line.forward
        line.fault = self._answer

    def _answer(self, asked):
        form = dict(parse_qsl(asked.body.decode()))
        if form.get("Action") != "PublishBatch":
            return None
        ids = [text.split('"')[3] for name, text in form.items() if name.endswith(".Message")]
        with self.changed:
            self.batches.append(ids)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.changed.notify_all()
        assert self.gate.wait(30)
        answer = Answer(403, REFUSAL) if self.refuse(ids) else self._forward(asked)
        with self.changed:
            self.under_way -= 1
        return answer

    def wait_for(self, calls):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.batches) >= calls, 30)


@pytest.fixture
def slow_sns(line):
    return SNS(line)


def patient_publisher(channel):
    """Return a publisher that does not take a slow emulator for one that does not answer."""
    config = Config(read_timeout=60, max_pool_connections=100)
    return SNSPublisher(channel.topic_arn, client=boto3.client("sns", config=config))


def start(job):
    """Run a job in a thread; return the thread, and a list that gets what it raises."""
    raised = []

    def run():
        try:
            job()
        except PublishError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_twenty_calls_are_under_way_at_the_same_time_and_never_more(channel, slow_sns):
    slow_sns.gate.clear()
    publisher = patient_publisher(channel)
    thread, raised = start(lambda: publisher.publish(numbered(215)))
    slow_sns.wait_for(AT_ONCE)
    slow_sns.gate.set()
    thread.join()

    assert raised == []
    assert slow_sns.most == AT_ONCE
    assert len(slow_sns.batches) == 22
    assert sorted(channel.ids()) == sorted(event.id for event in numbered(215))


def canned_client():
    """Return a client with many connections that sends nothing, and the threads that called it."""
    client = boto3.client("sns", config=Config(max_pool_connections=100))
    threads = []

    def answer(**_):
        threads.append(threading.current_thread())
        return type("Response", (), {"status_code": 200})(), {"Failed": []}

    client.meta.events.register("before-call.sns.PublishBatch", answer)
    return client, threads


def test_ten_events_are_one_call_in_the_callers_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    client, threads = canned_client()  # servers would need threads

    SNSPublisher(TOPIC, client=client).publish(numbered(10))

    assert threads == [threading.current_thread()]


def test_where_no_thread_can_be_started_the_callers_thread_sends_all(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client, threads = canned_client()

    SNSPublisher(TOPIC, client=client).publish(numbered(95))

    assert threads == [threading.current_thread()] * 10


def test_a_client_of_the_user_sends_as_many_calls_as_it_keeps_connections(channel, slow_sns):
    slow_sns.gate.clear()
    client = boto3.client("sns", config=Config(max_pool_connections=3))
    publisher = SNSPublisher(channel.topic_arn, client=client)
    thread, raised = start(lambda: publisher.publish(numbered(100)))
    slow_sns.wait_for(3)
    slow_sns.gate.set()
    thread.join()

    assert raised == []
    assert slow_sns.most == 3


def test_a_client_that_does_not_say_its_connections_is_asked_by_one_thread():
    class Double:
        def __init__(self):
            self.threads = []

        def publish_batch(self, **_):
            self.threads.append(threading.current_thread())
            return {}

    double = Double()

    SNSPublisher(TOPIC, client=double).publish(numbered(50))

    assert double.threads == [threading.current_thread()] * 5


def test_up_to_ten_events_need_no_more_of_a_double_than_the_call():
    double = Mock()
    double.publish_batch.return_value = {}

    SNSPublisher(TOPIC, client=double).publish(numbered(10))

    double.publish_batch.assert_called_once()


def test_nothing_is_sent_for_no_events():
    double = Mock()

    SNSPublisher(TOPIC, client=double).publish([])

    assert double.mock_calls == []


def test_a_double_that_says_nothing_of_its_connections_gets_a_call_for_each_save():
    double = Mock(spec_set=["publish", "meta"])
    double.publish.side_effect = lambda **_: time.sleep(0.2)
    saves = Saves(SNSPublisher(TOPIC, client=double))
    saves.save("first")

    saves.save_together([f"p{number}" for number in range(10)])

    assert saves.errors == {}
    assert double.publish.call_count == 11


def test_no_save_begins_after_an_error_that_is_false():
    class FalseError(Exception):
        def __len__(self):
            return 0

    double = Mock()
    double.publish.side_effect = FalseError
    saves = Saves(SNSPublisher(TOPIC, client=double))

    saves.save("p1")

    assert saves.begun == []


def test_calls_run_in_the_context_of_the_save(channel):
    trace = contextvars.ContextVar("trace")
    seen = []
    client = boto3.client("sns")
    client.meta.events.register(
        "before-send.sns.PublishBatch", lambda **_: seen.append(trace.get(None))
    )
    trace.set("00-abc-01")

    SNSPublisher(channel.topic_arn, client=client).publish(numbered(100))

    assert seen == ["00-abc-01"] * 10


def test_no_call_begins_after_a_failure(channel, slow_sns):
    slow_sns.gate.clear()
    slow_sns.refuse = lambda ids: True
    publisher = SNSPublisher(channel.topic_arn)
    thread, raised = start(lambda: publisher.publish(numbered(1000)))
    slow_sns.wait_for(AT_ONCE)
    slow_sns.gate.set()
    thread.join()

    assert len(slow_sns.batches) == AT_ONCE
    assert raised[0].ids == tuple(event.id for event in numbered(1000))


def test_no_call_is_under_way_when_a_failure_is_raised(channel, slow_sns):
    slow_sns.gate.clear()
    slow_sns.refuse = lambda ids: "p30" in ids
    publisher = patient_publisher(channel)
    thread, raised = start(lambda: publisher.publish(numbered(220)))
    slow_sns.wait_for(AT_ONCE)
    slow_sns.gate.set()
    thread.join()

    assert slow_sns.under_way == 0
    assert [each.name for each in threading.enumerate() if "publish" in each.name] == []
    (error,) = raised
    accepted = set(channel.ids())
    assert error.ids == tuple(e.id for e in numbered(220) if e.id not in accepted)
    assert len(accepted) == (len(slow_sns.batches) - 1) * BATCH_SIZE
    assert "not allowed" in str(error)
    assert type(error.__cause__).__name__ == "AuthorizationErrorException"


def test_after_ctrl_c_no_call_is_left_under_way(channel, slow_sns):
    slow_sns.gate.clear()
    publisher = SNSPublisher(channel.topic_arn)
    thread = signalled(
        signal.SIGINT, when=lambda: slow_sns.wait_for(AT_ONCE), then=slow_sns.gate.set
    )

    with pytest.raises(KeyboardInterrupt):
        publisher.publish(numbered(10_000))

    thread.join()
    assert [each.name for each in threading.enumerate() if "publish" in each.name] == []
    assert len(slow_sns.batches) < 1000


# The order of a FIFO topic


def test_on_a_fifo_topic_different_ids_are_sent_in_parallel(make_channel, slow_sns):
    channel = make_channel(fifo=True)
    slow_sns.gate.clear()
    publisher = SNSPublisher(channel.topic_arn)
    thread, raised = start(lambda: publisher.publish(numbered(40)))
    slow_sns.wait_for(4)
    slow_sns.gate.set()
    thread.join()

    assert raised == []
    assert len(channel.ids()) == 40


def test_on_a_fifo_topic_the_events_of_an_id_stay_in_order(make_channel, slow_sns):
    channel = make_channel(fifo=True)
    events = [ChangeEvent("p1", settle=float(number + 1)) for number in range(25)]

    SNSPublisher(channel.topic_arn).publish(events)

    assert slow_sns.most == 1
    arrived = [
        float(message["MessageAttributes"]["settle"]["StringValue"])
        for message in channel.messages()
    ]
    assert arrived == [event.settle for event in events]


# Too many for the settle window


@pytest.mark.parametrize(
    ("settle", "most"), [(None, 10_000), (5.0, 10_000), (2.5, 5_000), (60.0, 120_000), (0.01, 200)]
)
def test_more_than_half_of_the_window_has_room_for_are_refused_before_anything_is_sent(
    settle, most
):
    class Double:
        calls = 0

        def publish_batch(self, **_):
            self.calls += 1
            return {}

    client = Double()
    publisher = SNSPublisher(TOPIC, client=client)
    events = numbered(most + 1, settle=settle)

    with pytest.raises(PublishError) as caught:
        publisher.publish(events)

    assert client.calls == 0
    assert caught.value.ids == tuple(event.id for event in events)
    assert str(caught.value) == (
        f"{most + 1} ids are too many for one save with settle={settle or 5:g}: at most {most} can "
        "be broadcast in half of that. Nothing was sent or saved. Save in portions, each with its "
        "own commit: `for portion in in_portions(ids)`"
    )
    publisher.publish(events[:most])
    assert client.calls == most // BATCH_SIZE


def test_portions_hold_all_items_once_and_in_order():
    assert list(in_portions("abcdefgh", 3)) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert list(in_portions(range(2000))) == [list(range(1000)), list(range(1000, 2000))]
    assert list(in_portions("ab", 1)) == [["a"], ["b"]]
    assert list(in_portions([])) == []


def test_a_generator_is_read_portion_by_portion():
    items = iter(range(10))

    assert next(in_portions(items, 4)) == [0, 1, 2, 3]
    assert next(items) == 4


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "3"])
def test_a_portion_has_at_least_one_item(size):
    with pytest.raises(ConfigurationError, match="size must be an integer of at least 1, not"):
        in_portions([], size)


# Saves at the same time


class Saves:
    """
    Saves, each in its own thread.

    Attributes:
        begun: The ids whose saves have begun.
        errors: The errors of those that have not, by id.
    """

    def __init__(self, publisher):
        self.publisher, self.begun, self.errors = publisher, [], {}

    def save(self, id):
        """Broadcast and save."""
        try:
            with broadcasting(self.publisher, id):
                self.begun.append(id)
        except PublishError as error:
            self.errors[id] = error

    def save_together(self, ids):
        """Save each of them at the same time, with a barrier before."""
        ready = threading.Barrier(len(ids))
        threads = [
            threading.Thread(target=lambda id=id: (ready.wait(20), self.save(id))) for id in ids
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)


def count_calls(line):
    """Note each call to SNS, and let it take a moment."""
    calls, forward = [], line.forward

    def answer(asked):
        form = dict(parse_qsl(asked.body.decode()))
        if form.get("Action", "").startswith("Publish"):
            calls.append([text for name, text in form.items() if name.endswith("Message")])
            time.sleep(0.1)
        return forward(asked)

    line.fault = answer
    return calls


def test_saves_at_the_same_time_share_calls(channel, line, monkeypatch):
    monkeypatch.setattr(sharing, "LONGEST", 10.0)  # a quarter of a call's time counts, however long
    calls = count_calls(line)
    saves = Saves(patient_publisher(channel))
    saves.save("first")  # it learns how long a call takes

    saves.save_together([f"p{number}" for number in range(40)])

    assert saves.errors == {}
    assert len(saves.begun) == 41
    assert sorted(channel.ids()) == sorted(saves.begun)
    assert len(calls) < 25
    assert max(map(len, calls)) <= 10


def test_saves_of_tasks_share_calls(channel, line, monkeypatch):
    monkeypatch.setattr(sharing, "LONGEST", 10.0)
    calls = count_calls(line)
    publisher = patient_publisher(channel)
    saved = []

    async def save(id):
        async with broadcasting(publisher, id):
            saved.append(id)

    async def all_of_them():
        await save("first")
        await asyncio.gather(*(save(f"p{number}") for number in range(40)))

    asyncio.run(all_of_them())

    assert sorted(channel.ids()) == sorted(saved)
    assert len(calls) < 25


def test_no_save_waits_for_a_confirmation(channel, line, monkeypatch):
    monkeypatch.setattr(sharing, "LONGEST", 1000.0)
    over, confirming = threading.Event(), threading.Event()
    publisher = patient_publisher(channel)

    def hang(asked):
        if b"StringValue=saved" in asked.body:
            confirming.set()
            assert over.wait(60)

    line.fault = hang
    with broadcasting(publisher, "p0", confirm=True):
        pass
    assert confirming.wait(20)
    for calls in publisher._calls.values():
        calls._usual = 1000.0

    with broadcasting(publisher, "p1"), broadcasting(publisher, "p2", confirm=True):
        over.set()

    assert set(channel.ids()) == {"p0", "p1", "p2"}


def test_an_entry_that_sns_refuses_fails_its_own_save_only(channel, line, monkeypatch):
    monkeypatch.setattr(sharing, "LONGEST", 10.0)
    client = boto3.client("sns", config=Config(read_timeout=60, max_pool_connections=100))
    real = client.publish_batch

    def refuse_some(*, TopicArn, PublishBatchRequestEntries):  # noqa: N803
        good = [each for each in PublishBatchRequestEntries if '"bad' not in each["Message"]]
        answer = real(TopicArn=TopicArn, PublishBatchRequestEntries=good) if good else {}
        bad = [each for each in PublishBatchRequestEntries if each not in good]
        failed = [{"Id": each["Id"], "Code": "No", "Message": each["Message"]} for each in bad]
        return {**answer, "Failed": failed}

    def publish(*, TopicArn, Message):  # noqa: N803
        return refuse_some(
            TopicArn=TopicArn, PublishBatchRequestEntries=[{"Id": "0", "Message": Message}]
        )["Successful"]

    monkeypatch.setattr(client, "publish_batch", refuse_some)
    monkeypatch.setattr(client, "publish", publish)
    calls = count_calls(line)
    saves = Saves(SNSPublisher(channel.topic_arn, client=client))
    saves.save("first")

    saves.save_together([f"{kind}{number}" for kind in ("good", "bad") for number in range(15)])

    assert len(calls) < 20
    assert sorted(channel.ids()) == sorted(saves.begun)
    assert sorted(saves.begun) == sorted(["first", *(f"good{number}" for number in range(15))])
    assert {id: error.ids for id, error in saves.errors.items()} == {
        f"bad{number}": (f"bad{number}",) for number in range(15)
    }


def test_a_saves_own_attributes_travel_with_it_and_fail_it_alone(channel, line, monkeypatch):
    monkeypatch.setattr(sharing, "LONGEST", 10.0)
    tenant = contextvars.ContextVar("tenant")
    publisher = SNSPublisher(
        channel.topic_arn,
        client=boto3.client("sns", config=Config(max_pool_connections=100)),
        attributes=lambda: {"tenant": tenant.get()},
    )
    calls = count_calls(line)
    saves = Saves(publisher)
    tenant.set("tenant of first")
    saves.save("first")  # it learns how long a call takes

    def save(id):
        if id != "without":
            tenant.set(f"tenant of {id}")
        Saves.save(saves, id)

    monkeypatch.setattr(saves, "save", save)
    saves.save_together(["without", *(f"p{number}" for number in range(19))])

    assert list(saves.errors) == ["without"]
    assert len(calls) < 15
    arrived = channel.messages()
    assert len(arrived) == 20
    for message in arrived:
        id = json.loads(message["Body"])["id"]
        assert message["MessageAttributes"]["tenant"]["StringValue"] == f"tenant of {id}"


def test_a_child_of_a_fork_shares_no_call_with_its_parent(channel, monkeypatch):
    publisher = SNSPublisher(channel.topic_arn)
    publisher.publish([ChangeEvent("p1")])
    (calls,) = publisher._calls.values()
    calls._lock.acquire()  # by a thread that the child does not have
    monkeypatch.setattr(os, "getpid", lambda: -1)

    thread, raised = start(lambda: publisher.publish([ChangeEvent("p2")]))

    thread.join(20)
    assert not thread.is_alive()
    assert raised == []
    assert sorted(channel.ids()) == ["p1", "p2"]
