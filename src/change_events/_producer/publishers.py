"""Publishers: SNS, and none; and how to save very many entities."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from change_events._aws import CLIENTS_LOCK, make_client
from change_events._codec import OWN_ATTRIBUTES, encode, parsed_arn
from change_events._codec import attributes as own_attributes
from change_events._event import DEFAULT_SETTLE
from change_events._producer.batches import BATCH_SIZE, Batches, Why, send_in_one_call
from change_events._producer.sharing import SharedCalls
from change_events._text import printable
from change_events._trace_context import TRACE_ATTRIBUTES
from change_events.exceptions import ConfigurationError, PublishError
from change_events.traces import require_traces

if TYPE_CHECKING:
    from typing_extensions import Self

    from change_events._event import ChangeEvent, Phase
    from change_events.traces import OpenTelemetryTraces

T = TypeVar("T")

log = logging.getLogger("change_events")

AT_ONCE = 20
"""The most `PublishBatch` calls of one broadcast under way at the same time."""

ROUNDS = 10
"""
How many times `AT_ONCE` calls can be sent for each second of the settle window. A broadcast must be
over within half of it, so a call can last 50 ms. In SNS's own region it usually lasts 10 to 40 ms.
"""

MAX_ATTRIBUTES = 10
"""
With raw delivery SNS drops a message of more (Amazon SNS Developer Guide, Message attributes).
"""

_GROUP_ID = re.compile(r"[!-~]{1,128}")
"""Letters, digits and punctuation (Amazon SNS API Reference, Publish, MessageGroupId)."""

Attributes = Mapping[str, str] | Callable[[], Mapping[str, str]]


class NullPublisher:
    """Broadcasts nothing, so every save runs: for tests, scripts and machines without a topic."""

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """Do nothing."""


class SNSPublisher:
    """
    Broadcasts events to an SNS topic, standard or FIFO. Threads can share it.

    On a FIFO topic (`.fifo`) the message group is the id, so that the events of one entity stay in
    order. Where SNS would refuse the id as a group, the group is its SHA-256. The deduplication id
    is new for each broadcast: content-based deduplication would drop the second change of an entity
    within five minutes.

    Saves that broadcast at the same moment, in threads or in tasks of an event loop, share calls of
    up to ten. A save that comes alone is sent at once; with others under way, one waits for at most
    a quarter of the time that a call needs. What SNS refuses fails its own save only. Hooks of
    the client see a `PublishBatch` then, in the context of one of the saves. A client with
    `max_pool_connections=1` shares no calls.

    More than ten events need several calls. Up to twenty of them are under way at the same time, or
    as many as the client keeps connections; but only one on a FIFO topic if an id occurs twice.
    More than 2,000 events for each second of `settle` (10,000 by default) are not sent at all: see
    `in_portions`.

    Args:
        topic_arn: The topic's ARN, or a callable that returns it, called at each broadcast. If it
            returns None, nothing is broadcast.
        client: A boto3 SNS client. Default: one made at the first broadcast, in the topic's region;
            a child of a fork makes another. It makes three attempts, each of at most 2 s to connect
            and 3 s to answer (together longer than the default `settle`: then `PublishError`). Your
            own client must not be used on both sides of a fork.
        attributes: Message attributes to send with every event, as text; or a callable that returns
            them, called in the context of the save. At most seven: with raw delivery SNS drops a
            message of more than ten, and three (`phase`, `save`, `settle`) are the protocol's own.
            At most five with `traces`, which adds `traceparent` and `tracestate`.
        traces: Makes a span of each broadcast, and sends its trace context with the events: an
            `OpenTelemetryTraces` of `change_events.traces`.

    Raises:
        ConfigurationError: `topic_arn` is neither a topic's ARN nor a callable; `attributes` are
            too many, reserved, or not text; `traces` is something else.
    """

    def __init__(
        self,
        topic_arn: str | Callable[[], str | None],
        *,
        client: Any = None,
        attributes: Attributes | None = None,
        traces: OpenTelemetryTraces | None = None,
    ) -> None:
        require_traces(traces)
        self._topic_arn = topic_arn
        self._client = client
        self._warned = False
        # By process, because two must not share connections, and region.
        self._clients: dict[tuple[int, str], Any] = {}
        self._calls: dict[tuple[int, str, Phase | None], SharedCalls] = {}  # by process and topic
        self._attributes = attributes
        self._traces = traces
        self._reserved = OWN_ATTRIBUTES + (TRACE_ATTRIBUTES if traces else ())
        if topic_arn is None:  # os.environ.get(...), say: without this check, nothing is broadcast
            raise ConfigurationError(
                "topic_arn is None. If it comes from the environment, use "
                "SNSPublisher.from_env(name); to broadcast nothing, use NullPublisher()"
            )
        if not callable(topic_arn):
            parsed_arn(topic_arn)
        if not callable(attributes):
            _checked_attributes(attributes, self._reserved)

    @property
    def shares_calls(self) -> bool:
        """True if saves can share a call although they have different context variables."""
        reads_environment = isinstance(self._topic_arn, _Variable)
        return reads_environment or not callable(self._topic_arn)

    @property
    def reads_context(self) -> bool:
        """True if the topic or the attributes can differ from one save to the next."""
        return callable(self._attributes) or not self.shares_calls

    @classmethod
    def from_env(
        cls,
        name: str,
        *,
        client: Any = None,
        required: bool = False,
        attributes: Attributes | None = None,
        traces: OpenTelemetryTraces | None = None,
    ) -> Self:
        """
        Make a publisher that reads its topic's ARN from the environment at each broadcast.

        Args:
            name: The environment variable, say `PRODUCT_EVENTS_TOPIC_ARN`. If it is unset or empty,
                nothing is broadcast, every save runs, and one warning is logged.
            client: As for the class.
            required: If the variable is unset or empty, raise `ConfigurationError` at the
                broadcast, before the save.
            attributes: As for the class.
            traces: As for the class.
        """
        variable = _Variable(name, required=required)
        return cls(variable, client=client, attributes=attributes, traces=traces)

    def publish(self, events: Sequence[ChangeEvent], /) -> None:
        """
        Broadcast the events: one by `Publish`, several by a `PublishBatch` for every ten.

        Raises:
            PublishError: SNS did not accept all of them. Those that it accepted stay sent, and cost
                the consumers a look each. Or they are too many for their settle window, and nothing
                was sent.
            ConfigurationError: The environment variable is required and missing, or its value is
                not a topic's ARN.
        """
        topic_arn = self._topic_arn() if callable(self._topic_arn) else self._topic_arn
        if topic_arn is None:
            self._warn_once()
            return
        topic = parsed_arn(topic_arn)
        if not events:
            return
        _require_few(events)
        if self._traces is None:
            self._send(events, topic_arn, topic)
        else:
            with self._traces.publishing(topic_arn, events) as carried:
                self._send(events, topic_arn, topic, carried)

    def _send(
        self,
        events: Sequence[ChangeEvent],
        topic_arn: str,
        topic: re.Match[str],
        carried: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        try:
            client = self._client or self._own_client(topic["region"])
            users = _attributes_of_each(events, self._attributes, self._reserved)
            if carried is not None:
                users = [{**each, **trace} for each, trace in zip(users, carried, strict=True)]
            messages = [
                _message(event, each, fifo=topic["fifo"] is not None)
                for event, each in zip(events, users, strict=True)
            ]
        except Exception as error:  # of any kind: nothing is sent
            raise _not_broadcast(events, topic_arn, [error]) from error
        connections = _connections(client)
        if len(messages) > BATCH_SIZE:
            in_order = topic["fifo"] is not None and len({each.id for each in events}) < len(events)
            at_once = 1 if in_order else min(AT_ONCE, connections)
            whys: Sequence[Why] = Batches(client, topic_arn, messages).send(at_once=at_once)
        elif connections == 1:
            whys = send_in_one_call(client, topic_arn, messages)
        else:
            whys = self._shared(client, topic_arn, events[0].phase).send(messages)
        missing = [event for event, why in zip(events, whys, strict=True) if why is not None]
        if missing:
            raise _not_broadcast(missing, topic_arn, whys) from _error_in(whys)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "%s: nothing is broadcast, and saves run unannounced",
                printable(
                    self._topic_arn
                    if isinstance(self._topic_arn, _Variable)
                    else f"{self._topic_arn!r} returned None"
                ),
                extra={"action": "publish"},
            )

    def _own_client(self, region: str) -> Any:
        key = os.getpid(), region
        if key in self._clients:
            return self._clients[key]
        with CLIENTS_LOCK:
            if key not in self._clients:
                # 100 connections: a web server can have more threads than the ten that boto3 keeps.
                self._clients[key] = make_client(
                    "sns",
                    region=region,
                    connect_timeout=2,
                    read_timeout=3,
                    attempts=3,
                    connections=100,
                )
            return self._clients[key]

    def _shared(self, client: Any, topic_arn: str, phase: Phase | None) -> SharedCalls:
        key = os.getpid(), topic_arn, phase  # no save waits for confirmations
        if key not in self._calls:
            calls = SharedCalls(partial(send_in_one_call, client, topic_arn))
            self._calls.setdefault(key, calls)
        return self._calls[key]


def in_portions(items: Iterable[T], size: int = 1000) -> Iterator[list[T]]:
    """
    Cut ids, or entities, into lists: one for each save. Use it to save very many entities, because
    a save's broadcast must be over within half of its settle window:

        for portion in in_portions(products):
            with broadcasting(publisher, *(product.id for product in portion)):
                save_all(portion)  # and commit

    Args:
        items: Any iterable. A generator is read portion by portion.
        size: The most items in a list.

    Raises:
        ConfigurationError: `size` is not an integer of at least 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"size must be an integer of at least 1, not {size!r}")
    left = iter(items)
    return iter(lambda: list(islice(left, size)), [])


