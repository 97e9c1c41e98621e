"""The threads that broadcast: for asynchronous callers, and in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from change_events._text import printable

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

Job: TypeAlias = Callable[[], None]
Submit: TypeAlias = Callable[[Job], None]

log = logging.getLogger("change_events")

SENDERS = 10
"""The most threads of each kind that broadcast in the background."""

CALLERS = 32
"""The most asynchronous saves that are broadcast at the same time; the others wait."""

MAX_CONFIRMATIONS = 100
"""The most that wait for a sender. A dropped one costs its consumers the rest of their window."""


def start_daemon(target: Job, name: str) -> None:
    """Start a thread for which the interpreter's exit does not wait."""
    threading.Thread(target=target, name=name, daemon=True).start()


class Pool:
    """
    Threads that run jobs. They start when there is something to do, and are daemons.

    `ThreadPoolExecutor` would do, but the interpreter's exit waits for all of its jobs.

    Args:
        name: What the threads' names begin with.
        size: The most threads.
        start: Starts a thread, or raises `RuntimeError`.
    """

    def __init__(
        self, name: str, size: int, *, start: Callable[[Job, str], None] = start_daemon
    ) -> None:
        self._name = name
        self._size = size
        self._start = start
        self.start_over()

    def start_over(self) -> None:
        """Forget the threads and what waits for them."""
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._threads = 0
        self._idle = 0

    def submit(self, job: Job) -> None:
        """
        Run a job in one of the threads.

        Raises:
            RuntimeError: There is no thread and none can be started: there are too many, or the
                interpreter is shutting down.
        """
        with self._lock:
            if self._idle > 0:  # it is -1 if a signal handler has submitted a job in this line
                self._idle -= 1
            elif self._threads < self._size:
                self._add_thread()
            self._jobs.put(job)

    def _add_thread(self) -> None:
        self._threads += 1
        try:
            self._start(partial(self._work, self._jobs), f"{self._name}-{self._threads}")
        except RuntimeError:
            self._threads -= 1
            if not self._threads:
                raise

    def _work(self, jobs: SimpleQueue[Job]) -> None:
        try:
            while True:
                jobs.get()()
                with self._lock:
                    self._idle += 1
        finally:  # a job has raised
            with self._lock:
                self._threads -= 1


class Senders:
    """
    The threads that broadcast. No kind of broadcast waits for another kind.

    Args:
        submit: Runs a renewal or a confirmation in another thread, or raises `RuntimeError` if
            there is none. Default: a pool of `SENDERS` threads for each of the two.
        max_confirmations: How many confirmations can wait; further ones are dropped.
        start: Starts a thread, or raises `RuntimeError`.

    Attributes:
        callers: Broadcasts before asynchronous saves.
        late: Broadcasts after asynchronous saves that were too slow.
    """

    def __init__(
        self,
        submit: Submit | None = None,
        *,
        max_confirmations: int = MAX_CONFIRMATIONS,
        start: Callable[[Job, str], None] = start_daemon,
    ) -> None:
        self.callers = Pool("change-events-save", CALLERS, start=start)
        self.late = Pool("change-events-late", SENDERS, start=start)
        self._renewals = Pool("change-events-broadcast", SENDERS, start=start)
        self._confirmations = Pool("change-events-confirm", SENDERS, start=start)
        self._submit_renewal = submit or self._renewals.submit
        self._submit_confirmation = submit or self._confirmations.submit
        self._max_confirmations = max_confirmations
        self._forget_confirmations()

    def start_over(self) -> None:
        """Forget the threads and what waits for them."""
        for pool in (self.callers, self.late, self._renewals, self._confirmations):
            pool.start_over()
        self._forget_confirmations()

    def _forget_confirmations(self) -> None:
        self._lock = threading.RLock()  # re-entrant, because a signal handler may save, too
        self._waiting = 0

    def renew(self, job: Job) -> bool:
        """Run a job soon; return False if no thread can be started."""
        return _sent(self._submit_renewal, job)

    def confirm(self, broadcast: Job) -> None:
        """Broadcast in the background that a save is over. Losing it costs only latency."""
        with self._lock:
            if self._waiting >= self._max_confirmations:
                return
            self._waiting += 1
        if not _sent(self._submit_confirmation, partial(self._confirm, broadcast)):
            self._forget_one()

    def _confirm(self, broadcast: Job) -> None:
        try:
            broadcast()
        except Exception as error:
            log.info("confirmation lost: %s", printable(error), extra={"action": "confirm"})
        finally:
            self._forget_one()

    def _forget_one(self) -> None:
        with self._lock:
            self._waiting -= 1


def _sent(submit: Submit, job: Job) -> bool:
    try:
        submit(job)
    except RuntimeError as error:  # too many threads, or the interpreter is shutting down
        log.debug("no broadcast in the background: %s", printable(error), extra={"action": "renew"})
        return False
    return True


async def in_thread(pool: Pool, job: Callable[[], T], *, shielded: bool = False) -> T:
    """
    Run a job in a pool, within the caller's context variables; the event loop goes on.

    Without asyncio or without a thread, the job runs here: a blocked loop is better than a lost
    save.

    Args:
        pool: The pool.
        job: The job.
        shielded: The job runs even if the caller is cancelled. Otherwise it then runs only if it
            has begun.
    """
    import asyncio  # not above: a synchronous caller does not need it

    context = copy_context()
    outcome: list[tuple[T | None, BaseException | None]] = []

    def work() -> None:
        if done.cancelled():
            return
        try:
            outcome.append((context.run(job), None))
        except BaseException as error:  # the caller raises it
            outcome.append((None, error))
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(_wake, done)

    try:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        pool.submit(work)
    except RuntimeError:
        return job()
    await (asyncio.shield(done) if shielded else done)
    ((result, error),) = outcome
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error it is a T


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():  # the caller was cancelled
        done.set_result(None)
