"""
The threads of a run: all that it begins with start to work, or none does. Others can follow.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from concurrent.futures import wait
from queue import SimpleQueue
from typing import TYPE_CHECKING

from change_events._consumer.log import log
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


ADD_AGAIN = 60.0
"""Seconds after which one more thread is asked for again: the process can have more by then."""


class Threads:
    """
    Time and threads, as a run or an operation needs them. The proof has its own, in virtual time.
    """

    clock = staticmethod(time.monotonic)
    wall_clock = staticmethod(time.time)
    condition = threading.Condition
    event = threading.Event
    semaphore = threading.Semaphore
    lock = threading.Lock
    queue = SimpleQueue
    sleep = staticmethod(time.sleep)
    wait = staticmethod(wait)
    late = True  # threads can wake later than they want

    def start(self, role: str, target: Callable[[], None]) -> threading.Thread:
        """Start a thread. Daemons: after a second signal nothing can keep the process alive."""
        thread = threading.Thread(target=target, name=f"change-events-{role}", daemon=True)
        thread.start()
        return thread


class Crew:
    """
    Threads by role.

    Args:
        threads: Time and threads.
        on_death: Called with the error that a thread died of.

    Attributes:
        working: True once the threads work.
        death: What the first thread died of, perhaps while the run stops. None: all are well.
    """

    def __init__(self, threads: Threads, *, on_death: Callable[[BaseException], object]) -> None:
        self.threads = threads
        self._on_death = on_death
        self._gate = threads.event()
        self._by_role: dict[str, list[threading.Thread]] = {}
        self._adding = threads.lock()
        self._add_at = -math.inf
        self.working = False
        self.death: BaseException | None = None

    def start(self, roles: Mapping[str, Sequence[Callable[[], None]]]) -> None:
        """
        Start a thread for each of these functions; none is called before all threads have started.

        Raises:
            RuntimeError: The operating system has not enough threads left. Those that had started
                have ended, and none has called its function.
        """
        try:
            for role, functions in roles.items():
                self._by_role[role] = []
                for work in functions:
                    self._by_role[role].append(self._start(role, work))
        except BaseException as error:
            self._gate.set()
            for role in self._by_role:
                self.join(role)
            if not isinstance(error, RuntimeError):
                raise
            number = sum(map(len, roles.values()))
            raise RuntimeError(
                f"the worker can't have its {number} threads, and has not started: {error}. Let "
                "the process have more threads, or give the worker a smaller threads="
            ) from error
        self.working = True
        self._gate.set()

    def add(self, role: str, work: Callable[[], None], *, most: int) -> None:
        """Start one more thread of a role, unless there are so many, or just none could be had."""
        with self._adding:
            now = self.threads.clock()
            if not self.working or now < self._add_at:
                return
            others = self._by_role[role]
            if len(others) >= most:
                return
            try:
                others.append(self._start(role, work))
            except RuntimeError as error:
                self._add_at = now + ADD_AGAIN
                log.warning(
                    "the worker goes on with %d %s threads: %s",
                    len(others),
                    role,
                    printable(error),
                    extra={"action": "limp"},
                )

    def start_aside(self, role: str, work: Callable[[], object]) -> None:
        """Run what `resume` has to store, in a thread that nobody waits for."""

        def logged() -> None:
            try:
                work()
            except Exception as error:
                log.warning(
                    "the sink has not kept what resume() said: %s",
                    printable(error),
                    extra={"action": "resume"},
                )

        with contextlib.suppress(RuntimeError):  # there is no thread left
            self.threads.start(role, logged)

    def join(self, role: str, *timeout: float) -> None:
        """Wait until the threads of a role have ended; for each at most `timeout` seconds."""
        for thread in self._by_role[role]:  # those that are added meanwhile, too
            thread.join(*timeout)

    def _start(self, role: str, work: Callable[[], None]) -> threading.Thread:
        return self.threads.start(role, lambda: self._work(role, work))

    def _work(self, role: str, work: Callable[[], None]) -> None:
        self._gate.wait()
        if not self.working:
            return
        try:
            work()
        except BaseException as error:  # without one of its threads a worker would limp
            self.death = self.death or error
            log.critical(
                "the %s thread died", role, exc_info=True, extra={"action": "die", "role": role}
            )
            self._on_death(error)
