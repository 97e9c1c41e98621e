"""What a process wants of the world, and the values that both exchange."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import greenlet

from change_events._codec import decode

if TYPE_CHECKING:
    from change_events import ChangeEvent

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
        longest_save: Ticks that a save lasts at most, where saves are renewed.
        slow_publish: SNS needs time to accept, and then to answer.
        slow_renewal: The same for a renewal, up to half a window.
        raises: Saves that are renewed can commit, and then raise.
        slow_get: What the source has read arrives later. To production code this adds no schedule,
            because from the start of a GET until the apply it gets no other input.
        bulk: The fetcher can ask for many ids at once. There is only one id, but it goes this way.
        tombstone: If the entity is absent at first, the cache knows that it is gone.
        coarse_etags: Two commits share an ETag, like two saves within a second on some servers.
        reverts: Every second commit brings back the state before it: an equal entity, with an equal
            digest and the same ETag, as of a server that makes ETags of the body.
        aging: Messages can lie in the queue for long, and are received late.
        slow_poll: A receive takes time: it begins, and SQS answers later.
        pairs: A receive can bring two messages. That is a full batch, and the worker has room for
            three.
        outage: The fault can be that the source is down for up to three GETs.
        guarded: The guard refuses the first deletion of each worker, until an operator resumes.
        heartbeats: A heartbeat can find that the worker no longer has a message: its visibility
            timeout is over, or another worker has acknowledged it.
        page: A backfill fills the cache, from a listing of three pages of whole entities. This one
            of them names the entity, if the source has it. 0: there is no backfill.
    """

    early_look: bool = True
    delay: int = 0
    confirm: bool = False
    renewals: bool = False
    longest_save: int = 2
    slow_publish: bool = False
    slow_renewal: bool = False
    raises: bool = False
    slow_get: bool = False
    bulk: bool = False
    tombstone: bool = False
    coarse_etags: bool = False
    reverts: bool = False
    aging: bool = False
    slow_poll: bool = False
    pairs: bool = False
    outage: bool = False
    guarded: bool = False
    heartbeats: bool = False
    page: int = 0

    @property
    def slow_actors(self) -> tuple[str, ...]:
        """What a saver does that takes time."""
        slow = {"save": self.slow_publish, "renew": self.slow_renewal}
        return tuple(actor for actor, each in slow.items() if each)

    def etag(self, number: int) -> str:
        """Return the ETag of the state after a commit."""
        return f'"{(number + 1) // 2 if self.coarse_etags else self.body(number)}"'

    def body(self, number: int) -> int:
        """Return the number in the entity's body after a commit."""
        return number % 2 if self.reverts else number


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

CANCELLED = "cancelled"
"""The answer to a save that is cancelled while it commits."""

RAISES = "raises"
"""The answer to a save that raises when it has committed, or to a sink's client."""

CLOSED = object()
"""The answer that ends a process."""


class Message(NamedTuple):
    """A message's content, and the ticks for which it was in the queue when it is received."""

    body: str
    attributes: tuple[tuple[str, str], ...]
    age: int = 0

    @property
    def event(self) -> ChangeEvent:
        return decode(self.body, dict(self.attributes))
