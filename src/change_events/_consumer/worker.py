"""
The worker: threads around the steps of a consumer.

In a run one thread polls, and others help it where there is a backlog; many look, some acknowledge,
one keeps held messages invisible.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import signal
import threading
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from change_events._codec import parsed_arn
from change_events._consumer.consumer import Consumer, Settings, Stats, Tally, pause_after
from change_events._consumer.guard import AT_LEAST, MAX_SHARE, WINDOW, Guard
from change_events._consumer.health import (
    FULL,
    NOT_RUNNING,
    RECEIVE_FAILED,
    Health,
    is_ready,
)
from change_events._consumer.queue import BATCH_SIZE, MAX_VISIBILITY, Queue
from change_events._event import DEFAULT_SETTLE, MAX_SETTLE
from change_events._meter import Meter
from change_events.exceptions import ConfigurationError, MassDeletionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from change_events._consumer.inbox import Held
    from change_events._event import Outcome
    from change_events.typing import Fetcher, Metrics, Sink

T = TypeVar("T")

log = logging.getLogger("change_events")

ACK_LINGER = 0.1
"""Seconds that an acknowledgement waits for nine others to share its call."""

ACK_ATTEMPTS = 3
"""
After so many failures an acknowledgement is given up: the message comes back and is looked at once
more.
"""

MAX_POLL_PAUSE = 30.0
"""Seconds between receives that fail, at the most."""

HELD_PER_SECOND = 150
"""
Events that a heartbeat can hold for each second of visibility timeout: at 10 ms a call of ten, half
of its time.
"""

DRAIN_ATTEMPTS = 4
"""After so many receives in a row that failed, `drain()` raises: who calls it waits for it."""

DELAY_CHECK = 60.0
"""Seconds after which the queue is asked for its delay again: somebody may have lowered it."""

SIGNAL_CHECK = 0.25
"""Seconds between the main thread's looks for a signal."""


class _Why(Enum):
    """Why a run should go on to its next stage."""

    STOP = auto()
    SIGNAL = auto()
    DRAINED = auto()
    FINISHED = auto()


_Control: TypeAlias = "queue.SimpleQueue[_Why | BaseException]"
"""Not an event, as `put` is safe in a signal handler; an error is that of a thread that died."""


