"""
One run of a worker: its threads, and the order in which they stop.

Each thread has one role and repeats one step: it polls, helps to poll, looks, acknowledges, or
keeps held messages invisible. What the threads share is in `Consumer` and `Acknowledgements`.
"""

from __future__ import annotations

import contextlib
import math
import queue
import signal
import threading
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from change_events._consumer.acknowledgements import Acknowledgements
from change_events._consumer.backoff import Backoff
from change_events._consumer.consumer import Consumer
from change_events._consumer.deletions import Deletions
from change_events._consumer.desk import Desk
from change_events._consumer.experiment import PATIENCE
from change_events._consumer.health import Health, Pauses, is_ready
from change_events._consumer.intake import Intake, MessageReader
from change_events._consumer.log import ThrottledLog, log
from change_events._consumer.looks import Looks
from change_events._consumer.queue import BATCH_SIZE, Queue
from change_events._consumer.visibility import Visibility
from change_events.typing import BulkFetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from change_events._consumer.guard import Guard
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally

T = TypeVar("T")

SIGNAL_CHECK = 0.25
"""Seconds between the main thread's checks for a signal."""


class StopReason(Enum):
    """Why a run ends, or goes on to the next stage of its end."""

    STOP = auto()
    SIGNAL = auto()
    DRAINED = auto()
    FINISHED = auto()


Control: TypeAlias = "queue.SimpleQueue[StopReason | BaseException]"
"""
What ends a run: a reason, or the error of a thread that died.

A queue and not an event, because `put` is safe in a signal handler.
"""


class Threads:
    """Time and threads, as a run needs them. The proof has its own, in virtual time."""

    clock = staticmethod(time.monotonic)
    wall_clock = staticmethod(time.time)
    condition = threading.Condition
    event = threading.Event
    semaphore = threading.Semaphore

    def start(self, role: str, target: Callable[[], None]) -> threading.Thread:
        """Start a thread. Daemons: after a second signal nothing can keep the process alive."""
        thread = threading.Thread(target=target, name=f"change-events-{role}", daemon=True)
        thread.start()
        return thread


