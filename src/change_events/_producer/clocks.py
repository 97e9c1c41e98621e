"""How much time has passed, also while the process or its machine stood still."""

from __future__ import annotations

import time
from operator import sub
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Moment: TypeAlias = tuple[float, ...]
"""The seconds on several clocks at one moment. The first clock is monotonic."""


def _boot_time() -> Callable[[], float]:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux has one
    return time.monotonic if clock is None else lambda: time.clock_gettime(clock)


_since_boot = _boot_time()


def read_clocks() -> Moment:
    """
    Return the seconds on the monotonic, the boot-time and the wall clock.

    No clock alone is right. Linux's monotonic clock stands still while the machine is suspended
    (clock_gettime(2)); the boot-time clock does not, but a paused virtual machine can stop both; a
    wall clock can be set back.
    """
    return time.monotonic(), _since_boot(), time.time()


def elapsed(since: Moment, now: Moment) -> float:
    """
    Return the seconds between two moments on the clock on which most have passed.

    A wall clock that is set forward makes them too many, which costs a broadcast. One that is set
    back changes nothing, because the other clocks go on.
    """
    seconds: float = max(map(sub, now, since))
    return seconds
