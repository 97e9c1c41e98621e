"""
The errors, as a tree:

    ChangeEventsError
    ├── ConfigurationError (ValueError)   a setting is wrong; nothing was sent, saved or received
    ├── IdResolutionError (LookupError)   a call has no usable id; nothing was sent or saved
    ├── PublishError                      a broadcast was not accepted; nothing was saved
    ├── DecodeError (ValueError)          a message is not a change event, or not from the topic
    ├── FetchError                        a GET decided nothing; the worker tries again
    ├── ListingError (ValueError)         a listing can't be read; nothing is changed
    ├── MassDeletionError                 too many entities seem to be gone; nothing is deleted
    └── AlreadyRunningError               another process does this already, for the same cache
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChangeEventsError(Exception):
    """The root of every error that this library raises on purpose."""


class ConfigurationError(ChangeEventsError, ValueError):
    """A setting is wrong. The message names the value and says what to do."""


class IdResolutionError(ChangeEventsError, LookupError):
    """A call has no id of an entity, or an unusable one. Nothing was sent or saved."""


class PublishError(ChangeEventsError):
    """
    A broadcast was not accepted, so the save did not run.

    Attributes:
        ids: The ids for which no accepted broadcast is known.
        __cause__: The publisher's own error, if there was one.
    """

    def __init__(self, message: str, *, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class DecodeError(ChangeEventsError, ValueError):
    """
    A message's body is not `{"id": text or integer}`, neither raw nor inside an SNS envelope; or
    the message does not come from the topic that the worker was given.
    """


class FetchError(ChangeEventsError):
    """
    A GET got no answer that decides anything, so the cache stays as it was.

    Attributes:
        status: The HTTP status; None if no response came, or not all of it, or nothing was sent
            because there was no token. Then a worker blames the source, not the entity.
        retry_after: The seconds that the source asked to wait (`Retry-After`, RFC 9110, 10.2.3), or
            None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ListingError(ChangeEventsError, ValueError):
    """
    A listing can't be read: it is not a list, names no ids, or leads nowhere. To read it again
    would not help. The message says what came, and what to do.
    """


class MassDeletionError(ChangeEventsError):
    """
    Too many looks at cached entities saw them gone. So this one was not deleted, and the worker
    stopped until somebody calls `Worker.resume()`.
    """


class AlreadyRunningError(ChangeEventsError):
    """Another process works on this cache. The message says which; it goes on undisturbed."""
