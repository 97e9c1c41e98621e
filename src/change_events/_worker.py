"""
The worker: threads around the pure parts.

In a run one thread polls, several look, one acknowledges, one keeps held messages invisible. They share the inbox and the
counts, under one lock.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import queue
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from change_events._codec import decode
from change_events._inbox import Held, Inbox
from change_events._reconcile import look
from change_events._sqs import BATCH_SIZE, MAX_VISIBILITY, Message, Queue, batches
from change_events.exceptions import ConfigurationError, DecodeError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from change_events._event import ChangeEvent, Outcome
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")

log = logging.getLogger("change_events")

ACK_LINGER = 0.02
"""Seconds that an acknowledgement waits for nine others to share its call."""

ACK_ATTEMPTS = 3
"""After so many failures an acknowledgement is given up: the message comes back and is looked at once more."""

MAX_PAUSE = 300.0
"""Seconds that an id is left alone after failed looks, at the most, unless the source asks for more."""

MAX_ASKED_PAUSE = 3600.0
"""Seconds that an id is left alone at the most, whatever the source asks for."""

MAX_POLL_PAUSE = 30.0
"""Seconds between receives that fail, at the most."""

HELD_PER_SECOND = 150
"""Events that a heartbeat can hold for each second of visibility timeout: at 10 ms a call of ten, half of its time."""

DRAIN_ATTEMPTS = 4
"""After so many receives in a row that failed, `drain()` raises: who calls it waits for it."""

DELAY_CHECK = 60.0
"""Seconds after which the queue is asked for its delay again: somebody may have lowered it."""

SIGNAL_CHECK = 0.25
"""Seconds between the main thread's looks for a signal."""

MALFORMED_REMEMBERED = 1000
"""How many malformed messages are remembered, so that each is logged once."""


class _Why(Enum):
    """Why a run should go on to its next stage."""

    STOP = auto()
    SIGNAL = auto()
    DRAINED = auto()
    FINISHED = auto()


_Control: TypeAlias = "queue.SimpleQueue[_Why | BaseException]"
"""Not an event, as `put` is safe in a signal handler; an error is that of a thread that died."""


@dataclass(frozen=True, slots=True)
class Stats:
    """
    What a worker has done since it was made.

    Attributes:
        received: Deliveries taken from the queue.
        malformed: Deliveries that are no change events.
        gets: GETs begun.
        created: Looks that found an entity new to the cache. The next four count looks, too.
        updated: Found, and another than the cached one.
        unchanged: Found as cached, or gone as known.
        deleted: Gone, and cached until then.
        never_saved: Gone, and never seen.
        conflicts: Looks begun anew, as another worker had changed the entry in between.
        failed: Looks that decided nothing; their events went back to the queue for a while.
        acknowledged: Deliveries deleted from the queue.
        held: Events in the worker's hands now.
    """

    received: int = 0
    malformed: int = 0
    gets: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    never_saved: int = 0
    conflicts: int = 0
    failed: int = 0
    acknowledged: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings(Generic[T]):
    """What a worker was made with; see there."""

    queue: Queue
    fetcher: Fetcher[T]
    sink: Sink[T]
    settle: float
    early_look: bool
    prefetch: int
    threads: int
    batch_size: int
    wait_time: int
    visibility_timeout: int
    shutdown_timeout: float
    on_outcome: Callable[[str, Outcome], object] | None


