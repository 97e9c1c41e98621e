"""Errors after which a save can still be running."""

from __future__ import annotations

import re

_INTERRUPTION = re.compile(
    r"\b(BaseExceptionGroup|CancelledError|\w*Timeout(Error|Exception)|\w*TimeLimitExceeded)\b"
)
"""
The names of such errors. By name, because a synchronous caller needs neither
`asyncio` nor `concurrent.futures`, and job queues have errors of their own for their time limits:
Celery's `SoftTimeLimitExceeded`, RQ's `JobTimeoutException`.
"""


def can_go_on(error: BaseException | None) -> bool:
    """
    Return True if a save that ended with this error can still be running, in a thread, say.

    It was cancelled, closed, interrupted or timed out, or the error was raised because of that.
    Other errors are the save's own: it is over.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        names = " ".join(kind.__name__ for kind in type(error).__mro__)
        if not isinstance(error, Exception) or _INTERRUPTION.search(names):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
