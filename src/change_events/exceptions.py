"""
The errors, as a tree:

    ChangeEventsError
    ├── ConfigurationError (ValueError)      a setting is wrong; nothing has been sent, saved or received
    ├── IdResolutionError (LookupError)      a call has no usable id; nothing has been sent or saved
    ├── PublishError                         a broadcast was not accepted; nothing has been saved
    ├── DecodeError (ValueError)             a message is no change event, or not from the topic; it can never succeed
    ├── FetchError                           a GET decided nothing; it is tried again
    └── MassDeletionError                    the source says of too many entities that they are gone; nothing is deleted
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
    """
    The id of an entity could not be read from a call, or is unusable. Nothing has been sent or
    saved.
    """


class PublishError(ChangeEventsError):
    """
    A broadcast was not accepted, so the save did not run.

    Attributes:
        ids: The ids of which no broadcast is known to have been accepted. `__cause__` is the
            publisher's own error, if there was one.
    """

    def __init__(self, message: str, *, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class DecodeError(ChangeEventsError, ValueError):
    """
    A message's body is not `{"id": text or integer}`, neither raw nor inside an SNS envelope; or it
    does not come from the topic that the worker was given.
    """


class FetchError(ChangeEventsError):
    """
    A GET gave no answer that decides anything, so the cache stays as it was.

    Attributes:
        status: The HTTP status, or None if there was no response, or not all of it, for which a
            worker blames the source and not the entity.
        retry_after: How many seconds the source asked to be left alone (`Retry-After`, RFC 9110,
            10.2.3), or None.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class MassDeletionError(ChangeEventsError):
    """
    Looks at too many cached entities saw them gone, so this one was not deleted, and the worker has
    stopped itself until `Worker.resume()` is called.
    """