class Run(Generic[T]):
    """
    One run of a worker, from its start to its stop. What comes in at `control` ends it.

    `until_empty` ends it, too, once the queue is empty and nothing is held. The threads share
    `consumer`; what they do is in `intake`, `looks`, `acknowledgements` and `visibility`.
    """

    def __init__(
        self,
        settings: Settings[T],
        *,
        queue: Queue,
        guard: Guard,
        tally: Tally,
        control: Control,
        verify: Callable[[Mapping[str, object]], object] | None = None,
        until_empty: bool = False,
        threads: Threads | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008  # it is frozen
    ) -> None:
        self._settings = settings
        self._control = control
        self._until_empty = until_empty
        self._threads = threads = threads or Threads()
        self._stopping = threads.event()
        self._finished = threads.event()
        self._state = "starting"
        clock, condition = threads.clock, threads.condition
        throttled = ThrottledLog(clock)
        fetcher = settings.fetcher
        bulk = fetcher if isinstance(fetcher, BulkFetcher) else None
        self.consumer = Consumer(
            Desk(
                settings,
                guard,
                backoff=backoff,
                patience=0.0 if until_empty else PATIENCE,
                bulk=bulk,
            ),
            pauses=Pauses(tally.meter, clock=clock),
            tally=tally,
            clock=clock,
            condition=condition,
        )
        self.visibility = Visibility(
            queue=queue,
            consumer=self.consumer,
            timeout=settings.visibility_timeout,
            throttled=throttled,
            clock=clock,
        )
        self.intake = Intake(
            settings=settings,
            queue=queue,
            consumer=self.consumer,
            visibility=self.visibility,
            reader=MessageReader(settings=settings, tally=tally, verify=verify, clock=clock),
            clock=clock,
        )
        self.looks = Looks(
            settings=settings,
            consumer=self.consumer,
            deletions=Deletions(guard, settings.sink, fetcher, lock=self.consumer),
            visibility=self.visibility,
            tally=tally,
            throttled=throttled,
            slot=threads.semaphore(settings.threads),
            clock=clock,
            wall_clock=threads.wall_clock,
        )
        self.acknowledgements = Acknowledgements(
            queue, tally, throttled=throttled, pause=self._finished.wait, condition=condition
        )

    def work(self) -> None:
        """Start, work until something comes in at the control, stop."""
        self.ask_delay()
        self.looks.recall()
        if self._until_empty and self.looks.halted is not None:
            raise self.looks.halted
        # Not before: until the queue has answered, Ctrl-C should just end it.
        with contextlib.nullcontext() if self._until_empty else _signals_put_into(self._control):
            why: StopReason | BaseException | None = StopReason.SIGNAL
            self.start()
            try:
                while (why := self._next_control(math.inf)) is None:
                    pass
            finally:
                self._shut_down(signals=int(why is StopReason.SIGNAL))
        if isinstance(why, BaseException):
            raise why

    def ask_delay(self) -> None:
        """Ask the queue for its delay, which shows that it can be read."""
        delay = self.intake.ask_delay()
        log.info(
            "started",
            extra={"action": "start", "queue": self._settings.queue_url, "delay": delay},
        )

    def resume(self) -> None:
        """Go on after a mass deletion was refused."""
        self.looks.resume()

    def health(self) -> Health:
        """Return the run's health now."""
        events, in_flight = self.consumer.events()
        now, last_poll, paused = self._threads.clock(), self.intake.last_poll, self._why_paused()
        alive = self._state != "died"
        return Health(
            alive=alive,
            ready=alive and is_ready(paused, last_poll),
            paused=paused,
            last_poll=None if last_poll is None else now - last_poll,
            oldest_held=max((now - event.received for event in events), default=None),
            held=len(events),
            in_flight=in_flight,
        )

    def _why_paused(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        return "starting" if self._state == "starting" else self.consumer.pauses.why

    # Starting and stopping

    def start(self) -> None:
        """Start the threads."""
        # More looks than GETs: one begins while others read and write the cache. A call for ten
        # events can take as long as a GET, so there are as many callers for every ten GETs. But a
        # drain must know of all that is received.
        self._state = "running"
        threads = self._settings.threads
        callers = 1 + math.ceil(threads / BATCH_SIZE)
        helpers = 0 if self._until_empty else callers - 1
        started = {
            "look": self._start("look", self._look, threads * 5 // 4),
            "acknowledge": self._start("acknowledge", self._acknowledge, callers),
            "heartbeat": self._start("heartbeat", self._beat),
            "poll": self._start("poll", self._poll) + self._start("poll", self._help, helpers),
        }
        # Started now: Python 3.12 starts no thread once the main thread has ended.
        self._start("finish", lambda: self._finish(started))

    def stop(self) -> None:
        """Begin to stop, and don't wait for the end."""
        self._stopping.set()
        self.consumer.stop()

    def _start(
        self, role: str, step: Callable[[], None], number: int = 1
    ) -> list[threading.Thread]:
        def supervised() -> None:
            try:
                step()
            except BaseException as error:  # without one of its threads a worker would limp
                self._state = "died"
                log.critical(
                    "the %s thread died",
                    role,
                    exc_info=True,
                    extra={"action": "die", "role": role},
                )
                self._control.put(error)

        return [self._threads.start(role, supervised) for _ in range(number)]

    def _finish(self, threads: Mapping[str, Sequence[threading.Thread]]) -> None:
        self._stopping.wait()
        # Looks under way first: they settle events.
        _join(threads["look"])
        # Then the acknowledgements of these events.
        self.acknowledgements.close()
        _join(threads["acknowledge"])
        # Then the heartbeat, which must not extend what goes back next.
        self._finished.set()
        _join(threads["heartbeat"])
        self.visibility.hand_back_all()
        # The poll last: a long poll can't be cancelled. What it still brings, it hands back.
        _join(threads["poll"])
        self._control.put(StopReason.FINISHED)

    def _shut_down(self, *, signals: int) -> None:
        """Stop in good order, unless that takes too long or a second signal comes."""
        deadline = self._threads.clock() + self._settings.shutdown_timeout
        self.stop()
        while signals < 2 and self._threads.clock() < deadline:
            why = self._next_control(deadline)
            if why is StopReason.FINISHED:
                log.info("stopped", extra={"action": "stop"})
                return
            signals += why is StopReason.SIGNAL
        log.warning(
            "stopped halfway; the messages still held come back by themselves",
            extra={"action": "stop"},
        )

    def _next_control(self, deadline: float) -> StopReason | BaseException | None:
        # Short waits: a signal that another thread gets does not end the main thread's waiting.
        try:
            return self._control.get(
                timeout=max(0.0, min(SIGNAL_CHECK, deadline - self._threads.clock()))
            )
        except queue.Empty:
            return None

    # What each thread repeats

    def _poll(self) -> None:
        while self.consumer.wait_for_room():
            polled = self.intake.poll(until_empty=self._until_empty)
            if polled.drained or polled.error is not None:
                self._control.put(polled.error or StopReason.DRAINED)
                return
            if polled.pause:
                self._stopping.wait(polled.pause)

    def _help(self) -> None:
        while self.consumer.wait_for_backlog():
            self.intake.help()

    def _look(self) -> None:
        while ids := self.consumer.take():
            for settled in self.looks.look(ids):
                self.acknowledgements.add(settled)
            if self._until_empty and self.looks.halted is not None:
                self._control.put(self.looks.halted)

    def _acknowledge(self) -> None:
        while self.acknowledgements.acknowledge():
            pass

    def _beat(self) -> None:
        while not self._finished.wait(self.visibility.until_beat()):
            self.visibility.beat()
            self.consumer.pauses.count()
        self.consumer.pauses.count()


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _signals_put_into(control: Control) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, lambda *_: control.put(StopReason.SIGNAL))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
