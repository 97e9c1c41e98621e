"""The queue in memory behaves as a queue on the wire, for a test and for a worker."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from change_events import (
    ChangeEvent,
    HTTPFetcher,
    MemorySink,
    Publisher,
    SNSPublisher,
    Worker,
    broadcasts_before_save,
)
from change_events.testing import FakeQueue, FakeSource, recording
from change_events.testing._queue import TOPIC_ARN, _Topic
from conftest import wait_until


@dataclass(frozen=True)
class WireQueue:
    """A queue of the emulator, with the interface of a FakeQueue."""

    url: str
    client: Any
    publisher: Publisher
    dead_url: str

    def publish(self, events, /):
        self.publisher.publish(events)

    def send(self, body, attributes=None):
        attributes = {
            name: {"DataType": "String", "StringValue": text}
            for name, text in (attributes or {}).items()
        }
        self.client.send_message(QueueUrl=self.url, MessageBody=body, MessageAttributes=attributes)

    @property
    def dead_letters(self):
        return [
            message["Body"]
            for message in self.client.receive_message(QueueUrl=self.dead_url).get("Messages", [])
        ]


@pytest.fixture(params=["wire", "fake"])
def make_queue(request, make_channel):
    def on_the_wire(*, delay_seconds=0, max_receive_count=1000):
        dead = make_channel()
        arn = dead.sqs.get_queue_attributes(QueueUrl=dead.queue_url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_receive_count})
        channel = make_channel(DelaySeconds=str(delay_seconds), RedrivePolicy=redrive)
        return WireQueue(
            channel.queue_url, channel.sqs, SNSPublisher(channel.topic_arn), dead.queue_url
        )

    return on_the_wire if request.param == "wire" else FakeQueue


@pytest.fixture
def queue(make_queue):
    return make_queue()


@pytest.fixture(params=["wire", "fake"])
def entities_and_fetcher(request, source):
    if request.param == "wire":
        return source.entities, HTTPFetcher(source.url + "/products/{id}")
    fake = FakeSource()
    return fake, fake


def events(*ids):
    return [ChangeEvent(id) for id in ids]


def receive(queue, *, most=10, wait=0, visibility=30, attributes=()):
    return queue.client.receive_message(
        QueueUrl=queue.url,
        MaxNumberOfMessages=most,
        WaitTimeSeconds=wait,
        VisibilityTimeout=visibility,
        MessageAttributeNames=list(attributes),
        MessageSystemAttributeNames=["ApproximateReceiveCount"],
    ).get("Messages", [])


def delete(queue, *handles):
    entries = [
        {"Id": str(position), "ReceiptHandle": handle} for position, handle in enumerate(handles)
    ]
    return queue.client.delete_message_batch(QueueUrl=queue.url, Entries=entries)


def hide(queue, handle, seconds):
    entries = [{"Id": "0", "ReceiptHandle": handle, "VisibilityTimeout": seconds}]
    return queue.client.change_message_visibility_batch(QueueUrl=queue.url, Entries=entries)


def count(queue):
    """Return how many messages are visible, held and delayed."""
    names = [f"ApproximateNumberOfMessages{where}" for where in ("", "NotVisible", "Delayed")]
    attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=names)[
        "Attributes"
    ]
    return [int(attributes[name]) for name in names]


# On the wire and in memory


@pytest.mark.parametrize("number", [1, 2, 12])
def test_what_is_published_can_be_received(queue, number):
    queue.publish(events(*(f"p{n}" for n in range(number))))

    bodies = [message["Body"] for message in receive(queue) + receive(queue)]
    assert sorted(bodies) == sorted(f'{{"id": "p{n}"}}' for n in range(number))


def test_a_message_has_what_a_worker_reads(queue):
    queue.send("one")

    (message,) = receive(queue)

    assert message.keys() >= {"MessageId", "ReceiptHandle", "Body", "Attributes"}
    assert (message["Body"], message["Attributes"]) == ("one", {"ApproximateReceiveCount": "1"})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], None),
        (["settle"], {"settle": "9"}),
        (["phase", "save", "settle"], {"phase": "saved", "settle": "9"}),
        (["save"], None),
        (["All"], {"phase": "saved", "settle": "9", "tenant": "t1"}),
    ],
)
def test_a_message_has_the_attributes_that_the_receive_names(queue, asked, told):
    queue.send("one", {"phase": "saved", "settle": "9", "tenant": "t1"})

    (message,) = receive(queue, attributes=asked)

    attributes = message.get("MessageAttributes")
    assert (
        attributes and {name: value["StringValue"] for name, value in attributes.items()}
    ) == told


def test_a_receive_brings_no_more_than_was_asked_for(queue):
    queue.publish(events("p1", "p2", "p3"))

    assert len(receive(queue, most=2)) == 2
    assert count(queue) == [1, 2, 0]
    assert len(queue.client.receive_message(QueueUrl=queue.url)["Messages"]) == 1
    assert queue.client.receive_message(QueueUrl=queue.url).get("Messages", []) == []


def test_a_message_is_invisible_until_its_timeout_is_over(queue):
    queue.send("one")

    (first,) = receive(queue, visibility=1)
    assert receive(queue) == []
    (second,) = receive(queue, wait=5)

    assert second["MessageId"] == first["MessageId"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"


def test_a_visibility_timeout_can_be_changed(queue):
    queue.send("one")
    (first,) = receive(queue)

    assert hide(queue, first["ReceiptHandle"], 0)["Successful"] == [{"Id": "0"}]
    (second,) = receive(queue)
    assert hide(queue, second["ReceiptHandle"], 60).get("Failed", []) == []
    assert receive(queue) == []


def test_a_delayed_message_can_be_received_when_the_delay_is_over(make_queue):
    queue = make_queue(delay_seconds=1)
    queue.send("one")

    attributes = queue.client.get_queue_attributes(
        QueueUrl=queue.url, AttributeNames=["DelaySeconds"]
    )["Attributes"]
    assert attributes == {"DelaySeconds": "1"}
    assert count(queue) == [0, 0, 1]
    assert receive(queue) == []
    (message,) = receive(queue, wait=5)
    assert message["Body"] == "one"
    assert count(queue) == [0, 1, 0]


def test_a_long_poll_ends_when_a_message_comes(queue):
    queue.send("one")
    receive(queue, visibility=10)  # so that the poll has a message to wait for
    timer = threading.Timer(0.1, queue.send, ["two"])
    timer.start()

    started = time.monotonic()
    (message,) = receive(queue, wait=20)

    assert message["Body"] == "two"
    assert time.monotonic() - started < 5
    timer.join()


def test_a_long_poll_ends_when_a_message_is_handed_back(queue):
    queue.send("one")
    (held,) = receive(queue, visibility=15)
    timer = threading.Timer(0.1, hide, [queue, held["ReceiptHandle"], 0])
    timer.start()

    started = time.monotonic()
    (again,) = receive(queue, wait=20)

    assert again["MessageId"] == held["MessageId"]
    assert time.monotonic() - started < 5
    timer.join()


def test_a_message_can_be_deleted_with_the_handle_of_any_delivery(queue):
    queue.publish(events("p1", "p2"))
    earlier, kept = receive(queue, visibility=0)
    later = next(
        message for message in receive(queue) if message["MessageId"] == earlier["MessageId"]
    )

    assert delete(queue, earlier["ReceiptHandle"], later["ReceiptHandle"])["Successful"] == [
        {"Id": "0"},
        {"Id": "1"},
    ]
    assert delete(queue, later["ReceiptHandle"]).get("Failed", []) == []
    assert count(queue) == [0, 1, 0]
    (failed,) = hide(queue, later["ReceiptHandle"], 0)["Failed"]
    assert (failed["Id"], failed["SenderFault"], failed["Code"]) == (
        "0",
        True,
        "ReceiptHandleIsInvalid",
    )
    hide(queue, kept["ReceiptHandle"], 0)
    assert len(receive(queue)) == 1


def test_of_a_batch_only_the_unknown_receipt_handle_fails(queue):
    queue.send("one")
    (message,) = receive(queue)

    answer = delete(queue, "nobody's", message["ReceiptHandle"])

    assert answer["Successful"] == [{"Id": "1"}]
    (failed,) = answer["Failed"]
    assert (failed["Id"], failed["SenderFault"], failed["Code"]) == (
        "0",
        True,
        "ReceiptHandleIsInvalid",
    )


def test_a_message_that_was_received_too_often_is_a_dead_letter(make_queue):
    queue = make_queue(max_receive_count=2)
    queue.send("poison")

    assert [len(receive(queue, visibility=0)) for _ in range(2)] == [1, 1]
    assert queue.dead_letters == []  # it moves when it would be received once more
    queue.send("fine")
    assert [message["Body"] for message in receive(queue)] == ["fine"]
    assert queue.dead_letters == ["poison"]


def test_another_queues_url_is_an_error(queue):
    for ask in (
        lambda url: queue.client.receive_message(QueueUrl=url),
        lambda url: queue.client.get_queue_attributes(
            QueueUrl=url, AttributeNames=["DelaySeconds"]
        ),
        lambda url: queue.client.delete_message_batch(
            QueueUrl=url, Entries=[{"Id": "0", "ReceiptHandle": "r"}]
        ),
    ):
        with pytest.raises(Exception, match=r"NonExistentQueue|this client knows one queue"):
            ask(queue.url + "-2")


# A worker on either


def test_a_worker_follows_the_source(queue, entities_and_fetcher):
    entities, fetcher = entities_and_fetcher
    sink, seen = MemorySink(), set()
    worker = Worker(
        queue.url,
        client=queue.client,
        fetcher=fetcher,
        sink=sink,
        settle=0.0,
        on_outcome=lambda id, outcome: seen.add((id, outcome.value)),
    )

    entities.update({"p1": {"id": "p1", "n": 1}, "p2": {"id": "p2"}})
    queue.publish(events("p1", "p2", "never"))
    assert worker.drain() == 3
    assert dict(sink.items()) == entities

    entities["p1"] = {"id": "p1", "n": 2}
    del entities["p2"]
    queue.publish(events("p1", "p2"))
    assert worker.drain() == 2
    assert dict(sink.items()) == {"p1": {"id": "p1", "n": 2}}

    queue.publish(events("p1"))
    assert worker.drain() == 1
    assert {outcome for id, outcome in seen if id == "p1"} == {"created", "updated", "unchanged"}
    assert {outcome for id, outcome in seen if id != "p1"} == {"created", "deleted", "never_saved"}
    assert count(queue) == [0, 0, 0]


def test_a_worker_waits_for_the_window_of_a_queue_without_delay(queue, entities_and_fetcher):
    entities, fetcher = entities_and_fetcher
    sink = MemorySink()

    class Late:
        def fetch(self, id, /, *, etag=None):
            found = fetcher.fetch(id, etag=etag)
            entities["p1"] = {"id": "p1"}
            return found

    worker = Worker(queue.url, client=queue.client, fetcher=Late(), sink=sink, settle=0.3)
    queue.publish(events("p1"))

    assert worker.drain() == 1
    assert sink.get("p1") == {"id": "p1"}


def test_a_worker_drains_a_queue_with_delay(make_queue, entities_and_fetcher):
    entities, fetcher = entities_and_fetcher
    queue = make_queue(delay_seconds=1)
    sink = MemorySink()
    entities["p1"] = {"id": "p1"}
    queue.publish(events("p1"))

    assert (
        Worker(queue.url, client=queue.client, fetcher=fetcher, sink=sink, settle=1.0).drain() == 1
    )
    assert len(sink) == 1


def test_a_worker_leaves_malformed_messages_to_the_redrive_policy(make_queue):
    queue = make_queue(max_receive_count=1)
    worker = Worker(
        queue.url,
        client=queue.client,
        fetcher=FakeSource(),
        sink=MemorySink(),
        settle=0.0,
        prefetch=10,
        visibility_timeout=3,
    )
    queue.send('{"productId": "p1"}')

    assert worker.drain() == 0
    assert receive(queue, wait=10) == []
    assert queue.dead_letters == ['{"productId": "p1"}']
    assert worker.stats().malformed == 1


# In memory only


@pytest.fixture
def fake():
    return FakeQueue()


def make_worker(queue, **settings):
    return Worker(
        queue.url,
        client=queue.client,
        **({"fetcher": FakeSource(), "sink": MemorySink(), "settle": 0.0} | settings),
    )


def test_a_queue_publishes_into_itself_even_while_broadcasts_are_recorded(fake):
    @broadcasts_before_save(fake)
    def save(id):
        assert fake.bodies == [json.dumps({"id": id})]

    with recording() as broadcasts:
        save("p1")

    assert broadcasts.events == []


def test_five_saves_and_drains_take_less_than_half_of_their_polls_on_the_wire(fake):
    source, sink = FakeSource(), MemorySink()

    @broadcasts_before_save(fake)
    def save(id):
        source[id] = {"id": id}

    worker = make_worker(fake, fetcher=source, sink=sink)
    started = time.monotonic()
    for number in range(5):
        save(f"p{number}")
        worker.drain()

    assert dict(sink.items()) == dict(source)
    assert time.monotonic() - started < 2.5  # on the wire, the last poll of each drain takes 1 s


def test_a_running_worker_stops_without_waiting_for_its_poll(fake):
    sink, seen = MemorySink(), threading.Event()
    worker = make_worker(fake, sink=sink, on_outcome=lambda *_: seen.set())
    thread = threading.Thread(target=worker.run)
    thread.start()
    fake.publish(events("p1"))
    assert seen.wait(10)
    started = time.monotonic()
    worker.stop()
    thread.join(10)

    assert not thread.is_alive()
    assert time.monotonic() - started < 5
    assert fake.bodies == []


def test_the_event_of_a_failed_look_comes_back_after_advance(fake):
    source = FakeSource({"p1": {"id": "p1"}})
    source.fail(times=1)
    sink = MemorySink()
    worker = make_worker(fake, fetcher=source, sink=sink)
    fake.publish(events("p1"))

    assert worker.drain() == 0
    assert fake.bodies == ['{"id": "p1"}']
    fake.advance(10)
    assert worker.drain() == 1
    assert sink.get("p1") == {"id": "p1"}


def test_advance_ends_delays_and_polls():
    queue = FakeQueue(delay_seconds=900)
    queue.publish(events("p1"))

    assert receive(queue, wait=20) == []  # no message becomes visible within the poll
    queue.advance(885)
    timer = threading.Timer(0.05, queue.advance, [15])
    timer.start()
    started = time.monotonic()
    assert len(receive(queue, wait=20)) == 1
    assert time.monotonic() - started < 5
    timer.join()


@pytest.mark.parametrize("duplicated", [False, True])
def test_a_long_poll_ends_when_the_message_it_waits_for_is_duplicated_or_deleted(fake, duplicated):
    fake.send("one")
    (held,) = receive(fake, visibility=15)
    timer = threading.Timer(
        0.05, fake.duplicate if duplicated else lambda: delete(fake, held["ReceiptHandle"])
    )
    timer.start()

    started = time.monotonic()
    assert len(receive(fake, wait=20)) == int(duplicated)
    assert time.monotonic() - started < 5
    timer.join()


def test_a_message_has_the_attributes_of_its_broadcast(fake):
    publisher = SNSPublisher(TOPIC_ARN, client=_Topic(fake._messages), attributes={"tenant": "t1"})

    publisher.publish(events("p1"))
    publisher.publish(events("p2", "p3"))

    attributes = [message["MessageAttributes"] for message in receive(fake, attributes=["All"])]
    assert attributes == [{"tenant": {"DataType": "String", "StringValue": "t1"}}] * 3


def test_duplicate_delivers_a_held_message_once_more(fake):
    fake.publish(events("p1"))
    (held,) = receive(fake)
    fake.duplicate()

    (duplicate,) = receive(fake)

    assert duplicate["MessageId"] == held["MessageId"]
    assert receive(fake) == []
    delete(fake, held["ReceiptHandle"])
    assert fake.bodies == []


def test_duplicate_delivers_a_visible_message_twice_even_if_it_is_deleted_in_between(fake):
    fake.publish(events("p1"))
    fake.duplicate()

    (first,) = receive(fake)
    delete(fake, first["ReceiptHandle"])
    (second,) = receive(fake)
    assert second["MessageId"] == first["MessageId"]
    assert receive(fake) == []
    delete(fake, second["ReceiptHandle"])
    assert fake.bodies == []


def test_a_worker_handles_duplicates(fake):
    source, sink = FakeSource({"p1": {"id": "p1"}}), MemorySink()
    worker = make_worker(fake, fetcher=source, sink=sink)
    fake.publish(events("p1"))
    fake.duplicate()

    worker.drain()

    assert worker.stats().received == 2
    assert dict(sink.items()) == dict(source)
    assert fake.bodies == []


def test_an_unknown_parameter_or_attribute_is_an_error(fake):
    fake.send("one")

    with pytest.raises(KeyError, match="QueueArn"):
        fake.client.get_queue_attributes(QueueUrl=fake.url, AttributeNames=["QueueArn"])
    with pytest.raises(KeyError, match="SenderId"):
        fake.client.receive_message(QueueUrl=fake.url, MessageSystemAttributeNames=["SenderId"])
    with pytest.raises(TypeError, match="ReceiveRequestAttemptId"):
        fake.client.receive_message(QueueUrl=fake.url, ReceiveRequestAttemptId="1")


def test_several_workers_share_a_queue(fake):
    ids = [f"p{number}" for number in range(100)]
    source, sink = FakeSource({id: {"id": id} for id in ids}), MemorySink()
    workers = [make_worker(fake, fetcher=source, sink=sink) for _ in range(3)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    fake.publish(events(*ids))
    done = make_worker(fake, fetcher=source, sink=sink).drain()
    wait_until(lambda: len(sink) == len(ids))  # the others can still hold some
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(20)

    assert dict(sink.items()) == dict(source)
    assert done + sum(worker.stats().acknowledged for worker in workers) == 100
    assert fake.bodies == []
