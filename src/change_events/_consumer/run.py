"""
One run of a worker: its threads, and the order in which they stop.

Each thread has one role and repeats one step: it polls, helps to poll, looks, acknowledges, keeps
held messages invisible, or reports to a `Metrics`. What the threads share is in `Consumer` and
`Acknowledgements`. The user's code can hang. It runs only in the threads that look or report.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.acknowledgements import Acknowledgements
from change_events._consumer.backoff import Backoff
from change_events._consumer.consumer import Consumer, nap
from change_events._consumer.control import Control, Notice, next_notice, signals_put_into
from change_events._consumer.crew import Crew, Threads
from change_events._consumer.deletions import Deletions
from change_events._consumer.desk import Desk
from change_events._consumer.experiment import PATIENCE
from change_events._consumer.health import Health, Pauses, is_ready
from change_events._consumer.intake import Intake, MessageReader
from change_events._consumer.log import ThrottledLog, log
from change_events._consumer.looks import Looks
from change_events._consumer.queue import BATCH_SIZE, Queue
from change_events._consumer.visibility import Visibility

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from change_events._consumer.guard import Guard
    from change_events._consumer.limit import Limit
    from change_events._consumer.settings import Settings
    from change_events._consumer.stats import Tally

T = TypeVar("T")

HAND_BACK_TIMEOUT = 3.0
"""Seconds that a stop which gives up waits for SQS to take back what is held."""

MEASURE = 1.0
"""Seconds between two reports to a `Metrics`."""

LAST_WORDS = 3.0
"""Seconds that a stop waits for the sink's state, and for a `Metrics` to take the last report."""