class _Variable:
    """Reads an environment variable at each call."""

    def __init__(self, name: str, *, required: bool) -> None:
        self._name = name
        self._required = required

    def __str__(self) -> str:
        return f"{self._name} is not set (from_env(..., required=True) refuses that)"

    def __call__(self) -> str | None:
        if value := os.environ.get(self._name):
            return value
        if self._required:
            raise ConfigurationError(
                f"{self._name} is not set: put the ARN of the topic to broadcast to into it"
            )
        return None


def _attributes_of_each(
    events: Sequence[ChangeEvent], attributes: Attributes | None, reserved: Sequence[str]
) -> list[Mapping[str, str]]:
    """Return the attributes of each event: where saves share a call, those of its save."""
    read = partial(_checked_attributes, attributes, reserved)
    known: dict[int, Mapping[str, str]] = {}
    contexts = [getattr(event, "context", None) for event in events]
    for context in contexts:
        if id(context) not in known:
            known[id(context)] = read() if context is None else context.run(read)
    return [known[id(context)] for context in contexts]


def _checked_attributes(
    attributes: Attributes | None, reserved: Sequence[str]
) -> Mapping[str, str]:
    values = attributes() if callable(attributes) else attributes or {}
    if len(values) > (most := MAX_ATTRIBUTES - len(reserved)):
        raise ConfigurationError(
            f"{len(values)} message attributes; at most {most} reach every queue"
            + (", because traces= sends two more" if TRACE_ATTRIBUTES[0] in reserved else "")
        )
    for name, value in values.items():
        if name in reserved:
            raise ConfigurationError(
                f"the message attribute {name!r} comes from traces=; leave one of the two out"
                if name in TRACE_ATTRIBUTES
                else f"the message attribute {name!r} is the protocol's own; use another name"
            )
        if not isinstance(value, str) or not value:
            raise ConfigurationError(
                f"the message attribute {name!r} must be text that is not empty, not {value!r}"
            )
    return values


