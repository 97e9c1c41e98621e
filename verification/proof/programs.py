"""
Savers and workers, as the walk runs them: what they do next, given the world's answers so far.

Production code runs in greenlets, without changes. Where it calls AWS, the source, the sink or the
database, it pauses. The walk decides when it goes on, and with which answer. A process has no other
input, so what it does is a function of its answers. That is computed once and then looked up: a
walk of millions of schedules runs each piece of production code a few thousand times.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from collections.abc import Set as AbstractSet
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
from change_events._consumer.consumer import Consumer, Settings, Tally
from change_events._consumer.queue import Queue
from change_events._producer.renewals import Renewals

ID = "p1"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"

Effect: TypeAlias = tuple[Any, ...]
"""What a process wants of the world: its name, then its arguments. All of them are hashable."""


class Violation(AssertionError):  # noqa: N818  # the word that the output uses
    """A property does not hold."""


@dataclass(frozen=True)
class Setup:
    """
    How the processes are set up. Time is in ticks, and the settle window is two ticks.

    Attributes:
        early_look: The worker's setting.
        delay: The queue's delay.
        confirm: The publisher's setting.
        renewals: Saves can last longer than the window, and are renewed.
        slow_publish: SNS needs time to accept, and then to answer.
        slow_get: What the source has read arrives later. To production code this adds no schedule,
            because from the start of a GET until the apply it gets no other input.
        bulk: The fetcher can ask for many ids at once. There is only one id, but it goes this way.
    """

    early_look: bool = True
    delay: int = 0
    confirm: bool = False
    renewals: bool = False
    slow_publish: bool = False
    slow_get: bool = False
    bulk: bool = False


SETTLE = 2


def ask(*effect: Hashable) -> Any:
    """Pause the production code until the world has answered."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    answer = parent.switch(effect)
    if answer is CLOSED:
        raise greenlet.GreenletExit
    return answer


GETS = {"get", "get many"}
"""What a worker wants of the source."""

CLOSED = object()
"""The answer that ends a process."""


class Message(NamedTuple):
    """A message's content."""

    body: str
    attributes: tuple[tuple[str, str], ...]

    @property
    def event(self) -> ChangeEvent:
        return decode(self.body, dict(self.attributes))


# Stand-ins for what the production code calls


class Sns:
    """An SNS client. `slow`: SNS accepts and answers in two steps."""

    def __init__(self, *, slow: Callable[[], bool]) -> None:
        self._slow = slow

    def publish(
        self, *, TopicArn: str, Message: str, MessageAttributes: dict[str, Any] | None = None
    ) -> None:
        attributes = {
            name: value["StringValue"] for name, value in (MessageAttributes or {}).items()
        }
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

    def delete_message_batch(
        self, *, QueueUrl: str, Entries: list[dict[str, str]]
    ) -> dict[str, Any]:
        del QueueUrl
        failed = ask("delete", tuple(entry["ReceiptHandle"] for entry in Entries))
        code = {"Code": "InternalError", "SenderFault": False}
        return {
            "Failed": [
                {"Id": entry["Id"], **code} for entry in Entries if entry["ReceiptHandle"] in failed
            ]
        }

    def change_message_visibility_batch(
        self, *, QueueUrl: str, Entries: list[dict[str, Any]]
    ) -> dict[str, Any]:
        del QueueUrl
        ask("visibility", tuple(entry["ReceiptHandle"] for entry in Entries))
        return {}


def _received(message_id: str, message: Message) -> dict[str, Any]:
    return {
        "MessageId": message_id,
        "ReceiptHandle": message_id,
        "Body": message.body,
        "Attributes": {"ApproximateReceiveCount": "1"},
        "MessageAttributes": {name: {"StringValue": value} for name, value in message.attributes},
    }


class Pool:
    """
    A urllib3 pool. The production fetcher, above it, decides what an answer means.

    `slow`: The source reads and answers in two steps.
    """

    def __init__(self, *, slow: bool) -> None:
        self._slow = slow

    def request(
        self, method: str, url: str, *, headers: dict[str, str], **_: Any
    ) -> urllib3.HTTPResponse:
        assert (method, url) in {("GET", f"http://source/{ID}"), ("GET", f"http://source/?id={ID}")}
        many = url.endswith(f"?id={ID}")
        status, number = ask("get many") if many else ask("get", headers.get("If-None-Match"))
        if self._slow:
            ask("arrive")
        body: Any = {"id": ID, "number": number} if status == 200 else {"detail": "no product"}
        if many and status != 503:
            status, body = 200, [body] if status == 200 else []
        return urllib3.HTTPResponse(
            io.BytesIO(b"" if status == 304 else json.dumps(body).encode()),
            headers={"Content-Type": "application/json", "ETag": etag(number)},
            status=status,
            preload_content=False,
        )