class Worker(Generic[T]):
    """
    Keeps a cache in step with its source: receives change events, GETs the entities, applies what
    it finds.

    An event is acknowledged only after a look whose GET started at least the settle window after
    the event was received (less the queue's `DelaySeconds`, which has passed by then), so that the
    save behind it is over. Before that, the worker looks at once, too, and holds the event.

    A look that decides nothing (the source answers 503, say) leaves the cache as it is and sends
    the id's events back to the queue, invisible for a pause that grows with each delivery. A
    message that is no change event is logged once and left to the queue's redrive policy.

    When looks in a row decide nothing (five, at three ids or more; or two at one id that got no
    answer, or a 401, 429, 502, 503 or 504), the source is down, or the cache: the worker stops
    receiving, keeps what it holds, and tries one id after ever longer pauses, of a minute at the
    most or as long as the source asks for. Once a look succeeds it goes on. No message is lost to
    the dead-letter queue meanwhile.

    When too many looks at cached entities see them gone, the worker refuses to delete the next,
    logs it as `critical`, and stops receiving and looking until `resume()` is called: more likely
    than not it asks the wrong source.

    A fetcher that takes many ids at once (a `BulkFetcher`, as `HTTPFetcher(bulk_url=...)` is) gets
    up to `bulk_size` of those that are due; none waits for company. Each entity is stored, settled
    and reported by itself. What such a GET leaves undecided is looked at alone, and after one that
    failed there is none for 30 seconds.

    While receives come full, several run at once, and an id that was looked at is left alone for
    five seconds; when there is no room for more, the ids with most events are looked at first. So a
    backlog of few ids takes few GETs, and fewer the larger `prefetch` is.

    When SQS is away, the worker tries again, after pauses of half a minute at the most.

    A save that its publisher confirms (`broadcasting(confirm=True)`) is looked at once, when it is
    over, and its events are acknowledged then.

    A FIFO queue delivers the next event of an id only when the one before is acknowledged. So a
    change that follows another within the settle window is seen when that is over, and not by an
    early look.

    Args:
        queue_url: The SQS queue that is subscribed to the topic, standard or FIFO, raw delivery or
            envelope.
        fetcher: What reads the source; many entities at once, if it offers that.
        sink: The cache.
        client: A boto3 SQS client. Default: one for the region in `queue_url`.
        topic_arn: Take messages from this topic only, as their SNS envelope names it. Any other
            message, and any without an envelope (so switch off raw message delivery), is treated as
            if it were no change event.
        verify_signatures: Take messages only if SNS has signed their envelope. Takes `topic_arn`,
            and `pip install 'change-events[verify]'`. The certificate is fetched from SNS's
            endpoint in the topic's Region, once; while it can't be had, messages go back to the
            queue for a while.
        settle: The settle window in seconds: how old the last broadcast of a save may be when it
            commits. An event that names its publisher's window is held for the larger of the two;
            one that names none comes from a publisher with the default of 5, so don't set less
            unless no publisher has that. More costs nothing but held messages, and makes up for a
            source that lags, unless saves are confirmed. The queue's own delay is asked for at the
            start and every minute after: whoever lowers it must expect events of that minute to be
            let go too early.
        early_look: Look at an entity as soon as an event arrives, too. False spares a GET, and the
            cache follows only after the settle window. On a queue with `DelaySeconds` of at least
            `settle` there is one look in any case.
        prefetch: How many events to hold at the most. No more than 150 for every second of
            `visibility_timeout`, as the heartbeat takes a call for every ten of them.
        threads: How many GETs run at once. A quarter more threads than that look, so that no GET
            waits while others write; and for every ten one more acknowledges and, while receives
            come full, receives.
        batch_size: How many messages to ask for in one receive, 1 to 10.
        wait_time: Seconds of a long poll, 1 to 20. Stopping waits for the poll under way.
        visibility_timeout: Seconds, 3 to 43,200, after which messages of a worker that died come
            back. Messages of a living one are kept invisible by a heartbeat, every third of it.
        shutdown_timeout: Seconds that stopping may take; better longer than `wait_time`, as what an
            abandoned poll brings stays invisible until its visibility timeout is over.
        on_outcome: Called with an id and what a look at it did, from the look's thread. What it
            raises is logged.
        max_gets_per_second: How many GETs to send to the source, evenly spread; one for many ids is
            one. None: as many as there are reasons for.
        max_deleted_share: The share of the last hundred looks at cached entities that may see them
            gone.
        min_deleted: How many of them must have, at the least, for a deletion to be refused.
        allow_mass_deletion: Refuse no deletion, for as long as this worker lives.
        metrics: Where to measure to: one of the two in `change_events.metrics`, or your own.
        health_address: Where `run()` answers a container's probes, host and port: `/healthz` with
            200 while the worker is alive, `/readyz` with 200 while it is ready, else with 503; the
            body is what `health()` returns, as JSON. `("0.0.0.0", 8080)` in a container, whose
            platform asks from outside. None: nowhere.

    Raises:
        ConfigurationError: A value is out of its range, or signatures can't be verified with what
            is given or installed.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        fetcher: Fetcher[T],
        sink: Sink[T],
        client: Any = None,
        topic_arn: str | None = None,
        verify_signatures: bool = False,
        settle: float = DEFAULT_SETTLE,
        early_look: bool = True,
        prefetch: int = 1000,
        threads: int = 10,
        batch_size: int = 10,
        wait_time: int = 20,
        visibility_timeout: int = 60,
        shutdown_timeout: float = 25.0,
        on_outcome: Callable[[str, Outcome], object] | None = None,
        max_gets_per_second: float | None = None,
        max_deleted_share: float = MAX_SHARE,
        min_deleted: int = AT_LEAST,
        allow_mass_deletion: bool = False,
        metrics: Metrics | None = None,
        health_address: tuple[str, int] | None = None,
    ) -> None:
        _require("settle", settle, 0, MAX_SETTLE)
        _require_integer("threads", threads, 1, 256)
        _require_integer("batch_size", batch_size, 1, 10)
        _require_integer("wait_time", wait_time, 1, 20)
        _require_integer("visibility_timeout", visibility_timeout, 3, MAX_VISIBILITY)
        _require_integer("prefetch", prefetch, batch_size, HELD_PER_SECOND * visibility_timeout)
        _require("shutdown_timeout", shutdown_timeout, 0, 3600)
        if max_gets_per_second is not None:
            _require("max_gets_per_second", max_gets_per_second, 0.01, 10_000)
        _require("max_deleted_share", max_deleted_share, 0, 1)
        _require_integer("min_deleted", min_deleted, 1, WINDOW)
        if topic_arn is not None:
            parsed_arn(topic_arn)
        if health_address is not None:
            _require_address(health_address)
        self._settings = Settings(
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
            topic_arn=topic_arn,
            verify=_verifier(topic_arn) if verify_signatures else None,
            max_gets_per_second=max_gets_per_second,
        )
        self._guard = Guard(
            max_share=1.0 if allow_mass_deletion else max_deleted_share, at_least=min_deleted
        )
        self._resume = self._guard.resume
        self._tally = Tally(Meter(metrics, queue=queue_url.rpartition("/")[2]))
        self._health_address = health_address
        self._current: _Run[T] | None = None
        self._lock = threading.RLock()  # re-entrant, so that a signal handler may call stop()
        self._control: _Control | None = None
        self._stopped = False

    def run(self) -> None:
        """
        Work until `stop()` is called or, in the main thread, until SIGTERM or SIGINT comes.

        Stopping ends the looks in progress, acknowledges what they settle, and gives the rest back
        to the queue. A second signal returns at once; nothing is lost, as nothing was acknowledged.
        (The threads go on until the process ends.)

        Raises:
            ConfigurationError: The queue can't be read, or nobody can listen at `health_address`.
            RuntimeError: The worker runs already.
        """
        self._run(until_empty=False)

    def stop(self) -> None:
        """
        Ask the worker to stop, from any thread, and don't wait for it. A stopped worker does not
        run again.
        """
        with self._lock:
            self._stopped = True
            if self._control is not None:
                self._control.put(_Why.STOP)

    def drain(self) -> int:
        """
        Work until the queue is empty and nothing is held: for tests, scripts and cron.

        Messages that are invisible, as another worker holds them or a failed look sent them back
        for a while, are not waited for. Nor is anything that is down, unlike in `run()`: when
        several receives in a row have failed it raises boto3's error, and when looks in a row have,
        the fetcher's or the sink's. What it holds then goes back to the queue.

        Returns:
            How many messages were acknowledged.

        Raises:
            ConfigurationError: The queue can't be read.
            RuntimeError: The worker runs already.
            MassDeletionError: A deletion was refused, now or earlier, and `resume()` not called
                since.
            FetchError: The source is down. Or what the fetcher or the sink raised.
            botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError: It can't be read any
                more.
        """
        if self._guard.tripped:
            raise MassDeletionError(
                f"{self._guard}, and deletions are refused until Worker.resume()"
            )
        before = self._tally.read()["acknowledged"]
        self._run(until_empty=True)
        return self._tally.read()["acknowledged"] - before

    def resume(self) -> None:
        """
        Go on after a mass deletion was refused: the entities are gone indeed. From any thread.

        Deletions are believed until they are no longer too many of the last hundred looks; then
        they are watched again. It does nothing if none was refused.
        """
        with self._lock:
            self._resume()

    def stats(self) -> Stats:
        """Return what the worker has done so far."""
        return Stats(**self._tally.read())

    def health(self) -> Health:
        """Return how the worker is at the moment, from any thread."""
        current = self._current
        return NOT_RUNNING if current is None else current.health()

    def _run(self, *, until_empty: bool) -> None:
        control: _Control = queue.SimpleQueue()
        with self._lock:
            if self._control is not None:
                raise RuntimeError("this worker runs already")
            if self._stopped:
                return
            self._control = control
            self._current = run = _Run(
                self._settings, self._tally, self._guard, control, until_empty=until_empty
            )
            self._resume = run.resume
        try:
            with _serving(None if until_empty else self._health_address, self.health):
                run.work()
        finally:
            with self._lock:
                self._control = self._current = None
                self._resume = self._guard.resume


class _Run(Generic[T]):
    """
    One run of a worker, from its start to its stop.

    Args:
        settings: The worker's.
        tally: Where to count.
        guard: The worker's.
        control: What comes in here ends the run.
        until_empty: End it, too, once the queue is empty and nothing is held.
    """

    def __init__(
        self,
        settings: Settings[T],
        tally: Tally,
        guard: Guard,
        control: _Control,
        *,
        until_empty: bool,
    ) -> None:
        self._settings = settings
        self._control = control
        self._until_empty = until_empty
        self._consumer = Consumer(
            settings,
            tally,
            changed=self._changed,
            guard=guard,
            halted=self._halted,
            slot=threading.Semaphore(settings.threads),
        )
        self.resume = self._consumer.resume
        self._inbox = self._consumer.inbox
        self._pauses = self._consumer.pauses
        self._lock = self._consumer.lock
        self._due = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._backlog = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._started = False
        self._died = False
        self._polled: float | None = None
        self._acks = _Acknowledgements()

    def work(self) -> None:
        """Start, work until something comes in at the control, stop."""
        delay = self._consumer.ask_delay()
        log.info(
            "started", extra={"action": "start", "queue": self._settings.queue.url, "delay": delay}
        )
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

    def health(self) -> Health:
        """Return how the run is at the moment."""
        now = time.monotonic()
        with self._lock:
            held, in_flight, oldest = len(self._inbox), self._inbox.looking(), self._inbox.oldest()
        polled, paused = self._polled, self._why_paused()
        return Health(
            alive=not self._died,
            ready=not self._died and is_ready(paused, polled),
            paused=paused,
            last_poll=None if polled is None else now - polled,
            oldest_held=None if oldest is None else now - oldest,
            held=held,
            in_flight=in_flight,
        )

    def _why_paused(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        return self._pauses.why if self._started else "starting"

    def _start(self) -> None:
        # For looks more than there may be GETs: one begins while others read and write the cache.
        # And calls for ten events may take as long as a GET; but who waits for the queue to be
        # empty must know of all that is received.
        callers = 1 + math.ceil(self._settings.threads / BATCH_SIZE)
        helpers = 0 if self._until_empty else callers - 1
        threads = {
            "look": [
                self._thread("look", self._look_on) for _ in range(self._settings.threads * 5 // 4)
            ],
            "acknowledge": [self._thread("acknowledge", self._acknowledge) for _ in range(callers)],
            "heartbeat": [self._thread("heartbeat", self._beat)],
            "poll": [
                self._thread("poll", self._poll),
                *(self._thread("poll", self._help_poll) for _ in range(helpers)),
            ],
        }
        self._started = True
        # Started now, for its time to come: Python 3.12 starts no thread once the main thread has
        # ended.
        self._thread("finish", lambda: self._finish(threads))

    def _thread(self, role: str, target: Callable[[], None]) -> threading.Thread:
        def supervised() -> None:
            try:
                target()
            except (
                BaseException
            ) as error:  # without one of its threads a worker would limp; it stops and says so
                self._died = True
                log.critical(
                    "the %s thread died", role, exc_info=True, extra={"action": "die", "role": role}
                )
                self._control.put(error)

        # Daemons: after a second signal nothing may keep the process alive.
        thread = threading.Thread(target=supervised, name=f"change-events-{role}", daemon=True)
        thread.start()
        return thread

    def _shut_down(self, *, signals: int) -> None:
        """Stop in good order, unless that takes too long or a second signal comes."""
        self._stopping.set()
        self._consumer.close()
        with self._lock:
            self._due.notify_all()
            self._room.notify_all()
            self._backlog.notify_all()
        deadline = time.monotonic() + self._settings.shutdown_timeout
        while signals < 2 and time.monotonic() < deadline:
            why = self._next_control(deadline)
            if why is _Why.FINISHED:
                log.info("stopped", extra={"action": "stop"})
                return
            signals += why is _Why.SIGNAL
        log.warning(
            "stopped halfway; the messages still held come back by themselves",
            extra={"action": "stop"},
        )

    def _next_control(self, deadline: float) -> _Why | BaseException | None:
        # Not one long wait: a signal that the system gives to another thread does not end the main
        # thread's waiting.
        try:
            return self._control.get(
                timeout=max(0.0, min(SIGNAL_CHECK, deadline - time.monotonic()))
            )
        except queue.Empty:
            return None

    def _finish(self, threads: dict[str, list[threading.Thread]]) -> None:
        # The order matters: looks in progress first, as they settle events; then the
        # acknowledgements of these; then the heartbeat, which must not hold again what goes back
        # next. The poll comes last, as a long poll can't be cancelled; what it still brings, it
        # returns itself.
        self._stopping.wait()
        _join(threads["look"])
        self._acks.close()
        _join(threads["acknowledge"])
        self._finished.set()
        _join(threads["heartbeat"])
        self._consumer.hand_back_all()
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
                    self._consumer.ask_delay()
                # Asked before the receive: a message whose delay ends in between is then found by
                # it.
                maybe_empty = (
                    self._until_empty and self._is_idle() and not self._settings.queue.delayed()
                )
                messages = self._consumer.receive(wait=wait)
            except Exception as error:  # whatever it was, a poll loop that ends is worse
                failures += 1
                self._settings.queue.renew(error)
                if self._until_empty and failures == DRAIN_ATTEMPTS:
                    self._control.put(error)
                    return
                self._pauses.begin(RECEIVE_FAILED)
                pause = pause_after(failures, MAX_POLL_PAUSE)
                log.warning(
                    "receive failed, next in %.1f s: %s",
                    pause,
                    error,
                    extra={"action": "receive", "pause": pause},
                )
                self._stopping.wait(pause)
            else:
                if failures:
                    log.info("receiving again", extra={"action": "receive"})
                failures = 0
                self._polled = time.monotonic()
                self._pauses.end(RECEIVE_FAILED)
                self._call_for_help()
                if maybe_empty and not messages:
                    self._control.put(_Why.DRAINED)
                    return

    def _wait_for_room(self) -> bool:
        with self._lock:
            if not self._may_go_on():
                if self._consumer.full:
                    self._pauses.begin(FULL)
                self._room.wait_for(self._may_go_on)
        self._pauses.end(FULL)
        return not self._stopping.is_set()

    def _may_go_on(self) -> bool:
        return self._stopping.is_set() or self._consumer.may_receive()

    def _is_idle(self) -> bool:
        with self._lock:
            return len(self._inbox) == 0

    def _help_poll(self) -> None:
        while self._wait_for_backlog():
            with contextlib.suppress(Exception):  # if it lasts, the thread that is helped says so
                self._consumer.receive(wait=1)
            self._call_for_help()

    def _wait_for_backlog(self) -> bool:
        with self._lock:
            self._backlog.wait_for(
                lambda: self._stopping.is_set() or self._consumer.may_help_receive()
            )
        return not self._stopping.is_set()

    def _call_for_help(self) -> None:
        """Wake one more of those who receive where there is a backlog."""
        with self._lock:
            if self._consumer.may_help_receive():
                self._backlog.notify()

    # Looking

    def _look_on(self) -> None:
        while ids := self._next_ids():
            for settled in (
                [self._consumer.look(*ids)] if len(ids) == 1 else self._consumer.look_together(ids)
            ):
                self._acks.add(settled)

    def _next_ids(self) -> list[str]:
        with self._lock:
            while not self._stopping.is_set():
                now = time.monotonic()
                id = self._consumer.next(now)
                if id is not None:
                    return [id, *self._consumer.company(id, now)]
                at = self._consumer.next_at()
                self._due.wait(None if at is None else max(0.0, at - now))
            return []

    def _changed(self, came_in: int) -> None:
        if came_in:
            self._due.notify(came_in)
        if (
            self._consumer.may_receive()
        ):  # what came in may be less than there was room reserved for
            self._room.notify()

    def _halted(self, error: Exception) -> None:
        if self._until_empty:  # who called drain() waits for it
            self._control.put(error)

    # Acknowledging, holding and handing back

    def _acknowledge(self) -> None:
        while events := self._acks.take():
            self._delete([event.receipt_handle for event in events])

    def _delete(self, handles: Sequence[str]) -> None:
        for attempt in range(ACK_ATTEMPTS):
            if attempt:
                self._finished.wait(pause_after(attempt, 1.0))
            handles = self._consumer.acknowledge(handles)
            if not handles:
                return

    def _beat(self) -> None:
        """
        Keep what is held invisible: each beat extends what would be visible before the next but
        one.
        """
        period = self._settings.visibility_timeout / 3
        beat = time.monotonic() + period
        while not self._finished.wait(max(0.0, beat - time.monotonic())):
            self._consumer.extend(beat + 2 * period)
            self._pauses.count()
            beat += period
        self._pauses.count()


class _Acknowledgements:
    """Events that wait to be acknowledged, ten at a time."""

    def __init__(self) -> None:
        self._events: list[Held] = []
        self._closed = False
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # of those who take, one waits for company

    def add(self, events: list[Held]) -> None:
        """
        Let events wait. Whoever takes them is woken for the first and for the tenth, not for each.
        """
        with self._changed:
            before = len(self._events)
            self._events += events
            if 0 == before < len(self._events) or len(self._events) >= BATCH_SIZE:
                self._changed.notify()

    def close(self) -> None:
        """Let nobody wait for more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> list[Held]:
        """
        Wait for an event, and a moment for up to nine more; return none once all are taken and no
        more will come.
        """
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._events or self._closed)
            self._changed.wait_for(
                lambda: len(self._events) >= BATCH_SIZE or self._closed, ACK_LINGER
            )
            taken, self._events = self._events[:BATCH_SIZE], self._events[BATCH_SIZE:]
            return taken


