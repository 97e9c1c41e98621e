from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from change_events import (
    NullPublisher,
    PublishError,
    SNSPublisher,
    broadcasting,
    broadcasts_before_save,
)

ARN = "PRODUCT_EVENTS_TOPIC_ARN"


class Repository:
    """Saves products in a dictionary, and notes what had been broadcast by then."""

    publisher = SNSPublisher.from_env(ARN)

    def __init__(self, channel=None):
        self.rows = {}
        self.broadcast_before = []
        self._channel = channel

    def _note(self):
        if self._channel:
            self.broadcast_before.append(self._channel.bodies())

    @broadcasts_before_save(publisher, id="product.id")
    def create(self, product):
        self._note()
        self.rows[product["id"]] = product
        return product

    @broadcasts_before_save(publisher, id="product.id")
    def update(self, product):
        self._note()
        self.rows[product["id"]] = product

    @broadcasts_before_save(publisher)
    def delete(self, id):
        self._note()
        del self.rows[id]

    @broadcasts_before_save(publisher, ids=lambda products: [product["id"] for product in products])
    async def save_all(self, products):
        self._note()
        self.rows.update({product["id"]: product for product in products})
        return len(products)


@pytest.fixture
def repository(channel, monkeypatch):
    monkeypatch.setenv(ARN, channel.topic_arn)
    return Repository(channel)


# The specification that the article gives


def test_the_message_goes_to_the_configured_topic_and_is_the_id_and_nothing_else(repository):
    repository.create({"id": "abc", "name": "a product"})

    assert repository.broadcast_before == [['{"id": "abc"}']]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_topic_nothing_is_published_and_the_save_runs(
    repository, channel, monkeypatch, value
):
    monkeypatch.delenv(ARN) if value is None else monkeypatch.setenv(ARN, value)

    repository.create({"id": "abc"})

    assert repository.rows == {"abc": {"id": "abc"}}
    assert repository.broadcast_before == [[]]
    assert channel.bodies() == []


def test_create_update_and_delete_each_broadcast_the_id_before_they_save(repository):
    repository.create({"id": "abc"})
    repository.update({"id": "abc", "name": "new"})
    repository.delete("abc")

    assert repository.broadcast_before == [['{"id": "abc"}']] * 3
    assert repository.rows == {}


def test_if_the_broadcast_fails_nothing_is_saved_and_the_caller_sees_why(repository, channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError) as caught:
        repository.create({"id": "abc"})

    assert caught.value.ids == ("abc",)
    assert type(caught.value.__cause__).__name__ == "NotFoundException"
    assert repository.rows == {}
    assert repository.broadcast_before == []


# Beyond it


def test_a_save_that_fails_has_been_broadcast_and_its_error_is_the_callers(channel):
    @broadcasts_before_save(SNSPublisher(channel.topic_arn))
    def save(id):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save("p1")

    assert channel.ids() == ["p1"]


def test_the_decorated_function_keeps_its_name_and_its_result(repository):
    assert Repository.create.__name__ == "create"
    assert repository.create({"id": "abc"}) == {"id": "abc"}


def test_arguments_that_do_not_fit_are_a_type_error_and_nothing_is_broadcast(repository, channel):
    with pytest.raises(TypeError, match="product"):
        repository.create()

    assert channel.bodies() == []


def test_broadcasting_wraps_any_block(channel):
    publisher = SNSPublisher(channel.topic_arn)

    with broadcasting(publisher, "p1", 2, "p1"):
        before = channel.ids()
    with broadcasting(publisher):
        pass

    assert sorted(before) == ["2", "p1"]
    assert channel.ids() == []


def test_broadcasting_lets_the_blocks_error_through(channel):
    with pytest.raises(ZeroDivisionError), broadcasting(SNSPublisher(channel.topic_arn), "p1"):
        raise ZeroDivisionError

    assert channel.ids() == ["p1"]


def test_broadcasting_does_not_run_the_block_if_the_broadcast_fails(channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError), broadcasting(SNSPublisher(channel.topic_arn), "p1"):
        pytest.fail("ran")


# Asynchronous


def test_an_asynchronous_save_broadcasts_before_it_too(repository):
    assert asyncio.run(repository.save_all([{"id": "p1"}, {"id": "p2"}])) == 2
    assert sorted(repository.broadcast_before[0]) == ['{"id": "p1"}', '{"id": "p2"}']
    assert list(repository.rows) == ["p1", "p2"]


def test_an_asynchronous_save_does_not_run_if_the_broadcast_fails(repository, channel, sns):
    sns.delete_topic(TopicArn=channel.topic_arn)

    with pytest.raises(PublishError):
        asyncio.run(repository.save_all([{"id": "p1"}]))

    assert repository.rows == {}


def test_the_asynchronous_block_is_broadcast_before_it_runs(channel):
    async def main():
        async with broadcasting(SNSPublisher(channel.topic_arn), "p1"):
            before = channel.ids()
        async with broadcasting(NullPublisher()):
            return before

    assert asyncio.run(main()) == ["p1"]


def test_an_asynchronous_save_never_blocks_the_event_loop():
    class Waiting:
        """Publishes until the event loop has turned; that it does is the point."""

        def __init__(self):
            self.turned = threading.Event()

        def publish(self, events, /):
            assert self.turned.wait(10)

    publisher = Waiting()

    @broadcasts_before_save(publisher)
    async def save(id):
        return id

    async def main():
        task = asyncio.create_task(save("p1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publisher.turned.set()
        return await task

    assert asyncio.run(main()) == "p1"


def test_context_variables_reach_the_publisher():
    tenant = contextvars.ContextVar("tenant")
    seen = []

    class Noting:
        def publish(self, events, /):
            seen.append((tenant.get(), threading.current_thread() is threading.main_thread()))

    @broadcasts_before_save(Noting())
    async def save_async(id):
        pass

    @broadcasts_before_save(Noting())
    def save(id):
        pass

    async def main():
        tenant.set("asynchronous")
        await save_async("p1")

    asyncio.run(main())
    contextvars.copy_context().run(lambda: (tenant.set("synchronous"), save("p1")))

    assert seen == [("asynchronous", False), ("synchronous", True)]


def test_a_save_that_is_cancelled_while_it_is_broadcast_does_not_run():
    release = threading.Event()

    class Slow:
        def publish(self, events, /):
            assert release.wait(10)

    @broadcasts_before_save(Slow())
    async def save(id):
        pytest.fail("saved")

    async def main():
        task = asyncio.create_task(save("p1"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    started = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - started < 5
