"""
Virtual time: plain calls that pause, processes that crash, stall and lose what they had in hand.

A task is a greenlet, so that production code, which knows nothing of it, can stop in the middle of
a call (`Kernel.pause`) and go on later, after others had their turn. One runs at a time; who is
next is decided by virtual time alone, so a run with the same seed is the same run.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, TypeAlias

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

NEVER = 1e15


class Killed(BaseException):  # not an Exception: production code survives those
    """The process of this task has crashed."""


class Violation(Exception):  # noqa: N818
    """A property does not hold. `id` is the entity's."""

    def __init__(self, text: str, *, check: str, id: str) -> None:
        super().__init__(text)
        self.check = check
        self.id = id


class Process:
    """
    What lives, stalls and dies together.

    Attributes:
        alive: False once it has crashed or ended: none of its tasks runs on, nothing it begins has
            an effect.
        stalled_until: No task of it runs before (a garbage collection, a suspended machine).
        receipts: Ghost: when, and at which step, it first received a message, by message id.
        saved: Ghost: at which step it first received the `saved` of a save.
        looks: Ghost: when, and at which step, the GET of its last applied look at an id had
            started.
    """

    __slots__ = ("alive", "looks", "name", "receipts", "saved", "stalled_until", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stalled_until = 0.0
        self.tasks: dict[Task, None] = {}
        self.receipts: dict[str, tuple[float, int]] = {}
        self.saved: dict[str, int] = {}
        self.looks: dict[str, tuple[float, int]] = {}


class Task:
    """
    One thread of a process. The attributes after `wake` are the ghost's: what the GET of its look
    has seen.
    """

    __slots__ = ("commits", "get_started", "get_step", "process", "switch", "thread", "wake")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.wake = 0
        self.get_started = 0.0
        self.get_step = 0
        self.commits: dict[str, int] = {}
        self.thread: greenlet
        self.switch: Callable[[], Any]


_Target: TypeAlias = "Task | Callable[[], None]"


class Kernel:
    """
    The only clock there is, and what happens when.

    Attributes:
        now: Virtual seconds.
        step: Grows with each turn; what happens within one step happens at once.
        current: The task whose turn it is.
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
        process = Process(name)
        self._processes[process] = None
        return process

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Call it then. It must not pause."""
        self._number += 1
        heapq.heappush(self._heap, (time, self._number, call))

    def spawn(self, process: Process, call: Callable[[], None]) -> Task:
        """Start a task: it may pause, and it ends with its process."""
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
        """Let others have their turn for so many seconds."""
        task = self.current
        if not task.process.alive:
            raise Killed
        self._number = task.wake = number = self._number + 1
        heapq.heappush(self._heap, (self.now + seconds, number, task))
        self._main.switch()

    def wake(self, task: Task, time: float) -> None:
        """End a task's pause then, and not when it asked to."""
        self._number = task.wake = self._number + 1
        heapq.heappush(self._heap, (time, task.wake, task))

    def enter(self) -> Process:
        """Return the process that is about to have an effect, if it may."""
        process = self.current.process
        if not process.alive:
            raise Killed
        return process

    def kill(self, process: Process) -> None:
        """End a process, now; not to be called by one of its tasks."""
        process.alive = False
        self._processes.pop(process, None)
        for task in list(process.tasks):
            task.wake = -1
            if task.thread:  # has begun, has not ended
                self.current = task
                task.thread.throw(Killed)

    def run(self) -> None:
        """Go on until `stop`."""
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
        self._stopped = True

    def fail(self, violation: Violation) -> None:
        """Stop at once, out of whatever `except Exception` this was called from."""
        self._violation = self._violation or violation
        self._stopped = True
        if getcurrent() is not self._main:
            raise Killed

    def close(self) -> None:
        """End all processes, so that nothing of them runs on when it is collected."""
        self._heap.clear()
        for process in list(self._processes):
            process.alive = False
        for process in list(self._processes):
            self.kill(process)


class Alarm:
    """
    Stands in for the `threading.Condition` that the thread behind the renewals waits on; it is the
    only one that waits.
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