def _message(event: ChangeEvent, users: Mapping[str, str], *, fifo: bool) -> dict[str, Any]:
    """Return the parameters of `Publish`; with an `Id` they are an entry of `PublishBatch`."""
    message: dict[str, Any] = {"Message": encode(event)}
    if attributes := {**users, **own_attributes(event)}:
        message["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
    if fifo:
        is_group = _GROUP_ID.fullmatch(event.id)
        message["MessageGroupId"] = event.id if is_group else sha256(event.id.encode()).hexdigest()
        message["MessageDeduplicationId"] = uuid.uuid4().hex
    return message


def _require_few(events: Sequence[ChangeEvent]) -> None:
    """Raise if the events can't be sent within half of their settle window."""
    if len(events) <= BATCH_SIZE:
        return
    settle = min(event.settle or DEFAULT_SETTLE for event in events)
    most = max(1, int(settle * ROUNDS)) * AT_ONCE * BATCH_SIZE
    if len(events) > most:
        raise PublishError(
            f"{len(events)} ids are too many for one save with settle={settle:g}: at most {most} "
            "can be broadcast in half of that. Nothing was sent or saved. Save in portions, each "
            "with its own commit: `for portion in in_portions(ids)`",
            ids=[event.id for event in events],
        )


def _connections(client: Any) -> int:
    """Return how many connections a client keeps. A double in a test has one."""
    config = getattr(getattr(client, "meta", None), "config", None)
    connections = getattr(config, "max_pool_connections", 1)
    return connections if isinstance(connections, int) else 1


def _error_in(whys: Sequence[Why]) -> BaseException | None:
    return next((why for why in whys if isinstance(why, BaseException)), None)


def _not_broadcast(
    events: Sequence[ChangeEvent], topic_arn: str, whys: Sequence[Why]
) -> PublishError:
    ids = [event.id for event in events]
    shown = ", ".join(map(repr, ids[:3])) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    error = _error_in(whys)
    reasons = sorted({why for why in whys if isinstance(why, str)})
    why = "; ".join(reasons) if error is None else error
    return PublishError(f"no broadcast of {shown} to {topic_arn}: {printable(why)}", ids=ids)
