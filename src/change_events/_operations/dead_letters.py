"""
Redrive dead letters where they are: look at their ids, and delete what the looks settle.

A letter is an event, so it is settled as in a worker: by a stored look whose GET started when the
save behind the event was over, the settle window after its broadcast. A dead letter is usually
older than that, and SQS's own clock tells it. Then one look settles all letters of its id, also
those that are received after it.

A letter is deleted only after such a look. Whatever happens before, it is still in the queue.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from change_events._codec import decode
from change_events._consumer.crew import Threads
from change_events._consumer.queue import BATCH_SIZE, Queue
from change_events._consumer.settings import (
    Settings,
    make_verifier,
    require_bool,
    require_plain,
)
from change_events._event import DEFAULT_SETTLE
from change_events._operations.letter_looks import LetterLooks, due_of
from change_events._operations.letters import CALLERS, WAIT, Hand, Letter
from change_events._operations.pool import StoppedError, in_threads
from change_events._text import printable
from change_events.exceptions import ConfigurationError, DecodeError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from change_events._consumer.queue import Message
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

ROUND = 1000
"""Letters to receive before their ids are looked at."""

MOST_HELD = 100_000
"""Letters to hold at most. SQS lets 120,000 be in flight (Amazon SQS quotas)."""

TELL_EVERY = 1.0
"""Seconds between two calls of `on_progress`."""

LISTED = 100
"""How many malformed letters a report names, and how many lines of each kind it prints."""


@dataclass(frozen=True, slots=True)
class RedriveProgress:
    """
    How far a redrive is.

    Attributes:
        letters: Letters received.
        ids: Different ids among them.
        looks: Looks stored.
        deleted: Letters deleted.
        failed: Ids whose look failed.
        malformed: Letters that are not change events.
    """

    letters: int
    ids: int
    looks: int
    deleted: int
    failed: int
    malformed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveReport:
    """
    What a redrive did. Printed, it tells the counts and the reasons.

    Attributes:
        letters: Letters received.
        ids: How many letters each id has.
        looks: Looks stored.
        deleted: Letters deleted.
        kept: Letters that are still in the queue: `letters` less `deleted`.
        failed: The ids whose look failed, and why. (And `message ...` for a letter whose signature
            could not be verified yet.)
        malformed: How many letters are not change events, or not from the topic.
        reasons: Why, by message id, of the first hundred of them.
        oldest: The age of the oldest letter in seconds: since it was sent to the queue that it was
            in first, or since SNS gave up to deliver it.
        dry_run: Nothing was looked at or deleted.
        stopped: Why the redrive ended before the queue was empty: the source is down, a mass
            deletion was refused, or SQS fails. None: it did not.
    """

    letters: int
    ids: Mapping[str, int]
    looks: int
    deleted: int
    kept: int
    failed: Mapping[str, str]
    malformed: int
    reasons: Mapping[str, str]
    oldest: float
    dry_run: bool
    stopped: Exception | None

    def __str__(self) -> str:
        """Return the report as lines of printable text."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        done = f"{self.looks:,} looks, {self.deleted:,} letters deleted, {self.kept:,} kept"
        yield (
            f"{self.letters:,} letters of {len(self.ids):,} ids, the oldest {self.oldest:,.0f} s: "
            f"{'a dry run, nothing was done' if self.dry_run else done}"
        )
        yield from _listed("failed looks", len(self.failed), self.failed)
        yield from _listed("letters that are not change events", self.malformed, self.reasons)
        if self.stopped is not None:
            yield f"stopped early: {printable(self.stopped)}"


def _listed(what: str, number: int, reasons: Mapping[str, str]) -> Iterator[str]:
    if number:
        yield f"{what}: {number:,}"
    for name, reason in list(reasons.items())[:LISTED]:
        yield f"  {printable(name)}: {reason}"
    if number > LISTED:
        yield "  ..."


