"""
The production code as small automata: what a saver or a worker does next, given what the world has answered so far.

Production code runs in greenlets, so that it stays the plain calls that it is: where it calls AWS, the source, the sink or
the database, it pauses, and the explorer decides when, and with what answer, it goes on. A process has no other input. So
what it does is a function of its answers, is computed once, and is looked up ever after: an exploration of millions of
schedules runs each piece of production code a few thousand times.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import greenlet
import urllib3

from change_events import (
    ChangeEvent,
    Entry,
    Found,
    Gone,
    HTTPFetcher,
    PublishError,
    SNSPublisher,
    Unchanged,
    broadcasting,
)
from change_events._codec import decode
from change_events._consumer import Consumer, Settings, Tally
from change_events._renewal import Renewals
from change_events._sqs import Queue

ID = "p1"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"

Effect: TypeAlias = tuple[Hashable, ...]
"""What a process wants of the world: its name, then its arguments."""


class Violation(AssertionError):  # noqa: N818  # of a property: the word that the output uses
    """A property does not hold."""


@dataclass(frozen=True)
class Setup:
    """
    What the processes are made with. Time is in ticks, and the settle window is two.

    Attributes:
        early_look: The worker's.
        delay: The queue's.
        confirm: The publisher's.
        renewals: Saves may take longer than the window, and are renewed.
        slow_publish: SNS takes its time to accept, and then to answer.
    """

    early_look: bool = True
    delay: int = 0
    confirm: bool = False
    renewals: bool = False
    slow_publish: bool = False


SETTLE = 2


def ask(*effect: Hashable) -> Any:
    """Pause the production code until the world has answered."""
    answer = greenlet.getcurrent().parent.switch(effect)
    if answer is CLOSED:
        raise greenlet.GreenletExit
    return answer


CLOSED = object()
"""The answer to a process that is no longer needed."""


class Message(NamedTuple):
    """What lies in the queue."""

    body: str
    attributes: tuple[tuple[str, str], ...]

    @property
    def event(self) -> ChangeEvent:
        return decode(self.body, dict(self.attributes))


# Stand-ins for what the production code calls


class Sns:
    """An SNS client."""

    def __init__(self, *, slow: Callable[[], bool]) -> None:
        self._slow = slow

    def publish(self, *, TopicArn: str, Message: str, MessageAttributes: dict[str, Any] | None = None) -> None:  # noqa: N803
        attributes = {name: value["StringValue"] for name, value in (MessageAttributes or {}).items()}
        accepted = ask("publish", Message, tuple(sorted(attributes.items())))
        answered = ask("answer") if self._slow() else True
        if not (accepted and answered):
            raise ConnectionError(f"{TopicArn} does not answer")


class Sqs:
    """An SQS client."""

    class meta:  # noqa: N801
        class config:  # noqa: N801
            read_timeout = 60

    def __init__(self, delay: int) -> None:
        self._delay = delay

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"DelaySeconds": str(self._delay)}}

    def receive_message(self, **_: Any) -> dict[str, Any]:
        return {"Messages": [_received(*delivery) for delivery in ask("receive")]}

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        del QueueUrl
        failed = ask("delete", tuple(_handle(entry["ReceiptHandle"]) for entry in Entries))
        return {"Failed": [{"Id": str(position), "Code": "InternalError", "SenderFault": False} for position in failed]}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        del QueueUrl
        ask("visibility", tuple(_handle(entry["ReceiptHandle"]) for entry in Entries))
        return {}


def _handle(text: str) -> tuple[str, int]:
    message_id, _, delivery = text.partition("/")
    return message_id, int(delivery)


def _received(message_id: str, delivery: int, message: Message) -> dict[str, Any]:
    return {
        "MessageId": message_id,
        "ReceiptHandle": f"{message_id}/{delivery}",
        "Body": message.body,
        "Attributes": {"ApproximateReceiveCount": str(delivery)},
        "MessageAttributes": {name: {"StringValue": value} for name, value in message.attributes},
    }


class Pool:
    """A urllib3 pool: below the production fetcher, which decides what an answer means."""

    def request(self, method: str, url: str, *, headers: dict[str, str], **_: Any) -> urllib3.HTTPResponse:
        assert (method, url) == ("GET", f"http://source/{ID}")
        status, number = ask("get", headers.get("If-None-Match"))
        body = {"id": ID, "number": number} if status == 200 else {"detail": "no product"}
        return urllib3.HTTPResponse(
            io.BytesIO(b"" if status == 304 else json.dumps(body).encode()),
            headers={"Content-Type": "application/json", "ETag": etag(number)},
            status=status,
            preload_content=False,
        )


def etag(number: int) -> str:
    """Return the ETag of the state that a commit has left."""
    return f'"{number}"'


class Cache:
    """A sink."""

    def entry(self, id: str, /) -> Entry:
        assert id == ID
        return Entry(*ask("entry"))

    def apply(self, id: str, change: Any, /, *, if_version: int) -> bool:
        assert id == ID
        answer: bool = ask("apply", *described(change), if_version)
        return answer


def described(change: Found[dict[str, Any]] | Unchanged | Gone) -> tuple[Hashable, ...]:
    """Say in hashable words what a look has found: which kind, and the number of the commit that made it."""
    return (type(change).__name__, change.value["number"] if isinstance(change, Found) else None)


# The processes


class Process:
    """Production code in greenlets. Times and answers come in by `go_on`; what it wants next is in `wants`."""

    def __init__(self) -> None:
        self.now = 0
        self.running: dict[str, greenlet.greenlet] = {}
        self.wants: dict[str, Effect] = {}

    def go_on(self, actor: str, now: int, answer: Any) -> None:
        """Let an actor run until it wants something else, or is done."""
        self.now = now
        if actor not in self.running:
            self.running[actor] = greenlet.greenlet(self.task(actor))
            effect = self.running[actor].switch()
        else:
            effect = self.running[actor].switch(answer)
        if self.running[actor].dead:
            del self.running[actor]
            self.wants.pop(actor, None)
        else:
            self.wants[actor] = effect

    def close(self) -> None:
        """End the greenlets, which would otherwise run on when they are collected."""
        while self.running:
            _, actor = self.running.popitem()
            while not actor.dead:
                actor.switch(CLOSED)

    def task(self, actor: str) -> Callable[[], object]:
        raise NotImplementedError

    def ready_at(self) -> dict[str, float]:
        """Return the actors that have something to begin, and from when on."""
        raise NotImplementedError

    def state(self) -> Hashable:
        """Return all that decides what the process will do."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return what the explorer has to know of it."""
        raise NotImplementedError


