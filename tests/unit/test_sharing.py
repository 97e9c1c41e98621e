"""Threads that send at the same moment share a call, and each gets its own answer."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from change_events._producer import sharing
from change_events._producer.sharing import LONGEST, MOST_BYTES, SharedCalls, _Group
from conftest import signalled, wait_until


def message(id, **attributes):
    """Return a message with some attributes."""
    described = {
        name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
    }
    return {"Message": id, **({"MessageAttributes": described} if described else {})}


class Topic:
    """
    Notes each call, and holds it until it is let go.

    Attributes:
        calls: The ids of each call.
        refused: Why an id is refused, or an error that the whole call ends with.
    """

    def __init__(self):
        self.calls = []
        self.refused = {}
        self.free = threading.Event()
        self.shared = SharedCalls(self.send)
        self._threads = []

    def send(self, messages):
        ids = [each["Message"] for each in messages]
        self.calls.append(ids)
        assert self.free.wait(20)
        whys = [self.refused.get(id) for id in ids]
        errors = [why for why in whys if isinstance(why, Exception)]
        return errors[:1] * len(ids) if errors else whys

    def hold(self):
        """Let one call be under way, and take long."""
        self.shared._usual = 1000.0  # so the others wait for as long as any ever does
        self.start("first")
        wait_until(lambda: self.calls == [["first"]])

    def start(self, *ids, **attributes):
        """Send messages in a thread; return a list that gets the answer."""
        answer = []

        def run():
            answer.append(self.shared.send([message(id, **attributes) for id in ids]))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)
        return answer

    def close(self):
        """Let those that wait wait no longer."""
        self.shared._close(self.shared._open)

    def end(self):
        """Let all calls end."""
        self.free.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def topic():
    topic = Topic()
    yield topic
    topic.end()


@pytest.fixture
def patient(monkeypatch):
    """Let a call that is not full wait until it is."""
    monkeypatch.setattr("change_events._producer.sharing.LONGEST", 100.0)
    monkeypatch.setattr("change_events._producer.sharing.PATIENCE", 100.0)


def waits_for(topic, number):
    """Wait until so many messages wait for a call."""
    wait_until(lambda: (group := topic.shared._open) and len(group.messages) == number)


def test_what_comes_alone_is_sent_at_once(topic, patient):
    topic.shared._usual = 1000.0
    topic.free.set()

    assert topic.shared.send([message("a")]) == [None]
    assert topic.shared.send([message("b"), message("c")]) == [None, None]

    assert topic.calls == [["a"], ["b", "c"]]


def test_ten_that_come_while_a_call_is_under_way_share_the_next(topic, patient):
    topic.hold()
    answers = [topic.start(f"p{number}") for number in range(9)]
    waits_for(topic, 9)
    assert topic.calls == [["first"]]

    answers.append(topic.start("p9"))

    wait_until(lambda: len(topic.calls) == 2)
    assert sorted(topic.calls[1]) == [f"p{number}" for number in range(10)]
    topic.end()
    assert answers == [[[None]]] * 10


def test_none_goes_on_before_its_call_has_ended(topic, patient):
    topic.hold()
    answers = [topic.start(f"p{number}") for number in range(10)]
    wait_until(lambda: len(topic.calls) == 2)

    assert answers == [[]] * 10


def test_they_do_not_wait_for_a_call_that_takes_long(topic):
    topic.hold()
    topic.shared._usual = 0.02
    first, second = topic.start("a"), topic.start("b")

    wait_until(lambda: sum(map(len, topic.calls)) == 3)

    topic.end()
    assert [*first, *second] == [[None], [None]]


def test_a_thread_waits_for_a_quarter_of_the_time_that_calls_take(topic):
    waits = []

    class Pause:
        def acquire(self, timeout=None):
            waits.append(timeout)

        def release(self):
            pass

    topic.free.set()
    group = _Group(Pause)
    waits.clear()

    for usual in (0.0, 0.04, 1000.0):
        topic.shared._usual = usual
        topic.shared._lead(group)

    assert waits == [0.0, 0.01, LONGEST]


def test_the_time_of_calls_is_learned_from_each():
    times = iter([10.0, 10.5, 20.0, 20.5])
    shared = SharedCalls(lambda messages: [None], clock=lambda: next(times))

    shared.send([message("a")])
    assert shared._usual == pytest.approx(0.1)
    shared.send([message("a")])
    assert shared._usual == pytest.approx(0.18)


def test_each_gets_the_answer_to_its_own_messages(topic, patient):
    topic.refused = {"b": "InternalError: b", "d": "InternalError: d"}
    topic.hold()
    answers = {}
    for before, ids in [(1, "a"), (3, "bc"), (4, "d")]:
        answers[ids] = topic.start(*ids)
        waits_for(topic, before)
    answers["efghij"] = topic.start(*"efghij")
    wait_until(lambda: len(topic.calls) == 2)
    topic.end()

    assert answers == {
        "a": [[None]],
        "bc": [["InternalError: b", None]],
        "d": [["InternalError: d"]],
        "efghij": [[None] * 6],
    }
    assert topic.calls == [["first"], list("abcdefghij")]


def test_what_does_not_fit_goes_into_the_next_call(topic, patient):
    topic.hold()
    six = topic.start(*"abcdef")
    waits_for(topic, 6)
    five = topic.start(*"ghijk")

    wait_until(lambda: len(topic.calls) == 2)
    assert topic.calls[1] == list("abcdef")
    waits_for(topic, 5)
    topic.start(*"lmnop")
    wait_until(lambda: len(topic.calls) == 3)
    topic.end()
    assert (six, five) == ([[None] * 6], [[None] * 5])
    assert topic.calls[2] == list("ghijklmnop")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("x" * (MOST_BYTES - 7), True),
        ("x" * (MOST_BYTES - 6), False),
        ("ä" * (MOST_BYTES // 2), False),
    ],
)
def test_a_call_is_no_longer_than_sns_allows(topic, patient, text, fits):
    topic.hold()
    topic.start("id", name=text)
    waits_for(topic, 1)
    topic.start("b")

    if fits:
        waits_for(topic, 2)
    else:
        wait_until(lambda: len(topic.calls) == 2)
        assert topic.calls[1] == ["id"]
    topic.close()


def test_the_length_of_all_messages_of_a_call_counts(topic, patient):
    topic.hold()
    for number, id in enumerate("abc", start=1):
        topic.start(id, name="x" * (MOST_BYTES // 3 - 10))
        waits_for(topic, number)

    topic.start("d", name="x" * 100)

    wait_until(lambda: len(topic.calls) == 2)
    assert topic.calls[1] == ["a", "b", "c"]
    topic.close()


def test_what_comes_while_a_call_is_under_way_does_not_join_it(topic, monkeypatch):
    monkeypatch.setattr("change_events._producer.sharing.PATIENCE", 100.0)
    topic.hold()
    topic.shared._usual = 0.0
    first = topic.start("a")
    wait_until(lambda: len(topic.calls) == 2)

    second = topic.start("b")

    wait_until(lambda: len(topic.calls) == 3)
    topic.end()
    assert (first, second) == ([[None]], [[None]])
    assert topic.calls == [["first"], ["a"], ["b"]]


def test_nobody_joins_a_call_for_which_a_thread_has_waited_too_long(topic, patient, monkeypatch):
    monkeypatch.setattr("change_events._producer.sharing.PATIENCE", 0.05)
    topic.hold()
    topic.start("a")
    waits_for(topic, 1)

    topic.start("b")

    wait_until(lambda: len(topic.calls) == 3)
    assert sorted(topic.calls[1:]) == [["a", "b"], ["b"]]


def refusal(status, code="InvalidParameter"):
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PublishBatch")


@pytest.mark.parametrize(
    "error",
    [refusal(400), refusal(403), refusal(413), ValueError("a hook's"), UnicodeError("no UTF-8")],
    ids=repr,
)
def test_what_fails_perhaps_because_of_one_is_sent_again_by_each_alone(topic, patient, error):
    topic.refused = {"bad": error}
    topic.hold()
    good, bad = topic.start("good"), topic.start("bad")
    waits_for(topic, 2)
    topic.close()
    topic.end()

    assert (good, bad) == ([[None]], [[error]])
    assert Counter(map(len, topic.calls)) == {1: 3, 2: 1}


@pytest.mark.parametrize(
    "error",
    [
        refusal(500),
        refusal(429),
        refusal(400, "Throttling"),
        refusal(400, "ThrottledException"),
        ConnectionError("reset"),
        ClientError({}, "PublishBatch"),
        refusal(400, "KMSThrottling"),
        ReadTimeoutError(endpoint_url="http://sns"),
        EndpointConnectionError(endpoint_url="http://sns"),
    ],
    ids=str,
)
def test_what_fails_because_of_sns_is_not_sent_again(topic, patient, error):
    topic.refused = {"a": error}
    topic.hold()
    answers = topic.start("a"), topic.start("b")
    waits_for(topic, 2)
    topic.close()
    topic.end()

    assert answers == ([[error]], [[error]])
    assert len(topic.calls) == 2


def test_what_was_refused_alone_is_not_sent_again(topic):
    error = refusal(400)
    topic.refused = {"a": error, "b": error}
    topic.free.set()

    assert topic.shared.send([message("a"), message("b")]) == [error, error]

    assert topic.calls == [["a", "b"]]


# Interruptions


def test_if_the_thread_that_waits_to_send_is_interrupted_the_others_are_sent(topic, patient):
    topic.hold()
    others = []

    def two_more():
        waits_for(topic, 1)
        others.append(topic.start("b"))
        waits_for(topic, 2)
        others.append(topic.start("c"))
        waits_for(topic, 3)

    interrupting = signalled(signal.SIGINT, when=two_more)
    with pytest.raises(KeyboardInterrupt):
        topic.shared.send([message("a")])
    interrupting.join()
    topic.end()

    assert others == [[[None]], [[None]]]
    assert sorted(topic.calls[1:]) == [["b"], ["c"]]


def test_if_the_thread_that_sends_is_interrupted_the_others_send_again(topic, patient):
    """Nobody knows whether SNS has accepted what was under way."""
    topic.hold()
    others = []

    def send(messages):
        topic.shared._send = topic.send
        others.append([each["Message"] for each in messages])
        raise KeyboardInterrupt

    def one_more():
        waits_for(topic, 1)
        topic.shared._send = send
        others.append(topic.start("b"))
        waits_for(topic, 2)
        topic.close()

    joining = threading.Thread(target=one_more)
    joining.start()
    with pytest.raises(KeyboardInterrupt):
        topic.shared.send([message("a")])
    joining.join()
    topic.end()

    assert others == [[[None]], ["a", "b"]]
    assert topic.calls[1:] == [["b"]]


def test_no_moment_of_an_interruption_lets_another_wait_for_ever(monkeypatch):
    """Python looks for signals wherever a function begins; each of these moments has its turn."""
    monkeypatch.setattr(sharing, "PATIENCE", 0.05)
    monkeypatch.setattr(sharing, "LONGEST", 0.2)
    moments = 0
    while True:
        topic, begun = Topic(), itertools.count()
        topic.hold()
        moment = moments

        def interrupt(frame, *_, begun=begun, moment=moment):
            if frame.f_code.co_filename == sharing.__file__ and next(begun) == moment:
                raise KeyboardInterrupt

        def lead(topic=topic, interrupt=interrupt):
            sys.settrace(interrupt)
            with suppress(KeyboardInterrupt):
                topic.shared.send([message("leader")])

        leader = threading.Thread(target=lead)
        leader.start()
        while leader.is_alive() and not topic.shared._open:
            time.sleep(0.001)
        other = topic.start("other")
        topic.free.set()
        leader.join(20)
        topic.end()
        later = topic.start("later")
        topic.end()
        assert (other, later) == ([[None]], [[None]])
        if next(begun) < moments:
            break
        moments += 1
    assert moments > 5


def test_a_handler_can_wait_for_a_thread_that_waits_for_its_own(topic, monkeypatch):
    """As a graceful shutdown does: the handler of SIGTERM joins the other threads."""
    monkeypatch.setattr(sharing, "LONGEST", 100.0)
    monkeypatch.setattr(sharing, "PATIENCE", 0.05)
    topic.hold()
    ended = []

    def handler(*_):
        topic.free.set()
        topic._threads[-1].join(20)
        ended.append(not topic._threads[-1].is_alive())
        topic.close()

    def one_more():
        waits_for(topic, 1)
        topic.start("other")
        waits_for(topic, 2)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        interrupting = signalled(signal.SIGUSR1, when=one_more)
        assert topic.shared.send([message("main")]) == [None]
        interrupting.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert ended == [True]


def test_one_that_is_interrupted_while_it_waits_leaves_the_others(topic, patient):
    topic.hold()
    leader = topic.start("a")
    waits_for(topic, 1)
    interrupting = signalled(signal.SIGINT, when=lambda: waits_for(topic, 2))

    with pytest.raises(KeyboardInterrupt):
        topic.shared.send([message("b")])

    interrupting.join()
    topic.close()
    topic.end()
    assert leader == [[None]]
    assert topic.calls[1] == ["a", "b"]
    assert topic.shared._inside == set()


@pytest.mark.parametrize("leads", [True, False])
def test_a_signal_handler_that_saves_does_not_wait_for_its_own_thread(topic, patient, leads):
    topic.hold()
    if not leads:
        topic.start("a")
        waits_for(topic, 1)
    inner = []

    def handler(*_):
        topic.free.set()
        inner.append(topic.shared.send([message("inner")]))
        topic.close()

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        interrupting = signalled(signal.SIGUSR1, when=lambda: waits_for(topic, 1 + (not leads)))
        assert topic.shared.send([message("outer")]) == [None]
        interrupting.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert inner == [[None]]
    assert ["inner"] in topic.calls


def test_many_threads_get_what_was_said_of_their_own_messages():
    accepted, calls = set(), []
    lock = threading.Lock()

    def send(messages):
        ids = [each["Message"] for each in messages]
        whys = [None if hash(id) % 5 else f"refused: {id}" for id in ids]
        with lock:
            calls.append(len(ids))
            accepted.update(id for id, why in zip(ids, whys, strict=True) if why is None)
        threading.Event().wait(0.001)
        return whys

    shared, wrong = SharedCalls(send), []

    def save(thread):
        for number in range(100):
            id = f"{thread}-{number}"
            (why,) = shared.send([message(id)])
            if (why is None) != (id in accepted) or why not in {None, f"refused: {id}"}:
                wrong.append(id)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert sum(calls) == 2000
    assert max(calls) <= 10
    assert not any(lock.locked() for lock in shared._under_way)
    assert shared._inside == set()