def redrive(
    queue_url: str,
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    topic_arn: str | None = None,
    verify_signatures: bool = False,
    settle: float = DEFAULT_SETTLE,
    client: Any = None,
    threads: int = 10,
    max_gets_per_second: float | None = None,
    dry_run: bool = False,
    limit: int | None = None,
    drop_malformed: bool = False,
    allow_mass_deletion: bool = False,
    on_progress: Callable[[RedriveProgress], object] | None = None,
) -> RedriveReport:
    """
    Look at the ids of dead letters, and delete the letters that this settles.

    Many letters of one id are one look. A letter is deleted only after a look that settles its
    event, so nothing is lost if the redrive is interrupted or killed: what is left comes back at
    once or, if the process was killed, within 15 minutes. Run it beside workers, and again at any
    time. It ends when the queue is empty.

    If a look fails, its letters stay. After five looks in a row that failed because of the source
    or the cache, not of their entity, the redrive stops. It also stops when the guard refuses a
    mass deletion. Then `RedriveReport.stopped` says why.

    Args:
        queue_url: The dead-letter queue: a queue's or a subscription's, standard or FIFO.
        fetcher: Reads the source.
        sink: The cache.
        topic_arn: As for `Worker`: accept only letters from this topic.
        verify_signatures: As for `Worker`: accept only letters that SNS has signed.
        settle: The settle window in seconds, as for the `Worker` of this cache. A letter that is
            not that old yet is held until it is.
        client: A boto3 SQS client. Default: one for the region in `queue_url`.
        threads: How many looks run at once.
        max_gets_per_second: How many looks begin in a second, at most. None: no limit.
        dry_run: Only count: nothing is looked at or deleted, and all letters can be received again
            at once. Each counts one more receive.
        limit: The most letters to receive. None: all, or 100,000 in a dry run.
        drop_malformed: Delete letters that are not change events, too.
        allow_mass_deletion: Refuse no deletion; see `Worker`.
        on_progress: Called about once a second, in the caller's thread, with what was done so far.
            What it raises ends the redrive.

    Returns:
        What was done.

    Raises:
        ConfigurationError: A setting is wrong, or the queue can't be read. Nothing was received.
    """
    settings = Settings(
        queue_url,
        fetcher=fetcher,
        sink=sink,
        client=client,
        topic_arn=topic_arn,
        verify_signatures=verify_signatures,
        settle=settle,
        threads=threads,
        max_gets_per_second=max_gets_per_second,
        allow_mass_deletion=allow_mass_deletion,
    )
    require_bool("dry_run", dry_run)
    require_bool("drop_malformed", drop_malformed)
    if on_progress is not None:
        require_plain("on_progress", on_progress)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"limit must be an integer, 1 or more, or None, not {limit!r}")
    verify = make_verifier(settings)
    queue = Queue(queue_url, client)
    queue.open(wait=WAIT)
    hand = Hand(queue)
    return Redrive(
        settings=settings,
        hand=hand,
        looks=LetterLooks(settings, hand),
        verify=verify,
        dry_run=dry_run,
        limit=limit,
        drop_malformed=drop_malformed,
        on_progress=on_progress,
    ).work()


