"""Threads in virtual time: what a production run is given instead of real ones."""

from __future__ import annotations

import math
import random
from collections import deque
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future
from queue import Empty
from typing import TYPE_CHECKING, Any, cast

from change_events._consumer.crew import Threads
from verification.proof.simulation._kernel import NEVER

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection
    from types import TracebackType

    from verification.proof.simulation._kernel import Kernel, Process, Task


class Condition:
    """A `threading.Condition`, among the tasks of a kernel."""

    def __init__(self, kernel: Kernel, lock: threading.Lock | None = None) -> None:
        self._kernel = kernel
        self._lock = lock
        self._waiting: dict[Task, None] = {}

    def __enter__(self) -> None:
        # All tasks are one thread: a lock that another task holds would never be released.
        if self._lock is not None and not self._lock.acquire(blocking=False):
            raise RuntimeError("a task paused while it held a lock")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified; return False after `timeout` seconds."""
        task = self._kernel.current
        self._waiting[task] = None
        self.__exit__(None, None, None)
        try:
            self._kernel.pause(NEVER if timeout is None else timeout)
        finally:
            notified = task not in self._waiting
            self._waiting.pop(task, None)
            self.__enter__()
        return notified

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """Wait until the predicate holds; return False if it does not after `timeout` seconds."""
        deadline = math.inf if timeout is None else self._kernel.now + timeout
        while not (holds := predicate()) and self._kernel.now < deadline:
            self.wait(None if timeout is None else deadline - self._kernel.now)
        return bool(holds)

    def notify(self, number: int = 1) -> None:
        """Wake tasks that wait."""
        for task in list(self._waiting)[:number]:
            del self._waiting[task]
            self._kernel.wake(task, self._kernel.now)

    def notify_all(self) -> None:
        """Wake all tasks that wait."""
        self.notify(len(self._waiting))


class Event:
    """A `threading.Event`."""

    def __init__(self, kernel: Kernel, stall: Callable[[], float]) -> None:
        self._kernel = kernel
        self._stall = stall
        self._condition = Condition(kernel)
        self._is_set = False

    def is_set(self) -> bool:
        """Return True once it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all tasks that wait."""
        self._is_set = True
        self._condition.notify_all()

    def clear(self) -> None:
        """Let tasks wait again."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return False if it is not after `timeout` seconds, or a stall."""
        self._condition.wait_for(self.is_set, timeout)
        if (stall := self._stall()) > 0:
            self._kernel.pause(stall)
        return self._is_set


class Queue:
    """A `queue.SimpleQueue`."""

    def __init__(self, kernel: Kernel) -> None:
        self._condition = Condition(kernel)
        self._items: deque[Any] = deque()

    def put(self, item: object) -> None:
        """Put it in, and wake a task that waits."""
        self._items.append(item)
        self._condition.notify()

    def get(self) -> Any:
        """Take an item out, once there is one."""
        self._condition.wait_for(lambda: self._items)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        """
        Take an item out.

        Raises:
            Empty: There is none.
        """
        if not self._items:
            raise Empty
        return self._items.popleft()


class Semaphore:
    """A `threading.Semaphore`."""

    def __init__(self, kernel: Kernel, value: int) -> None:
        self._condition = Condition(kernel)
        self._value = value

    def acquire(self, timeout: float | None = None) -> bool:
        """Take one of the value, once there is one; return False if there is none in time."""
        if not self._condition.wait_for(lambda: self._value > 0, timeout):
            return False
        self._value -= 1
        return True

    def release(self) -> None:
        """Give it back."""
        self._value += 1
        self._condition.notify()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Lock(Semaphore):
    """A `threading.Lock`."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, 1)

    def locked(self) -> bool:
        """Return True while it is held."""
        return not self._value

    def release(self) -> None:
        """
        Give it back.

        Raises:
            RuntimeError: Nobody holds it.
        """
        if self._value:
            raise RuntimeError("release unlocked lock")
        super().release()


class Thread:
    """A `threading.Thread`: a task of a process."""

    def __init__(self, kernel: Kernel, process: Process, target: Callable[[], None]) -> None:
        self._over = Event(kernel, lambda: 0.0)
        self._target = target
        self.task = kernel.spawn(process, self._run)

    def _run(self) -> None:
        self._target()
        self._over.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is over, or `timeout` seconds."""
        self._over.wait(timeout)


class VirtualThreads(Threads):
    """
    What a run of the production worker, or an operation, is given for its threads.

    Args:
        kernel: The only clock there is.
        process: The threads' process.
        offset: How far this process's monotonic clock is ahead: no two machines have the same.
        period: Seconds between beats.
        stalls: The chance that the heartbeat misses its next beats.
    """

    late = False

    def __init__(
        self,
        kernel: Kernel,
        process: Process,
        *,
        offset: float,
        period: float = 0.0,
        stalls: Callable[[], bool] = lambda: False,
    ) -> None:
        self._kernel = kernel
        self._process = process
        self._period = period
        self._stalls = stalls
        self._heartbeat: Task | None = None
        here = cast("Any", self)
        here.clock = lambda: kernel.now + offset
        here.wall_clock = lambda: kernel.now + offset / 1e4  # machines differ by up to a second
        here.condition = lambda lock: Condition(kernel, lock)
        here.event = lambda: Event(kernel, self._stall)
        here.semaphore = lambda value: Semaphore(kernel, value)
        here.queue = lambda: Queue(kernel)
        here.sleep = kernel.pause
        here.wait = self._wait

    def start(self, role: str, target: Callable[[], None]) -> threading.Thread:
        """Start a task."""
        thread = Thread(self._kernel, self._process, target)
        if role == "heartbeat":
            self._heartbeat = thread.task
        return cast("threading.Thread", thread)

    def _wait(
        self,
        futures: Collection[Future[Any]],
        timeout: float | None = None,
        return_when: str = ALL_COMPLETED,
    ) -> tuple[Collection[Future[Any]], Collection[Future[Any]]]:
        """Do what `concurrent.futures.wait` does; keep the order, so that a run can be repeated."""
        condition, left, raised = Condition(self._kernel), len(futures), False

        def count(future: Future[Any]) -> None:
            nonlocal left, raised
            left -= 1
            raised = raised or future.cancelled() or future.exception() is not None
            condition.notify_all()

        for each in futures:
            each.add_done_callback(count)
        condition.wait_for(lambda: not left or (raised and return_when == FIRST_EXCEPTION), timeout)
        return [each for each in futures if each.done()], [
            each for each in futures if not each.done()
        ]

    def _stall(self) -> float:
        if self._kernel.current is not self._heartbeat or not self._stalls():
            return 0.0
        return random.uniform(1.0, 10.0) * self._period
