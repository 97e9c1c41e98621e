"""What all that a worker does beside its looks has to obey."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from change_events._consumer.backoff import MAX_PAUSE, pause_after
from change_events._consumer.log import log
from change_events._operations.throttle import Stopped, Throttle
from change_events._text import printable
from change_events.exceptions import AlreadyRunningError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from change_events._consumer.looks import Looks


def throttle_beside(looks: Looks[Any], stopping: threading.Event) -> Throttle:
    """Return a throttle that lets events go first, and counts with the worker's own limit."""

    def may_begin(waited: float) -> float:
        with looks.consumer as desk:
            return desk.begin_aside(time.monotonic(), waited)

    return Throttle(may_begin=may_begin, stopping=stopping)


def keep_trying(name: str, work: Callable[[], object], stopping: threading.Event) -> None:
    """Call `work` until it returns, or `stopping`. What it raises must not end the worker."""
    failures = 0
    while not stopping.is_set():
        try:
            work()
        except Stopped:
            return
        except AlreadyRunningError as error:
            log.debug("%s", printable(error), extra={"action": "aside"})
            stopping.wait(MAX_PAUSE / 10)
        except Exception as error:  # the error says what to do
            failures += 1
            pause = pause_after(failures, MAX_PAUSE)
            log.error(
                "the %s failed, and will be tried again in %.0f s: %s",
                printable(name),
                pause,
                printable(error),
                extra={"action": "aside"},
            )
            stopping.wait(pause)
        else:
            return