@dataclass(eq=False, kw_only=True)
class Redrive:
    """One redrive."""

    settings: Settings[Any]
    hand: Hand
    looks: LetterLooks
    verify: Callable[[Mapping[str, object]], object] | None
    dry_run: bool
    limit: int | None
    drop_malformed: bool
    on_progress: Callable[[RedriveProgress], object] | None
    most_held: int = MOST_HELD
    threads: Threads = field(default_factory=Threads)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _letters: int = 0
    _room: int = 0  # letters that can still be received in this round
    _ids: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, list[Letter]] = field(default_factory=dict)
    _malformed: int = 0
    _reasons: dict[str, str] = field(default_factory=dict)
    _told: float = field(init=False)

    def __post_init__(self) -> None:
        self._told = self.threads.clock()

    def work(self) -> RedriveReport:
        """Redrive until the queue is empty; in the end hand back what is left in hand."""
        stopped = None
        try:
            while self._receive() and not self.dry_run:
                self._look()
                if self._room and not self.hand.is_fifo:  # more than one receive brought nothing
                    break
        except StoppedError as error:
            stopped = error.cause
        finally:
            with contextlib.suppress(Exception):  # then they come again, and cost a look
                self.hand.settle([], flush=True)
            self.hand.hand_back()
            self.looks.end()
        return RedriveReport(
            letters=self._letters,
            ids=self._ids,
            looks=self.looks.stored,
            deleted=self.hand.deleted,
            kept=self._letters - self.hand.deleted,
            failed=self.looks.failed,
            malformed=self._malformed,
            reasons=self._reasons,
            oldest=self.hand.oldest,
            dry_run=self.dry_run,
            stopped=stopped,
        )

    def _receive(self) -> bool:
        """Receive letters for a round; return False if none is new."""
        if len(self.hand) >= self.most_held:
            raise StoppedError(
                RuntimeError(
                    f"{len(self.hand):,} letters can't be settled, and no more can be held"
                )
            )
        before = self._letters
        self._room = self.most_held if self.dry_run else ROUND
        if self.limit is not None:
            self._room = min(self._room, self.limit - before)
        in_threads(self._receive_some, range(CALLERS), CALLERS, self._meanwhile, using=self.threads)
        return self._letters > before

    def _receive_some(self, _: int, stop: threading.Event) -> None:
        """Receive until there is no room, or SQS has nothing."""
        some = True
        while some and not stop.is_set():
            with self._lock:
                most = min(BATCH_SIZE, self._room)
                self._room -= most
            if not most:
                return
            new, some = self.hand.receive(most)
            with self._lock:
                self._room += most - len(new)
                self._letters += len(new)
            for message in new:
                self._read(message)

    def _read(self, message: Message) -> None:
        received = self.threads.clock()
        try:
            event = decode(
                message.body,
                message.attributes,
                topic_arn=self.settings.topic_arn,
                verify=self.verify,
            )
        except DecodeError as error:
            self._add_malformed(message.message_id, error)
        except FetchError as error:
            self.looks.failed[f"message {message.message_id}"] = printable(error)
        else:
            settle = self.settings.settle
            letter = Letter.of(message, event, settle=settle, received=received)
            with self._lock:
                self._ids[letter.id] += 1
                self._waiting.setdefault(letter.id, []).append(letter)

    def _add_malformed(self, message_id: str, error: DecodeError) -> None:
        with self._lock:
            self._malformed += 1
            if len(self._reasons) < LISTED:
                self._reasons[message_id] = printable(error)
        if self.drop_malformed and not self.dry_run:
            self.hand.settle([message_id])

    def _look(self) -> None:
        """Look at the ids of the letters of a round, those first that can be looked at first."""
        waiting, self._waiting = self._waiting, {}
        in_threads(
            self._settle,
            sorted(waiting.values(), key=due_of),
            self.settings.threads,
            self._meanwhile,
            using=self.threads,
        )
        try:
            self.hand.settle([], flush=True)
        except Exception as error:
            raise StoppedError(error) from error
        if self.hand.is_fifo:
            self.hand.hand_back()

    def _settle(self, letters: Sequence[Letter], stop: threading.Event) -> None:
        """Look at the letters' id, and delete those that the look settles."""
        look = self.looks.look(letters, stop)
        if look is not None:
            self.hand.settle([each.message_id for each in letters if each.settled_by(look)])

    def _meanwhile(self) -> None:
        self.hand.beat()
        now = self.threads.clock()
        if self.on_progress is not None and now - self._told >= TELL_EVERY:
            self._told = now
            self.on_progress(
                RedriveProgress(
                    letters=self._letters,
                    ids=len(self._ids),
                    looks=self.looks.stored,
                    deleted=self.hand.deleted,
                    failed=len(self.looks.failed),
                    malformed=self._malformed,
                )
            )