class Worker(Generic[T]):
    """
    Keeps a cache in step with its source: receives change events, GETs the entities, applies what it finds.

    An event is acknowledged only after a look whose GET started at least the settle window after the event was received
    (less the queue's `DelaySeconds`, which has passed by then), so that the save behind it is over. Before that, the
    worker looks at once, too, and holds the event.

    A look that decides nothing (the source answers 503, say) leaves the cache as it is and sends the id's events back to
    the queue, invisible for a pause that grows with each delivery. A message that is no change event is logged once and
    left to the queue's redrive policy.

    A FIFO queue delivers the next event of an id only when the one before is acknowledged. So a change that follows another
    within the settle window is seen when that is over, and not by an early look.

    Args:
        queue_url: The SQS queue that is subscribed to the topic, standard or FIFO, raw delivery or envelope.
        fetcher: What reads the source.
        sink: The cache.
        client: A boto3 SQS client. Default: one for the region in `queue_url`.
        settle: The settle window in seconds: how long a save may take, from the start of its broadcast. At least as long as
            the publishers' saves; longer costs nothing but held messages. The queue's own delay is asked for at the start
            and every minute after: whoever lowers it must expect events of that minute to be let go too early.
        early_look: Look at an entity as soon as an event arrives, too. False spares a GET, and the cache follows only
            after the settle window. On a queue with `DelaySeconds` of at least `settle` there is one look in any case.
        prefetch: How many events to hold at the most. No more than 150 for every second of `visibility_timeout`, as the
            heartbeat takes a call for every ten of them.
        threads: How many looks run at once.
        batch_size: How many messages to ask for in one receive, 1 to 10.
        wait_time: Seconds of a long poll, 1 to 20. Stopping waits for the poll under way.
        visibility_timeout: Seconds, 3 to 43,200, after which messages of a worker that died come back. Messages of a living
            one are kept invisible by a heartbeat, every third of it.
        shutdown_timeout: Seconds that stopping may take; better longer than `wait_time`, as what an abandoned poll brings
            stays invisible until its visibility timeout is over.
        on_outcome: Called with an id and what a look at it did, from the look's thread. What it raises is logged.

    Raises:
        ConfigurationError: A value is out of its range.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        client: Any = None,
        settle: float = 5.0,
        early_look: bool = True,
        prefetch: int = 1000,
        threads: int = 10,
        batch_size: int = 10,
        wait_time: int = 20,
        visibility_timeout: int = 60,
        shutdown_timeout: float = 25.0,
        on_outcome: Callable[[str, Outcome], object] | None = None,
    ) -> None:
        _require("settle", settle, 0, 3600)
        _require_integer("threads", threads, 1, 256)
        _require_integer("batch_size", batch_size, 1, 10)
        _require_integer("wait_time", wait_time, 1, 20)
        _require_integer("visibility_timeout", visibility_timeout, 3, MAX_VISIBILITY)
        _require_integer("prefetch", prefetch, batch_size, HELD_PER_SECOND * visibility_timeout)
        _require("shutdown_timeout", shutdown_timeout, 0, 3600)
        self._settings = _Settings(
            queue=Queue(queue_url, client),
            fetcher=fetcher,
            sink=sink,
            settle=settle,
            early_look=early_look,
            prefetch=prefetch,
            threads=threads,
            batch_size=batch_size,
            wait_time=wait_time,
            visibility_timeout=visibility_timeout,
            shutdown_timeout=shutdown_timeout,
            on_outcome=on_outcome,
        )
        self._tally = _Tally()
        self._lock = threading.RLock()  # re-entrant, so that a signal handler may call stop()
        self._control: _Control | None = None
        self._stopped = False

    def run(self) -> None:
        """
        Work until `stop()` is called or, in the main thread, until SIGTERM or SIGINT comes.

        Stopping ends the looks in progress, acknowledges what they settle, and gives the rest back to the queue. A second
        signal returns at once; nothing is lost, as nothing was acknowledged. (The threads go on until the process ends.)

        Raises:
            ConfigurationError: The queue can't be read.
            RuntimeError: The worker runs already.
        """
        self._run(until_empty=False)

    def stop(self) -> None:
        """Ask the worker to stop, from any thread, and don't wait for it. A stopped worker does not run again."""
        with self._lock:
            self._stopped = True
            if self._control is not None:
                self._control.put(_Why.STOP)

    def drain(self) -> int:
        """
        Work until the queue is empty and nothing is held: for tests, scripts and cron.

        Messages that are invisible, as another worker holds them or a failed look sent them back for a while, are not
        waited for. Unlike `run()`, it does not outlast an outage of SQS: it raises boto3's error when several receives in a
        row have failed.

        Returns:
            How many messages were acknowledged.

        Raises:
            ConfigurationError: The queue can't be read.
            RuntimeError: The worker runs already.
            botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError: It can't be read any more.
        """
        before = self._tally.read()["acknowledged"]
        self._run(until_empty=True)
        return self._tally.read()["acknowledged"] - before

    def stats(self) -> Stats:
        """Return what the worker has done so far."""
        return Stats(**self._tally.read())

    def _run(self, *, until_empty: bool) -> None:
        control: _Control = queue.SimpleQueue()
        with self._lock:
            if self._control is not None:
                raise RuntimeError("this worker runs already")
            if self._stopped:
                return
            self._control = control
        try:
            _Run(self._settings, self._tally, control, until_empty=until_empty).work()
        finally:
            with self._lock:
                self._control = None


