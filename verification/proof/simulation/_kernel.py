"""
Virtual time: plain calls that pause, and processes that crash and stall.

A task is a greenlet. So production code, which knows nothing of it, can stop in the middle of a
call (`Kernel.pause`) and go on later, after other tasks. One task runs at a time. Virtual time
alone decides which is next, so a run with the same seed is the same run.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, TypeAlias

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

NEVER = 1e15


class Killed(BaseException):  # not an Exception, which production code would survive
    """The process of this task has crashed."""


class Violation(Exception):  # noqa: N818
    """A property does not hold. `id` is the id of the entity."""

    def __init__(self, text: str, *, check: str, id: str) -> None:
        super().__init__(text)
        self.check = check
        self.id = id


class Process:
    """
    Tasks that live, stall and die together.

    Attributes:
        name: Its name.
        alive: False once it has crashed or ended. Its tasks then have no more effect.
        stalled_until: None of its tasks runs before (a garbage collection, a suspended machine).
        suspended: Seconds that its monotonic clock has not noticed.
        tasks: Its tasks.
        receipts: For the ghost: time and step of the first receive, by message id.
        saved: For the ghost: the step of the first receive of a save's `saved`, by save.
        looks: For the ghost: time and step of the start of the GET of the last applied look, by id.
        began: For the ghost: when the last look began, by id.
        stopping: For the ghost: it was asked to stop.
    """

    __slots__ = (
        "alive",
        "began",
        "looks",
        "name",
        "receipts",
        "saved",
        "stalled_until",
        "stopping",
        "suspended",
        "tasks",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stalled_until = 0.0
        self.suspended = 0.0
        self.tasks: dict[Task, None] = {}
        self.receipts: dict[str, tuple[float, int]] = {}
        self.saved: dict[str, int] = {}
        self.looks: dict[str, tuple[float, int]] = {}
        self.began: dict[str, float] = {}
        self.stopping = False


class Task:
    """
    A thread of a process.

    Attributes:
        process: Its process.
        wake: The number of the entry in the kernel's heap that wakes it.
        get_started: For the ghost: the start of the current look's GET.
        get_step: For the ghost: the step of that start.
        commits: For the ghost: the commit that the GET has read, by id; None: the source lied.
    """

    __slots__ = ("commits", "get_started", "get_step", "process", "switch", "thread", "wake")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.wake = 0
        self.get_started = 0.0
        self.get_step = 0
        self.commits: dict[str, int | None] = {}
        self.thread: greenlet
        self.switch: Callable[[], Any]


_Target: TypeAlias = "Task | Callable[[], None]"


class Kernel:
    """
    The only clock, and the schedule.

    Attributes:
        now: Virtual seconds.
        step: The number of the turn. What happens within one step happens at once.
        current: The task that is running.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0
        self.current: Task
        self._heap: list[tuple[float, int, _Target]] = []
        self._number = 0
        self._main = getcurrent()
        self._stopped = False
        self._violation: Violation | None = None
        self._processes: dict[Process, None] = {}

    def process(self, name: str) -> Process:
        """Make a process."""
        process = Process(name)
        self._processes[process] = None
        return process

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Schedule a call. It must not pause."""
        self._number += 1
        heapq.heappush(self._heap, (time, self._number, call))

    def spawn(self, process: Process, call: Callable[[], None]) -> Task:
        """Start a task. It may pause, and it ends with its process."""
        task = Task(process)

        def live() -> None:
            try:
                if process.alive:
                    call()
            except Killed:
                pass
            finally:
                process.tasks.pop(task, None)

        task.thread = greenlet(live, self._main)
        task.switch = task.thread.switch
        process.tasks[task] = None
        self.wake(task, self.now)
        return task

    def pause(self, seconds: float) -> None:
        """Let other tasks run for so many seconds."""
        task = self.current
        if not task.process.alive:
            raise Killed
        self._number = task.wake = number = self._number + 1
        heapq.heappush(self._heap, (self.now + seconds, number, task))
        self._main.switch()

    def wake(self, task: Task, time: float) -> None:
        """End a task's pause at this time instead."""
        self._number = task.wake = self._number + 1
        heapq.heappush(self._heap, (time, task.wake, task))

    def enter(self) -> Process:
        """
        Return the current process, which is about to have an effect.

        Raises:
            Killed: It is dead.
        """
        process = self.current.process
        if not process.alive:
            raise Killed
        return process

    def kill(self, process: Process) -> None:
        """End a process now. None of its tasks may call this."""
        process.alive = False
        self._processes.pop(process, None)
        for task in list(process.tasks):
            task.wake = -1
            if task.thread:  # it has begun, and has not ended
                self.current = task
                task.thread.throw(Killed)

    def run(self) -> None:
        """Run until `stop`."""
        heap, pop = self._heap, heapq.heappop
        try:
            while not self._stopped:
                time, number, target = pop(heap)
                if isinstance(target, Task):
                    if target.wake != number:
                        continue
                    if target.process.stalled_until > time:
                        self.wake(target, target.process.stalled_until)
                        continue
                    self.now = time
                    self.step += 1
                    self.current = target
                    target.switch()
                else:
                    self.now = time
                    self.step += 1
                    target()
        finally:
            self.close()
        if self._violation is not None:
            raise self._violation

    def stop(self) -> None:
        """End `run` after this step."""
        self._stopped = True

    def fail(self, violation: Violation) -> None:
        """Stop at once. An `except Exception` around this call does not prevent it."""
        self._violation = self._violation or violation
        self._stopped = True
        if getcurrent() is not self._main:
            raise Killed

    def close(self) -> None:
        """End all processes, so that none of them runs on when it is garbage collected."""
        self._heap.clear()
        for process in list(self._processes):
            process.alive = False
        for process in list(self._processes):
            self.kill(process)


class Alarm:
    """
    Replaces the `threading.Condition` on which the thread of the renewals waits.

    No other thread waits on it.
    """

    def __init__(self, kernel: Kernel, lock: threading.Lock) -> None:
        self._kernel = kernel
        self._lock = lock
        self._waiting: Task | None = None

    def wait(self, timeout: float | None) -> None:
        self._waiting = self._kernel.current
        self._lock.release()
        try:
            self._kernel.pause(NEVER if timeout is None else timeout)
        finally:
            self._waiting = None
            self._lock.acquire()

    def notify(self) -> None:
        if self._waiting is not None:
            self._kernel.wake(self._waiting, self._kernel.now)
