"""Saves in virtual time: what the tests of renewals share."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from change_events import PublishError, SNSPublisher, broadcasting, broadcasts_before_save
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Senders


class VirtualTime:
    """
    Seconds that pass when a test says so, and renewals that live in them.

    Attributes:
        now: The time that has passed.
        suspended: How much of it the monotonic clock has not noticed.
        slept: The pauses between attempts to broadcast a late save.
    """

    def __init__(self):
        self.now = 0.0
        self.suspended = 0.0
        self.slept = []
        self.renewals = Renewals(
            clocks=lambda: (self.now - self.suspended, self.now),
            sleep=self._sleep,
            in_thread=lambda watch: None,
            senders=Senders(lambda job: job()),
        )

    def broadcasting(self, publisher, /, *ids, **settings):
        return broadcasting(publisher, *ids, renewals=self.renewals, **settings)

    def is_suspended(self, seconds):
        """Let time pass of which the monotonic clock notices nothing."""
        self.now += seconds
        self.suspended += seconds

    def passes(self, seconds):
        """Let time pass, and do meanwhile what the watcher would do."""
        until = self.now + seconds
        while (
            at := min((save.renew_at for save in self.renewals._saves), default=math.inf)
            + self.suspended
        ) <= until:
            self.now = max(self.now, at)
            for _ in range(self.renewals.collect_due()):
                self.renewals.renew_next()
        self.now = max(self.now, until)

    def _sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


class FlakyPublisher:
    """
    A publisher that can be slow, or fail for a while.

    Attributes:
        durations: How long the next broadcasts take, in seconds; then 0.
        meanwhile: Called once, while the next broadcast is under way.
        fails: From when to when broadcasts fail.
        started: When each broadcast started.
        accepted: When each accepted broadcast started.
    """

    def __init__(self, publisher, time):
        self._publisher = publisher
        self._time = time
        self.durations = []
        self.meanwhile = lambda: None
        self.fails = (math.inf, math.inf)
        self.started = []
        self.accepted = []

    def publish(self, events, /):
        started = self._time.now
        self.started.append(started)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.durations:
            self._time.now += self.durations.pop(0)
        if self.fails[0] <= started < self.fails[1]:
            raise PublishError("the topic is away", ids=[event.id for event in events])
        self._publisher.publish(events)
        self.accepted.append(started)


class Saver:
    """Saves in a block or a decorated function, each synchronous or asynchronous."""

    def __init__(self, renewals, *, decorated, asynchronous):
        self._renewals = renewals
        self._decorated = decorated
        self._asynchronous = asynchronous

    def save(self, publisher, body, *ids, **settings):
        settings = {"renewals": self._renewals} | settings
        if self._asynchronous:
            return asyncio.run(self._save_async(publisher, body, ids, settings))
        if not self._decorated:
            with broadcasting(publisher, *ids, **settings):
                return body()

        @broadcasts_before_save(publisher, ids="ids", **settings)
        def save(ids):
            return body()

        return save(ids)

    async def _save_async(self, publisher, body, ids, settings):
        if not self._decorated:
            async with broadcasting(publisher, *ids, **settings):
                return await asyncio.to_thread(body)

        @broadcasts_before_save(publisher, ids="ids", **settings)
        async def save(ids):
            return await asyncio.to_thread(body)

        return await save(ids)


@pytest.fixture
def time():
    return VirtualTime()


@pytest.fixture
def flaky(channel, time):
    return FlakyPublisher(SNSPublisher(channel.topic_arn), time)


@pytest.fixture(
    params=[(False, False), (True, False), (False, True), (True, True)],
    ids=["with", "decorated", "async with", "decorated coroutine"],
)
def saver(request, time):
    decorated, asynchronous = request.param
    return Saver(time.renewals, decorated=decorated, asynchronous=asynchronous)


def attributes(message):
    """Return the attributes of a message, raw or in the envelope."""
    if "MessageAttributes" in message:
        return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    enveloped = json.loads(message["Body"]).get("MessageAttributes", {})
    return {name: value["Value"] for name, value in enveloped.items()}


def attributes_of(messages, *names):
    """Return the values of some attributes, for each message."""
    return [tuple(attributes(message).get(name) for name in names) for message in messages]


def own(caplog):
    """Return the library's records, without the emulator's."""
    return [record for record in caplog.records if record.name == "change_events"]