class _Tally:
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def set(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] = number

    def read(self) -> Counter[str]:
        with self._lock:
            return self._counts.copy()


class _Run(Generic[T]):
    """
    One run of a worker, from its start to its stop.

    Args:
        settings: The worker's.
        tally: Where to count.
        control: What comes in here ends the run.
        until_empty: End it, too, once the queue is empty and nothing is held.
    """

    def __init__(self, settings: _Settings[T], tally: _Tally, control: _Control, *, until_empty: bool) -> None:
        self._settings = settings
        self._queue = settings.queue
        self._tally = tally
        self._control = control
        self._until_empty = until_empty
        self._hold = 0.0
        self._inbox = Inbox(early_look=settings.early_look)
        self._lock = threading.Lock()  # guards the inbox, and that nothing enters it once the run is stopping
        self._due = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._acks: queue.SimpleQueue[Held | None] = queue.SimpleQueue()
        self._malformed: dict[str, None] = {}

    def work(self) -> None:
        """Start, work until something comes in at the control, stop."""
        self._hold = self._remaining_window()
        log.info("started", extra={"action": "start", "queue": self._queue.url, "hold": self._hold})
        # Not before: until the queue has answered, Ctrl-C should just end it.
        with contextlib.nullcontext() if self._until_empty else _signals_put_into(self._control):
            why: _Why | BaseException | None = _Why.SIGNAL
            self._start()
            try:
                while (why := self._next_control(math.inf)) is None:
                    pass
            finally:
                self._shut_down(signals=int(why is _Why.SIGNAL))
        if isinstance(why, BaseException):
            raise why

    def _remaining_window(self) -> float:
        """Ask the queue for its delay, and return what that leaves of the settle window."""
        return max(0.0, self._settings.settle - self._queue.open(wait=self._settings.wait_time))

    def _start(self) -> None:
        threads = {
            "look": [self._thread("look", self._look_on) for _ in range(self._settings.threads)],
            "acknowledge": [self._thread("acknowledge", self._acknowledge)],
            "heartbeat": [self._thread("heartbeat", self._beat)],
            "poll": [self._thread("poll", self._poll)],
        }
        # Started now, for its time to come: Python 3.12 starts no thread once the main thread has ended.
        self._thread("finish", lambda: self._finish(threads))

    def _thread(self, role: str, target: Callable[[], None]) -> threading.Thread:
        def supervised() -> None:
            try:
                target()
            except BaseException as error:  # without one of its threads a worker would limp; it stops and says so
                log.critical("the %s thread died", role, exc_info=True, extra={"action": "die", "role": role})
                self._control.put(error)

        # Daemons: after a second signal nothing may keep the process alive.
        thread = threading.Thread(target=supervised, name=f"change-events-{role}", daemon=True)
        thread.start()
        return thread

    def _shut_down(self, *, signals: int) -> None:
        """Stop in good order, unless that takes too long or a second signal comes."""
        with self._lock:
            self._stopping.set()
            self._due.notify_all()
            self._room.notify_all()
        deadline = time.monotonic() + self._settings.shutdown_timeout
        while signals < 2 and time.monotonic() < deadline:
            why = self._next_control(deadline)
            if why is _Why.FINISHED:
                log.info("stopped", extra={"action": "stop"})
                return
            signals += why is _Why.SIGNAL
        log.warning("stopped halfway; the messages still held come back by themselves", extra={"action": "stop"})

    def _next_control(self, deadline: float) -> _Why | BaseException | None:
        # Not one long wait: a signal that the system gives to another thread does not end the main thread's waiting.
        try:
            return self._control.get(timeout=max(0.0, min(SIGNAL_CHECK, deadline - time.monotonic())))
        except queue.Empty:
            return None

    def _finish(self, threads: dict[str, list[threading.Thread]]) -> None:
        # The order matters: looks in progress first, as they settle events; then the acknowledgements of these; then the
        # heartbeat, which must not hold again what goes back next. The poll comes last, as a long poll can't be cancelled;
        # what it still brings, it returns itself.
        self._stopping.wait()
        _join(threads["look"])
        self._acks.put(None)
        _join(threads["acknowledge"])
        self._finished.set()
        _join(threads["heartbeat"])
        with self._lock:
            held = self._inbox.clear()
            self._let_go()
        now = time.monotonic()
        self._hand_back([(event.receipt_handle, max(0.0, event.due - now)) for event in held])
        _join(threads["poll"])
        self._control.put(_Why.FINISHED)

    # Receiving

    def _poll(self) -> None:
        wait = 1 if self._until_empty else self._settings.wait_time
        failures = 0
        asked = time.monotonic()
        while self._wait_for_room():
            try:
                if time.monotonic() - asked >= DELAY_CHECK:
                    asked = time.monotonic()
                    self._hold = max(self._hold, self._remaining_window())  # never less: older messages had the old delay
                # Asked before the receive: a message whose delay ends in between is then found by it.
                maybe_empty = self._until_empty and self._is_idle() and not self._queue.delayed()
                messages = self._queue.receive(
                    most=self._settings.batch_size, wait=wait, visibility=self._settings.visibility_timeout
                )
            except Exception as error:  # whatever it was, a poll loop that ends is worse
                failures += 1
                if self._until_empty and failures == DRAIN_ATTEMPTS:
                    self._control.put(error)
                    return
                pause = _pause(failures, MAX_POLL_PAUSE)
                log.warning("receive failed, next in %.1f s: %s", pause, error, extra={"action": "receive", "pause": pause})
                self._stopping.wait(pause)
            else:
                failures = 0
                self._take(messages)
                if maybe_empty and not messages:
                    self._control.put(_Why.DRAINED)
                    return

    def _wait_for_room(self) -> bool:
        with self._lock:
            self._room.wait_for(
                lambda: self._stopping.is_set() or len(self._inbox) + self._settings.batch_size <= self._settings.prefetch
            )
            return not self._stopping.is_set()

    def _is_idle(self) -> bool:
        with self._lock:
            return len(self._inbox) == 0

    def _take(self, messages: list[Message]) -> None:
        now = time.monotonic()
        self._tally.add("received", len(messages))
        decoded = [(message, event) for message in messages if (event := self._decode(message)) is not None]
        with self._lock:
            stopping = self._stopping.is_set()
            if not stopping:
                for message, event in decoded:
                    self._inbox.add(self._held(message, event, now), now)
                self._tally.set("held", len(self._inbox))
                self._due.notify(len(decoded))
        if stopping:
            self._hand_back([(message.receipt_handle, 0.0) for message, _ in decoded])

    def _held(self, message: Message, event: ChangeEvent, now: float) -> Held:
        return Held(
            id=event.id,
            message_id=message.message_id,
            receipt_handle=message.receipt_handle,
            receive_count=message.receive_count,
            received=now,
            hold=self._hold,
            expires=now + self._settings.visibility_timeout,
        )

    def _decode(self, message: Message) -> ChangeEvent | None:
        try:
            return decode(message.body)
        except DecodeError as error:
            self._tally.add("malformed")
            if message.message_id not in self._malformed:
                log.error(  # noqa: TRY400  # the traceback of a parser helps nobody
                    "message %s is no change event and is left to the redrive policy: %s",
                    message.message_id,
                    error,
                    extra={"action": "decode", "message_id": message.message_id},
                )
                self._malformed[message.message_id] = None
                if len(self._malformed) > MALFORMED_REMEMBERED:
                    del self._malformed[next(iter(self._malformed))]
            return None

    # Looking

    def _look_on(self) -> None:
        while (id := self._next_id()) is not None:
            self._look(id)

    def _next_id(self) -> str | None:
        with self._lock:
            while not self._stopping.is_set():
                now = time.monotonic()
                id = self._inbox.next(now)
                if id is not None:
                    return id
                at = self._inbox.next_at()
                self._due.wait(None if at is None else at - now)
            return None

    def _look(self, id: str) -> None:
        gets = itertools.count()

        def on_get() -> None:
            self._tally.add("gets")
            if next(gets):
                self._tally.add("conflicts")
            with self._lock:
                self._inbox.freeze(id, time.monotonic())

        try:
            outcome = look(id, fetcher=self._settings.fetcher, sink=self._settings.sink, on_get=on_get)
        except Exception as error:  # of the source, of the user's fetcher or sink: the event must be looked at again
            self._look_failed(id, error)
            return
        log.debug("looked", extra={"action": "look", "id": id, "outcome": outcome.value})
        self._report(id, outcome)
        with self._lock:
            settled = self._inbox.settle(id)
            self._let_go()
        for event in settled:
            self._acks.put(event)

    def _report(self, id: str, outcome: Outcome) -> None:
        self._tally.add(outcome.value)
        if self._settings.on_outcome is not None:
            try:
                self._settings.on_outcome(id, outcome)
            except Exception:  # the user's; the look stands
                log.exception("on_outcome failed", extra={"action": "report", "id": id})

    def _look_failed(self, id: str, error: Exception) -> None:
        with self._lock:
            events = self._inbox.give_up(id)
            self._let_go()
        self._tally.add("failed")
        asked = (error.retry_after or 0.0) if isinstance(error, FetchError) else 0.0
        own = _pause(max(event.receive_count for event in events), MAX_PAUSE)
        pause = max(own, min(asked, MAX_ASKED_PAUSE))
        log.warning(
            "looking at %r failed, again in %.0f s: %s",
            id,
            pause,
            error,
            exc_info=not isinstance(error, FetchError),
            extra={"action": "look", "id": id, "outcome": "failed", "pause": pause},
        )
        self._hand_back([(event.receipt_handle, pause) for event in events])

    def _let_go(self) -> None:
        self._tally.set("held", len(self._inbox))
        self._due.notify()
        self._room.notify()

    # Acknowledging, holding and handing back

    def _acknowledge(self) -> None:
        while events := self._gather():
            self._delete(events)

    def _gather(self) -> list[Held]:
        """Wait for an event to acknowledge, and a moment for up to nine more; nothing once the last is through."""
        events: list[Held] = []
        deadline: float | None = None
        with contextlib.suppress(queue.Empty):
            while len(events) < BATCH_SIZE:
                event = self._acks.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
                if event is None:
                    self._acks.put(None)
                    break
                events.append(event)
                deadline = deadline or time.monotonic() + ACK_LINGER
        return events

    def _delete(self, events: list[Held]) -> None:
        handles = [event.receipt_handle for event in events]
        for attempt in range(ACK_ATTEMPTS):
            if attempt:
                self._finished.wait(_pause(attempt, 1.0))
            try:
                deleted, handles = self._queue.delete(handles)
            except Exception as error:  # boto3 has tried again already; what stays undeleted comes back
                log.warning("acknowledging failed: %s", error, extra={"action": "acknowledge"})
            else:
                self._tally.add("acknowledged", deleted)
            if not handles:
                return

    def _beat(self) -> None:
        """Keep what is held invisible: each beat extends what would be visible before the next but one."""
        period = self._settings.visibility_timeout / 3
        beat = time.monotonic() + period
        while not self._finished.wait(max(0.0, beat - time.monotonic())):
            with self._lock:
                expiring = self._inbox.expiring(beat + 2 * period)
            for batch in batches(expiring):
                now = time.monotonic()
                if self._change_visibility([(event.receipt_handle, self._settings.visibility_timeout) for event in batch]):
                    for event in batch:
                        event.expires = now + self._settings.visibility_timeout
            beat += period

    def _hand_back(self, deliveries: Sequence[tuple[str, float]]) -> None:
        """Make messages visible to all workers, this one too, after so many seconds."""
        for batch in batches(deliveries):
            self._change_visibility(batch)

    def _change_visibility(self, deliveries: Sequence[tuple[str, float]]) -> bool:
        try:
            self._queue.change_visibility(deliveries)
        except Exception as error:  # the messages become visible by themselves
            log.warning("changing visibility failed: %s", error, extra={"action": "change_visibility"})
            return False
        return True


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _pause(failures: int, most: float) -> float:
    """Seconds to wait after so many failures: doubling, with jitter, so that many workers don't come back at once."""
    return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


def _require(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(f"{name} must be from {least} to {most}, not {value!r}")


def _require_integer(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int):
        raise ConfigurationError(f"{name} must be an integer, not {value!r}")
    _require(name, value, least, most)


@contextlib.contextmanager
def _signals_put_into(control: _Control) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, lambda *_: control.put(_Why.SIGNAL)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
