from __future__ import annotations

import asyncio
import threading
import time

import pytest

from change_events import (
    ChangeEvent,
    NullPublisher,
    Publisher,
    PublishError,
    SNSPublisher,
    broadcasting,
    broadcasts_before_save,
)
from change_events.testing import Broadcasts, recording

TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


@pytest.fixture(autouse=True)
def no_aws(monkeypatch, free_port):
    """Nothing answers at the endpoint, and the environment has no topic and no credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)


class Silent(SNSPublisher):
    """A user's subclass."""

    def publish(self, events, /):
        super().publish(events)


PUBLISHERS = {
    "environment": SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN"),
    "required": SNSPublisher.from_env("PRODUCT_EVENTS_TOPIC_ARN", required=True),
    "ARN": SNSPublisher(TOPIC),
    "client": SNSPublisher(TOPIC, client=object()),
    "subclass": Silent(TOPIC),
    "none": NullPublisher(),
}


@pytest.fixture(params=PUBLISHERS)
def save(request):
    """A save that was decorated before the recording; it returns the ids broadcast so far."""

    @broadcasts_before_save(PUBLISHERS[request.param])
    def save(id, broadcasts):
        return broadcasts.ids

    return save


def test_every_publisher_of_the_library_is_recorded(save):
    with recording() as broadcasts:
        assert save("p1", broadcasts) == ["p1"]
        assert save("p2", broadcasts) == ["p1", "p2"]

    assert broadcasts.events == [ChangeEvent("p1"), ChangeEvent("p2")]


def test_a_users_own_publisher_is_not_recorded():
    own = Broadcasts()
    assert isinstance(own, Publisher)

    with recording() as broadcasts, broadcasting(own, "p1", "p2"):
        pass

    assert own.ids == ["p1", "p2"]
    assert broadcasts.ids == []


@broadcasts_before_save(PUBLISHERS["ARN"])
async def save_async(id):
    return id


def test_asynchronous_saves_are_recorded():
    async def main():
        return await asyncio.gather(*(save_async(f"p{number}") for number in range(20)))

    with recording() as broadcasts:
        saved = asyncio.run(main())

    assert sorted(broadcasts.ids) == sorted(saved)


def test_broadcasts_of_other_threads_are_recorded_and_can_be_waited_for():
    with recording() as broadcasts:
        timer = threading.Timer(
            0.05, PUBLISHERS["ARN"].publish, [[ChangeEvent("p1"), ChangeEvent("p2")]]
        )
        timer.start()

        started = time.monotonic()
        assert broadcasts.wait_for(2, timeout=60) == [ChangeEvent("p1"), ChangeEvent("p2")]
        assert time.monotonic() - started < 30
        assert broadcasts.wait_for(1) == broadcasts.events
        with pytest.raises(TimeoutError, match=r"2 of 3 events were broadcast in 0\.01 s: .*'p2'"):
            broadcasts.wait_for(3, timeout=0.01)
        timer.join()


def test_clear_forgets_the_events_so_far(save):
    with recording() as broadcasts:
        save("p1", broadcasts)
        broadcasts.clear()
        save("p2", broadcasts)

    assert broadcasts.ids == ["p2"]


def test_a_broadcast_that_fails_prevents_the_save_and_is_not_recorded(save):
    with recording() as broadcasts:
        broadcasts.fail(times=1)
        with pytest.raises(PublishError, match=r"fail\(\)") as caught:
            save("p1", broadcasts)

        assert save("p2", broadcasts) == ["p2"]

    assert caught.value.ids == ("p1",)


def test_broadcasts_fail_until_recover_is_called():
    with recording() as broadcasts:
        broadcasts.fail()
        for _ in range(3):
            with pytest.raises(PublishError), broadcasting(PUBLISHERS["ARN"], "p1"):
                pytest.fail("ran")
        with pytest.raises(PublishError):
            asyncio.run(save_async("p1"))
        broadcasts.recover()
        assert asyncio.run(save_async("p2")) == "p2"

    assert broadcasts.ids == ["p2"]


def test_a_subscriber_gets_the_broadcasts_after_its_subscription():
    subscriber = Broadcasts()
    with recording() as broadcasts:
        asyncio.run(save_async("p1"))
        broadcasts.subscribe(subscriber)
        asyncio.run(save_async("p2"))
        subscriber.fail()
        with pytest.raises(PublishError):
            asyncio.run(save_async("p3"))

    assert broadcasts.ids == ["p1", "p2"]
    assert subscriber.ids == ["p2"]


def test_publishers_send_again_after_a_recording_even_if_it_raised():
    def is_real():
        with (
            pytest.raises(PublishError, match="to arn:aws:sns"),
            broadcasting(PUBLISHERS["client"], "p1"),
        ):
            pass

    is_real()
    with recording() as outer:
        with (
            pytest.raises(ZeroDivisionError),
            recording() as inner,
            broadcasting(PUBLISHERS["ARN"], "inner"),
        ):
            raise ZeroDivisionError
        PUBLISHERS["ARN"].publish([ChangeEvent("outer")])
    is_real()

    assert (outer.ids, inner.ids) == (["outer"], ["inner"])
