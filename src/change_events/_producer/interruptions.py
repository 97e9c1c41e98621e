"""Errors after which a save can still be running."""

from __future__ import annotations

_INTERRUPTIONS = frozenset({"BaseExceptionGroup", "CancelledError", "TimeoutError"})
"""
By name, because on Python 3.10 `asyncio` and `concurrent.futures` have errors of their own, and a
synchronous caller needs neither module.
"""


def can_go_on(error: BaseException | None) -> bool:
    """
    Return True if a save that ended with this error can still be running, in a thread, say.

    It was cancelled, closed, interrupted or timed out, or the error was raised because of that.
    Other errors are the save's own: it is over.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        names = {kind.__name__ for kind in type(error).__mro__}
        if not isinstance(error, Exception) or names & _INTERRUPTIONS:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
