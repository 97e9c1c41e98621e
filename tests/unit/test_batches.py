"""Many messages: ten in a call, several calls at once, and none after a failure."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from change_events._producer.batches import Batches

NUMBER: ContextVar[int] = ContextVar("number", default=0)


class Topic:
    """
    Notes each call: its messages, its thread and the context that it sees.

    Args:
        at_once: So many calls wait for each other.
        answer: Returns the answer to a call, by its messages.
    """

    def __init__(self, at_once=1, answer=lambda _: {}):
        self._meet = threading.Barrier(at_once)
        self._answer = answer
        self.calls = []
        self.threads = []
        self.contexts = []

    def publish_batch(self, TopicArn, PublishBatchRequestEntries):  # noqa: N803
        self.calls.append((TopicArn, PublishBatchRequestEntries))
        self.threads.append(threading.current_thread())
        self.contexts.append(NUMBER.get())
        self._meet.wait(20)
        return self._answer([entry["Message"] for entry in PublishBatchRequestEntries])


def batches(topic, number):
    return Batches(topic, "arn", [{"Message": f"m{n}"} for n in range(number)])


def test_ten_messages_are_in_a_call_by_their_positions():
    topic = Topic()

    assert batches(topic, 12).send(at_once=1) == [None] * 12

    assert topic.calls == [
        ("arn", [{"Id": str(n), "Message": f"m{n}"} for n in range(10)]),
        ("arn", [{"Id": "0", "Message": "m10"}, {"Id": "1", "Message": "m11"}]),
    ]


def test_calls_at_once_have_threads_of_their_own_which_see_the_callers_context():
    topic = Topic(at_once=3)
    NUMBER.set(7)

    assert batches(topic, 30).send(at_once=3) == [None] * 30

    helpers = [each for each in topic.threads if each is not threading.current_thread()]
    assert [helper.name for helper in helpers] == ["change-events-publish"] * 2
    assert all(helper.daemon for helper in helpers)
    assert not any(helper.is_alive() for helper in helpers)
    assert topic.contexts == [7, 7, 7]


def test_no_more_threads_start_than_there_are_calls():
    topic = Topic(at_once=2)

    assert batches(topic, 20).send(at_once=50) == [None] * 20

    assert len(set(topic.threads)) == 2


def test_a_message_that_is_refused_is_told_with_the_reason_and_ends_the_calls():
    topic = Topic(
        answer=lambda _: {"Failed": [{"Id": "3", "Code": "TooLong", "Message": "256 KB"}]}
    )

    whys = batches(topic, 30).send(at_once=1)

    assert whys[:10] == [*[None] * 3, "TooLong: 256 KB", *[None] * 6]
    assert whys[10:] == ["an earlier call has failed"] * 20
    assert len(topic.calls) == 1


def test_each_message_that_is_refused_is_told_by_its_position():
    topic = Topic(
        answer=lambda messages: {
            "Failed": [{"Id": "1", "Code": "A", "Message": "a"}] if "m10" in messages else []
        }
    )

    assert batches(topic, 20).send(at_once=1) == [*[None] * 11, "A: a", *[None] * 8]


def test_without_threads_the_caller_sends_all(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    topic = Topic()

    assert batches(topic, 30).send(at_once=3) == [None] * 30

    assert set(topic.threads) == {threading.current_thread()}


def test_a_call_that_fails_ends_the_calls_and_none_of_its_messages_counts_as_accepted():
    error = ConnectionError("reset")

    def answer(messages):
        if "m10" in messages:
            raise error
        return {}

    topic = Topic(answer=answer)

    whys = batches(topic, 30).send(at_once=1)

    assert whys[:20] == [*[None] * 10, *[error] * 10]
    assert whys[20:] == ["an earlier call has failed"] * 10
    assert len(topic.calls) == 2


def test_a_message_that_is_left_alone_is_published():
    """It costs the same, and a double may know of nothing else."""
    topic = Topic()
    topic.publish = lambda **given: topic.calls.append(given)

    assert batches(topic, 11).send(at_once=1) == [None] * 11

    assert topic.calls[1] == {"TopicArn": "arn", "Message": "m10"}


def test_ctrl_c_in_the_callers_thread_is_raised():
    def answer(_):
        raise KeyboardInterrupt

    topic = Topic(answer=answer)

    with pytest.raises(KeyboardInterrupt):
        batches(topic, 30).send(at_once=1)

    assert len(topic.calls) == 1