class SaveFailed(Exception):  # noqa: N818
    """The user's save raises."""


class Saver(Process):
    """A service that saves one entity: the block under `broadcasting`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._jobs: list[Callable[[], None]] = []
        self._renewals = Renewals(
            clock=lambda: self.now, sleep=lambda _: None, in_thread=lambda _: None, submit=self._jobs.append
        )
        slow = Sns(slow=lambda: setup.slow_publish and greenlet.getcurrent() is self.running.get("save"))
        self._publisher = SNSPublisher(TOPIC, client=slow)
        self._history: list[Hashable] = []
        self._asked_at: dict[str, int] = {}
        self.began_save = 0
        self.last_started = 0  # of the last broadcast that was accepted
        self.accepted = 0
        self.over = False

    def go_on(self, actor: str, now: int, answer: Any) -> None:
        self._history.append((actor, now, answer))
        if self.wants.get(actor, ("",))[0] == "publish" and answer:
            self.last_started = max(self.last_started, self._asked_at[actor])
            self.accepted += 1
        super().go_on(actor, now, answer)
        if self.wants.get(actor, ("",))[0] == "publish":
            self._asked_at[actor] = now

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "save":
            return self._save
        if actor == "confirm":
            return self._jobs.pop(0)
        (save,) = self._renewals.due(self.now)
        return lambda: self._renewals.renew(save)

    def _save(self) -> None:
        broadcast = broadcasting(self._publisher, ID, settle=float(SETTLE), confirm=self._setup.confirm)
        broadcast._renewals = self._renewals
        broadcast._save_id = "s" if self._setup.confirm else None  # the explorer tells savers apart
        with suppress(SaveFailed, PublishError), broadcast:
            self.began_save = self.now
            if not ask("commit"):
                raise SaveFailed
            if self._setup.renewals:
                ask("return")
        self.over = True

    def ready_at(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if not self._history:
            ready["save"] = 0
        if self._jobs and "confirm" not in self.running:
            ready["confirm"] = 0
        renew_at = min((save.renew_at for save in self._renewals._saves), default=math.inf)
        if self._setup.renewals and renew_at < math.inf and "renew" not in self.running:
            ready["renew"] = renew_at
        return ready

    def state(self) -> Hashable:
        return tuple(self._history)

    def facts(self) -> dict[str, Any]:
        return {
            "last_started": self.last_started,
            "asked_at": min(self._asked_at.values(), default=0),
            "began_save": self.began_save,
            "accepted": self.accepted,
            "over": self.over,
        }


class Worker(Process):
    """The steps of a production consumer, taken as a worker's threads take them: poll, look and acknowledge."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._consumer = Consumer(
            Settings(
                queue=Queue("http://queue/1", Sqs(setup.delay)),
                fetcher=HTTPFetcher("http://source/{id}", pool=Pool()),  # type: ignore[arg-type]  # all that it uses
                sink=Cache(),
                settle=float(SETTLE),
                early_look=setup.early_look,
                prefetch=1000,
                threads=1,
                batch_size=10,
                wait_time=1,
                visibility_timeout=60,
                shutdown_timeout=25.0,
                on_outcome=None,
            ),
            Tally(),
            changed=lambda _: None,
            clock=lambda: self.now,
        )
        self._consumer.ask_delay()
        self._acks: list[str] = []
        self._look_answers: list[tuple[str, Any]] = []
        self.saw: tuple[int, int] = (0, 0)  # status and number of the last GET
        self.spec = Spec(SETTLE - setup.delay)

    def go_on(self, actor: str, now: int, answer: Any) -> None:
        if actor == "look" and actor in self.wants:
            self._answered(self.wants[actor], now, answer)
        elif actor == "poll" and actor in self.wants:
            for message_id, _, message in answer:
                self.spec.received(message_id, message.event, now)
        elif actor == "acknowledge" and actor in self.wants:
            failed = {self.wants[actor][1][position] for position in answer}
            self.spec.acknowledged([message_id for message_id, _ in set(self.wants[actor][1]) - failed])
        super().go_on(actor, now, answer)

    def _answered(self, effect: Effect, now: int, answer: Any) -> None:
        name = effect[0]
        if name == "entry":
            self._look_answers = [a for a in self._look_answers if a[0] != "entry"]
        if name == "get":
            self._look_answers = [a for a in self._look_answers if a[0] != "get"]
            self.spec.get(now)
            self.saw = answer
        if name == "visibility":
            if self.saw[0] != 503:
                raise Violation("a look failed without a reason")
            self.spec.handed_back([message_id for message_id, _ in effect[1]])
        if name == "apply" and answer:
            self.spec.applied()
        self._look_answers.append((name, answer))

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "poll":
            return lambda: self._consumer.receive(wait=1)
        return self._look if actor == "look" else self._acknowledge

    def _look(self) -> None:
        id = self._consumer.inbox.next(self.now)
        assert id == ID
        self._acks += [event.receipt_handle for event in self._consumer.look(id)]
        self._look_answers.clear()
        self.saw = (0, 0)
        self.spec.look_over()

    def _acknowledge(self) -> None:
        handles, self._acks = self._acks, []
        self._acks = list(self._consumer.acknowledge(handles)) + self._acks

    def give_up(self) -> None:
        """Stop trying to acknowledge what failed, as the worker does in the end."""
        self._acks = []

    def ready_at(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if "poll" not in self.running:
            ready["poll"] = 0
        at = self._consumer.inbox.next_at()
        if at is not None and "look" not in self.running:
            ready["look"] = at
        if self._acks and "acknowledge" not in self.running:
            ready["acknowledge"] = 0
        return ready

    def holds(self) -> Iterable[str]:
        """Return the messages in its hands."""
        groups = self._consumer.inbox._groups.values()
        yield from (event.message_id for group in groups for event in group.events.values())
        yield from (_handle(handle)[0] for handle in self._acks)

    def facts(self) -> dict[str, Any]:
        return {"holds": frozenset(self.holds()), "saw": self.saw}

    def state(self) -> Hashable:
        return (
            tuple(_group_state(group) for group in self._consumer.inbox._groups.values()),
            tuple(sorted(self._acks)),
            tuple(self._look_answers),
            tuple(self.wants.items()),
            self.spec.state(),
        )


def _group_state(group: Any) -> Hashable:
    events = sorted((e.message_id, e.receipt_handle, e.received, e.hold) for e in group.events.values())
    frozen = sorted(e.message_id for e in group.frozen) if group.looking else ()
    return (tuple(events), tuple(frozen), group.look_at, group.looking, group.get_started if group.looking else None)


class Spec:
    """
    When a worker may acknowledge, in the words of the design, not of the inbox: after a look of its own whose GET started
    when the message was in its hands and the window was over, or the same save was known to be.
    """

    def __init__(self, window: int) -> None:
        self._window = max(0, window)
        self._due: dict[str, int] = {}
        self._saves: dict[str, str | None] = {}
        self._over: dict[str, None] = {}
        self._in_get: frozenset[str] = frozenset()
        self._settled: frozenset[str] = frozenset()

    def received(self, message_id: str, event: ChangeEvent, now: int) -> None:
        if event.phase == "saved" and event.save:
            self._over[event.save] = None
        self._saves[message_id] = event.save
        self._due[message_id] = now if event.phase == "saved" else self._due.get(message_id, now + self._window)

    def get(self, now: int) -> None:
        self._in_get = frozenset(
            message_id for message_id, due in self._due.items() if due <= now or self._saves[message_id] in self._over
        )

    def applied(self) -> None:
        self._settled |= self._in_get

    def acknowledged(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            if message_id not in self._settled:
                raise Violation(f"{message_id} was acknowledged without a look that settles it")
            self._due.pop(message_id, None)

    def handed_back(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            del self._due[message_id]

    def look_over(self) -> None:
        self._in_get = frozenset()

    def state(self) -> Hashable:
        return (
            tuple(sorted(self._due.items())),
            tuple(sorted(self._over)),
            tuple(sorted(self._in_get)),
            tuple(sorted(self._settled)),
        )
