"""Saves inside saves: an event that was just broadcast is not broadcast again."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest
from virtual_time import flaky, time

from change_events import SNSPublisher, broadcasting, broadcasts_before_save
from change_events._producer import enclosing

# ruff: noqa: F401, F811  # fixtures are imported, and arguments have their names


def test_a_save_inside_a_save_of_the_same_id_is_broadcast_once(time, flaky, channel):
    with time.broadcasting(flaky, "p1"), time.broadcasting(flaky, "p1"):
        pass

    assert channel.ids() == ["p1"]


def test_only_new_ids_are_broadcast(time, flaky, channel):
    with time.broadcasting(flaky, "p1", "p2"), time.broadcasting(flaky, "p2", "p3"):
        pass

    assert sorted(channel.ids()) == ["p1", "p2", "p3"]


@pytest.mark.parametrize(("age", "times"), [(2.4, 1), (2.5, 2), (2.6, 2)])
def test_after_half_of_the_window_it_is_broadcast_again(time, flaky, channel, age, times):
    with time.broadcasting(flaky, "p1"):
        time.now += age
        with time.broadcasting(flaky, "p1"):
            pass

    assert channel.ids() == ["p1"] * times


def test_after_half_of_the_window_it_is_broadcast_with_the_new_ids(time, flaky, channel):
    with time.broadcasting(flaky, "p1"):
        time.now += 2.6
        with time.broadcasting(flaky, "p1", "p2"):
            pass

    assert sorted(channel.ids()) == ["p1", "p1", "p2"]


def test_a_save_that_has_ended_is_not_around_the_next_one(time, flaky, channel):
    for _ in range(2):
        with time.broadcasting(flaky, "p1"):
            pass

    assert channel.ids() == ["p1", "p1"]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({"confirm": True}, {}),
        ({}, {"confirm": True}),
        ({"confirm": True}, {"confirm": True}),
        ({"settle": 4.0}, {}),
        ({}, {"settle": 6.0}),
    ],
)
def test_a_save_with_other_settings_is_broadcast_by_itself(time, flaky, channel, outer, inner):
    with time.broadcasting(flaky, "p1", **outer), time.broadcasting(flaky, "p1", **inner):
        assert channel.ids() == ["p1", "p1"]


def test_a_save_of_another_publisher_is_broadcast_by_itself(time, flaky, channel):
    other = SNSPublisher(channel.topic_arn)
    with time.broadcasting(other, "p1"), time.broadcasting(flaky, "p1"):
        pass

    assert channel.ids() == ["p1", "p1"]


@pytest.mark.parametrize("what", ["topic", "attributes"])
def test_a_save_whose_topic_or_attributes_depend_on_the_context_is_broadcast_by_itself(
    channel, what
):
    tenant = contextvars.ContextVar("tenant")
    asked = []

    def ask(answer):
        asked.append(tenant.get())
        return answer

    if what == "topic":
        publisher = SNSPublisher(lambda: ask(channel.topic_arn))
    else:
        publisher = SNSPublisher(channel.topic_arn, attributes=lambda: ask({}))
    tenant.set("a")
    with broadcasting(publisher, "p1"):
        tenant.set("b")
        with broadcasting(publisher, "p1"):
            assert asked == ["a", "b"]
            assert channel.ids() == ["p1", "p1"]


def test_a_save_that_outlives_the_save_around_it_is_renewed(time, flaky, channel):
    outer, inner = time.broadcasting(flaky, "p1"), time.broadcasting(flaky, "p1")
    outer.__enter__()
    time.passes(1)
    inner.__enter__()
    outer.__exit__(None)
    time.passes(5)
    inner.__exit__(None)

    assert flaky.accepted == [0, 2.5, 5]


def test_a_save_inside_is_as_old_as_the_broadcast_of_the_save_around_it(time, flaky, channel):
    """If nothing renews it, its last broadcast is late although it is younger itself."""
    outer, inner = time.broadcasting(flaky, "p1"), time.broadcasting(flaky, "p1", "p2")
    outer.__enter__()
    time.now = 2.0
    inner.__enter__()
    time.now = 5.0
    inner.__exit__(None)

    assert flaky.accepted == [0, 2.0, 5.0]


def test_an_asynchronous_save_inside_a_decorated_one_is_broadcast_once(time, flaky, channel):
    @broadcasts_before_save(flaky, id="id", renewals=time.renewals)
    async def save(id):
        async with time.broadcasting(flaky, id):
            await asyncio.to_thread(lambda: None)

    asyncio.run(save("p1"))

    assert channel.ids() == ["p1"]


def test_a_thread_keeps_none_of_the_saves_that_it_has_ended(time, flaky):
    blocks = []
    for _ in range(3):
        block = time.broadcasting(flaky, "p1")
        with block:
            blocks.append(weakref.ref(block))
    del block
    gc.collect()

    assert [each() for each in blocks] == [None, None, None]
    assert len(enclosing._blocks.get()) == 1