def etag(number: int) -> str:
    """Return the ETag of the state after a commit."""
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
    """Return a change as hashable values: its kind, its commit, and whether it has an ETag."""
    if isinstance(change, Found):
        return ("Found", change.value["number"], change.etag is not None)
    return (type(change).__name__, None, True)


# The processes


class Process(ABC):
    """
    Production code in greenlets. It gets answers by `go_on`, and time by `tick`.

    It knows how long ago things were, not when. So the same situation has the same state at any
    time.

    Attributes:
        now: The time in ticks.
        running: The greenlet of each actor that is running.
        wants: What each of them wants of the world.
    """

    def __init__(self) -> None:
        self.now = 0
        self.running: dict[str, greenlet.greenlet] = {}
        self.wants: dict[str, Effect] = {}

    def go_on(self, actor: str, answer: Any = None) -> None:
        """Let an actor run until it wants something, or is done."""
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

    def tick(self) -> None:
        """Let a tick pass."""
        self.now += 1

    def close(self) -> None:
        """End the greenlets. Otherwise they would run on when they are garbage collected."""
        while self.running:
            _, actor = self.running.popitem()
            while not actor.dead:
                actor.switch(CLOSED)

    @abstractmethod
    def task(self, actor: str) -> Callable[[], object]:
        """Return what an actor does."""

    @abstractmethod
    def ready_in(self) -> dict[str, float]:
        """Return the actors that have something to begin, and in how many ticks."""

    def names(self) -> tuple[str, ...]:
        """Return the messages that it holds, in an order that does not depend on their names."""
        return ()

    @abstractmethod
    def state(self) -> Hashable:
        """Return all that decides what the process will do. Messages are places in `names`."""

    @abstractmethod
    def facts(self) -> Facts:
        """Return what the walk must know of it."""

    def ticks_to(self, time: float) -> float:
        """Return the ticks until a time; 0 for every time in the past."""
        return max(0.0, time - self.now)

    def ticks_since(self, time: float) -> float:
        """Return the ticks since a time, at most the settle window."""
        return min(self.now - time, float(SETTLE))


@dataclass(frozen=True)
class Facts:
    """
    What the walk must know of a process.

    Attributes:
        rely_on: Of a saver: the ticks in which it may commit, by its last accepted broadcast.
        asked: Of a saver: the ticks since it began to broadcast.
        saving: Of a saver: the ticks since its save began.
        over: Of a saver: it is done.
        saw: Of a worker: status and commit of its last GET.
    """

    rely_on: float = 0.0
    asked: int = 0
    saving: int = 0
    over: bool = False
    saw: tuple[int, int] = (0, 0)


class SaveFailed(Exception):  # noqa: N818
    """The user's save raises."""