class Run(Generic[T]):
    """
    One run of a worker, from its start to its stop. What comes in at `control` ends it, and so does
    an empty queue, if `until_empty` and nothing is held. Each of `asides` has a thread.
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
        limit: Limit | None = None,
        asides: Sequence[Callable[[Looks[T], threading.Event], None]] = (),
    ) -> None:
        threads = threads or Threads()
        self._settings, self._control, self._asides = settings, control, asides
        self._crew = Crew(threads, on_death=control.put)
        self._stopping = threads.event()
        self._finished = threads.event()
        self.gave_up = False
        clock, condition = threads.clock, threads.condition
        throttled = ThrottledLog(clock)
        patience = 0.0 if until_empty else PATIENCE  # a drain waits for no id that is stuck
        self.consumer = Consumer(
            Desk(settings, guard, backoff=backoff, patience=patience, limit=limit),
            pauses=Pauses(tally.meter, clock=clock),
            tally=tally,
            clock=clock,
            condition=condition,
            hire=lambda: self._crew.add("look", self._look, most=settings.most_looks),
        )
        tally.watch("get_limit", lambda: self.consumer.get_limit)
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
            until_empty=until_empty,
            reader=MessageReader(settings=settings, tally=tally, verify=verify, clock=clock),
            clock=clock,
        )
        self.looks = Looks(
            settings=settings,
            consumer=self.consumer,
            deletions=Deletions(
                guard,
                settings.sink,
                settings.fetcher,
                lock=self.consumer,
                one_at_a_time=threads.semaphore(1),
            ),
            visibility=self.visibility,
            tally=tally,
            throttled=throttled,
            slot=threads.semaphore(settings.threads),
            clock=clock,
            wall_clock=threads.wall_clock,
            on_halt=control.put if until_empty else None,
        )
        self.acknowledgements = Acknowledgements(
            queue, tally, throttled=throttled, pause=self._finished.wait, condition=condition
        )

    def work(self) -> None:
        """Start, work until something comes in at the control, stop."""
        self.ask_delay()
        # Not before: until the queue has answered, Ctrl-C should just end it.
        with nullcontext() if self.intake.until_empty else signals_put_into(self._control):
            self.start()
            why: Notice | BaseException | None = Notice.SIGNAL
            try:
                while (why := next_notice(self._control, math.inf)) in {None, Notice.RESUME}:
                    if why is Notice.RESUME:
                        log.warning("told to resume by SIGUSR1", extra={"action": "resume"})
                        self.resume()
            finally:
                self._shut_down(signals=int(why is Notice.SIGNAL))
        if error := why if isinstance(why, BaseException) else self._crew.death:
            raise error

    def ask_delay(self) -> None:
        """Ask the queue for its delay, which shows that it can be read."""
        delay, url = self.intake.ask_delay(), self._settings.queue_url
        log.info("started", extra={"action": "start", "queue": url, "delay": delay})

    def resume(self) -> None:
        """Go on after a mass deletion was refused."""
        self.consumer.resume()
        # In a thread of its own: the sink can hang, and this can be the main thread.
        self._crew.start_aside("resume", self.looks.deletions.keep)

    def health(self) -> Health:
        """Return the run's health now."""
        events, in_flight = self.consumer.events()
        now, last_poll, paused = self.looks.clock(), self.intake.last_poll, self._why_paused()
        alive = self._crew.death is None
        return Health(
            alive=alive,
            ready=alive and is_ready(paused, last_poll),
            paused=paused,
            last_poll=None if last_poll is None else now - last_poll,
            oldest_held=max((now - event.received for event in events), default=None),
            held=len(events),
            prefetch=self.consumer.prefetch(),
            in_flight=in_flight,
            get_limit=self.consumer.get_limit,
        )

    def _why_paused(self) -> str | None:
        if self.gave_up:
            return "gave up"
        if self._stopping.is_set():
            return "stopping"
        return self.consumer.pauses.why if self._crew.working else "starting"

    # Starting and stopping

    def start(self) -> None:
        """Start the threads; raise a RuntimeError if there are not enough. None is running then."""
        # A call for ten can take as long as a GET. A drain must know of all that it receives.
        threads = self._settings.threads
        callers = 1 + math.ceil(threads / BATCH_SIZE)
        helpers = 0 if self.intake.until_empty else callers - 1
        self._crew.start(
            {
                "look": [self._look],  # others follow when they are needed
                "acknowledge": [self.acknowledgements.work] * callers,
                "heartbeat": [self._beat],
                "poll": [self._poll] + [self.intake.help] * helpers,
                "guard": [partial(self.looks.deletions.share, self._finished.wait)],
                "nap": [partial(nap, self.consumer, self._crew.threads)] * self._crew.threads.late,
                "measure": [self._measure] * self.looks.tally.meter.on,
                "aside": [partial(each, self.looks, self._stopping) for each in self._asides],
                # Started now: Python 3.12 starts no thread once the main thread has ended.
                "finish": [self._finish],
            }
        )

    def stop(self) -> None:
        """Begin to stop, and don't wait for the end."""
        self._stopping.set()
        self.consumer.stop_receiving()

    def _finish(self) -> None:
        self._stopping.wait()
        # The polls first: a long poll can't be cancelled, and would receive what goes back.
        # Meanwhile looks go on, and settle events that need not go back then.
        self._crew.join("poll")
        self.consumer.stop()
        self._crew.join("look")
        # Then the acknowledgements of the events that these looks have settled.
        self.acknowledgements.close()
        self._crew.join("acknowledge")
        # Then the heartbeat, which hands back the rest.
        self._finished.set()
        self._crew.join("heartbeat")
        for role in ("aside", "guard", "measure", "nap"):  # most call what the user has made
            self._crew.join(role, LAST_WORDS)
        self._control.put(Notice.FINISHED)

    def _shut_down(self, *, signals: int) -> None:
        """Stop in good order; give up if that takes too long or a second signal comes."""
        finished = False
        try:
            self.stop()
            finished = self._await_finish(signals)
        finally:  # also if Ctrl-C ends the wait
            self.gave_up = not finished
            # What `_finish` would do next: the look that it waits for can hang for ever.
            self.consumer.stop()
            self.acknowledgements.close()
            self._finished.set()
        if finished:
            log.info("stopped", extra={"action": "stop"})
        else:
            self._await_hand_back()

    def _await_finish(self, signals: int) -> bool:
        timeout = self._settings.shutdown_timeout
        deadline = self.looks.clock() + timeout
        while signals < 2 and (left := deadline - self.looks.clock()) > 0:
            if left <= timeout / 2:  # the rest is for looks under way
                self.consumer.stop()
            notice = next_notice(self._control, left)
            if notice is Notice.FINISHED:
                return True
            signals += notice is Notice.SIGNAL
        return False

    def _await_hand_back(self) -> None:
        deadline = self.looks.clock() + HAND_BACK_TIMEOUT
        while not self.visibility.handed_back and (left := deadline - self.looks.clock()) > 0:
            if next_notice(self._control, left) is Notice.SIGNAL:
                break
        log.warning(
            "stopped halfway; %s",
            "what was held has gone back to the queue"
            if self.visibility.handed_back
            else "the messages still held come back by themselves",
            extra={"action": "stop"},
        )

    # What each thread repeats

    def _poll(self) -> None:
        while self.consumer.wait_for_room():
            polled = self.intake.poll()
            if polled.drained or polled.error is not None:
                self._control.put(polled.error or Notice.DRAINED)
                return
            if polled.pause:
                self._stopping.wait(polled.pause)

    def _look(self) -> None:
        ids: Sequence[str] = ()
        while ids := self.consumer.take(after=ids):
            for settled in self.looks.look(ids):
                self.acknowledgements.add(settled)

    def _beat(self) -> None:
        while not self._finished.wait(self.visibility.until_beat()):
            self.visibility.beat()
        # In this thread, so that no beat extends what goes back.
        self.visibility.hand_back_all()

    def _measure(self) -> None:
        while not self._finished.wait(MEASURE):
            self._report()
        self._crew.join("heartbeat")
        self._report()

    def _report(self) -> None:
        self.consumer.pauses.report()
        self.looks.tally.report()
