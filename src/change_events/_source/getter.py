"""GETs with a user's settings, and the errors for answers that decide nothing."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

from change_events._source.auth import Authorizer
from change_events._source.headers import NO_HEADERS, request_headers, retry_after
from change_events.exceptions import ConfigurationError, FetchError
from change_events.traces import current_look

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events._source.endpoint import Endpoint
    from change_events._source.http import Answer
    from change_events.typing import Auth

_REDIRECTS = {301, 302, 303, 307, 308}


class Getter:
    """GETs from endpoints. Args and errors are those of `HTTPFetcher`."""

    def __init__(
        self,
        timeout: float,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None,
        max_bytes: int,
        auth: Auth | None = None,
    ) -> None:
        self.timeout, self.max_bytes = _checked(timeout, max_bytes)
        self._headers = {} if headers is None else headers
        if not callable(self._headers):
            try:
                request_headers(self._headers, None)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
        known = None if callable(self._headers) else self._headers
        self._authorizer = None if auth is None else Authorizer(auth, known)

    def with_limits(self, timeout: float, max_bytes: int) -> Getter:
        """Return another one with the same headers and the same authorization."""
        other = copy.copy(self)
        other.timeout, other.max_bytes = _checked(timeout, max_bytes)
        return other

    def get(self, endpoint: Endpoint, target: str, etag: str | None) -> Answer:
        """
        Return the answer, whatever its status.

        Raises:
            FetchError: There is none, or an incomplete one.
        """
        headers = self._request_headers(etag)
        if (look := current_look.get()) is not None:
            look.add_headers(headers)
        try:
            if self._authorizer is not None:
                return self._get_authorized(self._authorizer, endpoint, target, headers, etag)
            return endpoint.transport.get(
                target, headers, timeout=self.timeout, max_bytes=self.max_bytes
            )
        except FetchError as error:
            raise FetchError(
                f"{what_of(endpoint, target)}: {error}",
                status=error.status,
                retry_after=error.retry_after,
            ) from error

    def _get_authorized(
        self,
        authorizer: Authorizer,
        endpoint: Endpoint,
        target: str,
        headers: dict[str, str],
        etag: str | None,
    ) -> Answer:
        """GET as `Authorizer.get` does. What it begins, it begins within `timeout`."""
        deadline = time.monotonic() + self.timeout

        def left() -> float:
            return deadline - time.monotonic()

        def send(added: Mapping[str, str]) -> Answer:
            whole = _valid(headers, etag, added)
            if (timeout := left()) <= 0:
                raise FetchError(f"auth= has needed all of the {self.timeout} s of a GET")
            return endpoint.transport.get(target, whole, timeout=timeout, max_bytes=self.max_bytes)

        return authorizer.get(endpoint.origin + target, headers, send, left)

    def _request_headers(self, etag: str | None) -> dict[str, str]:
        try:
            given = self._headers() if callable(self._headers) else self._headers
        except Exception as error:  # the user's own code
            raise FetchError(f"headers= raised {error!r:.200}") from error
        return _valid(given, etag)


def _checked(timeout: float, max_bytes: int) -> tuple[float, int]:
    if not 0 < timeout < math.inf or max_bytes <= 0:
        raise ConfigurationError(
            f"timeout and max_bytes must be positive, not {timeout} and {max_bytes}"
        )
    return timeout, max_bytes


def _valid(given: object, etag: str | None, added: object = NO_HEADERS) -> dict[str, str]:
    try:
        return request_headers(given, etag, added)
    except ValueError as error:
        raise FetchError(str(error)) from None


def what_of(endpoint: Endpoint, target: str) -> str:
    """Return what was asked, without the query: that can have a secret, or many ids."""
    return f"GET {endpoint.origin}{target.partition('?')[0]:.300}"


def undecided(what: str, answer: Answer, setting: str, unbelieved: str = "") -> FetchError:
    """
    Return the error for an answer.

    Args:
        what: What was asked.
        answer: The answer.
        setting: The setting that has the URL.
        unbelieved: Why a 404 does not count.
    """
    text = f"{what} answered {answer.status}"
    if answer.has_malformed_headers:
        text += ", with a malformed header"
    elif answer.status == 404 and unbelieved:
        text += f": {unbelieved}"
    location = answer.headers.get("Location") if answer.status in _REDIRECTS else None
    if location:
        text += f": it is at {location!r:.300}. If that is right, put it into {setting}"
    seconds = retry_after(answer.headers.get("Retry-After"))
    return FetchError(text, status=answer.status, retry_after=seconds)