class Saver(Process):
    """A service that saves one entity: the block under `broadcasting`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._jobs: list[Callable[[], None]] = []
        self._renewals = Renewals(
            clock=lambda: self.now,
            sleep=lambda _: None,
            in_thread=lambda _: None,
            submit=self._jobs.append,
        )
        slow = Sns(
            slow=lambda: setup.slow_publish and greenlet.getcurrent() is self.running.get("save")
        )
        self._publisher = SNSPublisher(TOPIC, client=slow)
        self._begun = False
        self._answers: list[Any] = []  # since the start, or since the save was to commit
        self._asked_at: dict[str, int] = {}
        self._saving_since = 0
        self._relies_on = 0  # when the last broadcast that was accepted began
        self._over = False

    def go_on(self, actor: str, answer: Any = None) -> None:
        self._begun = True
        if self.wants.get(actor, ("",))[0] == "publish" and answer:
            self._relies_on = max(self._relies_on, self._asked_at[actor])
        if actor == "save":
            self._answers.append(answer)
        super().go_on(actor, answer)
        if self.wants.get(actor, ("",))[0] == "publish":
            self._asked_at[actor] = self.now

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "save":
            return self._save
        if actor == "confirm":
            return self._jobs.pop(0)
        (save,) = self._renewals.due(self.now)
        return lambda: self._renewals.renew(save)

    def _save(self) -> None:
        broadcast = broadcasting(
            self._publisher, ID, settle=float(SETTLE), confirm=self._setup.confirm
        )
        broadcast._renewals = self._renewals
        broadcast._save_id = "s" if self._setup.confirm else None  # the explorer tells savers apart
        with suppress(SaveFailed, PublishError), broadcast:
            self._saving_since = self.now
            self._answers.clear()
            if not ask("commit"):
                raise SaveFailed
            if self._setup.renewals:
                ask("return")
        self._over = True
        self._answers.clear()

    def ready_in(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if not self._begun:
            ready["save"] = 0
        if self._jobs and "confirm" not in self.running:
            ready["confirm"] = 0
        renew_at = min((save.renew_at for save in self._renewals._saves), default=math.inf)
        if self._setup.renewals and renew_at < math.inf and "renew" not in self.running:
            ready["renew"] = self.ticks_to(renew_at)
        return ready

    def state(self) -> Hashable:
        if self._over:
            return (len(self._jobs), tuple(self.wants.items()))
        return (
            self._begun,
            tuple(self._answers),
            tuple(self.wants.items()),
            tuple(
                (self.ticks_since(save.started), self.ticks_to(save.renew_at))
                for save in self._renewals._saves
            ),
            self.facts(),
        )

    def facts(self) -> Facts:
        asking = [
            self._asked_at[actor]
            for actor, effect in self.wants.items()
            if effect[0] in {"publish", "answer"}
        ]
        return Facts(
            rely_on=SETTLE - self.ticks_since(self._relies_on),
            asked=self.now - min(asking, default=self.now),
            saving=self.now - self._saving_since if self._renewals._saves else 0,
            over=self._over,
        )


class Worker(Process):
    """
    The steps of a production consumer, taken as a worker's threads take them: poll, look and
    acknowledge.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._consumer = Consumer(
            Settings(
                queue=Queue("http://queue/1", Sqs(setup.delay)),
                fetcher=HTTPFetcher(
                    "http://source/{id}",
                    bulk_url="http://source/" if setup.bulk else None,
                    pool=Pool(slow=setup.slow_get),  # type: ignore[arg-type]  # all that it uses
                ),
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
        self._saw: tuple[int, int] = (0, 0)
        self._spec = Spec(SETTLE - setup.delay)
        self._bulk = setup.bulk

    def go_on(self, actor: str, answer: Any = None) -> None:
        if actor == "look" and actor in self.wants:
            self._answered(self.wants[actor], answer)
        super().go_on(actor, answer)
        self._spec.keep(self._held())

    def receive(self, message: Message, known_as: tuple[str, ...] = ()) -> None:
        """Receive a message; one that it holds already goes by its name."""
        held = self._held()
        name = (
            known_as[0]
            if known_as
            else next(str(number) for number in itertools.count(1) if str(number) not in held)
        )
        self.go_on("poll")
        self._spec.received(name, message.event, self.now)
        self.go_on("poll", ((name, message),))

    def acknowledged(self, failed: tuple[str, ...]) -> None:
        """Receive the answer to an acknowledgement."""
        ((actor, effect),) = (
            (actor, effect) for actor, effect in self.wants.items() if effect[0] == "delete"
        )
        self._spec.acknowledged(set(_named(effect)).difference(failed))
        self.go_on(actor, failed)

    def _answered(self, effect: Effect, answer: Any) -> None:
        name = effect[0]
        if name == "entry":
            self._look_answers = [each for each in self._look_answers if each[0] in GETS]
        if name in GETS:
            self._look_answers = [each for each in self._look_answers if each[0] == "entry"]
            self._spec.get(self.now)
            self._saw = answer
        if name == "visibility" and self._saw[0] != 503:
            raise Violation("a look failed without a reason")
        if name == "apply":
            self._look_answers.clear()
            if answer:
                self._spec.applied()
        else:
            self._look_answers.append((name, answer))

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "poll":
            return lambda: self._consumer.receive(wait=1)
        return self._look if actor == "look" else self._acknowledge

    def _look(self) -> None:
        id = self._consumer.inbox.next(self.now)
        assert id == ID
        together = self._bulk and not self._consumer.inbox._groups[id].alone
        events = (
            [event for settled in self._consumer.look_together([id]) for event in settled]
            if together
            else self._consumer.look(id)
        )  # meanwhile others are acknowledged
        self._acks += [event.receipt_handle for event in events]
        self._look_answers.clear()
        self._saw = (0, 0)
        self._spec.look_over()

    def _acknowledge(self) -> None:
        handles, self._acks = self._acks, []
        self._acks = list(self._consumer.acknowledge(handles)) + self._acks

    def give_up(self) -> None:
        """Stop trying to acknowledge what failed, as the worker does in the end."""
        self._acks = []
        self._spec.keep(self._held())

    def ready_in(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if "poll" not in self.running:
            ready["poll"] = 0
        at = self._consumer.inbox.next_at()
        if at is not None and "look" not in self.running:
            ready["look"] = self.ticks_to(at)
        if self._acks and "acknowledge" not in self.running:
            ready["acknowledge"] = 0
        return ready

    def facts(self) -> Facts:
        return Facts(saw=self._saw)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._held(), key=lambda name: (repr(self._known_of(name)), name)))

    def state(self) -> Hashable:
        names = self.names()
        groups = self._consumer.inbox._groups.values()
        return (
            tuple(map(self._known_of, names)),
            tuple((self.ticks_to(group.look_at), group.looking, group.alone) for group in groups),
            tuple(self._look_answers),
            tuple((actor, numbered(effect, names)) for actor, effect in self.wants.items()),
        )

    def _held(self) -> set[str]:
        events = {name for group in self._consumer.inbox._groups.values() for name in group.events}
        return events.union(self._acks, *map(_named, self.wants.values()))

    def _known_of(self, name: str) -> Hashable:
        """Return all that the worker knows of a message, but its name."""
        events = [
            (self.ticks_to(event.due), event.phase, event.save, *self._known_of_look(group, event))
            for group in self._consumer.inbox._groups.values()
            if (event := group.events.get(name))
        ]
        wanted = tuple(actor for actor, effect in self.wants.items() if name in _named(effect))
        return (tuple(events), name in self._acks, wanted, self._spec.known_of(name, self))

    def _known_of_look(self, group: Any, event: Any) -> tuple[bool, ...]:
        return (event in group.frozen, event.due <= group.get_started) if group.looking else ()


def _named(effect: Effect) -> tuple[str, ...]:
    """Return the names of the messages that an effect is about."""
    names: tuple[str, ...] = effect[1] if effect[0] in {"delete", "visibility"} else ()
    return names


def numbered(effect: Effect, names: tuple[str, ...]) -> Effect:
    """Return the effect with the places of messages instead of their names."""
    if effect[0] in {"delete", "visibility"}:
        return (effect[0], tuple(sorted(names.index(name) + 1 for name in _named(effect))))
    return effect


class Spec:
    """
    When a worker may acknowledge a message, by the design and not by the inbox.

    It must have applied a look. When that look's GET began, the worker held the message, and the
    window was over or the worker knew that the save was over.
    """

    def __init__(self, window: int) -> None:
        self._window = max(0, window)
        self._due: dict[str, int] = {}
        self._events: dict[str, ChangeEvent] = {}
        self._in_get: frozenset[str] = frozenset()
        self._settled: set[str] = set()

    def received(self, message_id: str, event: ChangeEvent, now: int) -> None:
        self._events[message_id] = event
        self._due.setdefault(message_id, now + self._window)
        over = {each.save for each in self._events.values() if each.phase == "saved"}
        for known, each in self._events.items():
            if each.save is not None and each.save in over:
                self._due[known] = min(self._due[known], now)

    def get(self, now: int) -> None:
        self._in_get = frozenset(message_id for message_id, due in self._due.items() if due <= now)

    def applied(self) -> None:
        self._settled |= self._in_get

    def acknowledged(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            if message_id not in self._settled:
                raise Violation(f"{message_id} was acknowledged without a look that settles it")

    def keep(self, held: AbstractSet[str]) -> None:
        """Forget all messages that the worker does not hold."""
        for message_id in self._events.keys() - held:
            del self._events[message_id], self._due[message_id]
        self._settled &= held

    def look_over(self) -> None:
        self._in_get = frozenset()

    def known_of(self, message_id: str, process: Process) -> Hashable:
        due = self._due.get(message_id)
        return (
            due if due is None else process.ticks_to(due),
            message_id in self._in_get,
            message_id in self._settled,
        )
