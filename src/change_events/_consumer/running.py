"""A worker's runs: one at a time; and one in a thread, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.control import Notice
from change_events._consumer.health import DIED, GAVE_UP, NOT_RUNNING, STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from change_events._consumer.control import Control
    from change_events._consumer.health import Health
    from change_events._consumer.run import Run

T = TypeVar("T")
W = TypeVar("W")


class Runs(Generic[T]):
    """
    The runs of a worker, one at a time.

    Attributes:
        lock: While it is held, no run begins or ends.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant, so that a signal handler can call stop()
        self._now: tuple[Run[T], Control] | None = None
        self._stopped = False
        self._at_rest = NOT_RUNNING

    @property
    def now(self) -> Run[T] | None:
        """The run that there is now."""
        return None if (now := self._now) is None else now[0]

    def health(self) -> Health:
        """Return the health of the run, or why there is none."""
        return self._at_rest if (run := self.now) is None else run.health()

    def stop(self) -> None:
        """Stop the run; let no other one begin."""
        with self.lock:
            self._stopped = True
            self._at_rest = STOPPED if self._at_rest is NOT_RUNNING else self._at_rest
            if self._now is not None:
                _, control = self._now
                control.put(Notice.STOP)

    @contextlib.contextmanager
    def begun(self, make: Callable[..., Run[T]], control: Control) -> Iterator[Run[T]]:
        """
        Make a run, which is over at the end of the block.

        Raises:
            RuntimeError: There is one; or the worker was stopped.
        """
        with self.lock:
            if self._now is not None:
                raise RuntimeError("this worker runs already")
            if self._stopped:
                raise RuntimeError("a stopped worker does not run again; make a new one")
            run = make(control=control)
            self._now = run, control
            if self._stopped:  # by a signal's handler, meanwhile
                control.put(Notice.STOP)
        died = True
        try:
            yield run
            died = False
        finally:
            with self.lock:
                self._now = None
                stopped = STOPPED if self._stopped else NOT_RUNNING
                self._at_rest = DIED if died else GAVE_UP if run.gave_up else stopped


class Running(Generic[W]):
    """
    What `Worker.running()` returns. It is for one block.

    Args:
        worker: The worker, which the block gets.
        run: Runs it until the control that it is given says to stop; calls the function that it is
            given, with whatever arguments, once all threads of the worker have started.
        on_death: Called with what a run died of, once it had started.
    """

    def __init__(
        self,
        worker: W,
        run: Callable[[Control, Callable[..., None]], None],
        on_death: Callable[[BaseException], object] | None,
    ) -> None:
        self._worker = worker
        self._run = run
        self._on_death = on_death
        self._control: Control = queue.SimpleQueue()
        self._begun = threading.Event()
        self._death: BaseException | None = None
        # A daemon: Python would wait for any other thread before it calls what atexit knows, and
        # that is where a program without a block can leave this one.
        self._thread = threading.Thread(
            target=self._work, name="change-events-running", daemon=True
        )

    def __enter__(self) -> W:
        if _in_event_loop():
            raise RuntimeError(
                "in an event loop write 'async with worker.running()': 'with' would stop the loop "
                "while the worker starts and stops"
            )
        return self._start()

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._stop()
        self._thread.join()
        self._raise_death(error)

    async def __aenter__(self) -> W:
        import asyncio  # not above: `run()` does not need it

        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._stop()
            starting.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        import asyncio

        self._stop()
        await asyncio.to_thread(self._thread.join)
        self._raise_death(error)

    def _start(self) -> W:
        self._thread.start()
        try:
            self._begun.wait()
        except BaseException:  # Ctrl-C
            self._stop()
            raise
        self._raise_death(None)
        return self._worker

    def _stop(self) -> None:
        self._control.put(Notice.STOP)

    def _raise_death(self, error: BaseException | None) -> None:
        """Raise what the worker died of, unless the block has raised something itself."""
        if self._death is not None and error is None:
            raise self._death

    def _work(self) -> None:
        try:
            self._run(self._control, lambda *_: self._begun.set())
        except BaseException as error:  # raised where the block begins or ends
            self._death = error
            if self._begun.is_set() and self._on_death is not None:
                self._on_death(error)
        finally:
            self._begun.set()


def _in_event_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