def _verifier(topic_arn: str | None) -> Callable[[Mapping[str, object]], None]:
    if topic_arn is None:
        raise ConfigurationError(
            "verify_signatures=True takes topic_arn=, too: SNS signs for anybody who has a topic"
        )
    try:
        from change_events._consumer.signature import SignatureVerifier
    except ImportError as error:
        raise ConfigurationError(
            f"verify_signatures=True needs cryptography ({error}): pip install 'change-events[verify]'"
        ) from error
    return SignatureVerifier(topic_arn).verify


@contextlib.contextmanager
def _serving(address: tuple[str, int] | None, health: Callable[[], Health]) -> Iterator[None]:
    if address is None:
        yield
        return
    from change_events._consumer.probe import (
        serving,
    )  # not above: most workers need no server

    with serving(address, health):
        yield


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _require(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigurationError(f"{name} must be from {least} to {most}, not {value!r}")


def _require_integer(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int):
        raise ConfigurationError(f"{name} must be an integer, not {value!r}")
    _require(name, value, least, most)


def _require_address(address: tuple[str, int]) -> None:
    match address:
        case (str(), int(port)) if 0 <= port <= 65_535:
            return
    raise ConfigurationError(
        f'health_address must be a host and a port, like ("0.0.0.0", 8080), not {address!r}'
    )


@contextlib.contextmanager
def _signals_put_into(control: _Control) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, lambda *_: control.put(_Why.SIGNAL))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
