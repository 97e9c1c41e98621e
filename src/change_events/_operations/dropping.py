"""Deletes dead letters without a look: those that are not change events, or that somebody names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from change_events._codec import decode
from change_events._consumer.queue import BATCH_SIZE, Queue
from change_events._consumer.settings import make_verifier
from change_events._operations.dead_letters import MOST_HELD
from change_events._operations.letters import WAIT, Hand
from change_events._text import printable
from change_events.exceptions import DecodeError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from change_events._consumer.queue import Message
    from change_events._consumer.settings import Settings

UNVERIFIED = "its signature can't be verified now"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReport:
    """
    What was dropped, or would be.

    Attributes:
        letters: Letters received.
        chosen: Letters to drop.
        dropped: Letters deleted; 0 in a dry run.
        ids: How many letters to drop each id has.
        reasons: By message id, why a letter to drop is not a change event, or can't be read now.
        dry_run: Nothing was deleted.
    """

    letters: int
    chosen: int
    dropped: int
    ids: Mapping[str, int]
    reasons: Mapping[str, str]
    dry_run: bool


def drop(
    queue_url: str,
    *,
    settings: Settings[Any],
    ids: Collection[str] = (),
    everything: bool = False,
    dry_run: bool = False,
) -> DropReport:
    """
    Delete letters from a dead-letter queue: those of some ids; or all; or, by default, those that
    are not change events. All others can be received again at once, also if it is interrupted.

    Args:
        queue_url: The dead-letter queue.
        settings: Those of the worker whose letters these are.
        ids: Drop the letters of these ids, and no others.
        everything: Drop all letters.
        dry_run: Delete nothing. Each letter counts one more receive.

    Raises:
        ConfigurationError: The queue can't be read.
        botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError: SQS fails.
    """
    queue = Queue(queue_url, settings.client)
    queue.open(wait=WAIT)
    hand = Hand(queue)
    verify = make_verifier(settings)
    letters, found, reasons = 0, Counter[str](), dict[str, str]()
    try:
        some = True
        while some and len(hand) < MOST_HELD:
            hand.beat()
            new, some = hand.receive(BATCH_SIZE)
            letters += len(new)
            for message in new:
                id, reason = _read(message, settings, verify)
                if not (everything or (id in ids if ids else reason is not None)):
                    continue
                if id is not None:
                    found[id] += 1
                else:
                    reasons[message.message_id] = reason or UNVERIFIED
                if not dry_run:
                    hand.settle([message.message_id])
            if hand.is_fifo:
                hand.settle([], flush=True)
        hand.settle([], flush=True)
    finally:
        hand.hand_back()
    return DropReport(
        letters=letters,
        chosen=found.total() + len(reasons),
        dropped=hand.deleted,
        ids=found,
        reasons=reasons,
        dry_run=dry_run,
    )


def _read(
    message: Message,
    settings: Settings[Any],
    verify: Callable[[Mapping[str, object]], object] | None,
) -> tuple[str | None, str | None]:
    """Return a letter's id, and why it is not a change event."""
    try:
        event = decode(
            message.body, message.attributes, topic_arn=settings.topic_arn, verify=verify
        )
    except DecodeError as error:
        return None, printable(error)
    except FetchError:  # its signature can't be verified now: it can be an event
        return None, None
    return event.id, None
